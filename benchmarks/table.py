"""Tables in Markdown; this imports nothing, for processes whose memory is measured print some."""


def heads(*names: str) -> list[str]:
    """The two lines that a table begins with."""
    return [row(*names), "|---" * len(names) + "|"]


def row(*cells: str) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"
