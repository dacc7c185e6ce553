"""The notebooks run from top to bottom, and their stored outputs are what they print."""

from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="reads notebooks: pip install 'nelbo[test]'")

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.ipynb"))


def said(notebook: Any) -> list[str]:
    """The outputs of the cells, without warnings and pictures."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    texts = [output.get("text") or output["data"]["text/plain"] for output in outputs if output.get("name") != "stderr"]
    return [text for text in texts if not text.startswith("<PIL.")]


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_notebooks_run(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    kept = nbformat.read(example, as_version=4)
    run = nbformat.from_dict(kept)
    for cell in run.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    client.NotebookClient(run, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert said(run) == said(kept) != []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_notebooks_are_stored_with_their_outputs(example: Path) -> None:
    notebook = nbformat.read(example, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    assert not [output for output in outputs if output.output_type == "error"]
    assert example.stat().st_size < 350_000
