"""Pydantic's errors, reworded: what was written, what is allowed, the nearest spelling."""

from typing import Any

from kclr.spec.fields import Slot, item, slot_at
from kclr.spec.registry import Part
from kclr.spec.schema import Spec
from kclr.spec.wording import OURS, nearest, shown

# What keys are called in Keras and in other libraries.
_CALLED_ELSEWHERE = {
    "batch": "batch_size", "dataset": "data", "kernel": "kernel_size", "layers": "stack",
    "loss": "objective", "lr": "learning_rate", "num_epochs": "epochs", "num_steps": "steps",
    "pool": "pool_size", "stride": "strides",
}  # fmt: skip

_NOT = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "model_attributes": "a mapping",
}


def complaint(details: Any, value: Any, root: type[Part] = Spec) -> tuple[tuple, str]:
    """The key's path and the message for one of pydantic's error details.

    Args:
        details: an item of `ValidationError.errors()`.
        value: the plain value of the whole spec.
        root: the class of the whole spec.
    """
    kind, given, context = details["type"], details["input"], details.get("ctx", {})
    path = _written(details["loc"], value)
    slot = slot_at(path, value, root)
    if kind == OURS:
        return path, details["msg"]
    if kind == "extra_forbidden":
        return path, f"unknown key.{_instead(path, value, root)}"
    if kind == "missing":
        return path, _missing(path, slot, value, root)
    if kind in ("literal_error", "enum") and slot and slot.choices:
        return path, f"{shown(given)} is not allowed.{_nearest_choice(given, slot)}"
    word = _NOT.get(kind.removesuffix("_type").removesuffix("_parsing").removesuffix("_from"))
    if kind == "int_from_float":
        word = "a whole number"
    if word:
        word = "allowed" if word == "true or false" else word
        return path, f"{shown(given)} is not {word}. {_rewritten(given, slot)}"
    if kind.startswith(("greater_than", "less_than")):
        bounds = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
        pydantics = next((f"{bounds[key]} {v}" for key, v in context.items() if key in bounds), "")
        limits = slot.range() if slot and slot.range() else pydantics
        return path, f"{shown(given)} is out of range. Use {limits}."
    if kind == "too_short":
        least = context.get("min_length", 1)
        return path, f"{shown(given)} is too short. Use at least {least}."
    if kind == "too_long":
        return path, f"has too many items: {len(given)}. Use at most {context.get('max_length')}."
    if kind == "string_pattern_mismatch":
        cure = "Use up to 64 letters, digits, '.', '_' and '-', starting with a letter or a digit."
        return path, f"{shown(given)} is not a valid name. {cure}"
    words = details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return path, f"{shown(given)}: {words.rstrip('.')}."


def _written(location, value) -> tuple:
    """Pydantic's location without the parts that are not keys, such as branches of unions."""
    path: tuple = ()
    for position, key in enumerate(location):
        last = position == len(location) - 1
        known = isinstance(value, list) and isinstance(key, int) and key < len(value)
        if known or (isinstance(value, dict) and (key in value or (last and isinstance(key, str)))):
            path, value = (*path, key), item(value, key)
    return path


def _instead(path, value, root) -> str:
    """The key that was probably meant by an unknown one."""
    *parent, key = path
    here = value
    for step in parent:
        here = item(here, step)
    slot = slot_at(parent, value, root)
    if slot is None:
        return ""
    keys = slot.keys(here)
    closest = nearest(key, keys)
    if "mean" not in closest:
        meant = _CALLED_ELSEWHERE.get(key)
        if meant in keys:
            return f" Did you mean {meant!r}?"
        home = _home(slot, here, key) or (meant and _home(slot, here, meant))
        if home:
            return f" It belongs under {'.'.join(home)}."
        for length in range(len(parent) - 1, -1, -1):
            above = slot_at(parent[:length], value, root)
            if above and key in above.keys(None):
                return f" It belongs higher up, next to {parent[length]}."
    return closest


def _home(slot: Slot, value, key, depth=3) -> tuple[str, ...]:
    """The shortest path from a place to a key below it; empty if there is none."""
    if key in slot.keys(value):
        return (key,)
    ways = []
    for name in slot.keys(value) if depth else ():
        inner, inside = slot.below(name, value), item(value, name)
        if inner is None:
            continue
        if inside is None and inner.field is not None and inner.shorthand:
            inside = inner.field.get_default(call_default_factory=True)
            inside = getattr(inside, "class_name", inside)
        way = _home(inner, inside, key, depth - 1)
        if way:
            ways.append((name, *way))
    return min(ways, key=len, default=())


def _missing(path, slot, value, root) -> str:
    key = path[-1] if path else ""
    above = slot_at(path[:-1], value, root)
    if path == ("stack",):
        return "is missing. Add it: a list of the layers to learn, as in `stack: [{}]`."
    if above and above.shorthand == key and above.model:
        return f"is missing. Add it, as in {key}: {getattr(above.model, 'example', '...')}."
    return f"is missing and has no default. Add {slot.allowed() if slot else 'it'}."


def _nearest_choice(given, slot: Slot) -> str:
    choices = [choice if isinstance(choice, str) else shown(choice) for choice in slot.choices]
    word = given if isinstance(given, str) else shown(given)
    return nearest(word, choices)


def _rewritten(given, slot: Slot | None) -> str:
    """How to fix a value of the wrong type."""
    types = slot.types if slot else []
    number = int in types or float in types
    if number and isinstance(given, str):
        try:
            fits = float(given) if float in types else int(given, 0)
        except ValueError:
            fits = None
        if fits is not None and abs(fits) < 10**18:
            return f"Write {given.strip()}, without quotes."
    if int in types and isinstance(given, float) and given.is_integer() and abs(given) < 1e15:
        return f"Write {int(given)}."
    if str in types and isinstance(given, (int, float)):
        return f"Put it in quotes: '{shown(given)}'."
    lists = slot is not None and slot.items is not None and not slot.sides
    if lists and not isinstance(given, dict) and given is not None:
        return f"Write [{given if isinstance(given, str) and len(given) < 60 else shown(given)}]."
    if lists and isinstance(given, dict):
        return "Begin each item with a dash: `- ...`."
    if slot is None:
        return "Correct it."
    if given is None:
        return f"Remove the key, or use {slot.range() or slot.allowed()}."
    return f"Use {slot.range() or slot.allowed()}."
