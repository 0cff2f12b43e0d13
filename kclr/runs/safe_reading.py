"""Safe reading of files that may come from somebody else.

A run can come from anywhere. What is called `kernel.npy` in it may be a pipe that never ends, a
link to a device, a hundred bytes that claim to be a terabyte, or not an array at all; a JSON file
may be nested until a parser gives up. So every file of a run is opened here: a regular file inside
the run's directory, of a bounded size. What is wrong is a `RunError` that names the file, with the
cure that the caller knows.
"""

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from kclr.errors import RunError
from kclr.runs.paths import as_path, is_remote

if TYPE_CHECKING:
    import numpy as np

MOST_TEXT = 64 * 2**20  # bytes; a large experiment's results.json has some ten million
MOST_ROWS = 512 * 2**20  # of a history that has a row for every one of a million steps
MOST_ARRAY = 2 * 2**30
MOST_COLUMNS = 200
DEEPEST = 64  # lists and mappings in each other
LARGEST = 2**63  # no whole number of ours is as large; formatting one of 4,000 digits fails


@contextlib.contextmanager
def opened(path, inside=None, most=MOST_TEXT, cure="") -> Iterator[BinaryIO]:
    """Open a file for reading.

    Args:
        path: of the file.
        inside: the directory that it must lie in when links are followed; None where a person named
            the file.
        most: bytes that it may have; None for any number.
        cure: last sentence of the message.

    Raises:
        RunError: it does not exist, not a regular file, elsewhere, too large, or cannot be read.
    """
    path = as_path(path)
    try:
        if is_remote(path):  # of an object store: neither links nor devices
            with path.open("rb") as file:
                yield file
            return
        place = path.resolve(strict=True)
        if inside is not None and not place.is_relative_to(as_path(inside).resolve()):
            raise _UnfitError(f"it is a link to {place}, outside {inside}")
        # Before it is opened, for opening a device can do something; and after, for it may have
        # been exchanged. Without O_NONBLOCK a pipe would be waited for.
        _check_kind(os.stat(place), most)
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(place, flags), "rb") as file:
            _check_kind(os.fstat(file.fileno()), most)
            yield file
    except RunError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links; a NUL in the name
        words = getattr(error, "strerror", None) or error
        raise RunError(f"{path}: cannot be read: {words}. {cure}".rstrip()) from None


class _UnfitError(ValueError):
    """What is wrong with a file or its content, without its name."""


def _check_kind(status, most):
    if not stat.S_ISREG(status.st_mode):
        raise _UnfitError("it is not a regular file")
    if most is not None and status.st_size > most:
        raise _UnfitError(
            f"it has {status.st_size:,} bytes, more than the limit of {most:,} for its kind"
        )


def read_bytes(path, inside=None, most=MOST_TEXT, cure="") -> bytes:
    """The content of a file; see `opened`."""
    with opened(path, inside, most, cure) as file:
        # Block by block: read(most) would set aside two gigabytes for a small array.
        content = bytearray()
        while (block := file.read(1 << 20)) and (most is None or len(content) < most):
            content += block
        return bytes(content)


def read_text(path, inside=None, cure="", most=MOST_TEXT) -> str:
    """The content of a text file in UTF-8, without a byte order mark; see `opened`."""
    content = read_bytes(path, inside, most, cure)
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: cannot be read: {error}. {cure}".rstrip()) from None


def sha256(path, inside=None, cure="") -> str:
    """Hex digest of a file; see `opened`."""
    with opened(path, inside, None, cure) as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def parsed(text: str) -> Any:
    """The value of a JSON text whose nesting, numbers and characters are within bounds.

    Not-a-number and infinities may be in it, as Python writes them.

    Raises:
        ValueError: it is not JSON, or beyond them.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise _UnfitError(f"it is nested more than {DEEPEST} deep") from None
    level = [value]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below += each
                below += each.values()
            elif isinstance(each, list):
                below += each
            elif isinstance(each, int) and abs(each) >= LARGEST:
                raise _UnfitError("a whole number in it has too many digits")
            elif isinstance(each, str) and not each.isascii():
                each.encode()  # half a surrogate pair can be neither printed nor written
        if not below:
            return value
        level = below
    raise _UnfitError(f"it is nested more than {DEEPEST} deep")


def read_json(path, inside=None, cure="") -> Any:
    """The value of a JSON file; see `opened` and `parsed`."""
    text = read_text(path, inside, cure)
    try:
        return parsed(text)
    except ValueError as error:
        raise RunError(f"{path}: cannot be read: {error}. {cure}".rstrip()) from None


def read_numbers(path, inside=None, cure="") -> list[dict[str, float]]:
    """The rows of a CSV file of numbers with a line of names; empty cells are left out.

    Raises:
        RunError: it is not such a file; see `opened`.
    """
    text = read_text(path, inside, cure, MOST_ROWS)
    try:
        lines = csv.reader(io.StringIO(text), strict=True)
        names = next(lines, [])
        if not names or len(names) > MOST_COLUMNS or len(set(names)) < len(names):
            raise _UnfitError("its first line does not name its columns without duplicates")
        for name in names:
            if not name.isidentifier() or not name.isascii():
                raise _UnfitError(f"{name[:40]!r} is not the name of a column")
        rows = []
        for number, cells in enumerate(lines, 2):
            if len(cells) != len(names):
                raise _UnfitError(f"line {number} has {len(cells)} of {len(names)} cells")
            rows.append({name: float(c) for name, c in zip(names, cells, strict=True) if c})
        return rows
    except (csv.Error, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}. {cure}".rstrip()) from None


def read_array(path, inside=None, cure="") -> tuple["np.ndarray", str]:
    """The array of an `.npy` file, and the hex digest of the file.

    Nothing is unpickled, and no more memory is taken than the file has bytes, whatever its header
    claims.

    Raises:
        RunError: it is not the file of an array of numbers, whole and with nothing behind it; see
            `opened`.
    """
    import numpy as np

    content = read_bytes(path, inside, MOST_ARRAY, cure)
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(file)
        if dtype.kind not in "fiu" or not all(type(size) is int and size > 0 for size in shape):
            raise _UnfitError(f"it contains {dtype} {shape}, which is not an array of numbers")
        claimed, there = math.prod(shape) * dtype.itemsize, len(content) - file.tell()
        if claimed != there:
            raise _UnfitError(f"its values should take {claimed:,} bytes, but there are {there:,}")
        file.seek(0)
        array = np.load(file, allow_pickle=False)
    except Exception as error:  # a header is read as Python, which fails in every way there is
        words = error if isinstance(error, _UnfitError) else f"not an array file ({error})"
        raise RunError(f"{path}: cannot be read: {words}. {cure}".rstrip()) from None
    return array, hashlib.sha256(content).hexdigest()
