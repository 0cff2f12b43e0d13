"""A transfer experiment: every arm, at every amount of labels, in every repeat (`kclr transfer`).

The unit of work is a repeat of an arm at an amount of labels. All arms of a repeat share the labels
drawn, the order of images, the augmentation and the weights that the arm does not replace, so that
they differ in their start alone and are compared in pairs.
"""

import contextlib
import dataclasses
import math
from typing import Any

import tensorflow as tf
import yaml

from kclr.data.labels import Labelled, labelled_name, scaled
from kclr.data.sources import as_source
from kclr.errors import RunError, interrupted
from kclr.events import Listener, watched
from kclr.keras_backend import bfloat16_units, dtype_policy
from kclr.probing.protocol import draw
from kclr.runs.directories import TRACE, TRANSFER, writing
from kclr.runs.keys import Made, check_same, made
from kclr.runs.paths import is_full, remove
from kclr.runs.run import Run
from kclr.spec.findings import refusal
from kclr.spec.precision import AUTO, PRECISIONS
from kclr.spec.transfer import MOST_LAYERS, TransferSpec
from kclr.training.keras_objects import globals_kept
from kclr.transfer import progress
from kclr.transfer.arms import Arm, arms
from kclr.transfer.checks import code_findings, filter_source, findings
from kclr.transfer.end_to_end import compare
from kclr.transfer.pretraining import Pretraining, fingerprint, images_digest, labelled
from kclr.transfer.results import Results, failures, print_results
from kclr.transfer.training import (
    check_training,
    fit,
    new_classifier,
    steps_per_epoch,
)
from kclr.version import hardware, versions

__all__ = ["failures", "print_results", "run_experiment"]


@globals_kept()
def run_experiment(
    spec: TransferSpec,
    out,
    text: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
    allow_code: bool = False,
    verbose: bool | str = "auto",
) -> dict[str, Any]:
    """Train the classifiers of a transfer spec, and write what they came to.

    Args:
        spec: from `kclr.transfer.checks.load_transfer`.
        out: directory to write to.
        text: the spec as the user wrote it, kept as `spec.yaml`; by default the resolved spec.
        resume: continue the experiment in `out`; finished units are kept, failed ones are retried.
        overwrite: first remove the experiment in `out`.
        listener: receives progress events (see `kclr.events`), also those of the runs that are
            trained, instead of the output of `verbose`.
        allow_code: whether the classifier may be `MODULE:FUNCTION`, a module that is then imported
            and run, also from the working directory.
        verbose: whether to print progress: True, False, or "auto": on a terminal and in a notebook.

    Returns:
        What `results.json` says: `title` with the protocol, `spec`, `units`, `versions`,
        `hardware`, and `end_to_end` if an arm needs the end-to-end run (see
        `kclr.transfer.end_to_end`).
        A unit that failed has the key `failed` with the reason instead of its numbers, and `trace`,
        a file in `out`, if the error was not raised by kclr.

    Raises:
        SpecError: the spec does not match the images, Keras or the contents of `out`.
        RunError: `out` cannot be written to.
    """
    found = [*findings(spec), *(() if allow_code else code_findings(spec))]
    if found:
        raise refusal(spec.name or "spec", found)
    if tf.config.list_physical_devices("GPU"):
        # On a CPU the operations that are used here are deterministic as they are.
        tf.config.experimental.enable_op_determinism()
    spec = _settled(spec, out if resume else None)
    with listener or watched(verbose) as listener:
        listener.heard(progress.preparing("reading labelled images"))
        limits = (spec.limit, spec.test_limit, spec.seed)
        training, test = labelled(spec.data, *limits, like=filter_source(spec))
        shape = training.images.shape[1:]
        check_training(spec.train, shape, training.scaling)
        with dtype_policy(spec.train.precision):
            new_classifier(spec.classifier, shape, len(training.classes), spec.seed)
        with writing(
            out, TRANSFER, resume, overwrite, apart=as_source(spec.data).places()
        ) as place:
            results = Results(place)
            resolved = spec.model_dump(mode="json")
            dumped = yaml.safe_dump(resolved, sort_keys=False)
            if not (results.path / "spec.yaml").exists():
                results.write_text("spec.yaml", text or dumped)
            experiment = _Experiment(spec, results, training, test, listener)
            experiment.begin()
            results.write_text("spec.yaml", text or dumped)
            results.write_text("resolved.yaml", dumped)
            units = experiment.units()
            written = {
                "name": spec.name or results.path.resolve().name,
                "title": title(spec, len(training), len(test)),
                "spec": resolved,
                "units": units,
                "versions": versions(),
                "hardware": hardware(),
            }
            if experiment.needs_end_to_end:
                written["end_to_end"] = experiment.compared()
            results.write_results(written)
            return written


def _settled(spec: TransferSpec, begun) -> TransferSpec:
    """The spec with its precision: that of the experiment in `begun`, or else what suits the
    device."""
    if spec.train.precision != AUTO:
        return spec
    precision = "mixed_bfloat16" if bfloat16_units() else "float32"
    with contextlib.suppress(OSError, RunError, KeyError, TypeError):
        known = Run(begun).resolved["train"]["precision"] if begun else precision
        precision = known if known in PRECISIONS else precision
    train = spec.train.model_copy(update={"precision": precision})
    return spec.model_copy(update={"train": train})


def title(spec: TransferSpec, images, test_images) -> str:
    """The experiment in a line, with its protocol.

    Args:
        spec: the spec.
        images, test_images: how many there are.
    """
    options = ", ".join(f"{key} {value}" for key, value in spec.classifier.options.items())
    protocol = [
        f"{images:,} training and {test_images:,} test images of {labelled_name(spec.data)}",
        f"{spec.train.epochs} epochs",
        spec.classifier.name + (f" ({options})" if options else ""),
        f"{spec.repeats} repeat{'s' if spec.repeats > 1 else ''}",
    ]
    return f"{spec.title or spec.name or 'Transfer'}: {', '.join(protocol)}"


class _Experiment:
    """One experiment while it runs. Read `begin`, `units`, then `_unit`.

    `needs_end_to_end` says whether an arm needs runs trained end to end.
    """

    def __init__(self, spec, results: Results, training: Labelled, test: Labelled, listener):
        self._spec, self._results, self._listener = spec, results, listener
        self._training, self._test = training, test
        self._images_digest = images_digest(training, test)
        self._count = len(training) + len(test)
        self._seeds = range(spec.seed, spec.seed + spec.repeats)
        channels = training.images.shape[-1]
        self._filters = Pretraining(spec, results, channels, listener)
        self.needs_end_to_end = self._filters.needs_end_to_end
        self._arms = [arms()[name] for name in spec.arms]
        # Repeat after repeat, so that an interrupted experiment has compared all arms.
        self._plan = [(a, n, seed) for seed in self._seeds for n in spec.labels for a in self._arms]
        self._units: dict[tuple, dict[str, Any]] = {}

    def begin(self):
        """Train the filters that the spec asks for, and find the units that are finished.

        Raises:
            SpecError: one of these was made otherwise than the spec says.
        """
        self._filters.train(self._seeds)
        self._scaling = self._filters.scaling(self._seeds[0])
        self._training, self._test = (
            scaled(part, self._scaling) for part in (self._training, self._test)
        )
        for arm, labels, seed in self._plan:
            unit = self._results.unit(arm.name, labels, seed)
            if unit and "failed" not in unit:
                possible = self._made(arm, labels, seed)
                if unit.get("key") not in {each.key for each in possible}:
                    where = str(self._results.unit_path(arm.name, labels, seed))
                    check_same(possible[0], unit, where, words=_words, was="made")
                unit.pop("made_of", None)  # of the file alone
                self._units[arm.name, labels, seed] = unit

    def units(self) -> list[dict[str, Any]]:
        """Every unit, made now or before: by arm, labels and seed, in the spec's order."""
        epochs = self._spec.train.epochs
        self._listener.heard(progress.begun(len(self._plan), len(self._units), epochs))
        for arm, labels, seed in self._plan:
            if (arm.name, labels, seed) not in self._units:
                self._units[arm.name, labels, seed] = self._attempt(arm, labels, seed)
        return [
            self._units[arm.name, labels, seed]
            for arm in self._arms
            for labels in self._spec.labels
            for seed in self._seeds
        ]

    def compared(self) -> dict[str, Any]:
        """The runs trained layer by layer and end to end, compared."""
        return compare(
            self._filters, self._seeds, self._images, self._results, self._filters.prepares
        )

    def _images(self, channels):
        """Training and test images with so many channels."""
        spec = self._spec
        if channels == self._training.images.shape[-1]:
            return self._training, self._test
        limits = (spec.limit, spec.test_limit, spec.seed)
        found = labelled(spec.data, *limits, channels, filter_source(spec))
        return scaled(found[0], self._scaling), scaled(found[1], self._scaling)

    def _attempt(self, arm, labels, seed):
        """A unit, finished or failed, written and told."""
        unit = {"arm": arm.name, "labels": labels, "seed": seed}
        written: dict[str, Any] = {}
        self._listener.heard(progress.started(unit))
        path = self._results.unit_path(arm.name, labels, seed)
        remove(path.with_suffix(f".{TRACE}"))
        try:
            unit = self._unit(arm, labels, seed)
            written = self._made(arm, labels, seed)[0].written()
            unit["key"] = written["key"]
        except Exception as error:  # of somebody's classifier or arm, of Keras, of TensorFlow
            if is_full(error) or interrupted(error):
                raise  # so would be the next ones
            self._results.write_failure(unit, path, error)
        self._results.write_json(path.relative_to(self._results.path), unit | written)
        epochs = self._spec.train.epochs
        self._listener.heard(progress.ended(unit, (len(self._units) + 1) * epochs))
        return unit

    def _unit(self, arm: Arm, labels, seed):
        """Build the classifier, prepare it as the arm does, train and test it."""
        spec, training, epochs = self._spec, self._training, self._spec.train.epochs
        unit = {"arm": arm.name, "labels": labels, "seed": seed}
        rows = draw(training.labels, labels, seed)
        images, answers = training.images[rows], training.labels[rows]
        steps = steps_per_epoch(len(rows), spec.train, len(training))
        with dtype_policy(spec.train.precision):
            shape = images.shape[1:]
            model = new_classifier(spec.classifier, shape, len(training.classes), seed)
            report = arm.prepare(model, self._filters.start(images, seed))
            history = fit(
                model,
                (images, answers),
                (self._test.images, self._test.labels),
                spec.train,
                steps,
                seed,
                lambda row: self._listener.heard(
                    progress.epoch(unit, row, epochs, before=len(self._units) * epochs)
                ),
                training.scaling,
            )
        trained = sum(math.prod(weight.shape) for weight in model.trainable_variables)
        return unit | {
            "images": len(rows),
            "accuracy": history[-1]["test_accuracy"],
            "seconds": round(math.fsum(row["seconds"] for row in history), 3),
            "parameters": model.count_params(),
            "trained_parameters": trained,
            "steps": steps * epochs,
            "start": [dataclasses.asdict(row) for row in report.rows] if report else [],
            "history": history,
        }

    def _made(self, arm: Arm, labels, seed) -> list[Made]:
        """What a unit depends on; then what it may have depended on before the spec's number of
        layers was another one, where that does not matter.
        """
        counts = [self._spec.layers or self._filters.depth(seed)]
        if not arm.counts:
            counts += [None, *range(1, MOST_LAYERS + 1)]
        return [self._made_with(arm, labels, seed, count) for count in counts]

    def _made_with(self, arm: Arm, labels, seed, layers) -> Made:
        spec = self._spec
        facts: dict[str, Any] = {
            "format": 2,
            "fingerprint": self._images_digest,
            "images": {"data": _described(spec.data, self._images_digest, self._count)},
            "train": spec.train.model_dump(mode="json"),
            "classifier": spec.classifier.model_dump(mode="json"),
            "arm": arm.name,
            "labels": labels,
            "seed": seed,
            "layers": layers,
        }
        if arm.counts and not spec.scale:
            facts["scale"] = False
        if arm.needs == "pretrained":
            facts["filters"] = fingerprint(self._filters.run(seed))
        if arm.needs == "end-to-end":
            facts["filters"] = fingerprint(self._filters.end_to_end(seed))
        if arm.needs == "supervised":
            found, count = self._filters.supervised_digest()
            facts["supervised"] = [spec.supervised.model_dump(mode="json"), found]
            facts["images"]["supervised"] = _described(spec.supervised.data, found, count)
        return made(facts, hidden=("images",))


def _described(data, content, count):
    """Labelled images as `kclr.runs.keys.other_images` tells of them."""
    return {"name": f"{labelled_name(data)} with its labels", "content": content, "count": count}


def _words(facts):
    """The facts of a unit by what a spec calls them."""
    keys = ("train", "classifier", "labels", "seed", "layers", "scale")
    told = {key: facts[key] for key in keys if key in facts}
    if "filters" in facts:
        told["pretrained"] = {"hash of the filters": facts["filters"][-1]}
    if "supervised" in facts:
        told["supervised"] = facts["supervised"][0]
    return told
