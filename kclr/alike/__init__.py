"""What makes windows alike: one file for each notion of neighbour, as `patches.alike` names it."""

from collections.abc import Iterator
from typing import ClassVar

from kclr.spec.registry import Part
from kclr.spec.values import Pair, Size, pair


class Notion(Part):
    """What makes windows alike: which windows of which images are the views of one row of a batch.

    A notion that cuts its windows from one crop has `views`, `crop` and `places` to write. All
    sizes are in cells of the layer's input, for which `in_pixels` gives those in the image.
    """

    own_windows: ClassVar[bool] = True
    """Whether it says where the windows are; otherwise `stride` or `max_shift` of the spec do."""

    smaller: ClassVar[str] = "a smaller patch_size"
    """What to try for images that are smaller than its crops."""

    draws: ClassVar[int] = 0
    """Random numbers that `places` needs for each row."""

    def fitted(self, patch: Size) -> "Notion":
        """The same with the defaults that depend on the patch."""
        return self

    def in_pixels(self, jump: Pair) -> "Notion":
        """The same for windows of the image, whose cells are `jump` px apart."""
        return self

    def problems(self, patch: Size) -> Iterator[tuple[str, str]]:
        """The options that do not go with a patch, each with the words for it and the cure."""
        return iter(())

    def views(self, patch: Size) -> int:
        """Windows in a row of a batch."""
        return 2

    def crop(self, patch: Size) -> Pair:
        """Height and width of the crop that the windows of an image are cut from."""
        return pair(patch)

    def places(self, random, patch: Size):
        """Where the windows of each row are.

        Args:
            random: float32 (`draws`, rows), uniform in [0, 1).
            patch: height and width of a window.

        Returns:
            int32 (views, rows, 2), y and x of each window's corner in its crop.
        """
        import tensorflow as tf

        return tf.zeros((self.views(patch), tf.shape(random)[1], 2), tf.int32)
