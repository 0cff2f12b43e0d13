"""What leaves kclr: the same numbers in Keras, in TensorFlow alone, in ONNX and in LiteRT."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.datasets import load_sample_image

from kclr import export
from kclr.errors import RunError, SpecError
from kclr.layers import smallest_image
from kclr.pooling import Pooling, pool_maps
from kclr.runs.run import load_run
from kclr.runs.safe_reading import sha256

pytestmark = pytest.mark.usefixtures("without_pictures")

BLOCKS = (
    {
        "filters": 12,
        "kernel_size": 6,
        "strides": 1,
        "padding": "valid",
        "pool_size": 2,
        "pool_strides": 2,
        "activation": "relu",
    },
    {
        "filters": 8,
        "kernel_size": [3, 2],
        "strides": [1, 2],
        "padding": "same",
        "pool_size": [3, 2],
        "pool_strides": [2, 1],
        "activation": "tanh",
    },
)
SIZES = ((1, 32, 32), (4, 33, 41), (2, 20, 64))


def photo(batch, height, width):
    """Windows of a photograph: uint8 (batch, height, width, 3)."""
    whole = load_sample_image("china.jpg")
    return np.stack([whole[40 * i : 40 * i + height, 150 : 150 + width] for i in range(batch)])


def write_layer(run, index, block, kernel, bias):
    directory = run / "layers" / f"{index:02d}-conv{index}"
    directory.mkdir(parents=True)
    np.save(directory / "kernel.npy", kernel.astype("float32"))
    np.save(directory / "bias.npy", bias.astype("float32"))
    facts = {"name": f"conv{index}", "block": block, "key": "x"}
    (directory / "layer.json").write_text(json.dumps(facts))


def make_run(path):
    """A run of two layers: patches of a photograph as filters, and random ones above."""
    path.mkdir(parents=True)
    (path / "spec.yaml").write_text("stack: [{}, {}]\n")
    random = np.random.default_rng(0)
    patches = sliding_window_view(load_sample_image("flower.jpg") / 255, (6, 6, 3))[::90, ::180, 0]
    patches = patches.reshape(-1, 6, 6, 3)[:12]
    patches = patches - patches.mean(axis=(1, 2, 3), keepdims=True)
    patches /= 0.01 + np.sqrt((patches**2).sum(axis=(1, 2, 3), keepdims=True))
    write_layer(path, 1, BLOCKS[0], patches.transpose(1, 2, 3, 0), random.normal(0, 0.1, 12))
    write_layer(path, 2, BLOCKS[1], random.normal(0, 0.1, (3, 2, 12, 8)), np.linspace(-0.1, 0.1, 8))
    return path


def normalized(found, epsilon):
    """Windows (batch, rows, columns, channels, height, width) of mean 0 and variance near 1."""
    centred = found - found.mean(axis=(-3, -2, -1), keepdims=True)
    return centred / np.sqrt(centred.var(axis=(-3, -2, -1), keepdims=True) + epsilon)


def windows(maps, sizes, strides):
    found = sliding_window_view(maps, sizes, axis=(1, 2))
    return found[:, :: strides[0], :: strides[1]]


def in_float64(images, layers):
    """The maps of float images, written apart from Keras and TensorFlow."""
    maps = images.astype(np.float64)
    for layer in layers:
        block = {
            key: (value, value) if isinstance(value, int) and key != "filters" else value
            for key, value in layer.block.items()
        }
        kernel, strides = layer.kernel.astype(np.float64), block["strides"]
        if block["padding"] == "same":
            padding = []
            for size, width, stride in zip(maps.shape[1:3], kernel.shape, strides, strict=False):
                total = max((-(-size // stride) - 1) * stride + width - size, 0)
                padding.append((total // 2, total - total // 2))
            maps = np.pad(maps, ((0, 0), *padding, (0, 0)))
        found = windows(maps, kernel.shape[:2], strides)
        if block.get("contrast") == "patch":
            found = normalized(found, block["contrast_epsilon"])
        maps = np.einsum("bhwcij,ijcf->bhwf", found, kernel) + layer.bias.astype(np.float64)
        maps = windows(maps, block["pool_size"], block["pool_strides"]).max(axis=(-2, -1))
        maps = np.tanh(maps) if block["activation"] == "tanh" else np.maximum(maps, 0)
    return maps


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return load_run(make_run(tmp_path_factory.mktemp("runs") / "two-layers"))


@pytest.fixture(scope="module")
def model(run):
    return export.stack_model(run)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The directory of `model.keras` and `saved_model/`."""
    out = tmp_path_factory.mktemp("exported")
    export.export_run(run, out=out)
    return out


@pytest.fixture(scope="module")
def saved(exported):
    return tf.saved_model.load(exported / "saved_model")


# The Keras model


@pytest.mark.parametrize("size", SIZES)
def test_model_gives_the_numbers_of_a_float64_convolution(run, model, size):
    images = photo(*size) / 255
    expected = in_float64(images, run.layers)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(model(images.astype("f")), expected, atol=2e-6)


def test_layers_below_the_top_can_be_taken_out(run, model):
    images = (photo(2, 32, 32) / 255).astype("f")
    below = keras.Model(model.input, model.get_layer("conv1").output)
    only_first = export.stack_model(run, layers=1)
    assert [layer.name for layer in only_first.layers[1:]] == ["conv1"]
    np.testing.assert_array_equal(below(images), only_first(images))
    np.testing.assert_allclose(only_first(images), in_float64(images, run.layers[:1]), atol=2e-6)


def test_model_is_made_of_a_list_of_layers_too(run, model):
    images = (photo(1, 32, 32) / 255).astype("f")
    np.testing.assert_array_equal(export.stack_model(run.layers)(images), model(images))


@pytest.mark.parametrize("layers", [0, -1, 3, True, 1.5])
def test_a_number_of_layers_that_is_not_there_is_refused_with_the_range(run, layers):
    with pytest.raises(SpecError, match=r"layers: .* Use 1 to 2\."):
        export.stack_model(run, layers=layers)


def test_kernels_that_do_not_fit_each_other_are_named(tmp_path):
    path = make_run(tmp_path / "run")
    np.save(path / "layers/02-conv2/kernel.npy", np.zeros((3, 2, 5, 8), "float32"))
    with pytest.raises(RunError, match=r"02-conv2.*5 channels in, but the layer below has 12"):
        export.stack_model(load_run(path))


def test_model_is_float32_under_a_mixed_precision_policy(run):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = export.stack_model(run)
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


def test_smallest_image_is_the_smallest_that_leaves_a_cell(run, model):
    for stack in (model, export.stack_model(run, layers=1)):
        height, width = smallest_image(stack)
        assert stack.compute_output_shape((1, height, width, 3))[1:3] == (1, 1)
        for size in ((height - 1, width), (height, width - 1)):
            with pytest.raises(ValueError, match="is too small for"):
                stack.compute_output_shape((1, *size, 3))


def test_keras_file_loads_in_safe_mode_and_can_be_fine_tuned(exported, model):
    loaded = keras.models.load_model(exported / "model.keras", safe_mode=True)
    images = (photo(4, 33, 41) / 255).astype("f")
    np.testing.assert_array_equal(loaded(images), model(images))
    pooled = keras.layers.GlobalAveragePooling2D()(loaded.get_layer("conv2").output)
    classifier = keras.Model(loaded.input, keras.layers.Dense(2)(pooled))
    classifier.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    classifier.fit(images, np.array([0, 1, 0, 1]), epochs=1, verbose=0)
    before = model.get_layer("conv1").get_weights()[0]
    assert np.any(loaded.get_layer("conv1").get_weights()[0] != before)


# The SavedModel

WITHOUT_KCLR = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "kclr":
            raise ImportError("kclr is not installed")

sys.meta_path.insert(0, Refuse())
try:
    import kclr
except ImportError:
    pass
else:
    sys.exit("kclr is there")
import numpy as np
import tensorflow as tf

model = tf.saved_model.load("saved_model")
answers = {}
for name, images in np.load("images.npz").items():
    answers["features " + name] = model.features(images)
    answers["serve " + name] = model.serve(images)
    answers["embed " + name] = model.embed(images)
    if name.startswith("float32"):
        answers["default " + name] = model.signatures["serving_default"](image=images)["features"]
assert "kclr" not in sys.modules
np.savez("answers.npz", **{name: np.array(answer) for name, answer in answers.items()})
"""


def test_script_without_kclr_gives_the_numbers_of_the_keras_file(exported):
    images = {}
    for size in SIZES:
        pixels = photo(*size)
        images[f"uint8 {size}"] = pixels
        images[f"float32 {size}"] = (pixels / 255).astype("float32")
        images[f"float64 {size}"] = pixels / 255
    np.savez(exported / "images.npz", **images)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", WITHOUT_KCLR], cwd=exported, env=environment, check=True, timeout=300
    )
    answers = dict(np.load(exported / "answers.npz"))
    loaded = keras.models.load_model(exported / "model.keras")
    assert len(answers) == 3 * len(images) + len(SIZES)
    for name, answer in answers.items():
        what, _, key = name.partition(" ")
        unit = images[key] / 255 if key.startswith("uint8") else images[key]
        expected = loaded(unit.astype("float32")).numpy()
        if what == "embed":
            assert answer.shape == (len(unit), 2 * 2 * 8)
            continue
        np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-6)


def test_uint8_images_are_those_of_floats_to_the_last_bit(saved):
    every_value = np.resize(np.arange(256, dtype="uint8"), (2, 32, 32, 3))
    unit = every_value.astype("float32") / np.float32(255)
    np.testing.assert_array_equal(saved.features(every_value), saved.features(unit))
    np.testing.assert_array_equal(saved.embed(every_value), saved.embed(unit))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floats_are_taken_as_float32(saved, dtype):
    unit = tf.cast(photo(1, 32, 32) / 255, dtype)
    answer = saved.features(unit)
    assert answer.dtype == tf.float32
    np.testing.assert_array_equal(answer, saved.features(tf.cast(unit, "float32")))


def test_signatures_are_what_tensorflow_serving_asks_for(saved, model):
    pixels = photo(2, 33, 41)
    unit = (pixels / 255).astype("float32")
    maps = model(unit)
    embeddings = saved.embed(unit)
    call = saved.signatures
    assert set(call) == {
        "serving_default",
        "features",
        "features_uint8",
        "embed",
        "embed_uint8",
    }
    for name, images in (("serving_default", unit), ("features", unit), ("features_uint8", pixels)):
        answer = call[name](image=tf.constant(images))["features"]
        np.testing.assert_allclose(answer, maps, rtol=0, atol=1e-6)
    for name, images in (("embed", unit), ("embed_uint8", pixels)):
        answer = call[name](image=tf.constant(images))["embeddings"]
        np.testing.assert_allclose(answer, embeddings, rtol=0, atol=1e-6)


def test_dataset_of_images_of_many_sizes_is_embedded(saved):
    sizes = [(1, 20 + i, 40 - i) for i in range(5)]
    images = tf.data.Dataset.from_generator(
        lambda: (photo(*size) for size in sizes),
        output_signature=tf.TensorSpec((None, None, None, 3), tf.uint8),
    )
    vectors = np.concatenate(list(images.map(saved.embed)))
    one_by_one = [saved.signatures["embed_uint8"](image=photo(*size)) for size in sizes]
    expected = np.concatenate([answer["embeddings"] for answer in one_by_one])
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-6)


def test_saved_model_is_a_layer_of_keras(exported, model):
    layer = keras.layers.TFSMLayer(exported / "saved_model", call_endpoint="serve")
    image = keras.Input((None, None, 3))
    outer = keras.Model(image, layer(image))
    images = (photo(2, 32, 32) / 255).astype("f")
    np.testing.assert_allclose(outer.predict(images, verbose=0), model(images), rtol=0, atol=1e-6)


def test_images_that_are_too_small_are_refused_with_the_least_size(saved, model):
    height, width = smallest_image(model)
    embed = saved.signatures["embed"]
    assert np.isfinite(embed(tf.zeros((1, height, width, 3)))["embeddings"]).all()
    for size in ((height - 1, width), (height, width - 1), (2, 2)):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"at least {height} x {width} px"):
            embed(tf.zeros((1, *size, 3)))


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 32, 32, 3), int), np.zeros((1, 32, 32, 1), "f"), np.zeros((32, 32, 3), "f")],
    ids=["int64", "gray", "no batch"],
)
def test_images_of_another_kind_are_refused(saved, images):
    with pytest.raises(ValueError, match="Could not find matching concrete function"):
        saved.embed(images)


@pytest.mark.parametrize(
    ("pool", "pooled"),
    [
        ("mean", lambda maps: maps.mean(axis=(1, 2))),
        ("max", lambda maps: maps.max(axis=(1, 2))),
        ("flatten", lambda maps: maps.reshape(len(maps), -1)),
    ],
)
def test_embed_pools_as_the_option_says(run, model, tmp_path, pool, pooled):
    export.write_saved_model(model, tmp_path / "saved_model", Pooling(pool=pool))
    loaded = tf.saved_model.load(tmp_path / "saved_model")
    for size in SIZES:
        images = photo(*size) / 255
        expected = pooled(in_float64(images, run.layers))
        np.testing.assert_allclose(loaded.embed(images), expected, atol=2e-6)


def test_grid_of_the_option_is_laid_over_the_map(run, model, tmp_path):
    export.write_saved_model(model, tmp_path / "saved_model", Pooling(grid=3))
    loaded = tf.saved_model.load(tmp_path / "saved_model")
    images = photo(2, 31, 33) / 255
    maps = in_float64(images, run.layers)
    assert maps.shape == (2, 6, 6, 8)
    cells = maps.reshape(2, 3, 2, 3, 2, 8).mean(axis=(2, 4))
    np.testing.assert_allclose(loaded.embed(images), cells.reshape(2, -1), atol=2e-6)


def test_saved_model_says_what_it_is(exported, model):
    facts = json.loads((exported / "saved_model/assets.extra/kclr.json").read_text())
    assert facts == {
        "format": 1,
        "layers": ["conv1", "conv2"],
        "channels": 3,
        "smallest_image": list(smallest_image(model)),
        "filters": 8,
        "pool": "grid",
        "all_layers": False,
        "power": 1.0,
        "grid_size": 2,
    }


# ONNX and LiteRT


def test_onnx_gives_the_numbers_of_the_keras_model(model, saved, tmp_path):
    pytest.importorskip("onnx.checker")
    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    export.write_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    # Maps of odd sizes among them, whose cells overlap.
    for size in (*SIZES, (1, 25, 27), (1, 30, 45)):
        images = (photo(*size) / 255).astype("f")
        maps, vectors = session.run(["features", "embeddings"], {"image": images})
        np.testing.assert_allclose(maps, model(images), rtol=0, atol=1e-5)
        np.testing.assert_allclose(vectors, saved.embed(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("package", ["onnx", "tf2onnx"])
def test_a_missing_onnx_package_is_named_before_anything_is_written(
    run, tmp_path, monkeypatch, package
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RunError, match=r"pip install 'kclr\[onnx\]'"):
        export.export_run(run, out=tmp_path / "out", onnx=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_litert_gives_the_numbers_of_the_keras_model(model, saved, tmp_path):
    export.write_litert(model, tmp_path / "model.tflite", size=33)
    if not hasattr(tf.lite, "Interpreter"):
        pytest.skip("this TensorFlow has no LiteRT interpreter")
    call = tf.lite.Interpreter(str(tmp_path / "model.tflite")).get_signature_runner()
    for batch in (1, 3):
        images = (photo(batch, 33, 33) / 255).astype("f")
        answer = call(image=images)
        np.testing.assert_allclose(answer["features"], model(images), rtol=0, atol=1e-5)
        np.testing.assert_allclose(answer["embeddings"], saved.embed(images), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_contrast_of_patches_is_inside_every_exported_form(tmp_path):
    path = make_run(tmp_path / "run")
    for facts in path.glob("layers/*/layer.json"):
        known = json.loads(facts.read_text())
        known["block"] |= {"contrast": "patch", "contrast_epsilon": 0.001}
        facts.write_text(json.dumps(known))
    run, out = load_run(path), tmp_path / "out"
    export.export_run(run, out=out, litert=True, litert_size=33)
    pixels = photo(2, 33, 33)
    images = (pixels / 255).astype("f")
    expected = in_float64(pixels / 255, run.layers)
    found = [keras.models.load_model(out / "model.keras")(images)]
    saved = tf.saved_model.load(out / "saved_model")
    found += [saved.features(images), saved.features(pixels)]
    if hasattr(tf.lite, "Interpreter"):
        lite = tf.lite.Interpreter(str(out / "model.tflite")).get_signature_runner()
        found.append(lite(image=images)["features"])
    for maps in found:
        np.testing.assert_allclose(maps, expected, rtol=0, atol=5e-4)
    pytest.importorskip("onnx.checker")
    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    export.write_onnx(export.stack_model(run), out / "model.onnx")
    session = onnxruntime.InferenceSession(out / "model.onnx")
    maps = session.run(["features"], {"image": images})[0]
    np.testing.assert_allclose(maps, expected, rtol=0, atol=5e-4)


def test_litert_size_that_leaves_nothing_is_refused_with_the_least(run, model, tmp_path):
    least = max(smallest_image(model))
    with pytest.raises(SpecError, match=rf"litert_size: {least - 1} .* Use {least} or more"):
        export.export_run(run, out=tmp_path / "out", litert=True, litert_size=least - 1)
    assert not (tmp_path / "out").exists()


# A run's export


def finish(path):
    """Export into the run as a training does at its end, and vouch for it in summary.json."""
    export.export_run(load_run(path), out=path)
    files = [p for p in path.rglob("*") if p.is_file()]
    hashes = {p.relative_to(path).as_posix(): sha256(p) for p in files}
    summary = {"versions": {}, "hardware": {}, "seed": 0, "finished": "today"}
    (path / "summary.json").write_text(json.dumps(summary | {"sha256": hashes}))
    return {p: p.read_bytes() for p in files}


def test_exports_of_a_finished_run_stand_apart_and_replace_only_their_like(tmp_path):
    path = make_run(tmp_path / "run")
    before = finish(path)
    run = load_run(path)
    grid = export.export_run(run)
    mean = export.export_run(run, layers=1, pool="mean", litert=True)
    assert grid == [path / "exports/02-conv2-grid2" / n for n in ("model.keras", "saved_model")]
    assert [p.relative_to(path / "exports/01-conv1-mean").as_posix() for p in mean] == [
        "model.keras",
        "saved_model",
        "model.tflite",
    ]
    assert export.export_run(run) == grid
    assert all(p.exists() for p in grid + mean)
    assert {p: p.read_bytes() for p in before} == before
    one = keras.models.load_model(mean[0])
    assert [layer.name for layer in one.layers[1:]] == ["conv1"]


def test_files_that_a_summary_vouches_for_are_never_replaced(tmp_path):
    path = make_run(tmp_path / "run")
    before = finish(path)
    for out in (path, path / "layers" / ".."):
        with pytest.raises(RunError, match=r"belongs to a finished run.*--out"):
            export.export_run(load_run(path), out=out, pool="mean")
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pool": "median"}, r"pool: 'median' is not known\. Use one of mean, max, grid, flatten"),
        ({"grid_size": 0}, r"grid_size: 0 is not possible\. Use 1 to 64"),
        ({"grid_size": [3, 2]}, r"grid_size: 2 numbers for 1 map\. Use one for all"),
        ({"layers": 3}, r"layers: 3 cannot be exported, 2 are trained\. Use 1 to 2"),
    ],
)
def test_an_option_that_is_not_possible_is_named_with_what_is(run, tmp_path, options, words):
    with pytest.raises(SpecError, match=words):
        export.export_run(run, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_directory_is_named(run, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RunError, match=r"out is a file\. Choose another place"):
        export.export_run(run, out=tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("name", ["saved_model/saved_model.pb", "saved_model/notes.txt"])
def test_a_saved_model_of_somebody_else_is_not_replaced(run, model, tmp_path, name):
    (tmp_path / "saved_model").mkdir()
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunError, match="which kclr did not write"):
        export.export_run(run, out=tmp_path)
    with pytest.raises(RunError, match="which kclr did not write"):
        export.write_saved_model(model, tmp_path / "saved_model")
    assert [path.name for path in tmp_path.iterdir()] == ["saved_model"]
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.skipif(
    tuple(map(int, tf.__version__.split(".")[:2])) < (2, 21),
    reason="its LiteRT converter writes two lines past every log level",
)
def test_nothing_is_said_on_the_terminal(run, tmp_path, capfd):
    export.export_run(run, out=tmp_path, litert=True)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


@pytest.mark.parametrize(
    "write", [export.write_keras, export.write_saved_model], ids=["keras", "saved_model"]
)
def test_a_full_disk_leaves_the_former_artefact_whole(run, model, tmp_path, write):
    resource = pytest.importorskip("resource")
    path = tmp_path / ("model.keras" if write is export.write_keras else "saved_model")
    write(export.stack_model(run, layers=1), path)
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    before = {p: p.read_bytes() for p in files}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(RunError, match=f"{path}: cannot be written: .* Free disk space"):
            write(model, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {p: p.read_bytes() for p in files} == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    write(model, path)


def test_roots_of_all_layers_stand_side_by_side_in_every_format(run, model, tmp_path):
    images = tf.random.stateless_uniform((3, 32, 32, 3), (0, 1))
    expected = []
    for layers, cells in ((1, 3), (2, 2)):
        maps = export.stack_model(run, layers).predict(images, verbose=0)
        expected.append(pool_maps(maps, "grid", cells))
    expected = np.concatenate([np.sqrt(expected[0]), expected[1]], axis=-1)
    options = {"all_layers": True, "grid_size": [3, 2], "power": [0.5, 1]}
    export.export_run(run, out=tmp_path, litert=True, **options)
    saved = tf.saved_model.load(tmp_path / "saved_model")
    np.testing.assert_allclose(saved.embed(images), expected, atol=1e-5)
    np.testing.assert_array_equal(saved.features(images), model(images))
    lite = tf.lite.Interpreter(str(tmp_path / "model.tflite"))
    lite.resize_tensor_input(lite.get_input_details()[0]["index"], images.shape)
    lite.allocate_tensors()
    lite.set_tensor(lite.get_input_details()[0]["index"], images)
    lite.invoke()
    outputs = [lite.get_tensor(each["index"]) for each in lite.get_output_details()]
    (vectors,) = (each for each in outputs if each.shape == expected.shape)
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
