"""Baselines: plain kernels that do what their names say, seen on real photographs."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from kclr import whitening
from kclr.errors import SpecError
from kclr.layers import stacked
from kclr.probing import baselines
from kclr.probing.baselines import baseline, baseline_titles, run_images
from kclr.runs.run import PlainLayer, Run

BASELINES = tuple(baseline_titles())
LEARNED = [name for name in BASELINES if name != "random"]
PATCHES = 6000


def layer(name, *shape, **block):
    block = {"filters": shape[-1], "kernel_size": list(shape[:2]), **block}
    return PlainLayer(name, block, np.zeros(shape, np.float32), np.zeros(shape[-1], np.float32))


@pytest.fixture(scope="module")
def windows(photographs):
    """All 6x6 windows of some tiles, every third: float64 (count, 108), in a kernel's order."""
    found = sliding_window_view(photographs[::4] / 255, (6, 6), axis=(1, 2))[:, ::3, ::3]
    return found.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 108)


def responses(layer, windows):
    return windows @ layer.kernel.reshape(108, -1).astype(np.float64) + layer.bias


def whitened(windows):
    """ZCA-whitened windows, from scikit-learn's PCA."""
    from sklearn.decomposition import PCA

    pca = PCA().fit(windows)
    variances = pca.explained_variance_
    scale = np.sqrt(variances + 0.01 * variances.mean())
    return pca.transform(windows) / scale @ pca.components_


def test_random_kernels_have_the_distribution_of_keras_own():
    (made,) = baseline("random", [layer("conv1", 6, 6, 3, 256)], [])
    limit = np.sqrt(6 / (36 * (3 + 256)))
    assert np.abs(made.kernel).max() == pytest.approx(limit, rel=0.01)
    assert made.kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.01)
    assert not made.bias.any()


@pytest.mark.parametrize("name", BASELINES)
def test_the_same_seed_gives_the_same_kernels_and_another_seed_others(photographs, name):
    first, again, other = (
        baseline(name, [layer("conv1", 6, 6, 3, 20)], [photographs], seed, PATCHES)[0]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.kernel, again.kernel)
    np.testing.assert_array_equal(first.bias, again.bias)
    assert not np.allclose(first.kernel, other.kernel, atol=1e-3)


@pytest.mark.parametrize("name", LEARNED)
def test_bias_and_kernel_answer_around_zero_with_about_unit_variance(photographs, windows, name):
    (made,) = baseline(name, [layer("conv1", 6, 6, 3, 60)], [photographs], 0, PATCHES)
    answers = responses(made, windows)
    assert np.abs(answers.mean(axis=0)).max() < 0.25
    assert 0.5 < np.median(answers.std(axis=0)) < 1.2


def test_whitened_patches_answer_most_to_themselves(photographs, windows):
    (made,) = baseline("whitened", [layer("conv1", 6, 6, 3, 60)], [photographs], 0, PATCHES)
    # A response is the product of a unit vector with a whitened window.
    filters = np.linalg.lstsq(whitened(windows), responses(made, windows), rcond=None)[0]
    np.testing.assert_allclose(np.linalg.norm(filters, axis=0), 1, atol=0.2)
    every = sliding_window_view(photographs / 255, (6, 6), axis=(1, 2))
    every = every.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 108)
    answers = responses(made, every)
    norms = np.linalg.norm(whitened(every), axis=1)
    assert (answers / norms[:, None]).max(axis=0).min() > 0.9


def test_centroids_are_nearer_to_the_patches_than_random_patches_are(photographs, windows):
    points = whitened(windows)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    nearness = {}
    for name in ("kmeans", "whitened"):
        (made,) = baseline(name, [layer("conv1", 6, 6, 3, 60)], [photographs], 0, PATCHES)
        cosines = responses(made, windows) / np.linalg.norm(whitened(windows), axis=1)[:, None]
        nearness[name] = cosines.max(axis=1).mean()
    assert nearness["kmeans"] > nearness["whitened"] + 0.02


def test_components_are_uncorrelated_and_come_by_variance(photographs, windows):
    from sklearn.decomposition import PCA

    (made,) = baseline("pca", [layer("conv1", 6, 6, 3, 30)], [photographs], 0, 30_000)
    correlation = np.corrcoef(responses(made, windows), rowvar=False)
    assert np.abs(correlation - np.eye(30)).max() < 0.35
    first = made.kernel.reshape(108, -1)[:, 0].astype(np.float64)
    cosine = first @ PCA(1).fit(windows).components_[0] / np.linalg.norm(first)
    assert abs(cosine) > 0.99


def test_more_components_than_dimensions_are_their_negatives_and_then_rotations(photographs):
    (made,) = baseline("pca", [layer("conv1", 2, 2, 3, 30)], [photographs], 0, PATCHES)
    kernel = made.kernel.reshape(12, 30)
    np.testing.assert_allclose(kernel[:, 12:24], -kernel[:, :12], atol=1e-6)
    unit = kernel / np.linalg.norm(kernel, axis=0)
    alike = np.abs(unit.T @ unit - np.eye(30))[24:]
    assert alike.max() < 0.999


@pytest.mark.parametrize("name", ["whitened", "kmeans"])
def test_more_filters_than_patches_repeat(photographs, name):
    (made,) = baseline(name, [layer("conv1", 6, 6, 3, 50)], [photographs], 0, windows=40)
    assert made.kernel.shape == (6, 6, 3, 50)
    assert np.isfinite(made.kernel).all()


@pytest.mark.parametrize("name", BASELINES)
def test_a_layer_above_answers_to_the_maps_below_around_zero(photographs, name):
    layers = [
        layer("conv1", 6, 6, 3, 16),
        layer("conv2", 3, 2, 16, 24, padding="same", pool_size=1, strides=2),
    ]
    made = baseline(name, layers, [photographs] * 2, 0, PATCHES)
    assert [each.kernel.shape for each in made] == [(6, 6, 3, 16), (3, 2, 16, 24)]
    assert [each.kernel.dtype for each in made] == [np.float32] * 2
    assert [each.bias.dtype for each in made] == [np.float32] * 2
    maps = stacked(made, 3).predict(photographs / 255, verbose=0)
    assert np.isfinite(maps).all()
    linear = [
        made[0],
        PlainLayer("top", made[1].block | {"activation": None}, *_arrays(made[1])),
    ]
    answers = stacked(linear, 3, padding="valid").predict(photographs / 255, verbose=0)
    if name == "random":
        return
    assert abs(answers.mean()) < 0.1
    if name == "pca":
        assert 0.5 < answers.std() < 1.2
        return
    # Unit vectors times windows of the map below whose channels have mean 0 and variance 1 each.
    below = stacked(made[:1], 3, padding="valid").predict(photographs / 255, verbose=0)
    below = below.astype(np.float64)
    channels = (below - below.mean(axis=(0, 1, 2))) / below.std(axis=(0, 1, 2))
    seen = sliding_window_view(channels, (3, 2), axis=(1, 2))[:, ::2, ::2]
    seen = seen.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 96)
    seen = np.c_[seen, np.ones(len(seen))]
    filters = np.linalg.lstsq(seen, answers.reshape(-1, 24), rcond=None)[0][:-1]
    np.testing.assert_allclose(np.linalg.norm(filters, axis=0), 1, atol=0.05)


def _arrays(layer):
    return layer.kernel, layer.bias


def test_gray_images_and_single_pixel_kernels_will_do(photographs):
    gray = photographs[..., :1]
    (made,) = baseline("kmeans", [layer("conv1", 1, 1, 1, 2)], [gray], 0, PATCHES)
    assert sorted(np.sign(made.kernel.ravel())) == [-1, 1]


def test_images_of_other_channels_are_refused_with_the_cure(photographs):
    with pytest.raises(SpecError, match=r"3 channels, but the filters 1\. .*channels: 1"):
        baseline("whitened", [layer("conv1", 6, 6, 1, 4)], [photographs])


def test_an_unknown_baseline_is_refused():
    with pytest.raises(SpecError, match="'zca' is not a known baseline"):
        baseline("zca", [], [])


def test_wide_maps_take_fewer_patches_rather_than_all_the_memory(photographs, monkeypatch):
    monkeypatch.setattr(whitening, "NUMBERS", 108 * 500)
    seen = []
    covariance = whitening.covariance
    monkeypatch.setattr(whitening, "covariance", lambda w: seen.append(len(w)) or covariance(w))
    baseline("whitened", [layer("conv1", 6, 6, 3, 4)], [photographs])
    assert seen == [500]


def test_windows_too_wide_for_their_components_are_refused(photographs, monkeypatch):
    monkeypatch.setattr(baselines, "MOST_WHITENED", 143)
    layers = [layer("conv1", 2, 2, 3, 16), layer("conv2", 3, 3, 16, 24)]
    with pytest.raises(SpecError, match="the windows of layer conv2 have 144 values"):
        baseline("pca", layers, [photographs] * 2, 0, PATCHES)


def test_each_layer_is_made_from_the_images_it_was_trained_on(tmp_path):
    (tmp_path / "resolved.yaml").write_text(
        """
        data: {source: photos, channels: 1}
        stack:
          - block: {filters: 4}
          - block: {filters: 4}
            data: {source: photos, limit: 2}
          - block: {filters: 4}
        """
    )
    first, second, third = run_images(Run(tmp_path))
    assert first is third
    assert (first.channels, second.channels) == (1, 3)


def test_a_run_whose_images_are_gone_says_so(tmp_path):
    (tmp_path / "resolved.yaml").write_text("data: folder:gone\nstack: [{block: {filters: 4}}]")
    with pytest.raises(SpecError, match=r"made from the images that .* gone: folder not found"):
        run_images(Run(tmp_path))
