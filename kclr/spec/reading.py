"""YAML as plain values that remember their lines.

Only the common part of YAML is read: mappings, lists and plain values, with anchors, aliases and
merge keys. Tags are not supported; what looks like a date, an octal or a base-60 number stays
text. Keys are always text.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from kclr.errors import Finding, SpecError

# So that a small file whose aliases refer to aliases cannot fill the memory.
MOST_VALUES = 100_000
DEEPEST = 50

# YAML 1.1 reads 1e-3 as a word, 010 as eight and 1:30 as ninety; nobody means these.
_FLOAT = re.compile(
    r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"
    r"|^[-+]?[0-9][0-9_]*\.[0-9_]*$"
    r"|^[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?$"
    r"|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
)
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$")
_OURS = {"tag:yaml.org,2002:float", "tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp"}
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str")}
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe loader, in C if available, with numbers such as 1e-3."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OURS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))


@dataclass
class Document:
    """What a YAML text holds.

    Attributes:
        value: its plain value: dicts, lists, texts, numbers, booleans and None.
        lines: the line, from 1, of each key and item by its path (a tuple of keys and indices).
        repeated: path and line of keys that are given twice; the later one counts.
    """

    value: Any = None
    lines: dict[tuple, int] = field(default_factory=dict)
    repeated: list[tuple[tuple, int]] = field(default_factory=list)


def read_yaml(text: str, name: str) -> Document:
    """Parse a YAML text safely, in bounded time whatever it holds.

    Raises:
        SpecError: the text is not YAML, or uses a part of YAML that is not read; the message has
            `name` and, if known, the line and the column.
    """
    loader = None
    try:
        _check_depth(text)
        loader = _Loader(text)
        node = loader.get_single_node()
        document = Document()
        if node is not None:
            document.value = _Plain(loader, document).value(node, ())
        return document
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        if mark and mark.line >= len(text.splitlines()) > 0:
            place = f":{len(text.splitlines())}"  # the end of the file, as an editor shows it
        raise _refusal(f"{name}{place}", _words(error, text, mark)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, text.find(chr(error.character))) + 1
        words = f"the character {chr(error.character)!r} is not allowed in YAML. Remove it."
        raise _refusal(f"{name}:{line}", words) from None
    except (yaml.YAMLError, RecursionError, UnicodeEncodeError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise _refusal(name, f"not valid YAML: {reason}.") from None
    finally:
        if loader is not None:
            loader.dispose()


def _refusal(place, words):
    return SpecError(f"{place}: {words}", [Finding((), words)])


def plain_value(value: Any, name: str) -> Any:
    """A copy of a spec from a Python program, as `read_yaml` would return it.

    Tuples become lists, numpy numbers become Python numbers, paths and keys become text. Everything
    else stays and is checked like any value of a spec.

    Args:
        value: dicts, lists, texts, numbers, booleans and None.
        name: of the spec, in messages.

    Raises:
        SpecError: it is nested too deeply, contains itself, or has too many values.
    """
    count = 0

    def copied(value, depth):
        nonlocal count
        count += 1
        if depth > DEEPEST or count > MOST_VALUES:
            raise SpecError(f"{name}: nested too deeply, or too many values.")
        if isinstance(value, Mapping):
            return {str(key): copied(own, depth + 1) for key, own in value.items()}
        if isinstance(value, (list, tuple)):
            return [copied(own, depth + 1) for own in value]
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        elif getattr(value, "shape", None) == () and hasattr(value, "item"):
            value = value.item()
        if problem := _unusable(value):
            raise SpecError(f"{name}: {problem}")
        return value

    return copied(value, 0)


def _check_depth(text):
    """Refuse deep nesting before PyYAML sees it: its C part would end the process."""
    depth = 0
    loader = _Loader(text)
    try:
        while not isinstance(event := loader.get_event(), yaml.StreamEndEvent):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > 2 * DEEPEST:
                    mark: Any = event.start_mark
                    raise yaml.MarkedYAMLError(problem="nesting depth", problem_mark=mark)
            depth -= isinstance(event, yaml.CollectionEndEvent)
    finally:
        loader.dispose()


def _unusable(value) -> str | None:
    """Why a text or a number is not allowed anywhere in a spec, or None if it is."""
    if isinstance(value, int) and abs(value) > 10**300:  # no float is as large
        return "the number is too large for any key. Use a smaller one."
    for character in value if isinstance(value, str) else ():
        if character == "\0" or "\ud800" <= character <= "\udfff":
            code = f"\\x{ord(character):02x}" if character == "\0" else f"\\u{ord(character):04x}"
            return f"the character {code} is not allowed in text. Remove it."
    return None


def _words(error, text, mark):
    """An error of the YAML library, reworded."""
    problem = str(error.problem)
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    if isinstance(error, _NotReadError):
        return problem
    if "another document" in problem:
        return "a second document starts here. Keep one of the two."
    if "undefined alias" in problem:
        return f"{problem.removeprefix('found ')}. Write its anchor (&name) further up."
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "the line is indented with a tab. Use spaces."
    if "nesting depth" in problem:
        return "nested too deeply."
    hint = ""
    if "escape" in problem or "hexdecimal" in problem:
        hint = " In double quotes \\ starts an escape. Use single quotes, as in 'C:\\pictures'."
    elif "mapping values are not allowed" in problem:
        hint = " Check the indentation, or put text with a colon in quotes."
    elif "expected <block end>" in problem or "could not find expected ':'" in problem:
        hint = " Check the indentation and the colons around this line."
    elif any(words in problem for words in ("expected ',' or", "end of stream", "node content")):
        hint = " Check that every quote and bracket is closed."
    context = f"{error.context}, " if error.context else ""
    return f"not valid YAML: {context}{problem}.{hint}"


class _NotReadError(yaml.MarkedYAMLError):
    """YAML that kclr does not read."""

    def __init__(self, problem, node):
        super().__init__(problem=problem, problem_mark=node.start_mark)


class _Plain:
    """Turns nodes into plain values and records where they are."""

    def __init__(self, loader, document):
        self.loader, self.document = loader, document
        self.values = 0
        self.open: set[int] = set()

    def value(self, node, path):
        self.values += 1
        if self.values > MOST_VALUES:
            raise _NotReadError(
                f"more than {MOST_VALUES:,} values. Use fewer values or aliases.", node
            )
        if len(path) > DEEPEST:
            raise _NotReadError("nested too deeply.", node)
        if id(node) in self.open:
            raise _NotReadError("contains itself through an alias. Write it out.", node)
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                self._check_tag(node, "tag:yaml.org,2002:seq")
                return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
            return self._scalar(node)
        finally:
            self.open.discard(id(node))

    def _mapping(self, node, path):
        self._check_tag(node, "tag:yaml.org,2002:map")
        own: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                several = isinstance(value_node, yaml.SequenceNode)
                merged += value_node.value if several else [value_node]
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise _NotReadError("a key must be plain text. Put text with brackets in quotes.",
                                    key_node)  # fmt: skip
            key, line = key_node.value, key_node.start_mark.line + 1
            if problem := _unusable(key):
                raise _NotReadError(problem, key_node)
            if key in own:
                self.document.repeated.append(((*path, key), line))
                self.document.lines[(*path, key)] = line
            self.document.lines.setdefault((*path, key), line)
            own[key] = self.value(value_node, (*path, key))
        for source in merged:
            if not isinstance(source, yaml.MappingNode):
                raise _NotReadError("`<<` takes a mapping (*name), or a list of mappings.", source)
            own = self.value(source, path) | own
        return own

    def _scalar(self, node):
        self._check_tag(node, *_PLAIN)
        try:
            value = self.loader.construct_object(node)
        except (ValueError, LookupError):  # int("9" * 5000), or a tag of a number on a word or none
            raise _NotReadError(f"{_start(node.value)} is not a valid number.", node) from None
        if problem := _unusable(value):
            raise _NotReadError(problem, node)
        return value

    def _check_tag(self, node, *allowed):
        if node.tag not in allowed:
            raise _NotReadError(
                f"tags such as {_start(node.tag)} are not supported. Remove it.", node
            )


def _start(text):
    return text if len(text) <= 40 else f"{text[:37]}..."


def starter(layers=1) -> str:
    """A commented spec to start from, as text: what `kclr init` writes.

    Args:
        layers: int. 1: a single layer with triplets, its defaults spelled out; 2 or 3: k-means
            below and contrast above, as in `configs/depth.yaml`, with a third of its filters.
    """
    from importlib.resources import files

    name = {1: "one-layer", 2: "two-layers", 3: "three-layers"}[layers]
    return (files("kclr.spec") / "starters" / f"{name}.yaml").read_text(encoding="utf-8")
