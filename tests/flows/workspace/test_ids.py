"""Short ids: the shortest beginnings that tell ids apart, and which ids a beginning means."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import assert_refused

from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.ids import meant, shortened


def test_every_short_id_means_its_id(random: np.random.Generator) -> None:
    """Ids with few different digits share long beginnings; some are beginnings of names that people gave."""
    known = {random.choice(["b", "m", "c"]) + "".join(random.choice(["0", "1"], 16)) for _ in range(300)}
    known |= {name[:9] for name in sorted(known)[:5]} | {"b" * 30, "night-2026-11-30", "night"}
    in_order = sorted(known)
    for name in in_order:
        short = shortened(name, in_order)
        assert len(short) >= min(8, len(name))
        assert meant(short, known, "batch") == name
        others = [other for other in known if other != name and other.startswith(short[:-1])]
        # No shorter one would be unique.
        assert len(short) == 8 or short == name or others


def test_a_beginning_of_several_names_them() -> None:
    with pytest.raises(UsageError, match=r"model 'm1' may be any of m1a, m1b\. Give more"):
        meant("m1", ["m1b", "m1a", "m2"], "model")
    assert meant("", [], "model") is meant("m3", ["m1"], "model") is None


def test_commands_accept_beginnings_and_json_holds_whole_ids(
    nelbo: Callable[..., tuple[int, str, str]], images: Path, workspace: Path, trained: tuple[Path, dict[str, Any]]
) -> None:
    at = ("--workspace", workspace, "--no-prefect")
    model, calibration = trained[1]["model_id"], trained[1]["calibration_id"]
    scoring = ("score", images / "new" / "b", "--model", model[:8], "--calibration", calibration[:2], *at)
    code, out, err = nelbo(*scoring, "--batch-id", "night-1", "--json")
    assert code == 0, err
    assert model in out
    assert calibration in out
    assert nelbo(*scoring, "--batch-id", "night-2")[0] == 0
    assert_refused(nelbo("report", "--batch", "night", *at), "batch 'night' may be any of night-1, night-2")
    code, out, _ = nelbo("report", "--batch", "night-2", "--model", model[:3], *at, "--json")
    assert (code, '"batch_id": "night-2"' in out, model in out) == (0, True, True)
    compared = ("calibrate", "--compare", "--batch", "night-1", "--model", model[:8], *at)
    assert f"model {model[:8]} compared" in nelbo(*compared)[1]
    code, out, _ = nelbo("calibrate", "--use", calibration[:8], *at, "--json")
    assert (code, f'"calibration_id": "{calibration}"' in out) == (0, True)
    for command in (("verify",), ("calibrations",), ("sensitivity", "--no-prefect")):
        code, out, err = nelbo(*command, "--workspace", workspace, "--model", model[:8])
        assert code == 0, err
        assert model[:8] in out
        assert model not in out
