"""Exemplar is a softmax over seed windows."""

import numpy as np
import pytest

from kclr.losses import ContrastiveLoss
from kclr.objectives.exemplar import Exemplar


def test_loss_and_accuracy_are_those_of_float64_numpy(images, embeddings):
    objective, random = Exemplar(seeds=16), np.random.default_rng(0)
    state = {name: random.normal(size=own["shape"]) for name, own in objective.state(75).items()}
    given = {name: value.astype(np.float32) for name, value in state.items()}
    loss, statistics = objective(images, embeddings, given)
    scores = embeddings.astype(np.float64).reshape(-1, 75) @ state["kernel0"] + state["bias0"]
    labels = np.repeat(images, 4)
    own = scores[np.arange(len(labels)), labels]
    np.testing.assert_allclose(loss, (np.log(np.exp(scores).sum(axis=1)) - own).mean(), rtol=1e-5)
    right = scores.argmax(axis=1) == labels
    np.testing.assert_allclose(statistics["seed_accuracy"], right.mean())


def test_the_number_of_seeds_must_be_known(images, embeddings):
    with pytest.raises(ValueError, match="needs the number of seed windows"):
        ContrastiveLoss("exemplar")(images, embeddings)
