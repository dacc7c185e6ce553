"""Models exported for engines: the scores are the same, checked when an engine is made, read and used."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from faults import with_zeros
from PIL import Image
from safetensors.numpy import load_file
from synthetic import stripes

import nelbo.vae_core.engines.exported
import nelbo.vae_core.engines.exporting
import nelbo.vae_core.engines.speed
import nelbo.vae_core.features.pretext
from nelbo.vae_core import (
    BundleError,
    EngineError,
    Exported,
    Model,
    TrainConfig,
    VAEConfig,
    difference,
    export,
    exported_files,
    load_exported,
    save_exported,
    score,
    train,
)
from nelbo.vae_core.checksums import write_files
from nelbo.vae_core.config import LIKELIHOODS, PRESETS
from nelbo.vae_core.engines.difference import NUMBERS
from nelbo.vae_core.engines.exported import score_all
from nelbo.vae_core.model import draw_eps, usual_of
from nelbo.vae_core.network.vae import VAE
from nelbo.vae_core.scoring import JOINT, SEEN

needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="engines are made through TensorFlow; a bundle is the same for all"
)
ENGINES = ("openvino", "onnx")
SIDE = 64


@pytest.fixture(scope="module", autouse=True)
def no_stopwatch() -> Iterator[None]:
    """Time a single run, which is enough to test that speeds are recorded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nelbo.vae_core.engines.speed, "_ROUNDS", 1)
        yield


@pytest.fixture(scope="module")
def exported(model: Model) -> dict[str, Exported]:
    pixels = stripes(np.random.default_rng(5), 9)
    return {engine: export(model, engine, pixels, model_id="m1") for engine in ENGINES}


@pytest.fixture(scope="module")
def model_of_features() -> Model:
    """A small model of features, which has the parts of ``joint``."""
    random = np.random.default_rng(2)
    config = VAEConfig(height=SIDE, width=SIDE, preset="features", backbone="filters")
    return train(large_stripes(random, 32), large_stripes(random, 12), config).model


def large_stripes(random: np.random.Generator, n: int) -> np.ndarray:
    """(n, 64, 64, 1) stripes, large enough for a model of features."""
    return np.tile(stripes(random, n), (1, 3, 4, 1))[:, :SIDE, :SIDE]


@pytest.fixture(scope="module")
def exported_of_features(model_of_features: Model) -> dict[str, Exported]:
    pixels = large_stripes(np.random.default_rng(5), 9)
    return {engine: export(model_of_features, engine, pixels, model_id="m1") for engine in ENGINES}


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "likelihood", "head", "backbone"),
    # The first preset with its default likelihood is `model`.
    [(preset, "auto", None, None) for preset in PRESETS[1:]]
    + [("conv_1x1x16", likelihood, None, None) for likelihood in LIKELIHOODS if likelihood != "gaussian_learned_sigma"]
    + [("features", "auto", "linear_image", "filters"), ("features", "auto", "deep", "self_trained")],
)
def test_scores_of_solar_cells_are_the_same(
    preset: str, likelihood: str, head: str | None, backbone: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Holds for every preset and likelihood on every engine, with all maps."""
    pytest.importorskip("elpv_dataset", reason="needs real images: pip install 'nelbo[demo]'")
    paths = sorted((Path(str(files("elpv_dataset"))) / "data" / "images").glob("*.png"))[:70]
    side = SIDE if preset == "features" else 32
    pixels = np.stack([np.asarray(Image.open(path).convert("L").resize((side, side))) for path in paths])[..., None]
    pixels = (pixels / np.float32(255)).astype(np.float32)
    if likelihood == "bernoulli":
        pixels = (pixels > 0.5).astype(np.float32)
    sigma = 0.1 if likelihood == "gaussian_fixed_sigma" else None
    network = {"preset": preset, "likelihood": likelihood, "head": head, "backbone": backbone}
    config = VAEConfig(height=side, width=side, sigma=sigma, noise_draws=2, **network)  # type: ignore[arg-type]
    keras.utils.set_random_seed(3)
    if preset == "features":
        monkeypatch.setattr(nelbo.vae_core.features.pretext, "STEPS_AN_EPOCH", 4)
        settings = TrainConfig(epochs=1, pretext_steps=4)
        model = train(pixels[:40], pixels[40:60], config, settings).model
    else:
        network, eps = VAE(config), draw_eps(config, 1)
        usual = usual_of(network, eps, pixels[:20])
        model = Model(config, network, eps, usual.mean, usual.std, {})
    expected = score_all(model, pixels)
    for engine in ENGINES:
        made = export(model, engine, pixels[:8], model_id="m1")
        found = score_all(made, pixels)
        # A third of the tolerance, in every number and map; whitening enlarges rounding errors.
        assert difference(found, expected, made.subtracted) < (5e-6 if preset == "features" else 3e-6), engine
        np.testing.assert_allclose(found.peak, expected.peak, rtol=1e-4, atol=1e-4)
        rtol = 1e-4 if preset == "features" else 1e-5
        np.testing.assert_allclose(found.z_mean_norm, expected.z_mean_norm, rtol=rtol)
        largest = np.abs(expected.local_nelbo).max()
        np.testing.assert_allclose(found.local_nelbo, expected.local_nelbo, rtol=1e-3, atol=1e-4 * largest)


@needs_tensorflow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_stored_engine_scores_the_same_to_the_bit_in_any_batch(
    engine: str, exported: dict[str, Exported], model: Model, tmp_path: Path, random: np.random.Generator
) -> None:
    save_exported(exported[engine], tmp_path / engine)
    assert {file.name for file in (tmp_path / engine).iterdir()} == set(exported_files(engine))
    read = load_exported(tmp_path / engine)
    arrays: dict[str, Any] = {"files": {}, "pixels": None, "expected": None, "map_scales": None, "detail": None}
    assert replace(read, **arrays) == replace(exported[engine], **arrays)
    np.testing.assert_array_equal(read.map_scales, model.map_scales)
    np.testing.assert_array_equal(read.pixels, exported[engine].pixels)
    pixels = stripes(random, 2 * read.batch_size + 7)
    whole = score(read, pixels, maps=False)
    assert difference(whole, score(model, pixels, maps=False), read.subtracted) < 1e-5
    alone = score(read, pixels[-1:], maps=False)
    again = score(exported[engine], pixels[::-1], maps=False)
    for name in (
        "anomaly_score",
        "nelbo",
        "distortion",
        "rate",
        "z_mean_norm",
        "z_log_var_sum",
        "worst_pixels",
        "peak",
    ):
        assert getattr(alone, name)[0] == getattr(whole, name)[-1]
        np.testing.assert_array_equal(getattr(again, name)[::-1], getattr(whole, name))
    # Only Keras gives arrays of pixels.
    with_maps = score(read, pixels[:2])
    assert (with_maps.anomaly_map, with_maps.reconstruction) == (None, None)
    np.testing.assert_allclose(with_maps.local_nelbo, score(model, pixels[:2]).local_nelbo, rtol=1e-3, atol=1e-3)
    assert score(read, pixels[:0]).nelbo.shape == (0,)
    with pytest.raises(ValueError, match="noise built in"):
        score(read, pixels, eps=model.eps)
    with pytest.raises(ValueError, match="outside"):
        score(read, pixels + 1)


def test_a_score_is_the_same_at_each_place_of_a_batch(random: np.random.Generator) -> None:
    """Rows of 102 numbers are not aligned in memory, so ONNX Runtime could add each up in another order."""
    config = VAEConfig(height=32, width=32)
    network, eps = VAE(config), draw_eps(config, 1)
    usual = usual_of(network, eps, random.random((9, 32, 32, 1), np.float32))
    pixels = np.repeat(random.random((1, 32, 32, 1), np.float32), 9, axis=0)
    made = export(Model(config, network, eps, usual.mean, usual.std, {}), "onnx", pixels[:1], model_id="m1")
    found = score(made, pixels, maps=False)
    for name in found._fields:
        values = getattr(found, name)
        assert values is None or np.ptp(values) == 0, name


@pytest.fixture(scope="module")
def of_keras(model: Model) -> Exported:
    pixels = np.rint(stripes(np.random.default_rng(5), 9) * 255).astype(np.uint8) / np.float32(255)
    return export(model, "keras", pixels, model_id="m1")


@pytest.fixture
def folder(of_keras: Exported, tmp_path: Path) -> Path:
    """The folder of an engine that every backend makes."""
    save_exported(of_keras, tmp_path / "keras")
    return tmp_path / "keras"


def test_keras_has_references_too(of_keras: Exported, folder: Path, model: Model) -> None:
    read = load_exported(folder)
    # Images of 8 bits are stored as 8 bits.
    assert load_file(folder / "references.safetensors")["pixels"].dtype == np.uint8
    np.testing.assert_array_equal(read.pixels, of_keras.pixels)
    read.check(model)
    with pytest.raises(ValueError, match="no graph of its own"):
        read.graph(maps=False)


def test_an_engine_with_other_scores_is_refused_with_versions_and_difference(of_keras: Exported, model: Model) -> None:
    made = of_keras
    off = replace(made, made_with="3.0.0", expected=made.expected._replace(nelbo=made.expected.nelbo * 1.01))
    message = r"engine keras 3\.\d+\.\d+ scores the 9 reference images of model m1 .* version 3\.0\.0"
    with pytest.raises(EngineError, match=message):
        off.check(model)
    with pytest.raises(EngineError, match="nan off"):
        replace(made, expected=made.expected._replace(rate=made.expected.rate * np.nan)).check(model)
    peak = replace(made, expected=made.expected._replace(peak=made.expected.peak + 1))
    with pytest.raises(EngineError, match="relative to the scale of peak"):
        peak.check(model)
    # An engine that cannot keep the tolerance is not made.
    with pytest.raises(EngineError, match="off, relative to"):
        export(model, "keras", made.pixels, model_id="m1", tolerance=-1.0)


@needs_tensorflow
@pytest.mark.parametrize(
    ("engine", "output"),
    [
        *(("openvino", name) for name in (*NUMBERS, *JOINT, "local_nelbo")),
        # The file is the engine's own; the check is the same for both engines.
        *(("onnx", name) for name in ("anomaly_score", "nelbo", "peak_z", "local_nelbo")),
    ],
)
def test_an_output_that_is_always_zero_is_refused_when_made_and_when_read(
    engine: str, output: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").mkdir()
    of = "_of_features" if output in JOINT else ""
    made, model = request.getfixturevalue(f"exported{of}")[engine], request.getfixturevalue(f"model{of}")
    output_of_graph = f"{SEEN}0" if output == "local_nelbo" else output
    tampered = with_zeros(engine, made.files, output_of_graph, tmp_path / "scratch")
    save_exported(replace(made, files=tampered), tmp_path / engine)
    read = load_exported(tmp_path / engine)
    with pytest.raises(EngineError, match=f"says the same of all 9 reference images, or no number, in .*{output}"):
        read.check(read)
    monkeypatch.setattr(nelbo.vae_core.engines.exporting, "_compile", lambda *_: tampered)
    # Even with the largest tolerance.
    with pytest.raises(EngineError, match=f"says the same of all 9 .*{output}"):
        export(model, engine, made.pixels, model_id="m1", tolerance=0.01)


@needs_tensorflow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_graph_that_cannot_be_compiled_is_an_error_of_the_engine(
    engine: str, exported: dict[str, Exported], tmp_path: Path
) -> None:
    """Each library raises an error of its own, but callers see only EngineError."""
    made = exported[engine]
    name = "scores.xml" if engine == "openvino" else "scores.onnx"
    save_exported(replace(made, files={**made.files, name: b"<net/>"}), tmp_path / engine)
    read = load_exported(tmp_path / engine)
    with pytest.raises(EngineError, match=rf"engine {engine} .* cannot compute the scores .*Make it again with"):
        read.check(read)


@needs_tensorflow
def test_a_graph_that_fails_when_it_runs_is_an_error_of_the_engine(exported: dict[str, Exported]) -> None:
    class Failing:
        batch_size, parallel = 4, 1

        def run(self, _: Any) -> dict[str, Any]:
            raise RuntimeError("no memory\nat line 7")

    guarded = nelbo.vae_core.engines.exported._Guarded(Failing(), exported["onnx"]._failed)
    with pytest.raises(EngineError, match=r"\(no memory\)"):
        guarded.run(np.zeros((4, 24, 20, 1), np.float32))


def test_an_engine_whose_facts_were_changed_is_refused(folder: Path) -> None:
    """Matching checksums are no proof, because whoever edits a file can also edit its checksum."""
    with pytest.raises(BundleError, match=r"contents are those of engine e[0-9a-f]{16}, and engine.json says e"):
        load_exported(rewrite(folder, model_id="m2"))


def rewrite(folder: Path, **changes: Any) -> Path:
    """The same engine with other facts and matching checksums, as an attacker or another version would write it."""
    names = {path.name for path in folder.iterdir()} - {"checksums.json", "engine.json"}
    description = json.loads((folder / "engine.json").read_text()) | changes
    content = {name: (folder / name).read_bytes() for name in names}
    write_files(content | {"engine.json": json.dumps(description).encode()}, folder.parent / "rewritten" / folder.name)
    return folder.parent / "rewritten" / folder.name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 99}, "another version of nelbo"),
        ({"format_version": 2}, "another version of nelbo. Make it again"),
        ({"engine": "torchscript"}, "not an engine"),
        ({"config": {"height": 5}}, "not an engine"),
        ({"config": 7}, "not an engine"),
        ({"batch_size": 1 << 40}, "batch_size=1099511627776: expected 1 to 65536"),
        ({"tolerance": 1e9}, "expected at most 0.01"),
        ({"tolerance": "none"}, "not an engine"),
        ({"images_per_s": {"keras": 0}}, "expected a positive number"),
        ({"images_per_s": {}}, "not an engine"),
    ],
)
def test_a_bad_description_of_an_engine_is_refused(changes: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(BundleError, match=message):
        load_exported(rewrite(folder, **changes))


def test_a_damaged_or_incomplete_engine_is_refused(folder: Path) -> None:
    content = (folder / "references.safetensors").read_bytes()
    (folder / "references.safetensors").write_bytes(content[:-1] + b"!")
    with pytest.raises(BundleError, match=r"references.safetensors has SHA-256 .* the engine is damaged"):
        load_exported(folder)
    (folder / "references.safetensors").unlink()
    with pytest.raises(BundleError, match="not a whole engine"):
        load_exported(folder)


def test_an_engine_whose_package_is_missing_is_refused(
    of_keras: Exported, folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = of_keras.pixels
    monkeypatch.setattr("nelbo.vae_core.engines.folder.is_installed", lambda _: False)
    monkeypatch.setattr("nelbo.vae_core.engines.exporting.is_installed", lambda _: False)
    with pytest.raises(EngineError, match=r"needs keras, which is not installed"):
        load_exported(folder)
    with pytest.raises(EngineError, match="expected one of keras, openvino, onnx"):
        export(model, "tensorrt", pixels, model_id="m1")
    message = r"pip install 'nelbo\[onnx\]'" if keras.backend.backend() == "tensorflow" else "KERAS_BACKEND"
    with pytest.raises(EngineError, match=message):
        export(model, "onnx", pixels, model_id="m1")


def test_an_export_without_reference_images_is_refused(model: Model) -> None:
    with pytest.raises(ValueError, match="at least one reference image"):
        export(model, "keras", np.empty((0, 24, 20, 1), np.float32), model_id="m1")


@pytest.mark.parametrize(
    ("speeds", "size"),
    [
        ({256: 100, 512: 150, 1024: 151}, 512),
        ({256: 100, 512: 104}, 256),
        ({256: 100, 512: 200, 1024: MemoryError("RESOURCE_EXHAUSTED: out of memory")}, 512),
    ],
)
def test_on_an_accelerator_the_batch_doubles_while_that_is_faster(
    speeds: dict[int, Any], size: int, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def images_per_s(engines: Any, _pixels: Any) -> dict[str, float]:
        found = speeds[engines["keras"].batch_size or 256]
        if isinstance(found, Exception):
            raise found
        return {"keras": float(found)}

    monkeypatch.setattr(nelbo.vae_core.engines.exporting, "has_accelerator", lambda: True)
    monkeypatch.setattr(nelbo.vae_core.engines.exporting, "images_per_s", images_per_s)
    made = export(model, "keras", stripes(np.random.default_rng(5), 2), model_id="m1")
    assert made.batch_size == size


def test_loading_needs_no_keras() -> None:
    import subprocess

    code = "import sys; from nelbo.vae_core import VAEConfig, load_exported, score, verify_bundle; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "nelbo.vae_core.engines.exported" in loaded
    assert not {"keras", "tensorflow", "jax", "openvino", "onnxruntime"} & set(loaded)


_TWO_AT_ONCE = """
import sys
from pathlib import Path
from threading import Barrier, Thread
import numpy as np
from nelbo.vae_core import load_exported
exported = load_exported(Path(sys.argv[1]))
graph = exported.graph(False)
pixels = np.zeros((graph.batch_size, exported.config.height, exported.config.width, 1), np.float32)
barrier = Barrier(2)
threads = [Thread(target=lambda: (barrier.wait(), graph.run(pixels)), daemon=True) for _ in range(2)]
for one in threads:
    one.start()
for one in threads:
    one.join(60)
print(sum(one.is_alive() for one in threads), flush=True)
"""


@needs_tensorflow
@pytest.mark.slow
def test_the_first_two_batches_at_once_do_not_block_each_other(exported: dict[str, Exported], tmp_path: Path) -> None:
    """Two threads may make OpenVINO's first call, which sets it up; without a guard one process in four hung."""
    import subprocess

    save_exported(exported["openvino"], tmp_path / "openvino")
    command = [sys.executable, "-c", _TWO_AT_ONCE, str(tmp_path / "openvino")]
    # Four times two processes at a time.
    for _ in range(4):
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        assert [one.communicate(timeout=120)[0].split() for one in both] == [["0"], ["0"]]
