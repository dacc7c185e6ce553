"""docs/commands.md is what the code makes, and its examples are taken."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from nelbo.flows.cli.invocation import app, read_options
from nelbo.flows.cli.page import page
from nelbo.flows.cli.parameters import settings_of
from nelbo.flows.commands import COMMANDS, Command
from nelbo.flows.options.flags import options_of
from nelbo.flows.options.sections import SECTIONS
from nelbo.flows.options.sources import Settings, make_options

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


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_help_groups_every_option_and_shows_settings_as_they_are_said(
    command: Command, nelbo: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = nelbo(command.name, "-h")
    assert code == 0
    shown = [option for option in options_of(command.options) if not option.flag.hidden]
    headings = {field: heading for heading, fields in SECTIONS.items() for field in fields}
    for option in shown:
        assert f" {option.name}" in out
        assert option.flag.positional or f"{headings[option.field]}:" in out
    assert f"Example:\n    {command.example}" in out
    own = {option.field for option in shown}
    for said, meaning in settings_of(command):
        assert f"--set {said} " in out
        assert meaning.split()[0] in out
        name, _, value = said.partition("=")
        assert name not in own
        if value not in ("INTEGER", "NUMBER", "TEXT"):
            assert getattr(make_options(Settings, {}, None, [said]), name) == command.options.model_fields[name].default


def test_no_field_stands_in_two_sections() -> None:
    fields = [field for fields in SECTIONS.values() for field in fields]
    assert len(set(fields)) == len(fields)
