"""Kinds of values that arguments of Keras classes take, each with its range and wording.

`keras_arguments.py` lists the kind of each argument of each class.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MOST_STEPS = 2**31 - 1  # of which TensorFlow still counts
_LARGEST = 1e30  # that float32 holds with room to compute
_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    Attributes:
        words: what is allowed.
        fits: whether a value other than null is of this kind.
        number: whether a whole number is passed to Keras as a float.
    """

    words: str
    fits: Callable[[Any], bool]
    number: bool = False


def _is_number(value, low=-_LARGEST, high=_LARGEST, above=False, below=False):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return (low < value if above else low <= value) and (value < high if below else value <= high)


def _is_whole(value, low, high=MOST_STEPS):
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _number(words, *range_, **ends):
    return Kind(words, lambda value: _is_number(value, *range_, **ends), number=True)


def _whole(words, low, high=MOST_STEPS):
    return Kind(words, lambda value: _is_whole(value, low, high))


def _is_count(value, least):
    """Whether a value is a number of steps: a whole number, or a share of all steps."""
    if isinstance(value, float):
        return 0 < value <= 1 or value == 0 == least
    return _is_whole(value, least)


def _one_or_pair(words, *range_, **ends):
    def fits(value):
        if isinstance(value, (list, tuple)):
            return len(value) == 2 and all(_is_number(one, *range_, **ends) for one in value)
        return _is_number(value, *range_, **ends)

    return Kind(words, fits)


def _choice(*names):
    *first, last = names
    words = f"{', '.join(first)} or {last}" if first else last
    return Kind(words, lambda value: isinstance(value, str) and value in names)


def _list_of(kind_fits, least=0):
    return lambda value: isinstance(value, (list, tuple)) and len(value) >= least and all(
        map(kind_fits, value)
    )  # fmt: skip


def _is_odd(value):
    return _is_whole(value, 1, 4095) and value % 2 == 1


def _is_fill(value):
    listed = isinstance(value, (list, tuple)) and len(value) == 3
    return all(map(_is_number, value)) if listed else _is_number(value)


_SHARE_OF_STEPS = "or a share of all steps with a decimal point (0.5, 1.0)"

KINDS: dict[str, Kind] = {
    # Numbers.
    "number": _number("a number"),
    "amount": _number("a number, 0 or more", 0),
    "positive": _number("a number above 0", 0, above=True),
    "negative": _number("a number, 0 or less", -_LARGEST, 0),
    "momentum": _number("a number from 0 to below 1", 0, 1, below=True),
    "share": _number("a number from 0 to 1", 0, 1),
    "share_above_0": _number("a number above 0, up to 1", 0, 1, above=True),
    "growth": _number("a number from 1 to 1,000", 1, 1000),
    "rate": _number("a number above 0, up to 1,000,000", 0, 1e6, above=True),
    "rate_or_0": _number("a number from 0 to 1,000,000", 0, 1e6),
    "rates": Kind("a list of numbers from 0 to 1,000,000",
                  _list_of(lambda one: _is_number(one, 0, 1e6), 1), number=True),
    # Counts.
    "steps": Kind(f"a whole number, 1 or more, {_SHARE_OF_STEPS}", lambda v: _is_count(v, 1)),
    "steps_or_0": Kind(f"a whole number, 0 or more, {_SHARE_OF_STEPS}", lambda v: _is_count(v, 0)),
    "boundaries": Kind(f"a list of whole numbers, 1 or more, {_SHARE_OF_STEPS}",
                       _list_of(lambda one: _is_count(one, 1), 1)),
    "count": _whole("a whole number, 1 or more", 1),
    "several": _whole("a whole number, 2 or more", 2),
    "few": _whole("a whole number from 1 to 100", 1, 100),
    "bins": _whole("a whole number from 2 to 65,536", 2, 65536),
    "size": _whole("a whole number from 1 to 8,192", 1, 8192),
    "seed": _whole("a whole number, 0 or more", 0),
    # Factors of augmentations: one number, or the lowest and the highest.
    "factor": _one_or_pair("a number from -1 to 1, or a list of two", -1, 1),
    "strength": _one_or_pair("a number from 0 to 1, or a list of two", 0, 1),
    "zoom": _one_or_pair("a number above -1, up to 1, or a list of two", -1, 1, above=True),
    "turn": _one_or_pair("a number of turns from -1 to 1, or a list of two", -1, 1),
    "bits": _one_or_pair("a number from 1 to 8, or a list of two", 1, 8),
    "odd": Kind("an odd whole number, or a list of two", lambda value: _is_odd(value) or (
        isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_odd, value)))),
    "range": Kind("a list of two numbers, the lower one first", lambda value: isinstance(
        value, (list, tuple)) and len(value) == 2 and all(map(_is_number, value))
        and value[0] < value[1]),
    "fill": Kind("a number", _is_number),
    "fill_or_colour": Kind("a number, or a list of three", _is_fill),
    "padding": Kind(
        "a whole number from 0 to 1,024, a list of two, or a list of two lists of two",
        lambda value: _is_padding(value)),
    # Words.
    "flag": Kind("true or false", lambda value: isinstance(value, bool)),
    "text": Kind("letters, digits, '_', '-' and '.', starting with a letter or a digit",
                 lambda value: isinstance(value, str) and bool(_NAME.fullmatch(value))),
    "texts": Kind("a list of texts", _list_of(lambda one: isinstance(one, str))),
    "flips": _choice("horizontal", "vertical", "horizontal_and_vertical"),
    "interpolation": _choice("nearest", "bilinear"),
    "fill_mode": _choice("constant", "nearest", "reflect", "wrap"),
    "channels_last": _choice("channels_last"),
    "float32": _choice("float32"),
}  # fmt: skip


def _is_padding(value, depth=2):
    if isinstance(value, (list, tuple)):
        return depth > 0 and len(value) == 2 and all(_is_padding(one, depth - 1) for one in value)
    return _is_whole(value, 0, 1024)
