"""Blocks that normalise the contrast of every window, against windows written out in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.datasets import load_sample_image

from kclr.layers import ContrastiveConvBlock, SharedPatches
from kclr.layers.block import window_deviation

EPSILON = 0.001
KERNEL = (3, 4)


def photo(height, width, count=2):
    image = load_sample_image("china.jpg").astype(np.float32) / 255
    rows = [image[40 * k : 40 * k + height, 60 * k : 60 * k + width] for k in range(count)]
    return np.stack(rows)


def windows(images, strides, padding):
    """Float64 (batch, rows, columns, numbers), in the order of a kernel's axes."""
    if padding == "same":
        widths = []
        for size, extent, stride in zip(images.shape[1:3], KERNEL, strides, strict=True):
            needed = max((-(-size // stride) - 1) * stride + extent - size, 0)
            widths.append((needed // 2, needed - needed // 2))
        images = np.pad(images, [(0, 0), *widths, (0, 0)])
    found = sliding_window_view(images.astype(np.float64), KERNEL, (1, 2))
    found = found.transpose(0, 1, 2, 4, 5, 3)[:, :: strides[0], :: strides[1]]
    return found.reshape(*found.shape[:3], -1)


def normalized(flat):
    centred = flat - flat.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=-1, keepdims=True) + EPSILON)


def contrast_block(whitening="none", **arguments):
    """A block and what its whitening does to normalised windows, both from a random start."""
    rng = np.random.default_rng(0)
    arguments = {"pool_size": 1, "activation": None, "contrast": "patch"} | arguments
    block = ContrastiveConvBlock(
        5, KERNEL, whitening=whitening, contrast_epsilon=EPSILON, **arguments
    )
    last = block.data_format == "channels_last"
    block.build((None, 12, 13, 3) if last else (None, 3, 12, 13))
    block.bias.assign(rng.normal(size=5))
    if whitening == "none":
        return block, lambda flat: flat
    size = 36 if whitening == "zca" else 3
    mean, transform = rng.normal(size=size) / 10, rng.normal(size=(size, size)) / 5
    transform = transform + transform.T if whitening == "zca" else rng.uniform(0.5, 2, size)
    block.set_whitening(mean, transform)
    if whitening == "zca":
        return block, lambda flat: (flat - mean) @ transform
    return block, lambda flat: (flat - np.tile(mean, 12)) * np.tile(transform, 12)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("whitening", ["none", "standardize", "zca"])
def test_every_window_is_normalised_then_whitened_then_filtered(whitening, strides, padding):
    images = photo(12, 13)
    block, whiten = contrast_block(whitening, strides=strides, padding=padding)
    flat = whiten(normalized(windows(images, strides, padding)))
    expected = flat @ block.kernel.numpy().astype(np.float64).reshape(-1, 5) + block.bias.numpy()
    np.testing.assert_allclose(block(images), expected, atol=1e-4)
    for jit in (True, False):
        answer = tf.function(block, jit_compile=jit)(tf.constant(images))
        np.testing.assert_allclose(answer, expected, atol=1e-4)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("whitening", ["none", "standardize", "zca"])
def test_the_folded_kernel_in_a_block_of_the_same_contrast_answers_alike(whitening, batch_norm):
    images = photo(12, 13)
    block, _ = contrast_block(whitening)
    if batch_norm:
        plain = block
        block = ContrastiveConvBlock.from_config(plain.get_config() | {"batch_norm": True})
        block.build(images.shape)
        if whitening != "none":
            block.set_whitening(plain.whitening_mean, plain.whitening_transform)
        for _ in range(20):
            block(images, training=True)
    exported, _ = contrast_block()
    exported.set_weights(block.folded())
    np.testing.assert_allclose(exported(images), block(images, training=False), atol=1e-4)
    kernel, bias = (part.numpy() for part in exported.folded())
    again, _ = contrast_block(whitening)
    if whitening != "none":
        again.set_whitening(block.whitening_mean, block.whitening_transform)
    again.set_folded(kernel, bias)
    np.testing.assert_allclose(again(images), exported(images), atol=2e-3)


def test_brightness_and_contrast_of_an_image_do_not_count_and_flat_windows_are_silent():
    images = photo(12, 13)
    block, _ = contrast_block()
    tiny = ContrastiveConvBlock.from_config(block.get_config() | {"contrast_epsilon": 1e-6})
    tiny.build(images.shape)
    tiny.set_weights(block.get_weights())
    answer = tiny(images).numpy()
    np.testing.assert_allclose(tiny(0.5 * images + 0.3), answer, atol=0.02 * np.abs(answer).max())
    flat = np.full((1, 12, 13, 3), 0.7, np.float32)
    silent = np.broadcast_to(block.bias, (1, 10, 10, 5))
    np.testing.assert_allclose(block(flat), silent, atol=1e-4)


@pytest.mark.parametrize("slices", [True, False])
def test_shared_patches_are_the_block_on_every_patch(slices):
    crops = photo(9, 9, count=3)
    block, _ = contrast_block("zca", pool_size=2, activation="relu", padding="same")
    shared = SharedPatches(block, 8, 1, slices=slices)
    cut, _ = contrast_block("zca", pool_size=2, activation="relu")
    cut.set_weights(block.get_weights())
    expected = [cut(crops[:, r : r + 8, c : c + 8]) for r in (0, 1) for c in (0, 1)]
    np.testing.assert_allclose(shared(crops), np.stack(expected, 1), atol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_is_near_float32(policy):
    images = photo(12, 13)
    block, whiten = contrast_block("zca", dtype=policy)
    flat = whiten(normalized(windows(images, (1, 1), "valid")))
    expected = flat @ block.kernel.numpy().astype(np.float64).reshape(-1, 5) + block.bias.numpy()
    answer = tf.cast(block(images), "float32").numpy()
    assert np.abs(answer - expected).max() < 0.05 * np.abs(expected).max()


def test_channels_first_is_channels_last_turned():
    images = photo(12, 13)
    block, _ = contrast_block("zca")
    turned, _ = contrast_block("zca", data_format="channels_first")
    turned.set_weights(block.get_weights())
    answer = turned(images.transpose(0, 3, 1, 2)).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(answer, block(images), atol=2e-4)


def test_gradients_reach_the_kernel_and_the_layers_below():
    images = tf.constant(photo(12, 13))
    block, _ = contrast_block("zca", padding="same")

    def loss(inputs):
        return tf.reduce_sum(tf.cast(block(inputs), "float64") ** 2)

    with tf.GradientTape() as tape:
        tape.watch(images)
        value = loss(images)
    to_kernel, to_images = tape.gradient(value, [block.kernel.value, images])
    assert np.abs(to_kernel).max() > 0
    direction = np.random.default_rng(0).normal(size=images.shape).astype(np.float32)
    step = 1e-3 * direction
    difference = float(loss(images + step) - loss(images - step)) / 2
    np.testing.assert_allclose(float(tf.reduce_sum(to_images * step)), difference, rtol=0.01)


def test_deviation_of_maps_is_that_of_numpy_in_float64_too():
    maps = np.random.default_rng(0).normal(3, 2, size=(2, 7, 8, 6))
    expected = windows(maps, (2, 1), "same").var(axis=-1, keepdims=True)
    found = window_deviation(maps, KERNEL, (2, 1), "same", EPSILON)
    assert found.dtype == "float64"
    np.testing.assert_allclose(found, np.sqrt(expected + EPSILON), rtol=1e-10)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_deviation_of_maps_far_from_zero_keeps_its_digits_in_float32(padding):
    maps = np.random.default_rng(0).normal([[[[1000.0]]], [[[-3.0]]]], 0.1, size=(2, 9, 8, 6))
    maps = maps.astype(np.float32)
    expected = windows(maps, (1, 1), padding).var(axis=-1, keepdims=True)
    found = window_deviation(maps, KERNEL, (1, 1), padding, EPSILON)
    np.testing.assert_allclose(found, np.sqrt(expected + EPSILON), rtol=1e-3)


def test_a_functional_model_takes_images_of_any_size():
    image = keras.Input((None, None, 3))
    block, _ = contrast_block("zca", padding="same", strides=2)
    model = keras.Model(image, block(image))
    for size in (9, 14):
        images = photo(size, size + 3)
        np.testing.assert_allclose(model.predict(images, verbose=0), block(images), atol=2e-4)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="contrast must be one of 'none', 'patch'"):
        ContrastiveConvBlock(4, 3, contrast="local")
    with pytest.raises(ValueError, match="contrast_epsilon must be above 0"):
        ContrastiveConvBlock(4, 3, contrast="patch", contrast_epsilon=0.0)
