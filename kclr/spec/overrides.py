"""`--set key.path=value`, applied to a spec's plain value."""

import re
from typing import Any

from pydantic import BaseModel

from kclr.errors import SpecError
from kclr.spec.fields import Slot, item, slot_at
from kclr.spec.reading import read_yaml
from kclr.spec.registry import Part
from kclr.spec.schema import Spec
from kclr.spec.wording import nearest, shown

_EXAMPLE = "as in --set stack.0.train.steps=200"


def override(value: Any, assignment: str, root: type[Part] = Spec) -> tuple[Any, tuple]:
    """Apply one `key.path=value` of `--set`.

    The value is read as YAML; null removes a key that may not be null. Missing mappings along the
    path are created; what is written by its name alone (`objective: triplet`) or not at all becomes
    a mapping first. A list may get one more item at its end, set as a whole.

    Returns:
        The changed value, and the path as a tuple of keys and indices. The given value is not
        changed.

    Raises:
        SpecError: the assignment has no `=`, its value is not YAML, or its path leads past the end
            of a list or through a value that has no keys.
    """
    dotted, equals, text = assignment.partition("=")
    words = [word.strip() for word in dotted.split(".")]
    if not equals or not all(words):
        raise SpecError(f"{shown(assignment)} is not of the form KEY.PATH=VALUE, {_EXAMPLE}.")
    try:
        new = read_yaml(text, "value").value
    except SpecError as error:
        reason = str(error).partition(": ")[2]
        raise SpecError(f"{dotted.strip()}: {shown(text)} cannot be read: {reason}") from None
    value = {} if value is None else value
    path: tuple = ()
    # Each step makes what it passes ready to be entered, so that the schema is asked about what
    # will be there.
    for word in words[:-1]:
        path = (*path, _key(value, path, word, dotted))
        value = _enterable(value, path, dotted, root)
    path = (*path, _key(value, path, words[-1], dotted, more=1))
    slot = slot_at(path, value, root)
    if new is None and slot is not None and slot.field is not None and not slot.optional:
        return _lacking(value, path), path
    return _with(value, path, new), path


def _key(value, path, word, dotted, more=0):
    """A word of a path as an index, if it names an item of a list, or as a key."""
    here = _at(value, path)
    if not isinstance(here, list):
        return word
    if re.fullmatch("[0-9]{1,9}", word) and int(word) < len(here) + more:
        return int(word)
    items = f"its items are 0 to {len(here) - 1}" if here else "it is empty"
    if here and len(here) == 1:
        items = "its only item is 0"
    name = ".".join(map(str, path))
    raise SpecError(f"{dotted.strip()}: {name} has no item {shown(word)}; {items}.")


def _enterable(value, path, dotted, root):
    """The spec's value with a mapping or a list at `path`."""
    here, slot = _at(value, path), slot_at(path, value, root)
    if isinstance(here, (dict, list)):
        return value
    name = ".".join(map(str, path))
    if slot is None:
        if here is None:
            parent = slot_at(path[:-1], value, root)
            keys = parent.keys(_at(value, path[:-1])) if parent else []
            raise SpecError(f"{dotted.strip()}: unknown key {name}.{nearest(path[-1], keys)}")
    elif slot.shorthand and (here is None or isinstance(here, str)):
        return _with(value, path, _in_full(here, slot))
    elif here is None and slot.items is not None:
        return _with(value, path, [])
    elif here is None and (slot.model or slot.config_of):
        return _with(value, path, {})
    raise SpecError(
        f"{dotted.strip()}: {name} is {shown(here)}, which has no keys. Set the whole value: "
        f"{name}=..."
    )


def _in_full(here, slot: Slot) -> dict[str, Any]:
    """The mapping that a text, or nothing, stands for."""
    if here is None and slot.field is not None:
        here = slot.field.get_default(call_default_factory=True)
    if isinstance(here, BaseModel):
        return here.model_dump(mode="json")
    return {} if here is None else {slot.shorthand or "": here}


def _at(value, path):
    for key in path:
        value = item(value, key)
    return value


def _with(value, path, new):
    """A copy of a plain value that has `new` at `path`."""
    if not path:
        return new
    key, *rest = path
    new = _with(item(value, key), rest, new)
    if isinstance(value, list):
        return [*value[:key], new, *value[key + 1 :]]
    return {**value, key: new}


def _lacking(value, path):
    """A copy of a plain value that has no key at `path`."""
    holder = _at(value, path[:-1])
    if not isinstance(holder, dict):
        return value
    return _with(value, path[:-1], {key: own for key, own in holder.items() if key != path[-1]})
