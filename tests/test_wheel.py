"""The distributions built from the repository, and that they run beside a project with folders of the same names."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from synthetic import write_images

ROOT = Path(__file__).parent.parent
FOLDERS = ("data", "detectors", "flows", "vae_core")

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path) -> str:
    """What a command prints; only the test environment's interpreter finds the editable nelbo."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NELBO_", "PYTHON"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tracked() -> list[str]:
    """The tracked files that exist in the working tree."""
    return [
        name for name in run("git", "ls-files", "-z", cwd=ROOT).split("\0") if name and os.path.lexists(ROOT / name)
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An sdist made from a clean copy, and the wheel made from it, as (wheel, sdist)."""
    folder = tmp_path_factory.mktemp("built")
    for name in tracked():
        copy = folder / "copy" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy, follow_symlinks=False)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, cwd=folder / "copy")
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def test_wheel_and_sdist_hold_all_of_nelbo_and_nothing_else(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    expected = {f"nelbo/{name}" for name in tracked() if name.startswith(tuple(f"{folder}/" for folder in FOLDERS))}
    expected |= {f"nelbo/{name}" for name in ("__init__.py", "__init__.pyi", "__main__.py", "py.typed")}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name for name in names if ".dist-info/" not in name} == expected
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert all(member.isfile() or member.isdir() for member in members)
    files = {member.name.partition("/")[2] for member in members if member.isfile()}
    assert {name for name in files if name.startswith("nelbo/")} == expected
    assert {name.partition("/")[0] for name in files} == {
        *("LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "nelbo", "nelbo.egg-info", "pyproject.toml", "setup.cfg")
    }


@pytest.mark.parametrize(
    ("system", "machine", "tensorflow"),
    [
        ("linux", "x86_64", "tensorflow-cpu"),
        ("linux", "aarch64", "tensorflow"),
        ("darwin", "arm64", "tensorflow"),
        ("win32", "AMD64", "tensorflow-cpu"),
    ],
)
def test_the_extra_cpu_requires_an_available_tensorflow(
    built: tuple[Path, Path], system: str, machine: str, tensorflow: str
) -> None:
    with zipfile.ZipFile(built[0]) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        requirements = Metadata.from_email(archive.read(name)).requires_dist or []
    there = {"extra": "cpu", "sys_platform": system, "platform_machine": machine}
    names = {one.name for one in requirements if one.marker is None or one.marker.evaluate(there)}
    assert {name for name in names if name.startswith("tensorflow")} == {tensorflow}


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with that wheel and the test environment's packages, except its own nelbo."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", built[0], cwd=folder)
    # The .pth file of an editable install only works in the folder of its own environment.
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    (Path(own) / "tests.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return folder / "bin"


def test_nelbo_runs_beside_folders_of_the_same_names(installed: Path, tmp_path: Path) -> None:
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('{name} of the project')\n")
    write_images(tmp_path / "good", 40, seed=1)
    write_images(tmp_path / "new", 4, seed=2)
    write_images(tmp_path / "new", 2, seed=3, blot=True)
    where = run(installed / "python", "-c", "import nelbo.flows; print(nelbo.flows.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    settings = ("--set", "image_size=64", "--set", "backbone=filters")
    program, module = (installed / "nelbo",), (installed / "python", "-m", "nelbo")
    trained = json.loads(run(*program, "train", "--normal", "good", "--json", *settings, cwd=tmp_path))
    for command in (program, module):
        scored = json.loads(run(*command, "score", "new", "--json", cwd=tmp_path))
        assert (scored["n_scored"], scored["model_id"]) == (6, trained["model_id"])
