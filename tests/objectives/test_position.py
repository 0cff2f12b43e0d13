"""Position is the cross-entropy of a small classifier, and its weights are trained and resumed."""

import numpy as np
import pytest

from kclr.events import Listener
from kclr.losses import ContrastiveLoss, ObjectiveState
from kclr.objectives.position import Position
from kclr.spec import parse_spec
from kclr.stack import train

pytestmark = pytest.mark.usefixtures("without_pictures")


def test_loss_and_accuracy_are_those_of_float64_numpy(images, embeddings):
    objective, random = Position(neighbours=3, hidden=8), np.random.default_rng(0)
    state = {
        name: random.normal(size=own["shape"]) / 3 for name, own in objective.state(75).items()
    }
    given = {name: value.astype(np.float32) for name, value in state.items()}
    loss, statistics = objective(images, embeddings, given)
    exact = embeddings.astype(np.float64)
    losses, right = [], []
    for crop in exact:
        for place in range(3):
            pair = np.concatenate([crop[0], crop[place + 1]])
            hidden = np.maximum(pair @ state["kernel0"] + state["bias0"], 0)
            scores = hidden @ state["kernel1"] + state["bias1"]
            losses.append(np.log(np.exp(scores).sum()) - scores[place])
            right.append(scores.argmax() == place)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(statistics["position_accuracy"], np.mean(right))


def test_the_loss_begins_at_equal_scores(images, embeddings):
    objective, state = Position(neighbours=3), ObjectiveState()
    state.hold(objective, 75)
    loss, _ = objective(images, embeddings, state.values())
    np.testing.assert_allclose(loss, np.log(3), rtol=1e-6)
    assert len(state.trainable_variables) == 4


def test_wrong_windows_and_missing_variables_have_their_words(images, embeddings):
    with pytest.raises(
        ValueError, match="needs 9 patches per crop, the middle one first, but ther"
    ):
        ContrastiveLoss("position")(images, embeddings)
    with pytest.raises(ValueError, match="needs its variables"):
        ContrastiveLoss("position", neighbours=3)(images, embeddings)


SPEC = """
data: photos
stack:
  - block: {filters: 6}
    patches: {patch_size: 7, alike: {name: gap, gap: 3, jitter: 1}, augment: [DropColors]}
    objective: {name: position, hidden: 16}
    train: {steps: 8, batch_size: 16, log_every: 4, checkpoint_seconds: 0}
"""


class Stop(Listener):
    """Presses Ctrl-C at step 5."""

    def heard(self, event):
        if event.kind == "step" and event.done == 5:
            raise KeyboardInterrupt


@pytest.mark.full
def test_a_resumed_run_is_that_of_an_uninterrupted_one(tmp_path):
    spec = parse_spec(SPEC)
    whole = train(spec, tmp_path / "whole", bare=True)
    with pytest.raises(KeyboardInterrupt):
        train(spec, tmp_path / "parts", bare=True, listener=Stop())
    again = train(spec, tmp_path / "parts", bare=True, resume=True)
    np.testing.assert_array_equal(again.layers[0].kernel, whole.layers[0].kernel)
    row, twin = whole.layers[0].history()[-1], again.layers[0].history()[-1]
    assert row["position_accuracy"] == twin["position_accuracy"] > 0
