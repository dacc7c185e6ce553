"""Who may import whom, and what each package says it offers."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("data", "vae_core", "detectors", "flows")
ALLOWED = {
    "data": set(),
    "vae_core": set(),
    "detectors": set(),
    "flows": {"data", "vae_core", "detectors"},
}
#: Only flows knows these.
OUTSIDE = {"prefect", "typer", "pydantic", "pydantic_settings", "rich", "jinja2"}
#: The one file of detectors that knows the network and the images, and what it loads when it is used.
ESTIMATOR = ROOT / "detectors" / "estimator.py"
ESTIMATOR_ALLOWED = {"data", "vae_core"}
#: The rest of `detectors` works on plain scores: importing it must not load a neural network.
HEAVY = {"keras", "tensorflow", "jax", "torch"}
#: Public names that are loaded when they are first asked for.
LAZY = {"detectors": ["NelboDetector", "NotCalibratedError"]}


def imported(file: Path) -> set[str]:
    """Top-level names of everything a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        arrows = imported(file) & set(PACKAGES) - {package}
        allowed = ESTIMATOR_ALLOWED if file == ESTIMATOR else ALLOWED[package]
        assert arrows <= allowed, f"{file.name} imports {arrows - allowed}"
        if package != "flows":
            assert not imported(file) & OUTSIDE, file
        if package in ("data", "detectors") and file != ESTIMATOR:
            assert not imported(file) & HEAVY, file


@pytest.mark.parametrize("package", ["data", "vae_core", "detectors"])
def test_all_is_what_is_public_and_sorted(package: str) -> None:
    module = importlib.import_module(package)
    # What is loaded lazily stands in the stub.
    (source, *_) = sorted((ROOT / package).glob("__init__.py*"), reverse=True)
    tree = ast.parse(source.read_text(encoding="utf-8"))
    own = [
        node
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.level or str(node.module).startswith(f"{package}."))
    ]
    names = [alias.name for node in own for alias in node.names]
    assert sorted([*names, *LAZY.get(package, ())]) == sorted(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    classes = [name for name in module.__all__ if name[0].isupper()]
    functions = [name for name in module.__all__ if not name[0].isupper()]
    assert list(module.__all__) in (
        sorted(classes, key=lambda name: (not name.isupper(), name)) + sorted(functions),
        sorted(module.__all__),
    )
    assert all(getattr(module, name).__doc__ for name in module.__all__ if callable(getattr(module, name)))


@pytest.mark.parametrize("code", ["import detectors", "from detectors import NelboDetector; NelboDetector()"])
def test_detectors_load_no_network(code: str) -> None:
    import subprocess

    command = [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "detectors" in loaded
    assert not set(loaded) & (HEAVY | {"vae_core", "data"})
    assert ("detectors.estimator" in loaded) == ("NelboDetector" in code)


def test_command_line_loads_nothing_slow() -> None:
    code = "import sys, flows.cli; print(*sys.modules)"
    import subprocess

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "typer" in loaded
    assert not set(loaded) & {"keras", "tensorflow", "prefect", "pandas", "pyarrow", "sklearn", "pydantic"}


def test_no_drawer_for_odds_and_ends() -> None:
    assert not [
        file
        for package in PACKAGES
        for name in ("utils", "common", "helpers")
        for file in (ROOT / package).rglob(name + "*")
    ]
