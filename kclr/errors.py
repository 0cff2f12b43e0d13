"""The two ways in which kclr refuses: a wrong spec and a failed run.

All are `ValueError`s whose message is meant for the person at the keyboard: what is wrong, with
its place and value, and the cure last.
"""


class SpecError(ValueError):
    """A spec, an argument or an option that cannot be what was meant. Exit status 2."""


class RunError(ValueError):
    """A run that could not be started, go on or be read. Exit status 1."""


class CollapseError(RunError):
    """A training that drove all embeddings together, or a layer that came out useless."""


def reason(error: BaseException) -> str:
    """An error in a line: kclr's own as it is, others with their kind."""
    words = " ".join(str(error).split())[:500]
    if isinstance(error, (SpecError, RunError)):
        return words
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
