"""The commands as click has them: each is built from its options model when it is run, or its help is asked for."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import click

from nelbo.flows.cli.output import print_json, print_table, say_all
from nelbo.flows.commands import COMMANDS, Command
from nelbo.flows.inference.progress import progress


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click names it
        """In the order of their work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Built now: it takes pydantic."""
        if cmd_name not in COMMANDS:
            return None
        from nelbo.flows.cli.parameters import Built

        return Built(COMMANDS[cmd_name], callback=partial(_invoke, COMMANDS[cmd_name]))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """With what may have been meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            # It has looked among commands that are built.
            raise click.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Without building any."""
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
    """Before each command."""
    if not any(name.upper().startswith("NELBO_") for name in os.environ):
        return
    from nelbo.flows.options.sources import strange_variables
    from nelbo.flows.workspace.layout import some

    if strange := strange_variables():
        click.echo(
            f"nelbo: passed over, for they are no settings: {some(strange, 20)}. Kubernetes sets such variables for a "
            "Service named nelbo; docs/settings.md has the names of settings.",
            err=True,
        )


def _invoke(command: Command, as_json: bool = False, verbose: bool = False, **values: Any) -> int:
    """Run a command and print what it gives; the exit code."""
    if verbose:
        say_all()
    # Of the demo it is an option like others.
    prefect = values.pop("prefect") if command.is_flow else None
    code = 0
    with ExitStack() as display:
        display.enter_context(_displayed(command.name))
        with progress("starting"):
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


def _spreadsheet(options: Any) -> Callable[[Mapping[str, Any]], None]:
    """What writes the rows of a result to the CSV file that is asked for, if any."""
    if getattr(options, "csv", None) is None:
        return lambda _result: None
    from nelbo.flows.cli.spreadsheet import check_target, write_rows

    check_target(options)
    return partial(write_rows, options)


def _displayed(command: str) -> AbstractContextManager[None]:
    """What somebody at a terminal sees until there is a result."""
    # The dashboard is another process, in the place of this one.
    if command == "dashboard" or sys.stderr is None or not sys.stderr.isatty():
        return nullcontext()
    from nelbo.flows.cli.display import displayed

    return displayed(command)


def _show(command: str, options: Any, result: dict[str, Any], as_json: bool, verbose: bool) -> None:
    """What a command gives: as JSON; or for people in three lines, and what is a list, or all of it, before them."""
    if as_json:
        print_json(result)
        return
    from nelbo.flows.cli.endings import ending, listed, with_short_ids

    if rows := with_short_ids(result if verbose else listed(command, result, options), options):
        print_table(command, rows)
    for line in ending(command, result, options):
        click.echo(line)


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
    # The doctor's diagnosis; what else is not well is an error.
    if result.get("ok") is False:
        click.echo("nelbo: this system lacks what nelbo cannot run without; the lines above say what to do.", err=True)
        return 1
    return 0


def read_options(command: Command, config: str | None, assignments: tuple[str, ...], **values: Any) -> Any:
    """The options of a command, from the values that click gives: None where an option was not said.

    Raises:
        UsageError: a bad value; one of the command line is named by its option.
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
