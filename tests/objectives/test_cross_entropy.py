"""Objectives that tell classes from a block's map, against numpy in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kclr
from kclr.layers import ContrastiveConvBlock
from kclr.losses import ContrastiveLoss, ObjectiveState
from kclr.model import TripletModel
from kclr.objectives.cross_entropy import CrossEntropy
from kclr.objectives.predsim import PredSim

pytestmark = pytest.mark.usefixtures("without_pictures")

LABELS = np.array([0, 2, -1, 1, 1, 0])


def maps_of(shape, seed=0):
    return np.random.default_rng(seed).normal(size=(6, 2, *shape)).astype("float32")


def held(objective, shape):
    """An objective's variables, all at random, by name."""
    state = ObjectiveState()
    state.hold(objective, 1, shape)
    random = np.random.default_rng(1)
    return {n: random.normal(size=v.shape).astype("float32") for n, v in state.values().items()}


def convolved(image, kernel):
    """A convolution of one map, padded with zeros to keep its size, cell by cell."""
    height, width, _ = image.shape
    rows, columns = kernel.shape[:2]
    top, left = (rows - 1) // 2, (columns - 1) // 2
    padded = np.pad(image, ((top, rows - 1 - top), (left, columns - 1 - left), (0, 0)))
    return np.array([
        [np.tensordot(padded[y : y + rows, x : x + columns], kernel, 3) for x in range(width)]
        for y in range(height)
    ])  # fmt: skip


def doubled(maps, state):
    state = {name: value.astype(np.float64) for name, value in state.items()}
    return maps.reshape(-1, *maps.shape[2:]).astype(np.float64), state, LABELS.repeat(2)


def predicted(vectors, state, labels):
    scores = vectors @ state["kernel0"] + state["bias0"]
    scores -= scores.max(axis=1, keepdims=True)
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    known = np.flatnonzero(labels >= 0)
    return -np.mean(logs[known, labels[known]]), np.mean(scores[known].argmax(1) == labels[known])


@pytest.mark.parametrize("shape", [(4, 5, 3), (1, 6, 3), (1, 1, 3)])
@pytest.mark.parametrize("convolutions", [0, 2])
def test_cross_entropy_is_that_of_numpy(shape, convolutions):
    objective = CrossEntropy(classes=3, convolutions=convolutions)
    maps, state = maps_of(shape), held(objective, shape)
    flat, wide, labels = doubled(maps, state)
    for index in range(convolutions):
        kernel, bias = wide[f"convolution{index}"], wide[f"shift{index}"]
        flat = np.maximum(0, np.array([convolved(one, kernel) for one in flat]) + bias)
    expected, right = predicted(flat.mean(axis=(1, 2)), wide, labels)
    for call in (objective, tf.function(objective, jit_compile=True)):
        found, told = call(np.arange(6), maps, LABELS, state)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        np.testing.assert_allclose(told["class_accuracy"], right, rtol=1e-6)
        np.testing.assert_allclose(told["labelled_share"], 5 / 6)
        np.testing.assert_allclose(told["alike_loss"], np.log(3), rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 6, 6), (1, 1, 6)])
def test_predsim_is_that_of_numpy(shape):
    objective = PredSim(classes=3, similarity=0.9)
    maps, state = maps_of(shape), held(objective, shape)
    flat, wide, labels = doubled(maps, state)
    expected, right = predicted(flat.mean(axis=(1, 2)), wide, labels)
    seen = np.array([convolved(one, wide["convolution"]) for one in flat])
    one_cell = shape[:2] == (1, 1)
    vectors = seen[:, 0, 0] if one_cell else np.sqrt(seen.var(axis=(1, 2)) + 1e-6)
    known = np.flatnonzero(labels >= 0)
    found = np.corrcoef(vectors[known])
    wanted = np.corrcoef(np.eye(3)[labels[known]])
    matched = np.mean((found - wanted) ** 2)
    for call in (objective, tf.function(objective, jit_compile=True)):
        loss, told = call(np.arange(6), maps, LABELS, state)
        np.testing.assert_allclose(told["similarity_loss"], matched, rtol=1e-4)
        np.testing.assert_allclose(loss, 0.9 * matched + 0.1 * expected, rtol=1e-4)
        np.testing.assert_allclose(told["class_accuracy"], right, rtol=1e-6)
        nothing = 0.9 * np.mean(wanted**2) + 0.1 * np.log(3)
        np.testing.assert_allclose(told["alike_loss"], nothing, rtol=1e-5)
    assert set(told) == set(objective.statistics)


@pytest.mark.parametrize("objective", ["cross_entropy", "predsim"])
def test_a_batch_without_labels_has_no_loss_of_them(objective):
    shape = (3, 3, 4)
    objective = ContrastiveLoss(objective, classes=3).objective
    state = held(objective, shape)
    maps = tf.constant(maps_of(shape))
    with tf.GradientTape() as tape:
        tape.watch(maps)
        loss, _ = objective(np.arange(6), maps, np.full(6, -1), state)
    assert loss == 0
    assert not np.any(tape.gradient(loss, maps))


def test_maps_are_needed_and_the_number_of_classes_is():
    with pytest.raises(ValueError, match="compares the maps of a block, not embeddings"):
        ContrastiveLoss("predsim", classes=3)(np.zeros((6, 2), int), np.zeros((6, 2, 4)))
    objective = CrossEntropy()
    with pytest.raises(ValueError, match="Set classes=10"):
        objective(np.arange(6), maps_of((2, 2, 3)), LABELS, held(objective, (2, 2, 3)))
    model = TripletModel(keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()]))
    model.compile("sgd", loss=ContrastiveLoss("cross_entropy", classes=3))
    with pytest.raises(ValueError, match="the encoder returns vectors"):
        model.build((None, 4, 4, 1))


def test_in_a_list_embeddings_and_maps_go_where_they_belong_and_weights_are_trained():
    patches = np.random.default_rng(0).integers(0, 256, (6, 2, 9, 9, 3), dtype=np.uint8)
    targets = np.stack([np.arange(6), LABELS], axis=1)
    model = TripletModel(ContrastiveConvBlock(4, 4), embedding="mean")
    loss = ContrastiveLoss(["ntxent", {"name": "cross_entropy", "classes": 3, "weight": 0.5}])
    model.compile("adam", loss=loss)
    model.build((None, 9, 9, 3))
    before = [variable.numpy() for variable in model.trainable_variables]
    assert model.predict(patches, verbose=0).shape == (6, 2, 4)
    embeddings, maps = model._embedded(patches, False)
    assert maps.shape == (6, 2, 3, 3, 4)
    state = model.objective_state.values()
    expected, _ = loss.with_statistics(targets, embeddings, state, maps)
    found = model.evaluate(patches, targets, batch_size=6, verbose=0, return_dict=True)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    for _ in range(2):  # the last layer begins with zeros, which no gradient passes
        model.train_on_batch(patches, targets)
    changed = [
        not np.array_equal(own, variable.numpy())
        for own, variable in zip(before, model.trainable_variables, strict=True)
    ]
    assert all(changed)
    assert model(patches).shape == (6, 2, 4)


SPEC = {
    "data": {"source": "digits", "labels": 0.5, "limit": 400},
    "stack": [{
        "block": {"filters": 4}, "patches": {"patch_size": 17},
        "objective": [{"name": "ntxent"}, {"name": "cross_entropy", "weight": 0.5}, "predsim"],
        "train": {"steps": 6, "batch_size": 8, "log_every": 2, "checkpoint_seconds": 0},
    }],
}  # fmt: skip


def test_a_resumed_training_ends_with_the_same_weights(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 3:
                raise KeyboardInterrupt

    whole = kclr.train(SPEC, tmp_path / "whole", bare=True, verbose=False)
    with pytest.raises(KeyboardInterrupt):
        kclr.train(SPEC, tmp_path / "halves", bare=True, verbose=False,
                   callbacks=lambda *of: [Stop()])  # fmt: skip
    halves = kclr.train(SPEC, tmp_path / "halves", bare=True, verbose=False, resume=True)
    np.testing.assert_array_equal(halves.layers[0].kernel, whole.layers[0].kernel)
    one, other = (run.layers[0].history()[-1] for run in (whole, halves))
    assert one["cross_entropy_loss"] == other["cross_entropy_loss"] > 0
    assert one["predsim_similarity_loss"] == other["predsim_similarity_loss"]
