"""A hook of MkDocs: pages and notebooks that lie outside of `docs/` become part of the site, too.

Their links are relative to their place in the repository, so they also work for readers of the files.
"""

import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
#: File of the site -> file of the repository. Notebooks can be downloaded.
PAGES = {
    "changes.md": "CHANGELOG.md",
    "contributing/index.md": "CONTRIBUTING.md",
    "contributing/architecture.md": "ARCHITECTURE.md",
    "contributing/security.md": "SECURITY.md",
    "examples/batch.ipynb": "examples/batch.ipynb",
    "examples/own_scorer.ipynb": "examples/own_scorer.ipynb",
}
_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of the site, with those of the root folder added."""
    for page, name in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """The page with links to files of the root folder changed into links to pages of the site."""
    own = page.file.src_uri
    lies_in = dirname(PAGES.get(own, f"docs/{own}"))
    of_site = {name: f"docs/{page}" for page, name in PAGES.items()}

    def link(found: re.Match[str]) -> str:
        target = normpath(join(lies_in, found[1]))
        return relpath(of_site.get(target, target), dirname(f"docs/{own}"))

    return _LINK.sub(link, markdown)
