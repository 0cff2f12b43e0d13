"""PatchTripletGenerator: a tf.data pipeline from images to batches of overlapping patches."""

import numbers
import warnings
from functools import cached_property, partial, wraps
from typing import Any

from kclr.data import pool, sampling
from kclr.data.cutting import CROPS, Cutter, Drawn, windows_of_grid
from kclr.data.relations import as_notion, paired
from kclr.data.sources import Images, as_images
from kclr.errors import RunError
from kclr.spec.geometry import places
from kclr.spec.values import Pair, axes, by, each_axis, pair, short, whole, with_next
from kclr.spec.wording import shown

# Crops that say what a layer's input is like, for its whitening and for its picture.
MANY = 20_000
_KEPT = 8  # data sets, for to trace what cuts their windows takes a part of a second


def _sizes_may_come_first(function):
    """The same function, in which a patch's size may stand where positives do otherwise."""

    @wraps(function)
    def called(self, images, *given, **options):
        sizes = given[0] if given and isinstance(given[0], (list, tuple)) else given[:1]
        if sizes and all(isinstance(side, numbers.Integral) for side in sizes):
            given = (None, *given)
        return function(self, images, *given, **options)

    return called


class PatchTripletGenerator:
    """A fast and repeatable `tf.data` pipeline of patch triplets, or whole crops, of images.

    From a random crop of an image, two overlapping windows are anchor and positive; the negative
    is a window of another image's crop. Windows lie on a grid over the crop (`stride`; Zhao 2020
    cuts patches of 7 px, one px apart, from crops of 8), or at two random places (`max_shift`).

    A batch depends only on the seed and its step: a pipeline that starts at step n gives the same
    batches, bit for bit, as one that started at 0. All images of a batch are different if there are
    at least `batch_size` images.

    Args:
        images: anything that `kclr.data.sources.as_images` takes: `"tfds:cifar100"`, a path,
            `"photos"`, arrays of (count, height, width, channels), a list of arrays, a
            `tf.data.Dataset`, ...; with options as `as_images(images, limit=1000)`.
        positives: instead of `alike`: an array, or a list of arrays, as long as `images`, which is
            one too. The image at the same place in both is alike: anchors are windows of `images`,
            positives windows of these. If a size stands here, it is `patch_size`.
        patch_size: height and width of a patch, px: int, or two. One of them may be 1.
        crop_size: height and width of a crop, px. `patch_size + stride`, or `patch_size +
            max_shift`, by default; if a side of the patch is 1 px, so is the crop's.
        stride: distance of neighbouring patches on the grid, px: int, or two, of rows and columns.
        max_shift: instead of a grid: the largest distance of anchor and positive on each axis, px;
            they are never at the same place. Of two numbers, one may be 0.
        batch_size: crops in a batch, 2 or more.
        seed: int.
        memory: megabytes of pixels to keep; the source's own limit by default.
        crops_per_image: crops of each image in an epoch.
        alike: what makes windows alike, as `patches.alike` of a spec: a name, or a dict with `name`
            and options; sizes in px. All notions but `near` take no `crop_size`, `stride` or
            `max_shift`.
        place: with `positives`: "any", or "same" for images that lie on top of each other, so that
            both windows are cut at the same place.
        turns: bool, whether each crop is turned by 0 to 3 quarter turns at random, which the
            batches say: their image numbers become int32 (batch, 3), image, class and turns.
        labelled: float in (0, 1], share of each batch that is drawn from the images with a label
            alone; by default images come as they are.
        tell: function of two ints, which receives progress (picture, total) while pictures are
            decoded, if they do not fit in `memory` and are large.

    Attributes:
        image_count: images that crops are taken from; estimated if the source is larger than
            `memory` and cut into tiles. Or the rows that a notion fixes, such as seed windows.
        rows: `kclr.data.relations.Rows`, where the notion fixes them, or None.
        channels: of the images.
        dtype: of the images' numbers: "uint8", "uint16", "int16", "float16" or "float32".
        scaling: how these become a network's input: `scaling(crops)` (see
            `kclr.scaling.Scaling`).
        labels: `kclr.data.images.PictureLabels` that a training may use, where the images have some
            (option `labels` of their source; of arrays `as_images(images, y=labels)`); else None.
        steps_per_epoch: batches in an epoch.
        skipped: names and reasons of the pictures that could not be used so far.

    Raises:
        ValueError: an argument is out of range, or the images cannot be used; the message ends
            with the cure.

    Example:
        patches = PatchTripletGenerator("tfds:cifar100", 7, crop_size=8)
        model.fit(patches.triplets(), steps_per_epoch=patches.steps_per_epoch)

        pairs = PatchTripletGenerator(anchors, positives, patch_size=7)
    """

    @_sizes_may_come_first
    def __init__(
        self,
        images,
        positives=None,
        patch_size=None,
        crop_size=None,
        stride=1,
        max_shift=None,
        batch_size=512,
        seed=0,
        memory=None,
        crops_per_image=1,
        tell=None,
        alike="near",
        place="any",
        turns=False,
        labelled=None,
    ):
        if patch_size is None:
            raise ValueError("patch_size is missing. Add it, as in patch_size=7.")
        if positives is not None:
            if alike != "near":
                raise ValueError("alike cannot be combined with positives. Remove it.")
            images, alike = paired(images, positives, place)
        self.patch_size = pair(patch_size, "patch_size", 1)
        self.max_shift = None if max_shift is None else pair(max_shift, "max_shift", 0)
        self.stride = None if max_shift is not None else pair(stride, "stride", 1)
        self.alike = self._notion(alike, crop_size)
        self.crop_size = self._crop_size(crop_size)
        self.turns = bool(turns)
        for what, (height, width) in (("patches", self.patch_size), ("crops", self.crop_size)):
            if self.turns and height != width:
                size = by((height, width))
                raise ValueError(f"turns of {what} of {size} px: only square ones can be turned.")
        self.batch_size = whole(batch_size, "batch_size", 2)
        self.crops_per_image = whole(crops_per_image, "crops_per_image", 1)
        self.seed = whole(seed, "seed", None) % (1 << 63)
        memory = None if memory is None else whole(memory, "memory", 1)
        self.images = as_images(images)
        tile = pair(self.images.tile or self.crop_size)
        if tile[0] < self.crop_size[0] or tile[1] < self.crop_size[1]:
            larger = [2 * side for side in self.crop_size]
            raise ValueError(
                f"the images are cut into tiles of {by(short(*tile))} px, smaller than the crop of "
                f"{by(short(*self.crop_size))} px. Use larger tiles: "
                f"{self.images.cure('tile', shown(short(*larger)))}"
            )
        self.channels, self.dtype = self.images.channels, self.images.dtype
        self.labels = self.images.labels
        self._chunks, self._corners = None, None
        self._datasets: dict[tuple, Any] = {}
        self._buffer = self._load(memory)
        self.rows = self._fixed_rows(memory)
        if not isinstance(images, Images):  # whoever opened them has had a look
            for words in self.images.warnings:
                warnings.warn(words, stacklevel=2)
        if self._buffer is None:
            self._chunks = pool.Chunks(self.images, self.crop_size, memory, self.seed, tell)
            self.image_count = self._chunks.count * self._chunks.images_per_picture
        if self.rows is not None:
            self.image_count = len(self.rows)
        self._drawn = round(self.batch_size * labelled) if labelled else 0
        if self._drawn and not self.labels:
            raise ValueError("labelled needs images with labels: as_images(images, y=labels).")
        self.steps_per_epoch = max(1, self.image_count * self.crops_per_image // self.batch_size)

    def _notion(self, given, crop_size) -> Any:
        """What makes windows alike.

        Raises:
            SpecError: there is no such notion, or its options are wrong.
            ValueError: they do not go with the patch, or with other arguments.
        """
        notion = as_notion(given).fitted(short(*self.patch_size))
        if not notion.own_windows:
            return notion
        if crop_size is not None or self.max_shift or self.stride != (1, 1):
            raise ValueError(
                "crop_size, stride and max_shift are for alike='near'; "
                f"{notion.part_name} places its windows itself. Remove them."
            )
        for key, words in notion.problems(short(*self.patch_size)):
            raise ValueError(f"{key}: {words}")
        self.stride = None
        return notion

    def _crop_size(self, given) -> Pair:
        """Height and width of a crop.

        Raises:
            ValueError: it has no room for two patches that overlap.
        """
        if self.alike.own_windows:
            return self.alike.crop(short(*self.patch_size))
        name = "stride" if self.stride else "max_shift"
        patch, reach = self.patch_size, self.stride or self.max_shift or (0, 0)
        if not max(reach):
            raise ValueError(f"{name} 0 leaves both patches in one place. Use 1 or more.")
        least = each_axis(lambda own, step: own + step, patch, reach)
        if self.stride and max(patch) > 1:
            least = with_next(patch, reach)
        crop = least if given is None else pair(given, "crop_size", 1)
        # A grid may be a single row, or column.
        line = bool(self.stride) and max(places(patch, reach, crop)) > 1
        for where, own, step, side, needed in axes(
            *(short(*s) for s in (patch, reach, crop, least))
        ):
            if step >= own and (side >= own + step or (own > 1 and not line)):
                raise ValueError(
                    f"{where}{name} {step} allows patches of {own} px that do not overlap. Use "
                    f"less than {own}, or larger patches."
                )
            if side < (own if line else needed):
                raise ValueError(
                    f"{where}crop_size {side} has no room for two patches of {own} px, {step} px "
                    f"apart. Use at least {needed}."
                )
        return crop

    def _load(self, memory):
        """All images that are large enough, or None if they do not fit in memory."""

        buffer = pool.load(self.images, memory)
        if buffer is None:
            return None
        height, width = self.crop_size
        large = (buffer.heights >= height) & (buffer.widths >= width)
        small = buffer.select(~large).names
        words = f"smaller than the crop of {by(short(height, width))} px"
        self.images.skip(dict.fromkeys(small, words))
        self.image_count = int(large.sum())
        buffer = buffer.select(large)
        if self.images.may_be_invalid:
            self._corners = pool.corners(buffer, self.crop_size, self.images.nodata)
            usable = self._corners.counts != 0
            if not usable.all():
                words = pool.no_crop(self.crop_size, self.images.series)
                self.images.skip(dict.fromkeys(buffer.select(~usable).names, words))
                buffer, self._corners = buffer.select(usable), self._corners.select(usable)
            if (self._corners.counts < 0).all():
                self._corners = None
        self.image_count = len(buffer)
        if self.image_count < 2:
            raise pool.too_few(self.images, self.image_count)
        return buffer

    def _fixed_rows(self, memory):
        """What the rows of batches are cut from, where the notion says so; None elsewhere."""
        if not self.alike.fixes_rows:
            return None
        if self._buffer is None:
            memory, name = memory or self.images.memory, self.alike.part_name
            raise RunError(
                f"{self.images.name}: alike: {name} needs all images in memory, but they take more "
                f"than {memory:,} MB. Use fewer (limit), or raise it: "
                f"{self.images.cure('memory', 4 * memory)}"
            )
        return self.alike.rows(self._buffer, self.patch_size, self.images, self.seed)

    @cached_property
    def scaling(self):
        """How the images' numbers become a network's input, measured when it is first needed."""
        return self.images.scaling()

    @property
    def skipped(self) -> list[tuple[str, str]]:
        return self.images.skipped

    @property
    def failure(self):
        """What went wrong while a chunk was read in the background, or None."""
        return self._chunks.failure if self._chunks else None

    @property
    def windows(self):
        """Positions of the grid's patches in a crop: int32 (patches, 2), y and x of the corner, px.

        Raises:
            ValueError: the positions differ in every crop, or are those of another notion.
        """
        if not self.stride:
            raise ValueError(
                "with max_shift or another notion of what is alike there is no grid of windows. "
                "Use views(), or use stride instead."
            )
        return windows_of_grid(self.patch_size, self.crop_size, self.stride)

    def crops(self, start=0, share=(0, 1)):
        """Whole crops, for a model that cuts its patches itself, from step `start` on, without end.

        Args:
            start: step to start at.
            share: (index, count), which of `count` equal parts of every batch; the parts in order
                make the batch.

        Returns:
            Dataset of (crops, images): `dtype` (batch, height, width, channels); int32 (batch,),
            the number of each crop's image. With `labels` int32 (batch, 2): behind it the class of
            the image, -1 for none.
        """
        return self._dataset(start, None, "crops", share)

    def views(self, start=0, share=(0, 1)):
        """All patches of every crop, from step `start` on, without end.

        Args:
            start, share: as for `crops`.

        Returns:
            Dataset of (patches, images): `dtype` (batch, patches, height, width, channels), those
            of the grid in the order of `windows`, or anchor and positive with `max_shift`, or those
            of `alike`; int32 (batch,), the number of each crop's image.
        """
        return self._dataset(start, None, "views", share)

    def triplets(self, start=0, epochs=None):
        """Anchors, positives and negatives, from step `start` on.

        Args:
            start: step to start at, counted over all epochs.
            epochs: number of epochs, counted from step 0; without end by default.

        Returns:
            Dataset of (anchor, positive, negative), each float32 (batch, height, width, channels)
            and scaled (see `scaling`); 8-bit pictures to [0, 1].
        """
        if epochs is not None:
            epochs = whole(epochs, "epochs", 1)
        return self._dataset(start, epochs, "triplets")

    def __iter__(self):
        return iter(self.triplets())

    def _dataset(self, start, epochs, cut, share=(0, 1)):
        import tensorflow as tf

        start = whole(start, "start", 0)
        asked = start, epochs, cut, tuple(share)
        if not tf.executing_eagerly():
            return self._traced(*asked)
        if asked not in self._datasets:
            self._datasets[asked] = self._traced(*asked)
            for earlier in [*self._datasets][:-_KEPT]:
                del self._datasets[earlier]
        return self._datasets[asked]

    def _traced(self, start, epochs, cut, share):
        import tensorflow as tf

        part = self._part(*share)
        with tf.device("CPU:0"):
            if self._chunks is None:
                steps = tf.data.Dataset.counter(tf.constant(start, tf.int64))
                zero = tf.constant(0, tf.int64)
                labels = self.labels and tf.constant(self.labels.of(self._buffer, self.rows))
                dataset = self._steps(steps, zero, zero, cut, part, self._tensors, labels)
            else:
                dataset = self._chunked(self._chunks, start, cut, part)
            if epochs is not None:
                dataset = dataset.take(max(0, epochs * self.steps_per_epoch - start))
            options = tf.data.Options()
            options.deterministic = True
            # A step is too little work for more threads, and the training needs the others.
            options.threading.max_intra_op_parallelism = 1
            options.threading.private_threadpool_size = 2
            return dataset.prefetch(4).with_options(options)

    def _part(self, index, count):
        """The places in a batch of part `index` of `count`."""
        size, rest = divmod(self.batch_size, count)
        if rest:
            raise ValueError(
                f"a batch of {self.batch_size} cannot be divided by {count}. Use a batch_size "
                f"that is a multiple of {count}."
            )
        return slice(index * size, (index + 1) * size)

    @cached_property
    def _cutter(self):
        sizes = self.patch_size, self.crop_size, self.stride, self.max_shift
        return Cutter(*sizes, self.alike, self.rows, self.batch_size, self.seed)

    @cached_property
    def _tensors(self):
        import tensorflow as tf

        buffer = self._buffer
        # Without a copy: tf.constant makes two.
        pixels = tf.experimental.dlpack.from_dlpack(buffer.pixels.__dlpack__())
        sizes = buffer.heights, buffer.widths, buffer.offsets
        found = self._corners
        more = (found.places, found.firsts, found.counts) if found else ()
        return pixels, *map(tf.constant, (*sizes, *more))

    def _chunked(self, chunks, start, cut, part):
        import numpy as np
        import tensorflow as tf

        crops = chunks.pictures * chunks.images_per_picture * chunks.crops
        length = max(1, crops // self.batch_size)

        types = [np.dtype(self.dtype), np.int32, np.int32, np.int64]
        types += [np.int32, np.int64, np.int32] if self.images.may_be_invalid else []
        types += [np.int32] if self.labels else []

        def read(index):
            buffer = chunks.get(int(index))
            parts: tuple[Any, ...] = buffer.pixels, buffer.heights, buffer.widths, buffer.offsets
            if self.images.may_be_invalid:
                found = pool.corners(buffer, self.crop_size, self.images.nodata)
                parts = *parts, found.places, found.firsts, found.counts
            return (*parts, self.labels.numbers[buffer.numbers]) if self.labels else parts

        def steps(index):
            tensors = list(tf.numpy_function(read, [index], types))
            tensors[0].set_shape((None, self.channels))
            for sizes in tensors[1:]:
                sizes.set_shape((None,))
            labels = tensors.pop() if self.labels else None
            within = tf.data.Dataset.range(tf.maximum(start - index * length, 0), length)
            return self._steps(within, index, index * length, cut, part, tensors, labels)

        first = tf.constant(start // length, tf.int64)
        return tf.data.Dataset.counter(first).flat_map(steps)

    def _steps(self, steps, chunk, before, cut, part, tensors, labels=None):
        """A batch's `part` for each of `steps`, counted from 0 in each chunk, `before` steps on.

        What is random is drawn for the whole batch, and is the same however it is shared.
        """
        import tensorflow as tf

        pixels, heights, widths, offsets, *allowed = tensors
        # Narrow indices are faster; the wide ones reach beyond 2^31 pixels.
        narrow = pixels.shape[0] is not None and pixels.shape[0] < 1 << 31
        index_type = tf.int32 if narrow else tf.int64

        def found(images, random):
            """Where crops of some images begin in `pixels`, and the widths of the images.

            Args:
                images: int (batch,). random: float32 (2, batch), uniform in [0, 1).
            """
            width = tf.gather(widths, images)
            room = tf.stack([tf.gather(heights, images), width])
            room -= tf.constant([[side - 1] for side in self.crop_size])
            top, left = tf.unstack(tf.cast(sampling.below(random, room), index_type))
            width = tf.cast(width, index_type)
            inside = top * width + left
            if allowed:
                places, firsts, counts = allowed
                count = tf.gather(counts, images)
                drawn = sampling.below(random[0], tf.maximum(count, 1))
                place = tf.cast(tf.gather(firsts, images), tf.int64) + tf.cast(drawn, tf.int64)
                # Where anything may be cut there is nothing to look up.
                place = tf.gather(
                    tf.concat([places, [0]], 0), tf.where(count < 0, tf.zeros_like(place), place)
                )
                inside = tf.where(count < 0, inside, tf.cast(place, index_type))
            return tf.cast(tf.gather(offsets, images), index_type) + inside, width

        def of_rows(rows, random):
            """The same for rows that the notion fixes."""
            images = self.rows.of("images", rows)
            if self.rows.corners is None:
                return found(images, random)
            return at_corners(images, self.rows.of("corners", rows))

        def at_corners(images, inside):
            """The same for windows that stay where they are."""
            begin = tf.cast(tf.gather(offsets, images), index_type)
            width = tf.cast(tf.gather(widths, images), index_type)
            return begin + tf.cast(inside, index_type), width

        def second(rows, random, first):
            """The same for the second windows of rows of which the notion says where they are, or
            in which image; None where they are in that of the first one."""
            if self.rows is None:
                return None
            if self.rows.others is not None:
                inside = self.rows.of("other_corners", rows)
                return at_corners(self.rows.of("others", rows), inside)
            if self.rows.alike is None:
                return None
            other = self.rows.alike_to(rows, random[0])
            return found(other, first if self.alike.same_place else random[1:])

        # Nothing in it is for AutoGraph, which would take longer over it than tracing does.
        @tf.autograph.experimental.do_not_convert
        def batch(step):
            count = tf.size(heights, tf.int64) if self.rows is None else len(self.rows)
            rows = sampling.select_images(
                self.seed, step, chunk, self.batch_size, tf.cast(count, tf.int64)
            )
            if self._drawn:
                rows = sampling.with_labelled(rows, labels, self._drawn, self.seed, step, chunk)
            rows = rows[part]
            step += before
            random = sampling.uniform(self.seed, step, CROPS, (2, self.batch_size))[:, part]
            at = found if self.rows is None else of_rows
            numbers = rows if self.rows is None else self.rows.of("numbers", rows)
            corners, width = at(rows, random)
            second_at = partial(second, rows, first=random)
            drawn = step, part, rows, numbers, pixels, corners, width, second_at, at
            made = getattr(self._cutter, cut)(Drawn(*drawn))
            if cut == "triplets":
                return tuple(tf.split(self.scaling(made), 3))
            patches, numbers = made, tf.cast(numbers, tf.int32)
            if labels is None and not self.turns:
                return patches, numbers
            known = -tf.ones_like(numbers) if labels is None else tf.gather(labels, rows)
            if not self.turns:
                return patches, tf.stack([numbers, known], axis=1)
            turns = sampling.quarter_turns(self.seed, step, self.batch_size)[part]
            return sampling.turned(patches, turns), tf.stack([numbers, known, turns], axis=1)

        return steps.map(batch, num_parallel_calls=2, deterministic=True)
