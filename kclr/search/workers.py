"""Several processes on this machine: keras-tuner's chief and its workers, watched over."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from kclr.errors import RunError
from kclr.search.listening import SearchListener
from kclr.search.tuner import RESULT, result_of

CHIEF = "chief"
MOST_RESTARTS = 5  # of one worker
_LOGS = "logs"


def supervise(words: Sequence[str], out: Path, workers: int, listener: SearchListener) -> None:
    """Run a search's trials in several processes; a worker that is killed is started again.

    Where there are several GPUs, the workers take them by turns.

    Args:
        words: the command line that goes on with the search, `kclr` left out.
        out: the search's directory. What the processes say is in its `logs`.
        workers: how many, beside a chief that only answers them.
        listener: is told of the trials that end.

    Raises:
        RunError: a process failed; its last words are in the message.
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
                    last = "\n".join(log.splitlines()[-5:]) or "it said nothing"
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
                listener.warned(trial_id, message)
            listener.ended(trial_id, result)


def _free_port():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]
