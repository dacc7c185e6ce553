"""Pages and code use one term for one thing, in short sentences and lines."""

import io
import json
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GLOSSARY = ROOT / "docs" / "reference" / "glossary.md"
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
#: These files name the forbidden words.
EXEMPT = {GLOSSARY, ROOT / "docs" / "contributing" / "style.md", Path(__file__)}
#: Pages that the code generates, with long lines.
GENERATED = {"commands.md"}
#: Pages for people at work, whose sentences must be short.
GUIDES = [page for page in PAGES if page.parent.name in ("tutorial", "how-to")]
MOST_WORDS, WIDTH = 35, 100


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@cache
def forbidden() -> re.Pattern[str]:
    """The words that the glossary forbids."""
    table = [
        line.split("|")[1:-1] for line in GLOSSARY.read_text(encoding="utf-8").splitlines() if line.startswith("| ")
    ]
    words = [word.strip() for _, _, others in table[1:] for word in others.split(",")]
    return re.compile(rf"\b({'|'.join(re.escape(word) for word in words if word)})s?\b")


def prose(page: str) -> str:
    """A page without code and without the targets of its links."""
    page = re.sub(r"^```.*?^```$|^    .*?$", "", page, flags=re.MULTILINE | re.DOTALL)
    without = re.sub(r"`[^`]*`|\]\([^)]*\)|<[^>]*>", " ; ", page)
    # A term may continue on the next line.
    return " ".join(without.split())


def sentences(page: str) -> list[str]:
    """The sentences of paragraphs and lists; inline code counts as words, tables are left out."""
    text = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(\s*\||#|    ).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    items = re.split(r"\n\s*\n|^\s*(?:\*|-|\d+\.) ", text, flags=re.MULTILINE)
    return [" ".join(one.split()) for item in items for one in re.split(r"(?<=[.!?:])[*_)\"]*\s+", item)]


def said(source: str) -> list[str]:
    """The comments and strings of a program."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [token.string for token in tokens if token.type in (tokenize.COMMENT, tokenize.STRING)]


def programs() -> list[Path]:
    folders = ("benchmarks", "data", "detectors", "docs", "flows", "nelbo", "release", "tests", "vae_core")
    return sorted({file for folder in folders for file in (ROOT / folder).rglob("*.py")} - EXEMPT)


def test_sentences_and_prose_are_told_from_code() -> None:
    page = (
        "# A head\n\nOne `two.three` [four](a_b.md). Five:\nsix.\n\n```sh\nheat map\n```\n\n* seven\n* eight\n\n| 9 |\n"
    )
    assert [one for one in sentences(page) if one] == ["One `two.three` [four].", "Five:", "six.", "seven", "eight"]
    assert "heat map" not in prose(page)
    assert "four" in prose(page)
    assert forbidden().findall("two heat maps and a near duplicate, no heatmap") == ["heat map", "near duplicate"]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_keep_to_the_glossary(page: Path) -> None:
    if page not in EXEMPT:
        assert forbidden().findall(prose(page.read_text(encoding="utf-8"))) == []


def test_programs_keep_to_the_glossary_and_its_grammar() -> None:
    wrong = [
        f"{name(file)}: {found[0]}"
        for file in programs()
        for text in said(file.read_text(encoding="utf-8"))
        if (found := forbidden().search(text) or re.search(r'^"""Of |once a process|a place each', text))
    ]
    assert wrong == []


@pytest.mark.parametrize("notebook", sorted((ROOT / "examples").glob("*.ipynb")), ids=name)
def test_notebooks_are_guides(notebook: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert forbidden().findall(prose(text)) == []
    assert [one for one in sentences(text) if len(one.split()) > MOST_WORDS] == []
    assert [line for line in text.splitlines() if len(line) > WIDTH] == []


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_guides_have_short_sentences(page: Path) -> None:
    long = [one for one in sentences(page.read_text(encoding="utf-8")) if len(one.split()) > MOST_WORDS]
    assert long == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_tables_begin_with_their_heads(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    # A blank line splits a table, and the second half is then no table.
    assert [table for table in tables if not re.match(r".*\n\|[-:| ]+\|\n", table)] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in GENERATED], ids=name)
def test_lines_are_wrapped(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    # A table's row is one line, and so is a link without a space.
    long = [
        line
        for line in text.splitlines()
        if len(line) > WIDTH and not line.startswith(("|", "#")) and " " in line[:WIDTH]
    ]
    assert [line for line in long if not re.search(r"\S{60}", line)] == []
