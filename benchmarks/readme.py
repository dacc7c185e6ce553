"""The figures and the picture of README.md, from the demo's solar cells: ``make readme``.

    python -m benchmarks.readme [--check]

runs ``nelbo demo`` in an empty workspace, writes its figures between the marks in README.md, rounded so that they are
the same on every machine, and draws the picture. With ``--check`` it writes nothing, and fails if figures differ.
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

import nelbo
from nelbo.flows.cli.demo import run_demo
from nelbo.flows.options.options import DemoOptions
from nelbo.flows.report.pictures import LOOKED_AT, pictures
from nelbo.flows.report.sheet import sheet
from nelbo.flows.workspace.layout import Workspace

ROOT = Path(__file__).parents[1]
README, PICTURE = ROOT / "README.md", ROOT / "docs" / "images" / "defects.png"
#: Number of pictures, and their side and gap in pixels.
_N_SHOWN, _SIDE_PX, _GAP_PX = 6, 220, 8
_FIGURES = re.compile(r"(?<=<!-- figures -->\n).*?(?=\n<!-- /figures -->)", re.DOTALL)


def figures(answer: dict[str, Any]) -> str:
    """What the demo found, in a sentence.

    Shares are rounded to twentieths and the AUROC to hundredths: on processors that add in another order single cells
    cross the threshold.
    """
    judged = answer["score"]["judged"]
    found, alarms = (round(20 * judged[name]["value"]) * 5 for name in ("recall", "realised_fpr"))
    return (
        f"It aims at a false-alarm rate of 5 %, flags about {found} % of the defective cells, of which it has seen\n"
        f"none before, and less than {alarms + 5} % of the normal ones; AUROC {judged['auroc']['value']:.2f}."
    )


def picture(batch: nelbo.Batch) -> Image.Image:
    """Flagged cells with outlines, evenly chosen from the most unusual to the least, not the best ones."""
    flagged = batch.flagged
    rows = flagged.iloc[[round(i * (len(flagged) - 1) / (_N_SHOWN - 1)) for i in range(_N_SHOWN)]]
    shown = [pictures(row).outlined for row in rows[list(LOOKED_AT)].to_dict("records")]
    return sheet([ImageOps.pad(one, (_SIDE_PX, _SIDE_PX)) for one in shown if one], _GAP_PX, "white")


def main() -> None:
    """Run the demo, and write or compare its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nelbo-") as folder:
        answer = run_demo(DemoOptions(workspace=folder, prefect=False))
        text = README.read_text(encoding="utf-8")
        written = _FIGURES.sub(lambda _: figures(answer), text)
        if given.check:
            sys.exit(0 if written == text else "README.md has other figures. Run: make readme")
        README.write_text(written, encoding="utf-8")
        made = answer["score"]
        batch = nelbo.Batch(made["batch_id"], made["model_id"], Workspace.at(folder))
        picture(batch).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
