"""keras-tuner's loop over the trials of a stage."""

import contextlib
import json
import os
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import keras_tuner
from keras_tuner.errors import FailedTrialError, FatalRuntimeError

from kclr.errors import RunError, SpecError, reason
from kclr.events import Listener
from kclr.runs.directories import TRACE, write_trace
from kclr.runs.paths import atomic, remove
from kclr.runs.records import TrialResult, read_record
from kclr.search.chief import Watch
from kclr.search.listening import SearchListener
from kclr.search.oracles import MEND, RUN
from kclr.search.trials import Trials, copy_run

RESULT = "result.json"  # of a trial, in its directory


class StackTuner(keras_tuner.Tuner):
    """Runs the trials of a stage; as chief or worker where keras-tuner's environment says so.

    Args:
        oracle: from `kclr.search.oracles.make_oracle`.
        trials: trains them.
        place: Path of the stage; a search that is there goes on.
        listener: is told how it goes.
        watch: of a worker, over its chief.
    """

    def __init__(
        self,
        oracle,
        trials: Trials,
        place: Path,
        listener: SearchListener,
        watch: Watch | None = None,
    ):
        self._trials, self._listener, self._place = trials, listener, place
        self._idle = False
        with _quiet():
            super().__init__(oracle, directory=str(place.parent), project_name=place.name)
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
        """Train a trial; what came of it is also written beside it, with a failure's reason."""
        self._idle = False
        values = trial.hyperparameters.values
        own = {path: values[path] for path in self._trials.stage.paths if path in values}
        run, share = self._run(trial.trial_id), None
        if "tuner/epochs" in values:
            tuner = self._trials.search.tuner
            share = Fraction(values["tuner/epochs"], tuner.factor ** (tuner.rounds - 1))
        if "tuner/trial_id" in values:
            copy_run(self._run(values["tuner/trial_id"]), run)
        self._listener.trial(trial.trial_id, own)
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
            # keras-tuner would pass it over, trial after trial.
            if not isinstance(error, (SpecError, RunError, OSError)) and write_trace(trace, error):
                words = f"trial {trial.trial_id} failed: {reason(error)}. The trace is in {trace}."
                told = RunError(words)
                told.__cause__ = error
                error = told
            raise FatalRuntimeError(str(error)) from error
        self._write(trial.trial_id, result | heard.facts)
        return {self._trials.search.objective.metric: result["score"]}

    def on_trial_end(self, trial):
        """As keras-tuner's, and it is told."""
        super().on_trial_end(trial)
        self._listener.ended(trial.trial_id, result_of(self._place, trial.trial_id))

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
    """Passes on how the trainings of a trial go, and keeps their warnings for its row."""

    def __init__(self, listener: SearchListener, trial_id):
        self._listener, self._trial = listener, trial_id
        self._warnings: list[str] = []

    @property
    def facts(self):
        """What the trial's row says of it."""
        return {"warnings": self._warnings} if self._warnings else {}

    def layer(self, index, layer, sizes):
        self._listener.training.layer(index, layer, sizes)

    def started(self, total, done, patches):
        self._listener.training.started(total, done, patches)

    def stepped(self, step, metrics):
        self._listener.training.stepped(step, metrics)

    def warned(self, message):
        self._warnings.append(message)
        self._listener.warned(self._trial, message)


def result_of(place: Path, trial_id) -> dict[str, Any]:
    """What came of a trial; empty where it has not ended."""
    path = place / f"trial_{trial_id}" / RESULT
    return read_record(path, TrialResult, place, "kclr search", MEND) if path.exists() else {}


@contextlib.contextmanager
def _quiet():
    """Without what keras-tuner prints, which has the trace of every trial that fails."""
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield
