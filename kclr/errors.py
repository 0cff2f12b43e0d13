"""kclr's two kinds of errors: a wrong spec and a failed run.

All are `ValueError`s with a message for the user: what is wrong, with its place and value, and the
cure last.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One error in a spec: the path of its key, and a message that ends with the cure."""

    path: tuple
    message: str


class SpecError(ValueError):
    """A wrong spec, argument or option. Exit status 2.

    Attributes:
        findings: tuple of `Finding`, for each wrong key of a spec its path and what is wrong with
            it; empty where the error is about no key.
    """

    def __init__(self, message: str, findings: Iterable[Finding] = ()):
        super().__init__(message)
        self.findings = tuple(findings)

    @classmethod
    def at(cls, path: tuple, message: str) -> "SpecError":
        """The error of the single key at `path`, which the message begins with."""
        key = ".".join(map(str, path))
        return cls(f"{key}: {message}" if key else message, [Finding(path, message)])


class RunError(ValueError):
    """A run that could not be started, continued or read. Exit status 1."""


class CollapseError(RunError):
    """A training whose embeddings collapsed, or a layer whose filters are useless."""


def reason(error: BaseException) -> str:
    """An error in a line: kclr's message as it is, others with their type."""
    words = " ".join(str(error).split())[:500]
    if isinstance(error, (SpecError, RunError)):
        return words
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def interrupted(error: BaseException | None) -> bool:
    """Whether an error is a Ctrl-C that became another error on its way.

    TensorFlow calls Python from C++, which reports a `KeyboardInterrupt` there as a `SystemError`
    or as an error of the operation.
    """
    while error is not None:
        if isinstance(error, KeyboardInterrupt) or "KeyboardInterrupt" in str(error)[:2000]:
            return True
        error = error.__cause__ or error.__context__
    return False
