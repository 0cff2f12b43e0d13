"""Sizes of two sides, from the spec to the report: a spectrogram, and a series of height 1."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kclr
from kclr.cli import main
from kclr.export import write_onnx
from kclr.initializers import ContrastiveKernel
from kclr.pooling import Pooling, pool_maps
from kclr.probing.probe import probe_run
from kclr.spec import parse_spec

SPECTROGRAM = """
stack:
  - block: {filters: 6, kernel_size: [3, 5], pool_size: [1, 2], whitening: zca}
    patches: {patch_size: [4, 8], crop_size: [6, 12], stride: [1, 2]}
    objective: ntxent
    train: {steps: 6, batch_size: 16, log_every: 3}
  - block: {filters: 4, kernel_size: [2, 3], strides: [1, 2], contrast: patch}
    patches: {patch_size: [4, 8], max_shift: [1, 3]}
    embedding: {pool: grid, grid_size: [1, 2]}
    train: {steps: 4, batch_size: 16, log_every: 2}
export: {all_layers: true, grid_size: [2, [1, 3]], litert: true, litert_size: [20, 40]}
"""

SERIES = """
stack:
  - block: {filters: 6, kernel_size: [1, 9], pool_size: [1, 2]}
    patches: {patch_size: [1, 16], max_shift: [0, 8]}
    train: {steps: 4, batch_size: 16}
  - {block: {filters: 4, kernel_size: [1, 3], pool_size: [1, 2]}, learner: kmeans}
"""


@pytest.fixture(scope="module")
def wide(photographs):
    """Pictures that are twice as wide as high, uint8 (pictures, 20, 40, 3)."""
    return np.concatenate([photographs[:40, :20], photographs[40:80, :20, :8]], axis=2)


def trained(text, images, out):
    with pytest.MonkeyPatch.context() as context:
        context.chdir(out.parent)
        for number, image in enumerate(images):
            place = out.parent / "pictures"
            place.mkdir(exist_ok=True)
            Image.fromarray(image).save(place / f"{number:02d}.png")
        (out.parent / "spec.yaml").write_text(f"data: folder:pictures{text}")
        assert main(["train", "spec.yaml", "--out", str(out)]) == 0
    return kclr.load_run(out)


@pytest.fixture(scope="module")
def spectrogram(wide, tmp_path_factory):
    return trained(SPECTROGRAM, wide, tmp_path_factory.mktemp("spectrogram") / "run")


@pytest.fixture(scope="module")
def series(wide, tmp_path_factory):
    rows = wide[:, ::4].reshape(-1, 1, 40, 3)
    return trained(SERIES, rows, tmp_path_factory.mktemp("series") / "run")


@pytest.fixture
def model(spectrogram):
    return keras.models.load_model(spectrogram.path / "model.keras")


def test_kernels_have_the_sides_of_the_spec_and_the_run_is_whole(spectrogram):
    assert [layer.kernel.shape for layer in spectrogram.layers] == [(3, 5, 3, 6), (2, 3, 6, 4)]
    assert spectrogram.layers[0].block["kernel_size"] == [3, 5]
    assert spectrogram.layers[1].block["pool_size"] == 2
    assert spectrogram.spec() == parse_spec(spectrogram.text("resolved.yaml"))
    assert main(["verify", str(spectrogram.path)]) == 0


@pytest.mark.full
def test_a_second_layer_that_is_lost_is_trained_again_to_the_same_kernel(spectrogram, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(spectrogram.path, copy)
    (lost,) = copy.glob("layers/02-*")
    shutil.rmtree(lost)
    with pytest.MonkeyPatch.context() as context:
        context.chdir(spectrogram.path.parent)
        assert main(["train", "spec.yaml", "--out", str(copy), "--resume"]) == 0
    for layer, own in zip(spectrogram.layers, kclr.load_run(copy).layers, strict=True):
        np.testing.assert_array_equal(layer.kernel, own.kernel)
        assert layer.facts["key"] == own.facts["key"]


def test_every_export_gives_the_numbers_of_the_keras_file(spectrogram, model, wide):
    images = (wide[:3] / 255).astype(np.float32)
    maps = model(images).numpy()
    assert maps.shape == (3, 8, 4, 4)
    saved = tf.saved_model.load(spectrogram.path / "saved_model")
    np.testing.assert_allclose(saved.features(wide[:3]), maps, atol=1e-5)
    embedded = saved.embed(wide[:3]).numpy()
    assert embedded.shape == (3, 2 * 2 * 6 + 1 * 3 * 4)
    litert = tf.lite.Interpreter(str(spectrogram.path / "model.tflite"))
    assert litert.get_input_details()[0]["shape"].tolist() == [1, 20, 40, 3]


def test_onnx_gives_the_numbers_of_the_keras_file(model, wide, tmp_path):
    pytest.importorskip("onnx.checker")
    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    pooling = Pooling([2, (1, 3)], all_layers=True)
    write_onnx(model, tmp_path / "model.onnx", pooling)
    images = (wide[:3] / 255).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    maps, vectors = session.run(["features", "embeddings"], {"image": images})
    expected = model(images).numpy()
    np.testing.assert_allclose(maps, expected, atol=1e-3)  # flat windows of normalised contrast
    np.testing.assert_allclose(vectors[:, 24:], pool_maps(maps, "grid", (1, 3)), atol=1e-5)


def test_a_convolution_of_other_sides_starts_from_the_kernel(spectrogram, wide):
    kernel = spectrogram.layers[0].kernel
    same = keras.layers.Conv2D(6, (3, 5), kernel_initializer=ContrastiveKernel(spectrogram))
    same.build((None, None, None, 3))
    np.testing.assert_array_equal(same.kernel, kernel)
    wider = ContrastiveKernel(spectrogram)((3, 10, 3, 6)).numpy()
    patches = wide[:5, :3, :5].astype(np.float32) / 255
    enlarged = tf.image.resize(patches, (3, 10)).numpy()
    before, after = (
        np.einsum("nhwc,hwcf->nf", *each) for each in ((patches, kernel), (enlarged, wider))
    )
    np.testing.assert_allclose(after, before, atol=1e-3 * np.abs(before).max())


def test_pictures_and_report_show_both_sides(spectrogram, tmp_path, capsys):
    for layer in spectrogram.layers:
        assert (layer.directory / "filters.png").stat().st_size > 1000
    page = tmp_path / "report.html"
    assert main(["report", str(spectrogram.path), "--out", str(page)]) == 0
    assert "6 filters of 3x5 px on 3 channels" in page.read_text()
    assert main(["show", str(spectrogram.path)]) == 0
    assert "3x5x3x6" in capsys.readouterr().out


def test_a_probe_pools_over_rows_and_columns_and_baselines_have_the_same_sides(
    spectrogram, few_windows, monkeypatch
):
    monkeypatch.chdir(spectrogram.path.parent)
    options = {"labels": [5], "classifiers": ["ridge"], "baselines": ["kmeans"], "limit": 400}
    found = probe_run(spectrogram, "digits", grid=[(1, 3)], **options)
    assert [result.features for result in found] == ["run", "kmeans"]
    assert all(0.15 < result.accuracy <= 1 for result in found)


def test_a_series_trains_as_an_image_of_height_1(series):
    assert [layer.kernel.shape for layer in series.layers] == [(1, 9, 3, 6), (1, 3, 6, 4)]
    model = keras.models.load_model(series.path / "model.keras")
    assert model(np.zeros((2, 1, 40, 3), np.float32)).shape == (2, 1, 7, 4)
    facts = json.loads((series.path / "saved_model/assets.extra/kclr.json").read_text())
    assert facts["smallest_image"] == [1, 16]
    assert all((layer.directory / "filters.png").exists() for layer in series.layers)


def test_check_shows_both_sides_where_they_differ(tmp_path, capsys):
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPECTROGRAM)
    assert main(["check", str(spec)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["conv1", "6x12", "px", "4x8", "px", "9", "2x2x6"] in rows
    assert ["conv1", "64x64x3", "62x30x6", "3x6", "px", "1x2", "px"] in rows
