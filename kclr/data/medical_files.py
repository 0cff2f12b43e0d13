"""DICOM with pydicom and slices of NIfTI volumes with nibabel, both optional."""

import math
import os
import threading
from functools import cached_property
from typing import Any

from kclr.data import headers
from kclr.data.headers import Header, Opened
from kclr.data.pixels import UnreadableError

DICOM = b"DICM"  # at byte 128
DICOM_ENDINGS, NIFTI_ENDINGS = (".dcm", ".dicom"), (".nii", ".nii.gz")
EXTRA = "medical"
_PACKAGES = {
    **dict.fromkeys(DICOM_ENDINGS, "pydicom"),
    **dict.fromkeys(NIFTI_ENDINGS, "nibabel"),
}
_MOST_SLICES = 1 << 20


def lacks(ending) -> str | None:
    """What has to be installed to read files with an ending; None where nothing has."""
    package = _PACKAGES.get(ending)
    return headers.missing(package, EXTRA) if package else None


def frames(file) -> int:
    """Number of pictures in an open DICOM file."""
    return max(1, int(_dataset(file).get("NumberOfFrames", 1) or 1))


def dicom(file, frame) -> Opened:
    """A frame of an open DICOM file, or with None all as channels, in the units of its slope.

    The first one, if `frame` is less than 0.

    Raises:
        UnreadableError: it is cut off, without a picture, or of a kind that is not read.
    """
    said = _dataset(file)
    numbers = range(frames(file)) if frame is None else [max(frame, 0)]
    try:
        height, width = int(said.Rows), int(said.Columns)
        samples, bits = int(said.SamplesPerPixel), int(said.BitsAllocated)
        signed = bool(said.get("PixelRepresentation", 0))
        floats = {32: "float32", 64: "float64"} if "FloatPixelData" in said else {}
        stored = floats.get(bits, f"{'int' if signed else 'uint'}{bits}")
        slope, intercept = (
            float(said.get(name, default))
            for name, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))
        )
        used = int(said.get("BitsStored", bits))
        dtype = _rescaled(headers.kept_type(stored), signed, used, slope, intercept)
    except (AttributeError, TypeError, ValueError):
        raise UnreadableError("a DICOM file without a picture, or with a broken header") from None

    def decode():
        import numpy as np
        from pydicom.pixels import pixel_array

        made = []
        for own in numbers:
            file.seek(0)
            try:
                made.append(pixel_array(file, index=own).reshape(height, width, samples))
            except Exception as error:  # of many libraries
                raise UnreadableError(_dicom_reason(error)) from None
        pixels = np.concatenate(made, axis=-1)
        notes = ("converted",) * headers.is_converted(pixels.dtype)
        if (slope, intercept) != (1, 0):
            pixels = pixels.astype(np.float64) * slope + intercept
        return pixels.astype(dtype), notes

    channels = samples * len(numbers)
    whole = height * width * channels * max(1, bits // 8)
    header = Header(height, width, channels, dtype)
    return Opened(header, decode, whole, 4 * whole, more=lambda: len(numbers) == 1 < frames(file))


def _dataset(file):
    lacking = lacks(".dcm")
    if lacking:
        raise UnreadableError(lacking)
    import warnings

    import pydicom

    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that break the standard
            return pydicom.dcmread(file, stop_before_pixels=True, force=False)
    except Exception as error:  # of every kind
        raise UnreadableError(f"broken ({headers.first_line(error)})") from None


def _rescaled(dtype, signed, bits, slope, intercept):
    """The type that holds rescaled numbers of so many bits."""
    if (slope, intercept) == (1, 0):
        return dtype
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    ends = sorted((low * slope + intercept, high * slope + intercept))
    whole = slope % 1 == 0 and intercept % 1 == 0
    return "int16" if whole and ends[0] >= -(1 << 15) and ends[1] < 1 << 15 else "float32"


def _dicom_reason(error):
    words = headers.first_line(error)
    if "plugin" in words or "missing dependencies" in words:
        return f"its compression needs another package ({words})"
    return f"broken or cut off ({words})"


class Volume:
    """A NIfTI file, whose slices along the third axis, and those after it, are pictures.

    Args:
        path: of the file.
        memory: megabytes that a compressed one may take when it is unpacked, which is done once
            for all slices that are read while this object is held.
    """

    def __init__(self, path, memory):
        self._path, self._memory = path, memory
        self._lock = threading.RLock()
        self._all: Any = None

    @cached_property
    def _image(self):
        lacking = lacks(".nii")
        if lacking:
            raise UnreadableError(lacking)
        import nibabel

        headers.open_regular(self._path).close()
        try:
            return nibabel.load(self._path)
        except Exception as error:  # of every kind
            raise UnreadableError(f"broken or cut off ({headers.first_line(error)})") from None

    @cached_property
    def _said(self):
        """Shape, the type of the numbers in the file, and that of the slices."""
        try:
            shape = tuple(map(int, self._image.shape))
            scale = float(self._image.dataobj.slope), float(self._image.dataobj.inter)
            stored = self._image.get_data_dtype()
        except UnreadableError:
            raise
        except Exception as error:  # of every kind
            raise UnreadableError(f"broken ({headers.first_line(error)})") from None
        if len(shape) < 2 or math.prod(shape) < 1:
            raise UnreadableError(f"it holds no slices: its shape is {shape}")
        if math.prod(shape[2:]) > _MOST_SLICES:
            raise UnreadableError(f"it has more than {_MOST_SLICES:,} slices")
        size = math.prod(shape) * stored.itemsize
        if self._packed and size > self._memory << 20:
            raise UnreadableError(
                f"unpacked it takes {-(-size >> 20):,} MB, more than memory ({self._memory:,} MB). "
                "Unpack it with gunzip"
            )
        if not self._packed and os.path.getsize(self._path) < size:
            raise UnreadableError("cut off")
        kept = headers.kept_type(stored)
        return shape, stored, kept if scale == (1, 0) else "float32"

    @property
    def _packed(self):
        return self._path.lower().endswith(".gz")

    @property
    def count(self) -> int:
        """Number of slices."""
        return math.prod(self._said[0][2:])

    def slice(self, number) -> Opened:
        """Slice `number`, rows along the first axis of the file and columns along the second."""
        with self._lock:
            shape, stored, dtype = self._said
        height, width = shape[:2]

        def decode():
            import numpy as np

            places = (int(place) for place in np.unravel_index(number, shape[2:]))
            try:
                pixels = np.asarray(self._pixels(dtype)[(slice(None), slice(None), *places)])
            except Exception as error:  # of every kind
                raise UnreadableError(f"broken or cut off ({headers.first_line(error)})") from None
            notes = ("converted",) * headers.is_converted(stored)
            return headers.kept(pixels).astype(dtype, copy=False)[..., None], notes

        size = height * width * stored.itemsize
        return Opened(Header(height, width, 1, dtype), decode, size, 4 * size)

    def _pixels(self, dtype):
        import numpy as np

        if not self._packed:
            return self._image.dataobj
        with self._lock:
            if self._all is None:
                self._all = np.asarray(self._image.dataobj, dtype=dtype)
            return self._all
