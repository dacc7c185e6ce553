"""docs/reference/commands.md is what the code generates, and the command line accepts its examples."""

import re
import shlex
from collections.abc import Callable
from itertools import takewhile
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
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])


def test_the_page_is_what_the_code_generates() -> None:
    written = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    assert written == page(), "Generate it again: python -m nelbo.flows.cli.page > docs/reference/commands.md"


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_each_command_is_listed_with_an_example_that_is_accepted(command: Command) -> None:
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


def commands_in(page: Path) -> list[list[str]]:
    """The words of each `nelbo` command in the blocks of a page that a shell would run."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines if line.startswith("nelbo ")]
    return [list(takewhile(lambda word: word not in ("|", "&", ">"), line)) for line in words]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_command_line_accepts_every_command_of_a_page(page: Path) -> None:
    for nelbo, name, *arguments in commands_in(page):
        context = app.make_context(nelbo, [name, *arguments])
        built = app.get_command(context, name)
        assert built is not None, name
        values = built.make_context(name, arguments, context).params
        command = COMMANDS[name]
        for of_the_line in ("as_json", "verbose", *(("prefect",) if command.is_flow else ())):
            values.pop(of_the_line, None)
        # The settings file that a page names belongs to its reader.
        assert isinstance(read_options(command, **values | {"config": None}), command.options), (name, arguments)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_each_option_says_what_it_is(command: Command) -> None:
    names = [option.name for option in options_of(command.options)]
    assert all(option.info.description for option in options_of(command.options))
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_help_groups_every_option_and_shows_how_to_set_it(
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


def test_no_field_is_in_two_sections() -> None:
    fields = [field for fields in SECTIONS.values() for field in fields]
    assert len(set(fields)) == len(fields)
