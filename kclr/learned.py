"""What a learner returns, and who is told how it goes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Learned:
    """What a learner found.

    Attributes:
        kernel: float32 (kernel height, kernel width, channels in, filters), of the plain
            convolution, with whitening folded in; of windows of normalised contrast where the block
            has that.
        bias: float32 (filters,).
        facts: what the run's summary says of the layer: steps, seconds, loss, ...
        answers: float (windows, filters), what the filters say to some windows of the data, after
            the activation; None where the learner leaves that out. It is what
            `kclr.health.check_learned` judges them by.
        input_deviation: float, standard deviation of what they answer to; None for filters that
            have a fixed length.
    """

    kernel: "np.ndarray"
    bias: "np.ndarray"
    facts: dict[str, Any]
    answers: "np.ndarray | None" = None
    input_deviation: float | None = None


@dataclass(frozen=True)
class PlainLayer:
    """A layer that `kclr.layers.stacked` takes, as a trained one of a run.

    Attributes:
        name: of the layer. block: arguments of the `ContrastiveConvBlock` that it is.
        kernel: float32 (kernel height, kernel width, channels in, filters). bias: (filters,).
    """

    name: str
    block: dict[str, Any]
    kernel: Any
    bias: Any


class Listener:
    """Is told how a training goes; this one does nothing with it. Override what is of interest."""

    def preparing(self):
        """TensorFlow and the images are being loaded."""

    def hashing(self, done, total):
        """`done` of `total` pictures are hashed, which tells these images from others. Not called
        where that takes no time."""

    def images(self, name, census):
        """What the source called `name` holds: `kclr.data.census.Census`, None where it is not of
        files. Called before the first layer that is trained on it."""

    def layer(self, index, layer, sizes):
        """Layer `index` (from 0) of the spec begins."""

    def kept(self, index, layer):
        """Layer `index` was finished before and stays as it is."""

    def started(self, total, done, patches):
        """The training begins: `total` steps of `patches` patches, of which `done` are done."""

    def probes(self, blocks, start) -> list:
        """Callbacks to train with: `kclr.callbacks.Probe`s, or others that say, as these do, how
        many `seconds` they took. `blocks` are those that are trained, from the image upwards, and
        `start` the steps that are done."""
        return []

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


def skipped_words(pictures) -> str:
    """That pictures were skipped, given their names and reasons, in a warning's words."""
    shown = "; ".join(f"{name}: {reason}" for name, reason in pictures[:5])
    more = f"; and {len(pictures) - 5} more" if len(pictures) > 5 else ""
    what = "pictures were" if len(pictures) > 1 else "picture was"
    return f"{len(pictures)} unusable {what} skipped ({shown}{more})"
