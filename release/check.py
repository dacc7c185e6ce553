"""Whether a release would work: ``make release-check``, some minutes and a gigabyte of packages.

It builds sdist and wheel, checks their metadata, installs each into an empty environment with the pinned versions, runs
the demo from the wheel, runs `nelbo --version` and `nelbo doctor` from the sdist, and lists the licences of all
installed packages.
"""

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Extras for developers, and the one that only a machine with a GPU can use, under NVIDIA's own terms.
NOT_FOR_USE = {"check", "docs", "release", "test", "gpu"}


def run(*command: object, cwd: Path, home: Path | None = None) -> str:
    """What a command prints when it runs without the caller's settings of nelbo and Python; a failure ends the check.

    Args:
        command: a program and its arguments.
        cwd: the folder that it runs in.
        home: its home, if not the caller's.
    """
    own = ("NELBO_", "PREFECT_", "PYTHON", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    if home:
        environment["HOME"] = str(home)
    print("$", *(Path(str(part)).name for part in command), flush=True)
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    if done.returncode:
        sys.exit(f"failed with exit code {done.returncode}: {' '.join(map(str, command))}")
    return done.stdout


def install(what: Path, extras: list[str], folder: Path) -> Path:
    """Install a wheel or sdist with extras into an empty environment, and return the folder of its programs."""
    environment = folder / f"with-{what.suffix.lstrip('.')}"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=folder)
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        "--python",
        environment / "bin/python",
    )
    run(*pip, "install", "--constraint", ROOT / "constraints.txt", f"{what}[{','.join(extras)}]", cwd=folder)
    return environment / "bin"


def check(folder: Path) -> None:
    """Run all steps in an empty folder."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    run(sys.executable, "-m", "build", "--quiet", "--outdir", folder / "dist", ROOT, cwd=folder)
    (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist, cwd=folder)

    programs = install(wheel, ["cpu", "demo"], folder)
    run(programs / "nelbo", "demo", cwd=folder, home=folder)

    programs = install(sdist, sorted(set(project["optional-dependencies"]) - NOT_FOR_USE), folder)
    said = run(programs / "nelbo", "--version", cwd=folder, home=folder)
    if project["version"] not in said.split():
        sys.exit(f"`nelbo --version` says {said.strip()!r}, pyproject.toml {project['version']}: expected the same")
    run(programs / "nelbo", "doctor", cwd=folder, home=folder)
    packages = run(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    run(sys.executable, ROOT / "release" / "licences.py", packages.strip(), cwd=folder)


def main() -> None:
    """Run the check in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="nelbo-release-") as folder:
        check(Path(folder).resolve())
    print("This can be released.")


if __name__ == "__main__":
    main()
