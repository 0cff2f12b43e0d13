"""Arrays, lists of arrays and `tf.data.Dataset`s as images, for Python callers."""

from typing import Any

from pydantic import Field

from kclr.data.pixels import UnreadableError, to_channels
from kclr.data.sources import Images, Source, digest
from kclr.errors import SpecError

_HASHED = 1 << 26  # bytes of an array that its fingerprint reads, spread evenly


class Arrays(Source):
    """Images that a Python program has in its hands; a spec cannot name them."""

    images: Any = Field(exclude=True)  # which no file of a run could hold

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

        images = self.images
        if hasattr(images, "numpy") and callable(images.numpy):
            images = images.numpy()
        if not isinstance(images, (np.ndarray, list, tuple)) or len(images) == 0:
            raise SpecError(
                f"{_describe(images)} is nothing that images can be read from. Give an array of "
                "(count, height, width, channels), a list of such images, a tf.data.Dataset or a "
                "source's name."
            )
        if isinstance(images, np.ndarray):
            if images.ndim not in (3, 4):
                raise SpecError(
                    f"an array of shape {images.shape}: expected (count, height, width, channels) "
                    "or (count, height, width)."
                )
        else:
            images = [np.asarray(image) for image in images]
        channels = {_channels_of(image) for image in images}
        _check(images[0])

        def records(start):
            for number in range(start, len(images)):
                yield f"image {number}", lambda number=number: images[number]

        return self._images(
            records, len(images), max(channels), digest(*_content(images)), threads=1
        )

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
        # (batch, height, width) looks like (height, width, channels): only the last axis tells.
        batched = rank == 4 or (rank == 3 and spec.shape[-1] not in (1, 2, 3, 4))
        last = 1 if rank == 2 or (batched and rank == 3) else spec.shape[-1]
        size = dataset.cardinality().numpy()
        if size == tf.data.INFINITE_CARDINALITY and self.limit is None:
            raise SpecError("the data set is infinite. Say how many images to use: limit=...")

        def pictures():
            for element in dataset:
                value = _image_of(element).numpy()
                yield from value if batched else (value,)

        def records(start):
            for number, value in enumerate(pictures()):
                if number >= start:
                    yield f"image {number}", lambda value=value: value

        head = []
        for value in pictures():
            _check(value)
            head.append(value)
            if len(head) == 16:
                break
        if not head:
            raise SpecError("the data set is empty.")
        count = int(size) if size > 0 and not batched else None
        if size == tf.data.INFINITE_CARDINALITY:
            count = self.limit
        channels = _channels(last if last is not None else head[0].shape[-1])
        return self._images(
            records, count, channels, digest(str(dataset.element_spec), size, *_content(head))
        )


def _image_of(element):
    """The image among what a data set's element holds."""
    if isinstance(element, dict):
        return element.get("image")
    if isinstance(element, (tuple, list)):
        return _image_of(element[0]) if element else None
    return element


def _channels(last):
    if last not in (1, 2, 3, 4):
        raise SpecError(
            f"images with {last} channels: expected 1 or 3, as the last axis of (height, width, "
            "channels)."
        )
    return 1 if last in (1, 2) else 3


def _channels_of(image):
    if image.ndim not in (2, 3):
        raise SpecError(
            f"an image of shape {image.shape}: expected (height, width, channels) or (height, "
            "width)."
        )
    return 1 if image.ndim == 2 else _channels(image.shape[-1])


def _check(image):
    """Refuse images whose numbers are wrong for a reason that all of them share."""
    try:
        to_channels(image, 3)
    except UnreadableError as error:
        raise SpecError(
            f"the first images: {error}. Give uint8, or floats between 0 and 1."
        ) from None


def _content(images):
    """Shapes, types and, up to a bound, the bytes of arrays."""
    import hashlib

    import numpy as np

    step = max(1, sum(image.nbytes for image in images) // _HASHED)
    content = hashlib.blake2b(digest_size=16)
    for number in range(0, len(images), step):
        content.update(np.ascontiguousarray(images[number]).tobytes())
    shapes = images.shape if isinstance(images, np.ndarray) else [i.shape for i in images]
    return shapes, str(images[0].dtype), content.hexdigest()


def _describe(value):
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) < 40 else ''}".strip()
