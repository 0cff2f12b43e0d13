"""Values that several keys of a spec take, each with its own error message."""

import numbers
import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from kclr.spec.wording import invalid, shown

Pair = tuple[int, int]  # height and width
Size = int | Pair  # one number where both are the same


class Sides:
    """Annotation of a `Size` in a spec: one number, or [height, width].

    A list of two equal numbers is that number, so that one size is written, and counted in hashes,
    in one way.

    Args:
        low, high: of one number, and of the larger of two.
        least: of each of two.
    """

    def __init__(self, low: int, high: int, least: int = 1):
        self.low, self.high, self.least = low, high, least

    def __get_pydantic_core_schema__(self, source, handler):
        from pydantic_core import core_schema

        side = core_schema.int_schema(ge=self.least, le=self.high)
        forms = core_schema.tagged_union_schema(
            {
                "one": core_schema.int_schema(ge=self.low, le=self.high),
                "two": core_schema.list_schema(side, strict=False),
            },
            discriminator=lambda value: "two" if isinstance(value, (list, tuple)) else "one",
        )
        return core_schema.no_info_after_validator_function(
            self._short,
            core_schema.no_info_before_validator_function(self._of_two, forms),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda size: list(size) if isinstance(size, tuple) else size
            ),
        )

    def __get_pydantic_json_schema__(self, schema, handler):
        one, side = (
            {"type": "integer", "minimum": low, "maximum": self.high}
            for low in (self.low, self.least)
        )
        return {"anyOf": [one, {"type": "array", "items": side, "minItems": 2, "maxItems": 2}]}

    def _of_two(self, value):
        if isinstance(value, dict):
            words = f"Use {self.low} to {self.high}, or [height, width]."
            raise invalid(f"{shown(value)} is not a whole number. {words}", value=value)
        form = r"\s*(\d{1,9})\s*[xX,]\s*(\d{1,9})\s*"  # as 3x9
        written = re.fullmatch(form, value) if isinstance(value, str) else None
        if written:
            size = short(*map(int, written.groups()))
            raise invalid(f"{shown(value)} is not a size. Write {shown(size)}.", value=value)
        if isinstance(value, (list, tuple)) and len(value) != 2:
            numbers = f"{len(value)} number{'s' * (len(value) != 1)}"
            words = f"{shown(value)} has {numbers}. Use one, or two: [height, width]."
            raise invalid(words, value=value)
        return value

    def _short(self, size):
        if isinstance(size, int):
            return size
        if max(size) < self.low:
            words = f"{shown(size)} is out of range. Use {self.low} or more on one side."
            raise invalid(words, value=size)
        return short(*size)


def whole(value: Any, name: str, least: int | None = 1) -> int:
    """A whole number that somebody gave as the argument `name`.

    Raises:
        ValueError: it is none, or less than `least`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} is {value!r}. Use a whole number.")
    if least is not None and value < least:
        raise ValueError(f"{name} is {value}. Use {least} or more.")
    return int(value)


def pair(size: Any, name: str = "", least: int = 1) -> Pair:
    """Height and width of a size: of one number, or of two.

    Args:
        size: a `Size`. name: of the argument that somebody gave it as; it is checked then. least:
            of each side.

    Raises:
        ValueError: it is not a size.
    """
    two = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if not name:
        return two  # type: ignore[return-value]
    if len(two) != 2:
        raise ValueError(f"{name} is {size!r}. Use a whole number, or two: (height, width).")
    return whole(two[0], name, least), whole(two[1], name, least)


def short(height: int, width: int) -> Size:
    """The size of that height and width."""
    return height if height == width else (height, width)


def by(size: Size) -> str:
    """A size in words, as "3x9"; "3" where height and width are the same."""
    return str(size) if isinstance(size, int) else "x".join(map(str, size))


def along_series(size: Size, height: int = 1) -> Size:
    """A size of series, in which one number is that along it, as one of images of height 1."""
    return short(height, size) if isinstance(size, int) else size


def grid_of_series(grid: int | tuple[Size, ...], count: int) -> tuple[Size, ...]:
    """The grids of `count` maps of series, of which numbers are cells along them."""
    each = (grid,) * count if isinstance(grid, int) else grid
    return tuple(along_series(own) for own in each)


def each_axis(function: Callable[..., int], *sizes: Size) -> Pair:
    """What a function of numbers makes of some heights, and of the widths."""
    height, width = map(function, *map(pair, sizes))
    return height, width


def with_next(patch: Size, step: Size) -> Pair:
    """The crop that holds a patch and the next one on each axis. Along an axis where patches are 1
    px they could not overlap, and are not moved."""
    return each_axis(lambda own, step: own + step if own > 1 else own, patch, step)


def axes(*sizes: Size) -> list[tuple[Any, ...]]:
    """Some sizes axis by axis, each time behind the words that begin a message about this axis.

    Once, with no words, where height and width of all of them are the same, or of series.
    """
    if all(isinstance(size, int) for size in sizes):
        return [("", *sizes)]
    height, width = zip(*map(pair, sizes), strict=True)
    if max(height) <= 1:  # of series
        return [("", *width)]
    return [("in height, ", *height), ("in width, ", *width)]


def _amount(amount):
    if not (0 < amount <= 1 or (amount >= 2 and amount % 1 == 0)):
        raise invalid(
            f"{shown(amount)} is not an amount of labels. Use a share above 0, up to 1, or a "
            "whole number per class, 2 or more.",
            value=amount,
        )
    return amount


Amount = Annotated[float, AfterValidator(_amount)]  # of labels


def _of_each_layer(possible, one, words):
    """The check of one number for all layers, or a list with one for each layer.

    Args:
        possible: function of a value that is not a bool: whether it is allowed.
        one: converts it to the spec's value.
        words: what is allowed.
    """

    def checked(value):
        listed = isinstance(value, (list, tuple))
        each = value if listed else [value]
        if not each or not all(not isinstance(n, bool) and possible(n) for n in each):
            raise invalid(
                f"{shown(value)} is not possible. Use {words}, or a list with one for each layer.",
                value=value,
            )
        return tuple(map(one, value)) if listed else one(value)

    return BeforeValidator(checked)


def _one_or_list(number, item=None):
    """The JSON Schema of one number or a list, from that of a number, and of an item if that is
    different."""
    listed = {"type": "array", "minItems": 1, "items": item or number}
    return Field(json_schema_extra={"anyOf": [number, listed]})


def _is_grid(value):
    sides = value if isinstance(value, (list, tuple)) and len(value) == 2 else [value]
    return all(type(side) is int and 1 <= side <= 64 for side in sides)


_SIDE = {"type": "integer", "minimum": 1, "maximum": 64}
_TWO_SIDES = {"type": "array", "items": _SIDE, "minItems": 2, "maxItems": 2}
Cells = Annotated[  # of a grid
    Size | tuple[Size, ...],
    _of_each_layer(
        _is_grid,
        lambda grid: grid if isinstance(grid, int) else short(*grid),
        "a whole number, 1 to 64",
    ),
    _one_or_list(_SIDE, {"anyOf": [_SIDE, _TWO_SIDES]}),
]
Powers = Annotated[  # that pooled features are raised to
    float | tuple[float, ...],
    _of_each_layer(
        lambda power: isinstance(power, (int, float)) and 0 < power <= 1,
        float,
        "a number above 0, up to 1",
    ),
    _one_or_list({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
]
