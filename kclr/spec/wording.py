"""Values, choices and cures in words, for messages about a spec."""

import difflib
from typing import Any

from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

OURS = "kclr"


def nearest(word, allowed, choices=None) -> str:
    """The end of a message: " Did you mean ...?" with the nearest spelling, or all choices.

    Args:
        word: what was written.
        allowed: the right spellings.
        choices: how to list them, if not by their spelling.
    """
    choices = [str(option) for option in choices or allowed]
    lower = {str(option).lower(): str(option) for option in allowed}
    near = difflib.get_close_matches(str(word)[:80].lower(), lower, n=1, cutoff=0.65)
    if near:
        return f" Did you mean {lower[near[0]]!r}?"
    return f" Choose from {', '.join(choices)}." if choices else ""


def shown(value: Any) -> str:
    """A value as in a spec, on one line and cut short."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and abs(value) >= 10**18:
        return "a very large number"
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {shown(item)}" for key, item in _few(value.items())) + "}"
    elif isinstance(value, (list, tuple)):
        text = "[" + ", ".join(shown(item) for item in _few(value)) + "]"
    else:
        text = repr(value[:100] if isinstance(value, str) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def path_hint(path: str) -> str:
    """A hint for a path that does not exist and that only a shell would expand."""
    if "$" in path or "%" in path:
        return " Variables are not expanded in a spec. Write ~ for your home, or the full path."
    if any(character in path for character in "*?["):
        return " Patterns are not expanded. Name the folder: all images below it are used."
    if any(not character.isprintable() for character in path):
        return r" In double quotes \ starts an escape. Use single quotes, as in 'C:\pictures'."
    return ""


def _few(items):
    return [item for item, _ in zip(items, range(20), strict=False)]


def printable(name) -> str:
    """A foreign name on one line that is safe in every terminal, file and table.

    Control characters, line breaks, marks that change the writing direction and bytes that are not
    UTF-8 become escapes such as `\\x1b`; all other characters stay.
    """
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in str(name))


def _escaped(letter):
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # how Python has a byte of a file's name that is not UTF-8
        code -= 0xDC00
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def any_of(words) -> str:
    """`a, b or c`."""
    *first, last = [shown(word) if not isinstance(word, str) else word for word in words]
    return f"{', '.join(first)} or {last}" if first else last


def invalid(message: str, *key, value: Any = None) -> ValidationError:
    """What a validator raises to report `message`, at `key` below its place.

    Nothing is added to the message; it starts with what is wrong and ends with the cure.
    """
    return together([mistake(message, *key, value=value)])


def mistake(message: str, *key, value: Any = None) -> InitErrorDetails:
    """One of the errors that `together` combines; see `invalid`."""
    error = PydanticCustomError(OURS, "{message}", {"message": message})  # type: ignore[arg-type]
    return InitErrorDetails(type=error, loc=key, input=value)


def together(errors: list[InitErrorDetails]) -> ValidationError:
    """Several errors as one."""
    return ValidationError.from_exception_data("spec", errors)
