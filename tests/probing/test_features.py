"""Frozen features: the same numbers as numpy's, whatever the batches, sizes and memory."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from kclr.keras_backend import dtype_policy
from kclr.layers import stacked
from kclr.pooling import Pooling
from kclr.probing.features import features
from kclr.probing.memory import room


def layer(kernel, name="conv1", **block):
    sizes = {"filters": kernel.shape[-1], "kernel_size": kernel.shape[:2]}
    bias = np.linspace(-0.1, 0.1, kernel.shape[-1], dtype=np.float32)
    return SimpleNamespace(name=name, block=sizes | block, kernel=kernel, bias=bias)


def convolved(images, kernel, bias, pool=2):
    """A block in numpy, float64: convolution, max-pool, ReLU."""
    windows = sliding_window_view(images.astype(np.float64), kernel.shape[:2], axis=(1, 2))
    maps = np.einsum("nyxchw,hwcf->nyxf", windows, kernel.astype(np.float64)) + bias
    height, width = (size // pool * pool for size in maps.shape[1:3])
    maps = sliding_window_view(maps[:, :height, :width], (pool, pool), axis=(1, 2))
    return np.maximum(maps[:, ::pool, ::pool].max(axis=(-2, -1)), 0)


def halves(maps):
    """The means over a 2x2 grid; where a side is odd, both halves have the middle."""
    height, width = maps.shape[1:3]
    rows = (slice(0, -(-height // 2)), slice(height // 2, height))
    columns = (slice(0, -(-width // 2)), slice(width // 2, width))
    return np.concatenate([maps[:, r, c].mean(axis=(1, 2)) for r in rows for c in columns], axis=-1)


@pytest.fixture(scope="module")
def images():
    from sklearn.datasets import load_sample_images

    flower = load_sample_images().images[1]
    return np.stack([flower[y : y + 32, x : x + 32] for y in (0, 150, 300) for x in (0, 200, 500)])


@pytest.fixture(scope="module")
def kernel():
    return np.random.default_rng(0).normal(0, 0.1, (6, 6, 3, 8)).astype(np.float32)


def test_features_are_those_of_a_convolution_in_numpy(images, kernel):
    first = layer(kernel)
    found = features(stacked([first], 3), images, batch_size=4)
    assert found.dtype == np.float32
    # The map is 13x13, so the grid's cells overlap.
    expected = halves(convolved(images / 255, first.kernel, first.bias))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_features_averaged_over_mirror_images(images, kernel):
    first = layer(kernel)
    mirrored = np.ascontiguousarray(images[:, :, ::-1])
    expected = [halves(convolved(each / 255, kernel, first.bias)) for each in (images, mirrored)]
    found = features(stacked([first], 3), images, Pooling(flips=True), batch_size=4)
    np.testing.assert_allclose(found, np.mean(expected, axis=0), rtol=1e-4, atol=1e-5)


def test_features_raised_to_a_power_before_the_mean_over_mirror_images(images, kernel):
    first = layer(kernel)
    mirrored = np.ascontiguousarray(images[:, :, ::-1])
    expected = [
        np.sqrt(halves(convolved(each / 255, kernel, first.bias))) for each in (images, mirrored)
    ]
    found = features(stacked([first], 3), images, Pooling(power=0.5, flips=True), batch_size=4)
    np.testing.assert_allclose(found, np.mean(expected, axis=0), rtol=1e-3, atol=1e-4)


def test_features_of_convolutions_in_bfloat16_are_those_of_float32(images, kernel):
    with dtype_policy("mixed_bfloat16"):
        model = stacked([layer(kernel)], 3)
    expected = halves(convolved(images / 255, kernel, layer(kernel).bias))
    np.testing.assert_allclose(features(model, images), expected, atol=0.02 * expected.max())


def test_features_of_all_layers_stand_side_by_side(images, kernel):
    small = np.random.default_rng(1).normal(0, 0.1, (3, 3, 8, 5)).astype(np.float32)
    first, second = layer(kernel), layer(small, "conv2")
    model = stacked([first, second], 3)
    below = convolved(images / 255, first.kernel, first.bias)
    above = convolved(below, second.kernel, second.bias)
    both = np.concatenate([halves(below), halves(above)], axis=1)
    np.testing.assert_allclose(
        features(Pooling(all_layers=True).maps(model), images), both, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(features(model, images), halves(above), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 9, 100])
def test_batches_change_nothing(images, kernel, batch_size):
    model = stacked([layer(kernel)], 3)
    np.testing.assert_allclose(
        features(model, images, batch_size=batch_size), features(model, images), rtol=1e-5
    )


def test_features_that_do_not_fit_the_memory_are_the_same_on_disk(images, kernel):
    model = stacked([layer(kernel)], 3)
    on_disk = features(model, images, memory=0)
    assert isinstance(on_disk, np.memmap)
    np.testing.assert_array_equal(on_disk, features(model, images))


def test_room_on_disk_can_be_filled_and_leaves_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    place = room((3, 4), memory=0)
    place[:] = np.arange(12).reshape(3, 4)
    assert place.sum() == 66
    assert not list(tmp_path.iterdir())


def test_pictures_of_several_sizes_have_features_of_one_length(images, kernel):
    class Mixed:
        """Batches as of `kclr.data.labels.Labelled`."""

        def __len__(self):
            return 9

        def batches(self, size):
            yield images[:4]
            yield images[4:5, :20, :27]
            yield images[5:]

    model = stacked([layer(kernel)], 3)
    found = features(model, Mixed())
    whole = features(model, images)
    np.testing.assert_allclose(found[[0, 3, 5, 8]], whole[[0, 3, 5, 8]], rtol=1e-5)
    expected = halves(convolved(images[4:5, :20, :27] / 255, kernel, layer(kernel).bias))
    np.testing.assert_allclose(found[4:5], expected, rtol=1e-4, atol=1e-5)
