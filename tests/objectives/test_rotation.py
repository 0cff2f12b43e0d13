"""Rotation against numpy in float64, and the turns of a generator's crops."""

import numpy as np
import pytest
import tensorflow as tf

import kclr
from kclr.data import sampling
from kclr.data.patches import PatchTripletGenerator
from kclr.errors import SpecError
from kclr.losses import ContrastiveLoss, ObjectiveState
from kclr.objectives.rotation import Rotation
from kclr.spec import parse_spec


@pytest.mark.parametrize("hidden", [None, 7])
def test_loss_and_accuracy_are_those_of_numpy(embeddings, hidden):
    objective, state = Rotation(hidden=hidden), ObjectiveState()
    state.hold(objective, 75)
    random = np.random.default_rng(1)
    values = {n: random.normal(size=v.shape).astype("float32") for n, v in state.values().items()}
    turns = np.arange(24) % 4
    scores = embeddings.reshape(-1, 75).astype(np.float64)
    for index in range(len(values) // 2):
        scores = np.maximum(scores, 0) if index else scores
        scores = scores @ values[f"kernel{index}"] + values[f"bias{index}"]
    scores -= scores.max(axis=1, keepdims=True)
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    wanted = turns.repeat(4)
    for call in (objective, tf.function(objective, jit_compile=True)):
        found, told = call(np.arange(24), embeddings, turns=turns, state=values)
        np.testing.assert_allclose(found, -logs[np.arange(96), wanted].mean(), rtol=1e-4)
        right = np.mean(scores.argmax(1) == wanted)
        np.testing.assert_allclose(told["rotation_accuracy"], right, rtol=1e-6)


def test_pictures_are_turned_as_by_numpy():
    pictures = np.random.default_rng(0).normal(size=(8, 2, 5, 5, 3))
    turns = np.arange(8) % 4
    found = sampling.turned(tf.constant(pictures), tf.constant(turns, tf.int32))
    for own, picture, turn in zip(found.numpy(), pictures, turns, strict=True):
        np.testing.assert_array_equal(own, np.rot90(picture, turn, axes=(1, 2)))


@pytest.mark.parametrize("form", ["crops", "views"])
def test_a_batch_says_how_often_its_crops_were_turned(photographs, form):
    plain, turned = (
        PatchTripletGenerator(photographs[:40], 6, batch_size=16, seed=3, turns=turns)
        for turns in (False, True)
    )
    pairs = zip(getattr(plain, form)(2).take(3), getattr(turned, form)(2).take(3), strict=True)
    met = set()
    for (crops, images), (found, targets) in pairs:
        np.testing.assert_array_equal(targets[:, 0], images)
        np.testing.assert_array_equal(targets[:, 1], np.full(16, -1))
        met |= {*targets[:, 2].numpy().tolist()}
        for crop, own, turn in zip(crops.numpy(), found.numpy(), targets[:, 2], strict=True):
            np.testing.assert_array_equal(own, np.rot90(crop, turn, axes=(-3, -2)))
    assert met == {0, 1, 2, 3}
    part = next(targets for _, targets in turned.crops(2, share=(1, 2)).take(1))
    whole = next(targets for _, targets in turned.crops(2).take(1))
    np.testing.assert_array_equal(part, whole[8:])


def test_a_model_trains_on_turned_crops_beside_another_objective(photographs):
    generator = PatchTripletGenerator(photographs[:40], 7, batch_size=16, turns=True)
    model = kclr.TripletModel(kclr.ContrastiveConvBlock(4, 6))
    loss = ContrastiveLoss(["ntxent", {"name": "rotation", "weight": 0.1}])
    model.compile("adam", loss=loss, run_eagerly=True)
    told = model.fit(generator, steps_per_epoch=2, verbose=0).history
    assert np.isfinite(told["loss"]).all()
    assert 0 <= told["rotation_accuracy"][0] <= 1
    with pytest.raises(ValueError, match="needs the turn of each crop"):
        model.loss(np.arange(4), np.zeros((4, 2, 3), np.float32))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{data: photos, stack: [{objective: rotation, patches: {patch_size: [7, 9]}}]}",
         "rotation needs square patches, not \\[7, 9\\]"),
        ("{data: photos, stack: [{objective: [ntxent, rotation], patches: {crop_size: [8, 9]}}]}",
         "rotation needs square crops, not \\[8, 9\\]"),
        ("{data: series:own.npy, stack: [{objective: rotation}]}",
         "a series has no quarter turns"),
    ],
)  # fmt: skip
def test_what_cannot_be_turned_is_refused_in_a_spec(text, words):
    with pytest.raises(SpecError, match=words):
        parse_spec(text)


def test_what_cannot_be_turned_is_refused_in_python(photographs):
    with pytest.raises(ValueError, match="turns of patches of 5x6 px: only square ones"):
        PatchTripletGenerator(photographs[:40], (5, 6), turns=True)
    with pytest.raises(ValueError, match="turns of crops of 8x9 px: only square ones"):
        PatchTripletGenerator(photographs[:40], 7, crop_size=(8, 9), turns=True)
