"""Named parts: data sources, objectives, learners, readouts, ..., also of plug-ins.

A part of a spec is one frozen class in its own file, registered under the name that a spec uses:

    @register("objective", "triplet")
    class Triplet(Part):
        margin: float = Field(2.0, gt=0, description="Smallest gap between the two distances.")

Its fields are the keys that a spec may have below that name; pydantic checks them, fills in the
defaults and describes them in the JSON Schema. A part without options in a spec, such as a readout,
need not be such a class. The file must import without TensorFlow: what needs it is imported inside
the methods. Files in the packages of `BUILT_IN` are found automatically; another package names its
module under the entry point group `kclr.plugins`.
"""

import ast
import difflib
import importlib
import importlib.metadata
import inspect
import itertools
import logging
import pkgutil
import re
import textwrap
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticKnownError

from kclr.spec.wording import any_of, invalid, nearest, shown

BUILT_IN = {
    "source": "kclr.data",
    "objective": "kclr.objectives",
    "alike": "kclr.alike",
    "learner": "kclr.learners",
    "readout": "kclr.probing.readouts",
    "arm": "kclr.transfer.arms",
    "classifier": "kclr.transfer.classifiers",
    "section": "kclr.report.sections",
}

NOUNS = {"alike": "notion of what is alike"}  # what a part is called, where its kind is no noun
_EXAMPLES = {"source": "folder:PATH"}  # of what is most often written

_parts: dict[str, dict[str, Any]] = {kind: {} for kind in BUILT_IN}
_broken: list[str] = []  # plug-ins that could not be loaded
_splits: dict[str, Callable[[str], tuple[str, dict[str, Any]]]] = {}
_patterns: dict[str, str] = {}


class Part(BaseModel):
    """A frozen, checked part of a spec: unknown keys and wrong types are refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        ser_json_inf_nan="constants",  # options of somebody's classifier may be infinite
        # What a spec does not use is never built, which is a quarter of what `kclr check` takes.
        defer_build=True,
    )

    part_name: ClassVar[str] = ""
    shorthand: ClassVar[str | None] = None  # the field that a text in its place stands for

    @classmethod
    def __get_pydantic_json_schema__(cls, schema, handler):
        described = handler(schema)
        _describe(handler.resolve_ref_schema(described), cls)
        return described

    def spec_name(self) -> str:
        """How a spec names this part: its registered name and its argument."""
        return self.part_name


class ByName(Part):
    """A part that may be written as a text, the value of its field `shorthand`."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value):
        return {cls.shorthand: value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema, handler):
        described = handler.resolve_ref_schema(
            super().__get_pydantic_json_schema__(schema, handler)
        )
        words = described.pop("description", "")
        return {"description": words, "anyOf": [{"type": "string"}, described]}


def descriptions(part: type[Part]) -> dict[str, str]:
    """The docstrings of a part's fields, those of its base classes included.

    Pydantic could read them (`use_attribute_docstrings`), but would do so at each import, a sixth
    of the time that `kclr check` takes.
    """
    found = {}
    for base in reversed(part.__mro__):
        if not issubclass(base, Part) or base is Part:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                found[field.target.id] = inspect.cleandoc(ast.literal_eval(text.value))  # type: ignore[union-attr]
    return found


def _describe(schema, part):
    for name, text in descriptions(part).items():
        if name in schema.get("properties", {}):
            schema["properties"][name].setdefault("description", text)


def register(kind, name):
    """Register a class or a function as `name` among the parts of `kind`, one of `BUILT_IN`.

    Raises:
        ValueError: the kind is unknown, or the name is taken by another one.
    """
    if kind not in _parts:
        raise ValueError(f"{kind!r} is not a kind of part; choose from {', '.join(_parts)}")

    def decorate(part):
        if not part.__module__.startswith(BUILT_IN[kind]):
            _import_own(kind)  # so that nobody takes a name of kclr's
        taken = _parts[kind].get(name, part)
        known, new = (f"{each.__module__}.{each.__qualname__}" for each in (taken, part))
        if known != new:
            raise ValueError(f"the {kind} {name!r} is already {known}")
        if isinstance(part, type) and issubclass(part, Part):
            part.part_name = name
        _parts[kind][name] = part
        return part

    return decorate


def splits(kind, pattern=None):
    """Register how a text that names a part of `kind` with an argument is split.

    The function takes the text (`tfds:cifar100`) and returns the part's name and the plain values
    of the fields that the rest of the text gives. It returns an unknown text unchanged. It may also
    take a list of texts that name one part. `pattern`
    is a regular expression for texts with an argument, used in the JSON Schema; by default any text
    is allowed there.
    """

    def decorate(split):
        _splits[kind] = split
        if pattern:
            _patterns[kind] = pattern
        return split

    return decorate


def _discover(kind):
    """Import every module that registers parts of a kind: kclr's own, then the plug-ins'."""
    _import_own(kind)
    _load_plugins()


@cache
def _import_own(kind):
    package = BUILT_IN[kind]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package}.{module.name}")


@cache
def _load_plugins():
    for plugin in importlib.metadata.entry_points(group="kclr.plugins"):
        try:
            plugin.load()
        except (Exception, SystemExit) as error:  # must not end every command
            _broken.append(plugin.name)
            owner = getattr(plugin.dist, "name", None)
            cure = f"Fix it, or remove it: pip uninstall {owner}" if owner else "Fix or remove it."
            logging.getLogger("kclr").warning(
                "the plug-in %s (%s) cannot be loaded and is ignored: %s: %s. %s",
                *(plugin.name, plugin.value, type(error).__name__, error, cure),
            )


def parts(kind) -> dict[str, Any]:
    """All registered parts of a kind, by name."""
    _discover(kind)
    return dict(_parts[kind])


def form(name, part) -> str:
    """How a text names a part with its argument, such as `tfds:NAME`."""
    field = getattr(part, "argument", None)
    return f"{name}:{field.upper()}" if field else name


class NameOf:
    """Annotation of a spec field that holds the name of a registered part, and no options of it."""

    def __init__(self, kind):
        self.kind = kind

    @property
    def choices(self) -> list[str]:
        """The names."""
        return sorted(parts(self.kind))

    def __get_pydantic_core_schema__(self, source, handler):
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self._known)

    def _known(self, value):
        if value not in self.choices:
            # As of a `typing.Literal`, whose words and cure it gets.
            raise PydanticKnownError("literal_error", {"expected": any_of(self.choices)})
        return value

    def __get_pydantic_json_schema__(self, schema, handler):
        return {"type": "string", "enum": self.choices}


def unknown(kind, name, choices) -> str:
    """The message for a name that no part has, or for names that are not of one part.

    Args:
        kind: of part.
        name: what was written.
        choices: the names of the parts, each with the argument that it may have.
    """
    if not isinstance(name, str):
        several = [
            form(*own) for own in sorted(parts(kind).items()) if getattr(own[1], "several", False)
        ]
        return f"{shown(name)} cannot be used together. Use several of one kind, {any_of(several)}."
    known = [choice.partition(":")[0] for choice in choices]
    close = nearest(name, known, choices)
    if kind == "source" and "mean" not in close and re.fullmatch(r"[\w.-]{1,60}", name):
        close = f" Did you mean tfds:{name}, or the folder ./{name}? {close.strip()}"
    if _broken:
        close += f" The plug-in {_broken[0]}, which could not be loaded, may have it."
    return f"{shown(name)} is not a known {NOUNS.get(kind, kind)}.{close}"


def _is_name(value, several) -> bool:
    """Whether something may name a part, or several texts may together."""
    listed = several and isinstance(value, list) and value
    return all(isinstance(own, str) for own in (value if listed else [value]))


class Named:
    """Annotation of a spec field whose value names a registered part.

    The value is a name (`triplet`), or a mapping whose key `key` names the part and whose other
    keys are its fields; without that key it is the part called `default`. A name may have an
    argument (`tfds:cifar100`) if `splits` of its kind says so. `without` are parts that are not
    allowed there.
    """

    item: Any = None  # what may stand in a list in its place
    extra: ClassVar[dict[str, Any]] = {}  # keys besides the fields of the part

    def __init__(self, kind, key="name", default=None, without=()):
        self.kind, self.key, self.default, self.without = kind, key, default, without

    def parts(self) -> dict[str, type[Part]]:
        """The parts that are allowed there, by name."""
        return {name: part for name, part in parts(self.kind).items() if name not in self.without}

    def __get_pydantic_core_schema__(self, source, handler):
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            self._resolve,
            serialization=core_schema.plain_serializer_function_ser_schema(self._dump),
        )

    def __get_pydantic_json_schema__(self, schema, handler):
        return self._json_schema(handler)

    @property
    def split(self):
        """How a text is split, or None if it is a name alone."""
        _discover(self.kind)
        return _splits.get(self.kind)

    def form(self, name) -> str:
        """How a text names a part, such as `tfds:NAME`."""
        return form(name, self.parts()[name]) if self.split else name

    def options(self, part) -> list[str]:
        """The fields of a part that may stand here, besides the one in its name."""
        argument = getattr(part, "argument", None) if self.split else None
        return [key for key in part.model_fields if key != argument]

    def part(self, value: Any) -> type[Part] | None:
        """The part that a value names, or None."""
        return self._named(value)[0]

    def _named(self, value) -> tuple[type[Part] | None, str | None, dict[str, Any]]:
        """The part, its name, and the plain values of its fields."""
        fields = dict(value) if isinstance(value, dict) else {self.key: value}
        name = fields.pop(self.key, self.default)
        if not _is_name(name, self.split is not None):
            return None, None, fields
        if self.split:
            name, argument = self.split(name)
            fields = argument | fields
        return self.parts().get(name) if isinstance(name, str) else None, name, fields

    def _resolve(self, value: Any) -> Part:
        if isinstance(value, Part):
            return value
        part, name, fields = self._named(value)
        place = (self.key,) if isinstance(value, dict) and self.key in value else ()
        known = sorted(self.parts())
        choices = [*map(self.form, known)]
        if part:
            field = getattr(part, "argument", None) if self.split else None
            if field and field not in fields and part.model_fields[field].is_required():
                words = f"{name!r} needs an argument. Write {self.form(name)}."
                raise invalid(words, *place, value=value)
            return part.model_validate(fields)
        if name is not None:
            words = unknown(self.kind, name, choices)
        elif isinstance(value, dict) and not place:
            near = difflib.get_close_matches(self.key, value, n=1)
            if near:
                words = f"unknown key. Did you mean {self.key!r}?"
                raise invalid(words, near[0], value=value)
            example = _EXAMPLES.get(self.kind, choices[-1])
            words = f"has no key {self.key!r}. Add it, as in {self.key}: {example}."
        else:
            given = value[self.key] if place else value
            noun = NOUNS.get(self.kind, self.kind)
            words = f"{shown(given)} is not a valid {noun}. Use {any_of(choices)}."
        raise invalid(words, *place, value=value)

    def _dump(self, part: Part) -> dict[str, Any]:
        return {self.key: part.spec_name()} | part.model_dump(mode="json")

    def _json_schema(self, handler) -> dict[str, Any]:
        """A text, or a mapping with one branch for each part."""
        named = self.parts()
        text: dict[str, Any] = {"type": "string"}
        if self.split and self.kind in _patterns:
            plain = sorted(name for name in named if self.form(name) == name)
            text["anyOf"] = [{"enum": plain}, {"pattern": _patterns[self.kind]}]
        elif self.split:
            text["examples"] = [*map(self.form, sorted(named))]
        else:
            text["enum"] = sorted(named)
        branches = [text]
        if any(getattr(part, "several", False) for part in named.values()):
            branches.append({"type": "array", "items": {"type": "string"}, "minItems": 1})
        for name, part in sorted(named.items()):
            described = handler.resolve_ref_schema(handler(part.__pydantic_core_schema__))
            _describe(described, part)
            argument = getattr(part, "argument", None) if self.split else None
            taken = self.options(part)
            fields = {k: v for k, v in described.get("properties", {}).items() if k in taken}
            needed = [key for key in described.get("required", ()) if key != argument]
            key_schema = self._key_schema(name, argument)
            branches.append(
                {
                    "type": "object",
                    "title": name,
                    "description": inspect.getdoc(part) or "",
                    "properties": {self.key: key_schema} | fields,
                    "required": [*([] if name == self.default else [self.key]), *needed],
                    "additionalProperties": False,
                }
            )
        return {"anyOf": branches}

    def _key_schema(self, name, argument):
        if not argument:
            return {"const": name}
        if self.kind in _patterns:
            return {"type": "string", "pattern": _patterns[self.kind]}
        others = "|".join(re.escape(other) for other in sorted(self.parts()) if other != name)
        # The part that a bare path means is told apart by the other parts' names alone.
        means_path = self.split("./")[0] == name
        pattern = rf"^(?!({others})($|:))" if means_path else f"^{re.escape(name)}:"
        return {"type": "string", "pattern": pattern}
