"""Many cases in a few processes: one that hangs, dies or fills the memory costs one case.

A case is a function of its number that gives None, or what is wrong in words.
"""

import contextlib
import os
import resource
import select
import signal
import struct
import sys
import time
import traceback

HANGS = 300.0  # seconds without a word of a worker, on a busy machine
MEMORY = 4 << 30  # bytes that a worker may map on top of what it begins with


def sweep(make, numbers, jobs, chunk, tell=print, done=None, patience=HANGS):
    """Run cases, and gather what is wrong by kind.

    Args:
        make: gives the function of a number that is a case; called in each worker.
        numbers: a range of them.
        jobs: processes at once. chunk: cases for which one process is used.
        tell: is told of each kind of finding when it is first seen, and how far it is.
        done: is told what a case says, where that is not a finding but its result.
        patience: seconds without a word after which a worker hangs.

    Ctrl-C ends it; what was tried until then counts.

    Returns:
        How many were tried, and for each kind of finding its number, a first case and its words.
    """
    chunks = [numbers[i : i + chunk] for i in range(0, len(numbers), chunk)][::-1]
    workers: dict[int, _Worker] = {}
    found: dict[str, list] = {}
    tried = 0
    told = time.monotonic()
    try:
        while chunks or workers:
            while chunks and len(workers) < jobs:
                worker = _Worker(make, chunks.pop())
                workers[worker.pipe] = worker
            ready, _, _ = select.select(list(workers), [], [], 1.0)
            for pipe, worker in list(workers.items()):
                results = worker.read() if pipe in ready else []
                for number, wrong in results:
                    tried += 1
                    if wrong and done:
                        done(wrong)
                    elif wrong:
                        _note(found, number, wrong, tell)
                if worker.over or worker.silent() > patience:
                    del workers[pipe]
                    words = worker.end()
                    if worker.left:  # the one that it died of is a finding, the others come again
                        tried += 1
                        _note(found, worker.left[0], words, tell)
                        if worker.left[1:]:
                            chunks.append(worker.left[1:])
            if time.monotonic() - told > 60:
                told = time.monotonic()
                tell(f"{tried:,} of {len(numbers):,}, {len(found)} kinds of finding")
    except KeyboardInterrupt:
        tell(f"interrupted after {tried:,} of {len(numbers):,}")
        for worker in workers.values():
            worker.end()
    return tried, {kind: tuple(own) for kind, own in found.items()}


def _note(found, number, wrong, tell):
    kind = kind_of(wrong)
    if kind not in found:
        found[kind] = [0, number, wrong]
        tell(f"case {number}: {kind}")
    found[kind][0] += 1


def kind_of(wrong) -> str:
    """What makes two findings the same one: of a trace, its error and its last place in kclr."""
    lines = [line.strip() for line in wrong.strip().splitlines()]
    places = [line for line in lines if line.startswith("File ") and "/kclr/" in line]
    last = lines[-1].split(":")[0][:80] if "Traceback" in wrong else lines[0].split(":")[0]
    return f"{last} at {places[-1].rpartition('/kclr/')[2]}" if places else last


class _Worker:
    """A forked process that does some cases, and says after each of them what came of it."""

    def __init__(self, make, numbers):
        self.left = list(numbers)
        self.over = False
        self._buffer = b""
        self._heard = time.monotonic()
        self.pipe, write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if not self._pid:
            os.close(self.pipe)
            status = 1
            try:
                _work(make, numbers, write)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(write)

    def read(self):
        """The results since the last call: numbers, and what is wrong or None."""
        block = os.read(self.pipe, 1 << 16)
        self._heard = time.monotonic()
        self.over = not block
        self._buffer += block
        results = []
        while len(self._buffer) >= 4:
            size = struct.unpack("<I", self._buffer[:4])[0]
            if len(self._buffer) < 4 + size:
                break
            words = self._buffer[4 : 4 + size].decode("utf-8", "replace")
            self._buffer = self._buffer[4 + size :]
            results.append((self.left.pop(0), words or None))
        return results

    def silent(self):
        """Seconds since it last said something."""
        return time.monotonic() - self._heard

    def end(self):
        """End it, and say how it ended."""
        hung = not self.over
        if hung:
            os.kill(self._pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        os.close(self.pipe)
        return "it hung" if hung else f"the process died with status {status}"


def _work(make, numbers, pipe):
    limit = _mapped() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    case = make()
    for number in numbers:
        words = (case(number) or "").encode("utf-8", "backslashreplace")
        message = struct.pack("<I", len(words)) + words
        while message:
            message = message[os.write(pipe, message) :]


def _mapped():
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
    return 0
