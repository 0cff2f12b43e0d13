"""Units of a transfer experiment, each a repeat of an arm, summarized in a row per arm.

Pure functions of plain values, as `results.json` holds them; nothing here imports TensorFlow.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

REFERENCE = "random start"


CONFIDENCE = 0.95


@dataclass(frozen=True)
class Row:
    """An arm at a label fraction, over its finished repeats. Accuracies are shares of 1.

    Attributes:
        arm: its name.
        labels: share of the training images whose labels were used.
        images: how many images that is.
        repeats: how many finished.
        mean: of the test accuracy after the last epoch.
        spread: sample standard deviation of it; None for one repeat.
        gain: mean difference to the random start of the same repeat; None for the random start
            itself, and where no repeat has both.
        gain_low, gain_high: 95 % confidence interval of the gain, Student's t over pairs; None for
            fewer than two pairs.
        seconds: mean of a repeat's training.
        epochs_to_random_best: see the function of this name.
    """

    arm: str
    labels: float
    images: int
    repeats: int
    mean: float
    spread: float | None
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    seconds: float
    epochs_to_random_best: int | None


def summarize(units: Iterable[Mapping[str, Any]]) -> list[Row]:
    """A row for each arm and label fraction that has a finished unit.

    Args:
        units: as in `results.json`. Failed ones (with the key `failed`) are passed over.

    Returns:
        Rows by label fraction, then by arm, both in the order in which the units name them.
    """
    groups: dict[tuple[float, str], list[Mapping[str, Any]]] = {}
    fractions: dict[float, None] = {}
    for unit in units:
        fractions[unit["labels"]] = None
        if "failed" not in unit:
            groups.setdefault((unit["labels"], unit["arm"]), []).append(unit)
    place = {labels: number for number, labels in enumerate(fractions)}
    return [
        _row(arm, labels, groups[labels, arm], groups.get((labels, REFERENCE), []))
        for labels, arm in sorted(groups, key=lambda group: place[group[0]])
    ]


def _row(arm, labels, units, reference):
    accuracies = [unit["accuracy"] for unit in units]
    mean, spread = mean_and_spread(accuracies)
    gain = low = high = None
    if arm != REFERENCE:
        differences = paired(units, reference)
        if differences:
            gain, low, high = interval(differences)
    return Row(
        arm=arm,
        labels=labels,
        images=units[0]["images"],
        repeats=len(units),
        mean=mean,
        spread=spread,
        gain=gain,
        gain_low=low,
        gain_high=high,
        seconds=math.fsum(unit["seconds"] for unit in units) / len(units),
        epochs_to_random_best=epochs_to_random_best(units, reference),
    )


def mean_and_spread(values) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1) of numbers; None for the second of one number."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def paired(units, reference) -> list[float]:
    """Accuracy minus that of the reference with the same seed, where both have finished."""
    other = {unit["seed"]: unit["accuracy"] for unit in reference}
    return [unit["accuracy"] - other[unit["seed"]] for unit in units if unit["seed"] in other]


def interval(differences, confidence=CONFIDENCE) -> tuple[float, float | None, float | None]:
    """Mean of paired differences with the confidence interval of Student's t.

    Returns:
        (mean, low, high); low and high are None for fewer than two differences.
    """
    mean, spread = mean_and_spread(differences)
    if spread is None:
        return mean, None, None
    from scipy.stats import t

    count = len(differences)
    half = float(t.ppf((1 + confidence) / 2, count - 1)) * spread / math.sqrt(count)
    return mean, mean - half, mean + half


def mean_curve(units, key="test_accuracy") -> list[float]:
    """Mean over repeats of a number of their histories, for each epoch that all of them have."""
    histories = [[epoch[key] for epoch in unit["history"]] for unit in units]
    return [math.fsum(values) / len(values) for values in zip(*histories, strict=False)]


def epochs_to_random_best(units, reference) -> int | None:
    """Epochs after which an arm matches the best accuracy of the random start.

    Both are curves of the mean test accuracy over repeats; only repeats that both have count. The
    random start's own number is the epoch of its best.

    Returns:
        The first such epoch, from 1; None if there is none, or nothing to compare with.
    """
    seeds = {unit["seed"] for unit in units} & {unit["seed"] for unit in reference}
    best = mean_curve([unit for unit in reference if unit["seed"] in seeds])
    curve = mean_curve([unit for unit in units if unit["seed"] in seeds])
    if not best:
        return None
    return next((epoch for epoch, value in enumerate(curve, 1) if value >= max(best)), None)


def curves(units) -> dict[tuple[float, str], tuple[list[float], list[float | None]]]:
    """Test accuracy by epoch for each label fraction and arm: means, and spreads over repeats."""
    groups: dict[tuple[float, str], list[Mapping[str, Any]]] = {}
    for unit in units:
        if "failed" not in unit:
            groups.setdefault((unit["labels"], unit["arm"]), []).append(unit)
    found = {}
    for key, group in groups.items():
        histories = [[epoch["test_accuracy"] for epoch in unit["history"]] for unit in group]
        pairs = [mean_and_spread(values) for values in zip(*histories, strict=False)]
        found[key] = [mean for mean, _ in pairs], [spread for _, spread in pairs]
    return found
