"""What identifies images: hashes of all of their content.

Files are hashed byte for byte, in threads. The hashes of a large folder are kept in the user's
cache directory, so that resuming a run does not read every picture again: a file counts as known
while its path, size, inode and times of change are the same.
"""

import hashlib
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from kclr.spec.wording import printable

# Told how many of how many pictures are hashed.
Tell = Callable[[int, int], None]

LISTED = 10_000  # pictures that are told apart one by one; of more there is one hash alone
_BLOCK = 1 << 20
_AT_ONCE = 2048  # files between two words of how it goes
# A file may change twice within the grain of its times, as some file systems keep them.
_GRAIN = 2 * 10**9  # ns
# Less is hashed in a moment, and is not worth a file in somebody's home.
_WORTH_BYTES, _WORTH_FILES = 1 << 26, 2000
_HEADER = b"kclr checksums 1\n"
_SIZE = 16  # bytes of a hash

_known: dict[bytes, bytes] = {}  # hashes of files in this process, by what `_state` says of them


@dataclass(frozen=True)
class Contents:
    """Hashes that identify images.

    Attributes:
        digest: changes when any picture changes, comes, goes or moves to another place in the
            order.
        count: of the pictures or files that were hashed; None where it is not known.
        pictures: a short hash of each, by name; empty where they are more than `LISTED`.
    """

    digest: str
    count: int | None
    pictures: Mapping[str, str]


def digest(*values) -> str:
    """A short hash of values that have a stable `repr`."""
    return hashlib.blake2b(
        repr(values).encode("utf-8", "surrogateescape"), digest_size=_SIZE
    ).hexdigest()


def array_digest(*arrays) -> str:
    """A short hash of arrays: of their types, shapes and every number."""
    import numpy as np

    made = hashlib.blake2b(digest_size=_SIZE)
    for array in arrays:
        made.update(f"{array.dtype} {array.shape}".encode())
        made.update(
            np.ascontiguousarray(array).view(np.uint8).reshape(-1).data if array.size else b""
        )
    return made.hexdigest()


def of_pictures(pictures: Iterable[tuple[str, list[Any]]]) -> Contents:
    """Contents of decoded pictures.

    Args:
        pictures: name and images of each, in order. One without images counts for nothing.
    """
    return _contents((name, _of_images(images)) for name, images in pictures if images)


def _of_images(images):
    made = hashlib.blake2b(digest_size=_SIZE)
    for image in images:
        made.update(f"{image.dtype} {image.shape}".encode())
        made.update(image.tobytes())
    return made.digest()


def of_files(root, files: Mapping[str, Any], tell: Tell | None = None) -> Contents:
    """Contents of files, byte for byte.

    Args:
        root: text that is the same when the same files are hashed again: their directory.
        files: paths by name, in order.
        tell: receives progress events if it takes a while.
    """
    place = cache_folder() / "checksums" / digest(os.path.abspath(root))
    states = {name: _state(path) for name, path in files.items()}
    if any(state and state not in _known for state in states.values()):
        _known.update(_read(place))
    new = {name: path for name, path in files.items() if states[name] not in _known}
    hashed, read = _hashed(new, len(files), tell)
    found = hashed | {name: _known[state] for name, state in states.items() if state in _known}
    if read > _WORTH_BYTES or len(new) > _WORTH_FILES:
        _write(place, {state: _known[state] for state in states.values() if state in _known})
    return _contents((name, found[name]) for name in files)


def _hashed(files, total, tell):
    """The hashes of files by name, and how many bytes were read."""
    found, read = {}, 0
    waiting = iter(files.items())
    done = total - len(files)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="kclr-hash") as threads:
        while block := list(islice(waiting, _AT_ONCE)):
            for (name, _), (own, size) in zip(
                block, threads.map(_hash, (path for _, path in block)), strict=True
            ):
                found[name] = own
                read += size
            done += len(block)
            if tell and (done < total or total > _AT_ONCE):
                tell(done, total)
    return found, read


def _contents(named: Iterable[tuple[str, bytes]]) -> Contents:
    made, count, pictures = hashlib.blake2b(digest_size=_SIZE), 0, {}
    for name, own in named:
        made.update(f"{name!r} ".encode("utf-8", "backslashreplace") + own)
        count += 1
        if count <= LISTED:
            pictures[printable(name)] = own.hex()[:16]
    return Contents(made.hexdigest(), count, pictures if count <= LISTED else {})


def _state(path):
    """What identifies a file that was hashed; None if the file cannot be read."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return _key(path, found)


def _key(path, found):
    facts = (os.path.abspath(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    words = repr((*facts, found.st_ino)).encode("utf-8", "backslashreplace")
    return hashlib.blake2b(words, digest_size=_SIZE).digest()


def _hash(path):
    """A file's hash, and its bytes; what cannot be read has a hash too, until it can be."""
    made = hashlib.blake2b(digest_size=_SIZE)
    began = time.time_ns()
    try:
        # Without waiting for who writes to a pipe.
        file = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
        with open(file, "rb", buffering=0) as opened:
            before = os.fstat(file)
            if not stat.S_ISREG(before.st_mode):
                return b"not a regular file", 0
            while block := opened.read(_BLOCK):
                made.update(block)
            key = _key(path, before)
            changed = max(before.st_mtime_ns, before.st_ctime_ns)
            if began - changed > _GRAIN and key == _key(path, os.fstat(file)):
                _known[key] = made.digest()
            return made.digest(), before.st_size
    except OSError:
        return b"cannot be read", 0


def cache_folder() -> Path:
    """The user's cache directory."""
    home = Path.home()
    if os.environ.get("XDG_CACHE_HOME"):
        base = Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    elif os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        base = home / ".cache"
    return base / "kclr"


def _read(place):
    """The hashes that a file remembers; none where it does not exist, or not whole."""
    try:
        text = place.read_bytes()
    except OSError:
        return {}
    records, check = text[len(_HEADER) : -_SIZE], text[-_SIZE:]
    whole = hashlib.blake2b(records, digest_size=_SIZE).digest() == check
    if not (text.startswith(_HEADER) and whole and len(records) % (2 * _SIZE) == 0):
        return {}
    return {
        records[start : start + _SIZE]: records[start + _SIZE : start + 2 * _SIZE]
        for start in range(0, len(records), 2 * _SIZE)
    }


def _write(place, known):
    records = b"".join(key + own for key, own in known.items())
    check = hashlib.blake2b(records, digest_size=_SIZE).digest()
    with suppress(OSError):  # a home that is full or may not be written to: hashed anew next time
        place.parent.mkdir(parents=True, exist_ok=True)
        # Each process its own, so that no two write to one file.
        with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as file:
            file.write(_HEADER + records + check)
        os.replace(file.name, place)
