"""Copies: the same window, transformed several times (Dosovitskiy et al. 2014).

"Discriminative unsupervised feature learning with convolutional neural networks", section 2: seed
windows, drawn where gradients are large, each transformed many times. The transformations are
those of `patches.augment`.
"""

from typing import Annotated

from pydantic import Field

from kclr.alike import Notion
from kclr.spec.registry import register
from kclr.spec.values import Size


@register("alike", "copies")
class Copies(Notion):
    """The same window several times, each time with other random transformations of
    `patches.augment`."""

    copies: Annotated[int, Field(ge=2, le=64)] = 2
    """How often a batch has each window."""
    seeds: Annotated[int, Field(ge=2, le=1 << 24)] | None = None
    """Cut only this many windows, drawn once, spread over the images. Each one stands for itself:
    another seed window of the same image is a negative. By default windows are drawn anew in every
    batch."""
    gradients: bool = False
    """Whether seed windows are drawn in proportion to their mean squared gradient, so that few of
    them are blank."""

    def problem(self, patches) -> str | None:
        if not patches.augment:
            return "copies of a window are equal without transformations. Add patches.augment."
        if self.gradients and self.seeds is None:
            return "gradients are for seed windows. Add patches.alike.seeds, or remove it."
        return None

    @property
    def fixes_rows(self) -> bool:
        return self.seeds is not None

    def views(self, patch: Size) -> int:
        return self.copies

    def rows(self, buffer, patch, images, seed):
        import numpy as np

        from kclr.data.relations import Rows

        count = self.seeds or 0
        found, corners = seed_windows(buffer, patch, count, self.gradients, seed, images.nodata)
        return Rows(images=found, numbers=np.arange(count, dtype=np.int32), corners=corners)


def seed_windows(buffer, size, count, gradients, seed, nodata=None):
    """Draw windows that stay the same.

    Args:
        buffer: `kclr.data.pool.PixelBuffer`, of images that have room for a window.
        size: (height, width), px.
        count: of windows; each image gets as many as the others, or one more.
        gradients: bool, whether a window's probability within its image is in proportion to its
            mean squared gradient, or the same for all.
        seed: int.
        nodata: number that stands for missing pixels, or None. Windows have none of these.

    Returns:
        int32 (count,), images; int64 (count,), the window's first pixel, counted from the image's.
    """
    import numpy as np

    from kclr.data.pool import where_allowed

    random = np.random.default_rng([seed % (1 << 63), count])
    turns = [random.permutation(len(buffer)) for _ in range(-(-count // len(buffer)))]
    images = np.sort(np.concatenate(turns)[:count])
    corners = np.empty(count, np.int64)
    for image in np.unique(images):
        pixels, own = buffer.image(image), images == image
        allowed = where_allowed(pixels, size, nodata)
        shares = gradient_energy(pixels, size) if gradients else None
        if shares is None:
            shares = np.ones([n - own + 1 for n, own in zip(pixels.shape, size, strict=False)])
        shares = shares if allowed is None else np.where(allowed, shares, 0)
        if not shares.sum() > 0:  # a blank image
            shares = np.ones_like(shares) if allowed is None else allowed.astype(float)
        drawn = random.choice(shares.size, own.sum(), p=shares.ravel() / shares.sum())
        top, left = np.divmod(drawn, shares.shape[1])
        corners[own] = top * int(buffer.widths[image]) + left
    return images.astype(np.int32), corners


def gradient_energy(image, size):
    """The squared gradient in every window of an image: its differences of neighbouring pixels,
    down and to the right, over all channels; what is missing counts as flat.

    Args:
        image: (height, width, channels). size: (height, width) of a window.

    Returns:
        float64 (rows, columns), the sum in the window at each place.
    """
    import numpy as np

    values = image.astype(np.float64)
    squares = np.zeros(values.shape[:2])
    with np.errstate(invalid="ignore"):
        down, right = np.diff(values, axis=0), np.diff(values, axis=1)
    squares[:-1] += np.nan_to_num(down**2, posinf=0.0, neginf=0.0).sum(axis=-1)
    squares[:, :-1] += np.nan_to_num(right**2, posinf=0.0, neginf=0.0).sum(axis=-1)
    height, width = size
    table = np.pad(squares.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    inside = table[height:] - table[:-height]
    return np.maximum(inside[:, width:] - inside[:, :-width], 0)
