"""Commands of kclr in processes of their own, which are watched, limited and killed.

TensorFlow takes seconds to import. So a process that has imported it, and done nothing with it
yet, is the parent of those that are killed: a forked child is as one that was just started. Some
are started from nothing all the same.
"""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HANGS = 400.0  # seconds after which a command hangs; it takes 20 on a busy machine
HUNG = "hung"
_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def import_everything():
    """Import what the commands import, before the first of them is forked."""
    import kclr.cli

    # Not `list_physical_devices`, which may start threads; a forked child has none of them.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras_tuner  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import sklearn.cluster  # noqa: F401
    import tensorflow  # noqa: F401

    import kclr.report.page
    import kclr.search.running
    import kclr.stack
    import kclr.transfer.experiment  # noqa: F401


class Changes:
    """Counts what a process changes on the disk below a directory, and may end it at one of these.

    Python tells its audit hooks before it opens, renames or removes a file, so the process ends
    just before the change, in the midst of whatever makes it.
    """

    def __init__(self, place, at=None, signum=signal.SIGKILL):
        self.place, self.at, self.signum = str(place), at, signum
        self.count = 0
        sys.addaudithook(self._heard)

    def _heard(self, event, arguments):
        if event == "open":
            path, mode, flags = arguments
            writes = set("wax+") & set(mode) if isinstance(mode, str) else (flags or 0) & _WRITES
            if not writes:
                return
        elif event in _CHANGES:
            path = arguments[0]
        else:
            return
        if not isinstance(path, str | os.PathLike):
            return
        if os.path.abspath(os.fspath(path)).startswith(self.place):
            self.count += 1
            if self.count == self.at:
                os.kill(os.getpid(), self.signum)


class Command:
    """A command that runs.

    Args:
        words: its arguments, after `kclr`.
        place: where it is run; `log` is its output there.
        forked: as a child of this process, which has imported TensorFlow; or from nothing.
        at: the number of the change on the disk at which it gets `signum`; None for none.
        file_limit: the bytes that a file may have at most.
    """

    def __init__(self, words, place, forked=True, at=None, signum=None, file_limit=None):
        self.words, self.place = words, Path(place)
        self.log = self.place / "log"
        self.started = time.monotonic()
        self._process = None
        with self.log.open("ab") as log:
            if forked:
                self.pid = self._fork(log, at, signum, file_limit)
                return
            arguments = [sys.executable, "-m", "kclr", *words]
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            self._process = subprocess.Popen(
                arguments, cwd=place, stdout=log, stderr=log, env=environment,
                start_new_session=True,
            )  # fmt: skip
            self.pid = self._process.pid

    def _fork(self, log, at, signum, file_limit):
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return pid
        status = 70
        try:
            os.setsid()
            os.chdir(self.place)
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if file_limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
            changes = Changes(self.place, at, signum)
            status = _main(self.words)
            (self.place / "changes").write_text(str(changes.count))
        finally:
            os._exit(status)

    def ended(self):
        """The exit status, negative for a signal; None while it runs."""
        if self._process is not None:
            return self._process.poll()
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def wait(self, until=HANGS):
        """The exit status, None where it runs for longer than so many seconds from its start."""
        while (status := self.ended()) is None:
            if time.monotonic() - self.started > until:
                return None
            time.sleep(0.02)
        return status

    def kill(self, signum):
        """Send a signal: SIGKILL to all of its processes, another to the first."""
        with contextlib.suppress(ProcessLookupError):
            if signum == signal.SIGKILL:
                os.killpg(self.pid, signum)
            else:
                os.kill(self.pid, signum)

    def finish(self):
        """The exit status, or `HUNG` of one that takes longer than any should and is ended."""
        status = self.wait()
        if status is None:
            self.kill(signal.SIGKILL)
            self.wait(float("inf"))
            return HUNG
        return status

    def said(self):
        """All that was printed in this place."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def _main(words):
    from kclr.cli import main

    try:
        status = main(list(words))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 70
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    return status


def changes_of(place) -> int:
    """How often the last command that ended by itself has changed something on the disk."""
    return int((Path(place) / "changes").read_text())
