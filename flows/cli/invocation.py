"""The click commands: each is built from its options model only when it runs or shows its help."""

import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import click

from nelbo.flows.cli.output import print_json, print_row, print_table, say_all
from nelbo.flows.commands import COMMANDS, Command
from nelbo.flows.inference.progress import progress


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click names it
        """The commands in the order of a typical workflow."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Build the command only now, because that loads pydantic."""
        if cmd_name not in COMMANDS:
            return None
        with _uncollected():
            from nelbo.flows.cli.parameters import Built

            return Built(COMMANDS[cmd_name], callback=partial(_invoke, COMMANDS[cmd_name]))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; the error for an unknown one suggests similar names."""
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            # Click looked for similar names only among commands that are built.
            raise click.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without building any."""
        with formatter.section("Commands"):
            formatter.write_dl([(command.name, command.help) for command in COMMANDS.values()])


@click.group(
    cls=_Commands,
    name="nelbo",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Watch images for anomalies: learn from normal ones, score in nats, keep a promised false-alarm rate.",
)
@click.version_option(package_name="nelbo", message="nelbo %(version)s")
def app() -> None:
    """Before each command, name variables that look like settings but are none."""
    if not any(name.upper().startswith("NELBO_") for name in os.environ):
        return
    from nelbo.flows.options.sources import strange_variables
    from nelbo.flows.workspace.layout import some

    if strange := strange_variables():
        click.echo(
            f"nelbo: ignored, because they are not settings: {some(strange, 20)}. Kubernetes sets such variables for a "
            "Service named nelbo; docs/reference/settings.md has the names of settings.",
            err=True,
        )


def _invoke(command: Command, as_json: bool = False, verbose: bool = False, **values: Any) -> int:
    """Run a command and print its results; returns the exit code."""
    if verbose:
        say_all()
    # The demo has it among its own options.
    prefect = values.pop("prefect") if command.is_flow else None
    code = 0
    with ExitStack() as display:
        display.enter_context(_displayed(command.name))
        with progress("starting"), _uncollected():
            options = read_options(command, **values)
            # Importing it takes a second, too.
            _ = command.call
        keep = _spreadsheet(options)
        for result in _results(command, options, prefect):
            display.close()
            keep(result)
            _show(command.name, options, result, as_json, verbose)
            code = _exit_code(options, result)
    return code


@contextmanager
def _uncollected() -> Iterator[None]:
    """Turn off garbage collection while modules load: there is no garbage, but collecting takes a tenth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _spreadsheet(options: Any) -> Callable[[Mapping[str, Any]], None]:
    """A function that writes a result's rows to the CSV file, or does nothing if no file is requested."""
    if getattr(options, "csv", None) is None:
        return lambda _result: None
    from nelbo.flows.cli.spreadsheet import check_target, write_rows

    check_target(options)
    return partial(write_rows, options)


def _displayed(command: str) -> AbstractContextManager[None]:
    """The display that somebody at a terminal sees until there is a result."""
    # The dashboard replaces this process with another.
    if command == "dashboard" or sys.stderr is None or not sys.stderr.isatty():
        return nullcontext()
    from nelbo.flows.cli.display import displayed

    return displayed(command)


def _show(command: str, options: Any, result: dict[str, Any], as_json: bool, verbose: bool) -> None:
    """Print a result as JSON; or for people in three lines, below its list or, with `verbose`, below all of it."""
    if "relative_path" in result:
        print_row(result, as_json)
        return
    if as_json and command != "watch":
        print_json(result)
        return
    from nelbo.flows.cli.endings import beginning, ending, listed, with_short_ids

    if "watching" in result:
        click.echo(beginning(result, options), err=True)
        return
    if rows := with_short_ids(result if verbose else listed(command, result, options), options):
        print_table(command, rows)
    for line in ending(command, result, options):
        # With --json, stdout of `watch` holds one object per file and nothing else.
        click.echo(line, err=as_json)


def _results(command: Command, options: Any, prefect: bool | None) -> Iterator[dict[str, Any]]:
    if getattr(options, "compare", False):
        from nelbo.flows.cli.readers import comparison

        yield comparison(options)
    elif command.is_flow:
        from nelbo.flows.orchestration.execution import execute

        yield execute(command.name, options, prefect)
    else:
        result = command.call(options)
        yield from result if isinstance(result, Iterator) else [result]


def _exit_code(options: Any, result: Mapping[str, Any]) -> int:
    if getattr(options, "fail_on_anomaly", False):
        return 3 if result.get("n_anomalous_in_batches", result["n_anomalous"]) else 0
    # Only the doctor returns this; other commands raise an error.
    if result.get("ok") is False:
        click.echo("nelbo: this system lacks what nelbo cannot run without; the lines above say what to do.", err=True)
        return 1
    return 0


def read_options(command: Command, config: str | None, assignments: tuple[str, ...], **values: Any) -> Any:
    """The options of a command, from the values that click gives: None where an option was not given.

    Raises:
        UsageError: a bad value; the message names a value from the command line by its option.
    """
    from nelbo.flows.cli.checks import check
    from nelbo.flows.options.flags import options_of
    from nelbo.flows.options.sources import make_options
    from nelbo.flows.workspace.home import expand_home

    said = {name: value for name, value in values.items() if value is not None}
    check(command.name, said)
    file = None if config is None else Path(expand_home(config))
    flags = {option.field: option.name for option in options_of(command.options) if not option.flag.positional}
    return make_options(command.options, said, file, assignments, flags)
