"""The documents agree with the code."""

import doctest
import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from nelbo.data import (
    CALIBRATION_SCHEMA,
    EVALUATION_SCHEMA,
    FLAGGED_SCHEMA,
    LOOKS_SCHEMA,
    MANIFEST_SCHEMA,
    MAP_PEAK,
    NORMALS_SCHEMA,
    REGIONS_SCHEMA,
    REVIEWS_SCHEMA,
    RUNS_SCHEMA,
    SCORES_SCHEMA,
)
from nelbo.data.schemas import DECISIONS, MEASURES, REASONS, VERDICTS
from nelbo.flows.report.pictures import LOOKED_AT

ROOT = Path(__file__).parent.parent
CONTRACT = (ROOT / "docs" / "reference" / "data_contract.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    section = CONTRACT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = section.strip().split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row.startswith("| `")]


def declared(schema: pa.Schema) -> list[tuple[str, str]]:
    names = {pa.float64(): "float64", pa.string(): "string", SCORES_SCHEMA.field("verdict").type: "string dictionary"}
    return [(field.name, names.get(field.type, str(field.type).replace("tz=", ""))) for field in schema]


@pytest.mark.parametrize(
    ("heading", "schema"),
    [("scores", SCORES_SCHEMA), ("manifests", MANIFEST_SCHEMA), ("reviews", REVIEWS_SCHEMA), ("runs", RUNS_SCHEMA)],
)
def test_contract_gives_type_nulls_and_meaning_of_every_column(heading: str, schema: pa.Schema) -> None:
    rows = table(heading)
    assert [(name.strip("`"), kind) for name, kind, *_ in rows] == declared(schema)
    assert all(len(row) == 5 and row[3] and row[4] for row in rows)


def test_contract_covers_flagged_and_calibrations() -> None:
    assert FLAGGED_SCHEMA.names == [*SCORES_SCHEMA.names, *LOOKED_AT]
    assert all(f"`{name}`" in CONTRACT for name in LOOKED_AT)
    names = [name.strip("`") for name, *_ in table("calibration scores")]
    assert [*names, *MEASURES, MAP_PEAK] == CALIBRATION_SCHEMA.names


@pytest.mark.parametrize(
    ("heading", "schema"), [("looks", LOOKS_SCHEMA), ("normals", NORMALS_SCHEMA), ("regions", REGIONS_SCHEMA)]
)
def test_contract_covers_what_is_kept_of_images(heading: str, schema: pa.Schema) -> None:
    assert [name for cells in table(heading) for name in re.findall(r"`(\w+)`", cells[0])] == schema.names


def test_contract_covers_evaluations() -> None:
    from nelbo.flows.evaluation.by_kind import MEASURES as OF_DEFECTS

    rows = table("evaluations")
    assert [name for cells in rows for name in re.findall(r"`(\w+)`", cells[0])] == EVALUATION_SCHEMA.names
    assert re.findall(r"`(\w+)`", rows[1][3]) == list(OF_DEFECTS)
    assert re.findall(r"`(\w+)`", rows[-1][3]) == list(dict.fromkeys(how for _, how in OF_DEFECTS.values()))


def test_contract_covers_ledgers(tmp_path: Path) -> None:
    from nelbo.flows.options.options import ScoreOptions
    from nelbo.flows.steps.ingest import manifest_metadata
    from nelbo.flows.steps.land import UNFINISHED
    from nelbo.flows.workspace.layout import Workspace
    from nelbo.flows.workspace.runs import Run

    section = CONTRACT.split("\n## landing\n")[1].split("\n## ")[0]
    keys = re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE)
    run = Run("score", ScoreOptions(images="in"))
    assert sorted([*keys, *run.metadata]) == sorted([*manifest_metadata("/in", run, 0, 0), UNFINISHED])
    digits = hashlib.sha256(b"/in").hexdigest()[:16]
    assert Workspace(tmp_path).ledger("/in") == tmp_path / "landing" / f"l{digits}.parquet"


def test_contract_lists_every_reason_and_verdict() -> None:
    for word in (*REASONS, *VERDICTS, *DECISIONS):
        assert f"`{word}`" in CONTRACT


def test_examples_of_the_contract_run(
    trained: tuple[Path, dict[str, Any]], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nelbo.flows.options.options import ScoreOptions
    from nelbo.flows.orchestration.execution import execute

    workspace = shutil.copytree(trained[0], tmp_path / "workspace")
    execute("score", ScoreOptions(images=str(images / "new"), workspace=str(workspace)), prefect=False)
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", CONTRACT, re.DOTALL)
    found = {}
    for example in examples:
        scope: dict[str, Any] = {}
        exec(example, scope)  # noqa: S102 - our own document
        found[re.search(r"(?:import|from) ([.\w]+)", example)[1]] = scope.get("scores", scope.get("table"))  # type: ignore[index]
    assert set(found) == {"pandas", "duckdb", "polars", "nelbo.data"}
    n_anomalous = (found["pandas"]["verdict"] == "anomalous").sum()
    (charts,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "how-to" / "bi.md").read_text(), re.DOTALL)
    exec(charts, {})  # noqa: S102 - our own document
    assert pd.read_csv("days.csv")[["n_images", "n_anomalous"]].sum().tolist() == [28, n_anomalous]
    assert len(pd.read_parquet("flagged.parquet")) == n_anomalous
    assert len(found["pandas"]) == len(found["nelbo.data"]) == found["polars"]["n"].sum() == 28
    assert len(found["duckdb"]) == found["polars"]["n_anomalous"].sum() == n_anomalous > 0


def test_the_worked_score_of_the_documents_is_right() -> None:
    page = ROOT / "docs" / "explanation" / "elbo.md"
    failed, tried = doctest.testfile(str(page), module_relative=False)
    assert failed == 0
    assert tried >= 6


def test_the_page_of_errors_quotes_real_messages() -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    said = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(said) > 20
    # A message may continue on the next line of a program.
    programs = [
        re.sub(r'"\s+f?"', "", file.read_text(encoding="utf-8"))
        for folder in ("data", "detectors", "flows", "vae_core")
        for file in (ROOT / folder).rglob("*.py")
    ]
    for message in said:
        pattern = re.compile("[^\n]*?".join(re.escape(part) for part in message.split("…")))
        assert any(pattern.search(program) for program in programs), message


def test_readme_is_short_and_names_the_licence() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) < 150
    for text in ("make demo", "make test", "Apache-2.0", "CC BY-NC-SA"):
        assert text in readme
    for page in re.findall(r"\]\((docs/[\w./]+)\)", readme):
        assert (ROOT / page).exists(), page


def test_pins_name_no_host_and_no_path() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"#.*|[\w.\[\]-]+==[\w.+!]+", line) for line in pins)
