"""What makes windows alike: one file for each notion of neighbour, as `patches.alike` names it."""

from collections.abc import Iterator
from typing import Any, ClassVar

from kclr.spec.registry import Part
from kclr.spec.values import Pair, Size, pair


class Notion(Part):
    """What makes windows alike: which windows of which images are the views of one row of a batch.

    A notion that cuts its windows from one crop has `views`, `crop` and `places` to write. All
    sizes are in cells of the layer's input, for which `in_pixels` gives those in the image.
    """

    own_windows: ClassVar[bool] = True
    """Whether it says where the windows are; otherwise `stride` or `max_shift` of the spec do."""

    takes_labels: ClassVar[bool] = False
    """Whether it needs labels of images (`data.labels`)."""

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

    def problem(self, patches) -> str | None:
        """Why a layer's patches do not go with it, with the cure, or None."""
        return None

    def made_of(self) -> dict[str, str]:
        """In place of options that name files, hashes of what these say.

        Raises:
            RunError: they cannot be read.
        """
        return {}

    def file_problems(self, source) -> Iterator[tuple[str, str]]:
        """The options that name files which cannot be used, each with the words for it.

        Args:
            source: of the images (`kclr.data.sources.Source`), or None if it cannot be used.
        """
        return iter(())

    @property
    def same_place(self) -> bool:
        """Whether the window of an image that is alike lies where that of the row's image does."""
        return False

    @property
    def fixes_rows(self) -> bool:
        """Whether `rows` says what is cut; otherwise it is a random crop of every image."""
        return False

    def rows(self, buffer, patch: Pair, images, seed: int) -> Any:
        """What the rows of batches are cut from, where `fixes_rows`.

        Args:
            buffer: `kclr.data.pool.PixelBuffer`, the images that have room for a window.
            patch: height and width of a window, px.
            images: `kclr.data.images.Images`, the opened source.
            seed: of what is drawn.

        Returns:
            `kclr.data.relations.Rows`. Where it says which images are alike, `draws` is 3: which of
            them, and the place of its window; `places` is not asked.

        Raises:
            RunError: there are no such images.
        """
        raise NotImplementedError

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


class OtherImages(Notion):
    """A notion whose second window is from another image, which `rows` says is alike."""

    draws: ClassVar[int] = 3

    @property
    def fixes_rows(self) -> bool:
        return True
