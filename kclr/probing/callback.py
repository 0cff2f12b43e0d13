"""Probe: a Keras callback that evaluates a model's features on labelled images during training."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kclr.data.labels import Labelled, check_amount, load_labelled
from kclr.data.sources import Images, Source
from kclr.errors import SpecError
from kclr.health import Learned
from kclr.keras_backend import compiles, dtype_policy, steps_ended
from kclr.layers import ContrastiveConvBlock, SharedPatches, stacked
from kclr.model import TripletModel
from kclr.pooling import Pooling
from kclr.probing.features import Features, check_fits
from kclr.probing.judging import FrozenFeatures
from kclr.probing.protocol import (
    check_classifier,
    check_enough,
    draw,
    validation_rows,
)
from kclr.runs.run import PlainLayer
from kclr.scaling import Scaling
from kclr.spec import schema
from kclr.training.profile import spent


class Probe(keras.callbacks.Callback):
    """Fits a simple classifier on a model's frozen features every `every` steps, and scores it.

    A linear probe (Alain and Bengio 2016, "Understanding intermediate layers using linear
    classifier probes"). Only training images of the labelled data are used: four fifths of every
    class to fit the classifier and choose its regularisation strength, and one fifth to score it,
    always the same ones. The model is called in inference mode and its weights are not changed;
    neither is any random state of the training, which ends with the same weights as without the
    probe.

    After a probe, the logs contain `probe_accuracy`, the share of the scoring images that were
    classified correctly, and `probe_seconds`, for the callbacks after it in the list: put it before
    them. The logs of an epoch have the last ones of the epoch, so `History`, `EarlyStopping` and
    `ModelCheckpoint` see them.

    Args:
        data: a name for `kclr.data.labels.load_labelled` (`tfds:NAME`, `folder:PATH`, ...), or a
            mapping of one with options; a `Labelled`; or a pair of arrays, images and int labels.
            Of a pair, whole numbers are taken as 0 to 255 and scaled to [0, 1], and floats are used
            as they are, unless `scaling` says otherwise.
        every: int from 1, steps between two probes, or None for one at the end of each epoch. There
            is always one after the last step.
        labels: amount of labels to fit with (see `kclr.probing.protocol.draw`).
        limit: int from 1, use only this many images, the first ones; None for all.
        classifier: "ridge", "logistic", "knn" or another readout's name; or an object with `fit`
            and `predict`, such as a classifier of scikit-learn (see
            `kclr.probing.protocol.probe`).
        grid, power, flips: see `kclr.pooling.Pooling`. A list is for the maps of an encoder that
            returns several; vectors are used as they are.
        seed: int from 0, of the labels drawn, of the held-out ones, and of the scoring images.
        encoder: what is evaluated: a Keras layer or model from images to maps (batch, height,
            width, filters) or vectors, or to a list of these, whose features are concatenated; or a
            function that returns one, called before each probe. By default the model in training;
            for a `kclr.TripletModel` its encoder.
        on_result: function of a result, called after each probe.
        start: int from 0, steps done before this training.
        scaling: `kclr.scaling.Scaling` of what the encoder was trained on, such as a run's or a
            generator's `scaling`.

    Attributes:
        results: list of dicts with step (done so far, from 1), accuracy, and seconds; those of the
            first one include reading the images.
        seconds: float, of all probes, without that reading.

    Raises:
        SpecError: an argument is not valid; from `fit`, the labelled images do not exist or do not
            fit the encoder.
    """

    def __init__(
        self,
        data: Any,
        every=None,
        labels: float | int = 1.0,
        limit=None,
        classifier: Any = "ridge",
        grid=2,
        power=1.0,
        flips=False,
        seed=0,
        encoder=None,
        on_result=None,
        start=0,
        scaling=None,
        like=None,
    ):
        super().__init__()
        check_amount(labels)
        check_classifier(classifier)
        self.pooling = Pooling(grid, power, flips=flips)
        whole = (("every", every, 1), ("limit", limit, 1), ("seed", seed, 0), ("start", start, 0))
        for name, value, least in whole:
            if value is not None and value < least:
                raise SpecError(f"{name}: {value} is not possible. Use {least} or more.")
        self.data, self.every, self.labels, self.limit = data, every, labels, limit
        self.classifier, self.seed, self.scaling, self.like = classifier, seed, scaling, like
        self.encoder, self.on_result, self.step = encoder, on_result, start
        self.results: list[dict[str, Any]] = []
        self.seconds = 0.0
        self._epoch, self._epoch_start, self._reading = 0, start, 0.0
        self._chosen: tuple[Labelled, Any] | None = None
        self._features: Features | None = None

    def on_train_begin(self, logs=None):
        self._prepare()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._epoch_start = epoch, self.step

    def on_train_batch_end(self, batch, logs=None):
        ended = steps_ended(self, batch)
        before, self.step = self.step, self._epoch_start + ended
        self._prepare()  # of a model that its first batch has built
        if self.every is None:
            return
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        last = ended == steps and self._epoch + 1 == epochs
        if last or self.step // self.every != before // self.every:
            with spent("probe"):
                logs.update(probe_columns(self.measure()))

    def on_epoch_end(self, epoch, logs=None):
        if self.every is None:
            self.measure()
        if self.results and self.results[-1]["step"] > self._epoch_start:
            logs.update(probe_columns(self.results[-1]))

    def on_train_end(self, logs=None):
        # Where the length of the training was not known, or another callback ended it.
        if not self.results or self.results[-1]["step"] != self.step:
            self.measure()

    def _prepare(self):
        """Read the images early, so that errors are reported before training."""
        if self._chosen is None and self._current().built:
            images, _ = self._read()
            check_fits(self._current(), next(images.batches(1)), images.name)

    def measure(self) -> dict[str, Any]:
        """Probe now.

        Returns:
            The result, which is also added to `results`.
        """
        images, judging = self._read()
        started = time.perf_counter()
        encoder = self._current()
        if self._features is None or self._features.model is not encoder:
            jit = compiles(precision=encoder.compute_dtype, able=_ours(encoder))
            self._features = Features(encoder, self.pooling, jit, images.scaling)
        made = self._features(images)
        np.nan_to_num(made, copy=False, posinf=0, neginf=0)  # of weights that left the numbers
        labels = np.asarray(images.labels)
        groups = None if images.groups is None else images.groups[~judging]
        frozen = FrozenFeatures(
            made[~judging],
            labels[~judging],
            made[judging],
            labels[judging],
            fitting_groups=groups,
        )
        accuracy = frozen.score(self.classifier, seed=self.seed).accuracy
        seconds = time.perf_counter() - started
        self.seconds += seconds
        seconds, self._reading = seconds + self._reading, 0.0
        result = {"step": self.step, "accuracy": accuracy, "seconds": round(seconds, 3)}
        self.results.append(result)
        if self.on_result:
            self.on_result(result)
        return result

    def _current(self):
        """The layer or model to evaluate."""
        if self.encoder is not None:
            return self.encoder if isinstance(self.encoder, keras.Layer) else self.encoder()
        found = self.model.encoder if isinstance(self.model, TripletModel) else self.model
        return found.block if isinstance(found, SharedPatches) else found

    def _read(self):
        """The images that are used, and which of them are for scoring: bool (images,)."""
        if self._chosen is None:
            started = time.perf_counter()
            if isinstance(self.data, (str, Mapping, Source)):
                channels = _channels(self._current())
                self.data = load_labelled(
                    self.data,
                    "train",
                    channels,
                    self.limit,
                    scaling=self.scaling,
                    like=self.like,
                )
            elif not isinstance(self.data, Labelled):
                images, labels = self.data
                scaling = self.scaling or Scaling()
                self.data = Labelled(images, np.asarray(labels), (), scaling=scaling)
            self._chosen = self._choose(self.data)
            self._reading = time.perf_counter() - started
        return self._chosen

    def _choose(self, data):
        if not isinstance(data.images, Images) and len(data) != len(data.images):
            raise SpecError(
                f"{data.name}: {len(data.images)} images and {len(data)} labels. There must be "
                "one label per image."
            )
        labels = data.labels[: self.limit]
        groups = None if data.groups is None else data.groups[: self.limit]
        judging = validation_rows(labels, self.seed, groups, data.name)
        if not judging.any():
            raise SpecError(
                f"{data.name}: no class has two images among the {len(labels)} that are used, but "
                "both fitting and scoring need one. Raise the limit."
            )
        fitting = np.flatnonzero(~judging)
        check_enough(labels[fitting], data.name)
        fitting = fitting[draw(labels[fitting], self.labels, self.seed)]
        rows = np.sort(np.concatenate([fitting, np.flatnonzero(judging)]))
        return data.part(rows), judging[rows]


def probe_columns(result) -> dict[str, float]:
    """A result of `Probe` under the names that it has in logs and histories."""
    return {"probe_accuracy": result["accuracy"], "probe_seconds": result["seconds"]}


def _channels(encoder):
    """The shape of images that a built layer or model takes, or None if it is not known."""
    config = encoder.get_build_config() or {}
    shape: Any = getattr(encoder, "input_shape", None) or config.get("input_shape") or ()
    return shape[-1] if len(shape) == 4 and shape[-1] in (1, 3) else None


def _ours(encoder):
    """Whether it has kclr's own layers alone, which XLA is known to compile."""
    known = (ContrastiveConvBlock, keras.layers.InputLayer)
    return all(isinstance(part, known) for part in getattr(encoder, "layers", [encoder]))


class StackProbe:
    """Makes the `Probe`s of a run, which share the labelled images.

    The plain stack is evaluated on whole images, as by `kclr probe`: whitening and batch
    normalisation are folded into the current kernels. Of layers that are trained at once, the
    topmost is evaluated; with `all_layers` it is concatenated with those below.

    Args:
        options: the spec's `probe` section.
        images: its labelled images, already read; by default the first probe reads them.
        scaling: of the images that the run learns from.
        like: the source of these images.
    """

    def __init__(
        self, options: schema.Probe, images: Labelled | None = None, scaling=None, like=None
    ):
        self._options, self._images, self._scaling, self._like = options, images, scaling, like
        self._pooling = Pooling(
            options.grid, options.power, options.all_layers, options.flips, options.precision
        )
        self._latest: Probe | None = None

    def of_training(
        self, below, layers: Sequence[schema.Layer], blocks, start, on_row=None
    ) -> Probe:
        """The callback for a training.

        Args:
            below: the trained layers below, from the image upwards.
            layers: of the spec, those that are trained.
            blocks: for each its built `ContrastiveConvBlock`.
            start: int, steps done before.
            on_row: function of a row of the history: the step, and a result's columns.
        """

        def told(result):
            if on_row:
                on_row({"step": result["step"]} | probe_columns(result))

        plain = self._current(below, layers, blocks)
        return self._probe(self._options.every, plain, len(below) + len(layers), told, start)

    def of_layer(self, below, layer: schema.Layer, learned: Learned) -> dict[str, float]:
        """Probe a layer that is finished, of a learner that takes no steps; the row's columns."""
        top = _named(layer, learned.kernel, learned.bias)
        _, judged = self._stack([*below, top])
        return probe_columns(self._probe(1, judged, len(below) + 1).measure())

    def _probe(self, every, encoder, layers, on_result=None, start=0):
        options = self._options
        # The images are read by the first probe of a run, and used by all.
        data = self._latest.data if self._latest else self._images or options.data
        pooling = self._pooling.of_lowest(layers)
        self._latest = Probe(
            data,
            every=every,
            labels=options.labels,
            limit=options.limit,
            classifier=options.classifier,
            grid=pooling.grid,
            power=pooling.power,
            flips=pooling.flips,
            encoder=encoder,
            on_result=on_result,
            start=start,
            scaling=self._scaling,
            like=self._like,
        )
        return self._latest

    def _stack(self, layers):
        """The model of plain layers, and the one that gives what is judged of it."""
        with dtype_policy(self._pooling.precision):
            model = stacked(layers, layers[0].kernel.shape[2])
            return model, self._pooling.maps(model)

    def _current(self, below, layers, blocks) -> Callable[[], keras.Model]:
        """A function that returns what is judged, with the weights of the blocks as they are."""

        def folded():
            return [map(keras.ops.convert_to_numpy, block.folded()) for block in blocks]

        now = [_named(layer, *arrays) for layer, arrays in zip(layers, folded(), strict=True)]
        # Keras draws default seeds from Python's own generator, which the training may use too.
        state = random.getstate()
        model, judged = self._stack([*below, *now])
        random.setstate(state)

        def current():
            for layer, arrays in zip(layers, folded(), strict=True):
                model.get_layer(layer.name).set_weights(list(arrays))
            return judged

        return current


def _named(layer, kernel, bias):
    return PlainLayer(layer.name, layer.block.arguments(), kernel, bias)
