"""Whitening: windows come out decorrelated, whatever batches their statistics came in."""

import numpy as np
import pytest
from sklearn.datasets import load_sample_image
from sklearn.decomposition import PCA
from sklearn.feature_extraction.image import extract_patches_2d

from kclr.whitening import WindowStatistics, contrast_normalized, standardizing, zca

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture(scope="module")
def windows():
    image = load_sample_image("flower.jpg")
    patches = extract_patches_2d(image, (4, 4), max_patches=3000, random_state=0)
    return patches.reshape(len(patches), -1).astype(np.float32) / 255


@pytest.fixture(scope="module")
def covariance(windows):
    return np.cov(windows.astype(np.float64), rowvar=False, bias=True)


def test_statistics_of_batches_are_those_of_all_windows(windows, covariance):
    statistics = WindowStatistics(windows.shape[1])
    for batch in np.array_split(windows, 7):
        statistics.update(batch.reshape(-1, 1, 1, windows.shape[1]))
    assert statistics.count == len(windows)
    np.testing.assert_allclose(statistics.mean, windows.mean(axis=0, dtype=np.float64))
    np.testing.assert_allclose(statistics.covariance, covariance, atol=1e-12)


def test_zca_leaves_windows_uncorrelated_with_unit_variance(windows, covariance):
    transform = zca(covariance, 1e-9)
    whitened = (windows - windows.mean(axis=0, dtype=np.float64)) @ transform
    np.testing.assert_allclose(np.cov(whitened, rowvar=False, bias=True), np.eye(48), atol=1e-3)


def test_zca_is_the_whitening_nearest_to_the_windows_themselves(windows, covariance):
    """ZCA is scikit-learn's PCA whitening, rotated back; and so symmetric."""
    pca = PCA(whiten=True).fit(windows.astype(np.float64))
    scale = np.sqrt(len(windows) / (len(windows) - 1))  # scikit-learn divides by n - 1
    expected = pca.components_.T @ np.diag(scale / np.sqrt(pca.explained_variance_))
    np.testing.assert_allclose(zca(covariance, 1e-12), expected @ pca.components_, rtol=1e-4)
    np.testing.assert_allclose(zca(covariance, 0.1), zca(covariance, 0.1).T, atol=1e-9)


def test_regularisation_is_a_share_of_the_mean_variance(covariance):
    values, vectors = np.linalg.eigh(covariance)
    expected = vectors @ np.diag((values + 0.1 * values.mean()) ** -0.5) @ vectors.T
    np.testing.assert_allclose(zca(covariance, 0.1), expected)
    np.testing.assert_allclose(zca(covariance * 100, 0.1), expected / 10)


def test_standardizing_gives_channels_unit_variance(covariance):
    factors = standardizing(covariance, 1e-9)
    np.testing.assert_allclose(factors**2 * np.diag(covariance), np.ones(48), rtol=1e-6)


def test_a_channel_that_never_changes_stays_finite(windows):
    statistics = WindowStatistics(48)
    statistics.update(np.where(np.arange(48) == 3, 0.25, windows))
    for make in (zca, standardizing):
        assert np.isfinite(make(statistics.covariance, 0.01)).all()


def test_windows_that_never_change_become_zeros():
    assert (zca(np.zeros((3, 3)), 0.1) == 0).all()
    assert (standardizing(np.zeros((3, 3)), 0.1) == 0).all()


def test_no_windows_are_no_error():
    statistics = WindowStatistics(3)
    assert (statistics.mean == 0).all()
    assert (statistics.covariance == 0).all()


def test_every_window_has_mean_zero_and_a_variance_of_nearly_one(windows):
    epsilon = 0.001
    found = contrast_normalized(windows, epsilon)
    assert found.dtype == np.float32
    exact = windows.astype(np.float64)
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-5)
    variance = exact.var(axis=1)
    np.testing.assert_allclose(found.var(axis=1), variance / (variance + epsilon), rtol=1e-4)
    np.testing.assert_allclose(
        found, (exact - exact.mean(axis=1)[:, None]) / np.sqrt(variance + epsilon)[:, None],
        atol=1e-5,
    )  # fmt: skip
    np.testing.assert_array_equal(contrast_normalized(np.ones((2, 3), np.float32), 0.1), 0)


def test_factors_of_numbers_apart_are_those_of_their_whole_covariance():
    windows = np.random.default_rng(0).normal(3, [0.1, 1, 20], size=(500, 3)).astype(np.float32)
    whole, apart = WindowStatistics(3), WindowStatistics(3, apart=True)
    for part in np.array_split(windows, 4):
        whole.update(part)
        apart.update(part)
    expected = windows.astype(np.float64).var(axis=0)
    np.testing.assert_allclose(apart.covariance, expected, rtol=1e-9)
    factors = standardizing(apart.covariance, 0.01)
    np.testing.assert_allclose(factors, 1 / np.sqrt(expected + 0.01 * expected.mean()), rtol=1e-9)
    np.testing.assert_allclose(factors, standardizing(whole.covariance, 0.01), rtol=1e-12)
