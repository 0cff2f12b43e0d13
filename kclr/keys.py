"""Which layers are the same: what a kernel depends on, and whose layers can be taken over."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from typing import Any

import numpy as np
import yaml

from kclr.data.sources import as_images
from kclr.directories import RUN, mark
from kclr.distribution import ALONE, Cluster
from kclr.errors import RunError, SpecError
from kclr.health import fault
from kclr.learned import Learned
from kclr.paths import atomic
from kclr.run import Run, TrainedLayer, check_same
from kclr.spec.schema import Spec


def sources(spec) -> set:
    """What the layers of a spec are trained on."""
    return {layer.data or spec.data for layer in spec.stack}


def seed_of(spec, index):
    """A layer's own seed, so that layers differ and adding one changes none below it."""
    return int(np.random.SeedSequence([spec.seed, index]).generate_state(1)[0] >> 1)


def keys_of(spec, opened, cluster: Cluster = ALONE) -> list[str]:
    """For each layer a hash of all that its kernel depends on, those below included."""
    keys: list[str] = []
    for first, top in spec.trainings():
        layers = spec.stack[first : top + 1]
        below = keys[-1:]
        settings = [layer.model_dump(mode="json", exclude={"name", "data"}) for layer in layers]
        for index, (layer, own) in enumerate(zip(layers, settings, strict=True), start=first):
            _by_content(layer.learner, own, "learner", index)
            if getattr(layer.learner, "start", None):
                _by_content(layer.learner.start, own["learner"], "start", index)
            told = own.get("train", {})
            for key in ("log_every", "checkpoint_seconds", "on_collapse"):
                # Dead filters are started anew where the history has a row.
                if not (key == "log_every" and told.get("reseed")):
                    told.pop(key, None)
        for index in range(first, top + 1):
            facts = {
                "format": 2,
                "layers": settings,
                "layer": index - first,
                "images": opened[layers[-1].data or spec.data].fingerprint,
                "seed": seed_of(spec, top),
                "below": below,
            }
            if cluster.replicas > 1 and (cluster.by_file or not cluster.gather):
                facts["shared"] = [cluster.by_file, cluster.gather, cluster.replicas]
            keys.append(hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest())
    return keys


def from_runs(spec) -> list:
    """The learners of a spec that take a kernel from a run (see `kclr.learners.run`)."""
    learners = [layer.learner for layer in spec.stack]
    learners += [getattr(learner, "start", None) for learner in learners]
    return [learner for learner in learners if callable(getattr(learner, "digest", None))]


def _by_content(learner, settings, key, index):
    """Let a learner that takes a kernel from elsewhere count by its numbers, not by their place."""
    if callable(getattr(learner, "digest", None)):
        settings[key] = {"name": learner.part_name, "kernel": learner.digest(index)}


def check_finished(run, spec, keys):
    """Refuse to go on in a directory whose layers the spec would train otherwise.

    Raises:
        SpecError: it would.
    """
    _check_length(run, spec)
    expected = {}
    for index, layer in enumerate(spec.stack):
        expected[run.layer_directory(index, layer.name)] = keys[index]
        started = run.checkpoint(index, layer.name).with_suffix(".key")
        if started.exists():
            known = run.text(started.relative_to(run.path))
            check_same(keys[index], known, f"{run.path}: layer {layer.name}")
    for trained in run.layers:
        if trained.directory not in expected:
            raise SpecError(
                f"{run.path}: layer {trained.name} is finished, and the spec has no such layer at "
                "its place. Train into another directory with --out, or start anew with "
                "--overwrite."
            )
        key = trained.facts.get("key")
        check_same(expected[trained.directory], key, f"{run.path}: layer {trained.name}")


def _check_length(run, spec):
    """Say what to do where all that a spec asks of a finished layer is more steps.

    Raises:
        SpecError: it is.
    """
    finished = {layer.directory for layer in run.layers}
    if not finished:
        return
    now = spec.model_dump(mode="json")
    try:
        before = run.resolved
    except (OSError, RunError):
        return  # layers that were taken over, or a damaged file, of which others tell
    changed: list[tuple[int, str, Any, Any]] = []
    for index, layer in enumerate(spec.stack):
        if run.layer_directory(index, layer.name) not in finished:
            continue
        here, there = (_train_of(each, index) for each in (now, before))
        for key in ("steps", "epochs"):
            more, fewer = here.get(key), there.get(key)
            if more != fewer and here | {key: fewer} == there:
                changed.append((index, key, fewer, more))
    if len(changed) != 1 or not all(type(count) is int for count in changed[0][2:]):
        return
    if changed[0][2] > changed[0][3]:
        return
    index, key, fewer, more = changed[0]
    name = spec.stack[index].name
    raise SpecError(
        f"{run.path}: layer {name} was trained for {fewer:,} {key}, and the spec says {more:,}. A "
        "finished layer is not trained further in its own directory. Train it further in another "
        f"one (--out), from its kernel and with a new optimizer: stack.{index}.learner: {{start: "
        f"{run.path}}}, and {key}: {more - fewer} more."
    )


def _train_of(plain, index) -> dict[str, Any]:
    """A layer's `train` in a plain spec; empty where there is none, or no such layer."""
    try:
        own = plain["stack"][index]["train"]
    except (KeyError, IndexError, TypeError):
        return {}
    return own if isinstance(own, dict) else {}


def adopt(spec: Spec, out, runs: Iterable[Run], keys=None) -> int:
    """Take over the lowest layers of a spec from the run that has most of them finished.

    Files are linked where the disk allows it, for a finished layer is never written to again.

    Args:
        spec: from `kclr.load_spec`.
        out: the run directory that the spec will be trained into with `resume`.
        runs: those that may have layers of the same settings, images and seed.
        keys: those of the spec's layers, where they are known.

    Returns:
        How many layers `out` has now.
    """
    run = Run(out)
    keys = keys or keys_of(spec, {source: as_images(source) for source in sources(spec)})
    best: list[TrainedLayer] = []
    for other in runs:
        wanted = zip(spec.stack, keys, other.layers, strict=False)
        same = [
            own.facts.get("key") == key and own.name == layer.name and _healthy(own)
            for layer, key, own in wanted
        ]
        count = same.index(False) if False in same else len(same)
        best = other.layers[:count] if count > len(best) else best
    if best:
        mark(run.path, RUN)
    for index, layer in enumerate(best):
        place = run.layer_directory(index, layer.name)
        if not place.exists():
            with atomic(place) as temporary:
                shutil.copytree(layer.directory, temporary, copy_function=_link)
    if best and not (run.path / "spec.yaml").exists():
        run.write_text("spec.yaml", yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False))
    return len(run.layers)


def _healthy(layer):
    try:
        return fault(Learned(layer.kernel, layer.bias, {})) is None
    except RunError:
        return False  # its files are damaged


def _link(source, target):
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
