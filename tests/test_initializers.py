import base64
import json
import shutil
import subprocess
import warnings
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from kclr import kernels
from kclr.errors import RunError, SpecError
from kclr.initializers import ContrastiveBias, ContrastiveKernel
from kclr.runs.run import Run
from kclr.separable import separable_kernels
from tests.processes import Forked

pytestmark = pytest.mark.usefixtures("without_pictures")

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(6, 6, 3, 16)).astype(np.float32)
BIAS = RNG.normal(size=16).astype(np.float32)
UPPER_KERNEL = RNG.normal(size=(3, 3, 16, 24)).astype(np.float32)
RULES = {  # He et al. 2015, Glorot & Bengio 2010, LeCun et al. 1998: variance of a weight.
    "he_normal": lambda fan_in, fan_out: 2 / fan_in,
    "HeUniform": lambda fan_in, fan_out: 2 / fan_in,
    "glorot_uniform": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "lecun_normal": lambda fan_in, fan_out: 1 / fan_in,
}


def save_layers(path, **layers):
    for number, (name, kernel) in enumerate(layers.items(), 1):
        folder = path / f"layers/{number:02d}-{name}"
        folder.mkdir(parents=True)
        np.save(folder / "kernel.npy", kernel)


@pytest.fixture
def run(tmp_path):
    """Only the arrays of a run of two layers, the second without a bias."""
    save_layers(tmp_path / "run", edges=KERNEL, corners=UPPER_KERNEL)
    np.save(tmp_path / "run/layers/01-edges/bias.npy", BIAS)
    return tmp_path / "run"


def numbers(initializer, shape, **options):
    return keras.ops.convert_to_numpy(initializer(shape, **options))


def classifier(kernel, bias="zeros", filters=16, size=6, channels=3):
    return keras.Sequential(
        [
            keras.Input((12, 12, channels)),
            keras.layers.Conv2D(filters, size, kernel_initializer=kernel, bias_initializer=bias),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )


def test_a_classifier_starts_from_the_runs_kernel_and_bias_to_the_last_bit(run):
    model = classifier(ContrastiveKernel(str(run)), ContrastiveBias(str(run)))
    kernel, bias, *_ = model.get_weights()
    np.testing.assert_array_equal(kernel, KERNEL)
    np.testing.assert_array_equal(bias, BIAS)
    model.compile("sgd", "mse")
    assert np.isfinite(
        model.fit(np.ones((4, 12, 12, 3)), np.ones((4, 2)), verbose=0).history["loss"]
    )
    assert (model.get_weights()[0] != KERNEL).any()


@pytest.mark.parametrize("make", [ContrastiveKernel, ContrastiveBias])
def test_contrast_of_patches_that_a_plain_kernel_lacks_is_warned_of(run, make, recwarn):
    place = run / "layers/01-edges/layer.json"
    make(run)
    place.write_text(json.dumps({"name": "edges", "block": {"filters": 16}}))
    make(run)
    assert not recwarn
    block = {"filters": 16, "contrast": "patch"}
    place.write_text(json.dumps({"name": "edges", "block": block}))
    with pytest.warns(UserWarning, match=r"contrast normalisation of .*01-edges"):
        made = make(run)
    loaded = SimpleNamespace(name="edges", kernel=KERNEL, bias=BIAS, block=block)
    with pytest.warns(UserWarning, match="normalisation of the run's layer edges"):
        make(SimpleNamespace(layers=[loaded]))
    recwarn.clear()
    make.from_config(made.get_config())
    assert not recwarn
    place.write_text("{")
    with pytest.raises(RunError, match=r"layer\.json: cannot be read"):
        make(run)


@pytest.mark.parametrize("layer", [1, -1, "corners", np.int64(1)])
def test_a_layer_is_found_by_index_and_by_name(run, layer):
    np.testing.assert_array_equal(
        numbers(ContrastiveKernel(run, layer), UPPER_KERNEL.shape), UPPER_KERNEL
    )


def test_runs_come_as_paths_as_loaded_and_as_arrays(run):
    layer = SimpleNamespace(name="edges", kernel=KERNEL, bias=BIAS)
    loaded = SimpleNamespace(layers=[layer, SimpleNamespace(name="b", kernel=None, bias=None)])
    for form in (run, str(run), loaded, (KERNEL, BIAS)):
        np.testing.assert_array_equal(numbers(ContrastiveKernel(form), KERNEL.shape), KERNEL)
        np.testing.assert_array_equal(numbers(ContrastiveBias(form), BIAS.shape), BIAS)
    by_name = ContrastiveBias(loaded, "edges")
    np.testing.assert_array_equal(numbers(by_name, BIAS.shape), BIAS)
    np.testing.assert_array_equal(numbers(ContrastiveKernel(KERNEL), KERNEL.shape), KERNEL)


def test_an_array_changed_afterwards_does_not_change_the_initializer():
    kernel = KERNEL.copy()
    initializer = ContrastiveKernel(kernel)
    kernel[:] = 0
    np.testing.assert_array_equal(numbers(initializer, KERNEL.shape), KERNEL)


def refused(call, error=SpecError):
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


def test_a_missing_run_or_layer_is_named_with_its_cure(run):
    wrong = run.with_name("rum")
    assert refused(lambda: ContrastiveKernel(wrong), RunError) == (
        f"{wrong}: directory not found. Did you mean {run}?"
    )
    empty = run.with_name("elsewhere")
    empty.mkdir()
    assert "it has no layers/NN-NAME/kernel.npy" in refused(
        lambda: ContrastiveKernel(empty), RunError
    )
    assert "Did you mean 'corners'?" in refused(lambda: ContrastiveKernel(run, "corner"), RunError)
    assert "Choose from edges, corners" in refused(lambda: ContrastiveKernel(run, "zz"), RunError)
    for layer in (2, -3):
        message = refused(lambda layer=layer: ContrastiveKernel(run, layer), RunError)
        assert "it has 2, counted from 0: edges, corners" in message
    assert "neither an index nor a name" in refused(lambda: ContrastiveKernel(run, 1.0))
    assert "dict is not a run" in refused(lambda: ContrastiveKernel({}))


def test_a_layer_without_a_bias_says_so(run):
    for form in (lambda: ContrastiveBias(run, 1), lambda: ContrastiveBias(KERNEL)):
        assert "has no bias" in refused(form)
    assert "3 values for 16 filters" in refused(lambda: ContrastiveBias((KERNEL, BIAS[:3])))


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("not an array"),
        lambda path: np.save(path, KERNEL[0]),
        lambda path: np.save(path, KERNEL.astype(complex)),
        lambda path: np.save(path, np.full((2, 2, 3, 4), np.nan)),
        lambda path: np.save(path, np.array([print], object), allow_pickle=True),
    ],
)
def test_a_damaged_kernel_file_is_refused_by_name(run, damage):
    path = run / "layers/01-edges/kernel.npy"
    damage(path)
    assert str(path) in refused(lambda: ContrastiveKernel(run), RunError)


def test_another_kernel_size_is_resampled():
    expected = kernels.resample(KERNEL, (5, 7))
    np.testing.assert_allclose(
        numbers(ContrastiveKernel(KERNEL), (5, 7, 3, 16)), expected, rtol=1e-5, atol=1e-6
    )


def test_a_gray_picture_gets_the_answer_it_got_in_colour():
    gray = RNG.random((2, 12, 12, 1)).astype("float32")
    colour = classifier(ContrastiveKernel(KERNEL), ContrastiveBias((KERNEL, BIAS))).layers[0]
    one = classifier(ContrastiveKernel(KERNEL), ContrastiveBias((KERNEL, BIAS)), channels=1).layers[
        0
    ]
    np.testing.assert_allclose(one(gray), colour(np.repeat(gray, 3, axis=3)), atol=1e-4)


@pytest.mark.parametrize("shape", [(6, 6, 3), (5, 5, 3), (6, 6, 1), (7, 4, 4)])
@pytest.mark.parametrize("scale", [None, "he_normal"])
def test_bias_and_kernel_keep_the_same_filters_and_scale(shape, scale):
    kernel = numbers(ContrastiveKernel(KERNEL, scale=scale), (*shape, 7))
    bias = numbers(ContrastiveBias((KERNEL, BIAS), kernel_shape=shape, scale=scale), (7,))
    # Found apart from the code under test: which of the run's filters each kept one is.
    whole = numbers(ContrastiveKernel(KERNEL), (*shape, 16)).reshape(-1, 16)
    kept = kernel.reshape(-1, 7)
    similarity = (whole / np.linalg.norm(whole, axis=0)).T @ (kept / np.linalg.norm(kept, axis=0))
    filters = similarity.argmax(axis=0)
    np.testing.assert_allclose(similarity[filters, range(7)], 1, rtol=1e-5)
    factor = np.linalg.norm(kept, axis=0) / np.linalg.norm(whole[:, filters], axis=0)
    assert len(set(filters)) == 7
    np.testing.assert_allclose(factor, factor[0], rtol=1e-5)
    assert scale or factor[0] == pytest.approx(1)
    np.testing.assert_allclose(bias, BIAS[filters] * factor, rtol=1e-5)


def test_fewer_filters_are_the_first_of_more():
    initializer = ContrastiveKernel(KERNEL)
    five, nine = (numbers(initializer, (6, 6, 3, count)) for count in (5, 9))
    np.testing.assert_array_equal(nine[..., :5], five)


def test_more_filters_are_drawn_from_the_other_initializer():
    extra = keras.initializers.HeNormal(seed=3)
    kernel = numbers(ContrastiveKernel(KERNEL, extra=extra), (6, 6, 3, 40))
    np.testing.assert_array_equal(kernel[..., :16], KERNEL)
    np.testing.assert_array_equal(kernel[..., 16:], numbers(extra, (6, 6, 3, 40))[..., 16:])
    assert (numbers(ContrastiveKernel(KERNEL, extra="ones"), (6, 6, 3, 17))[..., 16] == 1).all()
    bias = numbers(ContrastiveBias((KERNEL, BIAS)), (40,))
    np.testing.assert_array_equal(bias, np.pad(BIAS, (0, 24)))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("shape", [(6, 6, 3, 16), (5, 5, 1, 8)])
def test_scale_gives_the_kernel_the_rules_variance(name, shape):
    fan_in, fan_out = np.prod(shape[:3]), np.prod(shape[:2]) * shape[3]
    kernel = numbers(ContrastiveKernel(KERNEL, scale=name), shape)
    assert (kernel**2).mean() == pytest.approx(RULES[name](fan_in, fan_out), rel=1e-5)
    learned = numbers(ContrastiveKernel(KERNEL), shape)
    np.testing.assert_allclose(kernel / learned, (kernel / learned).flat[0], rtol=1e-3)


def test_scale_leaves_drawn_filters_to_their_own_rule():
    kernel = numbers(ContrastiveKernel(KERNEL, scale="he_normal", extra="ones"), (6, 6, 3, 20))
    assert (kernel[..., :16] ** 2).mean() == pytest.approx(2 / 108, rel=1e-5)
    assert (kernel[..., 16:] == 1).all()


def test_scaled_kernel_and_bias_scale_the_layers_answer():
    image = RNG.random((1, 12, 12, 3)).astype("float32")
    pair = (KERNEL, BIAS)
    plain = classifier(ContrastiveKernel(pair), ContrastiveBias(pair)).layers[0](image)
    scaled = classifier(
        ContrastiveKernel(pair, scale="he_normal"),
        ContrastiveBias(pair, kernel_shape=(6, 6, 3), scale="he_normal"),
    ).layers[0](image)
    factor = np.sqrt(2 / 108 / (KERNEL.astype(float) ** 2).mean())
    np.testing.assert_allclose(scaled, factor * np.asarray(plain), rtol=1e-3, atol=1e-5)


DIFFERENT = {"size": (5, 6, 3, 16), "channels": (6, 6, 1, 16), "filters": (6, 6, 3, 8)}


@pytest.mark.parametrize("part", DIFFERENT)
def test_what_is_not_to_be_adapted_is_refused(part):
    others = [other for other in DIFFERENT if other != part]
    for adapt in (False, others):
        message = refused(
            lambda adapt=adapt: ContrastiveKernel(KERNEL, adapt=adapt)(DIFFERENT[part])
        )
        assert message.startswith("the run's kernel has ")
        assert message.endswith(f"adapt {part!r}")
    for adapt in (part, (part,), True):
        assert ContrastiveKernel(KERNEL, adapt=adapt)(DIFFERENT[part]).shape == DIFFERENT[part]
    np.testing.assert_array_equal(
        numbers(ContrastiveKernel(KERNEL, adapt=False), KERNEL.shape), KERNEL
    )


def test_a_bias_refuses_what_its_kernel_refuses():
    pair = (KERNEL, BIAS)
    assert "adapt 'filters'" in refused(lambda: ContrastiveBias(pair, adapt=False)((8,)))
    assert "adapt 'size'" in refused(
        lambda: ContrastiveBias(pair, kernel_shape=(5, 5, 3), adapt=False)
    )
    assert "one value per filter" in refused(lambda: ContrastiveBias(pair)((6, 6, 3, 16)))


def test_a_bias_that_needs_the_kernels_shape_asks_for_it():
    pair = (KERNEL, BIAS)
    for call in (
        lambda: ContrastiveBias(pair)((8,)),
        lambda: ContrastiveBias(pair, scale="he_normal")((16,)),
    ):
        assert "kernel_shape=(height, width, channels in) to ContrastiveBias" in refused(call)
    for shape in ((6,), (6, 6, 3, 16), (0, 6, 3)):
        assert "kernel_shape=" in refused(
            lambda shape=shape: ContrastiveBias(pair, kernel_shape=shape)
        )


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Dense(16, kernel_initializer=ContrastiveKernel(KERNEL)),
        keras.layers.Conv2D(16, 1, kernel_initializer=ContrastiveKernel(KERNEL)),
        keras.layers.DepthwiseConv2D(6, depthwise_initializer=ContrastiveKernel(KERNEL)),
        keras.layers.SeparableConv2D(16, 6, pointwise_initializer=ContrastiveKernel(KERNEL)),
        keras.layers.Conv2DTranspose(64, 6, kernel_initializer=ContrastiveKernel(KERNEL)),
        keras.layers.Conv3D(16, 6, kernel_initializer=ContrastiveKernel(KERNEL)),
    ],
)
def test_layers_that_are_no_conv2d_of_images_are_refused(layer):
    shape = (None, *[12] * (3 if isinstance(layer, keras.layers.Conv3D) else 2), 3)
    assert "Use this initializer" in refused(lambda: layer.build(shape))


def test_features_are_not_taken_for_channels_of_an_image():
    assert "features" in refused(lambda: ContrastiveKernel(KERNEL)((6, 6, 64, 16)))
    small = np.zeros((3, 3, 8, 4), np.float32)  # of no more channels than some images have
    for kernel in (UPPER_KERNEL, small):
        shape = (3, 3, kernel.shape[2] + 4, 4)
        assert "filters of the layer below" in refused(
            lambda k=kernel, s=shape: ContrastiveKernel(k)(s)
        )


def test_the_second_layer_of_a_run_never_takes_filters_for_colours(tmp_path):
    upper = RNG.normal(size=(3, 3, 4, 5)).astype(np.float32)
    save_layers(tmp_path, edges=KERNEL[..., :4], corners=upper)
    second = ContrastiveKernel(tmp_path, 1)
    np.testing.assert_array_equal(numbers(second, upper.shape), upper)
    for maps in (1, 3, 8):
        message = refused(lambda maps=maps: second((3, 3, maps, 5)))
        assert "4 filters of the layer below" in message
        assert f"sees {maps} maps" in message
        assert "kclr.transfer.initialize(model, run)" in message
    np.save(tmp_path / "layers/02-corners/bias.npy", np.ones(5, np.float32))
    assert "4 filters of the layer below" in refused(
        lambda: ContrastiveBias(tmp_path, 1, kernel_shape=(3, 3, 3))
    )


def test_a_second_layer_reads_the_filters_that_the_first_one_kept(run):
    shape = (5, 5, 1, 7)
    first, second = ContrastiveKernel(run), ContrastiveKernel(run, 1)
    kept = first.kept(shape)
    # Which these are, found apart from the code under test: by the kernel that the layer gets.
    whole, few = (numbers(first, (*shape[:3], n)).reshape(-1, n) for n in (16, 7))
    assert kept == [int(np.abs(whole.T - few[:, i]).sum(1).argmin()) for i in range(7)]
    second = ContrastiveKernel(run, 1, inputs=kept)
    np.testing.assert_allclose(
        numbers(second, (3, 3, 7, 24)), UPPER_KERNEL[:, :, kept], rtol=1e-6, atol=1e-7
    )
    wider = numbers(second, (3, 3, 9, 24))
    assert not wider[:, :, 7:].any()
    assert first.kept((6, 6, 3, 16)) == first.kept((6, 6, 3, 40)) == list(range(16))
    again = ContrastiveKernel.from_config(json.loads(json.dumps(second.get_config())))
    np.testing.assert_array_equal(numbers(again, wider.shape), wider)
    # The bias of fewer filters than the run has is that of those which this kernel keeps.
    pair = (UPPER_KERNEL, np.arange(24.0, dtype=np.float32))
    bias = numbers(ContrastiveBias(pair, 1, kernel_shape=(3, 3, 7), inputs=kept), (5,))
    np.testing.assert_array_equal(bias, second.kept((3, 3, 7, 5)))


@pytest.mark.parametrize("inputs", [[], [0, 0], [16], [-1], [0.5], "ab", [[1], [1, 2]], [2**70]])
def test_inputs_that_are_no_filters_of_the_layer_below_are_refused(run, inputs):
    assert "filters of the layer below, without" in refused(
        lambda: ContrastiveKernel(run, 1, inputs=inputs)
    )
    assert "reads an image" in refused(lambda: ContrastiveKernel(run, 0, inputs=[0]))


def test_configs_from_before_inputs_give_what_they_gave():
    kernel = RNG.normal(size=(3, 3, 8, 5)).astype(np.float32)
    config = ContrastiveKernel(kernel).get_config()
    assert (config.pop("inputs"), config.pop("above")) == (None, True)
    np.testing.assert_allclose(
        numbers(ContrastiveKernel.from_config(config), (3, 3, 1, 5))[:, :, 0],
        kernel.sum(axis=2),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_layer_that_is_being_written_is_not_read(run):
    shutil.copytree(run / "layers/02-corners", run / "layers/.01-edges.part")
    shutil.copytree(run / "layers/02-corners", run / "layers/.02-corners.part")
    np.testing.assert_array_equal(numbers(ContrastiveKernel(run), KERNEL.shape), KERNEL)
    shutil.rmtree(run / "layers/02-corners")
    assert "it has 1, counted from 0: edges" in refused(lambda: ContrastiveKernel(run, 1), RunError)


def test_arguments_that_mean_nothing_are_refused():
    assert "size, channels, filters" in refused(lambda: ContrastiveKernel(KERNEL, adapt="colour"))
    for scale in ("ones", "he", 2.0):
        assert "scale=" in refused(lambda scale=scale: ContrastiveKernel(KERNEL, scale=scale))
    for extra in (None, "nonsense", 3):
        assert "extra=" in refused(lambda extra=extra: ContrastiveKernel(KERNEL, extra=extra))
    zeros = ContrastiveKernel(KERNEL * 0, scale="he_normal")
    assert "zeros cannot be scaled" in refused(lambda: zeros(KERNEL.shape))
    for kernel in (KERNEL[0, 0], KERNEL[..., :0], KERNEL * np.inf, KERNEL.astype(str)):
        refused(lambda kernel=kernel: ContrastiveKernel(kernel))


def test_a_kernel_too_large_for_a_config_is_refused_before_it_is_copied():
    huge = np.broadcast_to(np.float32(1), (64, 64, 1024, 1024))
    assert "larger than 256 MiB" in refused(lambda: ContrastiveKernel(huge))


def some_initializers():
    extra = keras.initializers.RandomNormal(stddev=0.1, seed=7)
    options = {"kernel_shape": (5, 5, 1), "scale": "lecun_normal", "adapt": True}
    return {
        "kernel": (ContrastiveKernel(KERNEL), KERNEL.shape),
        "fewer": (ContrastiveKernel(KERNEL, scale="he_normal"), (5, 5, 1, 7)),
        "more": (ContrastiveKernel(KERNEL, extra=extra, adapt=["filters"]), (6, 6, 3, 20)),
        "bias": (ContrastiveBias((KERNEL, BIAS)), (16,)),
        "fewer biases": (ContrastiveBias((KERNEL, BIAS), **options), (7,)),
    }


@pytest.mark.parametrize("case", some_initializers())
def test_the_dict_form_gives_the_same_numbers(case):
    initializer, shape = some_initializers()[case]
    written = json.loads(json.dumps(keras.initializers.serialize(initializer)))
    again = keras.initializers.get(written)
    assert type(again) is type(initializer)
    assert again.get_config() == initializer.get_config()
    np.testing.assert_array_equal(numbers(again, shape), numbers(initializer, shape))
    np.testing.assert_array_equal(numbers(initializer.clone(), shape), numbers(initializer, shape))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_numbers_come_in_the_type_that_the_layer_asks_for(dtype):
    for initializer, shape in some_initializers().values():
        assert keras.backend.standardize_dtype(initializer(shape, dtype=dtype).dtype) == dtype


def test_mixed_precision_keeps_the_kernel_in_float32():
    layer = keras.layers.Conv2D(
        16, 6, kernel_initializer=ContrastiveKernel(KERNEL), dtype="mixed_bfloat16"
    )
    layer.build((None, 12, 12, 3))
    np.testing.assert_array_equal(layer.get_weights()[0], KERNEL)


def test_channels_first_layers_get_the_same_kernel():
    layer = keras.layers.Conv2D(
        16, 6, kernel_initializer=ContrastiveKernel(KERNEL), data_format="channels_first"
    )
    layer.build((None, 3, 12, 12))
    np.testing.assert_array_equal(layer.get_weights()[0], KERNEL)


def test_a_cloned_model_starts_from_the_kernel_again():
    model = classifier(ContrastiveKernel(KERNEL), ContrastiveBias((KERNEL, BIAS)))
    model.set_weights([weight * 0 for weight in model.get_weights()])
    kernel, bias, *_ = keras.models.clone_model(model).get_weights()
    np.testing.assert_array_equal(kernel, KERNEL)
    np.testing.assert_array_equal(bias, BIAS)


@pytest.mark.parametrize("cls", [ContrastiveKernel, ContrastiveBias])
def test_a_string_without_a_run_says_which_form_to_use(cls):
    message = refused(lambda: keras.initializers.get(f"kclr>{cls.__name__}"))
    assert f"Pass the object {cls.__name__}(run)" in message


def test_a_registered_class_that_needs_no_argument_has_a_string_form(run, tmp_path):
    @keras.saving.register_keras_serializable("test_initializers")
    class Edges(ContrastiveKernel):
        def __init__(self):
            super().__init__(run)

    model = classifier("test_initializers>Edges")
    np.testing.assert_array_equal(model.get_weights()[0], KERNEL)
    model.save(tmp_path / "model.keras")
    shutil.rmtree(run)
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again.layers[0].kernel_initializer) is Edges
    np.testing.assert_array_equal(numbers(again.layers[0].kernel_initializer, KERNEL.shape), KERNEL)


def test_a_config_that_names_a_path_is_refused_and_opens_nothing(run, monkeypatch):
    def opened(*_, **__):
        raise AssertionError("a config made kclr read a file")

    monkeypatch.setattr(np, "load", opened)
    monkeypatch.setattr(Path, "glob", opened)
    for cls, path in ((ContrastiveKernel, run), (ContrastiveBias, run)):
        for key in ("run", "kernel", "bias"):
            written = {"class_name": f"kclr>{cls.__name__}", "config": {key: str(path)}}
            message = refused(lambda written=written: keras.initializers.get(written))
            assert key != "run" or "must not name a run" in message
        config = cls((KERNEL, BIAS)).get_config()
        array = "kernel" if cls is ContrastiveKernel else "bias"
        refused(lambda cls=cls, c=config | {array: str(path)}: cls.from_config(c))
        refused(lambda cls=cls, c=config | {"layer": 0}: cls.from_config(c))


def _floats(*values):
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


@pytest.mark.parametrize(
    "kernel",
    [
        None,
        [[[[1.0]]]],
        {"shape": [1, 1, 1, 1]},
        {"shape": [1, 1, 1, 1], "float32": _floats(1), "path": "x"},
        {"shape": [1, 1, 1, 2], "float32": _floats(1)},
        {"shape": [1, 1, 1, 1], "float32": _floats(1, 2)},
        {"shape": [1, 1, 1, 1], "float32": _floats(np.nan)},
        {"shape": [1, 1, 1, 1], "float32": _floats(np.inf)},
        {"shape": [1, 1, 1, 1], "float32": "*" * 8},
        {"shape": [1, 1, 1, 1], "float32": "é" * 8},
        {"shape": [1, 1, 1, 1], "float32": 1},
        {"shape": [1], "float32": _floats(1)},
        {"shape": [1, 1, -1, -1], "float32": _floats(1)},
        {"shape": [1, 1, 1, True], "float32": _floats(1)},
        {"shape": "1111", "float32": _floats(1)},
        {"shape": [2**40] * 4, "float32": _floats(1)},
        {"shape": [0, 1, 1, 1], "float32": ""},
    ],
)
def test_a_damaged_or_hostile_config_is_refused(kernel):
    config = ContrastiveKernel(KERNEL).get_config() | {"kernel": kernel}
    assert "this config's kernel" in refused(lambda: ContrastiveKernel.from_config(config))


@pytest.mark.parametrize(
    "change",
    [
        {"order": [0] * 16},
        {"order": list(range(15))},
        {"order": None},
        {"order": [0.0, *range(1, 16)]},
        {"mean_squares": {"shape": [1], "float32": _floats(1)}},
        {"mean_squares": None},
        {"kernel_shape": [6]},
    ],
)
def test_a_bias_config_that_does_not_fit_together_is_refused(change):
    config = ContrastiveBias((KERNEL, BIAS), kernel_shape=(6, 6, 3)).get_config()
    refused(lambda: ContrastiveBias.from_config(config | change))


def loads_as_expected(words):
    model = keras.models.load_model("model.keras", safe_mode=True)
    expected = np.load("expected.npz")
    for each in (model, keras.models.clone_model(model)):
        kernel, bias, *_ = each.get_weights()
        np.testing.assert_array_equal(bias, expected["bias"])
        np.testing.assert_allclose(kernel, expected["kernel"], rtol=1e-6)


def test_a_saved_classifier_loads_in_a_new_process_after_the_run_is_gone(run, tmp_path):
    model = classifier(
        ContrastiveKernel(run, scale="he_normal"),
        ContrastiveBias(run, scale="he_normal", kernel_shape=(5, 5, 3)),
        filters=8,
        size=5,
    )
    kernel, bias, *_ = model.get_weights()
    np.savez(tmp_path / "expected.npz", kernel=kernel, bias=bias)
    model.save(tmp_path / "model.keras")
    shutil.rmtree(run)
    process = Forked((), run=loads_as_expected, cwd=tmp_path, stderr=subprocess.PIPE)
    said = process.communicate()
    assert process.returncode == 0, said


# Series, raw numbers, and depthwise kernels.

SERIES = RNG.normal(size=(1, 9, 6, 16)).astype(np.float32)  # as a run of series has it
GRAY = RNG.normal(size=(5, 5, 1, 8)).astype(np.float32)


def answers(series, kernel, bias):
    """A convolution without padding in float64: series (series, length, channels)."""
    windows = np.lib.stride_tricks.sliding_window_view(series, kernel.shape[0], axis=1)
    return np.einsum("btcl,lcf->btf", windows, kernel.astype(np.float64)) + bias


def test_a_conv1d_starts_from_a_run_of_series_to_the_last_bit():
    series = RNG.normal(size=(3, 30, 6)).astype(np.float32)
    for kernel in (SERIES, SERIES[0]):
        layer = keras.layers.Conv1D(
            16,
            9,
            kernel_initializer=ContrastiveKernel((kernel, BIAS), adapt=False),
            bias_initializer=ContrastiveBias((kernel, BIAS), kernel_shape=(9, 6)),
        )
        found = layer(series)
        np.testing.assert_array_equal(layer.get_weights()[0], SERIES[0])
        np.testing.assert_allclose(found, answers(series, SERIES[0], BIAS), atol=1e-4)
    again = keras.layers.Conv1D.from_config(json.loads(json.dumps(layer.get_config())))
    again.build((None, 30, 6))
    np.testing.assert_array_equal(again.get_weights()[1], BIAS)


def test_a_conv1d_of_another_length_or_fewer_filters_is_adapted_as_an_image_of_one_line():
    for shape in ((12, 6, 16), (5, 6, 16), (9, 6, 7), (9, 6, 20)):
        initializer = ContrastiveKernel(SERIES, extra="zeros")
        wanted = numbers(initializer, (1, *shape))[0]
        np.testing.assert_array_equal(numbers(initializer, shape), wanted)
        assert initializer.kept(shape) == initializer.kept((1, *shape))
    message = refused(lambda: ContrastiveKernel(SERIES, adapt=False)((12, 6, 16)))
    assert message.startswith("the run's kernel has size 9, the layer 12.")
    assert "size 1 cannot hold" in refused(lambda: ContrastiveKernel(SERIES)((1, 6, 16)))


def test_a_kernel_of_images_in_a_conv1d_keeps_its_answers_to_what_is_flat():
    kernel = numbers(ContrastiveKernel(KERNEL), (8, 3, 16))
    wanted = KERNEL.sum(axis=(0, 1), dtype=np.float64)
    np.testing.assert_allclose(kernel.sum(axis=0), wanted, atol=1e-3)
    assert "size 6x6, the layer 1x8" in refused(
        lambda: ContrastiveKernel(KERNEL, adapt=False)((8, 3, 16))
    )


RAW = {"shift": np.array([100.0, -5, 0, 3e3, 1, 0]), "spread": np.array([50.0, 2, 1, 700, 1e-3, 1])}


@pytest.mark.parametrize("scale", [None, "he_normal"])
@pytest.mark.parametrize("form", ["run", "pair"])
def test_raw_numbers_get_the_answers_of_scaled_ones(form, scale):
    raw = RNG.normal(size=(2, 24, 6)) * RAW["spread"] + RAW["shift"]
    layer = SimpleNamespace(name="a", kernel=SERIES, bias=BIAS)
    run = SimpleNamespace(layers=[layer], scaling=SimpleNamespace(dtype="float32", **RAW))
    run, option = (run, True) if form == "run" else ((SERIES, BIAS), tuple(RAW.values()))
    options = {"raw": option, "scale": scale}
    kernel = numbers(ContrastiveKernel(run, **options), (9, 6, 16)).astype(np.float64)
    bias = numbers(ContrastiveBias(run, kernel_shape=(9, 6), **options), (16,))
    plain = [ContrastiveKernel(run, scale=scale), ContrastiveBias(run, kernel_shape=(9, 6),
                                                                  scale=scale)]  # fmt: skip
    wanted = answers((raw - RAW["shift"]) / RAW["spread"], numbers(plain[0], (9, 6, 16)),
                     numbers(plain[1], (16,)))  # fmt: skip
    np.testing.assert_allclose(answers(raw, kernel, bias), wanted, rtol=1e-4, atol=1e-2)
    made = ContrastiveKernel(run, extra="ones", **options)
    for each, shape in ((made, (9, 6, 20)), (ContrastiveBias(run, **(options | {"scale": None})),
                                             (20,))):  # fmt: skip
        again = type(each).from_config(json.loads(json.dumps(each.get_config())))
        np.testing.assert_array_equal(numbers(again, shape), numbers(each, shape))
    np.testing.assert_allclose(numbers(made, (9, 6, 20))[0, :, 18], 1 / RAW["spread"], rtol=1e-6)


def test_raw_numbers_of_one_scaling_keep_their_answers_in_other_sizes_and_channels():
    """A flat raw image of 51 (of 255) is answered as the flat scaled image of 0.2."""
    options = {"raw": (10, 205)}
    for shape in ((6, 6, 3, 16), (9, 9, 3, 16), (4, 4, 3, 16), (6, 6, 1, 16)):
        kernel = numbers(ContrastiveKernel((KERNEL, BIAS), **options), shape).astype(np.float64)
        bias = numbers(ContrastiveBias((KERNEL, BIAS), **options), (16,))
        found = 51 * kernel.sum(axis=(0, 1, 2)) + bias
        wanted = 0.2 * KERNEL.astype(np.float64).sum(axis=(0, 1, 2)) + BIAS
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_raw_is_refused_where_nobody_knows_the_scaling(run):
    assert (
        "pass a run, or raw=(shift, spread)"
        in refused(lambda: ContrastiveKernel((KERNEL, BIAS), raw=True)).lower()
    )
    assert "first layer" in refused(lambda: ContrastiveKernel(run, 1, raw=True))
    for raw in ((1,), (0, 0), (0, -1), ([1, 2], 1), ("a", 1), (np.nan, 1), 3):
        assert "raw=" in refused(lambda raw=raw: ContrastiveKernel(KERNEL, raw=raw))
    several = ContrastiveKernel(SERIES, raw=tuple(RAW.values()))
    assert "scaled differently" in refused(lambda: several((9, 3, 16)))
    assert "scaled differently" in refused(
        lambda: ContrastiveBias((SERIES, BIAS), raw=tuple(RAW.values()), kernel_shape=(9, 3))
    )


@pytest.mark.parametrize("multiplier", [1, 3, 8, 10])
def test_a_depthwise_layer_applies_the_filters_of_a_gray_run_to_each_channel(multiplier):
    bias = RNG.normal(size=8).astype(np.float32)
    pair, options = (GRAY, bias), {"depthwise": True, "scale": "he_normal"}
    layer = keras.layers.DepthwiseConv2D(
        5,
        depth_multiplier=multiplier,
        depthwise_initializer=ContrastiveKernel(pair, extra="zeros", **options),
        bias_initializer=ContrastiveBias(pair, kernel_shape=(5, 5, 4), **options),
    )
    images = RNG.random((2, 12, 12, 4)).astype(np.float32)
    found = np.asarray(layer(images)).reshape(2, 8, 8, 4, multiplier)
    gray = keras.layers.Conv2D(
        multiplier,
        5,
        kernel_initializer=ContrastiveKernel(pair, scale="he_normal", extra="zeros"),
        bias_initializer=ContrastiveBias(pair, scale="he_normal", kernel_shape=(5, 5, 1)),
    )
    for channel in range(4) if multiplier > 1 else ():
        wanted = gray(images[..., channel : channel + 1])
        np.testing.assert_allclose(found[..., channel, :], wanted, atol=1e-4)
    kernel = layer.get_weights()[0]
    assert kernel.shape == (5, 5, 4, multiplier)
    assert (kernel == kernel[:, :, :1]).all()
    again = keras.layers.DepthwiseConv2D.from_config(json.loads(json.dumps(layer.get_config())))
    again.build((None, 12, 12, 4))
    np.testing.assert_array_equal(again.get_weights()[0], kernel)
    np.testing.assert_array_equal(again.get_weights()[1], layer.get_weights()[1])


@pytest.mark.parametrize("name", ["DepthwiseConv1D", "SeparableConv1D", "SeparableConv2D"])
def test_depthwise_kernels_of_other_layers_start_from_a_gray_run(name):
    kernel = GRAY[:1] if name.endswith("1D") else GRAY
    options = {"depthwise_initializer": ContrastiveKernel(kernel, depthwise=True)}
    options |= {"depth_multiplier": 8} | ({} if "Depthwise" in name else {"filters": 6})
    layer = getattr(keras.layers, name)(kernel_size=5, **options)
    layer.build((None, 20, 3) if name.endswith("1D") else (None, 20, 20, 3))
    found = layer.get_weights()[0]
    for channel in range(3):
        wanted = kernel[0, :, 0] if name.endswith("1D") else kernel[:, :, 0]
        np.testing.assert_array_equal(found[..., channel, :], wanted)


def test_depthwise_refuses_filters_of_several_channels_and_says_what_to_use():
    message = refused(lambda: ContrastiveKernel(KERNEL, depthwise=True))
    assert message == (
        "a depthwise kernel has filters of one channel, but the run's read 3 together. Use a run "
        "that was learned on one channel (data.channels: 1), or this one in a Conv2D or Conv1D"
    )
    bias = ContrastiveBias((GRAY, BIAS[:8]), depthwise=True, kernel_shape=(5, 5, 4))
    assert "does not have 30 biases" in refused(lambda: bias((30,)))
    without = ContrastiveBias((GRAY, BIAS[:8]), depthwise=True)
    assert "kernel_shape=(height, width, channels in)" in refused(lambda: without((32,)))
    assert "neither True nor False" in refused(lambda: ContrastiveKernel(GRAY, depthwise="yes"))


@pytest.mark.parametrize(("kernel", "exact"), [(KERNEL, 16), (SERIES, 9)], ids=["2D", "1D"])
def test_a_separable_convolution_is_the_nearest_to_the_run(kernel, exact):
    """In float64, with the best approximation of each channel's matrix from its eigenvectors."""
    of_series = kernel.shape[0] == 1
    height, width, channels, filters = kernel.shape
    images = RNG.random((2, *([1] if of_series else [12]), 12, channels)).astype(np.float32)
    given = images[:, 0] if of_series else images
    kind = keras.layers.SeparableConv1D if of_series else keras.layers.SeparableConv2D
    size = width if of_series else (height, width)
    for multiplier in (3, exact):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = separable_kernels((kernel, BIAS), multiplier)
        layer = kind(
            filters,
            size,
            depth_multiplier=multiplier,
            depthwise_initializer=start.depthwise,
            pointwise_initializer=start.pointwise,
            bias_initializer=ContrastiveBias((kernel, BIAS)),
        )
        found = layer(given)
        nearest = np.zeros(kernel.shape)
        for channel in range(channels):
            own = kernel[:, :, channel].reshape(-1, filters).astype(np.float64)
            vectors = np.linalg.eigh(own.T @ own)[1][:, -multiplier:]
            nearest[:, :, channel] = (own @ vectors @ vectors.T).reshape(height, width, -1)
        windows = np.lib.stride_tricks.sliding_window_view(images, (height, width), axis=(1, 2))
        wanted = np.einsum("nyxcij,ijcf->nyxf", windows, nearest) + BIAS
        np.testing.assert_allclose(found, wanted[:, 0] if of_series else wanted, atol=2e-4)
        lost = ((nearest - kernel) ** 2).sum() / (kernel.astype(np.float64) ** 2).sum()
        assert start.kept == pytest.approx(1 - lost, abs=1e-6)
    assert start.kept == pytest.approx(1)
    again = kind.from_config(json.loads(json.dumps(layer.get_config())))
    again.build(given.shape)
    for own, other in zip(layer.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)


def test_a_separable_convolution_that_loses_much_says_so():
    with pytest.warns(UserWarning, match=r"of 1 keeps \d+% .* energy. \d+ would keep 9\d%"):
        start = separable_kernels(KERNEL, 1)
    assert start.kept < 0.9
    message = refused(lambda: separable_kernels(KERNEL, 17))
    assert message == "depth_multiplier=17: use 1 to 16; 16 holds the kernel exactly"
    small = separable_kernels(KERNEL, 6, kernel_shape=(4, 4, 3, 6), raw=(0, 255))
    assert small.pointwise.kernel.shape == (1, 1, 18, 6)
    assert small.kept == pytest.approx(1)


def test_configs_from_before_series_give_what_they_gave():
    kernel, bias = ContrastiveKernel(KERNEL).get_config(), ContrastiveBias((KERNEL, BIAS))
    for key in ("spread", "depthwise"):
        del kernel[key]
    older = bias.get_config()
    del older["depthwise"]
    found = numbers(ContrastiveKernel.from_config(kernel), KERNEL.shape)
    np.testing.assert_array_equal(found, KERNEL)
    np.testing.assert_array_equal(numbers(ContrastiveBias.from_config(older), (16,)), BIAS)


def test_a_runs_own_scaling_is_folded_in(run):
    """8-bit pictures where nothing else is said, as of older runs; and what layer.json says."""
    kernel = numbers(ContrastiveKernel(run, raw=True), KERNEL.shape)
    np.testing.assert_allclose(kernel, KERNEL / 255, rtol=1e-6)
    np.testing.assert_array_equal(numbers(ContrastiveBias(run, raw=True), (16,)), BIAS)
    facts = {"name": "edges", "block": {"filters": 16}}
    facts["scaling"] = {"dtype": "int16", "shift": [10, 20, 30], "spread": [1, 2, 4]}
    (run / "layers/01-edges/layer.json").write_text(json.dumps(facts))
    kernel = numbers(ContrastiveKernel(run, raw=True), KERNEL.shape).astype(np.float64)
    bias = numbers(ContrastiveBias(run, raw=True), (16,))
    raw = RNG.integers(-500, 500, (6, 6, 3))
    layer = keras.models.Sequential([keras.Input((6, 6, 3)), Run(run).preprocessing()])
    scaled = np.asarray(layer(raw[None].astype("float32"))[0], np.float64)
    wanted = np.einsum("yxc,yxcf->f", scaled, KERNEL.astype(np.float64)) + BIAS
    found = np.einsum("yxc,yxcf->f", raw, kernel) + bias
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-2)
