"""docs/commands.md is what the code makes, and its examples are taken."""

import shlex
from pathlib import Path

import pytest

from nelbo.flows.cli.invocation import app, read_options
from nelbo.flows.cli.page import page
from nelbo.flows.commands import COMMANDS, Command
from nelbo.flows.options.flags import options_of

ROOT = Path(__file__).parents[3]


def test_the_page_is_what_the_code_makes() -> None:
    written = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert written == page(), "write it anew: python -m nelbo.flows.cli.page > docs/commands.md"


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_each_command_is_there_and_its_example_is_taken(command: Command) -> None:
    assert callable(command.call)
    nelbo, name, *arguments = shlex.split(command.example)
    assert (nelbo, name) == ("nelbo", command.name)
    context = app.make_context("nelbo", [name, *arguments])
    built = app.get_command(context, name)
    assert built is not None
    values = built.make_context(name, arguments, context).params
    for of_the_line in ("as_json", "verbose", *(("prefect",) if command.is_flow else ())):
        values.pop(of_the_line, None)
    assert isinstance(read_options(command, **values), command.options)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_each_option_says_what_it_is(command: Command) -> None:
    names = [option.name for option in options_of(command.options)]
    assert all(option.info.description for option in options_of(command.options))
    assert len(set(names)) == len(names)
