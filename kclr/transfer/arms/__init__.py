"""The arms of a transfer experiment: ways to initialize a classifier. An arm is one function.

    @arm("k-means", needs="pretrained")
    def kmeans(model, start):
        return start.move(model, start.baseline("kmeans"))

It is given a freshly built Keras model, changes it in place, and may return an `InitializeReport`.
To add one, decorate a function in a new file here, or in your own module, which you name under the
entry point group `kclr.plugins`.
Learned and other filters are copied by `kclr.transfer.initialize`, which also scales the layers
above them; the arm `LSUV` shows the effect of that scaling alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kclr.scaling import EIGHT_BITS, Scaling
from kclr.spec.registry import parts, register

# What an arm may need, and the key of the spec that says where it comes from.
NEEDS = {"pretrained": "pretrained", "end-to-end": "pretrained", "supervised": "supervised"}


@dataclass(eq=False)
class Arm:
    """A registered arm.

    Attributes:
        name: as specs and tables have it.
        prepare: function of a model and a `Start` that changes the model.
        needs: a key of `NEEDS`, or None.
        counts: whether the number of copied convolutions matters.
    """

    name: str
    prepare: Callable[[Any, "Start"], Any]
    needs: str | None
    counts: bool = True

    def __post_init__(self):
        # By these the registry tells another arm from the same one, imported again.
        names = ("__module__", "__qualname__")
        vars(self).update({name: getattr(self.prepare, name) for name in names})


@dataclass(frozen=True)
class Filters:
    """Layers that `initialize` can copy, like those of a run, and the scaling of their images."""

    layers: Sequence[Any]
    scaling: Scaling = EIGHT_BITS


@dataclass(frozen=True)
class Start:
    """What an arm can use.

    Attributes:
        images: uint8 or scaled float32 (images, height, width, channels), the labelled images of
            this unit, to measure activations on.
        seed: int, of this repeat, for what the arm draws itself.
        layers: how many of the first convolutions are copied; None for as many of the run's layers
            as fit.
        scale: whether the layers after the copied filters are scaled (see
            `kclr.transfer.initialize`).
        find_run: function that returns the pretrained run of this repeat.
        find_end_to_end: function that returns the run of the same stack trained end to end.
        find_baseline: function of a baseline's name (see `kclr.probing.baselines`) that returns
            its layers for this repeat.
        find_supervised: function of a number of layers that returns those of the classifier
            trained on the other labelled set in this repeat.
    """

    images: Any
    seed: int
    layers: int | None
    scale: bool = True
    find_run: Any = None
    find_end_to_end: Any = None
    find_baseline: Any = None
    find_supervised: Any = None

    @cached_property
    def unit(self) -> bool:
        """Whether the images are 8-bit ones, or floats in [0, 1]."""
        images = self.images
        return images.dtype == "uint8" or bool(images.min() >= 0 and images.max() <= 1)

    def _filters(self, layers):
        return Filters(layers, EIGHT_BITS if self.unit else Scaling("float32", (0,), (1,)))

    @cached_property
    def run(self):
        """The pretrained run."""
        return self.find_run()

    @property
    def end_to_end(self):
        """The run of the same stack, trained end to end from the top layer's objective."""
        return self.find_end_to_end()

    twin = end_to_end  # as arms of other packages may call it

    def move(self, model, run, freeze=False):
        """Copy the layers of a run, or of `Filters`, to a model's first convolutions; see
        `initialize`."""
        from kclr.transfer.starting import initialize

        return initialize(
            model, run, self.layers, freeze=freeze, scale=self.scale, data=self.images
        )

    def baseline(self, name) -> Filters:
        """Filters with the run's geometry that were not trained by contrast."""
        return self._filters(self.find_baseline(name))

    @cached_property
    def count(self) -> int:
        """How many of the first convolutions are copied, as far as that is known."""
        return self.layers or (len(self.run.layers) if self.find_run else 1)

    @cached_property
    def supervised(self) -> Filters:
        """The first layers of the classifier that was trained on the other labelled set."""
        return self._filters(self.find_supervised(self.count))


def arm(name, needs=None, counts=True):
    """Register a function of a model and a `Start` as the arm `name`.

    Args:
        name: as specs and tables have it.
        needs: "pretrained", "end-to-end" or "supervised", where its filters come from.
        counts: False if the number of copied convolutions does not matter, so that finished units
            stay valid when the spec changes that number.

    Raises:
        ValueError: the name is taken by another function, or `needs` is none of these.
    """
    if needs is not None and needs not in NEEDS:
        raise ValueError(f"needs={needs!r}: choose from {', '.join(NEEDS)}")

    def decorate(function):
        register("arm", name)(Arm(name, function, needs, counts))
        return function

    return decorate


def arms() -> dict[str, Arm]:
    """All registered arms by name, those of plug-ins included. Needs no TensorFlow."""
    return parts("arm")


def first_convolutions(model, count) -> list[Any]:
    """The first `count` convolutions of a model whose kernels are larger than one pixel."""
    import keras

    found = [
        layer
        for layer in model._flatten_layers()  # Keras has no public way to layers within layers
        if isinstance(layer, (keras.layers.Conv1D, keras.layers.Conv2D))
        and not isinstance(layer, keras.layers.DepthwiseConv2D)
        and max(layer.kernel_size) > 1
    ]
    return found[:count]
