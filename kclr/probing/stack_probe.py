"""The probe that a spec asks for: of the layers in training, on top of the frozen ones below."""

import random
from collections.abc import Callable, Sequence

import keras

from kclr.data.labels import Labelled
from kclr.layers import stacked
from kclr.learned import Learned, PlainLayer
from kclr.probing.callback import Probe, probe_columns
from kclr.probing.features import all_maps
from kclr.spec import schema
from kclr.training.keras_objects import dtype_policy


class StackProbe:
    """Makes the `Probe`s of a run, which share the labelled images.

    What is judged is the plain stack on whole images, as `kclr probe` judges it: whitening and
    batch normalisation are folded into the kernels as they are at that step. Of layers that are
    trained at once, it is the topmost; with `all_layers` it and those below, side by side.

    Args:
        options: the spec's `probe` section.
        images: its labelled images, read already; read by the first probe when left out.
    """

    def __init__(self, options: schema.Probe, images: Labelled | None = None):
        self._options, self._images = options, images
        self._latest: Probe | None = None

    def of_training(self, below, layers: Sequence[schema.Layer], blocks, start, on_result) -> Probe:
        """The callback for a training.

        Args:
            below: the trained layers below, from the image upwards.
            layers: of the spec, those that are trained.
            blocks: for each its built `ContrastiveConvBlock`.
            start: int, steps done before.
            on_result: function of a result (see `Probe`).
        """
        plain = self._current(below, layers, blocks)
        return self._probe(self._options.every, plain, len(below) + len(layers), on_result, start)

    def of_layer(self, below, layer: schema.Layer, learned: Learned) -> dict[str, float]:
        """Probe a layer that is finished, of a learner that takes no steps; the row's columns."""
        top = _named(layer, learned.kernel, learned.bias)
        _, judged = self._stack([*below, top])
        return probe_columns(self._probe(1, judged, len(below) + 1).measure())

    def _probe(self, every, encoder, layers, on_result=None, start=0):
        options = self._options
        # The images are read by the first probe of a run, and used by all.
        data = self._latest.data if self._latest else self._images or options.data
        self._latest = Probe(
            data,
            every=every,
            labels=options.labels,
            limit=options.limit,
            classifier=options.classifier,
            grid=_lowest(options.grid, layers),
            power=_lowest(options.power, layers),
            flips=options.flips,
            encoder=encoder,
            on_result=on_result,
            start=start,
        )
        return self._latest

    def _stack(self, layers):
        """The model of plain layers, and the one that gives what is judged of it."""
        with dtype_policy(self._options.precision):
            model = stacked(layers, layers[0].kernel.shape[2])
            return model, all_maps(model) if self._options.all_layers else model

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


def _lowest(value, layers):
    """Of a list of one for each layer, those of the lowest ones."""
    return value[:layers] if isinstance(value, tuple) else value


def _named(layer, kernel, bias):
    return PlainLayer(layer.name, layer.block.arguments(), kernel, bias)
