"""A trial: train a stack with a trial's values, and return the result."""

import math
import shutil
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras_tuner.errors import FailedTrialError

from kclr.data.labels import load_labelled
from kclr.data.sources import Images, as_images, open_sources
from kclr.errors import CollapseError, SpecError
from kclr.events import Listener
from kclr.keras_backend import bfloat16_units
from kclr.probing.callback import StackProbe, probe_columns
from kclr.runs.directories import locked
from kclr.runs.keys import adopt, key_of, layers_made
from kclr.runs.paths import atomic
from kclr.runs.run import Run
from kclr.search.space import Stage, trial_spec, with_values
from kclr.spec.precision import settled
from kclr.spec.schema import Spec
from kclr.spec.search import Search
from kclr.stack import train
from kclr.training.checkpoints import read_progress
from kclr.training.keras_objects import globals_kept


class Paused(KeyboardInterrupt):
    """A training has taken the steps of its round; its checkpoint is on disk. The argument is a
    dict of the metrics at that step."""


class Trials:
    """Trains the trials of a stage; what they share is trained once, for all processes.

    Args:
        plain: the plain value of the spec, with the best values of the layers below.
        search: its section `search`.
        stage: from `stages`.
        below: Path for what the trials share, a run directory for each set of layers.
    """

    def __init__(self, plain: dict[str, Any], search: Search, stage: Stage, below: Path):
        self.plain, self.search, self.stage = plain, search, stage
        self._below = below
        self._probe: StackProbe | None = None
        self._shared: Run | None = None
        self._opened: dict[Any, Images] = {}

    @globals_kept()
    def train(
        self,
        values: Mapping[str, Any],
        out: Path,
        share: Fraction | None = None,
        listener: Listener | None = None,
    ) -> dict[str, Any]:
        """Train one trial in a run directory, or continue it.

        Args:
            values: of the hyperparameters that count, by key path.
            out: the run directory.
            share: of the topmost layer's steps, to train up to; all by default.
            listener: receives the training's progress events.

        Returns:
            The metrics of the topmost layer, with `score`, that of the search's objective;
            `seconds` of training, without those of probes and of shared layers; `steps` of the
            topmost layer, and `complete`, whether these are all.

        Raises:
            FailedTrialError: the values are not possible, or the training failed with them: a
                collapse, a loss that is not finite, too little memory.
            SpecError, RunError: an error that does not depend on the values.
        """
        keras.backend.clear_session()  # which collects the garbage, too
        try:
            spec = trial_spec(with_values(self.plain, self.search, values), self.stage.top)
        except SpecError as error:
            raise FailedTrialError(_reason(error)) from error
        if spec.probe and self._probe is None:
            lowest = spec.sources()[0]
            own = self._images(spec)[lowest]
            images = load_labelled(
                spec.probe.data,
                "train",
                own.channels,
                spec.probe.limit,
                scaling=own.scaling(),
                like=lowest,
            )
            self._probe = StackProbe(spec.probe, images)
        shared = self._below_of(spec, listener)
        try:
            result = self._train(spec, out, share, listener, shared)
        except (SpecError, CollapseError, MemoryError, tf.errors.ResourceExhaustedError) as error:
            raise FailedTrialError(_reason(error)) from error
        result["score"] = float(result.get(self.search.objective.metric, math.nan))
        if not math.isfinite(result["score"]):
            raise FailedTrialError(f"{self.search.objective.metric} is {result['score']}")
        return result

    def _below_of(self, spec, listener):
        """The run of the layers that all trials share; trained by the first process to come."""
        if not self.stage.shared:
            return None
        if self._shared is None:
            lower = spec.model_copy(
                update={"stack": spec.stack[: self.stage.shared], "search": None}
            )
            key = key_of(lower.model_dump(mode="json"))[:12]
            self._below.mkdir(parents=True, exist_ok=True)
            with locked(self._below / f"{key}.lock"):  # until another process has trained it
                place = self._below / key
                known = [Run(path) for path in self._below.iterdir() if path != place]
                take_over(lower, place, known, self._images(lower))
                self._shared = train(
                    lower, place, resume=True, listener=listener, probe=self._probe, bare=True,
                    opened=self._images(lower),
                )  # fmt: skip
        return self._shared

    def _images(self, spec):
        """The images of a spec's sources: those of the trial before, if these are the same, which
        are decoded already."""
        if list(self._opened) != spec.sources():
            self._opened = {}  # which makes room
            self._opened = open_sources(spec)
        return self._opened

    def _train(self, spec: Spec, out, share, listener, shared):
        if shared:
            take_over(spec, out, [shared], self._images(spec))
        pause, paused = _pausing(spec, out, share, self._probe), False
        try:
            train(
                spec, out, resume=True, listener=listener or Listener(), probe=self._probe,
                bare=True, callbacks=pause, opened=self._images(spec),
            )  # fmt: skip
        except Paused as reached:
            paused, metrics = True, reached.args[0]
        run, top = Run(out), spec.stack[-1]
        finished = [
            run.layers[last].facts
            for first, last in spec.trainings()
            if self.stage.shared <= first and last < len(run.layers)
        ]
        seconds = sum(_training_seconds(facts) for facts in finished)
        rows = run.rows(top.name)
        facts = rows[-1] if rows else {}
        if paused:
            steps, spent = read_progress(run.checkpoint(len(spec.stack) - 1, top.name))
            own = {"steps": steps, "seconds": spent}
            own["probe_seconds"] = sum(row.get("probe_seconds", 0) for row in rows)
            seconds += _training_seconds(own)
            facts = facts | metrics | {"steps": own["steps"]}
        else:
            facts = facts | run.layers[-1].facts
        numbers = {k: v for k, v in facts.items() if isinstance(v, (int, float))}
        return numbers | {"seconds": round(seconds, 3), "complete": not paused}


def _training_seconds(facts):
    """Those of a layer without its probes, which a training by steps makes on its way."""
    return facts["seconds"] - (facts.get("probe_seconds", 0) if "steps" in facts else 0)


def _reason(error):
    if isinstance(error, (MemoryError, tf.errors.ResourceExhaustedError)):
        return "out of memory"
    return str(error)


def _pausing(spec: Spec, out, share, probe: StackProbe | None):
    """Callbacks that pause the topmost layer's training at a share of its steps (see `train`)."""

    def callbacks(layers, blocks, start):
        if share is None or share >= 1 or layers[-1].name != spec.stack[-1].name:
            return []
        measure = None
        if probe:
            below = Run(out).layers[: len(spec.stack) - len(blocks)]
            measure = probe.of_training(below, layers, blocks, start, None).measure
        return [_Pause(share, start, measure)]

    return callbacks


class _Pause(keras.callbacks.Callback):
    """Ends a training between two steps, where its state can be saved."""

    def __init__(self, share, start, measure):
        super().__init__()
        self._share, self._step, self._measure = share, start, measure
        self._logs = {}

    def on_train_begin(self, logs=None):
        self._until = math.ceil((self._step + self.params["steps"]) * self._share)
        self._start = self._step

    def on_train_batch_begin(self, batch, logs=None):
        if self._start + batch >= self._until:
            metrics = {name: float(value) for name, value in self._logs.items()}
            raise Paused(metrics | (probe_columns(self._measure()) if self._measure else {}))

    def on_train_batch_end(self, batch, logs=None):
        self._logs = logs or {}


def take_over(spec: Spec, out: Path, runs: Iterable[Run], opened=None) -> None:
    """Reuse the lowest layers of a spec from the run that has most of them (`runs.keys.adopt`).

    Args:
        spec, out, runs: as there.
        opened: the images of each of its sources, if they are open.
    """
    spec = settled(spec, bfloat16_units(), Run(out).precisions)  # as `train` will
    opened = opened or {source: as_images(source) for source in spec.sources()}
    known = {source: images.identity() for source, images in opened.items()}
    adopt(spec, out, runs, layers_made(spec, known))


def copy_run(source: Path, target: Path) -> None:
    """Copy a run directory, to continue its training elsewhere; do nothing if the copy exists."""
    if source.is_dir() and not target.exists():
        with atomic(target) as temporary:
            shutil.copytree(source, temporary)
