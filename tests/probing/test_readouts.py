"""The classifiers of the probe, against scikit-learn's own on the same features."""

import tracemalloc

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kclr.errors import SpecError
from kclr.probing.memory import changed
from kclr.probing.protocol import check_classifier, draw, hold_out, probe
from kclr.probing.readouts import knn, logistic, ridge
from kclr.probing.readouts.knn import NearestNeighbours
from kclr.probing.readouts.logistic import Logistic
from kclr.probing.readouts.mean import MeanClassifier, bound
from kclr.probing.readouts.ridge import Ridge
from kclr.spec import registry
from kclr.spec.registry import parts, register

READOUTS = (Ridge, Logistic, NearestNeighbours)


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
    "ridge": (lambda s: RidgeClassifier(alpha=s), ridge.STRENGTHS, Ridge),
    "logistic": (lambda s: LogisticRegression(C=s, max_iter=200), logistic.STRENGTHS, Logistic),
    "knn": (lambda s: KNeighborsClassifier(s, metric="cosine"), knn.NEIGHBOURS, NearestNeighbours),
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
    fitted = readout().fit(features[rows], labels[rows])
    assert fitted.strength_ == strength
    same = fitted.predict(features[1300:]) == model.predict(features64[1300:])
    assert same.mean() > 0.997


@pytest.mark.parametrize("peak", range(len(ridge.STRENGTHS)))
def test_of_many_features_the_peak_is_found_with_half_of_the_strengths(peak, monkeypatch):
    monkeypatch.setattr(ridge, "_MANY", 1)
    shares = {}
    for places in ridge._rounds(shares, 1):
        shares |= {place: 1 / (1 + abs(place - peak)) for place in places}
    assert ridge._best(shares) == peak
    assert len(shares) <= 7


def test_of_many_features_the_ridge_is_the_same(digits, monkeypatch):
    features, labels = digits
    every = Ridge().fit(features[:1000], labels[:1000])
    monkeypatch.setattr("kclr.probing.readouts.ridge._MANY", 1)
    some = Ridge().fit(features[:1000], labels[:1000])
    assert some.strength_ == every.strength_
    np.testing.assert_array_equal(some.predict(features[1300:]), every.predict(features[1300:]))


@pytest.mark.parametrize("images", [1000, 50])  # more than features, and fewer
@pytest.mark.parametrize("side", [7, 48])
def test_block_by_block_the_ridge_is_the_same(digits, images, side, monkeypatch):
    features, labels = digits
    at_once = Ridge().fit(features[:images], labels[:images])
    for block in ("_SIDE", "_COLUMNS"):
        monkeypatch.setattr(f"kclr.probing.readouts.ridge.{block}", side)
    blockwise = Ridge().fit(features[:images], labels[:images])
    assert blockwise.strength_ == at_once.strength_
    same = blockwise.predict(features[1300:]) == at_once.predict(features[1300:])
    assert same.mean() > 0.99


def test_fewer_images_than_features_take_a_few_times_the_memory_of_these(monkeypatch):
    monkeypatch.setattr("kclr.probing.memory.BLOCK", 128)
    monkeypatch.setattr("kclr.probing.readouts.ridge._COLUMNS", 128)
    features = np.random.default_rng(0).random((1000, 2000), np.float32)
    tracemalloc.start()
    try:
        Ridge().fit(features, np.arange(1000) % 4)
        assert tracemalloc.get_traced_memory()[1] < 3.5 * features.nbytes
    finally:
        tracemalloc.stop()


def test_a_logistic_regression_standardises_what_it_fits_on_once_not_for_each_strength(
    digits, monkeypatch
):
    rows = []
    counted = lambda features, own, change: rows.append(len(own)) or changed(features, own, change)  # noqa: E731
    monkeypatch.setattr("kclr.probing.readouts.logistic.changed", counted)
    monkeypatch.setattr("kclr.probing.readouts.logistic.STEPS", 2)
    Logistic().fit(digits[0][:60], digits[1][:60])
    assert len(rows) == 2
    assert rows[1] == 60


def test_block_by_block_equations_are_solved(monkeypatch):
    random = np.random.default_rng(0)
    factor, right = random.standard_normal((200, 100)), random.standard_normal((100, 3))
    matrix = factor.T @ factor
    expected = np.linalg.solve(matrix, right)
    for side in (1, 17, 50, 100):
        monkeypatch.setattr("kclr.probing.readouts.ridge._SIDE", side)
        blocks = np.tril(matrix) + np.triu(np.full_like(matrix, np.nan), side)
        np.testing.assert_allclose(ridge._solve(blocks, right), expected, rtol=1e-10)


def test_features_that_only_held_out_images_have_change_nothing(digits):
    """Filters that nearly nothing excites: their variance in the other images is rounding alone."""
    features, labels = digits
    held_out = hold_out(labels[:1300], 0)
    rare = np.zeros((len(features), 400), np.float32)
    rare[np.flatnonzero(held_out)[:100, None], np.arange(400)] = np.random.default_rng(0).random(
        (100, 400)
    )
    plain = Ridge().fit(features[:1300], labels[:1300])
    more = np.hstack([features, rare])
    with_rare = Ridge().fit(more[:1300], labels[:1300])
    same = with_rare.predict(more[1300:]) == plain.predict(features[1300:])
    assert same.mean() > 0.98


def test_the_mean_classifier_is_the_largest_product_with_a_class_mean(digits):
    features, labels = digits
    scaler = StandardScaler().fit(features[:1000].astype(np.float64))
    fitted, other = (scaler.transform(part) for part in (features[:1000], features[1000:]))
    means = np.stack([fitted[labels[:1000] == label].mean(axis=0) for label in range(10)])
    found = MeanClassifier().fit(features[:1000], labels[:1000]).predict(features[1000:])
    np.testing.assert_array_equal(found, (other @ means.T).argmax(axis=1))
    assert (found == labels[1000:]).mean() > 0.8


def test_the_mean_classifiers_bound_is_that_of_all_triples(digits):
    features, labels = digits
    own = (features - features.mean(axis=0))[:40].astype(np.float64) / 300
    labels = labels[:40]
    for scale in (1, 0.1):
        supervised, limit = bound(own * scale, labels)
        assert supervised <= limit
    unlike, triples = [], []
    for x, label in zip(own * scale, labels, strict=True):
        for other, against in zip(own * scale, labels, strict=True):
            alike = own[labels == label] * scale
            triples.append(np.log2(1 + np.exp(-(alike - other) @ x)).mean())
            if against != label:
                means = [own[labels == c].mean(axis=0) * scale for c in (label, against)]
                unlike.append(np.log2(1 + np.exp(-(means[0] - means[1]) @ x)))
    tau = np.mean(labels[:, None] == labels[None])
    np.testing.assert_allclose(supervised, np.mean(unlike))
    np.testing.assert_allclose(limit, (np.mean(triples) - tau) / (1 - tau))
    with pytest.raises(ValueError, match="a single class"):
        bound(own, np.zeros(40))


@pytest.mark.parametrize("name", ["ridge", "logistic", "knn", "mean"])
def test_features_on_disk_give_the_same(digits, name, tmp_path, monkeypatch):
    features, labels = digits
    on_disk = np.memmap(tmp_path / "features", np.float32, "w+", shape=features.shape)
    on_disk[:] = features
    in_memory = probe(features[:1300], labels[:1300], features[1300:], labels[1300:], name, 0.25)
    monkeypatch.setattr("kclr.probing.memory.BLOCK", 100)
    monkeypatch.setattr("kclr.probing.memory.room", on_disk_always)
    assert in_memory == probe(
        on_disk[:1300], labels[:1300], on_disk[1300:], labels[1300:], name, 0.25
    )


def on_disk_always(shape):
    from tempfile import TemporaryFile

    return np.memmap(TemporaryFile(), np.float32, "w+", shape=tuple(shape))


@pytest.mark.parametrize("readout", READOUTS)
def test_a_class_without_labels_is_never_predicted(digits, readout):
    features, labels = digits
    rows = np.flatnonzero((labels != 4) & (np.arange(len(labels)) < 400))
    predicted = readout().fit(features[rows], labels[rows]).predict(features[1300:])
    assert set(np.unique(predicted)) == set(range(10)) - {4}


@pytest.mark.parametrize("readout", READOUTS)
def test_a_second_fit_forgets_the_first(digits, readout):
    features, labels = digits
    again = readout().fit(features[:400], labels[:400] % 3).fit(features[:100], labels[:100])
    once = readout().fit(features[:100], labels[:100])
    np.testing.assert_array_equal(again.predict(features[1300:]), once.predict(features[1300:]))


@pytest.mark.parametrize("name", ["ridge", "logistic", "knn"])
def test_labels_that_are_not_drawn_change_nothing(digits, name):
    features, labels = digits
    rows = draw(labels[:1300], 10, 0)
    fitted = parts("readout")[name]().fit(features[rows], labels[rows])
    accuracy, strength, count = probe(
        features[:1300], labels[:1300], features[1300:], labels[1300:], name, 10
    )
    assert (strength, count) == (fitted.strength_, 100)
    assert accuracy == np.mean(fitted.predict(features[1300:]) == labels[1300:])


def test_an_object_of_scikit_learn_is_fitted_as_it_is_on_all_labels_drawn(digits):
    features, labels = digits
    train, test = (features[:1300], labels[:1300]), (features[1300:], labels[1300:])
    given = RidgeClassifier(alpha=3.0)
    rows = draw(labels[:1300], 0.5, 7)
    expected = RidgeClassifier(alpha=3.0).fit(features[rows], labels[rows]).score(*test)
    found = probe(*train, *test, given, 0.5, seed=7)
    assert found == (pytest.approx(expected, abs=1e-12), None, len(rows))
    assert not hasattr(given, "coef_")


def test_a_pipeline_has_the_probes_seed_unless_it_has_its_own(digits):
    features, labels = digits
    train, test = (features[:200], labels[:200]), (features[1300:], labels[1300:])

    def forest(seed=None):
        return make_pipeline(StandardScaler(), RandomForestClassifier(5, random_state=seed))

    before = np.random.get_state()[1].copy()
    drawn = probe(*train, *test, forest(), seed=3).accuracy
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert drawn == forest(3).fit(*train).score(*test)
    assert probe(*train, *test, forest(8), seed=3).accuracy == forest(8).fit(*train).score(*test)


def test_a_registered_readout_is_known_by_its_name(digits, monkeypatch):
    from kclr.spec import parse_spec
    from kclr.spec.schema import json_schema

    monkeypatch.setitem(registry._parts, "readout", parts("readout"))

    @register("readout", "trees")
    def trees():
        return RandomForestClassifier(5)

    features, labels = digits
    train, test = (features[:200], labels[:200]), (features[1300:], labels[1300:])
    expected = RandomForestClassifier(5, random_state=0).fit(*train).score(*test)
    assert probe(*train, *test, "trees").accuracy == expected
    spec = parse_spec("{probe: {data: digits, classifier: trees}, stack: [{}]}")
    assert spec.probe.classifier == "trees"
    assert (
        "trees" in json_schema()["$defs"]["Probe"]["anyOf"][1]["properties"]["classifier"]["enum"]
    )


@pytest.mark.parametrize(
    ("classifier", "words"),
    [
        ("rigde", "Did you mean 'ridge'"),
        (RidgeClassifier, "Use a name, or an object with fit and predict"),
        (StandardScaler(), "is not a classifier. Use a name"),
        (None, "None is not a classifier"),
    ],
)
def test_what_is_no_classifier_is_refused(classifier, words):
    with pytest.raises(SpecError, match=words):
        check_classifier(classifier)
