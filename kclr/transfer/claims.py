"""The paper's two claims (Zhao 2020), compared with what was measured.

- Filters that were learned without labels and then fine-tuned beat a random start.
- Training layer by layer is faster than training the same stack end to end, and nearly as good.

Pure functions of plain values, as `results.json` holds them; nothing here imports TensorFlow.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kclr.transfer.charts import amount
from kclr.transfer.summary import Row, interval, mean_and_spread

FINE_TUNED = "kclr fine-tuned"


FINE_TUNING = (
    "The paper's claim is that fine-tuned filters beat a random start.\n"
    "Measured here, with the 95 % confidence interval over pairs of repeats:"
)


MEASURES = (
    "Accuracies are in %, their differences in points, with the 95 % confidence interval over\n"
    "pairs of one seed. The probe is a ridge classifier on a 2x2 grid of frozen features, with\n"
    "all labels."
)


LAYER_BY_LAYER, END_TO_END = "layer by layer", "end to end"


ARMS = {
    "frozen": ("kclr frozen", "end-to-end frozen"),
    "fine-tuned": (FINE_TUNED, "end-to-end fine-tuned"),
}


def verdict(low, high) -> str:
    """What the interval of a difference shows: "above", "below" or "no difference shown"."""
    if low is None:
        return "a single pair shows nothing"
    if low > 0:
        return "above"
    return "below" if high < 0 else "no difference shown"


def points(difference, low=None, high=None, unit="") -> str:
    """A difference of shares in points, with its interval where there is one."""
    words = f"{_signed(difference)}{unit}"
    return words if low is None else f"{words} [{_signed(low)}, {_signed(high)}]"


def _signed(share):
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def fine_tuning(rows: Iterable[Row]) -> list[str]:
    """The gain of fine-tuned filters over the random start, one sentence per amount of labels.

    Args:
        rows: from `kclr.transfer.summary.summarize`, whose gains and intervals these are.

    Returns:
        For example "10 % of the labels: above, +3.2 points [+1.0, +5.4]"; empty if one of the two
        arms is missing.
    """
    return [
        f"{amount(row.labels)}: {verdict(row.gain_low, row.gain_high)}, "
        + points(row.gain, row.gain_low, row.gain_high, " points")
        for row in rows
        if row.arm == FINE_TUNED and row.gain is not None
    ]


@dataclass(frozen=True)
class Measure:
    """A line of the comparison of training layer by layer and end to end.

    Attributes:
        name: what is measured.
        kind: "seconds", "patches" or "share" (an accuracy, as a share of 1).
        layer_by_layer, end_to_end: means; None where it is not known.
        layer_by_layer_spread, end_to_end_spread: sample standard deviations; None for one number.
        difference: layer by layer minus end to end, over pairs of one seed, for a share; for the
            others layer by layer divided by end to end, where both ran on the same hardware.
        low, high: 95 % confidence interval of the difference, Student's t over pairs; None for a
            ratio, and for fewer than two pairs.
    """

    name: str
    kind: str
    layer_by_layer: float | None
    layer_by_layer_spread: float | None
    end_to_end: float | None
    end_to_end_spread: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None

    def words(self) -> tuple[str, str, str, str]:
        """The name, both means and the difference, as tables show them."""
        return (
            self.name,
            _mean(self.kind, self.layer_by_layer, self.layer_by_layer_spread),
            _mean(self.kind, self.end_to_end, self.end_to_end_spread),
            self._difference(),
        )

    def _difference(self):
        if self.difference is None:
            return ""
        if self.kind != "share":
            return f"{self.difference:.2f} times"
        return points(self.difference, self.low, self.high)


def measures(results: Mapping[str, Any]) -> list[Measure]:
    """Layer by layer and end to end: the cost of training and the quality of the features.

    Args:
        results: as in `results.json`.

    Returns:
        Seconds and patches of the training, the probe's accuracies, and those of the arms at each
        amount of labels; empty if the experiment has no end-to-end run.
    """
    if "end_to_end" not in results:
        return []
    runs = [run for run in results["end_to_end"]["runs"] if "failed" not in run]
    ways = [[run for run in runs if run["way"] == way] for way in (LAYER_BY_LAYER, END_TO_END)]
    same = len({str(run["hardware"]) for run in runs}) == 1
    found = [
        _ratio("seconds of training", "seconds", ways, same),
        _ratio("patches seen", "patches", ways, True),
        _shares("probe, top layer", ways, lambda run: run["top_layer"]),
        _shares("probe, all layers", ways, lambda run: run["all_layers"]),
    ]
    units = [unit for unit in results["units"] if "failed" not in unit]
    for labels in dict.fromkeys(unit["labels"] for unit in units):
        for how, arms in ARMS.items():
            pair = [[u for u in units if (u["labels"], u["arm"]) == (labels, arm)] for arm in arms]
            if any(pair):
                name = f"{how}, {amount(labels)}"
                found.append(_shares(name, pair, lambda unit: unit["accuracy"]))
    return found


def _ratio(name, key, ways, comparable):
    (ours, spread), (other, other_spread) = (
        _mean_of([run[key] for run in way if run[key] is not None]) for way in ways
    )
    ratio = ours / other if comparable and ours is not None and other else None
    return Measure(name, key, ours, spread, other, other_spread, ratio)


def _shares(name, ways: Sequence[Sequence[Any]], value: Callable[[Any], float]) -> Measure:
    """A line of two groups of runs or units, paired by their seeds."""
    (ours, spread), (other, other_spread) = (_mean_of([value(x) for x in way]) for way in ways)
    partner = {each["seed"]: value(each) for each in ways[1]}
    pairs = [value(each) - partner[each["seed"]] for each in ways[0] if each["seed"] in partner]
    difference = interval(pairs) if pairs else (None, None, None)
    return Measure(name, "share", ours, spread, other, other_spread, *difference)


def _mean_of(values):
    return mean_and_spread(values) if values else (None, None)


def _mean(kind, mean, spread):
    if mean is None:
        return "not known"
    if kind == "share":
        return f"{100 * mean:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")
    form = ",.1f" if kind == "seconds" else ",.0f"
    return format(mean, form) + (f" ± {spread:{form}}" if spread else "")


def layer_by_layer(found: Sequence[Measure]) -> list[str]:
    """The second claim in sentences: how much faster, and how it compares after fine-tuning.

    Args:
        found: from `measures`.
    """
    said = []
    for measure in found:
        if measure.kind == "seconds" and measure.difference is not None:
            faster = "faster" if measure.difference < 1 else "not faster"
            said.append(
                f"Layer by layer is {faster}: {measure.difference:.2f} times the seconds of end to "
                "end."
            )
        elif measure.name.startswith("fine-tuned") and measure.difference is not None:
            gap = points(measure.difference, measure.low, measure.high, " points")
            shown = verdict(measure.low, measure.high)
            name = measure.name[0].upper() + measure.name[1:]
            said.append(f"{name}: layer by layer against end to end, {shown}, {gap}.")
    return said


def failed(results: Mapping[str, Any]) -> list[str]:
    """Runs of the comparison that could not be evaluated, and why."""
    runs = results.get("end_to_end", {}).get("runs", [])
    return [f"{run['way']}, seed {run['seed']}: {run['failed']}" for run in runs if "failed" in run]
