"""The penalty on filters that point alike: its value, its gradient, and that a training adds it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kclr.layers import ContrastiveConvBlock, Decorrelation, SharedPatches
from kclr.losses import ContrastiveLoss
from kclr.model import TripletModel

KERNEL = np.random.default_rng(0).normal(size=(3, 3, 2, 7))
PATCHES = np.random.default_rng(1).integers(0, 256, (16, 4, 7, 7, 3), dtype=np.uint8)
CROPS = np.random.default_rng(1).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)


def penalty(kernel):
    """The mean squared cosine of two different filters, pair by pair, in float64."""
    flat = np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1]).T
    pairs = [(a, b) for i, a in enumerate(flat) for b in flat[:i]]
    cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) if a.any() and b.any() else 0 for a, b in pairs]
    return np.mean(np.square(cosines))


def test_it_is_the_mean_squared_cosine_of_two_filters_whatever_their_length():
    for kernel in (KERNEL, KERNEL * np.geomspace(0.01, 100, 7)):
        found = Decorrelation(0.5)(tf.constant(kernel, "float32"))
        np.testing.assert_allclose(found, 0.5 * penalty(KERNEL), rtol=1e-5)
    assert float(Decorrelation()(tf.ones((2, 2, 3, 4)))) == pytest.approx(1)
    assert float(Decorrelation()(tf.reshape(tf.eye(12), (2, 2, 3, 12)))) == 0
    assert float(Decorrelation()(tf.ones((2, 2, 3, 1)))) == 0


@pytest.mark.parametrize("jit", [True, False])
def test_its_gradient_is_that_of_differences_and_dead_filters_do_no_harm(jit):
    kernel = tf.constant(KERNEL)

    @tf.function(jit_compile=jit)
    def gradient(kernel):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            value = Decorrelation()(kernel)
        return tape.gradient(value, kernel)

    direction = np.random.default_rng(2).normal(size=KERNEL.shape)
    difference = penalty(KERNEL + 1e-5 * direction) - penalty(KERNEL - 1e-5 * direction)
    found = np.sum(gradient(kernel) * direction)
    np.testing.assert_allclose(found, difference / 2e-5, rtol=1e-5)
    dead = KERNEL.copy()
    dead[..., 3] = 0
    np.testing.assert_allclose(Decorrelation()(tf.constant(dead)), penalty(dead))
    assert np.isfinite(gradient(tf.constant(dead))).all()


@pytest.mark.parametrize(
    ("policy", "jit"),
    [
        ("float32", False),
        pytest.param("float32", True, marks=pytest.mark.full),
        pytest.param("mixed_bfloat16", False, marks=pytest.mark.full),
        pytest.param("mixed_float16", False, marks=pytest.mark.full),
    ],
)
def test_a_training_adds_it_to_the_loss(policy, jit):
    losses = []
    for factor in (0, 3.0):
        keras.utils.set_random_seed(0)
        regularizer = Decorrelation(factor) if factor else None
        block = ContrastiveConvBlock(
            6, 6, whitening="zca", kernel_regularizer=regularizer, dtype=policy
        )
        model = TripletModel(SharedPatches(block, 7, 1, dtype=policy), dtype=policy)
        model.compile("sgd", ContrastiveLoss("triplet"), jit_compile=jit, run_eagerly=not jit)
        model.build((None, 8, 8, 3))
        kernel = block.kernel.numpy()
        losses.append(model.train_on_batch(CROPS, np.arange(16), return_dict=True)["loss"])
    np.testing.assert_allclose(losses[1] - losses[0], 3 * penalty(kernel), rtol=0.02)


def test_training_with_it_makes_filters_more_nearly_orthogonal():
    found = {}
    for factor in (0.0, 100.0):
        keras.utils.set_random_seed(0)
        block = ContrastiveConvBlock(12, 6, kernel_regularizer=Decorrelation(factor))
        model = TripletModel(block)
        model.compile(keras.optimizers.Adam(0.01), ContrastiveLoss("triplet"), run_eagerly=True)
        for _ in range(20):
            model.train_on_batch(PATCHES, np.arange(16))
        found[factor] = penalty(block.kernel.numpy())
    assert found[100.0] < 0.2 * found[0.0]


@pytest.mark.parametrize("factor", [-1, float("nan"), float("inf"), "much"])
def test_a_wrong_factor_is_refused(factor):
    with pytest.raises(ValueError, match="factor must be a number, 0 or more"):
        Decorrelation(factor)
