"""ContrastiveConvBlock and SharedPatches against convolutions written out in float64 numpy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.signal import correlate
from sklearn.datasets import load_sample_image

from kclr.layers import ContrastiveConvBlock, SharedPatches, fast, stacked


def photo(height, width, count=2):
    """Windows of a photograph, float32 in [0, 1]."""
    image = load_sample_image("china.jpg").astype(np.float32) / 255
    rows = [image[40 * k : 40 * k + height, 60 * k : 60 * k + width] for k in range(count)]
    return np.stack(rows)


def padded_as_same(images, kernel, strides):
    """TensorFlow's SAME: as few zeros as needed, the odd one at the bottom and right."""
    widths = [(0, 0)]
    for size, extent, stride in zip(images.shape[1:3], kernel, strides, strict=True):
        needed = max((-(-size // stride) - 1) * stride + extent - size, 0)
        widths.append((needed // 2, needed - needed // 2))
    return np.pad(images, [*widths, (0, 0)])


def convolution(images, kernel, bias, strides=(1, 1), padding="valid"):
    """Float64 (batch, height, width, filters), by scipy's correlation."""
    images = np.asarray(images, np.float64)
    if padding == "same":
        images = padded_as_same(images, kernel.shape[:2], strides)
    outputs = [
        np.concatenate(
            [correlate(image, kernel[..., f], mode="valid") for f in range(kernel.shape[-1])],
            axis=-1,
        )
        for image in images
    ]
    return np.stack(outputs)[:, :: strides[0], :: strides[1]] + bias


def pooled(maps, size, strides):
    """Float64 max-pool without padding, window by window."""
    rows = range(0, maps.shape[1] - size[0] + 1, strides[0])
    columns = range(0, maps.shape[2] - size[1] + 1, strides[1])
    return np.stack(
        [
            np.stack(
                [maps[:, r : r + size[0], c : c + size[1]].max(axis=(1, 2)) for c in columns], 1
            )
            for r in rows
        ],
        1,
    )


def twin(block, images):
    """What the block should answer to channels-last images: float64, ReLU."""
    kernel = block.kernel.numpy().astype(np.float64)
    bias = block.bias.numpy() if block.use_bias else 0.0
    maps = convolution(images, kernel, bias, block.strides, block.padding)
    return np.maximum(pooled(maps, block.pool_size, block.pool_strides), 0)


def random_arguments(rng):
    def pair(high):
        return tuple(int(v) for v in rng.integers(1, high + 1, 2))

    return {
        "filters": int(rng.integers(1, 5)),
        "kernel_size": pair(5),
        "strides": pair(3),
        "padding": str(rng.choice(["valid", "same"])),
        "pool_size": pair(3),
        "pool_strides": None if rng.random() < 0.3 else pair(3),
        "use_bias": bool(rng.random() < 0.5),
        "bias_initializer": "random_normal",
    }


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_every_geometry_gives_the_maps_and_the_shape_of_a_convolution_written_out(data_format):
    rng = np.random.default_rng(1)
    for _ in range(25):
        arguments = random_arguments(rng)
        images = photo(*rng.integers(14, 19, 2))
        block = ContrastiveConvBlock(**arguments, data_format=data_format)
        given = images if data_format == "channels_last" else images.transpose(0, 3, 1, 2)
        answer = block(given).numpy()
        assert block.compute_output_shape(given.shape) == answer.shape, arguments
        if data_format == "channels_first":
            answer = answer.transpose(0, 2, 3, 1)
        np.testing.assert_allclose(answer, twin(block, images), atol=1e-5, err_msg=str(arguments))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_float32_weights_and_is_near_float32(policy):
    images = photo(16, 16)
    block = ContrastiveConvBlock(8, 5, dtype=policy)
    answer = block(images)
    assert answer.dtype == ("bfloat16" if "bfloat" in policy else "float16")
    assert {variable.dtype for variable in block.variables} == {"float32"}
    np.testing.assert_allclose(tf.cast(answer, "float32"), twin(block, images), atol=0.03)


def whitened_block(images, whitening, **arguments):
    rng = np.random.default_rng(0)
    block = ContrastiveConvBlock(5, (3, 4), whitening=whitening, activation=None, **arguments)
    block.build(images.shape)
    size = block.whitening_mean.shape[0]
    transform = rng.normal(size=(size, size)) / size if whitening == "zca" else rng.random(size)
    if whitening == "zca":
        transform = transform + transform.T
    mean = rng.random(size)
    block.set_whitening(mean, transform)
    if block.use_bias:
        block.bias.assign(rng.normal(size=5))
    return block, mean, transform


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_whitening_is_folded_in_float32_within_a_mixed_precision_call(policy):
    images = photo(8, 8)
    block, *_ = whitened_block(images, "zca", dtype=policy)
    seen = []

    class Spy(keras.layers.Layer):
        def call(self, inputs):
            seen.extend(block.folded())
            return block(inputs)

    Spy(dtype=policy)(images)
    for within, outside in zip(seen, block.folded(), strict=True):
        assert within.dtype == tf.float32
        np.testing.assert_array_equal(within, outside)


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_folded_zca_is_the_kernel_applied_to_whitened_windows(use_bias, strides):
    images = photo(9, 11)
    block, mean, transform = whitened_block(images, "zca", use_bias=use_bias, strides=strides)
    windows = np.lib.stride_tricks.sliding_window_view(images.astype(np.float64), (3, 4), (1, 2))
    windows = windows.transpose(0, 1, 2, 4, 5, 3)[:, :: strides[0], :: strides[1]]
    whitened = (windows.reshape(*windows.shape[:3], -1) - mean) @ transform
    maps = whitened @ block.kernel.numpy().astype(np.float64).reshape(-1, 5)
    maps = maps + (block.bias.numpy() if use_bias else 0)
    np.testing.assert_allclose(block(images), pooled(maps, (2, 2), (2, 2)), atol=1e-5)
    kernel, bias = (part.numpy() for part in block.folded())
    np.testing.assert_allclose(convolution(images, kernel, bias, strides), maps, atol=1e-5)


def test_folded_standardization_is_the_kernel_applied_to_standardized_channels():
    images = photo(9, 11)
    block, mean, factors = whitened_block(images, "standardize")
    standardized = (images - mean) * factors
    maps = convolution(standardized, block.kernel.numpy(), block.bias.numpy())
    np.testing.assert_allclose(block(images), pooled(maps, (2, 2), (2, 2)), atol=1e-5)


@pytest.mark.parametrize("whitening", ["none", "standardize", "zca"])
def test_a_plain_keras_convolution_with_the_folded_kernel_is_the_block(whitening):
    images = photo(10, 10)
    block, *_ = (
        whitened_block(images, whitening)
        if whitening != "none"
        else (ContrastiveConvBlock(5, (3, 4), activation=None),)
    )
    expected = block(images)
    plain = keras.Sequential([keras.layers.Conv2D(5, (3, 4)), keras.layers.MaxPooling2D(2)])
    plain.build(images.shape)
    plain.set_weights([part.numpy() for part in block.folded()])
    np.testing.assert_allclose(plain(images), expected, atol=1e-5)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_functional_model_takes_images_of_any_size(data_format, padding):
    last = data_format == "channels_last"
    image = keras.Input((None, None, 3) if last else (3, None, None))
    block = ContrastiveConvBlock(4, 3, strides=2, padding=padding, data_format=data_format)
    model = keras.Model(image, block(image))
    assert model.output_shape == ((None, None, None, 4) if last else (None, 4, None, None))
    for size in (9, 14):
        images = photo(size, size + 3)
        given = images if last else images.transpose(0, 3, 1, 2)
        answer = model.predict(given, verbose=0)
        answer = answer if last else answer.transpose(0, 2, 3, 1)
        np.testing.assert_allclose(answer, twin(block, images), atol=1e-5)


@pytest.mark.parametrize("jit", [True, False])
def test_gradients_reach_kernel_and_bias_but_not_the_whitening(jit):
    images = photo(9, 11)
    block, *_ = whitened_block(images, "zca")

    @tf.function(jit_compile=jit)
    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(block(images))
        return tape.gradient(loss, block.trainable_variables)

    assert [variable.name for variable in block.trainable_variables] == ["kernel", "bias"]
    # The loss is linear in the bias: its gradient counts the cells.
    np.testing.assert_allclose(gradients()[1], np.full(5, 2 * 3 * 4))
    assert np.abs(gradients()[0]).max() > 0


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"filters": 0}, "filters is 0. Use 1 or more."),
        ({"filters": True}, "filters is True. Use a whole number."),
        ({"kernel_size": 2.5}, "kernel_size is 2.5. Use a whole number."),
        ({"kernel_size": (3, 3, 3)}, "kernel_size is .* or two: .height, width"),
        ({"strides": 0}, "strides is 0"),
        ({"pool_size": (2, -1)}, "pool_size is -1"),
        ({"pool_strides": 0}, "pool_strides is 0"),
        ({"padding": "SAME"}, "padding must be one of 'valid', 'same'"),
        ({"whitening": "pca"}, "whitening must be one of .*'zca'"),
        ({"data_format": "NHWC"}, "data_format must be one of"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(changed, words):
    with pytest.raises(ValueError, match=words):
        ContrastiveConvBlock(**({"filters": 4, "kernel_size": 3} | changed))


def test_numpy_numbers_are_numbers():
    block = ContrastiveConvBlock(np.int64(4), np.array([3, 3]).tolist(), strides=np.int32(2))
    assert (block.filters, block.kernel_size, block.strides) == (4, (3, 3), (2, 2))


def test_images_too_small_are_refused_with_the_cure():
    block = ContrastiveConvBlock(4, 6)
    words = "6 px is too small for a kernel of 6.*Use larger images"
    with pytest.raises(ValueError, match=words):
        block(photo(6, 9))
    block(photo(7, 9))
    with pytest.raises(ValueError, match=words):
        block(photo(6, 9))
    with pytest.raises(ValueError, match=words):
        block(keras.Input((6, 9, 3)))


def test_whitening_cannot_be_set_where_there_is_none():
    for block in (ContrastiveConvBlock(4, 3), ContrastiveConvBlock(4, 3, whitening="zca")):
        with pytest.raises(ValueError, match="has no whitening to set.*build it first"):
            block.set_whitening(np.zeros(27), np.eye(27))


@pytest.mark.parametrize("activation", ["relu", None, "softmax", keras.layers.LeakyReLU(0.2)])
def test_an_activation_acts_on_channels_in_both_data_formats(activation):
    images = photo(9, 9)
    answers = []
    for data_format in ("channels_last", "channels_first"):
        block = ContrastiveConvBlock(
            4, 3, activation=activation, data_format=data_format,
            kernel_initializer=keras.initializers.RandomNormal(seed=1),
        )  # fmt: skip
        last = data_format == "channels_last"
        answer = block(images if last else images.transpose(0, 3, 1, 2)).numpy()
        answers.append(answer if last else answer.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(*answers, atol=1e-6)


def by_patches(block, crops, patch_size, stride):
    """The block on every cut patch, (crops, patches, height, width, filters)."""
    (height, width), (down, right) = (np.broadcast_to(size, 2) for size in (patch_size, stride))
    rows = range(0, crops.shape[1] - height + 1, down)
    columns = range(0, crops.shape[2] - width + 1, right)
    cut = [block(crops[:, r : r + height, c : c + width]).numpy() for r in rows for c in columns]
    return np.stack(cut, axis=1)


GEOMETRIES = [
    # kernel, strides, pool, pool strides, patch, stride, crop
    (6, 1, 2, 2, 7, 1, 8),
    (3, 1, 2, 2, 9, 2, 14),
    (3, 1, 3, 2, 11, 1, 12),
    (3, 2, 2, 1, 9, 2, 12),
    ((2, 3), 1, (1, 2), (1, 2), 7, 3, 13),
    (4, (1, 2), (2, 1), 1, 8, 4, 12),
    (3, 1, 1, 1, 5, 1, 6),
    (3, 1, 1, 2, 6, 1, 8),
    (2, 3, 2, 2, 8, 3, 12),
    (5, 1, 2, 3, 10, 5, 20),
    (1, 1, 2, 2, 2, 1, 3),
    ((3, 5), (1, 2), (1, 2), (1, 2), (4, 11), (1, 2), (6, 15)),
    ((1, 9), 1, (1, 2), (1, 2), (1, 16), (1, 8), (1, 32)),
]


@pytest.mark.parametrize(
    ("slices", "jit"),
    [
        (True, True),  # as a training has it with XLA
        (False, False),
        pytest.param(True, False, marks=pytest.mark.full),
        pytest.param(False, True, marks=pytest.mark.full),
    ],
)
def test_shared_patches_are_the_block_on_every_patch(slices, jit):
    for kernel, strides, pool, pool_strides, patch, stride, crop in GEOMETRIES:
        block = ContrastiveConvBlock(
            4, kernel, strides, pool_size=pool, pool_strides=pool_strides,
            bias_initializer="random_normal",
        )  # fmt: skip
        shared = SharedPatches(block, patch, stride, slices=slices)
        crops = photo(*np.broadcast_to(crop, 2), count=3)
        call = tf.function(shared, jit_compile=True) if jit else shared
        answer = call(tf.constant(crops)).numpy()
        assert shared.compute_output_shape(crops.shape) == answer.shape
        expected = by_patches(block, crops, patch, stride)
        np.testing.assert_allclose(answer, expected, atol=1e-5, err_msg=f"{kernel} {patch}")


def test_shared_patches_of_a_whitened_block_train_as_cut_patches_do():
    crops = photo(8, 8, count=4)
    block, *_ = whitened_block(crops[:, :7, :7], "zca")
    shared = SharedPatches(block, 7, 1)
    gradients = []
    for answers in (
        lambda: shared(crops),
        lambda: tf.stack([block(crops[:, r : r + 7, c : c + 7]) for r in (0, 1) for c in (0, 1)]),
    ):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(answers() ** 2)
        gradients.append(tape.gradient(loss, block.kernel.value))
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-4)


def test_patches_of_a_padded_block_have_no_outside():
    block = ContrastiveConvBlock(4, 3, padding="same")
    shared = SharedPatches(block, 6, 1)
    plain = ContrastiveConvBlock(4, 3)
    plain.build((None, 6, 6, 3))
    crops = photo(8, 8)
    answer = shared(crops)
    plain.set_weights(block.get_weights())
    np.testing.assert_allclose(answer, by_patches(plain, crops, 6, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("block", "patch", "stride", "crop", "words"),
    [
        ({"strides": 2}, 7, 3, 12, "multiple of the block's"),
        ({"data_format": "channels_first"}, 7, 1, 8, "channels-last"),
        ({}, 7, 1, 6, "a crop of 6 px has no room for a patch of 7 px.*Use larger crops"),
        ({"pool_size": 6}, 7, 1, 8, "with a cell left"),
        ({}, 7, 0, 8, "stride is 0. Use 1 or more."),
        ({}, 7, 1, None, "height and width of the crops must be known"),
    ],
)
def test_patches_that_cannot_be_shared_are_refused(block, patch, stride, crop, words):
    with pytest.raises(ValueError, match=words):
        SharedPatches(ContrastiveConvBlock(4, 3, **block), patch, stride)(
            keras.Input((crop, crop, 3))
        )


def test_a_stack_is_its_layers_on_top_of_each_other():
    class Trained:
        def __init__(self, name, channels, **block):
            rng = np.random.default_rng(channels)
            self.name, self.block = name, block
            self.kernel = rng.normal(size=(3, 3, channels, block["filters"])).astype(np.float32)
            self.bias = rng.normal(size=block["filters"]).astype(np.float32)

    common = {"kernel_size": 3, "activation": "relu"}
    layers = [
        Trained("first", 3, filters=6, padding="same", **common),
        Trained("second", 6, filters=4, padding="valid", pool_strides=1, **common),
    ]
    images = photo(13, 17)
    below = pooled(convolution(images, layers[0].kernel, layers[0].bias, padding="same"),
                   (2, 2), (2, 2)).clip(0)  # fmt: skip
    above = pooled(convolution(below, layers[1].kernel, layers[1].bias), (2, 2), (1, 1)).clip(0)
    model = stacked(layers, channels=3)
    np.testing.assert_allclose(model(images), above, rtol=1e-4, atol=1e-4)
    assert [layer.name for layer in model.layers[1:]] == ["first", "second"]
    inside = stacked(layers, channels=3, padding="valid")
    assert inside(images).shape == (2, 2, 4, 4)


@pytest.mark.parametrize("whitening", ["none", "standardize", "zca"])
def test_batch_norm_is_folded_with_the_whitening(whitening):
    rng = np.random.default_rng(0)
    inputs = rng.uniform(size=(6, 9, 9, 2)).astype("float32")
    made = ContrastiveConvBlock(5, 3, whitening=whitening, batch_norm=True, pool_size=1)
    made.build(inputs.shape)
    if whitening != "none":
        size = 18 if whitening == "zca" else 2
        transform = rng.normal(size=(size, size)) if whitening == "zca" else rng.uniform(1, 2, size)
        made.set_whitening(rng.normal(size=size), transform)
    made.normalization.gamma.assign(rng.uniform(0.5, 2, 5))
    made.normalization.beta.assign(rng.normal(size=5))
    for _ in range(200):
        made(inputs, training=True)
    kernel, bias = made.folded()
    plain = ContrastiveConvBlock(5, 3, pool_size=1)
    plain.build(inputs.shape)
    plain.set_folded(kernel, bias)
    np.testing.assert_allclose(plain(inputs), made(inputs, training=False), atol=1e-4)
    # After many equal batches the moving mean and variance are the batch's.
    np.testing.assert_allclose(plain(inputs), made(inputs, training=True), atol=2e-2)


@pytest.mark.parametrize("whitening", ["none", "standardize", "zca"])
def test_set_folded_is_the_opposite_of_folded(whitening):
    rng = np.random.default_rng(0)
    made = ContrastiveConvBlock(5, 3, whitening=whitening)
    made.build((None, 9, 9, 2))
    if whitening != "none":
        size = 18 if whitening == "zca" else 2
        root = rng.normal(size=(size, size))
        transform = root @ root.T + np.eye(18) if whitening == "zca" else rng.uniform(1, 2, size)
        made.set_whitening(rng.normal(size=size), transform)
    kernel, bias = rng.normal(size=(3, 3, 2, 5)), rng.normal(size=5)
    made.set_folded(kernel, bias)
    for found, expected in zip(made.folded(), (kernel, bias), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_fused_batch_norm_is_keras_own(dtype):
    rng = np.random.default_rng(0)
    inputs = tf.cast(rng.normal(2, 3, size=(4, 5, 6, 7)), dtype)
    made, own = (
        kind(momentum=0.9, dtype=dtype if dtype != "bfloat16" else "mixed_bfloat16")
        for kind in (fast.FusedBatchNormalization, keras.layers.BatchNormalization)
    )
    tolerance = 2e-2 if dtype == "bfloat16" else 1e-5
    outputs = []
    for layer in (made, own):
        layer.build(inputs.shape)
        layer.gamma.assign(np.linspace(0.5, 2, 7))
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            answer = layer(inputs, training=True)
            loss = tf.reduce_sum(tf.cast(answer, "float32") ** 3)
        gradients = tape.gradient(loss, [inputs, layer.gamma.value, layer.beta.value])
        outputs.append([answer, *gradients, *layer.weights, layer(inputs, training=False)])
    for found, expected in zip(*outputs, strict=True):
        found, expected = (np.asarray(tf.cast(each, "float64")) for each in (found, expected))
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, atol=tolerance * scale)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_convolution_of_wide_bfloat16_maps_is_keras_own(padding):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(3, 7, 6, 64)).astype("float32")
    kernel = rng.normal(size=(3, 2, 64, 4)).astype("float32")
    outputs = []
    for dtype in ("bfloat16", "float32"):
        variable = tf.Variable(kernel)
        with tf.GradientTape() as tape:
            answer = fast.convolution(
                tf.cast(inputs, dtype), tf.cast(variable, dtype), (1, 1), padding
            )
            loss = tf.reduce_sum(tf.cast(answer, "float32") ** 2)
        found = answer, tape.gradient(loss, variable)
        outputs.append([tf.cast(each, "float64").numpy() for each in found])
    expected = keras.ops.conv(inputs, kernel, padding=padding, data_format="channels_last")
    np.testing.assert_allclose(outputs[1][0], expected, rtol=1e-4, atol=1e-3)
    for found, exact in zip(*outputs, strict=True):
        assert np.abs(found - exact).max() < 0.03 * np.abs(exact).max()


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("size", "strides"), [((4, 5), (1, 1)), ((9, 8), (2, 3)), ((5, 6), (3, 1))]
)
def test_convolution_of_few_places_is_the_sum_over_every_window(
    monkeypatch, padding, size, strides
):
    monkeypatch.setattr(fast, "_LARGE_KERNEL", 1)
    rng = np.random.default_rng(0)
    inputs, kernel = rng.normal(size=(2, *size, 3)), rng.normal(size=(3, 2, 3, 4))
    assert fast.why_windows(size, kernel.shape, strides, padding, "float32")
    variables = [tf.Variable(each.astype("float32")) for each in (inputs, kernel)]
    with tf.GradientTape(persistent=True) as tape:
        answer = fast.convolution(*(v.value() for v in variables), strides, padding)
        loss = tf.reduce_sum(answer**3)
        own = tf.nn.conv2d(*variables, strides, padding.upper())
        own_loss = tf.reduce_sum(own**3)
    np.testing.assert_allclose(answer, _convolved(inputs, kernel, strides, padding), atol=1e-4)
    for found, expected in zip(
        tape.gradient(loss, variables), tape.gradient(own_loss, variables), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def _convolved(inputs, kernel, strides, padding):
    """In float64, window by window; "same" as TensorFlow pads it."""
    area, axes = kernel.shape[:2], []
    for size, extent, step in zip(inputs.shape[1:3], area, strides, strict=True):
        places = -(-size // step) if padding == "same" else (size - extent) // step + 1
        missing = max(0, (places - 1) * step + extent - size) if padding == "same" else 0
        axes.append((places, (missing // 2, missing - missing // 2)))
    (rows, above), (columns, left) = axes
    inputs = np.pad(inputs, ((0, 0), above, left, (0, 0)))
    answer = np.zeros((len(inputs), rows, columns, kernel.shape[-1]))
    for row, column in np.ndindex(rows, columns):
        y, x = row * strides[0], column * strides[1]
        window = inputs[:, y : y + area[0], x : x + area[1]]
        answer[:, row, column] = np.tensordot(window, kernel, 3)
    return answer


def test_large_kernels_for_few_places_are_products_but_not_for_xla_files_and_gpus(monkeypatch):
    few = ((4, 4), (3, 3, 256, 512), (1, 1), "valid", "float32")
    assert fast.why_windows(*few) == "1,179,648 numbers of a kernel for 2x2 places of a map"
    assert not fast.why_windows((8, 8), *few[1:])
    assert not fast.why_windows((None, 4), *few[1:])
    assert not fast.why_windows((4, 4), (3, 3, 128, 256), *few[2:])
    with fast.usual_convolutions(False):
        assert fast.why_windows(*few)
    with fast.usual_convolutions():
        assert not fast.why_windows(*few)
    assert fast.why_windows(*few)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one"])
    assert not fast.why_windows(*few)
