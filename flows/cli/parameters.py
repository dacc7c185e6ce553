"""A command's options for click: all values are text, which the options model checks."""

from typing import Any

import click

from nelbo.flows.commands import Command
from nelbo.flows.options.flags import Option, options_of, setting_of
from nelbo.flows.options.sections import SECTIONS, SETTINGS

#: Options of commands that return a result.
_OF_RESULTS = [
    click.Option(["as_json", "--json"], is_flag=True, help="Print one JSON object; logs go to stderr."),
    click.Option(["--verbose"], is_flag=True, help="Print all facts, and progress on stderr."),
]

#: Options of every command, in addition to those of its model.
COMMON = [
    *_OF_RESULTS,
    click.Option(["--config"], metavar="FILE", help="TOML file with settings."),
    click.Option(["assignments", "--set"], multiple=True, metavar="KEY=VALUE", help="Any setting; repeatable."),
]

#: Option of every flow.
PREFECT = click.Option(
    ["--prefect/--no-prefect"],
    default=None,
    help="Run through Prefect or directly; by default through Prefect if an API is configured.",
)


class Built(click.Command):
    """A command whose help groups its options, and shows settings that have no option, and an example."""

    def __init__(self, command: Command, **what: Any) -> None:
        example = f"\b\nExample:\n  {command.example}"
        super().__init__(command.name, params=parameters(command), help=command.help, epilog=example, **what)
        self._command = command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in sections, with click's own in the last one; arguments come before the sections."""
        options = (option for option in self.get_params(ctx) if isinstance(option, click.Option))
        rows = {option.name: option.get_help_record(ctx) for option in options}
        own = {name for fields in SECTIONS.values() for name in fields}
        *sections, (last, fields) = SECTIONS.items()
        for heading, names in (*sections, (last, (*fields, *(name for name in rows if name not in own)))):
            if shown := [record for name in names if (record := rows.get(name))]:
                with formatter.section(heading):
                    formatter.write_dl(shown)
        if settings := settings_of(self._command):
            with formatter.section("Settings that matter (all are in docs/reference/settings.md)"):
                formatter.write_dl([(f"--set {said}", meaning) for said, meaning in settings])


def settings_of(command: Command) -> list[tuple[str, str]]:
    """Settings shown beside a command's options: ``name=value`` with the default, and the meaning."""
    return [setting_of(command.options, name) for name in SETTINGS.get(command.name, ())]


def parameters(command: Command) -> list[click.Parameter]:
    """Everything that a command takes on the command line."""
    found = [_parameter(option) for option in options_of(command.options)]
    # The dashboard has no result.
    common = [one for one in COMMON if one not in _OF_RESULTS or command.name != "dashboard"]
    return [*found, *common, *([PREFECT] if command.is_flow else [])]


def _parameter(option: Option) -> click.Parameter:
    required = option.info.is_required()
    if option.flag.positional:
        return click.Argument(
            [option.field], metavar=option.metavar, required=required, help=str(option.info.description)
        )
    names = option.name if option.negation is None else f"{option.name}/{option.negation}"
    about: dict[str, Any] = {"is_flag": True} if option.is_switch else {"metavar": option.metavar}
    default = f" [default: {option.default}]" if option.default else ""
    return click.Option(
        [option.field, names],
        required=required,
        default=None,
        hidden=option.flag.hidden,
        help=f"{option.info.description}{default}",
        **about,
    )
