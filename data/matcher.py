"""A process that matches paths against a user's pattern; the system ends it when that takes too long.

It runs as a script and imports nothing of nelbo: it reads a JSON object from stdin and writes a list of names to
stdout.
"""

import json
import re
import resource
import sys


def name_in(pattern: re.Pattern[str], path: str) -> str | None:
    """What the pattern finds in a path: its first capture group, or all that matches; None where that is nothing.

    >>> name_in(re.compile(r"(tile\\d+)_"), "day1/tile7_b.png"), name_in(re.compile(r"\\d+"), "tile7_b.png")
    ('tile7', '7')
    """
    found = pattern.search(path)
    return (found[1 if pattern.groups else 0] or None) if found else None


def main() -> None:
    """Answer one question."""
    question = json.load(sys.stdin)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    seconds = question["seconds"] if hard == resource.RLIM_INFINITY else min(question["seconds"], hard)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pattern = re.compile(question["pattern"])
    json.dump([name_in(pattern, path) for path in question["paths"]], sys.stdout)


if __name__ == "__main__":
    main()
