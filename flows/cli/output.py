"""What commands print: results on stdout, errors and logs on stderr; names in them are not trusted."""

import json
import logging
import sys
from collections.abc import Callable
from typing import Any, TextIO

import click

from nelbo.flows.workspace.errors import without_credentials

#: Most characters of an error: a longer one only repeats a long input.
_LONGEST = 2000


def printable(text: str) -> str:
    r"""The text, with what a terminal obeys or an encoding lacks escaped: control codes, line breaks, lone surrogates.

    >>> print(printable("a\x1b[31mb\nc\u202ed é"))
    a\x1b[31mb\nc\u202ed é
    """
    return _escape(text, lambda character: character.encode("unicode_escape").decode())


def one_line(text: str) -> str:
    """An error for a terminal: one line of bounded length, without credentials in its URLs."""
    text = printable(without_credentials(" ".join(text.split())))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 500]} ... {text[-490:]}"


class LogFormatter(logging.Formatter):
    """Formats records as lines that a terminal shows and never obeys."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging names it
        """The message in one line."""
        return printable(without_credentials(super().formatMessage(record)))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """The lines of the traceback."""
        return "\n".join(map(printable, without_credentials(super().formatException(ei)).split("\n")))


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`, which a progress bar replaces for a while."""

    def __init__(self) -> None:
        logging.Handler.__init__(self, logging.WARNING)
        self.setFormatter(LogFormatter())

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Standard error."""
        return sys.stderr


def log_to_stderr() -> None:
    """Log warnings, and after `say_all` everything; Prefect gets all records where it runs the command."""
    logger = logging.getLogger("nelbo")
    logger.setLevel(logging.INFO)
    logger.handlers = [_Handler()]
    # Prefect has a handler at the root, which would say everything twice.
    logger.propagate = False


def say_all() -> None:
    """Log progress, too."""
    for handler in logging.getLogger("nelbo").handlers:
        handler.setLevel(logging.INFO)


def print_json(value: Any) -> None:
    """Print one line of JSON; characters that are not printable become JSON's own escapes."""
    text = json.dumps(value, ensure_ascii=False)
    click.echo(_escape(text, lambda character: json.dumps(character)[1:-1]))


def _escape(text: str, escaped: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else escaped(character) for character in text)


_COLOURS = {"normal": "green", "review": "yellow", "anomalous": "red", "not_scored": "magenta"}


def print_row(row: dict[str, Any], as_json: bool) -> None:
    """Print a file's row as soon as it is scored: a JSON object, or a line for people, coloured on a terminal."""
    if as_json:
        print_json(row)
        return
    verdict, score, p = row["verdict"] or "scored", row["anomaly_score"], row["p_value"]
    said = "" if score is None else f"  score {score:.4g}"
    said += "" if p is None else f"  p {p:.2g}"
    why = row["why"] or row["reason"]
    text = f"{printable(row['relative_path'])}{said}  {row['latency_ms']:.0f} ms{f'  {printable(why)}' if why else ''}"
    click.echo(f"{click.style(f'{verdict:10}', fg=_COLOURS.get(verdict))}  {text}")


def print_table(command: str, result: dict[str, Any]) -> None:
    """Print the whole result of a command for people."""
    _PRINTERS.get(command, print_result)(result)


def print_result(result: dict[str, Any]) -> None:
    """Print a row for each entry of an object."""
    _table([(key, _text(value)) for key, value in result.items()])


def _print_rows(result: dict[str, Any]) -> None:
    """Print a list of objects with the same keys."""
    (rows,) = result.values()
    if rows:
        _table([[_text(value) for value in row.values()] for row in rows], list(rows[0]))


def _print_calibration(result: dict[str, Any]) -> None:
    """Print a calibration; or several side by side, one per column, which gives long sentences room."""
    if "calibrations" not in result:
        print_result(result)
        return
    columns = result["calibrations"]
    _table([[name, *(_text(column[name]) for column in columns)] for name in columns[0]], [""] * (1 + len(columns)))


def _print_diagnosis(found: dict[str, Any]) -> None:
    """Print what a system has, then a line for each thing that it lacks."""
    print_result({name: value for name, value in found.items() if name not in ("missing", "ok")})
    for lacks in found["missing"]:
        click.echo(f"missing: {printable(lacks)}.")


def _print_verified(result: dict[str, Any]) -> None:
    """Print what was checked and found intact, one item per line."""
    current = result["calibration_id"]
    _table(
        [
            (f"model {result['model_id']}", "ok"),
            *((f"engine {name}", "ok") for name in result["engines"]),
            *((f"calibration {name}", "ok, in use" if name == current else "ok") for name in result["calibrations"]),
        ]
    )


def _print_pruned(result: dict[str, Any]) -> None:
    """Print what was deleted, or would be."""
    if result["items"]:
        columns = ("kind", "name", "size_bytes", "modified_utc")
        _table([[_text(item[name]) for name in columns] for item in result["items"]], list(columns))


def _print_upgraded(result: dict[str, Any]) -> None:
    """Print what was changed, or would be, and what only people can do."""
    if result["changes"]:
        columns = ("kind", "name", "change")
        _table([[_text(change[name]) for name in columns] for change in result["changes"]], list(columns))
    for remedy in result["by_hand"]:
        click.echo(f"by hand: {printable(remedy)}")


def _print_demo(result: dict[str, Any]) -> None:
    """Print the demonstration's results in a short table."""
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
    """Print a row for each kind of defect and, if there were masks, one for each size of region."""
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
