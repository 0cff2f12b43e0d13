"""Values that several keys of a spec take, each with its own error message."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from kclr.spec.wording import invalid, shown


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


def _one_or_list(number):
    """The JSON Schema of one number or a list, from that of a number."""
    listed = {"type": "array", "minItems": 1, "items": number}
    return Field(json_schema_extra={"anyOf": [number, listed]})


Cells = Annotated[  # on a side of a grid
    int | tuple[int, ...],
    _of_each_layer(
        lambda cells: isinstance(cells, int) and 1 <= cells <= 64, int, "a whole number, 1 to 64"
    ),
    _one_or_list({"type": "integer", "minimum": 1, "maximum": 64}),
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
