"""Blocks against numpy in float64, one patch at a time."""

import numpy as np
import pytest
import tensorflow as tf

from kclr.errors import SpecError
from kclr.objectives.blocks import Blocks
from kclr.spec import parse_spec


def twin(images, embeddings, loss="logistic", others=None, radius=None):
    crops, views, _ = embeddings.shape
    embeddings = embeddings.astype(np.float64)
    if radius:
        lengths = np.linalg.norm(embeddings, axis=-1, keepdims=True)
        embeddings = embeddings * np.minimum(1, radius / lengths)
    losses, alike, right, positives, negatives = [], [], [], [], []
    for crop in range(crops):
        followers = [(crop + step) % crops for step in range(1, (others or crops - 1) + 1)]
        chosen = [other for other in followers if images[other] != images[crop]]
        for view in range(views):
            rest = np.arange(views) != view
            anchor = embeddings[crop, view]
            positive = anchor @ embeddings[crop, rest].mean(axis=0)
            positives.append(positive)
            against = [anchor @ embeddings[other, rest].mean(axis=0) for other in chosen]
            v = positive - np.array(against)
            negatives += against
            right += list(v > 0)
            if chosen:
                hinged = max(0, 1 + max(-v))
                losses.append(hinged if loss == "hinge" else np.log2(1 + np.exp(-v).sum()))
                alike.append(1 if loss == "hinge" else np.log2(1 + len(v)))
    return np.mean(losses), {
        "block_accuracy": np.mean(right),
        "positive_product": np.mean(positives),
        "negative_product": np.mean(negatives),
        "alike_loss": np.mean(alike),
    }


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
@pytest.mark.parametrize(("views", "others", "radius"), [(2, None, None), (4, 3, 1.5)])
def test_loss_and_statistics_are_those_of_numpy(images, embeddings, loss, views, others, radius):
    options = {"loss": loss, "others": others, "radius": radius}
    objective = Blocks(**options)
    given = embeddings[:, :views] - 0.3
    expected, expected_statistics = twin(images, given, **options)
    for call in (objective, tf.function(objective, jit_compile=True)):
        found, statistics = call(images, given)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        assert statistics.keys() == expected_statistics.keys() == set(objective.statistics)
        for key, value in statistics.items():
            np.testing.assert_allclose(value, expected_statistics[key], rtol=1e-4, err_msg=key)


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_a_batch_of_one_image_has_no_loss_and_no_gradient(embeddings, loss):
    given = tf.constant(embeddings)
    with tf.GradientTape() as tape:
        tape.watch(given)
        found, statistics = Blocks(loss=loss)(np.zeros(24, np.int32), given)
    assert found == statistics["alike_loss"] == statistics["negative_product"] == 0
    assert not np.any(tape.gradient(found, given))


def test_no_others_are_refused_in_a_spec():
    with pytest.raises(SpecError, match=r"objective\.others: 0 is out of range"):
        parse_spec("stack: [{objective: {name: blocks, others: 0}}]")
