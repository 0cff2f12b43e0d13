"""The stack: layer by layer, each trained on the frozen output of those below (Zhao 2020).

This is the only place that knows the order of training. Read from `train` downwards.
"""

import contextlib
import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kclr import export
from kclr.data.checks import source_findings
from kclr.data.sources import Images, as_source, open_sources, skipped_words
from kclr.drawing.layers import draw_layer
from kclr.errors import RunError, SpecError
from kclr.events import Listener, watched
from kclr.health import Learned, check_images, check_learned
from kclr.keras_backend import bfloat16_units
from kclr.probing.alignment import Views, check_count, of_layers, smallest
from kclr.probing.callback import StackProbe
from kclr.runs.directories import CHECKPOINTS, LAYER, RUN, check_ours, discard, writing
from kclr.runs.keys import layers_made, seed_of
from kclr.runs.run import Run
from kclr.runs.writing import begin, write_summary, writing_again, writing_layer
from kclr.spec.cost import step_flops, training_seconds
from kclr.spec.findings import load_spec, refusal
from kclr.spec.geometry import layer_geometry
from kclr.spec.precision import precisions, settled
from kclr.spec.schema import Spec
from kclr.training import checkpoints
from kclr.training.distribution import ALONE, Cluster, check_batches, open_cluster
from kclr.training.fit import follow, tell_workers, train_layers
from kclr.training.keras_objects import check_augmentations, check_keras_objects, globals_kept
from kclr.training.profile import Profile, spent
from kclr.training.progress import (
    LayerProgress,
    Recorder,
    aligned,
    aligning,
    damaged,
    expected,
    finished,
    hashing,
    images_found,
)
from kclr.version import matmul_speed

_LONG = 2e12  # operations, below which nobody needs to be told how long they will take


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
    profile: bool = False,
    opened: Mapping[Any, Images] | None = None,
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
        profile: also write where the time went, `profile.json`, and a trace of ten steps of each
            layer for TensorBoard, and print the former. Not with several devices.
        opened: the images of each of the spec's sources, if they are open already (see
            `kclr.data.sources.open_sources`); what was decoded is not decoded again.

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
        overrides = ["data=series:given"] if given and given.series else ()
        written, spec = spec, load_spec(spec, overrides)
        if not isinstance(written, Mapping):
            name, text = os.fspath(written), text or Path(written).read_text(encoding="utf-8-sig")
    if given is not None:
        spec = spec.model_copy(update={"data": given})
    if listener is None:
        with watched(verbose) as listener:
            return train(
                spec, out, text, resume, overwrite, listener, name, probe, bare,
                callbacks=callbacks, profile=profile, opened=opened,
            )  # fmt: skip
    if spec.export.onnx and not bare:
        export.require_onnx()
    if spec.tensorboard and not importlib.util.find_spec("tensorboard"):
        raise RunError("tensorboard: true needs TensorBoard: pip install 'kclr[tensorboard]'")
    if profile and spec.train.distribute != "none":
        raise SpecError(
            f"train.distribute: {spec.train.distribute}: only a training on one device can be "
            "profiled. Remove it, or train without profile (--profile)."
        )
    cluster = open_cluster(spec.train)
    check_batches(spec, cluster, name)
    check_keras_objects(spec, name)
    findings = source_findings(spec)
    if findings:
        raise refusal(name, findings)
    opened = opened or open_sources(spec)
    check_augmentations(spec, opened, name)
    if spec.export.alignment and not bare:
        check_count(opened[spec.sources()[0]])  # it comes after hours of training
    if tf.config.list_physical_devices("GPU"):
        # On a CPU the operations that are used here are deterministic as they are.
        tf.config.experimental.enable_op_determinism()
    with cluster.watched():
        spec = _settled(spec, Run(out) if resume else None, cluster)
        if not cluster.chief:
            follow(spec, opened, cluster)
            return Run(out)
        if spec.probe and not probe:
            lowest = spec.sources()[0]
            probe = StackProbe(spec.probe, scaling=opened[lowest].scaling(), like=lowest)
        of_run = (spec, out, text, resume, overwrite, listener, opened, cluster, bare)
        with _opened(*of_run) as (run, made, damage), Profile(run) as spent_on:
            told: dict[Images, int] = {}  # pictures that were said to be skipped
            if cluster.replicas == 1 and not bare:
                _expect(spec, len(run.layers), opened, listener)
            for first, top in spec.trainings():
                images = opened[spec.stack[top].data or spec.data]
                if _kept(run, spec, first, top, cluster, listener):
                    _mend(run, spec, first, top, images, damage, bare, listener)
                    continue
                spent_on.turn(spec.stack[top].name)
                of_layer = (run, spec, first, top, listener, probe, callbacks)
                recorder = Recorder(*of_layer, damage.rows_lost)
                if profile:
                    recorder.watch(spent_on.callbacks)
                learned = _found(run, spec, first, top, images, made, cluster, recorder, told)
                rows = run.rows(spec.stack[top].name)  # of all that were trained with it
                for index, found in enumerate(learned, start=first):
                    layer, below = spec.stack[index], run.layers[:index]
                    facts = {"name": layer.name, "block": layer.block.arguments()}
                    facts |= {"key": made[index].key, **found.facts, "made_of": made[index].facts}
                    facts |= images.layer_facts()
                    with writing_layer(run, index, facts, found.kernel, found.bias, rows) as own:
                        if not bare:
                            sizes = layer_geometry(spec.stack, index)
                            with spent("pictures"):
                                draw_layer(own, below, sizes, images, spec.seed)
                    LayerProgress(listener, layer.name).learned(index, found.facts)
                checkpoints.forget(run.checkpoint(top, spec.stack[top].name))
            spent_on.turn("")
            if not bare:
                with spent("export"):
                    _export(run, spec, opened[spec.sources()[0]], listener)
                discard(run.path / "checkpoints", CHECKPOINTS)
            if profile:
                listener.heard(spent_on.finished())
            if not bare:
                files = {own.name: own.census.as_dict() for own in opened.values() if own.census}
                write_summary(run, spec.seed, files, damage.digests)
        return run


def _settled(spec: Spec, begun: Run | None, cluster: Cluster) -> Spec:
    """The spec with each layer's precision: that of the run that is resumed, or else what suits the
    chief's device."""
    before = {}
    if cluster.chief:
        spec = settled(spec, bfloat16_units(), begun.precisions if begun else None)
        before = precisions(spec)
    told = cluster.from_chief({f"of {name}": np.asarray(own) for name, own in before.items()})
    return settled(spec, False, {name[len("of ") :]: str(own) for name, own in told.items()})


def _expect(spec, finished, opened, listener):
    """Say how long the training will take, if that is long and can be told: on a processor."""
    if tf.config.list_physical_devices("GPU"):
        return
    rest = {
        index: opened[layer.data or spec.data].channels
        for index, layer in enumerate(spec.stack)
        if index >= finished and layer.learner.contrastive and layer.train.steps
    }
    if sum(step_flops(spec, i, n) * spec.stack[i].train.steps for i, n in rest.items()) < _LONG:
        return
    machine = matmul_speed(), bfloat16_units()
    seconds = {spec.stack[i].name: training_seconds(spec, i, n, *machine) for i, n in rest.items()}
    listener.heard(expected(seconds))


@contextlib.contextmanager
def _opened(spec, out, text, resume, overwrite, listener, opened, cluster, bare):
    """The run to write to while the block runs, locked, what its layers depend on, and what of it
    is damaged; when the block ends, the other workers may go on."""
    pictures = [place for source in opened for place in source.places()]
    with writing(out, RUN, resume, overwrite, apart=pictures) as place:
        run = Run(place)
        known = {
            source: images.identity(lambda *count: listener.heard(hashing(*count)))
            for source, images in opened.items()
        }
        made = layers_made(spec, known, cluster.shared)
        damage = begin(run, spec, text, made, list(known.values()), bare)
        for place, words in damage.others.items():
            listener.heard(damaged(place, words))
        yield run, made, damage
        cluster.from_chief()
        listener.heard(finished(run))


def _kept(run, spec, first, top, cluster, listener) -> bool:
    """Whether these layers are finished already; if not, whether they can be written is checked."""
    layers = list(enumerate(spec.stack))[first : top + 1]
    directories = [run.layer_directory(index, layer.name) for index, layer in layers]
    finished = all((directory / "layer.json").exists() for directory in directories)
    tell_workers(cluster, run.layers[:first], finished)
    if finished:
        for index, layer in layers:
            LayerProgress(listener, layer.name).kept(index)
    else:
        for directory in directories:
            check_ours(directory, LAYER)  # before hours of training
    return finished


def _mend(run, spec, first, top, images, damage, bare, listener):
    """Write finished layers again of which some files were damaged: histories and pictures."""
    for index, layer in list(enumerate(spec.stack))[first : top + 1]:
        names = damage.layers.get(run.layer_directory(index, layer.name).name)
        if not names:
            continue
        own, *below = reversed(run.layers[: index + 1])
        rows = run.rows(spec.stack[top].name) if "history.csv" in names else []
        with writing_again(own, names, rows) as again:
            if not bare:
                sizes = layer_geometry(spec.stack, index)
                draw_layer(again, below[::-1], sizes, images, spec.seed)
        LayerProgress(listener, layer.name).warned(
            f"{own.directory}: damaged, and written again: {', '.join(names)}"
        )


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
        if images.missing_share:
            found.facts.setdefault("missing_share", round(images.missing_share, 6))
    learned[-1] = recorder.probed(learned[-1])
    return learned


def _export(run, spec: Spec, images, listener):
    options, align = spec.export, None
    if options.alignment:
        views = Views.of(images, options.alignment, smallest(run.layers), spec.seed)

        def align(layers, pooling):
            made, facts = of_layers(
                layers, pooling, views, lambda *count: listener.heard(aligning(*count))
            )
            listener.heard(aligned(facts))
            return made

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
        align=align,
    )


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
