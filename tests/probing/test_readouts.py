"""The classifiers of the probe, against scikit-learn's own on the same features."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kclr.probing import readouts
from kclr.probing.protocol import hold_out
from kclr.probing.readouts import (
    LOGISTIC_STRENGTHS,
    NEIGHBOURS,
    READOUTS,
    RIDGE_STRENGTHS,
    knn,
    logistic,
    ridge,
)


@pytest.fixture(scope="module")
def digits():
    """Features with a constant one, as digits' corners are, and far from standardised."""
    found = load_digits()
    return (found.data * 3 + 100).astype(np.float32), found.target


def chosen(make, strengths, features, labels, rows, held_out):
    """Scikit-learn's model with the strength that is best on the held-out part."""
    kept, other = rows[~held_out], rows[held_out]
    scores = [
        make_pipeline(StandardScaler(), make(strength))
        .fit(features[kept], labels[kept])
        .score(features[other], labels[other])
        for strength in strengths
    ]
    best = strengths[int(np.argmax(scores))]
    model = make_pipeline(StandardScaler(), make(best))
    return best, model.fit(features[rows], labels[rows])


MODELS = {
    "ridge": (lambda s: RidgeClassifier(alpha=s), RIDGE_STRENGTHS, ridge),
    "logistic": (lambda s: LogisticRegression(C=s, max_iter=200), LOGISTIC_STRENGTHS, logistic),
    "knn": (lambda s: KNeighborsClassifier(s, metric="cosine"), NEIGHBOURS, knn),
}


# Fewer images than features and more: the ridge solves them differently.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("count", [60, 1000])
@pytest.mark.parametrize("name", MODELS)
def test_classifier_chooses_and_predicts_as_scikit_learn_does(digits, name, count):
    features, labels = digits
    make, strengths, readout = MODELS[name]
    rows = np.sort(np.random.default_rng(count).permutation(1300)[:count])
    held_out = hold_out(labels[rows], 0)
    strengths = [s for s in strengths if name != "knn" or s <= (~held_out).sum() // 10]
    features64 = features.astype(np.float64)
    strength, model = chosen(make, strengths, features64, labels, rows, held_out)
    fitted = readout(features, labels, rows, held_out)
    assert fitted.strength == strength
    same = fitted.predict(features[1300:]) == model.predict(features64[1300:])
    assert same.mean() > 0.997


@pytest.mark.parametrize("peak", range(len(RIDGE_STRENGTHS)))
def test_of_many_features_the_peak_is_found_with_half_of_the_strengths(peak, monkeypatch):
    monkeypatch.setattr(readouts, "_MANY", 1)
    shares = {}
    for places in readouts._rounds(shares, 1):
        shares |= {place: 1 / (1 + abs(place - peak)) for place in places}
    assert readouts._best(shares) == peak
    assert len(shares) <= 7


def test_of_many_features_the_ridge_is_the_same(digits, monkeypatch):
    features, labels = digits
    rows = np.arange(1000)
    held_out = hold_out(labels[rows], 0)
    every = ridge(features, labels, rows, held_out)
    monkeypatch.setattr("kclr.probing.readouts._MANY", 1)
    some = ridge(features, labels, rows, held_out)
    assert some.strength == every.strength
    np.testing.assert_array_equal(some.predict(features[1300:]), every.predict(features[1300:]))


@pytest.mark.parametrize("images", [1000, 50])  # more than features, and fewer
@pytest.mark.parametrize("side", [7, 48])
def test_block_by_block_the_ridge_is_the_same(digits, images, side, monkeypatch):
    features, labels = digits
    rows = np.arange(images)
    held_out = hold_out(labels[rows], 0)
    at_once = ridge(features, labels, rows, held_out)
    monkeypatch.setattr("kclr.probing.readouts._SIDE", side)
    blockwise = ridge(features, labels, rows, held_out)
    assert blockwise.strength == at_once.strength
    same = blockwise.predict(features[1300:]) == at_once.predict(features[1300:])
    assert same.mean() > 0.99


def test_block_by_block_equations_are_solved(monkeypatch):
    random = np.random.default_rng(0)
    factor, right = random.standard_normal((200, 100)), random.standard_normal((100, 3))
    matrix = factor.T @ factor
    expected = np.linalg.solve(matrix, right)
    for side in (1, 17, 50, 100):
        monkeypatch.setattr("kclr.probing.readouts._SIDE", side)
        blocks = np.tril(matrix) + np.triu(np.full_like(matrix, np.nan), side)
        np.testing.assert_allclose(readouts._solve(blocks, right), expected, rtol=1e-10)


def test_features_that_only_held_out_images_have_change_nothing(digits):
    """Filters that nearly nothing excites: their variance in the other images is rounding alone."""
    features, labels = digits
    rows = np.arange(1300)
    held_out = hold_out(labels[rows], 0)
    rare = np.zeros((len(features), 400), np.float32)
    rare[np.flatnonzero(held_out)[:100, None], np.arange(400)] = np.random.default_rng(0).random(
        (100, 400)
    )
    plain = ridge(features, labels, rows, held_out)
    with_rare = ridge(np.hstack([features, rare]), labels, rows, held_out)
    same = with_rare.predict(np.hstack([features, rare])[1300:]) == plain.predict(features[1300:])
    assert same.mean() > 0.98


@pytest.mark.parametrize("name", READOUTS)
def test_features_on_disk_give_the_same(digits, name, tmp_path):
    features, labels = digits
    on_disk = np.memmap(tmp_path / "features", np.float32, "w+", shape=features.shape)
    on_disk[:] = features
    rows = np.arange(0, 1300, 4)
    held_out = hold_out(labels[rows], 0)
    first, second = (READOUTS[name](given, labels, rows, held_out) for given in (features, on_disk))
    np.testing.assert_array_equal(first.predict(features[1300:]), second.predict(on_disk[1300:]))


@pytest.mark.parametrize("name", READOUTS)
def test_a_class_without_labels_is_never_predicted(digits, name):
    features, labels = digits
    rows = np.flatnonzero((labels != 4) & (np.arange(len(labels)) < 400))
    fitted = READOUTS[name](features, labels, rows, hold_out(labels[rows], 0))
    predicted = fitted.predict(features[1300:])
    assert set(np.unique(predicted)) == set(range(10)) - {4}


@pytest.mark.parametrize("name", READOUTS)
def test_the_test_images_and_the_other_labels_change_nothing(digits, name):
    features, labels = digits
    rows = np.arange(100)
    others = labels.copy()
    others[100:] = 0
    first, second = (
        READOUTS[name](features, given, rows, hold_out(labels[rows], 0))
        for given in (labels, others)
    )
    np.testing.assert_array_equal(first.predict(features[1300:]), second.predict(features[1300:]))
