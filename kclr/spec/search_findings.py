"""Errors in the section `search` of a spec: paths that do not exist, impossible values."""

from collections.abc import Callable
from typing import Any

from kclr.errors import SpecError
from kclr.spec.overrides import override
from kclr.spec.registry import parts
from kclr.spec.schema import Spec
from kclr.spec.search import PROBE, assignments, layer_of, parents_first, text_of
from kclr.spec.wording import Finding, nearest, shown

# What is known of every layer's training; an objective's own statistics come with it.
METRICS = (PROBE, "loss", "spread", "effective_rank", "dead_filters", "duplicate_filters")


def search_findings(
    spec: Spec, value: dict[str, Any], check: Callable[[Any], list[Finding]]
) -> list[Finding]:
    """The errors in a search.

    Args:
        spec: checked, with a section `search`.
        value: its plain value.
        check: returns the errors in the plain value of a spec, except those in its sizes. Whether a
            layer's sizes are possible depends on several keys: a trial with impossible sizes fails.
    """
    assert spec.search
    at = ("search", "space")
    space, findings = spec.search.space, []
    for path, own in space.items():
        for parent, values in own.when.items():
            if parent not in space:
                words = f"{parent} is not a hyperparameter of this search.{nearest(parent, space)}"
                findings.append(Finding((*at, path, "when", parent), words))
                continue
            allowed = [text_of(choice) for choice in space[parent].extremes]
            wrong = [choice for choice in values if text_of(choice) not in allowed]
            if space[parent].ends:
                words = f"{parent} has a range. Use a choice or a boolean."
                findings.append(Finding((*at, path, "when", parent), words))
            elif wrong:
                words = f"{shown(wrong[0])} is not a value of {parent}.{nearest(wrong[0], allowed)}"
                findings.append(Finding((*at, path, "when", parent), words))
    order = parents_first(space)
    if not findings:
        circle = [path for path in space if path not in order]
        findings += [
            Finding(
                (*at, path, "when"),
                ("depends on itself through other hyperparameters. Remove one `when`."),
            )
            for path in circle[:1]
        ]
    plain = {key: part for key, part in value.items() if key != "search"}
    if not findings:
        for path in space:
            findings += _value_findings(spec, path, plain, check)
    return findings + _whole_findings(spec, bool(value.get("probe")))


def _value_findings(spec, path, plain, check):
    """The first value that the key, or a key set together with it, cannot have."""
    own, at = spec.search.space[path], ("search", "space", path)
    if path.split(".")[0] == "search":
        return [Finding(at, "a search cannot change itself. Remove it.")]
    given: dict[str, Any] = {}
    for parent in parents_first(spec.search.space):
        if parent in _ancestors(spec.search.space, path):
            children = [spec.search.space[path], *map(spec.search.space.get, given)]
            wanted = next((c.when[parent] for c in children if c and parent in c.when), None)
            given[parent] = text_of(wanted[0]) if wanted else text_of(None)
    for value in own.extremes:
        try:
            changed, keys = plain, []
            for assignment in assignments(spec.search.space, given):
                changed, _ = override(changed, assignment)
            tried = value if own.choice is None else text_of(value)
            for assignment in assignments({path: own}, {path: tried}):
                changed, key = override(changed, assignment)
                keys.append(key)
        except SpecError as error:
            return [Finding(at, str(error).partition(": ")[2])]
        if ("stack", len(spec.stack)) in keys:
            return [Finding(at, "a search cannot add a layer. Add it to the stack first.")]
        for finding in check(changed):
            if any(finding.path[: len(key)] == key for key in keys):
                name = ".".join(map(str, finding.path))
                beside = "" if name == path else f"{name}: "
                return [Finding(at, f"{beside}{finding.message}")]
    return []


def _ancestors(space, path):
    """The hyperparameters that `path` depends on, directly or through others."""
    found = set(space[path].when)
    for parent in space[path].when:
        found |= _ancestors(space, parent)
    return found


def _whole_findings(spec, probed):
    """Objective, tuner and layers that cannot be combined; `probed` if the spec has a probe."""
    search, findings = spec.search, []
    metric = search.objective.metric
    objectives: list[Any] = [part() for part in parts("objective").values()]
    objectives += [layer.objective for layer in spec.stack]
    known = {name for objective in objectives for name in objective.statistics}
    if metric == PROBE and not probed:
        words = "probe_accuracy needs the section `probe`. Add it, as in probe: tfds:cifar10."
        findings.append(Finding(("search", "objective"), words))
    elif metric not in known | set(METRICS):
        words = (
            f"{shown(metric)} is not a metric of a training.{nearest(metric, (*METRICS, *known))}"
        )
        findings.append(Finding(("search", "objective", "metric"), words))
    greedy = search.layers == "greedy"
    for path, own in search.space.items():
        layers = {layer_of(key) for key in (path, *own.also)}
        layers |= {layer_of(parent) for parent in own.when}
        if greedy and (None in layers or len(layers) > 1):
            words = (
                "does not belong to a single layer, but the search goes layer by layer. Use paths "
                "that start with one stack.N, or layers: together."
            )
            findings.append(Finding(("search", "space", path), words))
    if greedy and spec.train.end_to_end:
        words = "greedy cannot train the layers at once (train.end_to_end). Use layers: together."
        findings.append(Finding(("search", "layers"), words))
    return findings
