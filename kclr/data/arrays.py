"""Arrays, lists of arrays and `tf.data.Dataset`s as images, for Python callers."""

import os
from itertools import islice
from typing import Any

from pydantic import Field

from kclr.data.pixels import UnreadableError, to_channels
from kclr.data.sources import Images, Source
from kclr.errors import SpecError


class Arrays(Source):
    """Images in a Python program's memory; a spec cannot name them."""

    images: Any = Field(exclude=True)  # which no file of a run could hold
    alpha: bool = False
    """Whether the last of two or four channels is transparency; it is composited on white."""

    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return id(self)

    def spec_name(self):
        return "arrays"

    def open(self):
        if isinstance(self.images, Images):
            return self.images
        if callable(getattr(self.images, "as_numpy_iterator", None)):
            return self._open_dataset()
        return self._open_arrays()

    def _open_arrays(self):
        import numpy as np

        images = _listed(self.images)
        if len(images) == 0:
            shape = f" (of shape {images.shape})" if isinstance(images, np.ndarray) else ""
            raise SpecError(f"there are no images: the {type(images).__name__}{shape} is empty.")
        if isinstance(images, np.ndarray):
            _check_numbers(images.dtype, "an array")
            _check_axes(images.shape)
        else:
            images = [_image(number, image) for number, image in enumerate(images)]
        channels = {self._channels(image.shape) for image in images}
        _check(images[0], self.range)

        def records(start):
            for number in range(start, len(images)):
                yield f"image {number}", lambda number=number: images[number]

        return self._images(records, len(images), max(channels))

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
        # (batch, height, width) looks like (height, width, channels): only the last axis tells.
        batched = rank == 4 or (rank == 3 and last not in (1, 2, 3, 4))

        def pictures():
            for element in dataset:
                value = _image_of(element).numpy()
                yield from value if batched else (value,)

        def records(start):
            for number, value in enumerate(pictures()):
                if number >= start:
                    yield f"image {number}", lambda value=value: value

        head = list(islice(pictures(), 16))
        if not head:
            raise SpecError("the data set is empty.")
        for value in head:
            _check(value, self.range)
        count = int(size) if size > 0 and not batched else None
        if size == tf.data.INFINITE_CARDINALITY:
            count = self.limit
        return self._images(records, count, self._channels(head[0].shape))

    def _channels(self, shape):
        """1 or 3, for an image of this shape."""
        if len(shape) not in (2, 3):
            raise SpecError(
                f"an image of shape {shape}: expected (height, width, channels) or (height, width)."
            )
        last = shape[-1] if len(shape) == 3 else 1
        if last not in (1, 2, 3, 4):
            first = " They are on the first axis: use np.moveaxis(image, 0, -1) for each."
            raise SpecError(
                f"images with {last} channels: expected 1 or 3, as the last axis of (height, "
                f"width, channels).{first if shape[0] in (1, 3) else ''}"
            )
        if last in (2, 4) and not self.alpha:
            raise SpecError(
                f"images with {last} channels: expected 1 or 3. Use "
                f"{'gray ones, images[..., :1]' if last == 2 else 'three, as images[..., :3]'}; "
                "or, if the last one is transparency, use kclr.data.sources.as_images(images, "
                "alpha=True), which composites them on white."
            )
        return 1 if last in (1, 2) else 3


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
        (" An iterator can be read only once: use list(images).")
        if hasattr(images, "__next__")
        else ""
    )
    raise SpecError(
        f"images cannot be read from {_describe(images)}. Use an array of (count, height, width, "
        f"channels), a list of such images, a tf.data.Dataset or a source's name.{more}"
    )


def _check_axes(shape):
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
    elif len(shape) == 4 and shape[1] in (1, 3) and shape[-1] not in (1, 2, 3, 4):
        cure = " If the channels are on the second axis, use np.moveaxis(images, 1, -1)"
    elif len(shape) in (3, 4):
        return
    raise SpecError(
        f"an array of shape {shape}: expected (count, height, width, channels) or (count, height, "
        f"width).{cure}{'.' if cure else ''}"
    )


def _image(number, image):
    """One of a list's images as an array."""
    import numpy as np

    where = f"image {number} of the list"
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
    if array.ndim not in (2, 3):
        raise SpecError(
            f"{where} has the shape {array.shape}: expected (height, width, channels) or (height, "
            "width)."
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
        f"{where} holds {kinds.get(dtype.kind, str(dtype))} instead of image values (uint8, or "
        f"floats between 0 and 1).{cure}"
    )


def _image_of(element):
    """The image in a data set's element."""
    if isinstance(element, dict):
        return element.get("image")
    if isinstance(element, (tuple, list)):
        return _image_of(element[0]) if element else None
    return element


def _check(image, limits):
    """Refuse images whose values are all wrong for the same reason."""
    import numpy as np

    try:
        to_channels(image, 3, limits)
    except UnreadableError as error:
        image = np.asarray(image)
        low, high = (float(image.min()), float(image.max())) if image.size else (0.0, 0.0)
        cure = "Use uint8, or floats between 0 and 1"
        if image.dtype.kind == "f" and low >= 0 and 1 < high <= 255:
            cure += ": images / 255"
        elif -1 <= low < 0 and high <= 1:
            cure += ": (images + 1) / 2"
        elif np.isnan(low + high):
            cure += ": images[~np.isnan(images).any((1, 2, 3))] drops those that contain NaN"
        elif low < high:
            cure += ": (images - images.min()) / (images.max() - images.min())"
        if low < high:
            cure += f"; or set the values of black and white: range=({low:g}, {high:g})"
        raise SpecError(f"the first images: {error}. {cure}.") from None


def _describe(value):
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) < 40 else ''}".strip()
