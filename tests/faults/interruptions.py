"""Commands that are interrupted at random moments, run out of disk, or find a damaged file.

Each case is a function of a work, a number and two directories, and gives a `Case`: what was done,
how often it struck, and what is wrong with what came of it. The same number does the same again,
but for the moments that are given in seconds.
"""

import contextlib
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field

from commands import WORKS, differences, end_of
from damage import damage
from processes import HUNG, Command, changes_of

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
INTERRUPTED = 130
FORKED = 0.9  # of the processes; the others import TensorFlow themselves
_PLENTY = 1 << 28  # bytes of a disk that has room for everything


@dataclass
class Case:
    """What one case came to.

    Attributes:
        fault: what was done to which command, as in the table.
        number: which repeats it.
        struck: how often it was done; 0 where the command had ended before.
        wrong: what is wrong with the end, in a line each; nothing is as it should be.
        did: what was done in detail.
    """

    fault: str
    number: int
    struck: int = 0
    wrong: list[str] = field(default_factory=list)
    did: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Whole:
    """An uninterrupted command: its end, its seconds, and its changes on the disk."""

    end: dict
    seconds: float
    changes: int
    bytes: int


def whole(name, ends) -> Whole:
    """Run a work undisturbed, and keep its end in `ends`, by its name.

    Raises:
        RuntimeError: even so it does not end well.
    """
    place = ends / name
    WORKS[name].prepare(place, ends)
    began = time.monotonic()
    command = Command(WORKS[name].first, place)
    status = command.finish()
    if status != 0:
        raise RuntimeError(f"kclr {' '.join(WORKS[name].first)}: {status}\n{command.said()}")
    folder = place / WORKS[name].out
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    seconds = time.monotonic() - began
    return Whole(end_of(WORKS[name], place), seconds, changes_of(place), size)


def half(ends, reference: Whole):
    """Keep a training that was killed while its second layer was trained, in `ends`."""
    for at in range(reference.changes // 2, 0, -3):
        place = ends / "interrupted"
        shutil.rmtree(place, ignore_errors=True)
        WORKS["train"].prepare(place, ends)
        Command(WORKS["train"].first, place, at=at, signum=signal.SIGKILL).finish()
        if list(place.glob("out/checkpoints/*.npz")) and list(place.glob("out/layers/01*")):
            return
    raise RuntimeError("no training was interrupted with a checkpoint")


def killed(name, number, place, ends, reference: Whole) -> Case:
    """Kill a command once to three times, let it go on each time, and compare the end."""
    work, choice = WORKS[name], random.Random(f"{name} {number}")
    case = Case(f"kclr {name}: killed", number)
    work.prepare(place, ends)
    words = work.first
    for _ in range(choice.choices((1, 2, 3), (6, 3, 1))[0]):
        signum = choice.choice(SIGNALS)
        part, at_change = choice.random(), choice.random() < 0.5
        forked = "--workers" in words or choice.random() < FORKED
        if at_change and forked:
            at = 1 + int(part * reference.changes)
            command = Command(words, place, at=at, signum=signum)
            status = command.finish()
            moment = f"before change {at} of {reference.changes} on the disk"
        else:
            seconds = part * reference.seconds + (0 if forked else 5)
            command = Command(words, place, forked=forked)
            status = command.wait(seconds)
            moment = f"after {seconds:.1f} s"
            if status is None:
                command.kill(signum)
                status = command.finish()
        case.struck += status != 0  # one that had ended before does not count
        case.did.append(f"{signum.name} {moment}: status {status}")
        case.wrong += _complaints(command, status, signum, work.saves)
        words = work.again
    _compare(case, work, place, reference, words)
    return case


def _complaints(command, status, signum=None, saves=True):
    """What is wrong with how a command ended that was disturbed."""
    wrong = []
    if status == HUNG:
        wrong.append("it hung")
    elif signum is not None:
        allowed = {0, -signum}
        if signum != signal.SIGKILL and (saves or signum == signal.SIGINT):
            allowed |= {INTERRUPTED}
        if status not in allowed:
            wrong.append(f"status {status} after {signum.name}: {_last(command)}")
    if "Traceback" in command.said():
        wrong.append(f"a traceback: {_last(command)}")
    return wrong


def _last(command):
    lines = [line for line in command.said().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no word"


def _compare(case, work, place, reference, words):
    """Let the command go on to its end, and add what is wrong with that."""
    command = Command(words, place)
    status = command.finish()
    if status != 0:
        case.wrong.append(f"it did not go on: status {status}: {_last(command)}")
        trace = place / work.out / "error.txt"
        if trace.is_file():
            case.wrong.append(trace.read_text(encoding="utf-8")[-3000:])
        return
    end = end_of(work, place)
    wrong = differences(end, reference.end)
    for file in wrong[:8]:
        words = "does not exist" if file not in end else "is left over"
        both = file in end and file in reference.end
        case.wrong.append(f"{file} {'differs' if both else words}")


def without_room(name, number, place, ends, reference: Whole) -> Case:
    """Let a command run out of disk, make room, let it go on, and compare the end.

    As root the disk is a tiny file system in memory; else no file may be larger than so much.
    """
    work, choice = WORKS[name], random.Random(f"{name} {number} disk")
    room = int(reference.bytes * choice.uniform(0.02, 1.0))
    inside = place / "work"
    with _disk(place) as resize:
        kind = "a disk that is full" if resize else "files that may not grow"
        case = Case(f"kclr {name}: {kind}", number)
        work.prepare(inside, ends)
        limit = None if resize else max(200, room // 8)
        if resize:
            resize(_blocks(place) + room)
        command = Command(work.first, inside, file_limit=limit)
        status = command.finish()
        case.struck = int(status != 0)
        case.did.append(f"{room:,} bytes of room: status {status}: {_last(command)}")
        case.wrong += _complaints(command, status)
        if status not in (0, 1, HUNG):
            case.wrong.append(f"status {status} instead of 1: {_last(command)}")
        if resize:
            resize(_PLENTY)
        _compare(case, work, inside, reference, work.again)
    return case


def _blocks(place):
    """Bytes that the files and directories below take on a disk."""
    return sum(-(-path.lstat().st_size // 4096) * 4096 + 4096 for path in place.rglob("*"))


@contextlib.contextmanager
def _disk(place):
    """A file system in memory, and a function that sets its bytes, or None without root."""
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_PLENTY},nr_inodes=10k", "none", str(place)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        yield None
        return

    def resize(size):
        remount = ["mount", "-o", f"remount,size={size}", str(place)]
        subprocess.run(remount, capture_output=True, check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


def damaged(name, number, place, ends, reference: Whole) -> Case:
    """Damage a file of a command that was interrupted, or had ended, and let it go on.

    It ends as an undisturbed one; or with the same arrays, and names the file whose content is
    lost; or refuses in words; then the file is put back, and it ends as an undisturbed one.
    """
    work, choice = WORKS[name], random.Random(f"{name} {number} damage")
    work.prepare(place, ends)
    if choice.random() < 0.6:
        at = 1 + int(choice.random() * reference.changes)
        Command(work.first, place, at=at, signum=signal.SIGKILL).finish()
    else:
        shutil.copytree(ends / name / work.out, place / work.out, symlinks=True)
    files = [p for p in sorted((place / work.out).rglob("*")) if p.is_file()]
    case = Case(f"kclr {name}: a damaged file, then --resume", number)
    if not files:
        return case
    # One in three of what is read again, and the rest of anything.
    vital = [p for p in files if p.suffix in (".npy", ".npz", ".json", ".jsonl", ".csv", ".key")]
    path = choice.choice(vital if vital and choice.random() < 0.7 else files)
    kept = place / "kept"
    shutil.copy2(path, kept)
    kind = damage(path, choice)
    case.did.append(f"{path.relative_to(place)}: {kind}")
    case.struck = 1
    command = Command(work.again, place)
    status = command.finish()
    case.did.append(f"status {status}: {_last(command)}")
    case.wrong += _complaints(command, status)
    if status == 0:
        end = end_of(work, place)
        told = path.name in command.said()
        for file in differences(end, reference.end)[:8]:
            if not told or file.endswith(".npy"):
                case.wrong.append(f"{file} differs and nobody was told")
        return case
    if status not in (1, 2, HUNG):
        case.wrong.append(f"status {status} instead of 1 or 2: {_last(command)}")
    if path.name not in command.said() and path.parent.name not in command.said():
        case.wrong.append(f"the file is not named: {_last(command)}")
    _put_back(kept, path)
    _compare(case, work, place, reference, work.again)
    return case


def _put_back(kept, path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(kept, path)
