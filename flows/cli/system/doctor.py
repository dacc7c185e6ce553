"""What this system has for nelbo, what it lacks, and how to get it."""

import importlib.util
import locale
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from joblib import cpu_count

from nelbo.flows.cli.system import disks
from nelbo.flows.inference.models import import_keras
from nelbo.flows.options.options import Options
from nelbo.flows.options.sources import strange_variables
from nelbo.flows.orchestration.execution import check_api, prefect_api, prefect_profile
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.home import is_stand_in
from nelbo.flows.workspace.journal import opened
from nelbo.flows.workspace.layout import Workspace, some
from nelbo.flows.workspace.runs import code_version
from nelbo.vae_core import ENGINES, is_installed, lacking_for_int8

_PACKAGES = (
    *("keras", "tensorflow", "tensorflow-cpu", "jax", "openvino", "onnxruntime", "tf2onnx"),
    *("prefect", "scikit-learn", "pandas", "pyarrow", "pillow", "imagecodecs", "tifffile"),
    *("duckdb", "uvicorn", "distributed", "s3fs"),
)

#: Decoders of files that cameras and microscopes write; imagecodecs may be built without some.
_CODECS = ("PNG", "DEFLATE", "LZW", "PACKBITS", "JPEG8", "JPEG2K", "ZSTD", "LZMA", "WEBP")

#: Bytes for Keras with a model, and for a decoder with two copies of the largest image that is scored by default.
_MAIN, _DECODER = 1 << 30, 1 << 29

#: Bytes below which a disk is called full: archives are unpacked, engines are made there.
_SPACE = 1 << 30


@dataclass(frozen=True)
class Finding:
    """What was found, as JSON, under a name; ``lacks``: what is missing and the remedy, None if nothing is.

    needed: without it nelbo does not run.
    """

    name: str
    found: Any
    lacks: str | None = None
    needed: bool = False


def diagnose(options: Options) -> dict[str, Any]:
    """What is found, by name; ``missing``: what is lacking, each with its remedy; ``ok``: whether nelbo runs."""
    findings = list(_findings(opened(options.workspace)))
    facts = {finding.name: finding.found for finding in findings}
    lacking = [finding for finding in findings if finding.lacks]
    return facts | {
        "missing": [finding.lacks for finding in lacking],
        "ok": not any(finding.needed for finding in lacking),
    }


def _findings(workspace: Workspace) -> Iterator[Finding]:
    yield Finding("nelbo", code_version())
    yield Finding("python", platform.python_version())
    yield Finding("packages", {name: _version(name) for name in _PACKAGES})
    yield from _engines()
    yield _codecs()
    # Nothing but `nelbo demo` needs them, which says how to get them.
    yield Finding("demo_images", importlib.util.find_spec("elpv_dataset") is not None)
    yield from _prefect()
    yield Finding("telemetry", _telemetry())
    yield from _workspace(workspace)
    yield _temporary()
    yield _home()
    yield Finding("cpus", {"allowed": cpu_count(), "present": os.cpu_count()})
    yield _memory()
    yield _encoding()
    yield _variables()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _engines() -> Iterator[Finding]:
    try:
        import_keras()
        import keras

        backend = keras.backend.backend()
        yield Finding("backend", backend)
        yield Finding("devices", list(keras.distribution.list_devices()) or ["cpu"])
    except UsageError as error:
        backend = None
        yield Finding("backend", None, str(error), needed=True)
        yield Finding("devices", [])
    there = [name for name in ENGINES if (backend if name == "keras" else is_installed(name))]
    lacks = "an engine that scores faster than Keras: pip install 'nelbo[openvino]'"
    yield Finding("engines", there, None if {*there} - {"keras"} else lacks)
    yield Finding("int8", bool(backend) and lacking_for_int8() is None)


def _codecs() -> Finding:
    import imagecodecs

    absent = [name for name in _CODECS if not getattr(imagecodecs, name).available]
    lacks = f"decoders of {', '.join(absent)}: pip install --force-reinstall imagecodecs" if absent else None
    return Finding("codecs_missing", absent, lacks, needed="PNG" in absent)


def _prefect() -> Iterator[Finding]:
    api = prefect_api()
    yield Finding("prefect_api", api)
    yield Finding("prefect_profile", prefect_profile(api))
    if api is None:
        yield Finding("prefect_reachable", None)
        return
    try:
        check_api()
        yield Finding("prefect_reachable", True)
        yield _former_deployments()
    except UsageError as error:
        yield Finding("prefect_reachable", False, str(error))


def _former_deployments() -> Finding:
    from nelbo.flows.orchestration.flows import FLOWS
    from nelbo.flows.orchestration.lines import find_deployments, former, say_former

    found = former(find_deployments(FLOWS))
    return Finding("former_deployments", sorted(found), " ".join(say_former(found)) or None)


def _telemetry() -> dict[str, str]:
    """The telemetry settings of libraries that report to their makers."""
    said_no = os.environ.get("DO_NOT_TRACK", "").lower() in ("1", "true")
    server = os.environ.get("PREFECT_SERVER_ANALYTICS_ENABLED", "true").lower() in ("0", "false")
    found = {"prefect": "off" if said_no or server else "on, in a server started from here"}
    if _version("openvino-telemetry"):
        found["openvino"] = "installed"
    return found


def _workspace(workspace: Workspace) -> Iterator[Finding]:
    root = workspace.root
    yield Finding("workspace", str(root))
    if not isinstance(root, Path):
        try:
            workspace.prepare()
            yield Finding("workspace_writable", True)
        except UsageError as error:
            yield Finding("workspace_writable", False, str(error), needed=True)
        return
    nearest = next(parent for parent in (root, *root.parents) if parent.exists())
    writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    lacks = f"a workspace: {nearest} cannot be written. Choose another with --workspace, or change its permissions"
    yield Finding("workspace_writable", writable, None if writable else lacks, needed=True)
    if writable:
        disk = disks.describe(nearest)
        yield Finding("workspace_disk", disk, _lacking_disk(disk))


def _lacking_disk(disk: dict[str, Any]) -> str | None:
    where = f"the workspace's file system ({disk['type']})"
    if not disk["locks"]:
        return f"locks: {where} has none. Let one command at a time write there, or put it on a local disk"
    if not disk["syncs_folders"]:
        return f"safety in a power cut: {where} does not sync folders. Put it on a local disk, or keep copies"
    if disk["free_bytes"] < _SPACE:
        return f"space: {where} has {disk['free_bytes']:,} bytes free. Free some: nelbo prune --older-than 90d"
    return None


def _temporary() -> Finding:
    try:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("temporary", None, f"a folder for temporary files ({error}). Set TMPDIR to one", needed=True)
    lacks = f"space for temporary files: {folder} has {free:,} bytes free. Set TMPDIR to a folder with more"
    return Finding("temporary", {"folder": folder, "free_bytes": free}, lacks if free < _SPACE else None)


def _home() -> Finding:
    home = os.environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is none
    writable = os.access(home, os.W_OK | os.X_OK)
    lacks = None
    if is_stand_in(home):
        lacks = f"a home folder: libraries keep their files in {home}. Set HOME to a folder that lasts"
    elif not writable:
        lacks = f"a home folder that can be written: {home} cannot. Set HOME to one, or PREFECT_HOME and XDG_CACHE_HOME"
    return Finding("home", {"folder": home, "writable": writable}, lacks)


def _memory() -> Finding:
    limit, n = memory_limit(), cpu_count()
    needed = _MAIN + n * _DECODER
    lacks = (
        f"memory: {limit:,} bytes may be used, and {n} decoders may need {needed:,} in all. Allow more, or set workers"
    )
    return Finding("memory", {"limit_bytes": limit, "needed_bytes": needed}, lacks if limit < needed else None)


def memory_limit() -> int:
    """Bytes that may be used here: the machine's, or fewer in a container."""
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(file).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            return min(present, int(text))
    return present


def _encoding() -> Finding:
    found = {"files": sys.getfilesystemencoding(), "locale": locale.getencoding()}
    plain = any(name.lower().replace("-", "") != "utf8" for name in found.values())
    lacks = "UTF-8: files whose names are not ASCII may not be read. Set LANG=C.UTF-8, or PYTHONUTF8=1"
    return Finding("encoding", found, lacks if plain else None)


def _variables() -> Finding:
    strange = strange_variables()
    lacks = (
        f"settings for {some(strange)}: there are none of these names. Unset them, or see docs/reference/settings.md"
    )
    return Finding("unknown_variables", strange, lacks if strange else None)
