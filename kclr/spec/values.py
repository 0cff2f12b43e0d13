"""Values that several keys of a spec take, each with its own words where it is wrong."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from kclr.spec.wording import shown, to_mend


def _amount(amount):
    if not (0 < amount <= 1 or (amount >= 2 and amount % 1 == 0)):
        raise to_mend(
            f"{shown(amount)} is no amount of labels. Use a share above 0 and up to 1, or a "
            "whole number from 2 on, of each class.",
            value=amount,
        )
    return amount


Amount = Annotated[float, AfterValidator(_amount)]  # of labels


def _cells(value):
    each = value if isinstance(value, (list, tuple)) else [value]
    whole = all(isinstance(cells, int) and not isinstance(cells, bool) for cells in each)
    if not each or not whole or not all(1 <= cells <= 64 for cells in each):
        raise to_mend(
            f"{shown(value)} is not possible. Use a whole number, 1 to 64, or a list of them, one "
            "for each layer.",
            value=value,
        )
    return value if isinstance(value, int) else tuple(value)


Cells = Annotated[  # on a side of a grid
    int | tuple[int, ...],
    BeforeValidator(_cells),
    Field(
        json_schema_extra={
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 64},
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {"type": "integer", "minimum": 1, "maximum": 64},
                },
            ]
        }
    ),
]


def _powers(value):
    each = value if isinstance(value, (list, tuple)) else [value]
    numbers = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in each)
    if not each or not numbers or not all(0 < one <= 1 for one in each):
        raise to_mend(
            f"{shown(value)} is not possible. Use a number above 0, up to 1, or a list of them, "
            "one for each layer.",
            value=value,
        )
    return tuple(map(float, value)) if isinstance(value, (list, tuple)) else float(value)


Powers = Annotated[  # that pooled features are raised to
    float | tuple[float, ...],
    BeforeValidator(_powers),
    Field(
        json_schema_extra={
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                },
            ]
        }
    ),
]
