"""Cross-entropy of the class, layer by layer, through a small network on the block's map.

Belilovsky et al. 2019, "Greedy layerwise learning can scale to ImageNet", section 3.
"""

import math
from typing import Annotated, Any, ClassVar

from pydantic import Field

from kclr.objectives import _classifier
from kclr.spec.registry import Part, register

_SIDE = 3  # of a convolution, as far as the map has so many cells


def convolution(maps, *names) -> dict[str, Any]:
    """Variables of a convolution that keeps a map's size: a kernel, and a bias if it has a name.

    Args:
        maps: (height, width, filters). names: of the kernel and of the bias.
    """
    height, width, filters = maps
    sides = (min(_SIDE, height), min(_SIDE, width))
    shapes = {"kernel": (*sides, filters, filters), "bias": (filters,)}
    starts = {"kernel": "he_normal", "bias": "zeros"}
    return {
        name: {"shape": shapes[kind], "initializer": starts[kind]}
        for name, kind in zip(names, shapes, strict=False)
    }


def map_shape(maps) -> tuple[int, int, int]:
    """Height, width and filters of a map; an int stands for one of a single cell."""
    return (1, 1, maps) if isinstance(maps, int) else tuple(maps)


def of_labelled(losses, labels, views):
    """The mean over patches of crops that have a label, 0 where there are none.

    Args:
        losses: float (crops x views,). labels: int32 (crops,), -1 for none. views: int.
    """
    from keras import ops

    known = ops.repeat(ops.cast(labels >= 0, losses.dtype), views)
    return ops.sum(losses * known) / ops.maximum(ops.sum(known), 1.0)


class OfClasses(Part):
    """What objectives that predict a class from a block's map have in common."""

    classes: Annotated[int, Field(ge=2, le=65536)] | None = None
    """Number of classes. In a spec it follows from the labels; from Python it is needed."""

    takes_labels: ClassVar[bool] = True
    takes_maps: ClassVar[bool] = True
    statistics: ClassVar[tuple[str, ...]] = ("class_accuracy", "labelled_share", "alike_loss")
    ceiling: ClassVar[None] = None  # see alike_loss
    cures: ClassVar[tuple[str, ...]] = ("more labels",)

    def with_classes(self, count) -> "OfClasses":
        """The same for that many classes."""
        return self if self.classes else self.model_copy(update={"classes": count})

    def _flat(self, maps, labels):
        """Maps of single patches, the class of each (0 where it has none), and patches per crop."""
        from keras import backend, ops

        if self.classes is None:
            raise ValueError(f"{self.part_name} needs the number of classes. Set classes=10.")
        maps = ops.cast(maps, backend.result_type(maps.dtype, "float32"))
        views = maps.shape[1]
        labels = ops.cast(labels, "int32")
        return ops.reshape(maps, (-1, *maps.shape[2:])), ops.repeat(labels, views), views

    def _predicted(self, vectors, state, labels, of_patches, views):
        """Mean cross-entropy of a linear classifier, and the statistics that come with it."""
        from keras import ops

        scored = _classifier.scores({n: state[n] for n in ("kernel0", "bias0")}, vectors)
        losses, right = _classifier.cross_entropy(scored, ops.maximum(of_patches, 0))
        return of_labelled(losses, labels, views), {
            "class_accuracy": of_labelled(right, labels, views),
            "labelled_share": ops.mean(ops.cast(labels >= 0, losses.dtype)),
            "alike_loss": ops.cast(math.log(self.classes or 2), losses.dtype),
        }


@register("objective", "cross_entropy")
class CrossEntropy(OfClasses):
    """A classifier on the block's map, with convolutions of its own, tells the class of a patch.

    Needs labels: `data: {source: tfds:cifar10, labels: 1}`. Patches should be large, up to the
    whole image. It sees the map itself: `embedding` only counts for other objectives beside it.
    """

    convolutions: Annotated[int, Field(ge=0, le=16)] = 1
    """Convolutions of the classifier, of 3x3 and as many filters as the block, each with a ReLU,
    before the mean over the map and a linear layer. Belilovsky et al. call a training with one k =
    2, and with none k = 1. All of it is discarded after training."""

    def state(self, maps) -> dict:
        """The classifier's variables.

        Args:
            maps: height, width and filters of the block's map.
        """
        shape = map_shape(maps)
        found: dict[str, Any] = {}
        for index in range(self.convolutions):
            found |= convolution(shape, f"convolution{index}", f"shift{index}")
        return found | _classifier.variables(shape[-1], [], self.classes or 2)

    def __call__(self, images, maps, labels, state=None):
        """Loss and statistics of a batch of crops.

        Args:
            images: int (crops,), not used: no crop is compared with another.
            maps: float (crops, patches, height, width, filters).
            labels: int (crops,), the class of each crop's image, -1 for none.
            state: the values of the variables that `state` names.

        Returns:
            loss: float scalar, the mean cross-entropy over the patches that have a label, 0 without
            any. statistics: class_accuracy (share of these patches that are told right),
            labelled_share (of the crops), and alike_loss, log(classes).
        """
        from keras import ops

        state = _classifier.given(self, state)
        maps, of_patches, views = self._flat(maps, labels)
        for index in range(self.convolutions):
            maps = ops.conv(maps, state[f"convolution{index}"], padding="same")
            maps = ops.relu(maps + state[f"shift{index}"])
        vectors = ops.mean(maps, axis=(1, 2))
        return self._predicted(vectors, state, labels, of_patches, views)
