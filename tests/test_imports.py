"""Which packages may import which, how many modules a folder may hold, and what each package exports."""

import ast
import importlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: Layers, the lowest first. A module imports only its own folder and lower layers, never neighbours of its layer.
FLOORS = [
    {"data", "vae_core"},
    {"detectors"},
    {"detectors.estimator"},
    {"flows.telemetry", "flows.numbers", "flows.formulas", "flows.pace"},
    {"flows.workspace"},
    {"flows.options"},
    {"flows.evaluation"},
    {"flows.inference"},
    {"flows.report"},
    {"flows.runner"},
    {"flows.steps"},
    {"flows.watching"},
    {"flows.commands"},
    {"flows.python"},
    {"flows.orchestration"},
    {"flows.dashboard"},
    {"flows.cli"},
]
#: Lower layers that a layer must not import.
BARRED = {"detectors": {"data", "vae_core"}}
#: Only flows imports these, and only one folder of it imports Prefect and Dask.
OF_FLOWS = {"click", "pydantic", "rich", "jinja2"}
OF_ORCHESTRATION = {"prefect", "distributed", "prefect_dask"}
#: Slow imports; scores, images and the command line's help do not need them.
HEAVY = {"keras", "tensorflow", "jax", "torch"}
#: Modules that may list folders: the first lists a workspace, the second tests whether a store can be reached.
LISTING = {"flows.workspace.catalog", "flows.workspace.layout"}
#: The most modules in one folder.
MOST = 14


def room(module: str) -> str:
    """The folder of a module: the longest name in `FLOORS` that its own begins with, or its package."""
    rooms = {name for floor in FLOORS for name in floor}
    parts = module.split(".")
    names = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((name for name in names if name in rooms), module)


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@cache
def modules() -> dict[str, Path]:
    """Module name below nelbo -> file."""
    found = [file for package in ("data", "vae_core", "detectors", "flows") for file in files(package)]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in found}


def imported(file: Path) -> set[str]:
    """Dotted names of everything that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_imports_go_down() -> None:
    below = {
        name: set().union(*FLOORS[:height]) - BARRED.get(name, set())
        for height, floor in enumerate(FLOORS)
        for name in floor
    }
    wrong = [
        f"{module} -> {name}"
        for module, file in modules().items()
        for name in (found.removeprefix("nelbo.") for found in imported(file) if found.startswith("nelbo."))
        # A package's `__init__` re-exports what its folders define.
        if "." in module
        if room(name) != room(module) and room(name) not in below[room(module)]
    ]
    assert not wrong


def test_the_diagram_of_the_architecture_has_these_layers() -> None:
    picture = (ROOT / "docs" / "images" / "house.svg").read_text(encoding="utf-8")
    drawn = re.findall(r'y="(\d+)"[^>]*>([a-z_.]+)<', picture)
    floors = {name.removeprefix("flows."): height for height, floor in enumerate(reversed(FLOORS)) for name in floor}
    heights = sorted({int(y) for y, _ in drawn})
    assert {name: heights.index(int(y)) for y, name in drawn} == floors


def test_each_package_imports_only_its_own_dependencies() -> None:
    for module, file in modules().items():
        names = {name.partition(".")[0] for name in imported(file)}
        if not module.startswith("flows."):
            assert not names & OF_FLOWS, module
        if not module.startswith("flows.orchestration"):
            assert not names & OF_ORCHESTRATION, module
        if room(module) in ("data", "detectors"):
            assert not names & HEAVY, module


def test_only_the_catalog_lists_a_workspace() -> None:
    names = {"glob", "iglob", "rglob", "iterdir", "listdir", "scandir", "walk", "fwalk", "ls"}
    found = {
        module
        for module, file in modules().items()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if module.startswith("flows.")
        # Strings also have a method `find`; DuckDB's `glob` occurs in SQL.
        if (isinstance(node, ast.Attribute) and (node.attr in names or ast.unparse(node).endswith("fs.find")))
        or (isinstance(node, ast.Constant) and isinstance(node.value, str) and "FROM glob(" in node.value)
    }
    assert found == LISTING


def test_no_folder_has_too_many_modules() -> None:
    folders = {
        file.parent
        for name in ("data", "vae_core", "detectors", "flows", "tests", "benchmarks", "release")
        for file in files(name)
    }
    crowded = {
        str(folder.relative_to(ROOT)): n
        for folder in folders
        if (n := len([file for file in folder.glob("*.py") if file.name != "__init__.py"])) > MOST
    }
    assert not crowded


@pytest.mark.parametrize("package", ["data", "vae_core", "detectors"])
def test_all_lists_every_public_name_in_order(package: str) -> None:
    module = importlib.import_module(f"nelbo.{package}")
    # Names that are loaded lazily are listed in the stub.
    (source, *_) = sorted((ROOT / package).glob("__init__.py*"), reverse=True)
    tree = ast.parse(source.read_text(encoding="utf-8"))
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.level or str(node.module).startswith("nelbo."))
        for alias in node.names
    }
    assert sorted(names) == sorted(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    classes = [name for name in module.__all__ if name[0].isupper()]
    functions = [name for name in module.__all__ if not name[0].isupper()]
    assert list(module.__all__) in (
        sorted(classes, key=lambda name: (not name.isupper(), name)) + sorted(functions),
        sorted(module.__all__),
    )
    assert all(getattr(module, name).__doc__ for name in module.__all__ if callable(getattr(module, name)))


def loaded(code: str) -> set[str]:
    """The modules that an interpreter has loaded after some code."""
    command = [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "code", ["import nelbo.detectors", "from nelbo.detectors import NelboDetector; NelboDetector()"]
)
def test_detectors_load_no_network(code: str) -> None:
    found = loaded(code)
    assert "nelbo.detectors" in found
    assert not found & (HEAVY | {"nelbo.vae_core", "nelbo.data"})
    assert ("nelbo.detectors.estimator.estimator" in found) == ("NelboDetector" in code)


def test_command_line_loads_nothing_slow() -> None:
    slow = {*HEAVY, "prefect", "pandas", "pyarrow", "sklearn", "rich", "numpy"}
    for arguments, more in ((["--help"], {"pydantic"}), (["train", "--help"], set())):
        found = loaded(f"from nelbo.flows.cli.main import app; app({arguments}, standalone_mode=False)")
        assert "click" in found
        assert not found & (slow | more)


def test_no_module_is_called_utils_common_or_helpers() -> None:
    assert not [module for module in modules() if set(module.split(".")) & {"utils", "common", "helpers"}]
