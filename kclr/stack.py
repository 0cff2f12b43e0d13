"""The stack: layer by layer, each trained on the frozen output of those below (Zhao 2020).

This is the only place that knows the order of training. Read from `train` downwards.
"""

import contextlib
import csv
import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import yaml

from kclr import export
from kclr.data import patches as sampled
from kclr.data.checks import source_findings
from kclr.data.patches import PatchTripletGenerator
from kclr.data.sources import Images, as_images, as_source, skipped_words
from kclr.drawing.curves import curves_png
from kclr.drawing.filters import (
    MOST_MOSAICS,
    filter_order,
    filters_png,
    patches_png,
    patterns,
    top_patches,
)
from kclr.errors import Finding, RunError
from kclr.events import Listener, watched
from kclr.health import Learned, check_images, check_learned
from kclr.layers import stacked
from kclr.probing.callback import StackProbe, probe_columns
from kclr.runs.directories import (
    CHECKPOINTS,
    LAYER,
    LOCK,
    MARKER,
    RUN,
    check_ours,
    contents,
    discard,
    writing,
)
from kclr.runs.keys import (
    Made,
    adopt,
    check_finished,
    from_runs,
    layers_made,
    list_pictures,
    seed_of,
)
from kclr.runs.paths import atomic, remove
from kclr.runs.run import PlainLayer, Run, TrainedLayer, write_arrays
from kclr.runs.safe_reading import sha256
from kclr.spec.checks import augmentation_findings
from kclr.spec.findings import load_spec, refusal
from kclr.spec.geometry import LayerGeometry, cut_around, layer_geometry
from kclr.spec.schema import Spec
from kclr.training import checkpoints
from kclr.training.distribution import ALONE, Cluster, open_cluster
from kclr.training.fit import train_layers
from kclr.training.keras_objects import augmentation_problem, check_keras_objects, globals_kept
from kclr.training.progress import LayerProgress, finished, hashing, images_found
from kclr.version import hardware, versions
from kclr.whitening import input_windows

PATTERN_WINDOWS = 5_000


@globals_kept()
def train(
    spec,
    out,
    text: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
    name: str = "spec",
    probe: StackProbe | None = None,
    bare: bool = False,
    images=None,
    verbose: bool | str = "auto",
    callbacks: Callable[..., Sequence[Any]] | None = None,
) -> Run:
    """Train every layer of a spec, export the stack, and write all of it to a run directory.

    Args:
        spec: from `kclr.load_spec`, or its argument: a path, or a dict.
        out: the run directory.
        text: the spec as the user wrote it, kept as `spec.yaml`; by default the resolved spec.
        resume: continue the run in `out`; finished layers are kept, an unfinished one continues
            from its last checkpoint.
        overwrite: first remove the run in `out`.
        listener: receives progress events (see `kclr.events`), instead of the output of `verbose`.
        name: of the spec, in messages.
        probe: of the spec's section `probe`, if its labelled images have already been read.
        bare: train the layers without pictures, exports and summary.
        images: instead of the spec's `data`, anything that `kclr.PatchTripletGenerator` takes: an
            array of (count, height, width, channels), a list of images, a tf.data.Dataset, ...;
            series as `kclr.data.sources.as_images(array, series=True)`.
        verbose: whether to print progress: True, False, or "auto": on a terminal and in a notebook.
        callbacks: function that returns Keras callbacks for the training of a layer: see
            `kclr.training.fit.train_layers`. It is called for each, of the chief.

    Returns:
        The finished `Run`. With `train.distribute: multi-worker` every worker calls this, and only
        the chief writes files and shows progress.

    Raises:
        SpecError: the images or Keras do not fit the spec, or `out` was trained differently.
        RunError: `out` cannot be used, or the training failed.
    """
    given = None if images is None else as_source(images)
    if not isinstance(spec, Spec):
        # Sizes are those of series where these are given.
        written, spec = (
            spec,
            load_spec(spec, ["data=series:given"] if given and given.series else ()),
        )
        if not isinstance(written, Mapping):
            name, text = os.fspath(written), text or Path(written).read_text(encoding="utf-8-sig")
    if given is not None:
        spec = spec.model_copy(update={"data": given})
    if listener is None:
        with watched(verbose) as listener:
            return train(
                spec, out, text, resume, overwrite, listener, name, probe, bare, callbacks=callbacks
            )
    if spec.export.onnx and not bare:
        export.require_onnx()
    if spec.tensorboard and not importlib.util.find_spec("tensorboard"):
        raise RunError("tensorboard: true needs TensorBoard: pip install 'kclr[tensorboard]'")
    cluster = open_cluster(spec.train)
    _check_batches(spec, cluster, name)
    check_keras_objects(spec, name)
    findings = source_findings(spec)
    if findings:
        raise refusal(name, findings)
    opened = {source: as_images(source) for source in spec.sources()}
    base = opened[spec.stack[0].data or spec.data]
    for other in opened.values():
        if other is not base:
            other.use_scaling(base.scaling())  # upper layers see what the first one gives
    _check_augmentations(spec, opened, name)
    if tf.config.list_physical_devices("GPU"):
        # On a CPU the operations that are used here are deterministic as they are.
        tf.config.experimental.enable_op_determinism()
    with cluster.watched():
        if not cluster.chief:
            _follow(spec, opened, cluster)
            return Run(out)
        if spec.probe and not probe:
            probe = StackProbe(spec.probe, scaling=base.scaling())
        return _lead(
            spec, out, text, resume, overwrite, listener, opened, cluster, probe, bare, callbacks
        )


def _lead(spec, out, text, resume, overwrite, listener, opened, cluster, probe, bare, callbacks):
    """Open the run; find each layer, write it, draw it; export."""
    pictures = [place for source in opened if (place := source.place())]
    with writing(out, RUN, resume, overwrite, apart=pictures) as place:
        run = Run(place)
        known = {
            source: images.identity(lambda *count: listener.heard(hashing(*count)))
            for source, images in opened.items()
        }
        made = layers_made(spec, known, cluster.shared)
        _begin(run, spec, text, made, known.values(), bare)
        told: dict[Images, int] = {}  # pictures that were said to be skipped
        for first, top in spec.trainings():
            if _kept(run, spec, first, top, cluster, listener):
                continue
            images = opened[spec.stack[top].data or spec.data]
            recorder = _Recorder(run, spec, first, top, listener, probe, callbacks)
            learned = _found(run, spec, first, top, images, made, cluster, recorder, told)
            for index, found in enumerate(learned, start=first):
                layer, rows_of = spec.stack[index], spec.stack[top].name
                with _writing_layer(
                    run, index, layer, found, made[index], rows_of, images
                ) as trained:
                    if not bare:
                        sizes = layer_geometry(spec.stack, index)
                        _draw(trained, run.layers[:index], sizes, images, spec.seed)
                LayerProgress(listener, layer.name).learned(index, found.facts)
            checkpoints.forget(run.checkpoint(top, spec.stack[top].name))
        if not bare:
            _finish(run, spec, opened)
        cluster.from_chief()
        listener.heard(finished(run))
    return run


def _begin(run, spec, text, made, known, bare):
    """Check that what the run holds is of the same spec and images, and write both down."""
    resolved = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)
    check_finished(run, spec, made, known)
    if not bare:
        list_pictures(run, known)
    # The layers below one that is trained further are there already.
    adopt(spec, run.path, [part.run for part in from_runs(spec)], made)
    run.write_text("spec.yaml", text or resolved)
    run.write_text("resolved.yaml", resolved)
    remove(run.path / "summary.json")


def _kept(run, spec, first, top, cluster, listener) -> bool:
    """Whether these layers are finished already; if not, whether they can be written is checked."""
    layers = list(enumerate(spec.stack))[first : top + 1]
    directories = [run.layer_directory(index, layer.name) for index, layer in layers]
    finished = all((directory / "layer.json").exists() for directory in directories)
    _tell(cluster, run.layers[:first], finished)
    if finished:
        for index, layer in layers:
            LayerProgress(listener, layer.name).kept(index)
    else:
        for directory in directories:
            check_ours(directory, LAYER)  # before hours of training
    return finished


def _found(run, spec, first, top, images, made, cluster, recorder, told) -> list[Learned]:
    """Learn layers, with a look at the images before and at what was learned after."""
    layer = spec.stack[top]
    progress = LayerProgress(recorder, layer.name)
    progress.preparing(top)
    checkpoint = run.checkpoint(top, layer.name)
    key_file = checkpoint.with_suffix(".key").relative_to(run.path)
    run.write_text(key_file, json.dumps(made[top].written()) + "\n")
    if images not in told:
        told[images] = 0
        recorder.heard(images_found(images.name, images.census))
        for words in images.look():
            progress.warned(words)
    check_images(images, layer.learner.contrastive, progress.warned)
    below = run.layers[:first]
    learned = learn(
        spec, first, top, below, images, checkpoint, recorder, cluster, recorder.callbacks
    )
    if len(images.skipped) > told[images]:
        progress.warned(skipped_words(images.skipped))
        told[images] = len(images.skipped)
    for own, found in zip(spec.stack[first : top + 1], learned, strict=True):
        check_learned(found, own, progress.warned)
        found.facts.setdefault("skipped_images", len(images.skipped))
    learned[-1] = recorder.probed(learned[-1])
    return learned


def learn(
    spec: Spec,
    first,
    top,
    below,
    images,
    checkpoint,
    listener: Listener,
    cluster: Cluster = ALONE,
    callbacks=None,
) -> list[Learned]:
    """Learn the layers `first` to `top` of a spec, one or several at once, and write nothing but a
    checkpoint.

    Args:
        spec: from `kclr.load_spec`. first, top: indices from 0.
        below: the layers below (see `kclr.layers.stacked`).
        images: from `kclr.data.sources.as_images`.
        checkpoint: path of the training's state, which is continued if it exists.
        listener: receives progress events. cluster: the devices.
        callbacks: for learners that take steps; see `train_layers`.

    Raises:
        RunError: the training failed.
    """
    layer, sizes, seed = spec.stack[top], layer_geometry(spec.stack, top), seed_of(spec, top)
    of_run = (sizes, below, images, seed, checkpoint, listener)
    if not layer.learner.contrastive:
        return [layer.learner.learn(layer, *of_run)]
    if first == top and cluster.replicas == 1:
        return [layer.learner.learn(layer, *of_run, callbacks)]
    return train_layers(spec.stack[first : top + 1], *of_run, cluster, callbacks)


def _follow(spec, opened, cluster):
    """Train with the chief, which finds alone what takes no steps, until all of it is written."""
    for first, top in spec.trainings():
        told = cluster.from_chief()
        layer = spec.stack[top]
        if told["finished"] or not layer.learner.contrastive:
            continue
        below = [
            PlainLayer(own.name, own.block.arguments(), told[f"kernel{i}"], told[f"bias{i}"])
            for i, own in enumerate(spec.stack[:first])
        ]
        images = opened[layer.data or spec.data]
        sizes, seed = layer_geometry(spec.stack, top), seed_of(spec, top)
        train_layers(
            spec.stack[first : top + 1], sizes, below, images, seed, None, Listener(), cluster
        )
    cluster.from_chief()


def _tell(cluster, below, finished):
    """Tell the other workers of the layers below the next ones, and whether these are finished."""
    if cluster.task.workers > 1:
        arrays = {"finished": np.asarray(finished)}
        for index, layer in enumerate(below):
            arrays |= {f"kernel{index}": layer.kernel, f"bias{index}": layer.bias}
        cluster.from_chief(arrays)


def _check_augmentations(spec, opened, name):
    """Refuse augmentations that these images do not take, or Keras cannot apply.

    Raises:
        SpecError: there are some.
    """
    findings = []
    for index, layer in enumerate(spec.stack):
        place = ("stack", index, "patches", "augment")
        images = opened[layer.data or spec.data]
        channels, unit = images.channels, images.scaled_by == "unit"
        found = augmentation_findings(
            layer.patches.augment, channels, *place, series=images.series, unit=unit
        )
        if not found and layer.patches.augment:
            size = layer_geometry(spec.stack, index).image_patch
            problem = augmentation_problem(layer.patches, size, channels)
            found = [Finding(place, problem)] if problem else []
        findings += found
    if findings:
        raise refusal(name, findings)


def _check_batches(spec, cluster, name):
    """Refuse batches that leave a replica without crops, or with fewer than another.

    Raises:
        SpecError: for some layer they do.
    """
    findings = []
    for _, top in spec.trainings():
        layer, replicas = spec.stack[top], cluster.replicas
        size = layer.train.batch_size
        if layer.learner.contrastive and (size % replicas or size < 2 * replicas):
            fitting = max(2, -(-size // replicas)) * replicas
            words = (
                f"{size} crops cannot be divided evenly among {replicas} replicas. Use {fitting}."
            )
            findings.append(Finding(("stack", top, "train", "batch_size"), words))
    if findings:
        raise refusal(name, findings)


class _Recorder(Listener):
    """Writes a layer's history as it grows, and passes everything on; adds the run's probe."""

    def __init__(self, run, spec, first, top, listener, probe, callbacks):
        self._run, self._below, self._layer = run, run.layers[:first], spec.stack[top]
        self._listener, self._probe, self._callbacks = listener, probe, callbacks
        self._name, self._total = self._layer.name, None
        self._events = None
        if spec.tensorboard:
            place = run.path / "tensorboard" / self._name
            self._events = tf.summary.create_file_writer(str(place))

    def heard(self, event):
        if event.kind == "begun":
            self._total = event.total
            # Rows that were written after the checkpoint will be written again.
            self._run.trim(
                "metrics.jsonl",
                lambda row: row.get("layer") != self._name or row["step"] <= event.done,
            )
        elif event.kind == "row":
            self._run.append("metrics.jsonl", event.facts)
            if self._events:
                with self._events.as_default(step=event.facts["step"]):
                    for name, value in event.facts.items():
                        if name != "layer":
                            tf.summary.scalar(name, value)
        elif event.name == "decoding" and self._total is not None:
            return  # these are decoded beside the steps
        self._listener.heard(event)

    def callbacks(self, layers, blocks, start):
        """The run's probe and the user's callbacks (see `train_layers`)."""
        own = [*self._callbacks(layers, blocks, start)] if self._callbacks else []
        if self._probe is None:
            return own

        def told(result):
            # The history has a row of these steps, which will hold it.
            if result["step"] % self._layer.train.log_every and result["step"] != self._total:
                row = {"step": result["step"]} | probe_columns(result)
                LayerProgress(self, self._name).row(row)

        return [self._probe.of_training(self._below, layers, blocks, start, told), *own]

    def probed(self, learned: Learned) -> Learned:
        """What was learned, with the last accuracy of the probe and the seconds of all."""
        if self._probe is None:
            return learned
        rows = [row for row in self._run.rows(self._name) if "probe_accuracy" in row]
        rows = rows or [self._probe.of_layer(self._below, self._layer, learned)]
        facts = {
            "probe_accuracy": rows[-1]["probe_accuracy"],
            "probe_seconds": round(sum(row["probe_seconds"] for row in rows), 3),
        }
        return replace(learned, facts=learned.facts | facts)


@contextlib.contextmanager
def _writing_layer(
    run, index, layer, learned: Learned, made: Made, rows_of, images
) -> Iterator[TrainedLayer]:
    """Write a finished layer, and what the block adds to it: all of it, or nothing.

    `rows_of` names the layer whose history is this one's too: the topmost that was trained with it.
    """
    rows = run.rows(rows_of)
    with atomic(run.layer_directory(index, layer.name)) as temporary:
        temporary.mkdir(parents=True)
        digests = write_arrays(temporary, learned.kernel, learned.bias)
        facts = {"name": layer.name, "block": layer.block.arguments(), "key": made.key}
        facts |= {**learned.facts, "sha256": digests, "made_of": made.facts}
        if not images.scaling().usual:
            facts["scaling"] = images.scaling().as_dict()
        if images.series:
            facts["series"] = True
        if rows:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            with (temporary / "history.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=columns)
                writer.writeheader()
                writer.writerows(rows)
        (temporary / "layer.json").write_text(json.dumps(facts, indent=2) + "\n")
        yield TrainedLayer(temporary, facts)


def _draw(trained, below, sizes: LayerGeometry, images, seed):
    """A layer's learning curves, and its filters: themselves, or what excites them most."""
    if rows := trained.history():
        curves = trained.directory / "curves.png"
        curves_png(curves, rows, title=f"{trained.name}: training")
    path, kernel = trained.directory / "filters.png", trained.kernel
    look = {"bands": images.bands, "series": images.series}
    if not below:
        random = np.random.default_rng(seed)
        block = trained.facts["block"]
        windows = input_windows([], block, kernel.shape, images, random, PATTERN_WINDOWS)
        title = f"{trained.name}: what each filter looks for (left), and its weights (right)"
        filters_png(path, patterns(kernel, windows), title=title, beside=kernel, **look)
        return
    order = filter_order(kernel)
    size = sizes.receptive_field
    cut = cut_around(size)
    generator = PatchTripletGenerator(images, patch_size=cut, seed=seed)
    encode = stacked([*below, trained], generator.channels, size=cut, padding="valid")
    batches = generator.views().take(-(-sampled.MANY // generator.batch_size))
    shown = order[:MOST_MOSAICS]
    pairs = (
        (patches[:, 0].numpy(), encode.predict_on_batch(generator.scaling(patches[:, 0])))
        for patches, _ in batches
    )
    patches, responses = top_patches(pairs, jump=sizes.jump, start=0, size=size, filters=shown)
    what = "stretches of series" if images.series else "image patches"
    title = f"{trained.name}: the {what} that excite each filter most"
    patches_png(path, patches, responses, title=title, **look)


def _finish(run, spec, opened):
    """Export the stack and write the summary, which makes the run finished."""
    options = spec.export
    export.export_run(
        run,
        out=run.path,
        pool=options.pool,
        grid_size=options.grid_size,
        power=options.power,
        all_layers=options.all_layers,
        onnx=options.onnx,
        litert=options.litert,
        litert_size=options.litert_size,
        lock=False,
    )
    discard(run.path / "checkpoints", CHECKPOINTS)
    summary = {
        "versions": versions(),
        "hardware": hardware(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seed": spec.seed,
        "images": {
            images.name: images.census.as_dict() for images in opened.values() if images.census
        },
        "layers": [
            {"name": layer.name, "kernel_shape": list(layer.kernel.shape)}
            | {
                key: value
                for key, value in layer.facts.items()
                # The digests stand below, of all files.
                if key not in ("name", "block", "sha256", "made_of")
            }
            for layer in run.layers
        ],
        "sha256": {
            place: sha256(run.path / place)
            for place in sorted(contents(run.path, RUN)[0])
            if place[-1] != "/"
            and place not in (LOCK, MARKER, "summary.json")
            and not place.startswith("exports/")
        },
    }
    run.write_text("summary.json", json.dumps(summary, indent=2) + "\n")
