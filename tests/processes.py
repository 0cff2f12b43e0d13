"""Processes of kclr that are forked from one that has imported TensorFlow already.

As good as new ones, which take five seconds for that: their parent has done nothing with it yet.
"""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
from multiprocessing.reduction import DupFd

from kclr.__main__ import main
from kclr.data import patches

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["kclr.cli", "kclr.stack", "kclr.search.running", "kclr.search.workers",
     "matplotlib.pyplot", "sklearn.cluster"]
)  # fmt: skip


class Forked:
    """As `subprocess.Popen` of `kclr` with these words, as far as tests and kclr use it.

    Args:
        arguments: words after `kclr`, or a whole command line of it (`python -m kclr ...`).
        run: function of these words to call in place of kclr.
        file_limit: the bytes that a file may have at most. Others: as of `Popen`.
    """

    def __init__(
        self, arguments, cwd=None, env=None, stdin=None, stdout=None, stderr=None, text=True,
        start_new_session=False, file_limit=None, run=None,
    ):  # fmt: skip
        words = [str(word) for word in arguments]
        words = words[3:] if words[:1] == [sys.executable] else words
        self._read = []
        out = self._stream(stdout, 1)
        err = out if stderr == subprocess.STDOUT else self._stream(stderr, 2)
        streams = [DupFd(stream) for stream in (out, err)]
        environment = dict(os.environ if env is None else env)
        self._process = _CONTEXT.Process(
            target=_run,
            args=(words, str(cwd or os.getcwd()), environment, streams, start_new_session,
                  file_limit, patches.MANY, run),
        )  # fmt: skip
        self._process.start()
        self.pid = self._process.pid

    def _stream(self, given, own):
        if given == subprocess.PIPE:
            self._read.append(tempfile.TemporaryFile("w+"))  # noqa: SIM115
            return self._read[-1].fileno()
        return given.fileno() if hasattr(given, "fileno") else own

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("kclr", timeout)
        return self._process.exitcode

    def terminate(self):
        self._process.terminate()

    def kill(self):
        self._process.kill()

    def communicate(self, timeout=None):
        """What it has printed to its pipes, once it has ended: two texts, None without a pipe."""
        self.wait(timeout)
        said = []
        for file in self._read:
            file.seek(0)
            said.append(file.read())
        return (*said, None, None)[:2]


def _run(words, folder, environment, streams, session, file_limit, many, run):
    for number, stream in enumerate(streams, 1):
        os.dup2(stream.detach(), number)
    if session:
        os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    patches.MANY = many
    os.fsync = lambda descriptor: None  # as in conftest.py
    sys.argv = ["kclr", *words]
    sys.exit(run(words) if run else main())
