"""Barlow Twins and VICReg against numpy in float64."""

import numpy as np
import pytest
import tensorflow as tf

from kclr.objectives.redundancy import Barlow, VICReg


def pairs_of(views):
    return [(0, 1)] if views == 2 else [(view, (view + 1) % views) for view in range(views)]


def barlow_twin(objective, embeddings):
    embeddings = embeddings.astype(np.float64)
    dimensions = embeddings.shape[-1]
    losses, on, off = [], [], []
    for first, second in pairs_of(embeddings.shape[1]):
        both = np.concatenate([embeddings[:, first], embeddings[:, second]], axis=1)
        correlations = np.corrcoef(both, rowvar=False)[:dimensions, dimensions:]
        squares = correlations[~np.eye(dimensions, dtype=bool)] ** 2
        losses.append(
            ((1 - correlations.diagonal()) ** 2).mean()
            + objective.redundancy * squares.sum() / dimensions
        )
        on.append(correlations.diagonal().mean())
        off.append(squares.mean())
    return np.mean(losses), {"on_diagonal": np.mean(on), "off_diagonal": np.mean(off)}


def vicreg_twin(objective, embeddings):
    embeddings = embeddings.astype(np.float64)
    dimensions = embeddings.shape[-1]
    terms = []
    for pair in pairs_of(embeddings.shape[1]):
        first, second = (embeddings[:, view] for view in pair)
        lacking = covariance = 0.0
        for side in (first, second):
            deviation = np.sqrt(side.var(axis=0, ddof=1) + 1e-4)
            lacking += np.maximum(0, 1 - deviation).mean() / 2
            matrix = np.cov(side, rowvar=False)
            covariance += (matrix[~np.eye(dimensions, dtype=bool)] ** 2).sum() / dimensions
        terms.append([((first - second) ** 2).mean(), lacking, covariance])
    terms = np.mean(terms, axis=0)
    weights = objective.invariance, objective.variance, objective.covariance
    names = "invariance_loss", "variance_loss", "covariance_loss"
    return np.dot(weights, terms), dict(zip(names, terms, strict=True))


CASES = {
    "barlow": (Barlow(), barlow_twin),
    "barlow with a large lambda": (Barlow(redundancy=0.5), barlow_twin),
    "vicreg": (VICReg(), vicreg_twin),
    "vicreg with other weights": (VICReg(invariance=3, variance=7.0, covariance=11), vicreg_twin),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("views", [2, 3, 4])
def test_loss_and_statistics_are_those_of_numpy(images, embeddings, case, views):
    """Images do not count; large values, so that Barlow's epsilon does not either."""
    objective, twin = CASES[case]
    given = 30 * embeddings[:, :views, ::5]
    call = tf.function(objective, jit_compile=True) if views == 4 else objective
    loss, statistics = call(images, given)
    expected, expected_statistics = twin(objective, given)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    assert statistics.keys() == expected_statistics.keys() == set(objective.statistics)
    for name, value in statistics.items():
        np.testing.assert_allclose(value, expected_statistics[name], rtol=1e-4, err_msg=name)


def test_vicreg_counts_what_deviations_lack_to_one(images, embeddings):
    """Values in [0, 1] deviate by less than 1."""
    loss, statistics = VICReg()(images, embeddings)
    expected, expected_statistics = vicreg_twin(VICReg(), embeddings)
    assert 0.5 < statistics["variance_loss"] < 1
    for name, value in statistics.items():
        np.testing.assert_allclose(value, expected_statistics[name], rtol=1e-4)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("views", [2, 3])
def test_gradients_are_finite_differences(embeddings, case, views):
    objective, _ = CASES[case]
    small = tf.constant(embeddings[:6, :views, ::20], tf.float64)
    loss = tf.function(lambda x: objective(tf.range(6), x)[0], autograph=False)
    theoretical, numerical = tf.test.compute_gradient(loss, [small], delta=1e-6)
    assert np.abs(theoretical[0]).max() > 1e-3
    np.testing.assert_allclose(theoretical[0], numerical[0], atol=1e-6 * np.abs(numerical).max())


@pytest.mark.parametrize("case", CASES)
def test_the_order_of_crops_views_and_dimensions_changes_nothing(images, embeddings, case):
    objective, _ = CASES[case]
    expected = objective(images, embeddings)[0]
    rng = np.random.default_rng(0)
    changed = [
        embeddings[rng.permutation(24)],
        embeddings[:, :, rng.permutation(75)],
        embeddings[:, ::-1],
        np.roll(embeddings, 1, axis=1),
        embeddings + 5,
    ]
    for given in changed:
        np.testing.assert_allclose(objective(images[::-1], given)[0], expected, rtol=1e-3)
    swapped = [objective(images, embeddings[:, views])[0] for views in ([0, 1], [1, 0])]
    np.testing.assert_allclose(*swapped, rtol=1e-5)


def test_barlow_sees_no_scale_of_a_dimension(images, embeddings):
    scale = np.geomspace(10, 1000, 75).astype(np.float32)
    losses = [Barlow()(images, embeddings * by)[0] for by in (100, scale)]
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_independent_dimensions_that_agree_over_patches_have_no_loss():
    one = np.random.default_rng(0).normal(size=(20000, 1, 8)).astype(np.float32)
    both = np.repeat(2 * one, 2, axis=1)
    images = np.arange(20000)
    assert Barlow()(images, both)[0] < 1e-4
    assert VICReg()(images, both)[0] < 0.1


@pytest.mark.parametrize("case", CASES)
def test_embeddings_that_are_all_alike_have_the_loss_of_the_ceiling(images, case):
    objective, _ = CASES[case]
    for value in (0.0, 3.0):
        loss, _ = objective(images, np.full((24, 4, 5), value, np.float32))
        np.testing.assert_allclose(loss, objective.ceiling, rtol=1e-5)
