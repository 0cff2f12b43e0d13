"""The probe: the accuracy of a simple classifier on the frozen features of a run's layers.

Every figure comes from the same protocol: features are maps pooled over a grid; the classifier's
regularisation strength is chosen on held-out training labels; the test images are used once, at the
end.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kclr.data.arrays import run_source
from kclr.data.labels import Labelled, check_amount, load_labelled
from kclr.data.sources import Source
from kclr.errors import SpecError
from kclr.pooling import Pooling, hyphened
from kclr.probing.baselines import (
    RANDOM,
    baseline,
    baseline_titles,
    check_baseline,
    run_images,
)
from kclr.probing.judging import FrozenFeatures, stack_features
from kclr.probing.protocol import check_classifier, check_enough, classifier_name
from kclr.runs.run import labels_used
from kclr.spec.values import grid_of_series


@dataclass(frozen=True)
class ProbeResult:
    """One classifier, fitted once on some features and some labels, and tested once.

    Attributes:
        features: the run's name, and how many labels it was trained with if any, or the
            baseline's; "..., all layers" if those of all layers are concatenated; "..., flips" if
            they are averaged over mirror images.
        classifier: its name as a readout, or an object as Python shows it.
        data: the labelled data set.
        labels: a share of the training labels, or a number per class.
        label_count: training labels used, the held-out ones included.
        seed: of the draw of labels, and of a baseline's kernels.
        accuracy: share of the test images that were classified correctly.
        strength: regularisation strength chosen on held-out labels: the alpha of "ridge", the C of
            "logistic"; the number of neighbours of "knn"; None for a classifier without it.
        dimensions: length of an image's feature vector.
        feature_seconds: to compute the features of training and test images.
        fit_seconds: to choose, fit and test.
    """

    features: str
    classifier: str
    data: str
    labels: float | int
    label_count: int
    seed: int
    accuracy: float
    strength: float | None
    dimensions: int
    feature_seconds: float
    fit_seconds: float


@dataclass(frozen=True)
class ProbeSummary:
    """Results that differ only in their seed.

    Attributes:
        features, classifier, data, labels, label_count: as in the results.
        repeats: number of results.
        mean: of their accuracies.
        spread: standard deviation of their accuracies, with repeats - 1 in the denominator; None
            for a single one.
    """

    features: str
    classifier: str
    data: str
    labels: float | int
    label_count: int
    repeats: int
    mean: float
    spread: float | None


def probe_run(
    run,
    data: str | Mapping[str, Any] | tuple[Labelled, Labelled] = "tfds:cifar10",
    labels: Sequence[float | int] = (1.0,),
    baselines: Sequence[str] = (),
    classifiers: Sequence[Any] = ("ridge", "knn"),
    grid=2,
    all_layers=False,
    power=1.0,
    flips=False,
    precision="float32",
    seed=0,
    repeats=1,
    limit=None,
    alignment=False,
    progress: Callable[[str], None] | None = None,
) -> list[ProbeResult]:
    """Evaluate a run's layers, and baselines of the same geometry, on labelled images.

    Args:
        run: from `kclr.load_run`.
        data: a name for `kclr.data.labels.load_labelled`, or a mapping of one with options; or
            training and test images.
        labels: amounts of labels (see `draw`).
        baselines: of "random", "whitened", "kmeans" and "pca", made from the images that the run
            was trained on.
        classifiers: of "ridge", "logistic", "knn" and other readouts' names; or objects with `fit`
            and `predict`, such as `sklearn.linear_model.RidgeClassifier()` (see
            `kclr.probing.protocol.probe`).
        grid, all_layers, power, flips, precision: see `kclr.pooling.Pooling`.
        seed: int from 0, of the first repeat; each next repeat adds 1.
        repeats: int from 1, draws of the labels. Baselines get new kernels for each.
        limit: int from 1, use only this many images of each split, the first ones, if `data` is a
            name.
        alignment: bool, align the features of the run, and of each baseline, by views of the images
            that the run was trained on, made as its spec's `export.alignment` says.
        progress: function that receives short progress messages.

    Returns:
        For the run, then for each baseline: a result for each repeat, amount and classifier.

    Raises:
        SpecError: an argument is not valid, or images do not exist.
        RunError: a labelled picture or the run cannot be read.
    """
    layers = run.layers
    for name in baselines:
        check_baseline(name, layers)
    _check(labels, classifiers, repeats, limit, seed)
    if run.series:
        grid = grid_of_series(grid, len(layers) if all_layers else 1)
    pooling = Pooling(grid, power, all_layers, flips, precision)
    powers = {own for _, own in pooling.of_stack(len(layers))}
    tell = progress or (lambda words: None)
    channels = layers[0].kernel.shape[2]
    views = None
    if alignment:
        from kclr.probing.alignment import views_of_run

        views = views_of_run(run)
    tell("reading labelled images")
    if isinstance(data, (str, Mapping, Source)):
        like = run_source(run)
        train, test = (
            load_labelled(data, split, channels, limit, scaling=run.scaling, like=like)
            for split in ("train", "test")
        )
    else:
        train, test = data
    check_enough(train.labels, train.name)
    unlabelled = run_images(run) if set(baselines) - {RANDOM} else []
    own_name = run.path.resolve().name
    own_name = f"run {own_name}" if own_name in baseline_titles() else own_name
    used = labels_used(layers)
    own_name += f", trained with {used:,} labels" if used else ""
    suffix = ", all layers" if all_layers and len(layers) > 1 else ""
    suffix += f", power {hyphened(power)}" if powers != {1} else ""
    suffix += ", flips" if flips else ""
    suffix += ", aligned" if alignment else ""
    results = []
    for shown in (own_name, *baselines):
        made = None
        for own_seed in range(seed, seed + repeats):
            if shown != own_name:
                tell(f"{shown}: filters")
                layers, made = baseline(shown, run.layers, unlabelled, own_seed), None
            if made is None:
                tell(f"{shown}: features")
                made = stack_features(layers, train, test, pooling, views)
            for amount, classifier in itertools.product(labels, classifiers):
                tell(f"{shown}: {classifier_name(classifier)}, labels {amount:g}")
                results.append(
                    _result(shown + suffix, made, train.name, classifier, amount, own_seed)
                )
    return results


def _check(labels, classifiers, repeats, limit, seed):
    for amount in labels:
        check_amount(amount)
    for classifier in classifiers:
        check_classifier(classifier)
    for argument, value in (("repeats", repeats), ("limit", limit)):
        if value is not None and value < 1:
            raise SpecError(f"{argument}: {value} is not possible. Use 1 or more.")
    if seed < 0:
        raise SpecError(f"seed: {seed} is not possible. Use 0 or more.")
    for argument, values in (("labels", labels), ("classifiers", classifiers)):
        if not values:
            raise SpecError(f"{argument}: the list is empty. Remove it, or name one.")


def _result(shown, made: FrozenFeatures, data, classifier, amount, seed):
    start = time.perf_counter()
    score = made.score(classifier, amount, seed)
    return ProbeResult(
        features=shown,
        classifier=classifier_name(classifier),
        data=data,
        labels=amount,
        label_count=score.label_count,
        seed=seed,
        accuracy=score.accuracy,
        strength=score.strength,
        dimensions=made.fitting.shape[1],
        feature_seconds=round(made.seconds, 3),
        fit_seconds=round(time.perf_counter() - start, 3),
    )


def summaries(results: Iterable[ProbeResult]) -> list[ProbeSummary]:
    """Mean and spread over the seeds, in the order of the results."""
    groups: dict[tuple, list[ProbeResult]] = {}
    for result in results:
        key = (result.features, result.classifier, result.data, result.labels, result.label_count)
        groups.setdefault(key, []).append(result)
    return [_summary(found) for found in groups.values()]


def _summary(results):
    first, accuracies = results[0], [result.accuracy for result in results]
    return ProbeSummary(
        features=first.features,
        classifier=first.classifier,
        data=first.data,
        labels=first.labels,
        label_count=first.label_count,
        repeats=len(results),
        mean=float(np.mean(accuracies)),
        spread=float(np.std(accuracies, ddof=1)) if len(results) > 1 else None,
    )


def as_json(results: Iterable[ProbeResult]) -> dict[str, Any]:
    """Plain values for `json.dumps`: every result, and their means and spreads."""
    results = list(results)
    return {
        "results": [asdict(result) for result in results],
        "summaries": [asdict(summary) for summary in summaries(results)],
    }
