"""The probe that a spec asks for: of the layers in training, on top of the frozen ones below."""

import random
from collections.abc import Callable, Sequence

import keras

from kclr.data.labels import Labelled
from kclr.layers import stacked
from kclr.learned import Learned, PlainLayer
from kclr.probing.callback import Probe, probe_columns
from kclr.spec import schema


class StackProbe:
    """Makes the `Probe`s of a run, which share the labelled images.

    What is judged is the plain stack on whole images, as `kclr probe` judges it: whitening and
    batch normalisation are folded into the kernels as they are at that step. Of layers that are
    trained at once, it is the topmost.

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
        return self._probe(self._options.every, _plain(below, layers, blocks), on_result, start)

    def of_layer(self, below, layer: schema.Layer, learned: Learned) -> dict[str, float]:
        """Probe a layer that is finished, of a learner that takes no steps; the row's columns."""
        top = _named(layer, learned.kernel, learned.bias)
        plain = stacked([*below, top], _channels(below, learned.kernel))
        return probe_columns(self._probe(1, plain).measure())

    def _probe(self, every, encoder, on_result=None, start=0):
        options = self._options
        # The images are read by the first probe of a run, and used by all.
        data = self._latest.data if self._latest else self._images or options.data
        self._latest = Probe(
            data,
            every=every,
            labels=options.labels,
            limit=options.limit,
            classifier=options.classifier,
            grid=options.grid,
            flips=options.flips,
            encoder=encoder,
            on_result=on_result,
            start=start,
        )
        return self._latest


def _plain(below, layers, blocks) -> Callable[[], keras.Model]:
    """A function that returns the plain stack up to the topmost block, as it is now."""

    def folded():
        return [map(keras.ops.convert_to_numpy, block.folded()) for block in blocks]

    now = [_named(layer, *arrays) for layer, arrays in zip(layers, folded(), strict=True)]
    # Keras draws default seeds from Python's own generator, which the training may use too.
    state = random.getstate()
    model = stacked([*below, *now], _channels(below, now[0].kernel))
    random.setstate(state)

    def current():
        for layer, arrays in zip(layers, folded(), strict=True):
            model.get_layer(layer.name).set_weights(list(arrays))
        return model

    return current


def _named(layer, kernel, bias):
    return PlainLayer(layer.name, layer.block.arguments(), kernel, bias)


def _channels(below, kernel):
    """Of the images."""
    return (below[0].kernel if below else kernel).shape[2]
