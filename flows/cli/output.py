"""What commands print: results on stdout, errors and logs on stderr; names in them come from anybody."""

import json
import logging
import sys
from collections.abc import Callable
from typing import Any, TextIO

import click

from nelbo.flows.workspace.errors import without_credentials

#: Of an error: what is longer was given by somebody, and says no more.
_LONGEST = 2000


def printable(text: str) -> str:
    r"""The same text without what a terminal obeys or an encoding lacks: escapes, line breaks, lone surrogates.

    >>> print(printable("a\x1b[31mb\nc\u202ed é"))
    a\x1b[31mb\nc\u202ed é
    """
    return _escape(text, lambda character: character.encode("unicode_escape").decode())


def one_line(text: str) -> str:
    """An error as a terminal takes it: one line of bounded length, without the credentials of the URLs in it."""
    text = printable(without_credentials(" ".join(text.split())))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 500]} ... {text[-490:]}"


class LogFormatter(logging.Formatter):
    """Records as lines that a terminal only shows."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging names it
        """One line."""
        return printable(without_credentials(super().formatMessage(record)))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """A line for each of the traceback."""
        return "\n".join(map(printable, without_credentials(super().formatException(ei)).split("\n")))


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to what stderr is by then: below a progress bar, which has it for a while."""

    def __init__(self) -> None:
        logging.Handler.__init__(self, logging.WARNING)
        self.setFormatter(LogFormatter())

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Standard error."""
        return sys.stderr


def log_to_stderr() -> None:
    """Warnings, until `say_all`; Prefect gets all, where it runs the command."""
    logger = logging.getLogger("nelbo")
    logger.setLevel(logging.INFO)
    logger.handlers = [_Handler()]
    # Prefect has a handler at the root, which would say everything twice.
    logger.propagate = False


def say_all() -> None:
    """What happens on the way, too."""
    for handler in logging.getLogger("nelbo").handlers:
        handler.setLevel(logging.INFO)


def print_json(value: Any) -> None:
    """One line of JSON: text as it is, and what is not printable as JSON's own escapes."""
    text = json.dumps(value, ensure_ascii=False)
    click.echo(_escape(text, lambda character: json.dumps(character)[1:-1]))


def _escape(text: str, escaped: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else escaped(character) for character in text)


def print_table(command: str, result: dict[str, Any]) -> None:
    """All that a command gives, for people."""
    _PRINTERS.get(command, print_result)(result)


def print_result(result: dict[str, Any]) -> None:
    """A row for each part of an object."""
    _table([(key, _text(value)) for key, value in result.items()])


def _print_rows(result: dict[str, Any]) -> None:
    """A list of objects with the same keys."""
    (rows,) = result.values()
    if rows:
        _table([[_text(value) for value in row.values()] for row in rows], list(rows[0]))


def _print_calibration(result: dict[str, Any]) -> None:
    """A calibration; or several side by side, one a column, so that long sentences have room."""
    if "calibrations" not in result:
        print_result(result)
        return
    columns = result["calibrations"]
    _table([[name, *(_text(column[name]) for column in columns)] for name in columns[0]], [""] * (1 + len(columns)))


def _print_diagnosis(found: dict[str, Any]) -> None:
    """What a system has, then a line for each thing that it lacks."""
    print_result({name: value for name, value in found.items() if name not in ("missing", "ok")})
    for lacks in found["missing"]:
        click.echo(f"missing: {printable(lacks)}.")


def _print_verified(result: dict[str, Any]) -> None:
    """What was checked and found to be as it was made, one a line."""
    current = result["calibration_id"]
    _table(
        [
            (f"model {result['model_id']}", "ok"),
            *((f"engine {name}", "ok") for name in result["engines"]),
            *((f"calibration {name}", "ok, in use" if name == current else "ok") for name in result["calibrations"]),
        ]
    )


def _print_pruned(result: dict[str, Any]) -> None:
    """What was deleted, or would be."""
    if result["items"]:
        columns = ("kind", "name", "size_bytes", "modified_utc")
        _table([[_text(item[name]) for name in columns] for item in result["items"]], list(columns))


def _print_upgraded(result: dict[str, Any]) -> None:
    """What was changed, or would be, and what only people can do."""
    if result["changes"]:
        columns = ("kind", "name", "change")
        _table([[_text(change[name]) for name in columns] for change in result["changes"]], list(columns))
    for remedy in result["by_hand"]:
        click.echo(f"by hand: {printable(remedy)}")


def _print_demo(result: dict[str, Any]) -> None:
    """The demonstration in a short table."""
    trained, scored = result["train"], result["score"]
    metrics = scored["metrics"]
    rate, area = metrics["realised_fpr"], metrics["auroc"]
    aim, _, rates = trained["promise"].partition(": ")
    _table(
        [
            (
                "images",
                f"{scored['n_images']}: {metrics['n_normal']} normal, {metrics['n_anomalous']} defective",
            ),
            ("flagged", f"{scored['n_anomalous']}, of them {metrics['detected']} defective"),
            (aim.replace("false-alarm rate", "false alarms"), rates),
            ("false alarms realised", f"{rate['value']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"),
            ("AUROC", f"{area['value']:.3f} [{area['low']:.3f}, {area['high']:.3f}] (95 %)"),
            ("scores", scored["scores"]),
            ("flagged images", scored["flagged"]),
            ("report", scored["report"]),
            ("seconds", f"{trained['seconds'] + scored['seconds']:.0f}"),
        ]
    )


def _print_evaluation(result: dict[str, Any]) -> None:
    """A row a kind of defect, and where there are masks one a size of regions."""
    from nelbo.flows.evaluation.by_kind import as_table, by_size

    for head, *rows in filter(None, (as_table(result["measures"]), by_size(result["measures"]))):
        _table([[printable(cell) for cell in row] for row in rows], head)


_PRINTERS: dict[str, Callable[[dict[str, Any]], None]] = {
    "calibrate": _print_calibration,
    "evaluate": _print_evaluation,
    "prune": _print_pruned,
    "upgrade": _print_upgraded,
    "models": _print_rows,
    "calibrations": _print_rows,
    "batches": _print_rows,
    "verify": _print_verified,
    "doctor": _print_diagnosis,
    "serve": _print_rows,
    "deploy": _print_rows,
    "demo": _print_demo,
}


def _table(rows: list[Any], header: list[str] | None = None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*(header or ()), show_header=header is not None, box=None, padding=(0, 2, 0, 0))
    if header is None:
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
    for row in rows:
        # Text: square brackets in a file's name are not markup.
        table.add_row(*(Text(cell) for cell in row))
    # In a pipe nothing is cut to a terminal's width.
    Console(width=None if sys.stdout.isatty() else 1000).print(table)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.6g}"
    if isinstance(value, dict) and "sentence" in value:
        return _text(value["sentence"])
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return "; ".join(_text(inner) for inner in value) or "none"
    return "none" if value is None else printable(str(value))
