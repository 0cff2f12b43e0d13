"""Ways to find a layer's kernel. Each is one file, and all return a `Learned`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Learned:
    """What a learner found.

    Attributes:
        kernel: float32 (kernel height, kernel width, channels in, filters), of the plain
            convolution, with whitening folded in.
        bias: float32 (filters,).
        facts: what the run's summary says of the layer: steps, seconds, loss, ...
    """

    kernel: "np.ndarray"
    bias: "np.ndarray"
    facts: dict[str, Any]


class Listener:
    """Is told how a training goes; this one does nothing with it. Override what is of interest."""

    def preparing(self):
        """TensorFlow and the images are being loaded."""

    def layer(self, index, layer, sizes):
        """Layer `index` (from 0) of the spec begins."""

    def kept(self, index, layer):
        """Layer `index` was finished before and stays as it is."""

    def started(self, total, done, patches):
        """The training begins: `total` steps of `patches` patches, of which `done` are done."""

    def stepped(self, step, metrics):
        """`step` steps are done; `metrics` are means since the last row."""

    def row(self, row):
        """A row of the layer's history is complete."""

    def warned(self, message):
        """Something the user should know, and the training goes on."""

    def learned(self, index, layer, facts):
        """Layer `index` is finished and on disk."""

    def finished(self, run):
        """The whole run is finished and on disk."""

    def close(self):
        """The training ended early."""
