"""The stack: layer after layer, each trained on the frozen output of those below (Zhao 2020).

This is the only place that knows the order of training. Read from `train` downwards.
"""

import contextlib
import csv
import hashlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import tensorflow as tf
import yaml

from kclr import export
from kclr.data.checks import source_findings
from kclr.data.patches import PatchTripletGenerator
from kclr.data.sources import as_images
from kclr.errors import RunError, SpecError
from kclr.keras_objects import check_keras_objects
from kclr.layers import stacked
from kclr.learned import Learned, Listener
from kclr.probing.callback import probe_columns
from kclr.probing.stack_probe import StackProbe
from kclr.provenance import hardware, versions
from kclr.report import plots
from kclr.report.filters import filter_order, top_patches
from kclr.run import Run, TrainedLayer, atomic, check_same, prepare, remove, sha256
from kclr.spec.findings import describe
from kclr.spec.geometry import LayerGeometry, layer_geometry
from kclr.spec.schema import Spec
from kclr.training import train_layers

PICTURE_CROPS = 20_000


def train(
    spec: Spec,
    out,
    text: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
    name: str = "spec",
    probe: StackProbe | None = None,
    bare: bool = False,
) -> Run:
    """Train every layer of a spec, export the stack, and write all of it to a run directory.

    Args:
        spec: from `kclr.load_spec`.
        out: the run directory.
        text: the spec as the user wrote it, kept as `spec.yaml`; the resolved one when left out.
        resume: go on with what `out` holds; finished layers are kept, an unfinished one goes on
            from its last checkpoint.
        overwrite: remove the run that `out` holds first.
        listener: is told how it goes.
        name: of the spec, in messages.
        probe: of the spec's section `probe`, where one has read the labelled images already.
        bare: train the layers, and leave out their pictures, the exports and the summary.

    Returns:
        The finished `Run`.

    Raises:
        SpecError: the images or Keras do not fit the spec, or `out` was trained otherwise.
        RunError: `out` cannot be trained into, or the training failed.
    """
    listener = listener or Listener()
    if spec.export.onnx and not bare:
        export.require_onnx()
    if spec.tensorboard and not importlib.util.find_spec("tensorboard"):
        raise RunError("tensorboard: true needs TensorBoard: pip install 'kclr[tensorboard]'")
    check_keras_objects(spec, name)
    findings = source_findings(spec)
    if findings:
        raise SpecError(describe(name, findings))
    opened = {source: as_images(source) for source in _sources(spec)}
    if tf.config.list_physical_devices("GPU"):
        # On a CPU the operations that are used here are deterministic as they are.
        tf.config.experimental.enable_op_determinism()
    if spec.probe and probe is None:
        probe = StackProbe(spec.probe)
    run = prepare(out, resume, overwrite)
    with run.locked():
        resolved = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)
        keys = _keys(spec, opened)
        _check_finished(run, spec, keys)
        run.write_text("spec.yaml", text or resolved)
        run.write_text("resolved.yaml", resolved)
        remove(run.path / "summary.json")
        for first, top in _together(spec):
            layer = spec.stack[top]  # the topmost of those that are trained at once
            directories = [
                run.layer_directory(i, spec.stack[i].name) for i in range(first, top + 1)
            ]
            if all((directory / "layer.json").exists() for directory in directories):
                for index in range(first, top + 1):
                    listener.kept(index, spec.stack[index])
                continue
            sizes = layer_geometry(spec.stack, top)
            listener.layer(top, layer, sizes)
            checkpoint = run.checkpoint(top, layer.name)
            run.write_text(checkpoint.with_suffix(".key").relative_to(run.path), keys[top])
            below, seed = run.layers[:first], _seed(spec, top)
            together = spec.stack[first : top + 1]
            recorder = _Recorder(run, together, below, listener, spec.tensorboard, probe)
            images = opened[layer.data or spec.data]
            if first == top:
                found = layer.learner.learn(layer, sizes, below, images, seed, checkpoint, recorder)
                learned = [found]
            else:
                learned = train_layers(together, sizes, below, images, seed, checkpoint, recorder)
            if probe:
                learned[-1] = recorder.probed(learned[-1])
            for index, found in enumerate(learned, start=first):
                own = spec.stack[index]
                with _writing_layer(
                    run, index, own, found, keys[index], rows_of=layer.name
                ) as trained:
                    if not bare:
                        own_sizes = layer_geometry(spec.stack, index)
                        _draw(trained, run.layers[:index], own_sizes, images, spec.seed)
                listener.learned(index, own, found.facts)
            remove(checkpoint)
        if not bare:
            _finish(run, spec)
        listener.finished(run)
    return run


def adopt(spec: Spec, out, runs: Iterable[Run]) -> int:
    """Take over the lowest layers of a spec from the run that has most of them finished.

    Files are linked where the disk allows it, for a finished layer is never written to again.

    Args:
        spec: from `kclr.load_spec`.
        out: the run directory that the spec will be trained into with `resume`.
        runs: those that may have layers of the same settings, images and seed.

    Returns:
        How many layers `out` has now.
    """
    run = Run(out)
    keys = _keys(spec, {source: as_images(source) for source in _sources(spec)})
    best: list[TrainedLayer] = []
    for other in runs:
        wanted = zip(spec.stack, keys, other.layers, strict=False)
        same = [
            own.facts.get("key") == key and own.name == layer.name for layer, key, own in wanted
        ]
        count = same.index(False) if False in same else len(same)
        best = other.layers[:count] if count > len(best) else best
    for index, layer in enumerate(best):
        place = run.layer_directory(index, layer.name)
        if not place.exists():
            with atomic(place) as temporary:
                shutil.copytree(layer.directory, temporary, copy_function=_link)
    if best and not (run.path / "spec.yaml").exists():
        run.write_text("spec.yaml", yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False))
    return len(run.layers)


def _link(source, target):
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _sources(spec):
    return {layer.data or spec.data for layer in spec.stack}


def _seed(spec, index):
    """A layer's own seed, so that layers differ and adding one changes none below it."""
    return int(np.random.SeedSequence([spec.seed, index]).generate_state(1)[0] >> 1)


def _together(spec):
    """The first and the last of the layers that are trained at once, from the image upwards."""
    return spec.joined() if spec.train.end_to_end else [(i, i) for i in range(len(spec.stack))]


def _keys(spec, opened):
    """For each layer a hash of all that its kernel depends on, those below included."""
    keys: list[str] = []
    for first, top in _together(spec):
        layers = spec.stack[first : top + 1]
        below = keys[-1:]
        settings = [layer.model_dump(mode="json", exclude={"name", "data"}) for layer in layers]
        for own in settings:
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
                "seed": _seed(spec, top),
                "below": below,
            }
            keys.append(hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest())
    return keys


def _check_finished(run, spec, keys):
    """Refuse to go on in a directory whose layers the spec would train otherwise."""
    expected = {}
    for index, layer in enumerate(spec.stack):
        expected[run.layer_directory(index, layer.name)] = keys[index]
        started = run.checkpoint(index, layer.name).with_suffix(".key")
        if started.exists():
            check_same(keys[index], started.read_text(), f"{run.path}: layer {layer.name}")
    for trained in run.layers:
        if trained.directory not in expected:
            raise SpecError(
                f"{run.path}: layer {trained.name} is finished, and the spec has no such layer at "
                "its place. Train into another directory with --out, or start anew with "
                "--overwrite."
            )
        key = trained.facts.get("key")
        check_same(expected[trained.directory], key, f"{run.path}: layer {trained.name}")


class _Recorder(Listener):
    """Writes a layer's history as it grows, and passes everything on."""

    def __init__(self, run, layers, below, listener, tensorboard, probe):
        self._run, self._layers, self._below, self._listener = run, layers, below, listener
        self._name, self._probe = layers[-1].name, probe
        self._events = None
        if tensorboard:
            place = run.path / "tensorboard" / self._name
            self._events = tf.summary.create_file_writer(str(place))

    def probes(self, blocks, start):
        if self._probe is None:
            return self._listener.probes(blocks, start)
        train = self._layers[-1].train

        def told(result):
            # The history has a row of these steps, which will hold it.
            if result["step"] % train.log_every and result["step"] != self._total:
                self.row({"step": result["step"]} | probe_columns(result))

        own = self._probe.of_training(self._below, self._layers, blocks, start, told)
        return [own, *self._listener.probes(blocks, start)]

    def probed(self, learned: Learned) -> Learned:
        """What was learned, with the last accuracy of the probe and the seconds of all."""
        rows = [row for row in self._run.rows(self._name) if "probe_accuracy" in row]
        rows = rows or [self._probe.of_layer(self._below, self._layers[-1], learned)]
        facts = {
            "probe_accuracy": rows[-1]["probe_accuracy"],
            "probe_seconds": round(sum(row["probe_seconds"] for row in rows), 3),
        }
        return replace(learned, facts=learned.facts | facts)

    def started(self, total, done, patches):
        self._total = total
        # Rows that were written after the checkpoint will be written again.
        self._run.trim(
            "metrics.jsonl", lambda row: row.get("layer") != self._name or row["step"] <= done
        )
        self._listener.started(total, done, patches)

    def stepped(self, step, metrics):
        self._listener.stepped(step, metrics)

    def warned(self, message):
        self._listener.warned(message)

    def row(self, row):
        self._run.append("metrics.jsonl", {"layer": self._name, **row})
        if self._events:
            with self._events.as_default(step=row["step"]):
                for name, value in row.items():
                    tf.summary.scalar(name, value)
        self._listener.row(row)


@contextlib.contextmanager
def _writing_layer(run, index, layer, learned: Learned, key, rows_of) -> Iterator[TrainedLayer]:
    """Write a finished layer, and what the block adds to it: all of it, or nothing.

    `rows_of` names the layer whose history is this one's too: the topmost that was trained with it.
    """
    facts = {"name": layer.name, "block": layer.block.arguments(), "key": key, **learned.facts}
    rows = run.rows(rows_of)
    with atomic(run.layer_directory(index, layer.name)) as temporary:
        temporary.mkdir(parents=True)
        np.save(temporary / "kernel.npy", learned.kernel)
        np.save(temporary / "bias.npy", learned.bias)
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
        plots.curves_png(curves, rows, title=f"{trained.name}: training")
    path = trained.directory / "filters.png"
    order = filter_order(trained.kernel)
    if not below:
        plots.filters_png(path, trained.kernel, order, title=f"{trained.name}: filters")
        return
    size = sizes.receptive_field
    cut = max(2, size)  # the least that can be cut out
    generator = PatchTripletGenerator(images, patch_size=cut, crop_size=cut + 1, seed=seed)
    encode = stacked([*below, trained], generator.channels, size=cut, padding="valid")
    batches = generator.views().take(-(-PICTURE_CROPS // generator.batch_size))
    shown = order[: plots.MOST_MOSAICS]
    pairs = (
        (patches[:, 0].numpy(), encode.predict_on_batch(tf.cast(patches[:, 0], "float32") / 255))
        for patches, _ in batches
    )
    patches, responses = top_patches(pairs, jump=sizes.jump, start=0, size=size, filters=shown)
    title = f"{trained.name}: image patches that excite each filter most"
    plots.patches_png(path, patches, responses, title=title)


def _finish(run, spec):
    """Export the stack and write the summary, which makes the run finished."""
    options = spec.export
    export.export_run(
        run,
        out=run.path,
        pool=options.pool,
        grid_size=options.grid_size,
        all_layers=options.all_layers,
        onnx=options.onnx,
        litert=options.litert,
        litert_size=options.litert_size,
    )
    remove(run.path / "checkpoints")
    summary = {
        "versions": versions(),
        "hardware": hardware(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seed": spec.seed,
        "layers": [
            {"name": layer.name, "kernel_shape": list(layer.kernel.shape)}
            | {key: value for key, value in layer.facts.items() if key not in ("name", "block")}
            for layer in run.layers
        ],
        "sha256": {
            path.relative_to(run.path).as_posix(): sha256(path)
            for path in sorted(run.path.rglob("*"))
            if path.is_file()
            and path.name not in (".lock", "summary.json")
            and "exports" not in path.relative_to(run.path).parts
        },
    }
    run.write_text("summary.json", json.dumps(summary, indent=2) + "\n")
