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

from kclr.paths import atomic
from kclr.records import TrialResult, read_record
from kclr.search.listening import SearchListener
from kclr.search.oracles import RUN
from kclr.search.trials import Trials, copy_run

RESULT = "result.json"  # of a trial, in its directory
MEND = "Copy it back, or start the search anew with --overwrite."


class StackTuner(keras_tuner.Tuner):
    """Runs the trials of a stage; as chief or worker where keras-tuner's environment says so.

    Args:
        oracle: from `kclr.search.oracles.make_oracle`.
        trials: trains them.
        place: Path of the stage; a search that is there goes on.
        listener: is told how it goes.
    """

    def __init__(self, oracle, trials: Trials, place: Path, listener: SearchListener):
        self._trials, self._listener, self._place = trials, listener, place
        self._idle = False
        with _quiet():
            super().__init__(oracle, directory=str(place.parent), project_name=place.name)

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
        result: dict[str, Any]
        try:
            result = self._trials.train(own, run, share, self._listener.training)
        except FailedTrialError as error:
            self._write(trial.trial_id, {"failed": str(error)})
            raise
        except Exception as error:
            # keras-tuner would pass it over, trial after trial.
            raise FatalRuntimeError(str(error)) from error
        self._write(trial.trial_id, result)
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
