"""Arrays in files, read a few rows at a time: .npy, .npz, HDF5 and Zarr.

Nothing is read with pickle, links out of a file are not followed, and what a header claims is
compared with the file before memory is taken for it.
"""

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from kclr.data.headers import first_line, kept_type, missing, open_regular
from kclr.data.pixels import UnreadableError
from kclr.spec.wording import nearest, printable

NPY = b"\x93NUMPY"
ENDINGS = (".npy", ".npz", ".h5", ".hdf5", ".zarr")
# The array that is meant where a file holds several and none is named.
_USUAL = ("x", "images", "data", "x_train")
_WITH_KEY = re.compile(r"(?i)(.+\.(?:npy|npz|h5|hdf5|zarr)):(.*)")
_MOST_KEYS = 1000  # of a file, that are looked at
_BLOCK = 1 << 23  # bytes that are read at once
_MOST_WHOLE = 1 << 30  # bytes of labels
# What decodes chunks of a Zarr array. Others, above all numcodecs' pickle, may run code.
_CODECS = frozenset(
    """
    adler32 astype bitround blosc bytes bz2 crc32 crc32c delta endian fixedscaleoffset fletcher32
    gzip jenkins_lookup3 lz4 lzma packbits pcodec quantize sharding_indexed shuffle transpose zfpy
    zlib zstd
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Stored:
    """An array in an open file.

    Attributes:
        shape: of the array; its rows are along the first axis.
        dtype: of its numbers in the file.
        read: function of two numbers of rows, the rows from the one up to the other as an array.
        chunk: rows that the file keeps together; 1 where each can be read for itself.
        piece: bytes that the file keeps together, which are unpacked at once.
        name: of the array in its file.
    """

    shape: tuple[int, ...]
    dtype: Any
    read: Callable[[int, int], Any]
    chunk: int = 1
    piece: int = 0
    name: str = ""

    def blocks(self, memory) -> int:
        """Rows to read at once, whole chunks of the file as far as `memory` (bytes) allows."""
        row = max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
        rows = max(1, min(_BLOCK, memory) // row)
        if self.chunk * row > memory:
            return rows
        return -(-rows // self.chunk) * self.chunk


def split_key(text) -> tuple[str, str | None]:
    """The path and the key of `FILE` or `FILE:KEY`."""
    found = None if os.path.exists(os.path.expanduser(text)) else _WITH_KEY.fullmatch(text)
    return (found[1], found[2]) if found else (text, None)


def is_named(text) -> bool:
    """Whether `FILE` or `FILE:KEY` is named like an array, and is no ordinary folder."""
    path = split_key(text)[0].rstrip("/\\").lower()
    return path.endswith(ENDINGS) and (path.endswith(".zarr") or not os.path.isdir(text))


@contextlib.contextmanager
def opened(path, key=None, memory=1024) -> Iterator[Stored]:
    """An array in a file.

    Args:
        path: of a .npy, .npz, .h5, .hdf5 or .zarr.
        key: of the array; may be left out where it is clear which one is meant.
        memory: megabytes that one row may take.

    Raises:
        UnreadableError: the file is broken, does not hold the array, or holds something else.
        OSError: it cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        with _in_words():
            arrays = _arrays(path, stack)
            stored = arrays[_chosen(path, key, arrays)]()
        kept_type(stored.dtype)
        row = math.prod(stored.shape[1:]) * stored.dtype.itemsize
        for what, size in ("row", row), ("chunk", stored.piece):
            if size > memory << 20:
                raise UnreadableError(
                    f"one {what} of its shape {stored.shape} takes {-(-size >> 20):,} MB, more "
                    f"than memory ({memory:,} MB)"
                )
        yield stored


def names(path) -> list[str]:
    """The names of the arrays in a file, in order; one that has no name is called "".

    Raises:
        UnreadableError, OSError: as `opened`.
    """
    with contextlib.ExitStack() as stack, _in_words():
        return sorted(_arrays(path, stack))


def read_whole(path, key=None):
    """A small array of whole numbers or texts, such as one of labels, as it is in a file.

    Args:
        path, key: as of `opened`.

    Returns:
        An array of the file's shape: bool, integers, floats or str.

    Raises:
        UnreadableError: as `opened`, or it is larger than a gigabyte.
        OSError: it cannot be opened.
    """
    import numpy as np

    with contextlib.ExitStack() as stack, _in_words():
        arrays = _arrays(path, stack)
        stored = arrays[_chosen(path, key, arrays)]()
        if stored.dtype.kind not in "SU":
            kept_type(stored.dtype)
        size = math.prod(stored.shape) * max(1, stored.dtype.itemsize)
        if max(size, stored.piece) > _MOST_WHOLE:
            raise UnreadableError(f"of shape {stored.shape} it is too large to be read as a whole")
        found = stored.read(0, stored.shape[0])
        if stored.dtype.kind == "S":
            found = np.char.decode(found, "utf-8")
        return np.array(found, str if stored.dtype.kind in "SU" else None)


@contextlib.contextmanager
def _in_words():
    """What the libraries make of a broken file, as `UnreadableError`."""
    try:
        yield
    except (UnreadableError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        raise UnreadableError(f"broken or cut off ({first_line(error)})") from None


def _arrays(path, stack) -> Mapping[str, Callable[[], Stored]]:
    """The arrays of a file by name, opened when they are called; the file is closed by `stack`."""
    place = os.path.expanduser(path)
    ending = os.path.splitext(place.rstrip("/\\"))[1].lower()
    form = {".npz": _npz, ".h5": _hdf5, ".hdf5": _hdf5, ".zarr": _zarr}.get(ending, _npy)
    return form(place, stack)


def npy_header(file) -> tuple[tuple[int, ...], Any, bool]:
    """Shape, type and whether in Fortran's order, of a .npy whose data comes next in `file`.

    Raises:
        UnreadableError: it is none, or holds neither numbers nor texts.
    """
    from numpy.lib import format as npy

    try:
        version = npy.read_magic(file)
        # Version 3 is for names of fields, which numbers do not have.
        reader = {1: npy.read_array_header_1_0, 2: npy.read_array_header_2_0}[version[0]]
        shape, fortran, dtype = reader(file)
    except Exception:  # numpy parses it as Python
        raise UnreadableError("its header is not that of a .npy") from None
    if dtype.kind not in "SU":
        kept_type(dtype)
    return shape, dtype, fortran


def memory_mapped(file):
    """The array of an open .npy, which is read where it is looked at.

    Raises:
        UnreadableError: the file is none, or shorter than its header says.
    """
    import numpy as np

    shape, dtype, fortran = npy_header(file)
    whole = file.tell() + math.prod(shape) * dtype.itemsize
    size = os.fstat(file.fileno()).st_size
    if size < whole:
        raise UnreadableError(f"cut off: its header tells of {whole:,} bytes, but it has {size:,}")
    if not math.prod(shape):
        return np.empty(shape, dtype)
    order: Any = "F" if fortran else "C"
    return np.memmap(file, dtype, "r", file.tell(), shape, order)


def _npy(place, stack):
    file = stack.enter_context(open_regular(place))
    array = memory_mapped(file)
    file.seek(0)
    # Read and not mapped, so that what was read does not count as the process' memory.
    return {"": lambda: _stored(array) if array.flags.fnc else _streamed(file, "")}


def _stored(array, name=""):
    if not array.shape:
        raise UnreadableError("it holds a single number")
    chunks = getattr(array, "chunks", None) or ()
    return Stored(
        tuple(map(int, array.shape)),
        array.dtype,
        lambda start, stop: array[start:stop],
        chunk=int(chunks[0]) if chunks else 1,
        piece=math.prod(map(int, chunks)) * array.dtype.itemsize if chunks else 0,
        name=name,
    )


def _npz(place, stack):
    import zipfile

    try:
        archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(open_regular(place))))
    except zipfile.BadZipFile:
        raise UnreadableError("not a .npz, or cut off") from None

    def of(member, name):
        # Reading goes on where it stopped, so that nothing is unpacked twice in a row.
        return lambda: _streamed(stack.enter_context(archive.open(member)), name)

    members = [name for name in archive.namelist() if name.endswith(".npy")]
    return {name.removesuffix(".npy"): of(name, name.removesuffix(".npy")) for name in members}


def _streamed(member, name):
    import numpy as np

    shape, dtype, fortran = npy_header(member)
    if fortran and len(shape) > 1:  # which a file of its own may be: it is mapped
        raise UnreadableError(
            "its rows do not lie one behind the other; save it with numpy.ascontiguousarray"
        )
    if not shape:
        raise UnreadableError("it holds a single number")
    data = member.tell()
    row = math.prod(shape[1:]) * dtype.itemsize

    def read(start, stop):
        stop = min(stop, shape[0])
        member.seek(data + start * row)
        raw = member.read((stop - start) * row)
        if len(raw) < (stop - start) * row:
            raise UnreadableError("cut off")
        return np.frombuffer(raw, dtype).reshape(stop - start, *shape[1:])

    return Stored(shape, dtype, read, name=name)


def _chosen(path, key, names):
    """The name of the array that is meant.

    Raises:
        UnreadableError: it is not there, or not clear.
    """
    known = sorted(names)
    if not known:
        raise UnreadableError("it holds no arrays")
    if known == [""] and key:
        raise UnreadableError(f"it holds one array, without a name; write {printable(path)}")
    shown = ", ".join(map(printable, known[:8])) + ", ..." * (len(known) > 8)
    if key:
        if key in names or (key := key.strip("/")) in names:
            return key
        raise UnreadableError(
            f"it has no array {printable(key)!r}.{nearest(key, known, known[:8])}"
        )
    usual = [name for name in known if name.lower() in _USUAL]
    if len(known) == 1 or len(usual) == 1:
        return (usual or known)[0]
    raise UnreadableError(
        f"it holds several arrays ({shown}). Say which: {printable(path)}:{printable(known[0])}"
    )


def _hdf5(place, stack):
    import h5py
    import numpy as np

    open_regular(place).close()
    found: dict[str, Any] = {}

    def look(name, node):  # which links out of the file are not passed to
        if isinstance(node, h5py.Dataset):
            found[name] = node
        return len(found) >= _MOST_KEYS or None

    def of(array, name):
        if array.external or array.is_virtual:
            raise UnreadableError("its numbers are in other files; copy them into this one")
        text = h5py.check_string_dtype(array.dtype)
        if text and text.length is None:  # of any length: they are no Python objects in the file
            return Stored(array.shape, np.dtype("U"), lambda a, b: array.asstr()[a:b], name=name)
        return _stored(array, name)

    stack.enter_context(h5py.File(place, "r")).visititems(look)
    return {name: partial(of, array, name) for name, array in found.items()}


def _zarr(place, stack):
    lacks = missing("zarr", "zarr")
    if lacks:
        raise UnreadableError(lacks)
    import zarr

    def of(array, name):
        strange = {name for name in _codecs(array) if name.rpartition(".")[2] not in _CODECS}
        if strange:
            raise UnreadableError(f"its compression is not supported: {', '.join(sorted(strange))}")
        return _stored(array, name)

    os.stat(place)
    root = zarr.open(place, mode="r")
    found = {"": root} if hasattr(root, "shape") else dict(_zarr_arrays(root, ""))
    return {name: partial(of, array, name) for name, array in found.items()}


def _zarr_arrays(group, before) -> Iterator[tuple[str, Any]]:
    for name, array in group.arrays():
        yield before + name, array
    for name, inner in group.groups():
        yield from _zarr_arrays(inner, f"{before}{name}/")


def _codecs(array) -> Iterator[str]:
    """Names of all that decodes a Zarr array's chunks."""
    keys = ("codecs", "compressor", "filters")
    if hasattr(array, "metadata"):
        described = array.metadata.to_dict()
    else:  # of zarr 2
        described = {key: getattr(array, key, None) for key in keys}
    waiting: list[Any] = [described.get(key) for key in keys]
    while waiting:
        codec = waiting.pop()
        if isinstance(codec, list | tuple):
            waiting += codec
        elif isinstance(codec, Mapping):
            yield str(codec.get("name") or codec.get("id"))
            inner = codec.get("configuration")
            waiting += [inner.get(key) for key in ("codecs", "index_codecs")] if inner else []
        elif codec is not None:
            yield str(getattr(codec, "codec_id", type(codec).__name__))
