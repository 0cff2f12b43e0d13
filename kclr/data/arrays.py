"""Arrays, lists of arrays and `tf.data.Dataset`s as images, for Python callers."""

import os
from itertools import islice
from typing import Any, ClassVar

from pydantic import Field, model_validator

from kclr.data.pixels import UnreadableError, between, kept_dtype
from kclr.data.sources import Images, Source
from kclr.errors import RunError, SpecError

_HEAD = 16  # images that are looked at beforehand


class Arrays(Source):
    """Images in a Python program's memory; a spec cannot name them."""

    images: Any = Field(exclude=True)  # which no file of a run could hold
    y: Any = Field(default=None, exclude=True)
    """Labels that a training may use: a whole number or a text for each image; a number below 0, or
    an empty text, for none. `labels` says how many of them, all by default."""
    axes: ClassVar[tuple[str, ...]] = ("height", "width")
    alpha: bool = False
    """Whether the last of two or four channels is transparency; it is composited on white."""

    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return id(self)

    @model_validator(mode="before")
    @classmethod
    def _all_labels(cls, value):
        given = value.get("images") if isinstance(value, dict) else None
        labelled = isinstance(given, Images) and given.labelling
        if labelled or (isinstance(value, dict) and value.get("y") is not None):
            return {"labels": 1.0} | value
        return value

    def spec_name(self):
        return "arrays"

    def label_count(self):
        found = self.images.labels if isinstance(self.images, Images) else None
        return (found.count, len(found.numbers)) if found else super().label_count()

    def picture_labels(self):
        import numpy as np

        from kclr.data.labels import as_classes

        if self.y is None:
            raise SpecError("arrays have no labels. Use as_images(images, y=labels).")
        given = np.asarray(self.y)
        if given.ndim != 1 or given.dtype.kind not in "iuU":
            raise SpecError(
                f"y of type {given.dtype} and shape {given.shape}: labels are whole numbers or "
                "texts of shape (images,)."
            )
        known = given != "" if given.dtype.kind == "U" else given >= 0
        if not known.any():
            raise SpecError("y: no image has a label. Add some.")
        numbers = np.full(len(given), -1)
        numbers[known], classes = as_classes(given[known], None, "y")
        return numbers, classes

    def open(self):
        if isinstance(self.images, Images):
            return self.images
        if callable(getattr(self.images, "as_numpy_iterator", None)):
            return self._open_dataset()
        if hasattr(self.images, "num_batches"):  # a keras.utils.PyDataset
            return self._open_stream(self._of_batches)
        if callable(self.images) and not hasattr(self.images, "__array__"):
            return self._open_stream(lambda: map(_image_of, self.images()))
        return self._open_arrays()

    def _of_batches(self):
        for number in range(self.images.num_batches or 0):
            yield from _image_of(self.images[number])

    def _open_stream(self, elements):
        """Images that a function gives one by one, the same every time it is called."""

        def pictures():
            for number, value in enumerate(elements()):
                yield self._shaped(_image(number, value, self.axes))

        head = list(islice(pictures(), _HEAD))
        if not head:
            raise SpecError(f"there are no images in {_describe(self.images)}.")
        return self._streamed(pictures, None, head, kept_dtype(*{one.dtype for one in head}))

    def _streamed(self, pictures, count, head, dtype):
        """The images of a function that returns an iterator of arrays.

        Args:
            pictures: the function.
            count: of images, or None.
            head: the first ones.
            dtype: in which the numbers are kept.
        """

        def records(start):
            for number, value in enumerate(pictures()):
                if number >= start:
                    yield f"image {number}", lambda value=value: value

        channels = self._channels(head[0].shape)
        made = self._images(records, count, channels, dtype=dtype, alpha=self.alpha)
        _check(head, made)
        return made

    def _shaped(self, image):
        """An image as it is read, from one as it is given."""
        return image

    def _check_axes(self, shape):
        """Refuse an array that does not hold images."""
        cure = ""
        if len(shape) == 2:
            cure = (
                " For one gray image use images[None]; for flattened images use images.reshape(-1, "
                "height, width)"
            )
        elif len(shape) == 3 and shape[-1] in (1, 2, 3, 4):
            cure = (
                f" For one image of {shape[0]}x{shape[1]} px use images[None]; for {shape[0]} gray "
                f"images of {shape[1]}x{shape[2]} px use images[..., None]"
            )
        elif len(shape) == 4 and _channels_first(shape[1:]):
            cure = " If the channels are on the second axis, use np.moveaxis(images, 1, -1)"
        elif len(shape) in (3, 4):
            return
        raise SpecError(
            f"an array of shape {shape}: expected (count, height, width, channels) or (count, "
            f"height, width).{cure}{'.' if cure else ''}"
        )

    def _open_arrays(self):
        import numpy as np

        images = _listed(self.images)
        if len(images) == 0:
            shape = f" (of shape {images.shape})" if isinstance(images, np.ndarray) else ""
            raise SpecError(f"there are no images: the {type(images).__name__}{shape} is empty.")
        if isinstance(images, np.ndarray):
            _check_numbers(images.dtype, "an array")
            self._check_axes(images.shape)
            dtypes, shapes = {images.dtype}, {self._shaped(images[0]).shape}
        else:
            images = [_image(number, image, self.axes) for number, image in enumerate(images)]
            dtypes = {one.dtype for one in images}
            shapes = {self._shaped(one).shape for one in images}
        channels, first = {self._channels(shape) for shape in shapes}, self._shaped(images[0])
        own = max(channels) if channels <= {1, 3} else self._channels(first.shape)

        def records(start):
            for number in range(start, len(images)):
                yield f"image {number}", lambda number=number: self._shaped(images[number])

        made = self._images(records, len(images), own, dtype=kept_dtype(*dtypes), alpha=self.alpha)
        _check([first], made)
        return made

    def _open_dataset(self):
        import tensorflow as tf

        dataset, spec = self.images, _image_of(self.images.element_spec)
        rank = getattr(getattr(spec, "shape", None), "rank", None)
        if rank not in (2, 3, 4):
            raise SpecError(
                f"a data set of {self.images.element_spec}: its elements must be images of "
                "(height, width, channels), batched or not, tuples that start with one, or "
                "dictionaries with the key 'image'."
            )
        _check_numbers(spec.dtype.as_numpy_dtype, "a data set")
        size = dataset.cardinality().numpy()
        if size == tf.data.INFINITE_CARDINALITY and self.limit is None:
            raise SpecError(
                "the data set is infinite. Say how many of its images to use: dataset.take(10_000)"
            )
        last = spec.shape[-1]
        if rank == 3 and last is None:
            for element in dataset.take(1):
                last = _image_of(element).shape[-1]
        # (batch, height, width) looks like (height, width, channels): a batch has no size of its
        # own, or there are fewer channels than pixels on either side.
        sides = [*spec.shape[:2]] if rank == 3 else []
        image = last in (1, 2, 3, 4) or (None not in sides and last < min(sides, default=0))
        batched = rank == 4 or (rank == 3 and not image)

        def pictures():
            for element in dataset:
                value = _image_of(element).numpy()
                yield from value if batched else (value,)

        head = list(islice(pictures(), _HEAD))
        if not head:
            raise SpecError("the data set is empty.")
        count = int(size) if size > 0 and not batched else None
        if size == tf.data.INFINITE_CARDINALITY:
            count = self.limit
        return self._streamed(pictures, count, head, kept_dtype(spec.dtype.as_numpy_dtype))

    def _channels(self, shape):
        """The channels of an image of this shape."""
        if len(shape) not in (2, 3):
            raise SpecError(
                f"an image of shape {shape}: expected (height, width, channels) or (height, width)."
            )
        if len(shape) == 2:
            return 1
        if _channels_first(shape):
            raise SpecError(
                f"images of shape {shape}: expected (height, width, channels). If the channels are "
                "on the first axis, use np.moveaxis(image, 0, -1) for each."
            )
        return shape[-1] - (self.alpha and shape[-1] in (2, 4))


def _channels_first(shape):
    """Whether an image looks like one of (channels, height, width)."""
    return shape[0] in (1, 3) and shape[1] == shape[2] and shape[2] > 4


class SeriesArrays(Arrays):
    """Series in a Python program's memory: (series, length), (series, length, channels), or a list
    of (length,) or (length, channels)."""

    series: ClassVar[bool] = True
    axes: ClassVar[tuple[str, ...]] = ("length",)

    def _shaped(self, image):
        return (image if image.ndim > 1 else image[:, None])[None]

    def _check_axes(self, shape):
        if len(shape) not in (2, 3):
            raise SpecError(
                f"an array of shape {shape}: expected (series, length, channels) or (series, "
                "length)."
            )

    def _channels(self, shape):
        return shape[-1]

    def _open_dataset(self):
        raise SpecError(
            "series cannot be read from a tf.data.Dataset. Use an array of (series, length, "
            "channels), a list of such series, or a function that returns an iterator of them."
        )


def _listed(images):
    """The given images as an array, or as a list.

    Raises:
        SpecError: it is neither.
    """
    import numpy as np

    try:
        if callable(getattr(images, "numpy", None)):
            images = images.numpy()
        elif hasattr(images, "__array__") and not isinstance(images, np.ndarray):
            images = np.asarray(images)
    except Exception as error:  # of somebody else's kind of array: on a GPU, with a gradient
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise SpecError(
            f"{type(images).__name__}: cannot be converted to a numpy array: {words[0]}"
        ) from None
    if isinstance(images, np.ndarray) and images.dtype == object and images.ndim == 1:
        return list(images)
    if isinstance(images, list | tuple) or (isinstance(images, np.ndarray) and images.ndim):
        return images
    more = (
        " An iterator can be read only once: use list(images), or a function that returns it."
        if hasattr(images, "__next__")
        else ""
    )
    raise SpecError(
        f"images cannot be read from {_describe(images)}. Use an array of (count, height, width, "
        f"channels), a list of such images, a tf.data.Dataset or a source's name.{more}"
    )


def _image(number, image, axes):
    """One of a list's images or series as an array, which has these axes and may have channels."""
    import numpy as np

    where = f"{'series' if len(axes) == 1 else 'image'} {number} of the list"
    if isinstance(image, str | bytes | os.PathLike):
        raise SpecError(
            f"{where} is {_describe(image)}. For image files use the path of their folder, or "
            "open each: [np.asarray(PIL.Image.open(path).convert('RGB')) for path in paths]"
        )
    if image is None:
        raise SpecError(f"{where} is None. Remove it.")
    mode = getattr(image, "mode", None)
    if mode not in (None, "1", "L", "RGB", "I;16") and callable(getattr(image, "convert", None)):
        raise SpecError(
            f"{where} is a PIL image of mode {mode}. Use image.convert('RGB') or "
            "image.convert('L')."
        )
    try:
        array = np.asarray(_listed(image) if hasattr(image, "numpy") else image)
    except ValueError as error:
        raise SpecError(f"{where} is not an image: {str(error).splitlines()[0]}") from None
    _check_numbers(array.dtype, where)
    if array.ndim - len(axes) not in (0, 1):
        sides = ", ".join(axes)
        alone = f"({sides},)" if len(axes) == 1 else f"({sides})"
        raise SpecError(
            f"{where} has the shape {array.shape}: expected ({sides}, channels) or {alone}."
        )
    return array


def _check_numbers(dtype, where):
    """Refuse arrays that do not hold numbers."""
    import numpy as np

    dtype = np.dtype(dtype)
    if dtype.kind in "biuf":
        return
    kinds = {"S": "texts", "U": "texts", "O": "objects", "c": "complex numbers"}
    cure = (
        " For image files use the path of their folder, or open each."
        if dtype.kind in "SUO"
        else ""
    )
    raise SpecError(
        f"{where} holds {kinds.get(dtype.kind, str(dtype))} instead of numbers, such as uint8, "
        f"uint16 or float32.{cure}"
    )


def _image_of(element):
    """The image in a data set's element."""
    if isinstance(element, dict):
        return element.get("image")
    if isinstance(element, (tuple, list)):
        return _image_of(element[0]) if element else None
    return element


def _check(images, made):
    """Refuse images whose first ones are all wrong for the same reason.

    Args:
        images: arrays.
        made: `Images` of them.
    """
    import numpy as np

    if made.scaled_by != "unit" or made.dtype[:5] != "float":
        return
    for image in map(np.asarray, images):
        try:
            between(image, 0, 1)
        except UnreadableError as error:
            low, high = float(np.nanmin(image)), float(np.nanmax(image))
            raise SpecError(
                f"the first images: {error}. Use scale='standard', or say which values become 0 "
                f"and 1: scale=({low:g}, {high:g})."
            ) from None


def _describe(value):
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) < 40 else ''}".strip()


def run_source(run) -> Any:
    """The source that a run's lowest layer has learned from; where no spec can name it, an empty
    one of its kind.

    Args:
        run: from `kclr.load_run`.
    """
    try:
        return run.spec().sources()[0]
    except (SpecError, RunError):
        return (SeriesArrays if run.series else Arrays)(images=())
