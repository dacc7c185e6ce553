"""Refuses options that would be ignored silently: those given on the command line, not those of a config file."""

from collections.abc import Mapping
from typing import Any

from nelbo.flows.workspace.errors import UsageError


def check(command: str, said: Mapping[str, Any]) -> None:
    """Refuse options that do not go with others.

    Args:
        said: the options that were given, by the names of their fields.
    """
    if command in _CHECKS:
        _CHECKS[command](said)


def _check_calibrate(said: Mapping[str, Any]) -> None:
    changing = [name for name in said if name not in ("model", "workspace", "joint", "compare", "batch")]
    if "compare" in said and changing:
        raise UsageError(f"--compare changes nothing, and {_flag(changing[0])} would. Leave one out.")
    if "batch" in said and "compare" not in said:
        raise UsageError("--batch goes with --compare.")
    others = [name for name in changing if name != "use"]
    if "use" in said and others:
        raise UsageError(f"--use makes nothing new, and {_flag(others[0])} would. Leave one out.")
    if "costs" in said and said.get("objective", "cost") != "cost":
        raise UsageError(f"--costs goes with --objective cost, not {said['objective']}.")
    of_normals = [name for name in ("fpr", "confidence", "contamination", "review_fpr") if name in said]
    of_labels = [name for name in ("objective", "target", "costs", "review_recall") if name in said]
    if "labels" in said and of_normals:
        raise UsageError(
            f"{_flag(of_normals[0])} goes with --normal; labels promise no rate. Leave one of the two out."
        )
    if said.get("labels") == "reviews" and "root" in said:
        raise UsageError("--root goes with a manifest, and --labels reviews is none. Leave one of the two out.")
    if "labels" not in said and of_labels:
        raise UsageError(f"{_flag(of_labels[0])} goes with --labels.")


def _check_score(said: Mapping[str, Any]) -> None:
    asking = [name for name in ("fdr", "calibration") if name in said]
    if "uncalibrated" in said and asking:
        raise UsageError(f"--uncalibrated gives no verdicts, and {_flag(asking[0])} asks for some. Leave one out.")
    if "min_age_s" in said and "new" not in said:
        raise UsageError("--min-age goes with --new.")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


_CHECKS = {"calibrate": _check_calibrate, "score": _check_score}
