"""The needs of a release that a fast test can check; ``make release-check`` does the rest."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from release.check import NOT_FOR_USE
from release.licences import ALONE, Licence, licences

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def package(folder: Path, name: str, *lines: str) -> None:
    """Write the metadata of a package as pip does."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    text = "\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *lines, ""])
    (info / "METADATA").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("lines", "expression", "accepted"),
    [
        (["License-Expression: MPL-2.0 AND (GPL-3.0-only OR MIT)"], "MPL-2.0 AND (GPL-3.0-only OR MIT)", True),
        (["License-Expression: MIT AND GPL-3.0-only"], "MIT AND GPL-3.0-only", False),
        (["License-Expression: Apache-2.0 WITH LLVM-exception"], "Apache-2.0 WITH LLVM-exception", True),
        (["License-Expression: GPL-2.0-only WITH Classpath-exception-2.0"], None, False),
        (["Classifier: License :: OSI Approved :: BSD License", "License: ISC"], "BSD-3-Clause", True),
        (["Classifier: License :: OSI Approved", "License: MIT"], "MIT", True),
        # A known licence does not make an unknown one acceptable.
        (
            [
                "Classifier: License :: OSI Approved :: MIT License",
                "Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)",
            ],
            None,
            False,
        ),
        (["License: Apache License 2.0"], "Apache-2.0", True),
        (["License: a text of our own"], None, False),
        (["License: UNKNOWN"], None, False),
        ([], None, False),
    ],
)
def test_licences_are_read_and_judged(lines: list[str], expression: str | None, accepted: bool, tmp_path: Path) -> None:
    package(tmp_path, "One_Package", *lines)
    found = {one.name: one for one in licences([str(tmp_path)])}
    one = found["one-package"]
    assert one.accepted is accepted
    assert expression in (one.expression, None)
    assert found["htmx"].expression == "0BSD"


def test_a_licence_accepted_for_one_package_is_not_for_others() -> None:
    for name, (own, _) in ALONE.items():
        for licence in own:
            assert Licence(name, "1", licence).accepted
            assert not Licence("another", "1", licence).accepted


def test_packages_with_unknown_licences_fail_by_name(tmp_path: Path) -> None:
    package(tmp_path, "good", "License-Expression: MIT")
    command = [sys.executable, ROOT / "release" / "licences.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["good 1.0: MIT", "htmx in nelbo: 0BSD"]
    package(tmp_path, "hidden")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "unknown or not accepted: hidden;" in done.stderr


def test_only_a_named_extra_brings_packages_that_are_not_free() -> None:
    extras = {
        extra
        for extra, lines in PROJECT["optional-dependencies"].items()
        if {Requirement(line).name for line in lines} & set(ALONE)
    }
    assert extras == {"demo"}
    assert set(PROJECT["optional-dependencies"]) >= NOT_FOR_USE


def test_the_newest_changes_belong_to_this_version() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.findall(r"^## (\S+)", changes, re.MULTILINE)[0]
    assert newest == PROJECT["version"]
