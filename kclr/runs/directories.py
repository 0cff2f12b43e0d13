"""Directories that kclr writes: what each kind holds, what marks it, who may write or empty it.

A file `.kclr` marks a directory as kclr's and names its kind. Files in it that are not in the
kind's list are not kclr's: they are never removed, and a command that would remove them stops.
Links are never kclr's, and never followed.
"""

import contextlib
import errno
import functools
import json
import os
import re
import stat
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kclr.errors import RunError
from kclr.runs.paths import as_path, atomic, is_full, is_remote, recover, shown

MARKER = ".kclr"
LOCK = ".lock"
TRACE = "error.txt"  # what went wrong, line by line, when nobody foresaw it
FORMAT = 1
_OWN = (MARKER, LOCK, TRACE)
_NEVER_MARKED_BUT = 1000  # bytes: a longer file of the marker's name is none
_ENDS = ("summary.json", "results.json", "search.json", "layer.json")


@dataclass(frozen=True)
class Kind:
    """A kind of directory.

    Attributes:
        name: in the marker, and in words.
        command: that writes it.
        files: what kclr writes in it, from the directory on; `*` stands for any part of a name and
            `#` for a digit. A directory that stays empty ends in `/`.
        finished: the file that makes it finished.
        known_by: files that tell a directory of a kclr that set no marker.
        shared: whether other processes than the one with its lock write into its directories.
    """

    name: str
    command: str
    files: tuple[str, ...]
    finished: str = ""
    known_by: tuple[str, ...] = ()
    shared: bool = False

    @functools.cached_property
    def _pattern(self):
        return re.compile("|".join(map(_as_regex, self.files)))

    @functools.cached_property
    def _folders(self):
        parents = {
            "/".join(parts[:count]) + "/"
            for parts in (file.rstrip("/").split("/") for file in self.files)
            for count in range(1, len(parts))
        }
        return re.compile("|".join(map(_as_regex, sorted(parents))) or "$.")

    def writes(self, place: str) -> bool:
        """Whether kclr writes this file, or directory where it ends in `/`, at its place in such a
        directory; what a process that was killed left there counts too."""
        names: list[str] = []
        for name in place.rstrip("/").split("/"):
            names.append(shown(name) or name)
            known = "/".join(names)
            if shown(name) and (self._known(known) or self._known(f"{known}/")):
                return True
        return self._known("/".join(names) + "/" * place.endswith("/"))

    def _known(self, place):
        return bool(self._pattern.fullmatch(place) or self._folders.fullmatch(place))


def _as_regex(place):
    return re.escape(place).replace(r"\*", "[^/]*").replace(r"\#", "[0-9]")


def _below(folder, *files):
    return tuple(f"{folder}/{file}" for file in files)


SAVED_MODEL = Kind(
    "SavedModel",
    "kclr export",
    (
        "saved_model.pb",
        "fingerprint.pb",
        "variables/variables.*",
        "assets/",
        "assets.extra/kclr.json",
    ),
    known_by=("assets.extra/kclr.json",),
)
EXPORT = Kind(
    "export",
    "kclr export",
    (
        *_OWN,
        "model.keras",
        "model.onnx",
        "model.tflite",
        *_below("saved_model", *SAVED_MODEL.files),
    ),
    known_by=_below("saved_model", *SAVED_MODEL.known_by),
)
LAYER = Kind(
    "layer",
    "kclr train",
    ("kernel.npy", "bias.npy", "layer.json", "history.csv", "curves.png", "filters.png"),
)
CHECKPOINTS = Kind("directory of checkpoints", "kclr train", ("##-*.npz", "##-*.key"))
RUN = Kind(
    "run",
    "kclr train",
    (
        *EXPORT.files,
        *("spec.yaml", "resolved.yaml", "metrics.jsonl", "summary.json", "pictures.json"),
        *_below("layers/##-*", *LAYER.files),
        *_below("checkpoints", *CHECKPOINTS.files),
        *_below("exports/*", *EXPORT.files),
        "tensorboard/*/events.out.tfevents.*",
        *("profile.json", "tensorboard/*/plugins/profile/*/*.xplane.pb"),
    ),
    finished="summary.json",
    known_by=("spec.yaml", "resolved.yaml"),
)
TRANSFER = Kind(
    "transfer experiment",
    "kclr transfer",
    (
        *_OWN,
        *("spec.yaml", "resolved.yaml", "results.json", "results.csv", "probes/*.json"),
        f"probes/*.{TRACE}",
        *_below("units/*/labels-*", "seed-*.json", f"seed-*.{TRACE}"),
        *_below("pretrained", *RUN.files),
        *_below("pretrained-*", *RUN.files),
        *_below("end-to-end", *RUN.files),
        *_below("end-to-end-*", *RUN.files),
        *_below("supervised/seed-*", *RUN.files),
    ),
    finished="results.json",
    known_by=("spec.yaml", "resolved.yaml", "units"),
)
SEARCH = Kind(
    "search",
    "kclr search",
    (
        *_OWN,
        *("spec.yaml", "search.key", "best.yaml", "search.json", "trials.csv", "trials.png"),
        "chief.json",
        "logs/*.txt",
        "shared/*.lock",
        *_below("shared/*", *RUN.files),
        *_below("##-*", "oracle.json", "best.json"),
        *_below("##-*/trial_*", "trial.json", "result.json", TRACE),
        *_below("##-*/trial_*/run", *RUN.files),
    ),
    finished="search.json",
    known_by=("spec.yaml", "search.key"),
    shared=True,
)
# Those that are marked; a directory without a mark is of the first that its files tell of.
KINDS = (SEARCH, TRANSFER, RUN, EXPORT)


def kind_of(path) -> Kind | None:
    """What a directory of kclr is; None for other directories, and where there is none.

    Raises:
        RunError: a newer kclr wrote it.
    """
    path = as_path(path)
    facts = _marked(path / MARKER)
    if facts is None:
        return next((kind for kind in KINDS if _holds(path, kind.known_by)), None)
    if facts["format"] > FORMAT:
        raise RunError(
            f"{path} was written by a newer kclr: its format is {facts['format']}, but this "
            f"version knows {FORMAT}. Use the newer kclr, or choose another place with out=... "
            "(--out)."
        )
    return next(kind for kind in KINDS if kind.name == facts["kclr"])


def _marked(marker):
    """The content of a marker; None if there is none, or it is not kclr's."""
    try:
        if not is_remote(marker):
            found = os.lstat(marker)
            if not stat.S_ISREG(found.st_mode) or found.st_size > _NEVER_MARKED_BUT:
                return None
        facts = json.loads(marker.read_text(encoding="utf-8"))
        known = facts["kclr"] in [kind.name for kind in KINDS] and type(facts["format"]) is int
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return facts if known else None


def _holds(path, names):
    return bool(names) and all((path / name).exists() for name in names)


def mark(path, kind: Kind) -> None:
    """Mark a directory as one of kclr's; it is made where there is none."""
    path = as_path(path)
    if _marked(path / MARKER) is None:
        text = json.dumps({"kclr": kind.name, "format": FORMAT}) + "\n"
        with atomic(path / MARKER) as temporary:
            temporary.write_text(text, encoding="utf-8")


def contents(path, kind: Kind) -> tuple[list[str], list[str]]:
    """What is in a directory, by the place in it: kclr's files, and what is somebody else's.

    A directory ends in `/` and stands behind what is in it; somebody else's is not looked into.
    """
    ours: list[str] = []
    others: list[str] = []
    for place, own in _places(as_path(path), kind, ""):
        (ours if own else others).append(place)
    return ours, others


def _places(folder, kind, before):
    """Places below a directory, and whether they are kclr's, which no link or device is."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        place = f"{before}{entry.name}"
        remote = is_remote(entry)
        if entry.is_dir() and (remote or not entry.is_symlink()):
            own = kind.writes(f"{place}/")
            if own:
                yield from _places(entry, kind, f"{place}/")
            yield f"{place}/", own
        else:
            regular = remote or stat.S_ISREG(os.lstat(entry).st_mode)
            yield place, regular and kind.writes(place)


def write_trace(file, error: BaseException) -> bool:
    """Write the traceback of an error.

    Returns:
        Whether the file could be written.
    """
    lines = "".join(traceback.format_exception(error))
    try:
        with atomic(file) as temporary:
            temporary.write_text(lines, encoding="utf-8", errors="backslashreplace")
    except OSError:
        return False
    return True


def check_ours(path, kind: Kind) -> None:
    """Refuse to replace or empty a directory that has files in it that kclr did not write.

    Raises:
        RunError: it has, or cannot be looked into.
    """
    path = as_path(path)
    if not path.exists():
        return
    try:
        ours, others = contents(path, kind)
    except OSError as error:
        raise _unwritable(path, error) from None
    if kind.known_by and not _holds(path, kind.known_by) and _marked(path / MARKER) is None:
        others = others or ours  # they have the names of kclr's files, and no more
    if others:
        more = f" (and {len(others) - 1:,} more)" if others[1:] else ""
        raise RunError(
            f"{path} contains {others[0]}{more}, which kclr did not write. Nothing was removed. "
            "Move it elsewhere, or choose another place with out=... (--out)."
        )


def discard(path, kind: Kind, keep: Iterable[str] = ()) -> None:
    """Remove what kclr wrote in a directory, and then the directory where nothing else is in it.

    What makes it, or a layer in it, complete is removed first, and its marker last.

    Args:
        path: of the directory. kind: what it is. keep: places in it that stay.
    """
    path = as_path(path)
    if not path.exists():
        return

    def order(place):
        name = place.rpartition("/")[2]
        return place == MARKER, bool(name) and name not in _ENDS

    # The sort keeps directories, whose place ends in `/`, behind what is in them.
    places = [place for place in contents(path, kind)[0] if place not in keep]
    for place in sorted((p for p in places if p[-1] != "/"), key=order):
        (path / place).unlink(missing_ok=True)
    if is_remote(path):
        return  # which has no directories of its own
    for place in [*(place for place in places if place[-1] == "/"), ""]:
        with contextlib.suppress(OSError):  # something else is in it
            os.rmdir(path / place)


@contextlib.contextmanager
def writing(
    place, kind: Kind, resume=False, overwrite=False, apart: Iterable[Any] = ()
) -> Iterator[Any]:
    """A directory to write to while the block runs: made, marked, and locked for this process.

    Args:
        place: of the directory.
        kind: what it shall be.
        resume: continue what is there. overwrite: remove it first; `spec.yaml` stays until it is
            replaced.
        apart: directories that it must not lie in, since all in them is taken for pictures.

    Yields:
        Its path.

    Raises:
        RunError: it contains one of this kind, and neither `resume` nor `overwrite` is given; or
            something else, which is never removed; it cannot be written to; or another process is
            writing to it.
    """
    path = as_path(place)
    _check_place(path, apart)
    _check_held(path, kind, resume, overwrite)  # before anything is written there
    with _locked(path, kind):
        # Once more, for another process may have written there before it was locked.
        if _check_held(path, kind, resume, overwrite) and overwrite:
            discard(path, kind, keep=(LOCK, MARKER, "spec.yaml"))
        try:
            mark(path, kind)
            if not is_remote(path):
                _clean(path, kind)
            (path / TRACE).unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(path, error) from None
        yield path


@contextlib.contextmanager
def sharing(place, names: Iterable[str], lock=True) -> Iterator[None]:
    """A directory for an export, created, marked, and locked for this process while the block runs;
    it may contain other files.

    Args:
        place: of the directory. names: of what will be written there, or replaced where it is
            kclr's. lock: False where this process has the lock already.

    Raises:
        RunError: one of these is somebody else's, or the directory is of another kind; or another
            process writes to it.
    """
    path = as_path(place)
    _check_place(path)
    _check_shared(path, names)  # before anything is written there
    with _locked(path, EXPORT) if lock else contextlib.nullcontext():
        if _check_shared(path, names) is None:
            try:
                mark(path, EXPORT)
            except OSError as error:
                raise _unwritable(path, error) from None
        yield


def _check_shared(path, names) -> Kind | None:
    """What a directory is that an export may be written to.

    Raises:
        RunError: it may not.
    """
    try:
        found = kind_of(path)
        if found is None:
            taken = next((name for name in names if os.path.lexists(path / name)), None)
            if taken:
                raise RunError(
                    f"{path} contains {taken}, which kclr did not write; it was not changed. Move "
                    "it elsewhere, or choose another place with out=... (--out)."
                )
        elif found not in (EXPORT, RUN):
            raise RunError(
                f"{path} contains a {found.name}, and `kclr export` does not write into one. "
                "Choose another place with out=... (--out)."
            )
    except OSError as error:
        raise _unwritable(path, error) from None
    return found


def _check_place(path, apart=()):
    """Refuse what can be no directory of kclr, whatever is in it."""
    if is_remote(path):
        return
    try:
        if path.is_symlink() and not path.exists():
            raise RunError(
                f"{path} is a link to {os.readlink(path)}, which does not exist. Create that "
                "directory, or choose another place with out=... (--out)."
            )
        for directory in (path, *path.parents):
            if directory.exists() and not directory.is_dir():
                inside = "" if directory == path else f", so {path} cannot be in it"
                raise RunError(
                    f"{directory} is a file{inside}. Choose another place with out=... (--out)."
                )
        resolved = path.resolve()
        for pictures in (Path(each).expanduser() for each in apart):
            if not resolved.is_relative_to(pictures.resolve()):
                continue
            within = resolved.relative_to(pictures.resolve()).parts
            if not any(part.startswith(".") for part in within):  # which nobody takes for pictures
                where = "is in" if within else "is"
                raise RunError(
                    f"{path} {where} the folder of training pictures, {pictures}: pictures that "
                    "kclr writes would be used for training. Choose another place with out=... "
                    "(--out)."
                )
    except RunError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise _unwritable(path, error) from None


def _check_held(path, kind, resume, overwrite) -> bool:
    """Whether a directory has something to continue or to remove, and may be used so.

    Raises:
        RunError: it may not, or what it holds is nothing of this kind.
    """
    try:
        if not path.is_dir() or not any(entry.name not in _OWN for entry in path.iterdir()):
            return False
    except OSError as error:
        raise _unwritable(path, error) from None
    found = kind_of(path)
    if found is None:
        raise RunError(
            f"{path} {_in_words(path)}and kclr did not create it; nothing in it was changed. "
            "Choose a new or empty directory with out=... (--out)."
        )
    state = "a finished" if (path / found.finished).exists() else "an unfinished"
    state = f"{state} {found.name}" if found.finished else "an export"
    if found is not kind:
        raise RunError(
            f"{path} contains {state}, and `{kind.command}` does not write into one. Choose "
            "another place with out=... (--out)."
        )
    if overwrite:
        check_ours(path, kind)
    elif not resume:
        raise RunError(
            f"{path} contains {state}. Continue it with resume=True (--resume; finished parts are "
            "kept), replace it with overwrite=True (--overwrite; it is lost), or choose another "
            "place with out=... (--out)."
        )
    return True


def _in_words(path):
    """What a directory is that is not empty and none of kclr's."""
    if is_remote(path):
        return "is not empty, "
    places = {
        Path.cwd(): "is the current directory, ",
        Path(os.path.expanduser("~")).resolve(): "is your home directory, ",
        Path(path.resolve().anchor): "is the root directory, ",
    }
    return places.get(path.resolve(), "is not empty, ")


@contextlib.contextmanager
def _locked(path, kind):
    """Make a directory, and keep other processes from writing to it while the block runs."""
    with contextlib.ExitStack() as stack:
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not is_remote(path):
                stack.enter_context(locked(path / LOCK, wait=False))
        except BlockingIOError:
            raise RunError(
                f"{path}: another process is writing to this {kind.name}. Wait until it has "
                "ended, or choose another place with out=... (--out)."
            ) from None
        except OSError as error:
            raise _unwritable(path, error) from None
        yield


@contextlib.contextmanager
def locked(file, wait=True) -> Iterator[None]:
    """Keep other processes from the same lines while the block runs, where the disk has locks.

    The lock goes with the process, however that ends. Windows has none.

    Args:
        file: Path of the lock, which stays; or of a directory, in which nothing is left then.
        wait: for another process to end the block.

    Raises:
        BlockingIOError: another process is in it, and there is no waiting.
    """
    if os.name == "nt":
        yield
        return
    import fcntl

    flags = os.O_RDONLY if os.path.isdir(file) else os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    descriptor = os.open(file, flags, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            # Of these NFS has the last one, for a directory.
            without = errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EBADF
            if error.errno not in without:
                raise
        yield
    finally:
        os.close(descriptor)


def _unwritable(path, error):
    words = getattr(error, "strerror", None) or error
    cure = "Free disk space" if is_full(error) else "Fix that"
    return RunError(
        f"{path} cannot be written to: {words}. {cure}, or choose another place with out=... "
        "(--out)."
    )


def _clean(folder, kind, before=""):
    """Finish what processes that were killed left half done. Only for who has the lock.

    Directories with a marker of their own, which have their own lock, are left alone.
    """
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        place = f"{before}{entry.name}"
        if entry.is_symlink() or not kind.writes(place + "/" * entry.is_dir()):
            continue
        if shown(entry.name):
            recover(entry.with_name(shown(entry.name)))
        elif entry.is_dir() and not kind.shared and not (entry / MARKER).exists():
            _clean(entry, kind, f"{place}/")
