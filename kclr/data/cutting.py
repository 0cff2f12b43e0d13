"""What is cut out of the images for the rows of a batch: crops, all their patches, or triplets."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from kclr.data import sampling
from kclr.spec.values import Pair, short

# Drawn apart, so that a step's crops are the same whatever is cut out of them.
CROPS, _WINDOWS, _NEGATIVES = 0, 1, 2


class Drawn(NamedTuple):
    """What was drawn for the rows of a batch, or for a part of them.

    Attributes:
        step: int64 scalar. part: slice, of the batch.
        rows: int64 (rows,). numbers: int (rows,), what the batch says in place of images.
        pixels: (pixels, channels), of all images.
        corners, width: int (rows,), where the crops begin, and the widths of their images.
        second: function of random numbers (3, rows), to corners and widths of the second windows,
            or None where they are in the first one's crop.
        of_rows: function of rows and random numbers (2, rows), to corners and widths.
    """

    step: Any
    part: slice
    rows: Any
    numbers: Any
    pixels: Any
    corners: Any
    width: Any
    second: Any
    of_rows: Any


def windows_of_grid(patch_size, crop_size, stride):
    """Positions of a grid's patches in a crop: int32 (patches, 2), y and x of the corner, px."""
    import numpy as np

    starts = [
        np.arange(0, crop - patch + 1, step, dtype=np.int32)
        for crop, patch, step in zip(crop_size, patch_size, stride, strict=True)
    ]
    return np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 2)


@dataclass(frozen=True)
class Cutter:
    """Cuts what was drawn for a batch out of the pixels.

    Attributes:
        patch_size, crop_size, stride, max_shift: as of `PatchTripletGenerator`, (height, width); of
            the last two one is None, or both if the notion places its windows itself.
        alike: the notion (see `kclr.alike`). rows: `kclr.data.relations.Rows` that it fixes, or
            None.
        batch_size: int, rows of a whole batch. seed: int in [0, 2^63).
    """

    patch_size: Pair
    crop_size: Pair
    stride: Pair | None
    max_shift: Pair | None
    alike: Any
    rows: Any
    batch_size: int
    seed: int

    def crops(self, drawn):
        """Whole crops, (batch, height, width, channels)."""
        return sampling.gather_windows(drawn.pixels, drawn.corners, drawn.width, self.crop_size)

    def views(self, drawn):
        """All patches of every crop, (batch, patches, height, width, channels)."""
        import tensorflow as tf

        if not self.stride:
            return tf.stack(self._free(drawn), axis=1)
        rows, columns = self.patch_size
        crops = self.crops(drawn)
        windows = windows_of_grid(self.patch_size, self.crop_size, self.stride).tolist()
        return tf.stack([crops[:, y : y + rows, x : x + columns] for y, x in windows], axis=1)

    def triplets(self, drawn):
        """Anchors, positives and negatives one behind the other, (3 batch, height, width,
        channels)."""
        import tensorflow as tf

        if self.alike.own_windows:
            return self._own_triplets(drawn)
        random = sampling.uniform(self.seed, drawn.step, _WINDOWS, (5, self.batch_size))
        others = sampling.other_images(drawn.rows, random[3])
        if not self.stride:
            # The negative is the other crop's own anchor or positive.
            pairs = sampling.shifted_pairs(
                random[:3], self.patch_size, self.crop_size, self.max_shift
            )
            number = sampling.below(random[4], 2)
            negatives = tf.gather(tf.transpose(pairs, (1, 0, 2)), others)
            negatives = tf.gather(negatives, number, batch_dims=1)
            places = tf.concat([pairs, negatives[None]], axis=0)
        else:
            grid = windows_of_grid(self.patch_size, self.crop_size, self.stride)
            pairs = sampling.neighbours(grid, self.stride)
            chosen = tf.gather(tf.constant(pairs), sampling.below(random[0], len(pairs)))
            number = sampling.below(random[4], len(grid))
            places = tf.gather(grid, tf.concat([tf.transpose(chosen), number[None]], axis=0))
        corners, width = drawn.corners, drawn.width
        corners = tf.stack([corners, corners, tf.gather(corners, others)])
        widths = tf.stack([width, width, tf.gather(width, others)])
        return self._cut(drawn.pixels, corners, widths, places)

    def _own_triplets(self, drawn):
        """Triplets of a notion that places its windows itself."""
        import tensorflow as tf

        random = sampling.uniform(self.seed, drawn.step, _NEGATIVES, (4, self.batch_size))
        first, *more = self._free(drawn)
        number = sampling.below(random[0], len(more))
        positive = tf.gather(tf.stack(more, axis=1), number, batch_dims=1)
        if self.rows is None:
            negative = tf.gather(first, sampling.other_images(drawn.rows, random[1]))
        else:
            # Of all rows, for those of a batch may all be alike.
            others = self.rows.not_alike(drawn.rows, random[1])
            corners, width = drawn.of_rows(others, random[2:])
            negative = sampling.gather_windows(drawn.pixels, corners, width, self.patch_size)
        return tf.concat([first, positive, negative], axis=0)

    def _free(self, drawn):
        """The windows of a row that are on no grid, each (batch, height, width, channels)."""
        import tensorflow as tf

        size = 5 if not self.alike.own_windows else max(1, self.alike.draws)
        random = sampling.uniform(self.seed, drawn.step, _WINDOWS, (size, self.batch_size))
        random, views = random[:, drawn.part], 2
        corners, widths = [drawn.corners], [drawn.width]
        if not self.alike.own_windows:
            places = sampling.shifted_pairs(
                random[:3], self.patch_size, self.crop_size, self.max_shift
            )
        else:
            places = self.alike.places(random, short(*self.patch_size))
            views = self.alike.views(short(*self.patch_size))
        if second := drawn.second(random):
            corners, widths = [*corners, second[0]], [*widths, second[1]]
        else:
            corners, widths = corners * views, widths * views
        windows = self._cut(drawn.pixels, tf.stack(corners), tf.stack(widths), places)
        return tf.split(windows, views)

    def _cut(self, pixels, corners, widths, places):
        """The windows at `places` (kinds, batch, 2) of the crops at `corners` (kinds, batch)."""
        import tensorflow as tf

        places = tf.cast(places, corners.dtype)
        corners = corners + places[..., 0] * widths + places[..., 1]
        return sampling.gather_windows(
            pixels, tf.reshape(corners, [-1]), tf.reshape(widths, [-1]), self.patch_size
        )
