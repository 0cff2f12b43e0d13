"""Several processes that share a search: the chief, watched over, and what it tells its workers.

keras-tuner's workers ask their chief over the network, and wait for an hour where nobody answers.
All share the search's directory, in which a file says that the chief lives, and how it ended.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from kclr.errors import RunError, reason
from kclr.events import Listener
from kclr.runs.paths import atomic
from kclr.runs.safe_reading import read_json
from kclr.search.tuner import RESULT, result_of, trial_ended, trial_warned

STATE = "chief.json"  # in the search's directory


BEAT = 2.0  # seconds between two signs of life


# Seconds without one until a worker gives up: time to start a chief again that was killed, and more
# than a network's disk needs to show what is new.
PATIENCE = 300.0


FIRST = 3600.0  # the same before there was any, as keras-tuner waits


SUCCESSOR = 30.0  # seconds for a new chief where the one before has ended


@contextlib.contextmanager
def leading(place: Path) -> Iterator[None]:
    """Tell a search's workers that its chief is alive while the block runs, and then how it
    ended."""
    state: dict[str, Any] = {"session": uuid.uuid4().hex, "beat": 0}
    ended = threading.Event()

    def write():
        with atomic(place / STATE) as temporary:
            temporary.write_text(json.dumps(state) + "\n", encoding="utf-8")

    def beat():
        while not ended.wait(BEAT):
            state["beat"] += 1
            with contextlib.suppress(OSError):  # a full disk, which the search itself will meet
                write()

    write()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
        state["ended"] = None
    except BaseException as error:
        state["ended"] = "it was interrupted" if _is_interrupt(error) else reason(error)
        raise
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError):
            write()


def _is_interrupt(error):
    return isinstance(error, (KeyboardInterrupt, SystemExit))


class Watch:
    """Checks a search's chief from time to time, for a worker that waits for it.

    Args:
        place: Path of the search. now: seconds on any clock.

    Attributes:
        alive: whether there was a sign of life since the watch began.
        finished: whether the chief has ended well.
    """

    def __init__(self, place: Path, now: float):
        self._place = place
        self.alive, self.finished = False, False
        self._since, self._last = now, self._read()

    def look(self, now: float) -> str | None:
        """Why it is useless to wait; None while it is not."""
        state = self._read()
        if state != self._last:
            self._since, self._last, self.alive = now, state, True
        if state and "ended" in state:
            if not self.alive and now - self._since < SUCCESSOR:
                return None  # it ended before this process began; there may be a new one soon
            self.finished = state["ended"] is None
            return f"has ended: {' '.join(str(state['ended'] or 'it is finished').split())}"
        patience = PATIENCE if self.alive else FIRST
        if now - self._since > patience:
            return f"has not responded for {patience:,.0f} seconds"
        return None

    def _read(self):
        try:
            state = read_json(self._place / STATE, self._place)
        except RunError:  # none, or half of one
            return None
        return state if isinstance(state, dict) else None

    def wait(self, seconds=BEAT / 4):
        """Wait a little for the chief.

        Raises:
            RunError: it failed, or does not respond.
        """
        self._refuse(self.look(time.monotonic()))
        time.sleep(seconds)

    def _refuse(self, why):
        if why:
            raise RunError(
                f"{self._place}: the chief of this search {why}. Restart the chief, then this "
                "worker: finished trials are kept."
            )

    def asking(self, stub) -> Any:
        """keras-tuner's stub for its questions, whose calls do not outlast the chief."""
        return _Asking(stub, self)

    def lost(self, error):
        """Say why a question had no answer: the chief's own reason, if it comes to give one."""
        for _ in range(int(4 * SUCCESSOR / BEAT)):
            self.wait()
        self._refuse(f"could not answer: {error}")


class _Asking:
    def __init__(self, stub, watch):
        self._stub, self._watch = stub, watch

    def __getattr__(self, name):
        import grpc

        def ask(request, **options):
            # Not the plain call, which hears no Ctrl-C while it waits.
            asked = getattr(self._stub, name).future(request, **options)
            try:
                while True:
                    with contextlib.suppress(grpc.FutureTimeoutError):
                        return asked.result(timeout=BEAT)
                    self._watch.wait(0)
            except grpc.RpcError as error:
                self._watch.lost(error.details())
            finally:
                asked.cancel()

        return ask


def watch_chief(place: Path) -> Watch | None:
    """Wait for the chief of a search; None if the search is already finished.

    Raises:
        RunError: the chief failed, or does not respond.
    """
    watch = Watch(place, time.monotonic())
    while not watch.alive:
        why = watch.look(time.monotonic())
        if watch.finished:
            return None
        watch._refuse(why)
        time.sleep(BEAT / 4)
    return watch


CHIEF = "chief"


MOST_RESTARTS = 5  # of one worker


_LOGS = "logs"


def supervise(words: Sequence[str], out: Path, workers: int, listener: Listener) -> None:
    """Run a search's trials in several processes; a worker that is killed is restarted.

    Several GPUs are distributed over the workers in turn.

    Args:
        words: the command line that continues the search, without `kclr`.
        out: the search's directory. The output of the processes is in its `logs`.
        workers: number of workers, besides a chief that only answers them.
        listener: receives an event for each trial that ends.

    Raises:
        RunError: a process failed; its last output is in the message.
    """
    port, gpus = _free_port(), len(tf.config.list_physical_devices("GPU"))
    running: dict[str, subprocess.Popen] = {}
    starts = dict.fromkeys([CHIEF, *(f"tuner{number}" for number in range(workers))], 0)
    known = {*out.glob(f"*/trial_*/{RESULT}")}

    def start(name):
        starts[name] += 1
        environment = os.environ | {
            "KERASTUNER_TUNER_ID": name,
            "KERASTUNER_ORACLE_IP": "127.0.0.1",
            "KERASTUNER_ORACLE_PORT": str(port),
        }
        if gpus > 1:
            number = "" if name == CHIEF else str(int(name.removeprefix("tuner")) % gpus)
            environment["CUDA_VISIBLE_DEVICES"] = number
        (out / _LOGS).mkdir(parents=True, exist_ok=True)
        with (out / _LOGS / f"{name}.txt").open("w") as log:
            running[name] = subprocess.Popen(
                [sys.executable, "-m", "kclr", *words], env=environment, stdout=log, stderr=log
            )

    try:
        for name in starts:
            start(name)
        while any(name != CHIEF for name in running):
            time.sleep(0.2)
            _tell(out, known, listener)
            for name, process in list(running.items()):
                status = process.poll()
                if status is None:
                    continue
                del running[name]
                if status < 0 and starts[name] <= MOST_RESTARTS and name != CHIEF:
                    start(name)  # killed: it goes on with its trial
                elif status != 0:
                    log = (out / _LOGS / f"{name}.txt").read_text(errors="replace").strip()
                    last = "\n".join(log.splitlines()[-5:]) or "no output"
                    raise RunError(f"{name} of the search ended with status {status}: {last}")
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _tell(out, known, listener):
    for path in sorted(out.glob(f"*/trial_*/{RESULT}")):
        if path not in known:
            known.add(path)
            trial_id = path.parent.name.removeprefix("trial_")
            result = result_of(path.parents[1], trial_id)
            for message in result.get("warnings", ()):
                listener.heard(trial_warned(trial_id, message))
            listener.heard(trial_ended(trial_id, result))


def _free_port():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]
