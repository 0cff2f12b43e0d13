"""A whole search: stage by stage, each on the best layers below. Read `run_search`."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras_tuner
from keras_tuner.engine.trial import TrialStatus
from keras_tuner.errors import FatalError

from kclr.data.sources import as_images
from kclr.errors import RunError
from kclr.events import Event, Listener, watched
from kclr.runs.directories import SEARCH, writing
from kclr.runs.keys import check_same, key_of, made
from kclr.runs.paths import atomic
from kclr.runs.records import Best, read_record
from kclr.runs.run import Run
from kclr.search.hypermodel import check_search
from kclr.search.results import best_of, rows_of, write_results
from kclr.search.space import Stage, declare, stages, trial_spec, with_values
from kclr.search.trials import Trials, take_over
from kclr.search.tuner import RESTORE, RUN, StackTuner, make_oracle
from kclr.search.workers import Watch, leading, watch_chief
from kclr.spec.schema import Spec
from kclr.training.keras_objects import check_keras_objects, globals_kept
from kclr.training.progress import hashing

BEST = "best.json"  # of a stage, when it has ended
# What may be changed before a search goes on.
_CHANGEABLE = ("trials", "minutes", "keep")


@globals_kept()
def run_search(
    spec: Spec,
    plain: dict[str, Any],
    out,
    text: str,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
    name: str = "spec",
    verbose: bool | str = "auto",
) -> dict[str, Any]:
    """Search a spec's hyperparameters and write the table, the plot and the best spec.

    If keras-tuner's environment variables make this process a chief or a worker, it takes that
    role; a worker only runs trials.

    Args:
        spec: checked, with a section `search`.
        plain: its plain value.
        out: the search's directory.
        text: the spec as the user wrote it, kept as `spec.yaml`.
        resume: continue the search in `out`. overwrite: remove it first.
        listener: receives progress events (see `kclr.events`), instead of the output of `verbose`.
        name: of the spec, in messages.
        verbose: whether to print progress: True, False, or "auto": on a terminal and in a notebook.

    Returns:
        What `search.json` says (see `kclr.search.results`); empty for a worker.

    Raises:
        SpecError: the spec does not match Keras or the contents of `out`.
        RunError: the search cannot continue, or all trials failed.
    """
    with listener or watched(verbose) as listener:
        check_search(spec, name)
        check_keras_objects(spec, name)
        try:
            if role() == "worker":
                if watch := watch_chief(Path(out)):
                    _stages(spec, plain, Path(out), listener, watch)
                return {}

            def tell(done, total):
                listener.heard(replace(hashing(done, total), name=""))

            with begun(spec, plain, out, text, resume, overwrite, tell) as run:
                with leading(run.path) if role() == "chief" else contextlib.nullcontext():
                    found = _stages(spec, plain, run.path, listener)
                written = write_results(run, spec, plain, found)
            facts = {"search": str(run.path), "best": written["best"]}
            listener.heard(Event("done", "finished", facts=facts))
            return written
        except FatalError as error:
            # Our own words or those of what nobody foresaw, and not keras-tuner's wrapping.
            raise (error.__cause__ or error) from (error.__cause__ and error.__cause__.__cause__)


def role() -> str:
    """What keras-tuner's environment variables make of this process: chief, worker or alone."""
    if "KERASTUNER_ORACLE_IP" not in os.environ:
        return "alone"
    return "chief" if "chief" in os.environ.get("KERASTUNER_TUNER_ID", "") else "worker"


@contextlib.contextmanager
def begun(spec, plain, out, text, resume, overwrite, tell=None) -> Iterator[Run]:
    """The directory to search in while the block runs, with the search's spec and key.

    `tell` receives progress (hashed, total) if that takes a while.

    Raises:
        SpecError: it contains a search of another spec, or on other images.
        RunError: see `kclr.runs.directories.writing`.
    """
    pictures = [place for source in spec.sources() for place in source.places()]
    with writing(out, SEARCH, resume, overwrite, apart=pictures) as place:
        run = Run(place)
        search = {key: value for key, value in plain["search"].items() if key not in _CHANGEABLE}
        known = [as_images(source).identity(tell) for source in spec.sources()]
        facts = {
            "format": 1,
            "spec": plain | {"search": search},
            "images": {own.facts["name"]: own.facts for own in known},
            "fingerprints": sorted(own.fingerprint for own in known),
        }
        now = made(facts, hidden=("images",))
        if (run.path / "search.key").exists():
            check_same(now, run.text("search.key"), f"{run.path}", words=_words, was="made")
        run.write_text("spec.yaml", text)
        run.write_text("search.key", json.dumps(now.written()) + "\n")
        yield run


def _words(facts):
    """The facts of a search by the keys that a spec has for them."""
    return facts["spec"] if isinstance(facts.get("spec"), dict) else {}


def _stages(spec, plain, place, listener, watch: Watch | None = None):
    """Search each stage; the stages with their directories, and the spec with the best values.

    `watch` is a worker's, who leaves all but the trials to its chief.
    """
    search, found, spent = spec.search, [], 0.0
    searched = stages(spec)
    for stage in searched:
        own = _directory(place, stage, plain)
        trials = Trials(plain, search, stage, place / "shared")
        hyperparameters = keras_tuner.HyperParameters()
        declare(hyperparameters, search, stage.paths)
        oracle = make_oracle(search, hyperparameters, spent)
        tuner = StackTuner(oracle, trials, own, listener, watch)
        listener.heard(stage_begins(stage.name, search.trials, len(oracle.end_order)))
        last = stage == searched[-1]
        if watch:
            tuner.search()
            if last:
                break
            best = _awaited(own / BEST, watch)
        else:
            (own / BEST).unlink(missing_ok=True)
            tuner.search()
            spent = oracle.seconds
            best = _concluded(oracle, stage, own)
        found.append((stage, own, best))
        plain = with_values(plain, search, best["values"]) | {"search": plain["search"]}
        if not watch and not last:
            # Where the next stage looks for what its trials share.
            run = Run(own / f"trial_{best['trial']}" / RUN)
            below = with_values(plain, search, {})
            take_over(trial_spec(below, stage.top), place / "shared" / f"best-{own.name}", [run])
        if not watch:
            with atomic(own / BEST) as temporary:
                temporary.write_text(json.dumps(best) + "\n")
    return found


def stage_begins(layer, trials, done) -> Event:
    """The search of a layer begins: at most `trials` trials, of which `done` ended before."""
    words = f"up to {trials} trials" + (f", {done} already ended" if done else "")
    facts = {"layer": layer, "trials": trials, "done": done}
    return Event("begun", "stage", layer, words, facts, done, trials)


def _directory(place, stage: Stage, plain):
    """A stage's directory: it changes with all that its trials have in common."""
    below = {key: value for key, value in plain.items() if key != "search"}
    return place / f"{stage.top + 1:02d}-{stage.name}-{key_of(below)[:6]}"


def _concluded(oracle, stage, own):
    """The best trial of a stage that has ended."""
    best = best_of(oracle)
    if best is None:
        failed = [row for row in rows_of(stage, own) if row["status"] == TrialStatus.FAILED]
        reason = (
            failed[-1].get("failed", ("the reason is not known")) if failed else "there was no time"
        )
        raise RunError(
            f"{own}: no trial of layer {stage.name} succeeded; the last one failed: {reason}. "
            "Correct the spec, or allow more trials or minutes, and restart with overwrite=True "
            "(--overwrite)."
        )
    return best


def _awaited(path, watch):
    while not path.exists():
        watch.wait()
    return read_record(path, Best, path.parent, "kclr search", RESTORE)
