"""What a learner returns, and checks of it, of images and of a layer's input.

A healthy layer is finite, responds to its input, and its responses are not far too large. numpy
only.
"""

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from kclr.errors import CollapseError, RunError
from kclr.spec.wording import any_of

if TYPE_CHECKING:
    import numpy as np

LOUD = 1e4  # what a filter's answers may vary by, against an input that varies by 1
STILL = 1e-6  # of the largest number, a variation that is rounding
_MOST_COMPARED = 10_000
SMALLER_STEPS = [
    "a smaller learning_rate",
    "precision: float32",
    "clipnorm in the optimizer's config",
]

_ANEW = (
    "Train that layer again: remove its directory, correct its part of the spec if necessary, and "
    "continue with resume=True (--resume)."
)


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
            `check_learned` checks them.
        input_deviation: float, standard deviation of the filters' input; None for filters of fixed
            length.
    """

    kernel: "np.ndarray"
    bias: "np.ndarray"
    facts: dict[str, Any]
    answers: "np.ndarray | None" = None
    input_deviation: float | None = None


def varies(numbers) -> bool:
    """Whether anything differs between rows: float (rows, ...), all finite."""
    import numpy as np

    rows = np.asarray(numbers).reshape(len(numbers), -1)
    apart = rows.max(axis=0) - rows.min(axis=0)
    return bool(apart.max() > STILL * max(abs(rows.max()), abs(rows.min())))


def check_images(images, contrastive, warn) -> None:
    """Refuse images that are all the same, where negatives must come from another.

    Args:
        images: `kclr.data.sources.Images`; it is read up to the first picture that differs.
        contrastive: bool, whether the learner needs negatives; for others it is only a warning.
        warn: function of a message.

    Raises:
        RunError: they are.
    """
    first, count = None, 0
    for image in islice(images.read(), _MOST_COMPARED):
        count += 1
        if first is None:
            first = image
        elif image.shape != first.shape or (image != first).any():
            return
    if first is None or count < 2:
        return  # who trains says how many are needed
    if first.min() == first.max():
        raise RunError(
            f"{images.name}: all {count:,} images that were checked are blank: every pixel is "
            f"{first.min()}. Nothing can be learned from them; use other images."
        )
    words = f"{images.name}: all {count:,} images that were checked are the same."
    if contrastive:
        raise RunError(
            f"{words} Negatives come from another image; use different images, or cut a large one "
            f"into tiles: data: {{source: {images.name}, tile: 64}}"
        )
    warn(f"{words} The filters are learned from this one image.")


def check_input(windows, source, below=()) -> None:
    """Refuse a layer's input that nothing can be learned from.

    Args:
        windows: float (windows, ...), of the input.
        source: what the images are called.
        below: the layers below (see `kclr.layers.stacked`).

    Raises:
        RunError: it is not finite, or the same everywhere.
    """
    import numpy as np

    for layer in below:
        # A max-pool may turn what is not a number into one, so maps alone do not tell.
        if not (np.isfinite(layer.kernel).all() and np.isfinite(layer.bias).all()):
            raise RunError(
                f"the kernel or bias of layer {layer.name} has values that are not finite. {_ANEW}"
            )
    finite = np.isfinite([np.min(windows), np.max(windows)]).all()
    # Nearly all inputs are settled by a few windows.
    if finite and (varies(windows[:1000]) or varies(windows)):
        return
    if not below:
        raise RunError(
            f"{source}: the images are blank: all windows that were checked are the same. Nothing "
            "can be learned from them; use other images."
        )
    words = f"are the same everywhere: none of its filters responds to {source}"
    words = words if finite else "have values that are not finite"
    raise RunError(f"the maps of layer {below[-1].name} {words}. {_ANEW}")


def check_learned(learned: Learned, layer, warn) -> None:
    """Refuse a useless layer, for any learner.

    Args:
        learned: what was found.
        layer: of the spec. With its `train.on_collapse: warn` filters that are finite pass.
        warn: function of a message.

    Raises:
        CollapseError: it is not finite, does not respond to its input, or its responses are far too
            large.
    """
    contrastive = layer.learner.contrastive
    found = fault(learned)
    if found is None:
        return
    what, words = found
    threshold = getattr(layer.learner, "threshold", 0)
    if what == "dead" and contrastive:
        cures = ["a smaller learning_rate", "train.reseed: true", "whitening: zca"]
    elif what == "dead":
        cures = ["a smaller threshold" if threshold else "other images"]
    else:
        cures = SMALLER_STEPS if contrastive else ["a larger whitening_epsilon"]
    message = f"layer {layer.name} is useless: {words}. Try {any_of(cures)}."
    if contrastive and what != "not finite" and layer.train.on_collapse == "warn":
        warn(message)
        return
    raise CollapseError(message)


def fault(learned: Learned) -> tuple[str, str] | None:
    """What is wrong with a finished layer: "not finite", "dead" or "loud", and words for it."""
    import numpy as np

    kernel, bias = (np.asarray(array, np.float64) for array in (learned.kernel, learned.bias))
    answers = kernel[:0] if learned.answers is None else np.asarray(learned.answers, np.float64)
    for place, array in (("kernel has", kernel), ("bias has", bias), ("answers have", answers)):
        if not np.isfinite(array).all():
            return "not finite", f"its {place} values that are not finite"
    if not kernel.any():
        return "dead", "all of its filters are zero"
    if learned.answers is None:
        return None
    if not varies(answers):
        return "dead", f"none of its {kernel.shape[-1]} filters responds to the images"
    loudest = answers.std(axis=0).max()
    if learned.input_deviation is not None and loudest > LOUD * max(1, learned.input_deviation):
        return "loud", (
            f"its filters' responses vary by {loudest:.3g} for an input that varies by "
            f"{learned.input_deviation:.3g}: the training diverged"
        )
    return None
