"""Which layers are the same: what a kernel depends on, and which layers can be reused."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from kclr.errors import RunError, SpecError
from kclr.health import Learned, fault
from kclr.runs.directories import RUN, mark
from kclr.runs.paths import atomic, is_there
from kclr.runs.run import Run, TrainedLayer
from kclr.runs.safe_reading import parsed
from kclr.spec.schema import Spec
from kclr.spec.wording import printable

FORMAT = 3  # goes up with whatever makes the same facts give other kernels
PICTURES = "pictures.json"  # of a run: the hash of each picture that it was trained on
_KEY = re.compile("[0-9a-f]{64}")
MOST_SHOWN = 8  # differences in a message


def seed_of(spec, index):
    """A layer's own seed, so that layers differ and adding one changes none below it."""
    return int(np.random.SeedSequence([spec.seed, index]).generate_state(1)[0] >> 1)


@dataclass(frozen=True)
class Made:
    """What something in a run's directory depends on.

    Attributes:
        key: a hash of all of it.
        facts: the same in plain values, so that it can be said in what two of them differ.
    """

    key: str
    facts: dict[str, Any]

    def written(self) -> dict[str, Any]:
        """As `layer.json` and the like say it."""
        return {"key": self.key, "made_of": self.facts}


def key_of(plain: Any) -> str:
    """A hash of a plain value, of 64 hexadecimal digits: the key of whatever depends on it."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def made(facts, hidden=()) -> Made:
    """Facts with their hash; those named `hidden` are for people and do not count in it."""
    return Made(key_of({key: own for key, own in facts.items() if key not in hidden}), facts)


@dataclass(frozen=True)
class Identity:
    """What tells the images of a source from others.

    Attributes:
        fingerprint: a hash of the pictures and of the options that what is learned depends on.
        facts: the same in plain values: options, `content` (a hash of the pictures) and `count`.
        pictures: a hash of each picture by name; empty where they are very many.
    """

    fingerprint: str
    facts: dict[str, Any]
    pictures: Mapping[str, str]


def layers_made(
    spec: Spec, images: Mapping[Any, Identity], shared: Mapping[str, Any] | None = None
) -> list[Made]:
    """For each layer what its kernel depends on, the layers below included.

    Args:
        spec: from `kclr.load_spec`.
        images: what identifies those of each of its sources.
        shared: how several devices share the training, by the keys that a spec has for it, where
            kernels depend on that.
    """
    found: list[Made] = []
    for first, top in spec.trainings():
        layers = spec.stack[first : top + 1]
        below = [layer.key for layer in found[-1:]]
        settings = [layer.model_dump(mode="json", exclude={"name", "data"}) for layer in layers]
        for index, (layer, plain) in enumerate(zip(layers, settings, strict=True), start=first):
            _by_content(layer.learner, plain, "learner", index)
            if layer.learner.contrastive and "alike" in plain["patches"]:
                plain["patches"]["alike"] |= layer.patches.alike.made_of()
            if getattr(layer.learner, "start", None):
                _by_content(layer.learner.start, plain["learner"], "start", index)
            told = plain.get("train", {})
            for key in ("log_every", "checkpoint_seconds", "on_collapse"):
                # Dead filters are started anew where the history has a row.
                if not (key == "log_every" and told.get("reseed")):
                    told.pop(key, None)
        own = images[layers[-1].data or spec.data]
        key = f"stack.{top}.data" if layers[-1].data else "data"
        for index in range(first, top + 1):
            facts = {
                "format": FORMAT,
                "layers": settings,
                "first": first,
                "layer": index - first,
                "seed": spec.seed,
                "below": below,
                "fingerprint": own.fingerprint,
                "images": {key: own.facts},
            }
            if shared:
                facts["shared"] = dict(shared)
            found.append(made(facts, hidden=("images",)))
    return found


def from_runs(spec) -> list:
    """The learners of a spec that take a kernel from a run (see `kclr.learners.run`)."""
    learners = [layer.learner for layer in spec.stack]
    learners += [getattr(learner, "start", None) for learner in learners]
    return [learner for learner in learners if callable(getattr(learner, "digest", None))]


def _by_content(learner, settings, key, index):
    """Let a learner that takes a kernel from elsewhere count by its numbers, not by their place."""
    if callable(getattr(learner, "digest", None)):
        settings[key] = {"name": learner.part_name, "kernel": learner.digest(index)}


def check_finished(run: Run, spec: Spec, layers: Sequence[Made], images: Iterable[Identity]):
    """Fail if the spec would train the finished layers of a directory differently.

    Args:
        run: of the directory. spec: from `kclr.load_spec`. layers: from `layers_made`.
        images: what identifies those of the spec.

    Raises:
        SpecError: it would. RunError: what they say is damaged, so that this is not known.
    """
    _check_length(run, spec)
    known = _listed(run) | _pictures(images)
    expected = {}
    for index, layer in enumerate(spec.stack):
        expected[run.layer_directory(index, layer.name)] = layers[index]
        checkpoint = run.checkpoint(index, layer.name)
        started = checkpoint.with_suffix(".key")
        # That of a finished layer, whose own facts count, is removed with the checkpoints.
        finished = (run.layer_directory(index, layer.name) / "layer.json").exists()
        if not finished and (
            started.exists() or [*checkpoint.parent.glob(f"{checkpoint.stem}.*npz")]
        ):
            where = f"{run.path}: layer {layer.name}"
            check_same(layers[index], _of_checkpoint(run, started), where, known)
    for trained in run.layers:
        if trained.directory not in expected:
            raise SpecError(
                f"{run.path}: layer {trained.name} is finished, but the spec does not have this "
                "layer at its place. Train in another directory with out=... (--out), or replace "
                "the run with overwrite=True (--overwrite)."
            )
        trained.check_facts()
        where = f"{run.path}: layer {trained.name}"
        check_same(expected[trained.directory], trained.facts, where, known)


def _of_checkpoint(run, file) -> Any:
    """What a checkpoint's `.key` says.

    Raises:
        RunError: it is damaged, or missing.
    """
    there = is_there(file)
    text = run.text(file.relative_to(run.path)) if there else ""
    try:
        value = parsed(text)
    except ValueError:
        value = text.strip()  # of an earlier version: the key alone
    facts = _mapping(value).get("made_of")
    if isinstance(facts, dict):
        whole = made(facts, hidden=("images",)).key == value.get("key")
    else:
        whole = isinstance(value, str) and _KEY.fullmatch(value)
    if not whole:
        raise RunError(
            f"{file}: {'damaged' if there else 'missing'}, so it is not known what the checkpoint "
            "beside it was made of. "
            f"Restore the file, or remove {file.parent} and continue with `kclr train ... "
            "--resume`: the unfinished layer is then trained from its start."
        )
    return value


def list_pictures(run: Run, images: Iterable[Identity]):
    """Keep a hash of each picture in the run, so that it can be said which ones differ later."""
    now = {digest: dict(own) for digest, own in _pictures(images).items() if own}
    if now and _listed(run) != now:
        run.write_text(PICTURES, json.dumps(now, indent=0) + "\n")


def _pictures(images) -> dict[str, Mapping[str, str]]:
    """A hash of each picture by name, by the hash of them all; none where they are very many."""
    return {own.facts["content"]: own.pictures for own in images}


def _listed(run) -> dict[str, Any]:
    """The pictures' hashes that a run keeps, by the hash of them all; none where they are lost."""
    if not (run.path / PICTURES).exists():
        return {}
    try:
        listed = parsed(run.text(PICTURES))
    except ValueError:  # a RunError too
        return {}
    return {digest: _mapping(own) for digest, own in _mapping(listed).items()}


def check_same(now: Made, before, where, known=None, words=None, was="trained"):
    """Fail if something was made differently.

    Args:
        now: what the spec asks for.
        before: what is there: the mapping with `key` and `made_of`, or its JSON.
        where: what it is, in messages.
        known: hashes of pictures by name, by the `content` of their images.
        words: function from facts to those that are shown, by what they are called in a spec; by
            default `told`, for layers.
        was: what was done to make it.

    Raises:
        SpecError: it was made otherwise; the message says in what.
    """
    cure = (
        "Use another directory with out=... (--out), or replace the existing one with "
        "overwrite=True (--overwrite; it is lost)."
    )
    if isinstance(before, str):
        try:
            before = parsed(before)
        except ValueError:
            before = None
    before = _mapping(before)
    if before.get("key") == now.key:
        return
    facts = before.get("made_of")
    if not isinstance(facts, dict) or facts.get("format") != now.facts["format"]:
        raise SpecError(
            f"{where} was {was} by an earlier version of kclr, which did not record what it "
            f"depends on. It can be read, but not continued. {cure}"
        )
    words = words or told
    settings = differences(words(facts), words(now.facts))
    images = other_images(facts.get("images"), now.facts["images"], known or {})
    kinds = ["with other settings"] * bool(settings) + ["on other images"] * bool(images)
    shown = [*settings, *images] or [
        "its key does not match its recorded settings, so one of the two was changed"
    ]
    more = [f"and {len(shown) - MOST_SHOWN} more"] * (len(shown) > MOST_SHOWN)
    raise SpecError(
        f"{where} was {was} {' and '.join(kinds) or 'otherwise'}:"
        + "".join(f"\n  {line}" for line in [*shown[:MOST_SHOWN], *more])
        + f"\n{cure}"
    )


def told(facts) -> dict[str, Any]:
    """The facts of a layer by the keys that a spec has for them."""
    layers, first = facts.get("layers"), facts.get("first")
    found: dict[str, Any] = {"seed": facts.get("seed")}
    if isinstance(layers, list) and isinstance(first, int):
        found |= {f"stack.{first + index}": own for index, own in enumerate(layers)}
    for key, images in _mapping(facts.get("images")).items():
        found[key] = {
            option: own for option, own in _mapping(images).items() if option not in _UNTOLD
        }
    return found | _mapping(facts.get("shared"))


def differences(before, now) -> list[str]:
    """A line for each plain value that differs, with its key path and both values."""
    old, new = dict(_flat(before)), dict(_flat(now))
    return [
        f"{path}: {_shown(old, path)} there, {_shown(new, path)} in the spec"
        for path in {**new, **old}
        if old.get(path, _NONE) != new.get(path, _NONE)
    ]


def other_images(before, now, known) -> list[str]:
    """A line for all images of which some pictures differ: how many, as well as it is known.

    Args:
        before, now: facts of images (see `Identity`) by the key that a spec has for them.
        known: for each `content` the hash of each picture by name.
    """
    found = []
    for key, own in _mapping(now).items():
        then, name = _mapping(_mapping(before).get(key)), own["name"]
        if then and then.get("content") != own["content"]:
            old, new = known.get(str(then.get("content"))), known.get(own["content"])
            same = then.get("name") == name
            if same and old and new:
                found.append(f"{printable(name)}: {_picture_differences(old, new)}")
            else:
                other = "other images" if same else f"not {printable(then.get('name'))}"
                counts = f"{printable(then.get('count'))} then, {own['count']} now"
                found.append(f"{printable(name)}: {other} ({counts})")
    return found


def _picture_differences(old, new):
    if sorted(map(str, old.values())) == sorted(map(str, new.values())):
        return "the same pictures in another order or with other names"
    groups = {
        f"of {len(new)} pictures differ": [n for n in new if n in old and old[n] != new[n]],
        "new": [name for name in new if name not in old],
        "gone": [name for name in old if name not in new],
    }
    return ", ".join(
        f"{len(names)} {words} ({', '.join(map(printable, names[:3]))}{', ...' * (len(names) > 3)})"
        for words, names in groups.items()
        if names
    )


def _flat(value, path=""):
    """The plain values in mappings and lists of mappings, with their key paths."""
    entries = list(_mapping(value).items())
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        entries = list(enumerate(value))
    if not entries:
        yield path, value
    for key, entry in entries:
        yield from _flat(entry, f"{path}.{key}" if path else str(key))


def _mapping(value) -> dict[Any, Any]:
    """A value of a run's file where it is a mapping; an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


_NONE = object()
_UNTOLD = ("name", "content", "count", "max_unreadable")  # of images: told in another way, or none


def _shown(values, path):
    if path not in values:
        return "not set"
    text = json.dumps(values[path])  # which escapes what a terminal would obey
    return text if len(text) <= 60 else text[:57] + "..."


def _check_length(run, spec):
    """Say what to do where all that a spec asks of a finished layer is more steps.

    Raises:
        SpecError: it is.
    """
    finished = {layer.directory for layer in run.layers}
    if not finished:
        return
    now = spec.model_dump(mode="json")
    try:
        before = run.resolved
    except (OSError, RunError):
        return  # layers that were taken over, or a damaged file, of which others tell
    changed: list[tuple[int, str, Any, Any]] = []
    for index, layer in enumerate(spec.stack):
        if run.layer_directory(index, layer.name) not in finished:
            continue
        here, there = (_train_of(each, index) for each in (now, before))
        for key in ("steps", "epochs"):
            more, fewer = here.get(key), there.get(key)
            if more != fewer and here | {key: fewer} == there:
                changed.append((index, key, fewer, more))
    if len(changed) != 1 or not all(type(count) is int for count in changed[0][2:]):
        return
    if changed[0][2] > changed[0][3]:
        return
    index, key, fewer, more = changed[0]
    name = spec.stack[index].name
    raise SpecError(
        f"{run.path}: layer {name} was trained for {fewer:,} {key}, but the spec says {more:,}. A "
        "finished layer is not trained further in its own directory. Train it further in another "
        f"one, out=... (--out), from its kernel and with a new optimizer: stack.{index}.learner: "
        f"{{start: {run.path}}}, and {key}: {more - fewer} more."
    )


def _train_of(plain, index) -> dict[str, Any]:
    """A layer's `train` in a plain spec; empty where there is none, or no such layer."""
    try:
        own = plain["stack"][index]["train"]
    except (KeyError, IndexError, TypeError):
        return {}
    return own if isinstance(own, dict) else {}


def adopt(spec: Spec, out, runs: Iterable[Run], layers: Sequence[Made]) -> int:
    """Reuse the lowest layers of a spec from the run that has most of them finished.

    Files are linked where the disk allows it, for a finished layer is never written to again.

    Args:
        spec: from `kclr.load_spec`.
        out: the run directory that the spec will be trained into with `resume`.
        runs: those that may have layers of the same settings, images and seed.
        layers: what those of the spec are made of (see `layers_made`).

    Returns:
        How many layers `out` has now.
    """
    run = Run(out)
    best: list[TrainedLayer] = []
    for other in runs:
        wanted = zip(spec.stack, layers, other.layers, strict=False)
        same = [
            own.facts.get("key") == made.key and own.name == layer.name and _healthy(own)
            for layer, made, own in wanted
        ]
        count = same.index(False) if False in same else len(same)
        best = other.layers[:count] if count > len(best) else best
    if best:
        mark(run.path, RUN)
    for index, layer in enumerate(best):
        place = run.layer_directory(index, layer.name)
        if not place.exists():
            with atomic(place) as temporary:
                shutil.copytree(layer.directory, temporary, copy_function=_link)
    if best and not (run.path / "spec.yaml").exists():
        run.write_text("spec.yaml", yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False))
    return len(run.layers)


def _healthy(layer):
    try:
        return fault(Learned(layer.kernel, layer.bias, {})) is None
    except RunError:
        return False  # its files are damaged


def _link(source, target):
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
