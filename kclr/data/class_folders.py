"""Folders of labelled pictures: which are classes, and which are splits for training and test."""

import os
import re
from dataclasses import dataclass

from kclr.data.census import Census
from kclr.data.source_folder import Files
from kclr.errors import SpecError
from kclr.spec.wording import printable

_TRAIN = ("train", "training", "trn")
# The part to judge on is the first of these that is there.
_HELD_OUT = (
    "test", "testing", "tst", "validation", "validate", "valid", "val", "dev", "eval",
    "evaluation", "holdout", "heldout",
)  # fmt: skip
_ADDED = re.compile(r"[\W\d_]|(set|data|images?|pictures?|split|folder)$")


@dataclass(frozen=True)
class Layout:
    """Where the labelled pictures of a folder are.

    Attributes:
        classes: their names, in order.
        folders: of the training pictures, "train", and the test pictures, "test"; the same folder
            if it has to be divided.
        within: names of the folders in each class with the pictures of "train" and "test"; empty if
            the classes have no splits of their own.
        noun: what the files are called.
    """

    classes: tuple[str, ...]
    folders: dict[str, str]
    within: dict[str, frozenset[str]]
    noun: str

    @property
    def divided(self) -> bool:
        """Whether test and training pictures are in separate folders."""
        return bool(self.within) or self.folders["train"] != self.folders["test"]

    def labels(self, source: Files, split) -> tuple[Files, list[int], list[int]]:
        """The source of a split, the numbers of its pictures, and the class of each.

        Args:
            source: that of the whole folder.
            split: "train" or "test".

        Raises:
            SpecError: some of them are not in a class folder.
        """
        path = self.folders[split]
        source = source.model_copy(update={"path": path})
        problem = source.problem()
        if problem:
            raise SpecError(problem)
        root = os.path.expanduser(path)
        rows, labels, strange = [], [], {}
        for row, file in enumerate(source._paths(Census(source.sounds))):
            first, *rest = os.path.relpath(file, root).split(os.sep)
            if first not in self.classes or not rest or (self.within and len(rest) < 2):
                strange[first] = bool(rest)
            elif not self.within or rest[0] in self.within[split]:
                rows.append(row)
                labels.append(self.classes.index(first))
        if strange:
            raise SpecError(self._strange(path, strange))
        return source, rows, labels

    def _strange(self, path, strange):
        names = sorted(strange)
        known = f"{_listed(self.classes)}"
        if self.within:
            which = _listed(sorted({name for names in self.within.values() for name in names}))
            cure = f"Move all {self.noun} to one of the folders {which} in its class."
        elif all(strange.values()):
            cure = (
                f"Move {_them(names)} out of {_at(path)}, or add training {self.noun} of that "
                "class."
            )
        else:
            cure = f"Move all {self.noun} to the folders of their classes."
        verb = "is" if len(names) == 1 else "are"
        return (
            f"{_at(path)}: {_listed(names)} {verb} not in a class folder of the training images "
            f"({known}). {cure}"
        )


def layout(source: Files) -> Layout:
    """Find the classes and splits in the folders below a source's path.

    Three layouts are known: PATH/class/picture, PATH/train/class/picture with PATH/test, and
    PATH/class/train/picture with PATH/class/test. The names of the splits are the usual ones
    ("Training", "val", "test_set"), in any case.

    Raises:
        SpecError: it is none of these; the message says what was found and what to do.
    """
    problem = source.problem()
    if problem:
        raise SpecError(problem)
    path, noun = source.path, source.noun
    names = folders(path)
    train = [name for name in names if _plain(name) in _TRAIN]
    held_out = _held_out(names)
    others = [name for name in names if name not in train and name not in held_out]
    if train and held_out:
        return _divided(path, train, held_out, noun)
    if len(train) == 1 and folders(os.path.join(path, train[0])):
        inside = os.path.join(path, train[0])
        if not others:
            return layout(source.model_copy(update={"path": inside}))
        raise SpecError(
            f"{_at(inside)} looks like a training split, but {_listed(others)} next to it would "
            f"make it a class. Name {_at(inside)} itself to hold out a fifth of its {noun} for "
            "testing, or add a folder test next to it."
        )
    if held_out:
        raise SpecError(
            f"{_at(path)} holds {_listed(held_out)}, the name of a test split, but no folder "
            f"train{f', but {_listed(others)}' if others else ''}. {_move(held_out, path)}, or "
            f"rename {_them(held_out)} if it is a class; put the training {noun} into a folder "
            "train to use both."
        )
    return _classes_alone(path, noun)


def _divided(path, train, held_out, noun):
    """PATH/train/class and PATH/test/class."""
    plain = [_plain(name) for name in held_out]
    for several in (train, [name for name in held_out if plain.count(_plain(name)) > 1]):
        if len(several) > 1:
            raise SpecError(
                f"{_at(path)} holds {' and '.join(map(printable, several))}, two names of the "
                "same split. Keep one of them."
            )
    fit = os.path.join(path, train[0])
    classes = _at_least_two(fit, folders(fit), noun)
    for name in held_out:
        judge = os.path.join(path, name)
        if set(folders(judge)) & set(classes):
            return Layout(classes, {"train": fit, "test": judge}, {}, noun)
    judge = os.path.join(path, held_out[0])
    there = folders(judge)
    what = f"folders {_listed(there)}, none of them" if there else f"{noun}, but not in folders"
    raise SpecError(
        f"{_at(judge)} holds {what} of the classes of {_at(fit)} ({_listed(classes)}), so the "
        f"classes of its {noun} are unknown. {_move(held_out, path)} to hold out a fifth of "
        f"each class of {_at(fit)} for testing; or sort the {noun} into "
        f"{_at(judge, classes[0])} and so on."
    )


def _classes_alone(path, noun):
    """PATH/class, where each class may have its own splits."""
    classes = _at_least_two(path, folders(path), noun)
    inside = {name: folders(os.path.join(path, name)) for name in classes}
    parts = {
        name: (frozenset(n for n in own if _plain(n) in _TRAIN), _held_out(own))
        for name, own in inside.items()
    }
    if not any(train and held_out for train, held_out in parts.values()):
        return Layout(classes, {"train": path, "test": path}, {}, noun)
    undivided = [name for name, (train, held_out) in parts.items() if not (train and held_out)]
    if undivided:
        divided = next(name for name in classes if name not in undivided)
        raise SpecError(
            f"{_at(path, divided)} is divided into {_listed(inside[divided])}, but "
            f"{_listed(undivided)} next to it is not. Divide all classes in the same way, or none."
        )
    train = frozenset().union(*(train for train, _ in parts.values()))
    common = [
        word
        for word in _HELD_OUT
        if all(word in map(_plain, held_out) for _, held_out in parts.values())
    ]
    if not common:
        called = sorted({name for _, names in parts.values() for name in names})
        raise SpecError(
            f"{_at(path)}: the test folders have different names in different classes "
            f"({_listed(called)}). Use one name."
        )
    judge = frozenset(n for _, own in parts.values() for n in own if _plain(n) == common[0])
    return Layout(classes, {"train": path, "test": path}, {"train": train, "test": judge}, noun)


def _at_least_two(path, names, noun):
    if len(names) < 2:
        raise SpecError(
            f"{_at(path)} has {len(names) or 'no'} class folder{'s' * (len(names) != 1)}, but at "
            f"least two are needed. Put the {noun} of each class in its own folder: "
            f"{_at(path, 'cats')}, {_at(path, 'dogs')}. Or add a table {_at(path, 'labels.csv')} "
            "with the columns file and label."
        )
    return tuple(names)


def folders(path):
    """Names of the folders in a path, in order."""
    try:
        with os.scandir(os.path.expanduser(path)) as listed:
            return sorted(e.name for e in listed if e.is_dir() and not e.name.startswith("."))
    except OSError:
        return []


def _plain(name):
    """The plain name of a split: "Test_set 2" is "test"."""
    return _ADDED.sub("", _ADDED.sub("", name.lower()))


def split_of(name) -> str | None:
    """ "train", or which one of the parts to judge on a name means; None where it is neither."""
    plain = _plain(name)
    return "train" if plain in _TRAIN else plain if plain in _HELD_OUT else None


def best_held_out(names) -> str | None:
    """The one of some parts to judge on that is used, or None where there is none."""
    return min(set(names) & {*_HELD_OUT}, key=_HELD_OUT.index, default=None)


def _held_out(names):
    """Folders that are named like test splits, the best first."""
    found = [name for name in names if _plain(name) in _HELD_OUT]
    return sorted(found, key=lambda name: _HELD_OUT.index(_plain(name)))


def _at(*parts):
    return printable(os.path.join(*parts))


def _move(names, path):
    return f"Move {_them(names)} out of {_at(path)}"


def _them(names):
    return printable(names[0]) if len(names) == 1 else "them"


def _listed(names):
    shown = ", ".join(printable(name) for name in names[:5])
    return f"{shown}, ..." if len(names) > 5 else shown
