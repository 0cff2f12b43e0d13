"""keras-tuner's parts: oracles, which choose the next trial, and the loop over a stage's trials.

The oracles stop in time, keep only the best trials' layers on disk, and are whole on disk whenever
the process is killed.
"""

import contextlib
import functools
import json
import os
import time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras_tuner
from keras_tuner.engine.trial import TrialStatus
from keras_tuner.errors import FailedTrialError, FatalRuntimeError

from kclr.errors import RunError, SpecError, interrupted, reason
from kclr.events import Event, Listener
from kclr.runs.directories import RUN as RUN_FILES
from kclr.runs.directories import TRACE, discard, write_trace
from kclr.runs.paths import atomic, remove
from kclr.runs.records import OracleState, TrialResult, TunersTrial, read_record
from kclr.search.trials import Trials, copy_run
from kclr.spec.search import Search

if TYPE_CHECKING:
    from kclr.search.workers import Watch

# So many failures in a row, and the search is at fault.
MOST_FAILURES = 10
RUN = "run"  # of a trial, in its directory
RESTORE = "Restore it, or restart the search with overwrite=True (--overwrite)."


# What the spec says, which is the same while a search goes on.
_FIXED = {
    *("seed", "hyperband_iterations", "max_epochs", "min_epochs", "factor"),
    *("num_initial_points", "alpha", "beta"),
}


class _Lasting(keras_tuner.Oracle):
    """What is common to the oracles below.

    Attributes:
        minutes: no trial starts after this many minutes in total; None for no limit.
        keep: how many of the best trials keep their runs.
        spent: seconds of the search before this session.
    """

    minutes: float | None = None
    keep: int = 3
    spent: float = 0.0

    def begin(self):
        """Start the clock."""
        self._began = time.monotonic()

    @property
    def seconds(self):
        """Of the search so far."""
        now = time.monotonic()
        return self.spent + now - getattr(self, "_began", now)

    @property
    def failing(self) -> bool:
        """Whether as many trials as may be have failed in a row."""
        last = [self.trials[name].status for name in self.end_order[-MOST_FAILURES:]]
        return last.count(TrialStatus.FAILED) == MOST_FAILURES

    def populate_space(self, trial_id):
        """As keras-tuner's; no values any more when the time is up, or all fail."""
        if (self.minutes and self.seconds >= 60 * self.minutes) or self.failing:
            return {"status": TrialStatus.STOPPED, "values": None}
        return super().populate_space(trial_id)

    def _check_consecutive_failures(self):
        """Nothing here, for keras-tuner's own way is an exception: see `populate_space`."""

    @keras_tuner.synchronized
    def end_trial(self, trial):
        """As keras-tuner's; then only the runs of the best trials stay on disk."""
        super().end_trial(trial)
        needed = self._needed()
        for other in self.trials:
            if other not in needed:
                discard(Path(self._get_trial_dir(other)) / RUN, RUN_FILES)

    def _needed(self):
        """The trials whose runs stay: the best, those at work, and those that these go on from."""
        done = [t for t in self.trials.values() if t.status == TrialStatus.COMPLETED]
        best = sorted(done, key=self.order_of)[: self.keep]
        working = [t for t in self.trials.values() if t.status == TrialStatus.RUNNING]
        past = {t.hyperparameters.values.get("tuner/trial_id") for t in working}
        return past | {trial.trial_id for trial in [*best, *working]}

    def order_of(self, trial):
        """A key to sort completed trials by, the best first; whole trainings before rounds."""
        sign = -1 if self.objective.direction == "max" else 1
        return -trial.hyperparameters.values.get("tuner/epochs", 0), sign * trial.score

    def get_state(self):
        """As keras-tuner's, with the seconds so far."""
        return super().get_state() | {"seconds": self.seconds}

    def set_state(self, state):
        """As keras-tuner's."""
        super().set_state(state)
        self.spent = max(self.spent, state["seconds"])

    def save(self):
        """As keras-tuner's, whole or not at all."""
        with atomic(self._get_oracle_fname()) as temporary:
            temporary.write_text(json.dumps(self.get_state()))

    def _save_trial(self, trial):
        with atomic(Path(self._get_trial_dir(trial.trial_id)) / "trial.json") as temporary:
            trial.save(str(temporary))

    def reload(self):
        """As keras-tuner's, but what is run again is what has not ended, whatever the state says:
        it is written while a trial ends, and not at all where the process is killed first.

        Raises:
            RunError: a file is damaged, or of another search.
        """
        self._check_files()
        try:
            super().reload()
        except Exception as error:  # keras-tuner takes what is in them as it stands
            raise self._unlike(f"keras-tuner cannot read it ({reason(error)})") from error
        self._retry_queue = [
            name
            for name, trial in sorted(self.trials.items(), reverse=True)
            if trial.status in (TrialStatus.RUNNING, TrialStatus.INVALID)
        ]

    def _check_files(self):
        place, cure = Path(self._project_dir), RESTORE
        own = json.loads(json.dumps(self.get_state()))
        values = {}
        for path in place.glob("trial_*/trial.json"):
            trial = read_record(path, TunersTrial, place, "keras-tuner", cure)
            if path.parent.name != f"trial_{trial['trial_id']}":
                raise self._unlike(f"{path} says that it is trial {trial['trial_id']}")
            values[trial["trial_id"]] = trial["hyperparameters"]["values"]
        path = place / "oracle.json"
        state = read_record(path, OracleState, place, "keras-tuner", cure)
        for key in _FIXED & own.keys():
            if state.get(key) != own[key]:
                raise self._unlike(f"its {key} is {str(state.get(key))[:60]}, not {own[key]}")
        named = OracleState.model_validate(state).trials()
        named |= {each["tuner/trial_id"] for each in values.values() if "tuner/trial_id" in each}
        if missing := sorted(map(str, named - values.keys())):
            raise self._unlike(f"it names trial {missing[0]}, which is missing")
        for trial_id, each in values.items():
            for parameter in self.hyperparameters.space:
                self._check_value(trial_id, each, parameter.name, parameter.value_to_prob)
            epochs = range(own.get("max_epochs", 0) + 1)
            self._check_value(trial_id, each, "tuner/epochs", epochs.index)

    def _check_value(self, trial_id, values, name, place_of):
        try:
            if name in values:
                place_of(values[name])
        except Exception:  # each kind of hyperparameter fails in its own way
            words = f"{name} of trial {trial_id} is {str(values[name])[:60]!r}"
            raise self._unlike(f"{words}, which is not one of its values") from None

    def _unlike(self, words):
        path = Path(self._project_dir) / "oracle.json"
        return RunError(f"{path}: this search cannot continue: {words}. {RESTORE}")


class Random(_Lasting, keras_tuner.oracles.RandomSearchOracle):
    """Random values."""


class Bayesian(_Lasting, keras_tuner.oracles.BayesianOptimizationOracle):
    """A Gaussian process over the trials so far."""


class Grid(_Lasting, keras_tuner.oracles.GridSearchOracle):
    """All combinations."""

    def set_state(self, state):
        """As keras-tuner's, which forgets where it was."""
        super().set_state(state)
        values = {name: trial.hyperparameters.values for name, trial in self.trials.items()}
        compare = functools.cmp_to_key(lambda a, b: self._compare(values[a], values[b]))
        self._populate_next = sorted(values, key=compare)
        for name in self._populate_next:
            self._ordered_ids.insert(name)


class Hyperband(_Lasting, keras_tuner.oracles.HyperbandOracle):
    """Short trainings, of which the better ones continue."""

    def _needed(self):
        entered = {
            info["id"]
            for bracket in self._brackets
            for round_ in bracket["rounds"]
            for info in round_
        }
        return super()._needed() | entered

    @keras_tuner.synchronized
    def end_trial(self, trial):
        """As above; a trial that failed at its start leaves its place in the bracket to another.

        keras-tuner waits for the results of all, so that after a failure none would go on.
        """
        super().end_trial(trial)
        if self.trials[trial.trial_id].status == TrialStatus.FAILED:
            for bracket in self._brackets:
                first = bracket["rounds"][0]
                first[:] = [info for info in first if info["id"] != trial.trial_id]


def make_oracle(search: Search, hyperparameters, spent: float) -> _Lasting:
    """The oracle of one stage of a search.

    Args:
        search: the spec's section.
        hyperparameters: keras-tuner's, declared.
        spent: seconds of the stages before.
    """
    tuner, goal = search.tuner, search.objective
    common = {
        "objective": keras_tuner.Objective(goal.metric, goal.better),
        "hyperparameters": hyperparameters,
        "allow_new_entries": False,
        "tune_new_entries": True,
        "seed": search.seed + 1,  # keras-tuner takes 0 for none
    }
    oracle: _Lasting
    if tuner.name == "hyperband":
        longest = tuner.factor ** (tuner.rounds - 1)
        oracle = Hyperband(
            max_epochs=longest, factor=tuner.factor, hyperband_iterations=None, **common
        )
    elif tuner.name == "bayesian":
        oracle = Bayesian(num_initial_points=tuner.initial, **common)
    else:
        oracle = {"random": Random, "grid": Grid}[tuner.name](**common)
    oracle.max_trials = search.trials
    oracle.minutes, oracle.keep, oracle.spent = search.minutes, search.keep, spent
    return oracle


RESULT = "result.json"  # of a trial, in its directory


class StackTuner(keras_tuner.Tuner):
    """Runs the trials of a stage, as chief or worker if keras-tuner's environment says so.

    Args:
        oracle: from `kclr.search.tuner.make_oracle`.
        trials: trains them.
        place: Path of the stage; an existing search is continued.
        listener: receives progress events.
        watch: of a worker, over its chief.
    """

    def __init__(
        self,
        oracle,
        trials: Trials,
        place: Path,
        listener: Listener,
        watch: "Watch | None" = None,
    ):
        self._trials, self._listener, self._place = trials, listener, place
        self._idle = False
        with _quiet():
            super().__init__(oracle, directory=str(place.parent), project_name=place.name)
        self._ended = len(oracle.end_order)
        if watch:
            self.oracle.stub = watch.asking(self.oracle.stub)

    def search(self, *fit_args, **fit_kwargs):
        """Run trials until the oracle stops."""
        self.save()
        if not self._is_worker():
            self.oracle.begin()
        with _quiet():
            super().search(verbose=0)

    def pre_create_trial(self):
        """Wait a little where the last question brought no trial."""
        time.sleep(0.5 * self._idle)
        self._idle = True

    def run_trial(self, trial, *fit_args, **fit_kwargs):
        """Train a trial; the result, or the reason of a failure, is also written to its
        directory."""
        self._idle = False
        values = trial.hyperparameters.values
        own = {path: values[path] for path in self._trials.stage.paths if path in values}
        run, share = self._run(trial.trial_id), None
        if "tuner/epochs" in values:
            tuner = self._trials.search.tuner
            share = Fraction(values["tuner/epochs"], tuner.factor ** (tuner.rounds - 1))
        if "tuner/trial_id" in values:
            copy_run(self._run(values["tuner/trial_id"]), run)
        self._listener.heard(trial_begins(trial.trial_id, own))
        heard = _Heard(self._listener, trial.trial_id)
        trace = self._place / f"trial_{trial.trial_id}" / TRACE
        remove(trace)
        result: dict[str, Any]
        try:
            result = self._trials.train(own, run, share, heard)
        except FailedTrialError as error:
            self._write(trial.trial_id, {"failed": str(error)} | heard.facts)
            raise
        except Exception as error:
            if interrupted(error):
                raise KeyboardInterrupt from error
            # keras-tuner would pass it over, trial after trial.
            if not isinstance(error, (SpecError, RunError, OSError)) and write_trace(trace, error):
                words = (
                    f"trial {trial.trial_id} failed: {reason(error)}. The traceback is in {trace}."
                )
                told = RunError(words)
                told.__cause__ = error
                error = told
            raise FatalRuntimeError(str(error)) from error
        self._write(trial.trial_id, result | heard.facts)
        return {self._trials.search.objective.metric: result["score"]}

    def on_trial_end(self, trial):
        """As keras-tuner's, with an event for the listener."""
        super().on_trial_end(trial)
        self._ended += 1
        result = result_of(self._place, trial.trial_id)
        self._listener.heard(trial_ended(trial.trial_id, result, self._ended))

    def save(self):
        """The oracle's state; the tuner has none."""
        if not self._is_worker():
            self.oracle.save()

    def reload(self):
        """The oracle's state; the tuner has none."""
        if not self._is_worker():
            self.oracle.reload()

    def _get_tuner_fname(self):
        # Whoever began the search (alone, or as a chief), the oracle's state says that it was.
        return str(self._place / "oracle.json")

    def _run(self, trial_id):
        return self._place / f"trial_{trial_id}" / RUN

    def _write(self, trial_id, result):
        with atomic(self._place / f"trial_{trial_id}" / RESULT) as temporary:
            temporary.write_text(json.dumps(result) + "\n")


class _Heard(Listener):
    """Passes on how far the trainings of a trial are, and keeps their warnings for its row."""

    def __init__(self, listener: Listener, trial_id):
        self._listener, self._trial = listener, trial_id
        self._warnings: list[str] = []

    @property
    def facts(self):
        """What the trial's row says of it."""
        return {"warnings": self._warnings} if self._warnings else {}

    def heard(self, event):
        if event.kind == "warned":
            self._warnings.append(event.in_words())
            self._listener.heard(trial_warned(self._trial, event.in_words()))
        elif event.kind in ("begun", "item", "step"):
            self._listener.heard(Event("step", of=f"trial {self._trial}", words=event.line))


def trial_begins(trial_id, values) -> Event:
    """A trial begins, with these values."""
    facts = {"trial": trial_id, "values": values}
    return Event("item", "trial", f"trial {trial_id}", facts=facts)


def trial_warned(trial_id, message) -> Event:
    """Something is wrong with a trial's training, which continues."""
    facts = {"trial": trial_id, "message": message}
    return Event("warned", "warning", f"trial {trial_id}", message, facts)


def trial_ended(trial_id, result, ended=None) -> Event:
    """A trial has ended; `result` has the key `score`, or `failed` with the reason. So many of the
    stage have `ended`; None if that is not known."""
    kind: Any = "failed" if "failed" in result else "done"
    facts = {"trial": trial_id, **result}
    return Event(kind, "ended", f"trial {trial_id}", in_words(result), facts, ended)


def in_words(result: dict[str, Any]) -> str:
    """The result of a trial, in a line."""
    if "failed" in result:
        return f"failed: {' '.join(result['failed'].split())}"
    if not result:
        return "unfinished"
    rest = "" if result["complete"] else f", paused at step {result['steps']:,}"
    return f"{result['score']:.4g} in {result['seconds']:,.1f} s{rest}"


def result_of(place: Path, trial_id) -> dict[str, Any]:
    """What came of a trial; empty where it has not ended."""
    path = place / f"trial_{trial_id}" / RESULT
    return read_record(path, TrialResult, place, "kclr search", RESTORE) if path.exists() else {}


@contextlib.contextmanager
def _quiet():
    """Without what keras-tuner prints, which has the trace of every trial that fails."""
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield
