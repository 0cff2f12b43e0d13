"""The workers of a cluster: TF_CONFIG, and a cluster on this machine alone.

No TensorFlow is needed here.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from kclr.errors import RunError

GRACE_SECONDS = 20.0  # that the others have to end by themselves after one has ended


@dataclass(frozen=True)
class Task:
    """Which worker of a cluster a process is.

    Attributes:
        index: int, from 0, which is the chief.
        workers: int, all of the cluster.
    """

    index: int
    workers: int

    def __str__(self):
        return f"worker {self.index} of {self.workers}"


ONLY = Task(0, 1)
_LIBC: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


def task_from_environment() -> Task:
    """What TF_CONFIG, in the form that TensorFlow documents, says of this process.

    One worker may be listed separately as "chief"; otherwise the first is the chief.

    Raises:
        RunError: it is not set, or says something else.
    """
    example = (
        'as in {"cluster": {"worker": ["10.0.0.1:12345", "10.0.0.2:12345"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise RunError(
            "train.distribute: multi-worker needs the environment variable TF_CONFIG on each "
            f"machine, {example}. To try it on this machine alone: kclr train ... --workers 2"
        )
    try:
        config = json.loads(text)
        cluster, kind = config["cluster"], config["task"]["type"]
        hosts = [*cluster.get("chief", ()), *cluster.get("worker", ())]
        own = int(config["task"]["index"])
        index = own + (len(cluster.get("chief", ())) if kind == "worker" else 0)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise RunError(f"TF_CONFIG is {text[:200]!r}. Write it {example}.") from None
    if kind not in ("chief", "worker"):
        raise RunError(
            f"TF_CONFIG: the task's type is {kind!r}. kclr trains only with chief and workers."
        )
    if not 0 <= index < len(hosts):
        raise RunError(
            f"TF_CONFIG: the task is {kind} {own}, but the cluster has {len(hosts)} in total. "
            "Count from 0."
        )
    return Task(index, len(hosts))


def launch(command, workers, again) -> None:
    """Run a command as each of the workers of a cluster on this machine, until all have ended.

    The chief's output is shown; that of another worker where it fails by itself.

    Args:
        command: list of str, which reads TF_CONFIG.
        workers: int, how many.
        again: str, the command that continues.

    Raises:
        RunError: one of them failed; the others are ended then.
        SystemExit: with the chief's status, where the chief failed and has said why.
        KeyboardInterrupt: after the workers have ended.
    """
    hosts = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
    with ExitStack() as stack:
        outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(workers)]
        processes: list[subprocess.Popen] = []
        # The chief as the first: it saves its state between two steps, which take all workers.
        stack.callback(lambda: [_end(process) for process in processes])
        for index, output in enumerate(outputs):
            task = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
            hidden = output if index else None
            # Ctrl-C is for this process, which passes it on.
            process = subprocess.Popen(
                command,
                env=os.environ | {"TF_CONFIG": json.dumps(task)},
                stdin=subprocess.DEVNULL,
                stdout=hidden,
                stderr=hidden,
                start_new_session=True,
                preexec_fn=_end_with_parent if _LIBC else None,
            )
            processes.append(process)
        failed = _first_failure(processes)
        for process in processes:
            _wait(process, GRACE_SECONDS)
            _end(process)
        if failed is None:
            return
        status = processes[failed].returncode
        if failed == 0 and status > 0:
            raise SystemExit(status)
        outputs[failed].seek(0)
        said = outputs[failed].read().decode(errors="replace").strip().splitlines()
        how = f"was ended by signal {-status}" if status < 0 else f"failed with status {status}"
        raise RunError(
            f"worker {failed} of {workers} {how}, so the others were ended. Continue with: {again}"
            + "".join(f"\n  {line}" for line in said[-5:])
        )


def _end_with_parent():
    """If the parent is killed, this process gets SIGTERM, and does not train on unseen."""
    _LIBC.prctl(_DEATH_SIGNAL, signal.SIGTERM)


def _first_failure(processes):
    """Wait until the chief has ended well (None), or any has not (its number)."""
    while True:
        states = [process.poll() for process in processes]
        failed = [index for index, state in enumerate(states) if state]
        if failed:
            killed = [index for index in failed if states[index] < 0]
            return (killed or failed)[0]
        if states[0] == 0:
            return None
        time.sleep(0.05)


def _wait(process, seconds):
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _end(process):
    """End a process: as Ctrl-C would, so that the chief saves its state; if need be, by force."""
    if process.poll() is None:
        process.terminate()
        _wait(process, 10)
    if process.poll() is None:
        process.kill()
        process.wait()


def _free_ports(count):
    """Ports of this machine that nothing listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
