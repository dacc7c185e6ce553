"""docs/reference/commands.md, made of the commands and their options models: ``python -m nelbo.flows.cli.page``."""

import sys
from collections.abc import Iterator

from nelbo.flows.cli.parameters import COMMON, PREFECT, settings_of
from nelbo.flows.commands import COMMANDS, Command
from nelbo.flows.options.flags import Option, options_of

#: A plain bar would begin another column.
_BAR = r"\|"

_HEAD = """\
# Commands

Generated from the code by `python -m nelbo.flows.cli.page > docs/reference/commands.md`. What has no option is a
[setting](settings.md): in a TOML file, in the environment, or with `--set`.
"""


def page() -> str:
    """The text: what every command takes, then a section for each."""
    common = [(parameter.opts[-1], parameter.help) for parameter in COMMON]
    rows = [*common, (f"{PREFECT.opts[0]}, {PREFECT.secondary_opts[0]}", f"{PREFECT.help} For flows alone.")]
    every = ["| option of every command | meaning |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in rows)]
    return "\n".join([_HEAD, *every, *(line for command in COMMANDS.values() for line in _section(command))]) + "\n"


def _section(command: Command) -> Iterator[str]:
    yield from ("", f"## {command.name}", "", command.help, "", "```sh", command.example, "```", "")
    yield from ("| option | value | default | meaning |", "|---|---|---|---|")
    yield from (_row(option) for option in options_of(command.options) if not option.flag.hidden)
    if settings := settings_of(command):
        yield from ("", f"[Settings](settings.md) that matter: {', '.join(f'`{said}`' for said, _ in settings)}.")


def _row(option: Option) -> str:
    names = f"`{option.name}`" + (f", `{option.negation}`" if option.negation else "")
    value = "" if option.is_switch or option.flag.positional else f"`{option.metavar}`"
    default = "must be given" if option.info.is_required() else f"`{option.default}`" if option.default else ""
    cells = (names, value, default, str(option.info.description))
    return f"| {' | '.join(cell.replace('|', _BAR) for cell in cells)} |"


if __name__ == "__main__":
    sys.stdout.write(page())
