"""The kernel of a layer of another run, to train it further or to stack other layers on it."""

import hashlib
import os
from typing import Annotated, ClassVar

from pydantic import Field

from kclr.errors import RunError, SpecError
from kclr.health import Learned
from kclr.runs.run import Run, TrainedLayer, load_run
from kclr.spec.registry import Part, register, splits
from kclr.spec.schema import NAME
from kclr.spec.values import pair


@splits("learner", pattern=r"^(run:|\.|~)|/")
def split_learner(text):
    """Split a spec's `run:PATH`, or a path, into the learner's name and its field."""
    name, colon, path = text.partition(":")
    if colon and name == "run":
        return name, {"path": path}
    if "/" in text or os.sep in text or text.startswith((".", "~")):
        return "run", {"path": text}
    return text, {}


@register("learner", "run")
class FromRun(Part):
    """The kernel and bias of a layer of another run, unchanged. As the `start` of contrastive
    training, that layer is trained further, from its kernel and with a new optimizer. The layers
    below it must be those that it was trained on."""

    path: str = Field(exclude=True)
    """The directory of the run."""
    layer: Annotated[str, Field(pattern=NAME)] | None = None
    """The name of the run's layer; by default the one at the same place in the stack."""

    argument: ClassVar[str | None] = "path"
    contrastive: ClassVar[bool] = False
    whitening_above: ClassVar[str] = "standardize"

    def spec_name(self):
        return f"run:{self.path}"

    @property
    def run(self) -> Run:
        """The run.

        Raises:
            RunError: there is none, or none of its layers is finished.
        """
        return load_run(os.path.expanduser(self.path))

    def _found(self, index) -> tuple[list[TrainedLayer], TrainedLayer]:
        """The layers below the one that is meant, and that one.

        Raises:
            RunError: the run or layer does not exist, or its files are damaged.
        """
        layers = self.run.layers
        names = [layer.name for layer in layers]
        if self.layer is None and index >= len(layers):
            raise RunError(
                f"{self.path} has {len(layers)} finished layers, but this is layer {index + 1}. "
                f"Set which one to use: layer: {names[-1]}."
            )
        if self.layer is not None and self.layer not in names:
            raise RunError(
                f"{self.path} has no finished layer {self.layer!r}. Choose from {', '.join(names)}."
            )
        place = index if self.layer is None else names.index(self.layer)
        return layers[:place], layers[place]

    def problem(self, index, block, channels=None) -> str | None:
        """What keeps a layer from taking the run's kernel, with the cure, or None. No TensorFlow.

        Args:
            index: of the layer, from 0. block: its block, of the spec.
            channels: of its input; None where that is not known.
        """
        try:
            _, own = self._found(index)
            height, width, seen, filters = own.kernel.shape
        except (RunError, SpecError) as error:
            return str(error)
        size = (*pair(block.kernel_size), seen if channels is None else channels)
        if (height, width, seen, filters) != (*size, block.filters):
            wanted = "x".join(map(str, size))
            return (
                f"layer {own.name} of {self.path} has {filters} filters of "
                f"{height}x{width}x{seen}, but this layer has {block.filters} of {wanted}. Use "
                "the same for both."
            )
        for key in ("contrast", "contrast_epsilon"):
            there, here = own.block.get(key), getattr(block, key)
            if there != here and "patch" in (own.block.get("contrast"), block.contrast):
                return (
                    f"layer {own.name} of {self.path} was learned with {key}: {there}, but this "
                    f"layer has {here}. Use the same for both."
                )
        return None

    def digest(self, index) -> str:
        """A hash of the numbers that layer `index` takes over."""
        _, own = self._found(index)
        made = hashlib.sha256()
        for array in (own.kernel, own.bias):
            made.update(f"{array.dtype} {array.shape}".encode())
            made.update(array.tobytes())
        return made.hexdigest()

    def learn(self, layer, sizes, below, images, seed, checkpoint, listener) -> Learned:
        """The kernel of the run's layer.

        Args:
            layer: of the spec. below: the layers below (see `kclr.layers.stacked`).
            sizes, images, seed, checkpoint, listener: not needed.

        Returns:
            `Learned`, whose facts are seconds, and the `run` and `layer` that it is from.

        Raises:
            SpecError: the run's layer does not fit, or was trained on other layers.
            RunError: the run or layer does not exist, or its files are damaged.
        """
        index = len(below)
        channels = below[-1].kernel.shape[-1] if below else None
        problem = self.problem(index, layer.block, channels)
        if problem:
            raise SpecError(f"layer {layer.name}: {problem}")
        lower, own = self._found(index)
        if len(lower) != len(below) or not all(map(_same, below, lower)):
            raise SpecError(
                f"layer {layer.name}: {own.name} of {self.path} was trained on other layers than "
                f"those below this one. Use these as well (learner: {self.spec_name()} in each), "
                f"or start {layer.name} from another layer."
            )
        facts = {"seconds": 0.0, "run": self.path, "layer": own.name}
        return Learned(own.kernel, own.bias, facts)


def _same(one, other):
    import numpy as np

    return (
        np.array_equal(one.kernel, other.kernel)
        and np.array_equal(one.bias, other.bias)
        and one.block == other.block
    )
