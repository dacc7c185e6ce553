"""What click knows of a command's options: all values are text, which the options model checks."""

from typing import Any

import click

from nelbo.flows.commands import Command
from nelbo.flows.options.flags import Option, options_of

#: Of commands that give something.
_OF_RESULTS = [
    click.Option(["as_json", "--json"], is_flag=True, help="Print one JSON object; logs go to stderr."),
    click.Option(["--verbose"], is_flag=True, help="Print all facts, and on stderr what happens on the way."),
]

#: Of every command, beside those of its model.
COMMON = [
    *_OF_RESULTS,
    click.Option(["--config"], metavar="FILE", help="TOML file with settings."),
    click.Option(["assignments", "--set"], multiple=True, metavar="KEY=VALUE", help="Any setting; repeatable."),
]

#: Of every flow.
PREFECT = click.Option(
    ["--prefect/--no-prefect"],
    default=None,
    help="Run through Prefect or directly; by default, if an API is configured.",
)


def parameters(command: Command) -> list[click.Parameter]:
    """All that the command line takes after a command."""
    found = [_parameter(option) for option in options_of(command.options)]
    # The dashboard has no result.
    common = [one for one in COMMON if one not in _OF_RESULTS or command.name != "dashboard"]
    return [*found, *common, *([PREFECT] if command.is_flow else [])]


def _parameter(option: Option) -> click.Parameter:
    required = option.info.is_required()
    if option.flag.positional:
        return click.Argument([option.field], metavar=option.metavar, required=required)
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
