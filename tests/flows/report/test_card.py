"""The model card and its curves."""

import copy
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from markdown_it import MarkdownIt

from nelbo.data import write_table
from nelbo.flows.report.card import (
    LIKELIHOODS,
    PRESETS,
    STATISTICS,
    escape_markdown,
    render_card,
    write_card,
)
from nelbo.flows.report.curves import Axis, render_curves
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace

SVG = "{http://www.w3.org/2000/svg}"
ATTACK = "# x | <script>alert(1)</script> `y`\n\n![z](http://w) **v** _u_ {{ 7 }} \u202e\ud800"
DESCRIPTION: dict[str, Any] = json.loads("""{
"model_id": "m0123456789abcdef",
"config": {
  "height": 64, "width": 48, "channels": 1, "preset": "conv_1x1x16", "likelihood": "gaussian_learned_sigma",
  "sigma": null, "statistic": "peak", "smoothing_px": 5, "noise_draws": 1
},
"preprocessing": {"height": 64, "width": 48, "channels": 1, "fit": "stretch", "binarize": null},
"training": {
  "source": "photos/good", "batch_id": "t0123456789abcdef", "n_train": 1294, "n_validation": 269,
  "n_calibration": 391, "n_listed": 1975, "n_unusable": 4, "train_config": {
    "epochs": 150, "patience": 20, "batch_size": 32, "learning_rate": 0.001, "learning_rate_schedule": "constant",
    "weight_decay": 0.0, "clip_norm": null, "beta": 1.0, "warmup_epochs": 7, "free_bits": 0.0, "latent_l2": 0.0,
    "denoising": 0.0, "flip": "both", "shift_px": 0, "devices": 1, "deterministic": false, "seed": 3
  },
  "warnings": ["Posterior collapse: the rate is 0.05 nats.", "Sigma is at its floor."],
  "n_epochs": 57, "best_epoch": 37, "seconds": 83.4, "backend": "tensorflow", "code_version": "0.1.0",
  "trained_at_utc": "2026-05-04T12:34:56Z", "seen": ["0123456789abcdef"]
}}""")
TRAIN_CONFIG = DESCRIPTION["training"]["train_config"]


def description(**training: Any) -> dict[str, Any]:
    """The usual description with other facts of the training."""
    changed = copy.deepcopy(DESCRIPTION)
    changed["training"] |= training
    return changed


def history(n: int = 57, best: int = 37, sigma: bool = True) -> pa.Table:
    """A history that falls from thousands of nats, and whose best validation epoch is `best`."""
    epochs = np.arange(1, n + 1)
    nelbo = 90_000 / epochs**2 - 3000.0 - epochs
    validation = 90_000 / epochs**2 - 2900 + 3.0 * np.abs(epochs - best)
    validation[best - 1] = -3100.0
    columns = {
        "nelbo": nelbo,
        "distortion": nelbo - 40,
        "rate": np.full(n, 40.0),
        "val_nelbo": validation,
        "learning_rate": np.full(n, 1e-3),
        "images_per_s": np.full(n, 1234.0),
    }
    if sigma:
        columns["sigma"] = np.full(n, 0.0625)
    return pa.table({"epoch": pa.array(epochs, pa.int32()), **columns})


def to_html(markdown: str) -> str:
    """The HTML that a strict Markdown renderer with tables makes."""
    return MarkdownIt("commonmark").enable("table").render(markdown)


def section(card: str, heading: str) -> str:
    return card.split(f"\n## {heading}\n")[1].split("\n## ")[0].strip()


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)  # noqa: S314 - our own text


def numbers(svg: str) -> list[float]:
    """Every coordinate that is drawn."""
    drawn = [node for node in parse(svg).iter() if node.tag != f"{SVG}svg"]
    names = ("points", "cx", "cy", "x", "y", "x1", "x2", "y1", "y2", "width", "height")
    return [float(text) for node in drawn for name in names for text in re.split(r"[ ,]", node.get(name, "")) if text]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace with the description and history of one model."""
    made = Workspace(tmp_path / "workspace").prepare()
    model_id = DESCRIPTION["model_id"]
    folder = made.models / model_id
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(DESCRIPTION), encoding="utf-8")
    table = history()
    write_table(table, made.history(model_id), table.schema)
    return made


def test_card_is_written_with_its_picture(workspace: Workspace) -> None:
    path = write_card(workspace, DESCRIPTION["model_id"])
    assert path == workspace.card(DESCRIPTION["model_id"])
    assert sorted(file.name for file in path.parent.iterdir()) == ["m0123456789abcdef.md", "m0123456789abcdef.svg"]
    assert not list(workspace.staging.iterdir())
    assert '<img src="m0123456789abcdef.svg"' in to_html(path.read_text(encoding="utf-8"))
    assert write_card(workspace, DESCRIPTION["model_id"]) == path


def test_the_card_agrees_with_the_files() -> None:
    card = render_card(description(), history())
    assert card.startswith("# Model card: m0123456789abcdef\n")
    data = section(card, "Data and split")
    assert all(text in data for text in ("1,975 files", "; 4 of them", "17 repeat", "1,294", "269", "391"))
    training = section(card, "Training")
    assert all(text in training for text in ("57 of at most 150", "83 s", "1,234 images a second", "of epoch 37"))
    assert all(text in card for text in ("2026-05-04 12:34 UTC", "nelbo 0.1.0", "tensorflow", "photos/good"))
    watch = section(card, "What to watch")
    assert watch == "- Posterior collapse: the rate is 0.05 nats.\n- Sigma is at its floor."
    # The gap: -3100 + 2971.26.
    assert "validation nelbo is 128.7 nats below the training nelbo" in section(card, "Curves")


def test_table_of_epochs_is_short_and_has_the_best() -> None:
    html = to_html(section(render_card(description(), history()), "Curves"))
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in html.split("<tr>")[2:]]
    assert [rows[0][0], rows[-1][0]] == ["1", "57"]
    assert len(rows) <= 12
    assert ["37 (best)", "−2,971.3", "−3,011.3", "40.0", "0.0625", "−3,100.0", "0.001"] in rows  # noqa: RUF001
    assert html.count("<th ") == 7
    assert "sigma" not in section(render_card(description(), history(sigma=False)), "Curves")


def test_settings_that_differ_come_with_their_default() -> None:
    html = to_html(section(render_card(description(), history()), "Training"))
    cells = re.findall(r"<td>(.*?)</td>", html)
    assert cells[:3] == ["warmup_epochs", "7", "0"]
    assert [cells[i] for i in range(0, len(cells), 4)] == ["warmup_epochs", "flip", "seed"]
    others = html.split("at their defaults:")[1]
    for name in TRAIN_CONFIG:
        assert (f" {name} " in others) != (f"<td>{name}</td>" in html), name
    usual = description(train_config={"epochs": 150, "beta": 1.0})
    assert "differ" not in render_card(usual, history())


def test_a_card_without_warnings_or_calibration_says_so() -> None:
    card = render_card(description(warnings=[], n_calibration=0, n_listed=1567), history())
    assert section(card, "What to watch") == "None."
    assert "too few images" in section(card, "Data and split")
    assert "repeat" not in card


def test_the_card_names_findings_in_the_data() -> None:
    findings = [
        {"name": "blur", "sentence": f"2 images of 80 are far less sharp: {ATTACK}", "n": 2, "files": [ATTACK]},
        {"name": "strange", "sentence": "Are these really normal?", "n": 2, "files": [ATTACK, "b.png"]},
    ]
    curve = {"n_images": [40, 80, 1160], "nats": [2, 1.5, 1.25], "next_gain": 0.125, "spread": 0.25, "improving": True}
    card = render_card(description(data=findings, curve=curve), history(), {"strangest": "m-strangest.png"})
    text = section(card, "The data")
    assert "<" not in card
    html = to_html(text)
    assert re.findall(r"<img[^>]*>", html) == ['<img src="m-strangest.png" alt="the strangest normal images" />']
    assert html.count("<li>") == 3
    assert "| 1,160 | 1.250 |" in text
    assert "twice as many images bring another 0.125" in text
    assert "would still gain from more images" in text
    quiet = render_card(description(data=findings[1:], curve=curve | {"improving": False}), history())
    assert "Nothing was found in size" in section(quiet, "The data")
    assert "has enough images, or nearly" in quiet
    # Models of versions that did not examine the data.
    assert "The data" not in render_card(description(), history())


def test_every_likelihood_preset_and_statistic_is_described() -> None:
    from nelbo.vae_core import config

    assert (set(LIKELIHOODS), set(PRESETS)) == (set(config.LIKELIHOODS), set(config.PRESETS))
    assert set(STATISTICS) == set(config.STATISTICS)


@pytest.mark.parametrize("name", sorted(LIKELIHOODS))
def test_card_explains_the_likelihood(name: str) -> None:
    changed = description()
    changed["config"] |= {"likelihood": name, "sigma": 0.1 if name == "gaussian_fixed_sigma" else None}
    text = section(render_card(changed, history()), "Network and likelihood")
    assert LIKELIHOODS[name] in text
    assert ("those of a probability" if name in ("bernoulli", "discretised_logistic") else "those of a density") in text
    assert ("sigma 0.1" in text) == (name == "gaussian_fixed_sigma")
    assert "cannot be compared" in text


def test_untrusted_text_stays_text() -> None:
    harmless = to_html(render_card(description(source="x", warnings=["x", "x"]), history()))
    train_config = {**TRAIN_CONFIG, "flip": ATTACK}
    card = render_card(description(source=ATTACK, warnings=[ATTACK, "1. x"], train_config=train_config), history())
    assert card.encode()
    assert "<" not in card
    html = to_html(card)
    # The same elements in the same order: only text has changed.
    assert re.findall(r"<[^>]*>", html) == re.findall(r"<[^>]*>", harmless)
    shown = "# x | &lt;script&gt;alert(1)&lt;/script&gt; `y` ![z](http://w) **v** _u_ {{ 7 }} \ufffd\ufffd"
    assert html.count(shown) == 3


HOSTILE = r"""
# a
- a
+ a
* a
1. a
12) a
> a
---
===
***
    a
<b>
<!-- a -->
[a]: b
[a](b)
a|b
&lt;
```
~~~
$a$
http://a.b
www.a.b
\\
_a_
a_b
__a__
:::a
é Ω
a.b-c/d
"""


@pytest.mark.parametrize("text", [*HOSTILE.strip("\n").split("\n"), "a\n===", "a\n\n# b", "a\u2028- b"])
def test_escaped_text_is_one_paragraph(text: str) -> None:
    from html import unescape

    html = to_html(escape_markdown(text))
    assert re.fullmatch(r"<p>[^<]*</p>\n", html)
    assert unescape(html)[3:-5] == " ".join(text.split())


def test_plain_text_stays_readable() -> None:
    text = "/data/solar-cells/v1.2 (left, 50 %): it's Prüfung 3; see 12:34"
    assert escape_markdown(text) == text


def test_curves_are_a_complete_picture() -> None:
    svg = render_curves(history())
    root = parse(svg)
    assert root.tag == f"{SVG}svg"
    assert len(root.findall(f".//{SVG}polyline")) == 2
    assert root.find(f"{SVG}title") is not None
    assert "epoch 37" in "".join(root.find(f"{SVG}desc").itertext())  # type: ignore[union-attr]
    assert {node.tag for node in root.iter()}.isdisjoint({f"{SVG}script", f"{SVG}image", f"{SVG}use", f"{SVG}a"})
    assert not re.search(r"href|url\((?!#)|@import|\son\w+=", svg)
    # The two lines differ in their dashes, not only in colour.
    assert "stroke-dasharray" in root.findtext(f"{SVG}style", "")
    assert "prefers-color-scheme: dark" in svg


def test_axis_shows_the_later_epochs_and_the_best() -> None:
    svg = render_curves(history())
    assert "cut off" in svg
    lines = parse(svg).findall(f".//{SVG}polyline")
    heights = [[float(point.split(",")[1]) for point in line.get("points", "").split()] for line in lines]
    for drawn in heights:
        assert drawn[0] < 0
        assert all(48 <= y <= 310 for y in drawn[len(drawn) // 4 :])
    # The later epochs fill the axis: they differ by some 200 nats, the first by 90,000.
    assert max(heights[1][20:]) - min(heights[1][20:]) > 100


@pytest.mark.parametrize("n", [1, 2, 3, 500])
def test_curves_of_any_length_are_drawn(n: int) -> None:
    svg = render_curves(history(n, best=n))
    assert np.isfinite(numbers(svg)).all()
    circles = parse(svg).findall(f".//{SVG}g/{SVG}circle")
    assert len(circles) == (2 * n if n <= 3 else 0)
    assert render_card(description(best_epoch=n, n_epochs=n), history(n, best=n))


@pytest.mark.parametrize("value", [0.0, -8000.0, 1e12, 1e-9])
def test_curves_of_equal_values_are_drawn(value: float) -> None:
    table = pa.table({"epoch": pa.array([1, 2], pa.int32()), "nelbo": [value] * 2, "val_nelbo": [value] * 2})
    svg = render_curves(table)
    assert np.isfinite(numbers(svg)).all()
    assert "nan" not in svg.lower()
    assert "cut off" not in svg


def test_curves_without_values_are_drawn() -> None:
    table = pa.table({"epoch": pa.array([1, 2], pa.int32()), "nelbo": [float("nan"), 3.0], "rate": [1.0, 1.0]})
    svg = render_curves(table)
    assert "nan" not in svg.lower()
    assert len(parse(svg).findall(f".//{SVG}polyline")) == 1
    assert parse(render_curves(table.select(["epoch"]))) is not None


@pytest.mark.parametrize(
    ("low", "high", "n", "texts"),
    [
        (0, 10, 5, "0 2 4 6 8 10"),
        (-0.3, 0.31, 5, "−0.2 0.0 0.2"),  # noqa: RUF001
        (1234, 5678, 5, "2,000 3,000 4,000 5,000"),
        (-1, 1, 5, "−1.0 −0.5 0.0 0.5 1.0"),  # noqa: RUF001
        # Epochs are whole.
        (1, 3, 8, "1 2 3"),
    ],
)
def test_ticks_are_round(low: float, high: float, n: int, texts: str) -> None:
    assert [text for _, text in Axis(low, high, 0, 100).ticks(n, least=int(n == 8))] == texts.split()


def test_a_model_without_the_needed_facts_gets_no_card(workspace: Workspace) -> None:
    path = workspace.models / DESCRIPTION["model_id"] / "model.json"
    for text in ("{", json.dumps({**DESCRIPTION, "training": {"n_train": 3}}), json.dumps(description(best_epoch=99))):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match="what a card needs"):
            write_card(workspace, DESCRIPTION["model_id"])
    assert not workspace.card(DESCRIPTION["model_id"]).parent.exists()
