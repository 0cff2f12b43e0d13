"""Runs of data that are no photographs: many channels, 16 bits, missing values, series."""

import json

import numpy as np
import pytest

import kclr
from kclr import export
from kclr.cli import main
from kclr.data.labels import Labelled, load_labelled, scaled
from kclr.data.patches import PatchTripletGenerator
from kclr.data.sources import as_images
from kclr.errors import RunError, SpecError
from kclr.pooling import Pooling
from kclr.probing.judging import stack_features
from kclr.probing.probe import probe_run
from kclr.scaling import Scaling
from kclr.spec.values import grid_of_series
from kclr.training.progress import describe

pytestmark = pytest.mark.usefixtures("without_pictures")

MISSING = 7
BANDS = """
stack:
  - block: {filters: 8, kernel_size: 5}
    train: {steps: 4, batch_size: 32}
  - block: {filters: 6, kernel_size: 3}
    learner: {name: kmeans, windows: 2000}
"""


@pytest.fixture(scope="module")
def bands(photographs):
    """uint16 (images, 32, 32, 12) with a corner of each fourth image missing."""
    tiles = photographs[:96].astype(np.uint16)
    pixels = [tiles[:, y::2, x::2] for y in (0, 1) for x in (0, 1)]
    found = np.concatenate(pixels, axis=-1) * 40 + 100
    found = np.concatenate([found, found[:, ::-1]], axis=2)
    found = np.concatenate([found, found[:, :, ::-1]], axis=1)
    found[::4, :5, :6] = MISSING
    return found


@pytest.fixture(scope="module")
def bands_run(bands, tmp_path_factory):
    import yaml

    images = as_images(bands, scale="standard", nodata=MISSING)
    return kclr.train(
        yaml.safe_load(BANDS), tmp_path_factory.mktemp("runs") / "bands", images=images
    )


@pytest.fixture(scope="module")
def series(photographs):
    """float32 (series, length, channels): rows of photographs."""
    return photographs[:120].reshape(-1, 64, 3)[::4].astype(np.float32) * [1, 5, 0.1] - 40


@pytest.fixture(scope="module")
def series_run(series, tmp_path_factory):
    spec = {
        "stack": [
            {
                "block": {"filters": 8, "kernel_size": 9},
                "patches": {"max_shift": 4},
                "train": {"steps": 4, "batch_size": 32},
            },
            {
                "block": {"filters": 6, "kernel_size": 5},
                "learner": {"name": "kmeans", "windows": 2000},
            },
        ],
        "export": {"all_layers": True},
    }
    out = tmp_path_factory.mktemp("runs") / "series"
    return kclr.train(spec, out, images=as_images(series, series=True))


@pytest.mark.parametrize("memory", [None, 1])
def test_what_is_missing_is_never_cut_and_all_else_is(bands, memory):
    kept = as_images(bands, nodata=MISSING)
    patches = PatchTripletGenerator(kept, 6, crop_size=24, batch_size=64, memory=memory)
    assert (patches._chunks is None) == (memory is None)
    first = np.concatenate([crops.numpy() for crops, _ in patches.crops().take(20)])
    assert first.dtype == np.uint16
    assert (first != MISSING).all()
    if memory is None:
        # The crops that do not touch the missing corner, by trying all of them.
        image = bands[0]
        allowed = {
            image[y : y + 24, x : x + 24].tobytes()
            for y in range(9)
            for x in range(9)
            if (image[y : y + 24, x : x + 24] != MISSING).all()
        }
        assert 0 < len(allowed) < 81
        drawn = {
            crop.tobytes()
            for crops, images in patches.crops().take(600)
            for crop in crops.numpy()[images.numpy() == 0]
        }
        assert drawn == allowed


def test_missing_values_of_floats_are_never_cut_and_count_for_nothing(bands):
    floats = np.where(bands == MISSING, np.nan, bands).astype(np.float32)
    floats[1] = np.inf
    images = as_images(floats)
    patches = PatchTripletGenerator(images, 6, crop_size=10, batch_size=32)
    assert patches.image_count == len(bands) - 1
    ((name, reason),) = patches.skipped
    assert (name, reason[:34]) == ("image 1", "no crop of 10 px without missing v")
    for crops, _ in patches.crops().take(20):
        assert np.isfinite(crops.numpy()).all()
    valid = floats[np.isfinite(floats).all(axis=-1)].astype(float)
    np.testing.assert_allclose(images.scaling().shift, valid.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(images.scaling().spread, valid.std(axis=0), rtol=1e-6)


def test_images_without_a_single_crop_are_an_error(bands):
    with pytest.raises(RunError, match="no crop of 10 px without missing values"):
        PatchTripletGenerator(np.full((8, 12, 12, 2), np.nan, np.float32) * bands[:8, :12, :12, :2],
                              6, crop_size=10)  # fmt: skip


def test_a_run_of_bands_knows_how_they_are_scaled(bands, bands_run):
    layers = kclr.load_run(bands_run.path).layers
    assert [layer.kernel.shape for layer in layers] == [(5, 5, 12, 8), (3, 3, 8, 6)]
    valid = bands[(bands != MISSING).all(axis=-1)].astype(float)
    scaling = kclr.load_run(bands_run.path).scaling
    assert scaling.dtype == "uint16"
    np.testing.assert_allclose(scaling.shift, valid.mean(axis=0), rtol=1e-6)
    facts = json.loads((layers[1].directory / "layer.json").read_text())
    assert Scaling(**facts["scaling"]) == scaling
    missing = (bands == MISSING).any(axis=-1).mean()
    for layer in layers:
        assert layer.facts["missing_share"] == pytest.approx(missing, abs=1e-6)
    assert "0.73% of the data missing and never cut" in describe(layers[1].facts)


def test_missing_values_are_counted_before_a_training(series, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    values = series.astype(np.float32)
    values[::2, 3:7] = np.nan
    np.save("a.npy", values)
    layer = "{block: {filters: 4, kernel_size: 9}}"
    (tmp_path / "a.yaml").write_text(f"data: series:a.npy\nstack: [{layer}]\n")
    assert main(["check", "a.yaml"]) == 0
    share = 100 * np.isnan(values[:64]).any(axis=-1).mean()
    words = f"series:a.npy: {share:.2f}% of the data in the first series are missing (NaN, inf"
    assert words in capsys.readouterr().err
    values[:] = np.nan
    np.save("a.npy", values)
    with pytest.raises(RunError) as caught:
        PatchTripletGenerator(as_images("series:a.npy"), (1, 9))
    assert "series cannot be used" in str(caught.value)
    assert "series 0: no crop of 10 samples without missing values" in str(caught.value)
    assert "or allow more" not in str(caught.value)


def test_exports_take_the_raw_numbers_of_the_run(bands, bands_run):
    import keras
    import tensorflow as tf

    raw = bands[:3]
    model = keras.saving.load_model(bands_run.path / "model.keras")
    exported = tf.saved_model.load(str(bands_run.path / "saved_model"))
    maps = exported.features(raw).numpy()
    np.testing.assert_allclose(model(raw.astype(np.float32)), maps, rtol=1e-4, atol=1e-4)
    own = exported.signatures["features_uint16"](image=tf.constant(raw))["features"]
    np.testing.assert_array_equal(own, maps)
    # The first layer in float64, from the kernel and what the run says of its input.
    layer, scaling = bands_run.layers[0], bands_run.scaling
    scaled_ = (raw.astype(float) - scaling.shift) / scaling.spread
    kernel = layer.kernel.astype(float)
    windows = np.lib.stride_tricks.sliding_window_view(scaled_, (5, 5), axis=(1, 2))
    convolved = np.einsum("byxcij,ijcf->byxf", windows, kernel) + layer.bias
    pooled = convolved.reshape(3, 14, 2, 14, 2, 8).max(axis=(2, 4))
    first = keras.Model(model.input, model.get_layer("conv1").output)
    np.testing.assert_allclose(
        first(raw.astype(np.float32)), np.maximum(pooled, 0), rtol=1e-3, atol=1e-3
    )


def test_a_saved_model_of_a_loaded_model_takes_raw_numbers_too(bands, bands_run, tmp_path):
    import keras
    import tensorflow as tf

    model = keras.saving.load_model(bands_run.path / "model.keras")
    export.write_saved_model(model, tmp_path / "saved_model")
    facts = [
        json.loads((path / "saved_model/assets.extra/kclr.json").read_text())
        for path in (tmp_path, bands_run.path)
    ]
    assert facts[0]["scaling"] == facts[1]["scaling"] == bands_run.scaling.as_dict()
    loaded, own = (tf.saved_model.load(str(p / "saved_model")) for p in (tmp_path, bands_run.path))
    few = tf.constant(bands[:2])
    np.testing.assert_array_equal(
        loaded.signatures["features_uint16"](image=few)["features"], own.features(few)
    )


def test_preprocessing_is_a_keras_layer_for_a_model_of_ones_own(bands, bands_run, tmp_path):
    import keras

    layer = bands_run.preprocessing()
    np.testing.assert_allclose(layer(bands[:2]), bands_run.scaling(bands[:2]), rtol=1e-5, atol=1e-5)
    model = keras.Sequential([keras.Input((32, 32, 12)), layer, keras.layers.Flatten()])
    model.save(tmp_path / "own.keras")
    again = keras.saving.load_model(tmp_path / "own.keras")
    raw = bands[:2].astype(np.float32)
    np.testing.assert_array_equal(again(raw), model(raw))


def test_bands_are_probed_by_the_scaling_of_the_run(bands, bands_run):
    labels = np.arange(len(bands)) % 2
    bright = bands + (labels * 20_000).astype(np.uint16)[:, None, None, None]
    parts = [
        Labelled(bright[rows], labels[rows], ("dark", "bright"), scaling=bands_run.scaling)
        for rows in (slice(0, 60), slice(60, None))
    ]
    (result,) = probe_run(bands_run, tuple(parts), classifiers=["ridge"])
    assert result.accuracy > 0.9
    with pytest.raises(SpecError, match="its numbers are uint8, but the filters were learned from"):
        load_labelled("digits", "train", scaling=bands_run.scaling)


def labelled_bands(bands):
    """Dark images, and bright ones: the labels 0 and 1."""
    labels = np.arange(len(bands)) % 2
    return bands + (labels * 20_000).astype(np.uint16)[:, None, None, None], labels


def test_a_folder_of_tiffs_with_a_table_is_probed(bands, bands_run, tmp_path, capsys):
    tifffile = pytest.importorskip("tifffile")
    rows = ["file,label"]
    for number, (image, label) in enumerate(zip(*labelled_bands(bands), strict=True)):
        tifffile.imwrite(tmp_path / f"{number}.tif", image, planarconfig="contig")
        rows.append(f"{number}.tif,{('dark', 'bright')[label]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    name = f"folder:{tmp_path}"
    assert main(["probe", str(bands_run.path), "--data", name, "--json"]) == 0
    ridge = json.loads(capsys.readouterr().out)["results"][0]
    assert ridge["accuracy"] > 0.9
    assert ridge["label_count"] == 76


def test_arrays_of_a_file_are_probed_as_those_in_memory(bands, bands_run, tmp_path):
    images, labels = labelled_bands(bands)
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    name = f"array:{tmp_path / 'a.npz'}"
    (found,) = probe_run(bands_run, name, classifiers=["knn"])
    rows = [[], []]
    for split, own in zip(("train", "test"), rows, strict=True):
        part = load_labelled(name, split)
        own += [int((images == image).all((1, 2, 3)).argmax()) for image in part.images]
    parts = [Labelled(images[r], labels[r], (), name, scaling=bands_run.scaling) for r in rows]
    (expected,) = probe_run(bands_run, tuple(parts), classifiers=["knn"])
    assert (found.accuracy, found.label_count) == (expected.accuracy, expected.label_count)
    with pytest.raises(SpecError, match="is of series, but the filters were learned from images"):
        probe_run(bands_run, f"series:{tmp_path / 'a.npz'}")


def test_labelled_pictures_with_missing_values_take_the_mean(bands, bands_run, tmp_path):
    images, labels = labelled_bands(bands.astype(np.float32))
    images = images.astype(np.float32)
    images[bands == MISSING] = np.nan
    np.savez(tmp_path / "a.npz", x=images, y=labels)
    with pytest.warns(UserWarning, match=r"\d+ labelled pictures have missing pixels"):
        read = load_labelled(f"array:{tmp_path / 'a.npz'}", "train").images
    assert np.isfinite(read).all()
    (place,) = np.flatnonzero(read[:, -1, -1, 0] == images[0, -1, -1, 0])[:1]
    np.testing.assert_allclose(
        read[place, 0, 0], np.nanmean(images[0].astype(np.float64), (0, 1)), rtol=1e-5
    )
    images[[0, 5]] = np.nan
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    with (
        pytest.warns(UserWarning, match="missing pixels"),
        pytest.raises(RunError, match=r"2 labelled (?s:.*)image 5: all of it is missing"),
    ):
        load_labelled(f"array:{tmp_path / 'a.npz'}", "train")


def test_other_numbers_are_refused_where_they_mean_something_else(bands, bands_run):
    images = as_images(bands.astype(np.float32))
    with pytest.raises(SpecError, match="its numbers are float32, but .* uint16"):
        images.use_scaling(bands_run.scaling)
    part = Labelled(bands[:4], np.arange(4), (), scaling=bands_run.scaling)
    np.testing.assert_array_equal(scaled(part).images, bands_run.scaling(bands[:4]))


def test_16_bits_mean_what_8_do_where_both_have_their_full_range(photographs):
    unit = as_images(photographs[:4].astype(np.uint16) * 257)
    unit.use_scaling(Scaling())
    np.testing.assert_allclose(
        unit.scaling()(photographs[:4].astype(np.uint16) * 257), photographs[:4] / 255, rtol=1e-6
    )


def test_sizes_of_series_are_single_numbers(series_run):
    layers = kclr.load_run(series_run.path).layers
    assert series_run.series
    assert [layer.kernel.shape for layer in layers] == [(1, 9, 3, 8), (1, 5, 8, 6)]
    spec = series_run.resolved
    assert spec["stack"][0]["block"]["kernel_size"] == [1, 9]
    assert spec["stack"][0]["patches"]["max_shift"] == [0, 4]


def labelled_series(series):
    """Series as they are, and higher ones: the labels 0 and 1."""
    labels = np.arange(len(series)) % 2
    return (series + labels[:, None, None] * [400, 2000, 40]).astype(np.float32), labels


def test_series_of_a_file_are_probed(series, series_run, tmp_path, capsys):
    values, labels = labelled_series(series)
    words = np.array(["low", "high"])
    np.savez(tmp_path / "a.npz", x=values, y=words[labels], group=np.arange(len(series)) // 40)
    name = f"series:{tmp_path / 'a.npz'}"
    assert main(["probe", str(series_run.path), "--data", name, "--json"]) == 0
    ridge = json.loads(capsys.readouterr().out)["results"][0]
    assert ridge["accuracy"] > 0.75
    whole = f"{{source: '{name}', channels_first: false}}"
    assert main(["probe", str(series_run.path), "--data", whole, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["results"][0]
    assert (again["accuracy"], again["data"]) == (ridge["accuracy"], name)
    spec = series_run.resolved | {"probe": name, "seed": 1}
    images = as_images(series, series=True)
    again = kclr.train(spec, tmp_path / "again", images=images, bare=True)
    assert again.rows("conv1")[-1]["probe_accuracy"] > 0.75
    with pytest.raises(SpecError, match=r"'digits' is of images, but .*Use audio:PATH or series"):
        probe_run(series_run, "digits")


def test_labelled_series_of_different_lengths_are_pooled_each_for_itself(series, series_run):
    values, labels = labelled_series(series)
    cut = [one[: 40 + number % 5] for number, one in enumerate(values[:30])]
    whole = Labelled(as_images(cut, series=True), labels[:30], (), scaling=series_run.scaling)
    pooling = Pooling(grid_of_series(2, 1))
    made = stack_features(series_run.layers, whole, whole, pooling)
    for number in (0, 1, 7, 29):
        one = Labelled(cut[number][None, None], labels[:1], (), scaling=series_run.scaling)
        alone = stack_features(series_run.layers, one, one, pooling)
        np.testing.assert_allclose(made.fitting[number], alone.fitting[0], rtol=1e-4, atol=1e-5)
    (result,) = probe_run(series_run, (whole, whole), classifiers=["ridge"])
    assert result.label_count == 30


def test_exports_of_series_take_series(series, series_run):
    import keras
    import tensorflow as tf

    model = keras.saving.load_model(series_run.path / "model.keras")
    exported = tf.saved_model.load(str(series_run.path / "saved_model"))
    few = series[:3]
    maps = exported.features(few).numpy()
    assert maps.shape[::2] == (3, 6)
    np.testing.assert_allclose(model(few), maps, rtol=1e-4, atol=1e-4)
    # Two cells of each layer's map.
    assert exported.embed(few).shape == (3, 2 * (8 + 6))
    # The first layer as Keras' own convolution of series.
    layer = series_run.layers[0]
    own = keras.layers.Conv1D(8, 9, activation="relu")
    own.build((None, 64, 3))
    own.set_weights([layer.kernel[0], layer.bias])
    pooled = keras.layers.MaxPooling1D()(own(series_run.preprocessing()(few)))
    first = keras.Model(model.input, model.get_layer("conv1").output)(few)
    np.testing.assert_allclose(first[:, 0], pooled, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((4, 5, 6, 7)), r"\(4, 5, 6, 7\): expected \(series, length, channels\)"),
        ([np.zeros(5), np.zeros((5, 2, 2))], "series 1 of the list has the shape"),
    ],
)
def test_what_is_no_series_is_refused(images, words):
    with pytest.raises(SpecError, match=words):
        as_images(images, series=True)


def test_a_model_fitted_on_a_generator_scales_as_it_does(bands):
    import keras

    patches = PatchTripletGenerator(as_images(bands, scale="standard"), 5, batch_size=16)
    model = kclr.TripletModel(kclr.ContrastiveConvBlock(4, 4))
    model.compile("sgd")
    model.fit(patches, steps_per_epoch=1, verbose=0)
    assert model.scaling == patches.scaling
    again = kclr.TripletModel.from_config(model.get_config())
    assert again.scaling == patches.scaling
    raw = next(iter(patches.views()))[0][:, 0]
    expected = keras.ops.reshape(model.encoder(patches.scaling(raw)), (16, -1))
    np.testing.assert_allclose(model.predict(raw, verbose=0), expected, rtol=1e-5, atol=1e-6)
