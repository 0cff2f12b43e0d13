"""Where runs are kept: a file system, or an object store (`gs://`, `s3://`) by etils.epath."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LAST = ("layer.json", "summary.json")  # what makes a directory that is being copied complete


def as_path(place) -> Any:
    """A place, as text or as a path, as a path: pathlib's, or for `gs://` and the like epath's."""
    text = os.fspath(place)
    if "://" not in text:
        return Path(text)
    from etils import epath

    return epath.Path(text)


def is_remote(path) -> bool:
    """Whether a path is one of an object store: no locks, nothing is renamed in one go."""
    return "://" in os.fspath(path)


@contextlib.contextmanager
def atomic(path) -> Iterator[Path]:
    """A path to write a file or directory at; it takes `path`'s place when the block ends well.

    On a file system it lies beside `path` and is renamed. For an object store it lies on this
    machine and is copied there, the file that makes a directory complete as the last; a single
    file appears whole there too.
    """
    path = as_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="kclr-") as folder:
            temporary = Path(folder, path.name)
            yield temporary
            _copy(temporary, path)
        return
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    remove(temporary)
    try:
        yield temporary
        if path.is_dir():
            remove(path)
        os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def _copy(local, path):
    if not local.is_dir():
        path.write_bytes(local.read_bytes())
        return
    remove(path)
    for file in sorted(files(local), key=lambda file: (file.name in _LAST, file)):
        target = path / file.relative_to(local).as_posix()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())


def remove(path) -> None:
    """Remove a file or directory that may not be there."""
    path = as_path(path)
    if is_remote(path):
        if path.is_dir():
            path.rmtree()
        else:
            path.unlink(missing_ok=True)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def files(folder) -> Iterator[Any]:
    """The paths of all files in a directory and below it."""
    for entry in as_path(folder).iterdir():
        if entry.is_dir():
            yield from files(entry)
        else:
            yield entry


def append(path, text) -> None:
    """Add text to a file; in an object store by writing all of it again."""
    if is_remote(path):
        before = path.read_text() if path.exists() else ""
        path.write_text(before + text)
        return
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
