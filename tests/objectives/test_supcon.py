"""Supervised contrast against numpy in float64, one anchor at a time."""

import numpy as np
import pytest
import tensorflow as tf

from kclr.losses import ContrastiveLoss
from kclr.objectives.infonce import NTXent
from kclr.objectives.supcon import SupCon


def twin(images, embeddings, labels, temperature, unlabelled):
    crops, views, _ = embeddings.shape
    rows = [(c, embeddings[c, v].astype(np.float64)) for c in range(crops) for v in range(views)]
    losses, alike, right, pulled, pushed = [], [], [], [], []
    for anchor, (crop, own) in enumerate(rows):
        positives, negatives = [], []
        for other, (where, vector) in enumerate(rows):
            if other == anchor or (unlabelled == "without" and min(labels[[crop, where]]) < 0):
                continue
            cosine = own @ vector / np.linalg.norm(own) / np.linalg.norm(vector)
            if where == crop or labels[where] == labels[crop] >= 0:
                positives.append(cosine)
            elif images[where] != images[crop]:
                negatives.append(cosine)
        pulled, pushed = pulled + positives, pushed + negatives
        if positives:
            every = np.exp(np.array(positives + negatives) / temperature)
            wanted = np.exp(np.array(positives) / temperature)
            losses.append(np.mean(-np.log(wanted / every.sum())))
            alike.append(np.log(len(every)))
            right.append(max(positives) > max(negatives, default=-np.inf))
    return np.mean(losses), {
        "class_accuracy": np.mean(right),
        "positive_similarity": np.mean(pulled),
        "negative_similarity": np.mean(pushed),
        "labelled_share": np.mean(labels >= 0),
        "alike_loss": np.mean(alike),
    }


@pytest.mark.parametrize("unlabelled", ["own", "without"])
@pytest.mark.parametrize("views", [2, 4])
def test_loss_and_statistics_are_those_of_numpy(images, embeddings, views, unlabelled):
    labels = np.asarray(images) % 4 - 1
    objective = SupCon(temperature=0.3, unlabelled=unlabelled)
    given = embeddings[:, :views] - 0.3
    expected, expected_statistics = twin(images, given, labels, 0.3, unlabelled)
    for call in (objective, tf.function(objective, jit_compile=True)):
        found, statistics = call(images, given, labels)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        assert statistics.keys() == expected_statistics.keys() == set(objective.statistics)
        for key, value in statistics.items():
            np.testing.assert_allclose(value, expected_statistics[key], rtol=1e-4, err_msg=key)


def test_two_patches_without_any_label_have_the_loss_of_ntxent(embeddings):
    images, given = np.arange(24), embeddings[:, :2]
    found, _ = SupCon(temperature=0.3)(images, given, np.full(24, -1))
    expected, _ = NTXent(temperature=0.3)(images, given)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_without_labels_in_the_batch_it_says_how_to_add_them(images, embeddings):
    with pytest.raises(ValueError, match="supcon needs labels"):
        ContrastiveLoss("supcon")(images, embeddings)


def test_labels_beside_the_images_are_those_that_the_loss_compares(images, embeddings):
    labels = np.asarray(images) % 4 - 1
    found = ContrastiveLoss("supcon")(np.stack([images, labels], axis=1), embeddings)
    expected, _ = SupCon()(images, embeddings, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
