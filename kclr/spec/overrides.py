"""What is allowed at a place in a spec, and `--set key.path=value` applied to its plain value."""

import re
import types
import typing
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kclr.errors import SpecError
from kclr.spec.keras_parts import KerasObject
from kclr.spec.reading import read_yaml
from kclr.spec.registry import Named, NameOf, Part
from kclr.spec.schema import Spec
from kclr.spec.values import Sides
from kclr.spec.wording import any_of, nearest, shown

_NUMBERS = {int: "a whole number", float: "a number"}


class Slot:
    """A place in a spec and what the schema says about it.

    Attributes:
        types: the plain types that are allowed here, without None.
        optional: whether null is allowed here.
        field: pydantic's description of the key, if the place is a key.
    """

    def __init__(self, annotation, metadata=(), field: FieldInfo | None = None):
        self.types: list[Any] = []
        self.metadata: list[Any] = []
        self.optional = False
        self.field = field
        self.config_of: tuple[type[KerasObject], str] | None = None
        self._take(annotation)
        self._describe(metadata)

    def _take(self, annotation):
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            inner, *metadata = typing.get_args(annotation)
            self._take(inner)
            self._describe(metadata)
        elif origin in (typing.Union, types.UnionType):
            for part in typing.get_args(annotation):
                self._take(part)
        elif annotation is type(None):
            self.optional = True
        else:
            self.types.append(annotation)

    def _describe(self, metadata):
        for data in metadata:
            self.metadata += data.metadata if isinstance(data, FieldInfo) else [data]
            self.metadata += [Ge(data.low), Le(data.high)] if isinstance(data, Sides) else ()

    @property
    def named(self) -> Named | None:
        """How a registered part is named here, or None."""
        return next((data for data in self.metadata if isinstance(data, Named)), None)

    @property
    def model(self) -> type[Part] | None:
        """The class whose fields are allowed below, if it does not depend on a name."""
        # In Python 3.10 dict[str, int] is an instance of `type`.
        plain = [t for t in self.types if isinstance(t, type) and typing.get_origin(t) is None]
        models = [t for t in plain if issubclass(t, Part)]
        return models[0] if models else None

    @property
    def items(self) -> Any:
        """The type of a list's items, or None if a list is not allowed."""
        for annotation in self.types:
            if typing.get_origin(annotation) in (tuple, list):
                return typing.get_args(annotation)[0]
        return None

    @property
    def entries(self) -> Any:
        """The type of a mapping's values, or None if a mapping with free keys is not allowed."""
        for annotation in self.types:
            if typing.get_origin(annotation) is dict:
                return typing.get_args(annotation)[1]
        return None

    @property
    def sides(self) -> Sides | None:
        """What a height and a width may be, where a size stands here; None elsewhere."""
        return next((data for data in self.metadata if isinstance(data, Sides)), None)

    @property
    def choices(self) -> list[Any]:
        """The allowed values, if there are few."""
        return [
            choice
            for annotation in self.types
            if typing.get_origin(annotation) is typing.Literal
            for choice in typing.get_args(annotation)
        ] + [name for data in self.metadata if isinstance(data, NameOf) for name in data.choices]

    @property
    def shorthand(self) -> str | None:
        """The key that a text in place of a mapping stands for."""
        if self.named:
            return self.named.key
        return self.model.shorthand if self.model else None

    def part(self, value) -> type[Part] | None:
        """The class whose fields are allowed below, given what is written."""
        return self.named.part(value) if self.named else self.model

    def keys(self, value) -> list[str]:
        """The keys that are allowed below, given what is written."""
        if self.config_of:
            keras_class, name = self.config_of
            return list({**keras_class.nested, **(keras_class.arguments(name) or {})})
        part = self.part(value)
        own = list(part.model_fields) if part else []
        return [self.named.key, *own, *self.named.extra] if self.named else own

    def below(self, key, value) -> "Slot | None":
        """The place of a key or an item, or None if the schema has none."""
        if self.config_of:
            nested = self.config_of[0].nested.get(key)
            return Slot(nested) if nested else Slot(Any)
        if isinstance(key, int) and self.named and self.named.item:
            return Slot(Any, [self.named.item])
        if isinstance(key, int):
            of_side = [Ge(self.sides.least), Le(self.sides.high)] if self.sides else ()
            return Slot(self.items, of_side) if self.items is not None else None
        if self.named and key == self.named.key:
            return Slot(str)
        if self.named and key in self.named.extra:
            field = self.named.extra[key]
            return Slot(field.annotation, field.metadata, field)
        part = self.part(value)
        if part is None and self.entries is not None:
            return Slot(self.entries)
        if part is None or key not in part.model_fields:
            return None
        field = part.model_fields[key]
        slot = Slot(field.annotation, field.metadata, field)
        if issubclass(part, KerasObject) and key == "config":
            name = value.get("class_name") if isinstance(value, dict) else value
            slot.config_of = (part, name if isinstance(name, str) else "")
        return slot

    def range(self) -> str:
        """The range of a number, such as "1 to 64"; empty if there is none."""
        low = high = ""
        whole = int in self.types
        for bound in self.metadata:
            if isinstance(bound, Ge):
                low = f"{bound.ge}"
            elif isinstance(bound, Gt):
                low = f"{int(str(bound.gt)) + 1}" if whole else f"more than {bound.gt}"
            elif isinstance(bound, Le):
                high = f"{bound.le}"
            elif isinstance(bound, Lt):
                high = f"{int(str(bound.lt)) - 1}" if whole else f"less than {bound.lt}"
        if low.isdigit() and not high:
            return f"{low} or more"
        if high and "less" not in high and "more" not in low:
            return f"{low} to {high}" if low else f"at most {high}"
        high = high if "less" in high or not high else f"at most {high}"
        return " and ".join(bound for bound in (low, high) if bound)

    def allowed(self) -> str:
        """What is allowed here, in a few words."""
        if self.named:
            names = [*map(self.named.form, sorted(self.named.parts()))]
            listed = ", or a list of these" if self.named.item else ""
            return f"{any_of(names)}, or a mapping with the key {self.named.key}{listed}"
        if self.shorthand and self.model:
            keys = list(self.model.model_fields)
            some = " and ".join(filter(None, (", ".join(keys[:-1]), keys[-1])))
            noun = f"keys {some}" if len(keys) > 1 else f"key {keys[0]}"
            return f"a name, or a mapping with the {noun}"
        numbers = [words for kind, words in _NUMBERS.items() if kind in self.types]
        if self.choices and not numbers:
            return any_of(self.choices)
        if self.sides:
            return f"a whole number, {self.range()}, or [height, width]"
        if self.items is not None:
            return f"{numbers[0]}, or a list of them" if numbers else "a list"
        if self.model:
            return f"keys and values, as in {{{next(iter(self.model.model_fields))}: ...}}"
        if any(typing.get_origin(annotation) is dict for annotation in self.types):
            return "a mapping"
        words = _NUMBERS | {bool: "true or false", str: "text"}
        known = [words[t] for t in self.types if t in words]
        text = any_of(known) if known else "a value"
        text = f"{text}, {self.range()}" if self.range() else text
        return f"{text}, or {any_of(self.choices)}" if self.choices else text


def slot_at(path, value, root: type[Part] = Spec) -> Slot | None:
    """The place at a path in a spec whose plain value is `value`, or None.

    Args:
        path: keys and indices.
        value: the plain value.
        root: the class of the whole spec.
    """
    slot: Slot | None = Slot(root)
    for key in path:
        slot = slot.below(key, value) if slot else None
        value = item(value, key)
    return slot


def item(value, key):
    """A plain value's item at a key or index, or None."""
    try:
        return value[key]
    except (KeyError, IndexError, TypeError):
        return None


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
    words = tuple(word.strip() for word in dotted.split("."))
    if not equals or not all(words):
        problem = f"{shown(assignment)} is not of the form KEY.PATH=VALUE, {_EXAMPLE}."
        raise SpecError.at((), problem)
    try:
        new = read_yaml(text, "value").value
    except SpecError as error:
        reason = error.findings[0].message
        raise SpecError.at(words, f"{shown(text)} cannot be read: {reason}") from None
    value = {} if value is None else value
    path: tuple = ()
    # Each step makes what it passes ready to be entered, so that the schema is asked about what
    # will be there.
    for word in words[:-1]:
        path = (*path, _key(value, path, word, words))
        value = _enterable(value, path, words, root)
    path = (*path, _key(value, path, words[-1], words, more=1))
    slot = slot_at(path, value, root)
    if new is None and slot is not None and slot.field is not None and not slot.optional:
        return _lacking(value, path), path
    return _with(value, path, new), path


def _key(value, path, word, words, more=0):
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
    raise SpecError.at(words, f"{name} has no item {shown(word)}; {items}.")


def _enterable(value, path, words, root):
    """The spec's value with a mapping or a list at `path`."""
    here, slot = _at(value, path), slot_at(path, value, root)
    if isinstance(here, (dict, list)):
        return value
    name = ".".join(map(str, path))
    if slot is None:
        if here is None:
            parent = slot_at(path[:-1], value, root)
            keys = parent.keys(_at(value, path[:-1])) if parent else []
            raise SpecError.at(words, f"unknown key {name}.{nearest(path[-1], keys)}")
    elif slot.shorthand and (here is None or isinstance(here, str)):
        return _with(value, path, _in_full(here, slot))
    elif here is None and slot.items is not None:
        return _with(value, path, [])
    elif here is None and (slot.model or slot.config_of):
        return _with(value, path, {})
    problem = f"{name} is {shown(here)}, which has no keys. Set the whole value: {name}=..."
    raise SpecError.at(words, problem)


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
