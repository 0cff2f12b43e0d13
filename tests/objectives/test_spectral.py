"""The spectral contrastive loss against numpy in float64, and its known minimum."""

import numpy as np
import pytest
import tensorflow as tf

from kclr.objectives.spectral import Spectral, in_ball, negative_squares


def twin(objective, images, embeddings):
    """Loss and statistics in float64, from all pairs."""
    crops, views, dimensions = embeddings.shape
    flat = embeddings.reshape(-1, dimensions).astype(np.float64)
    if objective.radius:
        lengths = np.linalg.norm(flat, axis=1, keepdims=True)
        flat = flat * np.minimum(1, objective.radius / np.maximum(lengths, 1e-30))
    products = flat @ flat.T
    of_image, of_crop = np.repeat(images, views), np.repeat(np.arange(crops), views)
    positives = (of_crop[:, None] == of_crop) & ~np.eye(len(flat), dtype=bool)
    negatives = of_image[:, None] != of_image
    statistics = {
        "positive_product": products[positives].mean(),
        "negative_square": (products[negatives] ** 2).mean(),
        "alike_loss": products.diagonal().mean() ** 2 - 2 * products.diagonal().mean(),
    }
    return statistics["negative_square"] - 2 * statistics["positive_product"], statistics


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("views", "dimensions"), [(2, 75), (4, 75), (2, 15), (4, 15)])
def test_loss_and_statistics_are_those_of_numpy(images, embeddings, shared, views, dimensions):
    """With and without crops of one image, more and fewer dimensions than patches."""
    images = images if shared else np.arange(24)
    given = embeddings[:, :views, :: 75 // dimensions] - 0.4
    for objective in (Spectral(), Spectral(radius=0.7)):
        expected, expected_statistics = twin(objective, images, given)
        calls = [objective]
        if shared and (views, dimensions) == (4, 75):  # tracing and compiling take seconds
            calls += [tf.function(objective, jit_compile=jit) for jit in (True, False)]
        for call in calls:
            loss, statistics = call(images, given)
            np.testing.assert_allclose(loss, expected, rtol=1e-4)
            assert statistics.keys() == expected_statistics.keys() == set(objective.statistics)
            for name, value in statistics.items():
                np.testing.assert_allclose(value, expected_statistics[name], rtol=1e-4)


@pytest.mark.parametrize("images", [[0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 2, 2]])
@pytest.mark.parametrize("radius", [pytest.param(None, marks=pytest.mark.full), 0.6])
def test_gradients_are_finite_differences(embeddings, images, radius):
    objective = Spectral(radius=radius)
    small = tf.constant(embeddings[:6, :3, ::20] - 0.4, tf.float64)
    loss = tf.function(lambda x: objective(tf.constant(images), x)[0], autograph=False)
    theoretical, numerical = tf.test.compute_gradient(loss, [small], delta=1e-6)
    assert np.abs(theoretical[0]).max() > 1e-3
    np.testing.assert_allclose(theoretical[0], numerical[0], atol=1e-6)


def test_a_compiled_loss_is_differentiated_from_outside_as_in_a_step_that_is_not():
    rng = np.random.default_rng(0)
    given = tf.constant(rng.normal(size=(9, 2, 4)), tf.float32)
    for images in (tf.range(9), tf.constant([0, 0, 1, 2, 3, 4, 5, 6, 7])):
        gradients = []
        for compare in (negative_squares, tf.function(negative_squares, jit_compile=True)):

            @tf.function
            def step(images, given, compare=compare):
                with tf.GradientTape() as tape:
                    tape.watch(given)
                    value = compare(images, given)
                return tape.gradient(value, given)

            gradients.append(step(images, given))
        np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("radius", [None, 0.6])
def test_the_order_of_crops_and_views_and_a_rotation_change_nothing(images, embeddings, radius):
    objective = Spectral(radius=radius)
    given = embeddings - 0.4
    expected = objective(images, given)[0]
    order = np.random.default_rng(0).permutation(24)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(75, 75)))[0].astype(np.float32)
    np.testing.assert_allclose(objective(images[order], given[order])[0], expected, rtol=1e-4)
    for changed in (given[:, ::-1], given @ rotation):
        np.testing.assert_allclose(objective(images, changed)[0], expected, rtol=1e-4)


def test_orthonormal_images_reach_the_minimum_and_equal_embeddings_do_not():
    """Of length 1: all that equal embeddings can do is -1."""
    one_hot = np.repeat(np.eye(8, dtype=np.float32)[:, None], 3, axis=1)
    assert Spectral()(np.arange(8), one_hot)[0] == -2
    same = np.ones((8, 3, 1), np.float32)
    loss, statistics = Spectral()(np.arange(8), same)
    assert loss == statistics["alike_loss"] == -1


def test_a_batch_of_one_image_has_positives_alone(embeddings):
    loss, statistics = Spectral()(np.zeros(24, np.int32), embeddings[..., :5])
    assert statistics["negative_square"] == 0
    np.testing.assert_allclose(loss, -2 * statistics["positive_product"])


def test_only_embeddings_outside_the_ball_are_moved():
    given = np.array([[0.0, 0.0], [0.3, 0.4], [3.0, 4.0]], np.float32)
    np.testing.assert_allclose(in_ball(given, 2.0), [[0, 0], [0.3, 0.4], [1.2, 1.6]], rtol=1e-6)
