"""A spec's search section in keras-tuner's terms, and a trial's values as a spec again."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from kclr.spec.checks import OF_EACH_LAYER
from kclr.spec.findings import draft, refusal
from kclr.spec.overrides import override
from kclr.spec.schema import Spec
from kclr.spec.search import Search, assignments, layer_of, parents_first, text_of


@dataclass(frozen=True)
class Stage:
    """A part of a search whose trials are chosen by one tuner.

    Attributes:
        name: of its topmost layer, which trials are judged by.
        paths: the hyperparameters' key paths.
        top: that layer's number, from 0; trials train no layer above it.
        shared: how many of the lowest layers no hyperparameter touches.
    """

    name: str
    paths: tuple[str, ...]
    top: int
    shared: int


def stages(spec: Spec) -> list[Stage]:
    """The stages of a search: one for each layer that is searched, or one for the whole stack."""
    assert spec.search
    space = spec.search.space
    touched = {
        path: [layer_of(key) or 0 for key in (path, *own.also)] for path, own in space.items()
    }
    if spec.search.layers == "greedy":
        return [
            Stage(
                layer.name or "", tuple(p for p, on in touched.items() if index in on), index, index
            )
            for index, layer in enumerate(spec.stack)
            if any(index in on for on in touched.values())
        ]
    lowest = min(layer for layers in touched.values() for layer in layers)
    if spec.train.end_to_end:
        lowest = next(first for first, last in spec.joined() if first <= lowest <= last)
    top = len(spec.stack) - 1
    return [Stage(spec.stack[top].name or "", tuple(space), top, lowest)]


def declare(hp, search: Search, paths: Iterable[str]) -> None:
    """Register hyperparameters with keras-tuner's `HyperParameters`, under their key paths.

    A choice is one of texts (`text_of`), so that it may be of any form.
    """
    wanted = set(paths)
    for path in parents_first(search.space):
        if path not in wanted:
            continue
        own = search.space[path]
        with contextlib.ExitStack() as scopes:
            for parent, values in own.when.items():
                plain = search.space[parent].boolean
                allowed = [bool(value) if plain else text_of(value) for value in values]
                scopes.enter_context(hp.conditional_scope(parent, allowed))
            if own.choice is not None:
                hp.Choice(path, [text_of(value) for value in own.choice])
            elif own.boolean:
                hp.Boolean(path)
            elif own.float:
                hp.Float(path, *own.float, step=own.step, sampling=own.sampling)
            elif own.int:
                step = int(own.step) if own.step else None
                hp.Int(path, *own.int, step=step, sampling=own.sampling)


def with_values(plain: dict[str, Any], search: Search, values: Mapping[str, Any]) -> dict[str, Any]:
    """A spec's plain value with a trial's values in it, and without the section `search`."""
    changed: Any = {key: part for key, part in plain.items() if key != "search"}
    for assignment in assignments(search.space, values):
        changed, _ = override(changed, assignment)
    return changed


def trial_spec(plain: dict[str, Any], top: int) -> Spec:
    """The spec of a trial: the layers up to `top`.

    Raises:
        SpecError: its values cannot be combined.
    """
    lower = plain | {"stack": plain["stack"][: top + 1]}
    for section, key in OF_EACH_LAYER:
        options = lower.get(section)
        if isinstance(options, dict) and isinstance(options.get(key), list):
            lower[section] = options | {key: options[key][: top + 1]}
    made = draft(yaml_of(lower))
    if made.findings:
        raise refusal("these values", made.findings)
    return made.spec


class _Dumper(yaml.SafeDumper):
    """Readable YAML: values that occur twice are written out twice."""

    def ignore_aliases(self, data):
        return True


def yaml_of(plain: Any) -> str:
    """A plain value as YAML."""
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def plain_of(spec: Spec) -> dict[str, Any]:
    """The plain value of a checked spec, without sizes that follow from others by default."""
    value = spec.model_dump(mode="json")
    for layer in value["stack"]:
        for part, keys in (("block", ["pool_strides"]), ("patches", ["crop_size", "patch_size"])):
            for key in keys:
                kept = layer.get(part, {}).pop(key, None)
                if kept is not None and draft(yaml_of(value)).spec != spec:
                    layer[part][key] = kept
    return value
