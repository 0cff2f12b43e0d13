"""`array:FILE` and `series:FILE`: arrays of images or series in .npy, .npz, HDF5 and Zarr."""

import os
from typing import Any, ClassVar

from pydantic import Field

from kclr.data import array_files, headers
from kclr.data.fingerprints import digest, of_files
from kclr.data.pixels import UnreadableError, kept_dtype
from kclr.data.sources import Source
from kclr.errors import SpecError
from kclr.spec.registry import register
from kclr.spec.wording import path_hint, printable


@register("source", "array")
class ArrayFile(Source):
    """Images in an array of (count, height, width) or (count, height, width, channels): a .npy, or
    `FILE:KEY` for one of those in a .npz, .h5 or .zarr (`pip install 'kclr[zarr]'`). It is read as
    it is needed, never as a whole."""

    file: str = Field(exclude=True)
    """The file, and behind a colon the name of the array in it; without a name the only array, or
    the one called x, images, data or x_train."""
    channels_first: bool | None = None
    """Whether the channels are on the axis after the count, as PyTorch has them; by default they
    are on the last one."""

    argument: ClassVar[str | None] = "file"
    sides: ClassVar[tuple[str, ...]] = ("height", "width")
    mixed: ClassVar[bool] = False
    quick: ClassVar[bool] = True
    reading: ClassVar[tuple[str, ...]] = ("nodata", "channels_first")

    def problem(self):
        try:
            self._look()
        except SpecError as error:
            return str(error)
        return None

    def image_shape(self):
        try:
            shape, _ = self._look()
        except SpecError:
            return None
        return (*self._smallest([shape[1:3]])[:2], self.channels or shape[3])

    def place(self):
        path = os.path.expanduser(array_files.split_key(self.file)[0])
        return path if os.path.isdir(path) else None

    def open(self):
        path, key = array_files.split_key(self.file)
        (count, _, _, channels), dtype = self._look()

        def records(start):
            with array_files.opened(path, key, self.memory) as stored:
                read = _Rows(stored, self.memory)
                for number in range(start, stored.shape[0]):
                    yield f"{self.noun} {number}", _Row(self._image, read, number)

        return self._images(
            records, count, channels, contents=lambda tell: self._contents(tell), dtype=dtype
        )

    def labelled(self, split, channels=None):
        from kclr.data import array_labels
        from kclr.data.labels import Labelled

        self._look()
        found, name = array_labels.find(self), printable(self.spec_name())
        if split == "test":
            array_labels.warn_of_shared_groups(found, name)
        part = split if "test" in found.files else "train"
        options = {"file": found.files[part], "channels": channels, "max_unreadable": 1.0}
        images = self.model_copy(update=options).open()
        labels, groups = found.labels[part], found.groups.get(part)
        made = Labelled(images, labels, found.classes, groups=groups)
        return made if "test" in found.files else made.part(found.rows(split, name))

    def picture_labels(self):
        import numpy as np

        from kclr.data import array_labels

        self._look()
        found = array_labels.find(self)
        numbers = found.labels["train"]
        if "test" in found.files:
            return numbers, found.classes
        kept = np.full(len(numbers), -1)
        rows = found.rows("train", printable(self.spec_name()))
        kept[rows] = numbers[rows]
        return kept, found.classes

    def labels_problem(self):
        from kclr.data import array_labels

        try:
            self._look()
            found = array_labels.find(self)
            if "test" not in found.files:
                found.rows("test", printable(self.spec_name()))
        except SpecError as error:
            return str(error)
        return None

    @property
    def noun(self) -> str:
        """What one of them is called."""
        return "series" if self.series else "image"

    def _image(self, row):
        """A row of the file as (height, width, channels)."""
        import numpy as np

        if row.ndim == len(self.sides):
            row = row[..., None]
        elif self.channels_first:
            row = np.moveaxis(row, 0, -1)
        return row[None] if self.series else row

    def _look(self):
        """Shape (count, height, width, channels), and the type in which the numbers are kept.

        Raises:
            SpecError: there is no such array, or it holds something else.
        """
        path, key = array_files.split_key(self.file)
        if not path or "\0" in path:
            raise SpecError(f"{self.part_name}: has no path. Write {self.part_name}:FILE.")
        name = printable(self.file)
        if not os.path.exists(os.path.expanduser(path)):
            raise SpecError(f"{printable(path)}: file not found.{path_hint(path)}")
        if not path.rstrip("/\\").lower().endswith(array_files.ENDINGS):
            forms = ", ".join(array_files.ENDINGS)
            raise SpecError(f"{name}: is not a file of an array. Use one of {forms}.")
        try:
            with array_files.opened(path, key, self.memory) as stored:
                return self._shape(stored.shape), kept_dtype(stored.dtype)
        except (UnreadableError, OSError) as error:
            words = str(getattr(error, "strerror", None) or error)
            raise SpecError(f"{name}: {words}{'' if words[-1:] in '.?' else '.'}") from None

    def _shape(self, shape):
        name = printable(self.file)
        axes = len(self.sides)
        wanted = ", ".join(("count", *self.sides))
        if len(shape) not in (axes + 1, axes + 2):
            other = {4: "array", 2: "series"}.get(len(shape))
            cure = f" Write {other}:{name}." if other not in (None, self.part_name) else ""
            raise SpecError(
                f"{name}: an array of shape {shape} is not ({wanted}) or ({wanted}, channels)."
                f"{cure}"
            )
        if 0 in shape:
            raise SpecError(f"{name}: is empty, of shape {shape}.")
        sides, channels = shape[1 : axes + 1], 1
        if len(shape) == axes + 2:
            if self.channels_first is None and shape[1] < min(shape[2:]):
                raise SpecError(
                    f"{name}: an array of shape {shape} is ({wanted}, channels), but it may be "
                    f"(count, channels, {', '.join(self.sides)}). Say which: channels_first: true "
                    f"for {shape[1]} channels, or channels_first: false for {shape[-1]}."
                )
            if self.channels_first:
                channels, sides = shape[1], shape[2:]
            else:
                channels = shape[-1]
        return shape[0], *([1] if self.series else []), *sides, channels

    def _contents(self, tell):
        path, key = array_files.split_key(self.file)
        place = os.path.expanduser(path)
        files = {os.path.basename(place): place}
        if os.path.isdir(place):
            files = {
                os.path.relpath(file, place): file
                for folder, _, names in sorted(os.walk(place))
                for file in (os.path.join(folder, name) for name in sorted(names))
            }
        found = of_files(place, files, tell)
        with array_files.opened(path, key, self.memory) as stored:
            counted = (stored.name, self.channels_first or False)
        return type(found)(digest(found.digest, *counted), self._look()[0][0], found.pictures)


@register("source", "series")
class SeriesFile(ArrayFile):
    """Series in an array of (count, length) or (count, length, channels): a .npy, or `FILE:KEY` for
    one of those in a .npz, .h5 or .zarr (`pip install 'kclr[zarr]'`). It is read as it is needed,
    never as a whole."""

    series: ClassVar[bool] = True
    sides: ClassVar[tuple[str, ...]] = ("length",)


class _Rows:
    """Rows of a stored array, some at a time."""

    def __init__(self, stored, memory):
        self._stored = stored
        self._size = stored.blocks((memory << 20) // 4)
        self._first = -1
        self._block: Any = None

    def __getitem__(self, number):
        first = number // self._size * self._size
        if first != self._first:
            self._block = None  # gone before the next one is read
            last = min(first + self._size, self._stored.shape[0])
            try:
                self._block = self._stored.read(first, last)
            except UnreadableError:
                raise
            except Exception as error:  # of the libraries, about a broken file
                raise UnreadableError(f"broken or cut off ({headers.first_line(error)})") from None
            self._first = first
        return self._block[number - first]


class _Row:
    """An image that is read when it is called."""

    def __init__(self, shaped, rows, number):
        self._shaped, self._rows, self._number = shaped, rows, number
        self.notes: tuple[str, ...] = ()

    def __call__(self):
        import numpy as np

        raw = self._rows[self._number]
        self.notes = ("converted",) * headers.is_converted(raw.dtype)
        return np.ascontiguousarray(headers.kept(self._shaped(raw)))
