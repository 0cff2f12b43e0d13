"""Where runs are kept: a file system, or an object store (`gs://`, `s3://`) by etils.epath."""

import contextlib
import csv
import ctypes
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LAST = ("layer.json", "summary.json")  # what makes a directory that is being copied complete


# What `atomic` calls a file or directory while it is being written, and an old one set aside.
_PART, _OLD = "part", "old"


_HIDDEN = re.compile(rf"\.(?P<stem>.+)\.({_PART}|{_OLD})(?P<suffix>\.[^.]*)?")


def as_path(place) -> Any:
    """A place, as text or as a path, as a path: pathlib's, or for `gs://` and the like epath's."""
    text = os.fspath(place)
    if "://" not in text:
        return Path(text)
    from etils import epath

    return epath.Path(text)


def is_remote(path) -> bool:
    """Whether a path is in an object store, without locks and atomic renames."""
    return "://" in os.fspath(path)


@contextlib.contextmanager
def atomic(path) -> Iterator[Path]:
    """A path to write a file or directory at; it takes `path`'s place when the block ends well.

    On a file system it lies beside `path` and is renamed, once all of it is on the disk: whatever
    happens to the process or the power, `path` is as it was or as it shall be. For an object store
    it lies on this machine and is copied there, the file that makes a directory complete as the
    last; a single file appears whole there too.
    """
    path = as_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="kclr-") as folder:
            temporary = Path(folder, path.name)
            yield temporary
            _copy(temporary, path)
        return
    recover(path)
    temporary = _hidden(path, _PART)
    try:
        yield temporary
        _sync(temporary)
        _put(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            recover(path)
        if isinstance(error, OSError):
            raise _told(error, path) from error.__cause__
        raise
    _sync_entries(path.parent)


def _hidden(path, what):
    return path.with_name(f".{path.stem}.{what}{path.suffix}")


def shown(name) -> str | None:
    """The name of what `atomic` writes or sets aside under a hidden one; None for other names."""
    found = _HIDDEN.fullmatch(name)
    return found and found["stem"] + (found["suffix"] or "")


def recover(path) -> None:
    """Remove what a process that was killed in `atomic(path)` left, and put back what it set aside.

    Only for the process that may write `path`.
    """
    old = _hidden(path, _OLD)
    if os.path.lexists(old) and not os.path.lexists(path):
        os.replace(old, path)
    for leftover in (old, _hidden(path, _PART)):
        remove(leftover)


def _put(temporary, path):
    """Rename a file or directory over another one, which is there until the new one is."""
    if not (temporary.is_dir() and path.is_dir() and not path.is_symlink()):
        os.replace(temporary, path)
    elif _exchange(temporary, path):
        remove(temporary)
    else:
        os.replace(path, _hidden(path, _OLD))
        os.replace(temporary, path)
        remove(_hidden(path, _OLD))


def _exchange(one, other):
    """Swap two directories atomically; False if the system or the disk cannot."""
    try:
        swap = ctypes.CDLL(None).renameat2  # of Linux
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return swap(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _sync(path):
    """Wait until a file, or all of a directory, is on the disk."""
    if not path.is_dir():
        _flush(path)
        return
    for file in files(path):
        if not file.is_symlink():
            _flush(file)
    for folder, _, _ in os.walk(path):
        _sync_entries(folder)


def _flush(path):
    if os.name == "nt":  # where a file that was opened to be read cannot be waited for
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_entries(folder):
    """Wait until a directory's names are on the disk, where the disk can tell."""
    with contextlib.suppress(OSError):
        _flush(folder)


def _told(error, path):
    """An error of writing a file, with what it leaves out: the place, and that the disk is full."""
    if error.errno is None and re.fullmatch(r"\d+ requested and \d+ written", str(error)):
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # numpy says no more
    if error.filename is None and error.errno is not None:
        error.filename = str(path)
    return error


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, is that a disk or a quota is full."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if os.strerror(errno.ENOSPC) in str(error):  # all that TensorFlow's errors say
            return True
        error = error.__cause__ or error.__context__
    return False


def _copy(local, path):
    if not local.is_dir():
        path.write_bytes(local.read_bytes())
        return
    for name in _LAST:
        (path / name).unlink(missing_ok=True)
    written = set()
    for file in sorted(files(local), key=lambda file: (file.name in _LAST, file)):
        target = path / file.relative_to(local).as_posix()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
        written.add(os.fspath(target))
    for file in [*files(path)]:
        if os.fspath(file) not in written:
            file.unlink()


def remove(path) -> None:
    """Remove a file or directory that may not be there; a link itself, never what it points to."""
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


def is_there(path) -> bool:
    """Whether something has this name, a link to nothing included."""
    return path.exists() if is_remote(path) else os.path.lexists(path)


def files(folder) -> Iterator[Any]:
    """The paths of all files in a directory and below it; links to directories are not followed."""
    for entry in as_path(folder).iterdir():
        if entry.is_dir() and (is_remote(entry) or not entry.is_symlink()):
            yield from files(entry)
        else:
            yield entry


def append(path, text) -> None:
    """Add text to a file, all of it or nothing; in an object store by writing all of it again."""
    if is_remote(path):
        before = path.read_text() if path.exists() else ""
        path.write_text(before + text)
        return
    left = memoryview(text.encode())
    with path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(end)
            raise _told(error, path) from None


def write_csv(path, rows) -> None:
    """Write dictionaries, with a column for every key that one of them has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
