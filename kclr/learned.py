"""What a learner returns, and what a layer is to the layers above it."""

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
        answers: float (windows, filters), responses of the filters to some windows of the data,
            after the activation; None if the learner does not compute them.
            `kclr.health.check_learned` checks them.
        input_deviation: float, standard deviation of the filters' input; None for filters of fixed
            length.
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


def skipped_words(pictures) -> str:
    """That pictures were skipped, given their names and reasons, in a warning's words."""
    shown = "; ".join(f"{name}: {reason}" for name, reason in pictures[:5])
    more = f"; and {len(pictures) - 5} more" if len(pictures) > 5 else ""
    what = "pictures were" if len(pictures) > 1 else "picture was"
    return f"{len(pictures)} unusable {what} skipped ({shown}{more})"
