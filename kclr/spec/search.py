"""What the section `search` of a spec may contain: `kclr search SPEC`.

A hyperparameter has the key path that `--set` would use, and a trial's values are set as by
`--set`; so a trial's spec is an ordinary spec.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from kclr.errors import SpecError
from kclr.spec.reading import read_yaml
from kclr.spec.registry import ByName, Part
from kclr.spec.wording import any_of, invalid, shown

KINDS = ("float", "int", "choice", "boolean")
PROBE = "probe_accuracy"
# Of a training's metrics, those that say by their name which way is better.
LARGER = ("accuracy", "effective_rank", "spread")
SMALLER = ("loss", "dead_filters", "duplicate_filters")
DIGITS = 6  # of a float, so that a trial's spec can be read and a value survives being written

_Floats = Annotated[tuple[float, float], Field(strict=False)]
_Ints = Annotated[tuple[int, int], Field(strict=False)]
_Values = Annotated[tuple[Any, ...], Field(strict=False, min_length=1, max_length=1000)]
_Paths = Annotated[tuple[str, ...], Field(strict=False)]
_Step = Annotated[float, Field(gt=0)]


class Hyperparameter(Part):
    """The values that one or several keys may have in a trial: one of `float`, `int`, `choice`,
    `boolean`."""

    float: _Floats | None = None
    """The lowest and the highest number, inclusive."""
    int: _Ints | None = None
    """The lowest and the highest whole number, inclusive."""
    choice: _Values | None = None
    """Values to choose from, of any form: numbers, names, lists, mappings, null."""
    boolean: Literal[True] | None = None
    """`true`: the key is true or false."""
    sampling: Literal["linear", "log", "reverse_log"] = "linear"
    """How numbers are distributed over the range; `log` needs a lowest number above 0."""
    step: _Step | None = None
    """Distance between neighbouring numbers; with `log` their ratio. By default any number in the
    range; the tuner `grid` then uses ten."""
    also: _Paths = ()
    """Other key paths that are set to the same value."""
    when: dict[str, _Values] = Field(default_factory=dict)
    """The values of other hyperparameters for which this one is used, by their key paths, as in
    `when: {stack.1.objective.name: [triplet]}`. Otherwise the spec's own value is kept."""

    @model_validator(mode="after")
    def _one_kind(self):
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            words = f"has {' and '.join(given)}" if given else "has no values"
            raise invalid(f"{words}. Use one of {any_of(KINDS)}.", value=None)
        ends = self.ends
        for key, usual in (("sampling", "linear"), ("step", None)):
            if not ends and getattr(self, key) != usual:
                raise invalid(f"is only for float and int, not for {given[0]}. Remove it.", key)
        if not ends:
            return self
        low, high = ends
        if low >= high:
            raise invalid(
                f"{shown([low, high])} is not a range. Write the lower number first.", given[0]
            )
        if self.sampling != "linear" and low <= 0:
            raise invalid(
                f"{low} is not possible with sampling: {self.sampling}. Use a lowest number above "
                "0, or sampling: linear.",
                given[0],
            )
        if self.step and self.int and self.step % 1:
            raise invalid(f"{self.step} is not a whole number. Use one.", "step", value=self.step)
        if self.step and self.sampling != "linear" and self.step <= 1:
            raise invalid(
                f"{self.step:g} is not a ratio. Use more than 1 with sampling: {self.sampling}.",
                "step",
                value=self.step,
            )
        return self

    @property
    def ends(self):
        """The lowest and the highest value, or None."""
        return self.float or self.int

    @property
    def extremes(self) -> list[Any]:
        """The values that a check tries: the ends of a range, or all values."""
        if self.boolean:
            return [True, False]
        return list(self.choice if self.choice is not None else self.ends or ())


class Tuner(ByName):
    """How keras-tuner chooses the next trial."""

    shorthand: ClassVar[str | None] = "name"
    example: ClassVar[str] = "bayesian"

    name: Literal["random", "bayesian", "hyperband", "grid"] = "bayesian"
    """`random`; `bayesian`, a Gaussian process over the trials so far; `hyperband`, short trainings
    of the topmost layer, of which the better ones continue from their checkpoints (Li et al. 2018,
    "Hyperband: a novel bandit-based approach to hyperparameter optimization"); or `grid`, all
    combinations."""
    factor: Annotated[int, Field(ge=2, le=10)] = 3
    """For `hyperband`: one in this many trials continues, for this many times as many steps."""
    rounds: Annotated[int, Field(ge=1, le=8)] = 3
    """For `hyperband`: largest number of rounds of a training. The last round ends with all of the
    layer's steps; each round before it has `factor` times fewer."""
    initial: Annotated[int, Field(ge=1)] | None = None
    """For `bayesian`: random trials before the first that is chosen; by default three for each
    hyperparameter."""

    @model_validator(mode="after")
    def _own_options(self):
        owners = {"factor": "hyperband", "rounds": "hyperband", "initial": "bayesian"}
        for key, owner in owners.items():
            # As they are by default they may stand: the resolved spec of a run has every key.
            usual = type(self).model_fields[key].default
            if getattr(self, key) != usual and self.name != owner:
                raise invalid(f"is only for {owner}, not for {self.name}. Remove it.", key)
        return self


class Goal(ByName):
    """What a trial is judged by: a metric of the topmost layer that it trains."""

    shorthand: ClassVar[str | None] = "metric"
    example: ClassVar[str] = "probe_accuracy"

    metric: str = PROBE
    """`probe_accuracy`: the accuracy of the spec's `probe` on held-out training images, with the
    classifier that `probe.classifier` names; or a metric of the training's history, such as
    `contrast_accuracy`."""
    direction: Literal["min", "max"] | None = None
    """Whether lower or higher is better; by default known for accuracies, losses and ranks."""

    @model_validator(mode="after")
    def _has_a_direction(self):
        if self.direction is None and not self.known:
            words = (
                f"it is not known whether a high or a low {shown(self.metric)} is better. Add "
                "direction: max"
            )
            raise invalid(f"{words} or direction: min.", "metric", value=self.metric)
        return self

    @property
    def known(self) -> str | None:
        """The direction that the metric's name implies, or None."""
        if self.metric.endswith(LARGER):
            return "max"
        return "min" if self.metric.endswith(SMALLER) else None

    @property
    def better(self) -> str:
        """ "max" or "min"."""
        return self.direction or self.known or "max"


class Search(Part):
    """What `kclr search` tries and how it judges; ignored by `kclr train`."""

    space: dict[str, Hyperparameter] = Field(min_length=1, max_length=100)
    """The hyperparameters by key path, as in `stack.0.objective.temperature: {float: [0.02, 0.5],
    sampling: log}`."""
    layers: Literal["greedy", "together"] = "greedy"
    """`greedy`: layer by layer, each on the frozen best layers below; `together`: the whole stack
    in every trial. Layers below the searched ones that no hyperparameter affects are trained
    once."""
    tuner: Tuner = Field(default_factory=Tuner)
    """How the next trial is chosen."""
    objective: Goal = Field(default_factory=Goal)
    """What a trial is judged by."""
    trials: Annotated[int, Field(ge=1, le=100_000)] = 20
    """Largest number of trials, per searched layer with `greedy`; each round of `hyperband`
    counts."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """No trial starts after this many minutes in total, over all layers and interruptions; no limit
    by default."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the tuner. Trials train with the spec's own seed."""
    keep: Annotated[int, Field(ge=1, le=1000)] = 3
    """Number of best trials whose layers are kept on disk."""


def text_of(value: Any) -> str:
    """A value as text that is read as that value: `--set KEY=TEXT`."""
    if isinstance(value, str):
        try:
            if read_yaml(value, "value").value == value:
                return value
        except SpecError:
            pass
    return json.dumps(value)


def rounded(value: Any) -> Any:
    """A tuner's number as in a trial's spec: a float with `DIGITS` digits."""
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def assignments(space: Mapping[str, Hyperparameter], values: Mapping[str, Any]) -> list[str]:
    """A trial's values in the form of `--set`, wider keys first.

    Args:
        space: the hyperparameters. values: for each hyperparameter in use a number, a boolean, or
            the text of a choice (`text_of`).
    """
    found = []
    for path in sorted(values, key=lambda path: path.count(".")):
        value = values[path]
        text = value if isinstance(value, str) else json.dumps(rounded(value))
        found += [f"{key}={text}" for key in (path, *space[path].also)]
    return found


def parents_first(space: Mapping[str, Hyperparameter]) -> list[str]:
    """The key paths, each after those that its `when` names; those in a cycle are omitted."""
    order: list[str] = []
    while more := [
        path
        for path, own in space.items()
        if path not in order and all(parent in order for parent in own.when)
    ]:
        order += more
    return order


def layer_of(path: str) -> int | None:
    """The number of the layer that a key path belongs to; None for the spec's own keys."""
    words = path.split(".")
    return int(words[1]) if words[0] == "stack" and words[1:] and words[1].isdigit() else None
