"""The site is built from docs/ and docstrings, has no dead links, and loads nothing from other machines."""

import importlib
import os
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import chromium

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


class _Loader(yaml.SafeLoader):
    """Loads the site's settings, without the tags that only its builder knows."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def pages_of(nav: Any) -> list[str]:
    """All pages of a menu, from top to bottom."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages_of(part)]


def test_the_menu_has_every_page() -> None:
    menu = pages_of(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)["nav"])  # noqa: S506 - safe
    hook = (DOCS / "site" / "root_pages.py").read_text(encoding="utf-8")
    root = re.findall(r'"([\w/]+\.md)": "[A-Z]+\.md"', hook)
    files = {file.relative_to(DOCS).as_posix() for file in DOCS.rglob("*.md")}
    assert sorted(menu) == sorted([*root, *(name for name in files if "/decisions/0" not in name)])


@pytest.mark.parametrize("folder", ["how-to", "explanation", "reference", "evidence"])
def test_the_index_of_a_folder_links_all_its_pages(folder: str) -> None:
    index = (DOCS / folder / "index.md").read_text(encoding="utf-8")
    pages = {file.name for file in (DOCS / folder).glob("*.md")} - {"index.md"}
    assert pages <= set(re.findall(r"\]\(([\w.]+)\)", index))


def test_every_decision_is_in_the_index() -> None:
    folder = DOCS / "evidence" / "decisions"
    index = (folder / "index.md").read_text(encoding="utf-8")
    decisions = sorted(folder.glob("0*.md"))
    titles = [file.read_text(encoding="utf-8").splitlines()[0].partition(". ")[2] for file in decisions]
    listed = re.findall(r"\d+\. \[([^]]*)\]\(([^)]*)\)", " ".join(index.split()))
    assert listed == [(title, file.name) for title, file in zip(titles, decisions, strict=True)]


@pytest.mark.parametrize("package", ["", "vae_core", "detectors"])
def test_the_reference_has_every_public_name(package: str) -> None:
    module = ".".join(filter(None, ("nelbo", package)))
    page = (DOCS / "reference" / "api" / f"{package or 'nelbo'}.md").read_text(encoding="utf-8")
    named = re.findall(rf"^::: {re.escape(module)}\.(\w+)$", page, re.MULTILINE)
    assert sorted(named) == sorted(importlib.import_module(module).__all__)


def test_docstrings_are_converted_for_the_builder() -> None:
    pytest.importorskip("griffe")
    as_read = runpy.run_path(str(DOCS / "site" / "docstrings.py"))["as_read"]
    returns = "    c: another.\n\nReturns:\n    one, two: no names.\n"
    said = f"Adds.\n\nArgs:\n    a, b: numbers,\n        whole ones.\n{returns}"
    alike = "    a: numbers,\n        whole ones.\n    b: numbers,\n        whole ones.\n"
    assert as_read(f"{said}\n>>> add(1, 2)\n3") == (
        f"Adds.\n\nArgs:\n{alike}{returns}".rstrip("\n") + "\n\nExamples:\n    >>> add(1, 2)\n    3"
    )
    assert as_read("One.\n\nfpr: a rate,\n    promised.\nn: how many.") == (
        "One.\n\nAttributes:\n    fpr: a rate,\n        promised.\n    n: how many."
    )
    for plain in ("No more.", "One.\n\nSource: Wilson 1927.", "One.\n\nTwo lines: of text\nare none."):
        assert as_read(plain) == plain


class Loads(HTMLParser):
    """The addresses that a page loads by itself."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = ("src", "srcset", "data", "poster") if tag != "link" else ("href",)
        self.found += [value for name, value in attrs if name in names and value]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, built strictly, so that the builder checks links and anchors."""
    pytest.importorskip("mkdocs", reason="builds the site: pip install 'nelbo[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text(encoding="utf-8")
        found = Loads(text).found
        assert found
        assert [value for value in found if re.match(r"(\w+:)?//", value)] == [], page
        # Material loads its renderer of diagrams from elsewhere if a page has a diagram.
        assert 'class="mermaid"' not in text, page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_loads_only_files_of_the_site_and_need_not_scroll_sideways(site: Path, width: int) -> None:
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 800})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        for name in ("index", "reference/api/detectors", "reference/data_contract", "evidence/benchmarks"):
            page.goto(f"file://{site}/{name}.html")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    assert asked
    assert [url for url in asked if not url.startswith((f"file://{site}/", "data:", "blob:"))] == []


@pytest.mark.slow
def test_the_reference_shows_parameters_examples_and_types(site: Path) -> None:
    page = (site / "reference" / "api" / "detectors.html").read_text(encoding="utf-8")
    text = re.sub(r"<[^>]+>", "", page)
    assert "binomial_interval(2, 134)" in text
    assert "Clopper and Pearson 1934" in text
    assert 'id="nelbo.detectors.Threshold.from_normals"' in page
