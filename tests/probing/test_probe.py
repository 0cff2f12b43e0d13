"""The probe: its protocol against a plain script, its draws of labels, and what it refuses."""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from sklearn.linear_model import RidgeClassifier

from kclr.data.labels import Labelled, load_labelled
from kclr.errors import SpecError
from kclr.probing.baselines import baseline
from kclr.probing.probe import ProbeResult, as_json, probe_run, summaries
from kclr.probing.protocol import draw, hold_out
from kclr.report.tables import probe_table
from kclr.runs.records import Probed
from kclr.runs.run import PlainLayer, Run
from kclr.scaling import Scaling

pytestmark = pytest.mark.usefixtures("without_pictures")

SPEC = """
data: {source: photos, channels: 1, limit: 2}
stack:
  - block: {filters: 12, kernel_size: 6}
  - block: {filters: 10, kernel_size: 3}
"""


def layer(name, *shape):
    block = {"filters": shape[-1], "kernel_size": list(shape[:2]), "activation": "relu"}
    return PlainLayer(name, block, np.zeros(shape, np.float32), np.zeros(shape[-1], np.float32))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What `load_run` gives, of two layers that nobody trained."""
    path = tmp_path_factory.mktemp("runs") / "mine"
    path.mkdir()
    (path / "resolved.yaml").write_text(SPEC)
    layers = [layer("conv1", 6, 6, 1, 12), layer("conv2", 3, 3, 12, 10)]
    found = baseline("random", layers, [], seed=5)
    return SimpleNamespace(
        path=path, layers=found, spec=Run(path).spec, series=False, scaling=Scaling()
    )


@pytest.fixture(scope="module")
def digits():
    return tuple(load_labelled("digits", split) for split in ("train", "test"))


def plain_script(train, test, kernel, bias, held_out):
    """The probe's protocol as a script would have it, without anything of kclr.

    Images to one layer's map, max-pool, ReLU and the mean over a 2x2 grid, in float64 numpy;
    standardised features and the ridge classifier of scikit-learn.
    """
    from numpy.lib.stride_tricks import sliding_window_view
    from sklearn.linear_model import RidgeClassifier
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def embed(images):
        windows = sliding_window_view(images / 255, kernel.shape[:2], axis=(1, 2))
        maps = np.tensordot(windows, kernel.astype(np.float64), ((4, 5, 3), (0, 1, 2))) + bias
        maps = maps[:, :26, :26].reshape(-1, 13, 2, 13, 2, kernel.shape[-1]).max(axis=(2, 4))
        maps = np.maximum(maps, 0)
        halves = (slice(0, 7), slice(6, 13))
        return np.hstack([maps[:, y, x].mean(axis=(1, 2)) for y in halves for x in halves])

    search = GridSearchCV(
        make_pipeline(StandardScaler(), RidgeClassifier()),
        {"ridgeclassifier__alpha": np.logspace(-1, 5, 13)},
        cv=PredefinedSplit(np.where(held_out, 0, -1)),
    )
    search.fit(embed(train.images), train.labels)
    return search.score(embed(test.images), test.labels)


def test_the_probe_agrees_with_a_plain_scikit_learn_script(run, digits):
    train, test = digits
    first = SimpleNamespace(
        path=run.path, layers=run.layers[:1], spec=run.spec, series=False, scaling=run.scaling
    )
    (result,) = probe_run(first, digits, classifiers=["ridge"])
    expected = plain_script(
        train, test, first.layers[0].kernel, first.layers[0].bias, hold_out(train.labels, 0)
    )
    assert 0.5 < expected < 0.99
    assert abs(result.accuracy - expected) <= 0.001


def test_labels_are_drawn_from_every_class_and_smaller_draws_are_part_of_larger_ones():
    labels = np.repeat([0, 1, 2], [100, 200, 50])
    tenth, all_of_them = (draw(labels, amount, seed=3) for amount in (0.1, 1.0))
    assert np.bincount(labels[tenth]).tolist() == [10, 20, 5]
    assert set(draw(labels, 0.05, seed=3)) <= set(tenth)
    np.testing.assert_array_equal(all_of_them, np.arange(350))
    assert set(tenth) != set(draw(labels, 0.1, seed=4))
    np.testing.assert_array_equal(tenth, draw(labels, 0.1, seed=3))


@pytest.mark.parametrize(
    ("amount", "counts"), [(7, [7, 7, 7]), (2, [2, 2, 2]), (0.001, [2, 2, 2]), (60, [60, 60, 50])]
)
def test_a_whole_number_of_labels_is_one_for_each_class(amount, counts):
    labels = np.repeat([0, 1, 2], [100, 200, 50])
    assert np.bincount(labels[draw(labels, amount, seed=0)]).tolist() == counts


@pytest.mark.parametrize("amount", [0, -0.5, 1.5, 2.5, True, "all", float("nan"), float("inf")])
def test_what_is_no_amount_of_labels_is_refused(run, digits, amount):
    with pytest.raises(SpecError, match="is not an amount of labels"):
        probe_run(run, digits, labels=[0.1, amount])


@pytest.mark.parametrize(
    ("classes", "held_out"),
    [([10_000, 20_000], [1000, 2000]), ([2500, 2500], [500, 500]), ([100, 3, 1], [50, 2, 0])],
)
def test_a_tenth_of_each_class_is_held_out_and_more_of_few(classes, held_out):
    labels = np.repeat(np.arange(len(classes)), classes)
    found = hold_out(labels, 0)
    assert np.bincount(labels[found], minlength=len(classes)).tolist() == held_out


def test_every_arm_amount_and_classifier_has_a_result_for_each_seed(run, digits):
    told = []
    first = SimpleNamespace(
        path=run.path, layers=run.layers[:1], spec=run.spec, series=False, scaling=run.scaling
    )
    results = probe_run(
        first,
        digits,
        labels=[5, 1.0],
        baselines=["random", "whitened"],
        seed=5,
        repeats=2,
        progress=told.append,
    )
    keys = [(r.features, r.seed, r.labels, r.classifier) for r in results]
    assert keys == [
        (features, seed, labels, classifier)
        for features in ("mine", "random", "whitened")
        for seed in (5, 6)
        for labels in (5, 1.0)
        for classifier in ("ridge", "knn")
    ]
    assert {r.dimensions for r in results} == {48}
    assert {r.label_count for r in results} == {50, len(digits[0])}
    # The run of this test is the random baseline of seed 5.
    assert [r.accuracy for r in results[:4]] == [r.accuracy for r in results[8:12]]
    assert [r.accuracy for r in results[4:8]] != [r.accuracy for r in results[12:16]]
    assert "whitened: features" in told
    assert json.loads(json.dumps(as_json(results)))["results"][0]["features"] == "mine"


def test_all_layers_are_named_and_stand_side_by_side(run, digits):
    (result,) = probe_run(run, digits, classifiers=["ridge"], all_layers=True, grid=1)
    assert result.features == "mine, all layers"
    assert result.dimensions == 12 + 10
    (result,) = probe_run(run, digits, classifiers=["ridge"], all_layers=True, grid=[3, 1])
    assert result.dimensions == 9 * 12 + 10


def test_flips_are_named_and_make_an_image_and_its_mirror_image_alike(run, digits):
    train, test = digits
    mirrored = replace(test, images=np.ascontiguousarray(test.images[:, :, ::-1]))
    options = {"classifiers": ["ridge"], "power": 0.5, "flips": True}
    (result,), (other,) = (probe_run(run, (train, each), **options) for each in (test, mirrored))
    assert result.features == "mine, power 0.5, flips"
    assert abs(result.accuracy - other.accuracy) < 0.005  # rounding may move an image or two


def test_features_in_bfloat16_are_worth_about_as_much(run, digits):
    (exact,) = probe_run(run, digits, classifiers=["ridge"])
    (coarse,) = probe_run(run, digits, classifiers=["ridge"], precision="mixed_bfloat16")
    assert abs(exact.accuracy - coarse.accuracy) < 0.02


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"baselines": ["kmean"]}, "'kmean' is not a known baseline. Choose from random"),
        ({"classifiers": ["svm"]}, "'svm' is not a known classifier. Choose from knn, logistic"),
        ({"classifiers": []}, "classifiers: the list is empty"),
        ({"grid": 0}, "grid: 0 is not possible"),
        ({"power": 2}, "power: 2 is not possible"),
        ({"power": [0.5, 1]}, "power: 2 numbers for 1 map. Use one for all"),
        ({"grid": [3, 2]}, "grid: 2 numbers for 1 map. Use one for all"),
        ({"repeats": 0}, "repeats: 0 is not possible"),
        ({"seed": -1}, "seed: -1 is not possible"),
        ({"limit": 1}, "digits: 1 labelled image of a single class are too few"),
        ({"data": "photos"}, "'photos' is not a labelled data set"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_computed(run, options, words):
    with pytest.raises(SpecError, match=words.replace(".", r"\.")):
        probe_run(run, **({"data": "digits"} | options))


def test_images_too_small_for_the_stack_are_refused_with_the_cure(run, digits):
    small = tuple(Labelled(d.images[:, :9, :9], d.labels, d.classes, d.name) for d in digits)
    with pytest.raises(SpecError, match=r"digits: images of 9x9 px .* at least 13x13"):
        probe_run(run, small)


def test_images_of_other_channels_are_refused_with_the_cure(run):
    color = tuple(load_labelled("digits", split, channels=3) for split in ("train", "test"))
    with pytest.raises(SpecError, match="digits: images have 3 channels, but the layers take 1"):
        probe_run(run, color)


def test_a_labelled_set_is_shown_as_the_run_needs_it(run):
    (result,) = probe_run(run, "digits", classifiers=["ridge"], limit=200, grid=1)
    assert result.label_count == 200
    assert result.data == "digits"


def test_an_object_of_scikit_learn_has_its_own_line_and_is_written_as_json(run):
    classifiers = ["ridge", RidgeClassifier(), RidgeClassifier(alpha=100.0)]
    results = probe_run(run, "digits", classifiers=classifiers, limit=200, grid=1)
    names = ["ridge", "RidgeClassifier()", "RidgeClassifier(alpha=100.0)"]
    assert [result.classifier for result in results] == names
    written = json.loads(json.dumps(as_json(results)))
    assert [line["strength"] for line in written["results"][1:]] == [None, None]
    read = Probed.model_validate(written)  # as the report does
    assert [line.classifier for line in read.summaries] == names


def test_a_run_that_is_called_like_a_baseline_is_told_apart(run, digits):
    namesake = SimpleNamespace(
        path=run.path.parent / "random",
        layers=run.layers[:1],
        spec=run.spec,
        series=False,
        scaling=run.scaling,
    )
    results = probe_run(namesake, digits, baselines=["random"], classifiers=["ridge"])
    assert [r.features for r in results] == ["run random", "random"]


def result(features, accuracy, seed=0, labels=1.0, classifier="ridge"):
    return ProbeResult(
        features, classifier, "digits", labels, 1438, seed, accuracy, 1.0, 40, 0.1, 0.1
    )


def test_the_table_has_mean_and_spread_in_percent():
    results = [result("mine", 0.5), result("mine", 0.6, seed=1), result("kmeans, all layers", 0.7)]
    results += [result("kmeans, all layers", 0.25, labels=0.1, classifier="knn")]
    found = summaries(results)
    assert [(s.repeats, s.mean) for s in found] == [(2, 0.55), (1, 0.7), (1, 0.25)]
    assert found[0].spread == pytest.approx(np.sqrt(0.005))
    assert found[1].spread is None
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(probe_table(found))
    text = console.export_text()
    for words in (
        "test accuracy on digits, %",
        "55.0 ± 7.1",
        "spherical k-means, all layers",
        "70.0",
        "25.0",
        "neighbours",
        "10 % of labels",
    ):
        assert words in text
