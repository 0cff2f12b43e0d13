"""Moments: the same thing at two times of a sequence (Wang and Gupta 2015).

"Unsupervised learning of visual representations using videos", section 3: a window is followed
through the frames of a video; its first and its last place are alike. Theirs is a tracker; here the
window that differs least is looked for in each next frame (block matching). As in section 3.1,
windows that move as the whole picture does, or not at all, are passed over.
"""

import itertools
import os
import re
from typing import Annotated

from pydantic import Field

from kclr.alike import Notion
from kclr.alike.copies import gradient_energy
from kclr.errors import RunError
from kclr.spec.registry import register
from kclr.spec.values import Pair

_GRID = 5  # windows on each axis that tell how the whole picture moves
_TRIED = 4  # windows that are followed for each one that is wanted


@register("alike", "moments")
class Moments(Notion):
    """A window of a frame, and where what it shows has moved to some frames later.

    Pictures in one folder are the frames of one sequence, in the order of their names (`folder:`);
    so are the images of an array, or as many in a row as `length` says. Windows are followed
    once, before the training. Of one long series use `gap`: the same place at two times is a
    window and one after it.
    """

    gap: Annotated[int, Field(ge=1, le=10_000)] = 4
    """Frames from the first window to the second one."""
    length: Annotated[int, Field(ge=2)] | None = None
    """Frames of each sequence, where pictures are not in folders of their own."""
    windows: Annotated[int, Field(ge=2, le=1 << 22)] = 10_000
    """How many windows are looked for, each with the place that it moves to."""
    search: Annotated[int, Field(ge=1, le=64)] = 4
    """Farthest that a window moves from one frame to the next on each axis, px."""
    motion: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Windows that move less than this otherwise than the whole picture does (the median motion of
    windows all over it), px, are passed over: they are still, or only the camera moves. 0 keeps all
    of them."""

    @property
    def fixes_rows(self) -> bool:
        return True

    def rows(self, buffer, patch, images, seed):
        import numpy as np

        from kclr.data.pool import where_allowed
        from kclr.data.relations import Rows

        found = [frames for frames in sequences(buffer, self.length) if len(frames) > self.gap]
        if not found:
            raise RunError(
                f"{images.name}: alike: moments needs sequences of more than {self.gap} frames of "
                "one size. Use a smaller patches.alike.gap, or put the frames of each sequence "
                "into a folder of its own."
            )
        random = np.random.default_rng([seed % (1 << 63), self.windows])
        starts = [
            (number, frames[first : first + self.gap + 1])
            for number, frames in enumerate(found)
            for first in range(len(frames) - self.gap)
        ]
        random.shuffle(starts)
        each = max(8, -(-_TRIED * self.windows // len(starts)))
        kept, count = [], 0
        for number, frames in starts:
            pictures = [buffer.image(frame) for frame in frames]
            begins = drawn_windows(pictures[0], patch, each, images.nodata, random)
            everywhere = grid_of_windows(pictures[0].shape[:2], patch)
            together = np.concatenate([everywhere, begins])
            ends = followed(pictures, together, patch, self.search)
            moved, ends = ends - together, ends[len(everywhere) :]
            camera = np.median(moved[: len(everywhere)], axis=0)
            apart = np.abs(moved[len(everywhere) :] - camera).max(axis=1, initial=0)
            keep = apart >= self.motion
            allowed = where_allowed(pictures[-1], patch, images.nodata)
            if allowed is not None:
                keep &= allowed[ends[:, 0], ends[:, 1]]
            kept += [
                (number, frames[0], *begin, frames[-1], *end)
                for begin, end in zip(begins[keep], ends[keep], strict=True)
            ]
            count = len(kept)
            if count >= self.windows:
                break
        if count < 2:
            raise RunError(
                f"{images.name}: no window moves {self.motion:g} px otherwise than the whole "
                "picture does. Use a larger patches.alike.gap or search, or motion: 0, which keeps "
                "windows that are still or move with the camera."
            )
        number, first, top, left, last, bottom, right = np.array(kept[: self.windows]).T
        widths = buffer.widths.astype(np.int64)
        several = len({*number.tolist()}) > 1
        return Rows(
            images=first.astype(np.int32),
            # Of a single sequence each window counts by itself, or there would be no negatives.
            numbers=(number if several else np.arange(len(number))).astype(np.int32),
            corners=top * widths[first] + left,
            others=last.astype(np.int32),
            other_corners=bottom * widths[last] + right,
        )


def sequences(buffer, length=None) -> list[list[int]]:
    """The images of each sequence, in the order of their names.

    Args:
        buffer: `kclr.data.pool.PixelBuffer`. length: frames of a sequence; by default those of one
            folder, or all.
    """
    # Sources have orders of their own, but names of frames count.
    order = sorted(range(len(buffer)), key=lambda index: _natural(buffer.names[index]))
    found: dict[object, list[int]] = {}
    for place, index in enumerate(order):
        key = os.path.dirname(buffer.names[index]) if length is None else place // length
        size = (int(buffer.heights[index]), int(buffer.widths[index]))
        found.setdefault((key, size), []).append(index)
    return list(found.values())


def _natural(name):
    """Texts and numbers of a name: `2.png` comes before `10.png`."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def grid_of_windows(image_size: Pair, size: Pair):
    """Corners of windows all over an image: int64 (windows, 2), y and x."""
    import numpy as np

    ends = (np.linspace(0, all_ - own, _GRID) for all_, own in zip(image_size, size, strict=True))
    rows, columns = (np.unique(np.rint(end).astype(np.int64)) for end in ends)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


def drawn_windows(image, size: Pair, count, nodata, random):
    """Corners of windows, drawn in proportion to their squared gradient: what is blank cannot be
    followed.

    Returns:
        int64 (windows, 2), y and x.
    """
    import numpy as np

    from kclr.data.pool import where_allowed

    shares, allowed = gradient_energy(image, size), where_allowed(image, size, nodata)
    shares = shares if allowed is None else np.where(allowed, shares, 0)
    if not shares.sum() > 0:
        return np.zeros((0, 2), np.int64)
    drawn = random.choice(shares.size, count, p=shares.ravel() / shares.sum())
    return np.stack(np.divmod(drawn, shares.shape[1]), axis=1)


def followed(frames, begins, size: Pair, search):
    """Where windows move to, frame after frame: each time to the place with the smallest sum of
    squared differences, the nearest one of several.

    Args:
        frames: list of (height, width, channels), of one size. begins: int (windows, 2), y and x.
        size: (height, width) of a window. search: px, on each axis and from frame to frame.

    Returns:
        int64 (windows, 2).
    """
    import numpy as np

    height, width = size
    span = np.arange(-search, search + 1)
    shifts = np.stack(np.meshgrid(span, span, indexing="ij"), axis=-1).reshape(-1, 2)
    shifts = shifts[np.argsort((shifts**2).sum(axis=1), kind="stable")]
    at = np.asarray(begins, np.int64).reshape(-1, 2)
    most = np.array(frames[0].shape[:2]) - [height, width]
    y, x = np.arange(height)[:, None], np.arange(width)
    for before, after in itertools.pairwise(frames):
        before, after = before.astype(np.float32), after.astype(np.float32)
        own = before[at[:, 0, None, None] + y, at[:, 1, None, None] + x]
        least = np.full(len(at), np.inf)
        best = at.copy()
        for shift in shifts:
            place = at + shift
            inside = ((place >= 0) & (place <= most)).all(axis=1)
            place = place.clip(0, most)
            other = after[place[:, 0, None, None] + y, place[:, 1, None, None] + x]
            error = np.where(inside, ((own - other) ** 2).sum(axis=(1, 2, 3)), np.inf)
            better = error < least  # false for missing pixels, too
            least, best = np.where(better, error, least), np.where(better[:, None], place, best)
        at = best
    return at
