import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_sample_image

from kclr import kernels

PICTURE = load_sample_image("china.jpg") / 255.0


@pytest.fixture(scope="module")
def patches():
    """200 real colour patches of 6x6, float64 in [0, 1]."""
    rng = np.random.default_rng(0)
    corners = zip(rng.integers(0, 400, 200), rng.integers(0, 600, 200), strict=True)
    return np.stack([PICTURE[y : y + 6, x : x + 6] for y, x in corners])


@pytest.fixture(scope="module")
def kernel():
    return np.random.default_rng(1).normal(size=(6, 6, 3, 20))


def responses(patches, kernel):
    return np.einsum("nhwc,hwcf->nf", patches, kernel)


@pytest.mark.parametrize(("size", "new_size"), [(6, 6), (6, 9), (6, 12), (6, 3), (5, 2), (1, 4)])
def test_interpolation_is_tensorflow_antialiased_resize(size, new_size):
    expected = tf.image.resize(np.eye(size)[:, None], (new_size, 1), antialias=True)[:, 0]
    np.testing.assert_allclose(kernels.interpolation(size, new_size), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(7, 7), (8, 8), (12, 9), (6, 15)])
def test_a_larger_kernel_answers_to_an_enlarged_patch_as_the_old_one_did(patches, kernel, size):
    enlarged = tf.image.resize(patches, size).numpy().astype(np.float64)
    new = responses(enlarged, kernels.resample(kernel, size))
    np.testing.assert_allclose(new, responses(patches, kernel), atol=2e-5)


@pytest.mark.parametrize(("size", "correlation"), [((5, 5), 0.95), ((4, 4), 0.9), ((3, 4), 0.85)])
def test_a_smaller_kernel_answers_nearly_the_same(patches, size, correlation):
    # A smaller kernel cannot hold the finest detail: edges, not noise.
    edge = np.zeros((6, 6, 3, 2))
    edge[:, :3, :, 0], edge[:, 3:, :, 0] = 1, -1
    edge[:3, :, 0, 1], edge[3:, :, 2, 1] = 1, -1
    shrunk = tf.image.resize(patches, size, antialias=True).numpy().astype(np.float64)
    old, new = responses(patches, edge), responses(shrunk, kernels.resample(edge, size))
    for index in range(2):
        assert np.corrcoef(old[:, index], new[:, index])[0, 1] > correlation
    np.testing.assert_allclose(new.std(axis=0), old.std(axis=0), rtol=0.25)


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (4, 5), (7, 7), (11, 3)])
def test_a_resampled_kernel_answers_the_same_to_a_flat_patch(kernel, size):
    new = kernels.resample(kernel, size).sum(axis=(0, 1))
    np.testing.assert_allclose(new, kernel.sum(axis=(0, 1)), atol=1e-10)


def test_a_kernel_of_its_own_size_is_left_as_it_is(kernel):
    np.testing.assert_allclose(kernels.resample(kernel, (6, 6)), kernel, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_equal_channels_get_the_answer_they_got_before(patches, kernel, channels):
    gray = patches.mean(axis=3, keepdims=True)
    new = responses(np.repeat(gray, channels, axis=3), kernels.with_channels(kernel, channels))
    np.testing.assert_allclose(new, responses(np.repeat(gray, 3, axis=3), kernel))


def test_a_gray_kernel_answers_the_same_to_a_gray_picture_in_colour(patches, kernel):
    gray, gray_kernel = patches[..., :1], kernel[:, :, :1]
    new = responses(np.repeat(gray, 3, axis=3), kernels.with_channels(gray_kernel, 3))
    np.testing.assert_allclose(new, responses(gray, gray_kernel))


def test_a_fourth_channel_changes_nothing_before_training(patches, kernel):
    depth = np.random.default_rng(2).random((*patches.shape[:3], 1))
    new = responses(np.concatenate([patches, depth], axis=3), kernels.with_channels(kernel, 4))
    np.testing.assert_allclose(new, responses(patches, kernel))


def cosine_distances(kernel):
    filters = kernel.reshape(-1, kernel.shape[-1])
    filters = filters / np.linalg.norm(filters, axis=0)
    return 1 - filters.T @ filters


def test_every_filter_left_out_is_nearer_to_a_kept_one_than_kept_ones_are_to_each_other(kernel):
    kept = kernels.most_diverse(kernel, 8)
    distances = cosine_distances(kernel)
    left_out = np.setdiff1d(np.arange(20), kept)
    among_kept = distances[np.ix_(kept, kept)][~np.eye(8, dtype=bool)]
    assert distances[np.ix_(left_out, kept)].min(axis=1).max() <= among_kept.min()


def test_copies_of_a_filter_are_not_kept_while_others_are_left(kernel):
    copies = np.concatenate([kernel[..., [0, 0, 0]] * [1, 1.01, 0.5], kernel[..., 1:]], axis=3)
    kept = kernels.most_diverse(copies, 20)
    assert len(set(kept) & {0, 1, 2}) == 1


def test_a_filter_and_its_negative_are_both_kept(kernel):
    strong = 3 * kernel[..., :1]
    both = np.concatenate([strong, kernel[..., 1:5], -strong], axis=3)
    assert set(kernels.most_diverse(both, 2)) == {0, 5}


def test_fewer_filters_are_the_first_of_more(kernel):
    all_of_them = kernels.most_diverse(kernel, 20)
    assert sorted(all_of_them) == list(range(20))
    for count in (1, 7, 19):
        np.testing.assert_array_equal(kernels.most_diverse(kernel, count), all_of_them[:count])


def test_filters_of_zeros_are_kept_last(kernel):
    dead = kernel.copy()
    dead[..., [0, 3]] = 0
    assert set(kernels.most_diverse(dead, 20)[-2:]) == {0, 3}
    np.testing.assert_array_equal(kernels.most_diverse(dead * 0, 20), np.arange(20))


def test_more_filters_than_weights_can_still_be_told_apart():
    directions = np.random.default_rng(3).normal(size=(1, 2, 1, 12))
    kept = kernels.most_diverse(directions, 6)
    assert cosine_distances(directions)[np.ix_(kept, kept)][~np.eye(6, dtype=bool)].min() > 0.01


def test_colour_filters_are_not_kept_for_gray_pictures(kernel):
    red_minus_blue = kernel.mean(axis=2, keepdims=True) * np.array([1, 0.01, -1])[:, None]
    mixed = np.concatenate([red_minus_blue, kernel[..., :10]], axis=3)
    fitted, weights = kernels.fit(mixed, (6, 6, 1))
    assert (kernels.most_diverse(fitted, 10, weights) >= 20).all()
    in_colour, unchanged = kernels.fit(mixed, (6, 6, 3))
    np.testing.assert_array_equal(unchanged, 1)
    assert (kernels.most_diverse(in_colour, 10, unchanged) < 20).any()


def test_kernels_of_keras_own_resize_agree_for_a_whole_picture(kernel):
    """Not only patch by patch: a picture of twice the size, seen through the larger kernel."""
    smooth = keras.ops.image.resize(PICTURE[:64, :64].astype("float32")[None], (32, 32))
    double = tf.image.resize(smooth, (64, 64)).numpy()
    edge = np.zeros((4, 4, 3, 1), np.float32)
    edge[:, :2], edge[:, 2:] = 1, -1
    old = tf.nn.conv2d(smooth, edge, 1, "VALID").numpy().ravel()
    new = tf.nn.conv2d(double, kernels.resample(edge, (8, 8)).astype("float32"), 2, "VALID")
    assert np.corrcoef(old, new.numpy().ravel())[0, 1] > 0.98
