import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.datasets import load_sample_image

from kclr.errors import RunError, SpecError
from kclr.initializers import ContrastiveKernel
from kclr.scaling import Scaling
from kclr.transfer import starting
from kclr.transfer.classifiers import build_classifier
from kclr.transfer.starting import initialize, lsuv

pytestmark = pytest.mark.usefixtures("without_pictures")

RNG = np.random.default_rng(0)
BLOCK = {"pool_size": [2, 2], "pool_strides": [2, 2]}


def run_layer(name, *shape, bias=True):
    kernel = RNG.normal(size=shape) / np.sqrt(np.prod(shape[:3]))
    bias = (RNG.normal(size=shape[3]) / 4).astype(np.float32) if bias else None
    return SimpleNamespace(name=name, kernel=kernel.astype(np.float32), bias=bias, block=BLOCK)


EDGES = run_layer("edges", 6, 6, 3, 16)
CORNERS = run_layer("corners", 3, 3, 16, 24)
PARTS = run_layer("parts", 3, 3, 24, 12)
RUN = SimpleNamespace(layers=[EDGES, CORNERS, PARTS])
FIRST = SimpleNamespace(layers=[EDGES])

PICTURE = load_sample_image("flower.jpg").astype(np.float32) / 255
IMAGES = np.stack(
    [PICTURE[y : y + 32, x : x + 32] for y in range(0, 384, 48) for x in range(0, 600, 75)]
)


def convolved(images, kernel, bias=0.0, same=False):
    """Convolution in float64, from its definition."""
    if same:
        sizes = [((k - 1) // 2, k // 2) for k in kernel.shape[:2]]
        images = np.pad(images, [(0, 0), *sizes, (0, 0)])
    windows = sliding_window_view(images.astype(np.float64), kernel.shape[:2], axis=(1, 2))
    return np.einsum("nyxchw,hwcf->nyxf", windows, kernel.astype(np.float64), optimize=True) + bias


def pooled(maps):
    batch, height, width, channels = maps.shape
    maps = maps[:, : height // 2 * 2, : width // 2 * 2]
    return maps.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def stack(*filters, sizes=(6, 3, 3), channels=3, bias=True, padding="valid"):
    """Convolution, max-pool and ReLU for each number of filters, and a dense layer."""
    layers = [keras.Input((32, 32, channels))]
    for count, size in zip(filters, sizes, strict=False):
        layers += [
            keras.layers.Conv2D(count, size, padding=padding, use_bias=bias),
            keras.layers.MaxPooling2D(2),
            keras.layers.ReLU(),
        ]
    layers += [keras.layers.Flatten(), keras.layers.Dense(4)]
    return keras.Sequential(layers, name="stack")


def convolutions(model):
    return [each for each in model._flatten_layers() if isinstance(each, keras.layers.Conv2D)]


def output_of(model, layer, images=IMAGES):
    return np.asarray(keras.Model(model.inputs[0], layer.output)(images))


def origins(own, learned):
    """Which of the run's filters each of the model's is, up to its scale."""
    own, learned = (each.reshape(-1, each.shape[-1]).astype(np.float64) for each in (own, learned))
    own, learned = (each / np.linalg.norm(each, axis=0) for each in (own, learned))
    similarity = learned.T @ own
    np.testing.assert_allclose(similarity.max(axis=0), 1, atol=1e-5)
    return similarity.argmax(axis=0)


def refused(call, error=SpecError):
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


def test_contrast_of_patches_is_left_out_and_said_so(recwarn):
    layers = [
        SimpleNamespace(**(vars(each) | {"block": BLOCK | {"contrast": "patch"}}))
        for each in (EDGES, CORNERS)
    ]
    with pytest.warns(
        UserWarning, match="normalisation of the run's layer edges, the run's layer cor"
    ):
        report = initialize(stack(16, 24), SimpleNamespace(layers=layers), data=IMAGES)
    left_out = ["without its per-patch contrast" in row.adaptation for row in report.rows]
    assert left_out == [True, True, False]
    recwarn.clear()
    initialize(stack(16), FIRST, data=IMAGES)
    assert not [each for each in recwarn if "contrast" in str(each.message)]


def test_the_first_convolution_answers_as_the_runs_own():
    model = stack(16)
    report = initialize(model, FIRST, scale=False, data=IMAGES)
    expected = convolved(IMAGES, EDGES.kernel, EDGES.bias)
    np.testing.assert_allclose(output_of(model, model.layers[0]), expected, atol=1e-4)
    row = report.rows[0]
    assert (row.run_layer, row.adaptation, row.frozen) == ("edges", "as learned", False)
    assert row.std_after == pytest.approx(expected.std(), rel=1e-4)
    assert len(report.rows) == 1


def test_a_deep_stack_answers_as_the_runs_own():
    model = stack(16, 24, 12)
    initialize(model, RUN, scale=False, data=IMAGES)
    maps = IMAGES
    for layer in RUN.layers:
        maps = np.maximum(pooled(convolved(maps, layer.kernel, layer.bias)), 0)
    np.testing.assert_allclose(output_of(model, model.layers[-3]), maps, atol=1e-4)


def test_an_upper_layer_reads_the_maps_that_were_kept_in_their_new_order():
    model = stack(6, 9)
    report = initialize(model, RUN, layers=2, scale=False, data=IMAGES)
    lower, upper = convolutions(model)
    kept = origins(np.asarray(lower.kernel), EDGES.kernel)
    assert len(set(kept)) == 6
    assert list(kept) != sorted(kept)
    np.testing.assert_array_equal(lower.bias, EDGES.bias[kept])
    readable = CORNERS.kernel[:, :, kept]
    filters = origins(np.asarray(upper.kernel), readable)
    np.testing.assert_allclose(upper.kernel, readable[..., filters], atol=1e-6)
    np.testing.assert_array_equal(upper.bias, CORNERS.bias[filters])
    # The same seen from outside: the run's whole stack, with the maps left out set to zero.
    maps = np.maximum(pooled(convolved(IMAGES, EDGES.kernel, EDGES.bias)), 0)
    maps[..., np.setdiff1d(range(16), kept)] = 0
    expected = convolved(maps, CORNERS.kernel, CORNERS.bias)[..., filters]
    np.testing.assert_allclose(output_of(model, upper), expected, atol=1e-4)
    assert report.rows[0].adaptation == "16 → 6 most diverse"
    assert report.rows[1].adaptation == "reads the 6 kept of 16 maps; 24 → 9 most diverse"


def test_new_filters_keep_their_own_start_and_are_not_read_above():
    model = stack(20, 24)
    lower, upper = convolutions(model)
    drawn = lower.get_weights()[0]
    report = initialize(model, RUN, layers=2, scale=False, data=IMAGES)
    np.testing.assert_array_equal(np.asarray(lower.kernel)[..., :16], EDGES.kernel)
    np.testing.assert_array_equal(np.asarray(lower.kernel)[..., 16:], drawn[..., 16:])
    np.testing.assert_array_equal(lower.bias, np.pad(EDGES.bias, (0, 4)))
    np.testing.assert_array_equal(np.asarray(upper.kernel)[:, :, :16], CORNERS.kernel)
    assert (np.asarray(upper.kernel)[:, :, 16:] == 0).all()
    assert report.rows[0].adaptation == "16 → 20, the new ones as they were"
    assert report.rows[1].adaptation == "reads 4 new maps with weight 0"


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [3, 6, 7])
def test_another_size_and_other_channels_are_adapted_as_by_the_initializer(channels, size):
    model = stack(8, sizes=(size,), channels=channels)
    report = initialize(model, FIRST, scale=False)
    expected = ContrastiveKernel(EDGES.kernel)((size, size, channels, 8))
    np.testing.assert_allclose(convolutions(model)[0].kernel, expected, atol=1e-6)
    how = report.rows[0].adaptation
    assert (f"3 → {channels} channels" in how) == (channels != 3)
    assert (f"6x6 → {size}x{size} resampled" in how) == (size != 6)


def test_a_gray_model_answers_to_gray_as_the_run_does_to_gray_in_colour():
    gray = IMAGES.mean(axis=3, keepdims=True)
    model = stack(16, channels=1)
    initialize(model, FIRST, data=gray, scale=False)
    expected = convolved(np.repeat(gray, 3, axis=3), EDGES.kernel, EDGES.bias)
    np.testing.assert_allclose(output_of(model, model.layers[0], gray), expected, atol=1e-4)


def test_a_fourth_channel_changes_nothing_before_training():
    depth = RNG.random((*IMAGES.shape[:3], 1), np.float32)
    images = np.concatenate([IMAGES, depth], axis=3)
    model = stack(16, channels=4)
    initialize(model, FIRST, data=images, scale=False)
    expected = convolved(IMAGES, EDGES.kernel, EDGES.bias)
    np.testing.assert_allclose(output_of(model, model.layers[0], images), expected, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_scaling_divides_started_layers_as_a_whole(channels):
    images = IMAGES[..., [0, 1, 2, 0]][..., :channels]
    kept, scaled = stack(6, 9, channels=channels), stack(6, 9, channels=channels)
    initialize(kept, RUN, layers=2, scale=False, data=images)
    report = initialize(scaled, RUN, layers=2, data=images)
    for index in (0, 3):
        learned = output_of(kept, kept.layers[index], images)
        now = output_of(scaled, scaled.layers[index], images)
        np.testing.assert_allclose(now, learned / learned.std(), atol=2e-4)
    stds = [output_of(scaled, scaled.layers[index], images).std() for index in (0, 3, 7)]
    np.testing.assert_allclose(stds, 1, atol=0.05)
    np.testing.assert_allclose([row.std_after for row in report.rows], stds, rtol=1e-3)
    assert "all / " in report.rows[0].adaptation
    assert report.rows[2].run_layer is None
    assert report.rows[2].adaptation.startswith("kernel / ")


def before_activation(model, layers, images):
    """Layers' outputs before their activation, by Keras' own operations on their inputs."""
    given = keras.Model(model.inputs[0], [layer.input for layer in layers])(images)
    for layer, inputs in zip(layers, given, strict=True):
        if isinstance(layer, keras.layers.Dense):
            output = keras.ops.matmul(inputs, layer.kernel)
        else:
            output = keras.ops.conv(inputs, layer.kernel, layer.strides, layer.padding)
        yield np.asarray(output + layer.bias if layer.use_bias else output)


@pytest.mark.parametrize(
    ("name", "first", "moved"),
    [
        ("VGG16", "block1_conv1", ["edges", "corners", "parts"]),
        pytest.param("ResNet50", "conv1_conv", ["edges"], marks=pytest.mark.full),
    ],
)
def test_keras_applications_start_from_a_run_with_unit_variance(name, first, moved, tmp_path):
    images = IMAGES[::4]
    model = build_classifier(f"applications:{name}", (32, 32, 3), 10)
    report = initialize(model, RUN, freeze=True, data=images)
    assert [row.run_layer for row in report.rows if row.run_layer and row.model_layer] == moved
    assert report.rows[0].model_layer == first
    layers = [each for each in model.layers if hasattr(each, "kernel")]
    for output in before_activation(model, layers, images):
        assert output.var() == pytest.approx(1, abs=0.11)
    assert len([row for row in report.rows if row.model_layer]) == len(layers)
    frozen = [row.model_layer for row in report.rows if row.frozen]
    assert frozen == [each.path for each in model.layers if not each.trainable and each.weights]
    if name == "ResNet50":
        assert report.rows[1].model_layer is None
        assert "conv2_block1_1_conv is 1x1" in report.rows[1].adaptation
    else:
        assert "maps pooled by 1, in the run by 2" in report.rows[1].adaptation
    assert np.isfinite(model(images[:2], training=True)).all()


def test_a_residual_network_takes_layer_after_layer_into_its_first_block():
    model = build_classifier("resnet", (32, 32, 3), 10, filters=16)
    report = initialize(model, RUN, data=IMAGES)
    places = [row.model_layer for row in report.rows[:3]]
    assert places == ["conv1", "stage1_block1_conv1", "stage1_block1_conv2"]
    assert "no bias here: the run's bias is not copied" in report.rows[0].adaptation
    more = SimpleNamespace(layers=[*RUN.layers, run_layer("wholes", 3, 3, 12, 8)])
    last = initialize(model, more, data=IMAGES).rows[3]
    assert last.model_layer is None
    assert "not copied" in last.adaptation


def nested_functional():
    inner = stack(16, 24)
    image = keras.Input((32, 32, 3))
    maps = keras.layers.Dropout(0.1)(keras.layers.RandomFlip()(image))
    base = keras.Model(inner.inputs[0], inner.layers[5].output, name="base")
    maps = keras.layers.BatchNormalization()(base(maps))
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(maps))


def nested_sequential():
    block = keras.Sequential([keras.layers.Conv2D(16, 6), keras.layers.LeakyReLU()])
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            block,
            keras.layers.SpatialDropout2D(0.1),
            keras.Sequential([keras.layers.Conv2D(24, 3), keras.layers.Flatten()]),
        ]
    )


def with_operations():
    image = keras.Input((32, 32, 3))
    maps = keras.layers.Conv2D(16, 6)(image * 2 - 1)
    maps = keras.ops.relu(keras.ops.max_pool(maps, 2)) * 3
    return keras.Model(image, keras.ops.mean(keras.layers.Conv2D(24, 3)(maps), axis=(1, 2)))


def beside_another_branch():
    image = keras.Input((32, 32, 3))
    maps = keras.layers.Conv2D(16, 6, activation="relu")(image)
    narrow = keras.layers.Conv2D(8, 1)(maps)
    wide = keras.layers.Conv2D(24, 3, padding="same")(maps)
    return keras.Model(image, keras.layers.Concatenate()([narrow, wide]))


def activation_that_is_a_layer():
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(16, 6, activation=keras.layers.LeakyReLU()),
            keras.layers.Conv2D(24, 3, activation=keras.layers.PReLU()),
        ]
    )


class Written(keras.Model):
    def __init__(self):
        super().__init__()
        # The order of the attributes is not the order of the calls.
        self.second = keras.layers.Conv2D(24, 3)
        self.block = Block()

    def call(self, images):
        return self.second(self.block(images))


class Block(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.activate = keras.layers.ReLU()
        self.convolution = keras.layers.Conv2D(16, 6)

    def call(self, images):
        return self.activate(self.convolution(images))


@pytest.mark.parametrize(
    "build",
    [
        nested_functional,
        nested_sequential,
        with_operations,
        beside_another_branch,
        activation_that_is_a_layer,
        Written,
    ],
)
def test_convolutions_are_found_however_the_model_is_written(build):
    model = build()
    report = initialize(model, RUN, layers=["edges", "corners"], scale=False, data=IMAGES)
    learned = [each for each in convolutions(model) if each.kernel_size != (1, 1)]
    first, second = sorted(learned, key=lambda each: each.filters)
    np.testing.assert_array_equal(first.kernel, EDGES.kernel)
    np.testing.assert_array_equal(second.kernel, CORNERS.kernel)
    assert [row.model_layer for row in report.rows] == [first.path, second.path]
    outputs = model(IMAGES[:2])
    initialize(model, RUN, layers=2, data=IMAGES)
    assert outputs.shape == model(IMAGES[:2]).shape


def behind(between, after=None):
    image = keras.Input((32, 32, 3))
    maps = between(keras.layers.Conv2D(16, 6, activation="relu", name="first")(image))
    maps = (after or keras.layers.Conv2D(24, 3, name="next"))(maps)
    return keras.Model(image, maps)


def add(maps):
    return keras.layers.Add(name="sum")([maps, keras.layers.MaxPooling2D(3, 1, "same")(maps)])


def permuted(maps):
    return keras.layers.Lambda(lambda x: x[..., ::-1], name="turn")(maps)


def concatenated(maps):
    return keras.layers.Concatenate(name="both")([maps, keras.ops.negative(maps)])


def padded(maps):
    return keras.ops.pad(maps, [(0, 0), (0, 0), (0, 0), (1, 1)])


def squeezed(maps):
    weights = keras.layers.GlobalAveragePooling2D(keepdims=True)(maps)
    return keras.layers.Multiply(name="squeeze")([maps, weights])


@pytest.mark.parametrize(
    ("between", "after", "reason"),
    [
        (add, None, "next comes after sum"),
        (permuted, None, "next comes after turn"),
        (concatenated, None, "next comes after both"),
        (squeezed, None, "next comes after squeeze"),
        (padded, None, "next sees 18 channels"),
        (keras.layers.Identity(), keras.layers.Conv2D(24, 1, name="next"), "next is 1x1"),
        (
            keras.layers.Identity(),
            keras.layers.Conv2D(24, 3, groups=4, name="next"),
            "next is a grouped convolution",
        ),
        (
            keras.layers.Identity(),
            keras.layers.DepthwiseConv2D(3, name="next"),
            "next is a DepthwiseConv2D",
        ),
        (keras.layers.Flatten(), keras.layers.Dense(24, name="next"), "next is a Dense"),
    ],
)
def test_a_convolution_that_sees_something_else_is_not_started(between, after, reason):
    model = behind(between, after)
    before = model.get_layer("next").get_weights()
    message = refused(lambda: initialize(model, RUN, layers=2, data=IMAGES))
    assert "'corners' does not fit" in message
    assert reason in message
    report = initialize(model, RUN, scale=False, data=IMAGES)
    assert report.rows[0].model_layer == "first"
    assert (report.rows[1].run_layer, report.rows[1].model_layer) == ("corners", None)
    assert reason in report.rows[1].adaptation
    for weight, old in zip(model.get_layer("next").weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_a_model_without_a_first_convolution_is_refused():
    dense = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    assert "is a Dense" in refused(lambda: initialize(dense, FIRST))
    pointwise = stack(16, sizes=(1,))
    assert "is 1x1" in refused(lambda: initialize(pointwise, FIRST))
    image, vector = keras.Input((8, 8, 3)), keras.Input((3,))
    flat = keras.layers.Flatten()(image)
    two = keras.Model([image, vector], keras.layers.Concatenate()([flat, vector]))
    assert "one input, of images" in refused(lambda: initialize(two, FIRST))
    features = keras.Sequential([keras.Input((8, 8, 64)), keras.layers.Conv2D(16, 3)])
    assert "64 channels" in refused(lambda: initialize(features, FIRST))


def test_which_layers_of_the_run_is_said_by_number_or_name():
    for layers in (1, ["edges"], "edges"):
        report = initialize(stack(16, 24), RUN, layers=layers, scale=False, data=IMAGES)
        assert [row.run_layer for row in report.rows] == ["edges"]
    for layers in (0, 4, ["corners"], ["corners", "edges"], ["edgs"], []):
        message = refused(lambda layers=layers: initialize(stack(16, 24), RUN, layers=layers))
        assert "edges, corners, parts" in message


def test_frozen_layers_stay_as_they_are_in_training():
    model = stack(8, 9)
    report = initialize(model, RUN, layers=1, freeze=True, data=IMAGES)
    lower, upper = convolutions(model)
    assert (lower.trainable, upper.trainable) == (False, True)
    assert [row.frozen for row in report.rows] == [True, False, False]
    before = lower.get_weights()[0], upper.get_weights()[0]
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(IMAGES, np.arange(len(IMAGES)) % 4, verbose=0)
    np.testing.assert_array_equal(lower.kernel, before[0])
    assert (np.asarray(upper.kernel) != before[1]).any()


def test_layers_that_were_frozen_before_are_not_scaled():
    model = stack(8, 9)
    upper = convolutions(model)[1]
    upper.trainable = False
    before = upper.get_weights()[0]
    report = initialize(model, FIRST, data=IMAGES)
    np.testing.assert_array_equal(upper.kernel, before)
    assert upper.path not in [row.model_layer for row in report.rows]


def test_a_convolution_without_a_bias_leaves_the_runs_out_and_says_so():
    report = initialize(stack(16, bias=False), FIRST, scale=False, data=IMAGES)
    assert report.rows[0].adaptation == "no bias here: the run's bias is not copied"
    no_bias = SimpleNamespace(layers=[run_layer("edges", 6, 6, 3, 16, bias=False)])
    for bias in (True, False):
        model = stack(16, bias=bias)
        assert (
            initialize(model, no_bias, scale=False, data=IMAGES).rows[0].adaptation == "as learned"
        )
    model = stack(16)
    initialize(model, no_bias, scale=False, data=IMAGES)
    np.testing.assert_array_equal(convolutions(model)[0].bias, np.zeros(16))


def test_what_changes_images_inside_the_model_is_said():
    image = keras.Input((32, 32, 3))
    maps = keras.layers.Conv2D(16, 6)(keras.layers.Rescaling(2.0, -1.0)(image))
    report = initialize(keras.Model(image, maps), FIRST, data=IMAGES)
    assert "sees [0, 1] as -1 to 1, which the run did not" in report.rows[0].adaptation


def test_batch_normalisation_gets_the_variance_that_it_starts_from():
    model = build_classifier("vgg", (32, 32, 3), 10, depth=11, filters=8)
    initialize(model, RUN, data=IMAGES)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            given = output_of(model, SimpleNamespace(output=layer.input))
            assert given.var() == pytest.approx(1, abs=0.11)
            np.testing.assert_array_equal(layer.moving_variance, np.ones(given.shape[3]))
            np.testing.assert_array_equal(layer.moving_mean, np.zeros(given.shape[3]))


def test_images_come_as_arrays_data_sets_and_bytes():
    as_bytes = (IMAGES * 255).round().astype(np.uint8)
    labels = np.arange(len(IMAGES))
    forms = [
        IMAGES,
        as_bytes,
        list(IMAGES),
        tf.data.Dataset.from_tensor_slices(IMAGES).batch(7),
        tf.data.Dataset.from_tensor_slices((as_bytes, labels)).batch(16).repeat(),
    ]
    model = stack(8, 9)
    weights = model.get_weights()
    results = []
    for data in forms:
        model.set_weights(weights)
        report = initialize(model, RUN, layers=2, data=data)
        results.append(model.get_weights())
        assert "of the given images" in report.data
    for other in results[1:4]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)


def test_a_few_images_spread_over_a_large_array_are_enough():
    class Large:
        shape, dtype, asked = (60_000, 32, 32, 3), np.float32, []

        def __len__(self):
            return self.shape[0]

        def __getitem__(self, index):
            self.asked.append(index)
            return IMAGES[index % len(IMAGES)]

    data = Large()
    assert len(lsuv(stack(8), data)) == 2
    assert len(data.asked) == 256
    assert (min(data.asked), max(data.asked)) == (0, 59_999)


@pytest.mark.parametrize("shape", [(32, 32, 1), (24, 40, 3), (70, 70, 4), (None, None, 3)])
def test_without_data_photographs_are_used(shape):
    image = keras.Input(shape)
    maps = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 6)(image))
    report = initialize(keras.Model(image, keras.layers.Dense(3)(maps)), FIRST)
    assert "photographs" in report.data
    assert report.rows[-1].std_after == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (IMAGES * 255, "image values are from 0 to 255"),
        (IMAGES[:, :16], "images are (16, 32, 3), but the model takes (32, 32, 3)"),
        (IMAGES.astype(int), "Use uint8, or floats in [0, 1]"),
        (IMAGES * np.nan, "not finite"),
        (IMAGES[0, 0], "(images, height, width, channels) is needed"),
        (IMAGES[:0], "(images, height, width, channels) is needed"),
        (tf.data.Dataset.from_tensor_slices(IMAGES), "Add .batch(128)"),
        (tf.data.Dataset.from_tensor_slices(IMAGES[:0]).batch(2), "is empty"),
    ],
)
def test_data_that_are_no_images_for_the_model_are_refused(data, words):
    model = stack(8)
    before = model.get_weights()
    assert words in refused(lambda: initialize(model, FIRST, data=data))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_model_of_unknown_shape_asks_for_data():
    assert "Pass data" in refused(lambda: initialize(Written(), RUN))


def test_a_started_model_loads_in_safe_mode(tmp_path):
    model = build_classifier("zhao", (32, 32, 3), 10, filters=(8, 12), dense_units=16)
    initialize(model, RUN, layers=2, freeze=True, data=IMAGES)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_allclose(again(IMAGES), model(IMAGES), atol=1e-5)
    assert [layer.trainable for layer in convolutions(again)] == [False, False]


def test_a_run_is_read_from_its_directory(tmp_path):
    (tmp_path / "spec.yaml").write_text("")
    for index, layer in enumerate((EDGES, CORNERS), 1):
        folder = tmp_path / f"layers/{index:02d}-{layer.name}"
        folder.mkdir(parents=True)
        np.save(folder / "kernel.npy", layer.kernel)
        np.save(folder / "bias.npy", layer.bias)
        block = BLOCK | {"filters": layer.kernel.shape[3]}
        (folder / "layer.json").write_text(json.dumps({"name": layer.name, "block": block}))
    model = stack(16, 24, padding="same")
    report = initialize(model, tmp_path, scale=False, data=IMAGES)
    assert [row.run_layer for row in report.rows] == ["edges", "corners"]
    np.testing.assert_array_equal(convolutions(model)[1].kernel, CORNERS.kernel)
    assert "is not a run" in refused(lambda: initialize(model, tmp_path / "layers"), RunError)


def test_the_report_is_a_table_with_a_row_for_every_layer():
    model = stack(6, 9)
    report = initialize(model, RUN, layers=1, freeze=True, data=IMAGES)
    text = str(report)
    for word in ("edges", "16 → 6 most diverse", "frozen", "64 of the given images"):
        assert word in text
    assert all(each.path in text for each in (*convolutions(model), model.layers[-1]))
    with pytest.raises(AttributeError):
        report.rows[0].frozen = False


def test_a_model_under_mixed_precision_is_started_too():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = stack(16, 24)
    finally:
        keras.config.set_dtype_policy(policy)
    report = initialize(model, RUN, layers=2, data=IMAGES)
    assert [row.model_layer for row in report.rows[:2]] == [c.path for c in convolutions(model)]
    assert all(row.std_after == pytest.approx(1, abs=0.06) for row in report.rows)


def test_the_model_is_left_without_a_trace_of_having_been_watched(monkeypatch):
    model = nested_functional()
    names = [set(vars(layer)) for layer in model._flatten_layers()]
    initialize(model, RUN, layers=2, data=IMAGES)
    assert [set(vars(layer)) for layer in model._flatten_layers()] == names
    monkeypatch.setattr("kclr.transfer.lsuv.standard_deviation", lambda output: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lsuv(model, IMAGES)
    assert [set(vars(layer)) for layer in model._flatten_layers()] == names
    assert convolutions(model)[0].activation is keras.activations.linear


def activated():
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(8, 5, activation="relu", kernel_initializer="he_normal"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(6, 3, activation="tanh", bias_initializer="ones"),
            keras.layers.Flatten(),
            keras.layers.Dense(5, activation="softmax"),
        ]
    )


def test_lsuv_is_its_papers_algorithm():
    model = activated()
    own = [np.array(weight, np.float64) for weight in model.get_weights()]
    scaled = lsuv(model, IMAGES, tolerance=0.001)
    # Algorithm 1 in float64, layer by layer: W = W / sqrt(var) until |var - 1| < tolerance.
    maps = IMAGES.astype(np.float64)
    for index, after in enumerate([lambda x: pooled(np.maximum(x, 0)), np.tanh, None]):
        for _ in range(11):
            kernel, bias = own[2 * index : 2 * index + 2]
            if kernel.ndim == 4:
                output = convolved(maps, kernel, bias)
            else:
                output = maps.reshape(len(maps), -1) @ kernel + bias
            if abs(output.var() - 1) < 0.001:
                break
            own[2 * index] = kernel / output.std()
        np.testing.assert_allclose(scaled[index].std_after, output.std(), rtol=1e-4)
        maps = after(output) if after else None
    for weight, expected in zip(model.get_weights(), own, strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-3, atol=1e-5)
    assert [each.layer for each in scaled] == [each for each in model.layers if each.weights]


def test_lsuv_can_start_from_orthonormal_kernels_as_in_its_paper():
    models = activated(), activated()
    for model in models:
        lsuv(model, IMAGES, orthonormal=True, seed=3)
        layers = [each for each in model.layers if each.weights]
        for layer, output in zip(layers, before_activation(model, layers, IMAGES), strict=True):
            kernel = np.asarray(layer.kernel).reshape(-1, layer.kernel.shape[-1])
            gram = kernel.T @ kernel
            np.testing.assert_allclose(gram / gram[0, 0], np.eye(len(gram)), atol=1e-5)
            assert output.var() == pytest.approx(1, abs=0.1)
    for one, two in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, two)
    same = keras.Sequential([keras.Input((1, 1, 9)), keras.layers.Dense(9), keras.layers.Dense(9)])
    lsuv(same, RNG.random((500, 1, 1, 9), np.float32), orthonormal=True, seed=3)
    first, second = (np.asarray(layer.kernel) for layer in same.layers)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.9


def test_lsuv_scales_only_the_layers_that_it_is_given():
    model = activated()
    before = model.get_weights()
    scaled = lsuv(model, IMAGES, [model.layers[2]])
    changed = [(a != b).any() for a, b in zip(before, model.get_weights(), strict=True)]
    assert changed == [False, False, True, False, False, False]
    assert [each.layer for each in scaled] == [model.layers[2]]
    message = refused(lambda: lsuv(model, IMAGES, [model.layers[1]]))
    assert "is not one of Conv1D, Conv2D, Dense" in message


def test_lsuv_stops_after_the_most_iterations():
    model = activated()
    before = model.get_weights()
    scaled = lsuv(model, IMAGES, most_iterations=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert all(each.std_before == each.std_after for each in scaled)
    # Biases of 0 and 9 alone have a variance above 1, whatever the kernel.
    model.layers[2].bias.assign([0, 9, 0, 9, 0, 9])
    stuck = lsuv(model, IMAGES, most_iterations=3)[1]
    assert stuck.std_after > 1.1
    assert np.isfinite(model(IMAGES)).all()


def test_a_layer_whose_output_does_not_vary_keeps_its_kernel():
    model = activated()
    model.layers[0].bias.assign(np.full(8, -1e6))
    before = model.layers[2].get_weights()[0]
    scaled = lsuv(model, IMAGES)
    assert scaled[1].std_after == 0
    np.testing.assert_array_equal(model.layers[2].kernel, before)


@pytest.mark.parametrize(
    ("pool", "size", "noted"),
    [
        ([2, 1], (4, 8), []),
        ([2, 1], (8, 8), ["maps pooled by 1, in the run by 2x1"]),
        ([2, 2], (4, 8), ["maps pooled by 2x1, in the run by 2"]),
        (2, (4, 4), []),
    ],
)
def test_maps_that_are_pooled_otherwise_on_either_side_are_noted(pool, size, noted):
    layer = SimpleNamespace(block={"pool_size": pool, "pool_strides": pool})
    below = layer, SimpleNamespace(output=np.zeros((1, 8, 8, 3)))
    assert starting._notes(below, SimpleNamespace(inputs=[np.zeros((1, *size, 3))])) == noted


STROKES = run_layer("strokes", 1, 9, 6, 16)
GAITS = run_layer("gaits", 1, 5, 16, 24)
STROKES.block = GAITS.block = {"pool_size": [1, 2], "pool_strides": [1, 2]}
OF_SERIES = SimpleNamespace(layers=[STROKES, GAITS])
SERIES = 3 * RNG.normal(size=(40, 64, 6)).astype(np.float32)


def of_series(*filters, sizes=(9, 5), channels=6, pool=2):
    layers = [keras.Input((64, channels))]
    for count, size in zip(filters, sizes, strict=False):
        layers += [
            keras.layers.Conv1D(count, size),
            keras.layers.MaxPooling1D(pool),
            keras.layers.ReLU(),
        ]
    layers += [keras.layers.Flatten(), keras.layers.Dense(4)]
    return keras.Sequential(layers, name="of_series")


def test_a_model_of_series_answers_as_the_runs_own():
    model = of_series(16, 24)
    report = initialize(model, OF_SERIES, scale=False, data=SERIES)
    first, second = (each for each in model.layers if isinstance(each, keras.layers.Conv1D))
    np.testing.assert_array_equal(first.kernel, STROKES.kernel[0])
    maps = convolved(SERIES[:, None], STROKES.kernel, STROKES.bias)[:, 0]
    np.testing.assert_allclose(output_of(model, first, SERIES), maps, atol=1e-4)
    maps = np.maximum(maps[:, :56].reshape(40, 28, 2, 16).max(axis=2), 0)
    maps = convolved(maps[:, None], GAITS.kernel, GAITS.bias)[:, 0]
    np.testing.assert_allclose(output_of(model, second, SERIES), maps, atol=1e-4)
    assert [row.adaptation for row in report.rows] == ["as learned", "as learned"]
    assert report.data == "40 of the given series"


def test_a_smaller_model_of_series_is_adapted_and_has_unit_variance():
    model = of_series(7, 12, sizes=(12, 3))
    report = initialize(model, OF_SERIES, data=tf.data.Dataset.from_tensor_slices(SERIES).batch(8))
    first, second, *_ = report.rows
    assert "1x9 → 1x12 resampled; 16 → 7 most diverse" in first.adaptation
    assert "reads the 7 kept of 16 maps" in second.adaptation
    assert [row.std_after for row in report.rows] == pytest.approx([1, 1, 1], abs=0.05)
    learned = np.asarray(ContrastiveKernel(STROKES.kernel)((12, 6, 7)))
    kernel = np.asarray(model.layers[0].kernel)
    np.testing.assert_allclose(kernel / learned, (kernel / learned).flat[0], rtol=1e-3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "Pass data: a few series"),
        (SERIES[:, :32], "series are (32, 6), but the model takes (64, 6)"),
        (SERIES * np.nan, "not finite. Use numbers, scaled as the model takes"),
        (SERIES[0, 0], "(series, length, channels) is needed"),
        (tf.data.Dataset.from_tensor_slices(SERIES), "Add .batch(128)"),
    ],
)
def test_data_that_are_no_series_for_the_model_are_refused(data, words):
    assert words in refused(lambda: initialize(of_series(8), OF_SERIES, data=data))


def test_series_in_a_model_of_other_channels_or_pools_are_said():
    model = of_series(16, 24, channels=2, pool=4)
    report = initialize(model, OF_SERIES, data=SERIES[..., :2])
    assert "6 → 2 channels" in report.rows[0].adaptation
    assert "maps pooled by 1x4, in the run by 1x2" in report.rows[1].adaptation


def test_images_that_the_run_saw_standardised_are_measured_as_the_model_takes_them():
    scaling = Scaling("int16", (100, 200, -50), (40, 30, 20))
    run = SimpleNamespace(layers=[EDGES], scaling=scaling)
    raw = RNG.integers(-200, 500, (12, 32, 32, 3)).astype(np.int16)
    layers = [keras.Input((32, 32, 3)), scaling.layer(), keras.layers.Conv2D(16, 6)]
    model = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(4)])
    assert "Pass data: a few images" in refused(lambda: initialize(model, run))
    report = initialize(model, run, data=raw)
    assert report.rows[0].adaptation.startswith("as learned; all / ")
    assert [row.std_after for row in report.rows] == pytest.approx([1, 1], abs=0.05)
    seen = (raw - np.array(scaling.shift)) / np.array(scaling.spread)
    wanted = convolved(seen, EDGES.kernel, EDGES.bias)
    found = output_of(model, model.layers[1], raw.astype(np.float32))
    np.testing.assert_allclose(found, wanted / wanted.std(), atol=1e-3)
    bytes_seen = SimpleNamespace(layers=[EDGES], scaling=Scaling("uint16", (0,), (65535,)))
    assert "image values are from" in refused(
        lambda: initialize(stack(8), bytes_seen, data=raw / 1)
    )
