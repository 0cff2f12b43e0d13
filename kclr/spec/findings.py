"""All errors in a spec, gathered at once: each with its place, value and cure."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kclr.errors import Finding, SpecError
from kclr.spec.checks import (
    compile_findings,
    device_findings,
    grid_findings,
    name_findings,
    objective_findings,
    search_findings,
    size_findings,
    together_findings,
    whitening_findings,
)
from kclr.spec.overrides import Slot, item, override, slot_at
from kclr.spec.reading import plain_value, read_yaml
from kclr.spec.registry import Part
from kclr.spec.schema import Spec
from kclr.spec.wording import OURS, nearest, printable, shown

# Keys of a block or of patches that no size depends on.
_NO_SIZES = {
    "activation", "augment", "augment_views", "batch_norm", "contrast", "contrast_epsilon",
    "filters", "padding", "use_bias", "whitening", "whitening_epsilon",
}  # fmt: skip


_LONGEST = 10_000_000  # letters of a spec; a device has no end


# With so many mistakes, what else may be wrong can wait.
_MANY = 300


@dataclass
class Draft:
    """A spec, as far as it could be understood, and all errors in it.

    Attributes:
        name: the file.
        root: the class of the whole spec.
        value: the plain value as written, with the changes of `--set`.
        spec: the checked spec, with defaults in place of what is wrong; None if too little is left.
        findings: the errors.
        doubtful: paths of what is wrong, so that nothing that depends on it is reported too.
        places: for each path that was written, where: "line 9" or "--set".
    """

    name: str
    root: type[Part] = Spec
    value: Any = None
    spec: Any = None
    findings: list[Finding] = field(default_factory=list)
    doubtful: set[tuple] = field(default_factory=set)
    places: dict[tuple, str] = field(default_factory=dict)

    def trusted(self, *path) -> bool:
        """Whether nothing at, below or above this path is wrong."""
        return not any(
            wrong[: len(path)] == path or path[: len(wrong)] == wrong for wrong in self.doubtful
        )

    def sizes_trusted(self, index, below=False) -> bool:
        """Whether everything that determines the sizes of layer `index` is right.

        Args:
            index: the layer's number from 0.
            below: also ask for the blocks of all layers below it.
        """
        for wrong in self.doubtful:
            top, layer, part, key = (*wrong, None, None, None, None)[:4]
            if top != "stack" or (layer is not None and not 0 <= layer <= index):
                continue
            if part in ("name", "learner", "objective", "embedding", "train", "data"):
                continue
            if part in ("block", "patches") and key in _NO_SIZES:
                continue
            if layer in (index, None) or (below and part != "patches"):
                return False
        return True

    def finished(self) -> Any:
        """The spec.

        Raises:
            SpecError: the spec has errors; the message lists all of them.
        """
        if self.findings or self.spec is None:
            raise refusal(self.name, self.findings, self.places)
        return self.spec


def load_spec(path, overrides=()) -> Spec:
    """Read a spec, apply `key.path=value` overrides, and check it.

    `kclr.data.checks.load_checked` also checks that its images exist and are large enough.

    Args:
        path: path of the YAML file, or a dict with the same keys.
        overrides: list of str, as for `--set`.

    Raises:
        SpecError: the file cannot be read or has errors; the message lists all of them.
    """
    if isinstance(path, Spec) and not overrides:
        return path
    return read_draft(path, overrides).finished()


def parse_spec(text, overrides=(), name="spec") -> Spec:
    """`load_spec` for a text; messages show `name` in place of the file."""
    return draft(text, overrides, name).finished()


def read_draft(path, overrides=(), root: type[Part] = Spec) -> Draft:
    """`draft` of a file, or `checked` of a dict.

    Raises:
        SpecError: the file cannot be read, or is not YAML.
    """
    if isinstance(path, Mapping):
        return checked(plain_value(path, "spec"), overrides, Draft("spec", root))
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(_LONGEST + 1)
        if len(text) > _LONGEST:
            raise SpecError(f"{path}: too long for a spec: more than {_LONGEST:,} characters.")
    except FileNotFoundError:
        raise SpecError(f"{path}: file not found.{_similar_file(path)}") from None
    except IsADirectoryError:
        raise SpecError(f"{path} is a directory; a spec is a YAML file.{_inside(path)}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{path}:{line}: not UTF-8 text. Save the file as UTF-8.") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}.") from None
    return draft(text, overrides, str(path), root)


def draft(text, overrides: Iterable[str] = (), name="spec", root: type[Part] = Spec) -> Draft:
    """Check a spec's text and gather all errors, those in the layers' sizes included.

    Args:
        text: YAML.
        overrides: `key.path=value`, each.
        name: of the spec, in messages.
        root: the class of the whole spec, if it is not that of a run.

    Raises:
        SpecError: the text is not YAML.
    """
    document = read_yaml(text, name)
    places = {path: f"line {line}" for path, line in document.lines.items()}
    made = Draft(name, root, places=places)
    for path, line in dict.fromkeys(document.repeated):
        made.places[path] = f"line {line}"
        made.findings.append(Finding(path, "duplicate key. Remove one of the two."))
    return checked(document.value, overrides, made)


def checked(value, overrides: Iterable[str], made: Draft) -> Draft:
    """Check a spec's plain value and gather all errors, those in the layers' sizes included.

    Args:
        value: plain.
        overrides: `key.path=value`, each.
        made: the draft so far; it is filled in and returned.
    """
    root = made.root
    for assignment in overrides if isinstance(value, dict) or value is None else ():
        try:
            value, path = override(value, assignment, root)
        except SpecError as error:
            made.places[("--set", assignment)] = "--set"
            made.findings.append(Finding(("--set", assignment), str(error)))
            continue
        made.places = {p: w for p, w in made.places.items() if p[: len(path)] != path}
        for length in range(len(path), 0, -1):
            made.places.setdefault(path[:length], "--set")
    if value is None:
        cure = "`kclr init` writes one to start from." if root is Spec else _minimal(root)
        made.findings.append(Finding((), f"the spec is empty. {cure}"))
    elif not isinstance(value, dict):
        cure = "See `kclr init`." if root is Spec else _minimal(root)
        words = f"a spec is a mapping with the key `{_needed(root)[0]}`, not {shown(value)}. {cure}"
        made.findings.append(Finding((), words))
    else:
        made.value = value
        _validate(value, made)
    if isinstance(made.spec, Spec):
        for found in (
            *name_findings(made.spec),
            *grid_findings(made.spec),
            *compile_findings(made.spec),
        ):
            made.findings += [found] if made.trusted(*found.path) else []
        if not any("filters" in wrong or "learner" in wrong for wrong in made.doubtful):
            for found in (
                *whitening_findings(made.spec),
                *together_findings(made.spec),
                *device_findings(made.spec),
            ):
                made.findings += [found] if made.trusted(*found.path) else []
        for index in range(len(made.spec.stack)):
            if made.sizes_trusted(index):
                made.findings += size_findings(made.spec, index)
                if made.trusted("stack", index, "objective"):
                    made.findings += objective_findings(made.spec, index)
        if made.spec.search:
            for found in search_findings(made.spec, value, _complaints):
                made.findings += [found] if made.trusted(*found.path) else []
    for finding in made.findings:
        made.doubtful.add(finding.path)
    return made


def _validate(value, made: Draft) -> None:
    """Validate repeatedly, each time without what was wrong, until the rest is right.

    Some checks run only when the values that they need are right; this way no error hides another.
    """
    left = value
    while True:
        try:
            made.spec = made.root.model_validate(left)
            return
        except ValidationError as error:
            found = [
                complaint(details, left, made.root)
                for details in error.errors(include_url=False)
                if not _only_seems_short(details)
            ]
        smaller = left
        for path, message in _one_each(found, left, made.root):
            if made.trusted(*path):
                made.findings.append(Finding(path, message))
        made.doubtful |= {path for path, _ in found}
        if len(found) > _MANY:
            return
        for path, _ in found:
            smaller = _without(smaller, path, left, made.root)
        if smaller == left or not isinstance(smaller, dict):
            return
        left = smaller


def _complaints(value) -> list[Finding]:
    """The errors in a plain value, except those in its sizes."""
    made = Draft("spec")
    _validate(value, made)
    return made.findings


def _needed(root) -> list[str]:
    """The keys that a spec must have."""
    return [key for key, field in root.model_fields.items() if field.is_required()]


def _minimal(root) -> str:
    return f"Start with {', '.join(f'`{key}: ...`' for key in _needed(root))}."


def _one_each(found, value, root):
    """One message for a place where several types are allowed but none fits."""
    messages: dict[tuple, list[str]] = {}
    for path, message in dict.fromkeys(found):
        messages.setdefault(path, []).append(message)
    for path, several in messages.items():
        slot = slot_at(path, value, root)
        if len(several) > 1 and slot and len(slot.types) > 1:
            given = value
            for key in path:
                given = item(given, key)
            several = [f"{shown(given)} is not allowed. Use {slot.allowed()}."]
        yield from ((path, message) for message in several)


def _only_seems_short(details):
    """Whether a list is reported as too short only because its items are wrong."""
    return details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"]


def _without(value, path, whole, root):
    """A copy of a plain value without the value at `path` and what is useless without it."""
    if not path:
        return None
    above = slot_at(path[:-1], whole, root)
    holder = whole
    for key in path[:-1]:
        holder = item(holder, key)
    names_it = above is not None and above.shorthand == path[-1]
    absent = not isinstance(holder, list) and (
        not isinstance(holder, dict) or path[-1] not in holder
    )
    in_list = isinstance(holder, list) and path[:-1] != ("stack",)
    if names_it or absent or in_list:
        return _without(value, path[:-1], whole, root)
    return _removed(value, path)


def _removed(value, path):
    key, *rest = path
    if item(value, key) is None and not (isinstance(value, dict) and key in value):
        return value  # removed already, with something around it
    changed = list(value) if isinstance(value, list) else dict(value)
    if rest:
        changed[key] = _removed(value[key], rest)
    elif isinstance(changed, list):
        changed[key] = {}
    else:
        del changed[key]
    return changed


def refusal(name: str, findings: Iterable[Finding], places=None) -> SpecError:
    """The error that lists findings: the file, their number, and a line for each.

    Args:
        name: of the spec.
        findings: some.
        places: for each path that was written, where: "line 9" or "--set".
    """
    places, findings = places or {}, list(findings)
    count = "1 error" if len(findings) == 1 else f"{len(findings)} errors"
    rows = [f"{name}: {count}"]
    for finding in sorted(findings, key=lambda f: _order(f.path, places)):
        place = _place(finding.path, places)
        written = "" if finding.path[:1] == ("--set",) else _cut(".".join(map(str, finding.path)))
        head = ", ".join(part for part in (place, written) if part)
        rows.append(f"  {head}: {finding.message}" if head else f"  {finding.message}")
    words = "\n".join(_bounded(printable(line)) for row in rows for line in row.split("\n"))
    return SpecError(words, findings)


def _bounded(line):
    # The place begins it, the cure ends it; between them may be thousands of digits.
    return line if len(line) <= 1000 else f"{line[:600]} ... {line[-300:]}"


def _cut(text):
    return text if len(text) <= 200 else f"{text[:197]}..."


def _place(path, places):
    """Where a key is written, or the nearest key around it that is."""
    for length in range(len(path), 0, -1):
        if path[:length] in places:
            return places[path[:length]]
    return ""


def _order(path, places):
    """In the order of the file, followed by those from `--set`."""
    place = _place(path, places)
    word = place.rpartition(" ")[2]
    return (place == "--set", int(word) if word.isdigit() else 0)


def _similar_file(path):
    names = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    if near:
        return f" Did you mean {path.parent / near[0]}?"
    return " `kclr init` writes one to start from."


def _inside(path):
    names = sorted(p.name for p in path.glob("*.y*ml"))
    return f" Did you mean {path / names[0]}?" if names else ""


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


def refusal_apart(error: Any, name: str, spec: Any, under: tuple, own: tuple) -> SpecError:
    """The error for a value that is not from a spec, in the words of one, as if it stood there.

    Args:
        error: pydantic's ValidationError for the value.
        name: of the value, in place of a spec's.
        spec: a plain spec that has the value. under: the key path that the error's paths begin at.
        own: the value's key path, which the message leaves out.
    """
    found = [
        complaint(details | {"loc": (*under, *details["loc"])}, spec)
        for details in error.errors(include_url=False)
    ]
    return refusal(name, [Finding(path[len(own) :], words) for path, words in found])


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
