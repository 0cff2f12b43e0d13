"""Labels in files of arrays: where they are, which classes they tell of, and groups.

`x_train`, `y_train`, `x_test` and `y_test` in one file; or `x` and `y`, of which a part is kept for
judging; or `NAME.labels.npy` next to `NAME.npy`.
"""

import os
import re
import warnings
from dataclasses import dataclass
from typing import Any

from kclr.data import array_files
from kclr.data.labels import HELD_OUT, as_classes, check_split_groups, divide
from kclr.data.pixels import UnreadableError
from kclr.errors import SpecError
from kclr.spec.wording import printable

_LABELS = ("y", "labels", "label", "targets", "target")
_GROUPS = ("group", "groups")
# The part of an array's name that says it has the images: x_train, train_images, Xtrain.
_OF_IMAGES = re.compile(r"(?i)^x|(?<![a-z])(?:x|images?|data)(?![a-z])")


@dataclass(frozen=True)
class ArrayLabels:
    """Labelled images in a file of arrays, by split: "train", and "test" where there is one.

    Attributes:
        files: `FILE:KEY` of the images.
        labels: int64 (images,), the class index of each image.
        classes: their names.
        groups: for each image what must not be divided; empty where nothing is known of it.
    """

    files: dict[str, str]
    labels: dict[str, Any]
    classes: tuple[str, ...]
    groups: dict[str, Any]

    def rows(self, split, name) -> Any:
        """The rows of a split where the file has no splits; see `kclr.data.labels.divide`."""
        import numpy as np

        present, indices = np.unique(self.labels["train"], return_inverse=True)
        classes = [self.classes[index] for index in present]
        return divide(indices.reshape(-1), split, name, classes, self.groups.get("train"))


def find(source) -> ArrayLabels:
    """The labels next to the images of a source.

    Args:
        source: `array:FILE` or `series:FILE`, which can be opened.

    Raises:
        SpecError: there are none, or they do not fit the images.
    """
    import numpy as np

    path, key = array_files.split_key(source.file)
    with array_files.opened(path, key, source.memory) as stored:
        key = stored.name
    known = array_files.names(path)
    keys = _keys(path, key, known)
    files = {split: f"{path}:{own}" if own else path for split, (own, _) in keys.items()}
    counts = {split: _count(source, file) for split, file in files.items()}
    found = {split: _column(place[0], place[1], "labels") for split, (_, place) in keys.items()}
    for split, labels in found.items():
        _check_count(labels, counts[split], _named(*keys[split][1]), "labels")
        if labels.dtype.kind == "f":
            raise SpecError(
                f"{_named(*keys[split][1])}: labels are whole numbers or texts, but these are "
                f"{labels.dtype}. Save them as whole numbers."
            )
    kinds = {labels.dtype.kind == "U" for labels in found.values()}
    if len(kinds) > 1:
        raise SpecError(
            f"{printable(path)}: the labels of one split are texts, those of the other numbers. "
            "Use the same for both."
        )
    named = _beside(key, ["classes"], known)
    names = _column(path, named, "classes") if named else None
    indices, classes = as_classes(np.concatenate([*found.values()]), names, printable(path))
    ends = np.cumsum([len(labels) for labels in found.values()])[:-1]
    labels = dict(zip(found, np.split(indices, ends), strict=True))
    if "test" in labels:
        unknown = sorted({*labels["test"].tolist()} - {*labels["train"].tolist()})
        if unknown:
            shown = ", ".join(printable(classes[index]) for index in unknown[:5])
            raise SpecError(
                f"{printable(path)}: classes that only the test labels have: {shown}"
                f"{', ...' * (len(unknown) > 5)}. Add training images of them, or remove these "
                "test images."
            )
    groups = _groups(path, key, known, keys, counts)
    return ArrayLabels(files, labels, classes, groups)


def warn_of_shared_groups(found: ArrayLabels, name) -> None:
    """Warn where a file's own split cuts through groups."""
    if len(found.groups) > 1:
        shared = check_split_groups(found.groups["train"], found.groups["test"])
        if shared:
            warnings.warn(f"{name}: {shared}", stacklevel=3)


def _keys(path, key, known):
    """For each split the name of the images' array, and path and name of the labels'."""
    if known == [""]:
        place = _neighbour(path, "labels")
        if not os.path.exists(os.path.expanduser(place)):
            raise SpecError(
                f"{printable(path)}: has no labels: {printable(place)} does not exist. Save them "
                "there: a whole number or a text for each row, in the same order."
            )
        return {"train": ("", (place, None))}
    labels = _beside(key, _candidates(key, _LABELS), known)
    if not labels:
        looked = ", ".join(map(printable, _candidates(key, _LABELS)[:2]))
        there = ", ".join(map(printable, known[:8])) + ", ..." * (len(known) > 8)
        raise SpecError(
            f"{printable(path)}: has no labels for its array {printable(key)} (looked for "
            f"{looked}; it holds {there}). Add them: a whole number or a text for each row."
        )
    keys = {"train": (key, (path, labels))}
    for word in HELD_OUT:
        images = _beside(key, _replaced("train", word, key), known)
        judged = images and _beside(images, _candidates(images, _LABELS), known)
        if judged:
            return keys | {"test": (images, (path, judged))}
    return keys


def _candidates(key, words):
    """Names that labels of an array may have, the likeliest first."""
    name = key.rpartition("/")[2]
    if not _OF_IMAGES.search(name):
        return list(words)
    return [_OF_IMAGES.sub(word, name, count=1) for word in words]


def _replaced(word, other, key):
    name = key.rpartition("/")[2]
    changed = re.sub(f"(?i){word}", other, name)
    return [changed] if changed != name else []


def _beside(key, names, known):
    """The first of some names that a file has next to an array, or None."""
    place = key[: len(key) - len(key.rpartition("/")[2])]
    lower = {name.lower(): name for name in reversed(known)}
    for name in names:
        own = place + name
        if own != key and (own in known or own.lower() in lower):
            return own if own in known else lower[own.lower()]
    return None


def _neighbour(path, what):
    return f"{os.path.splitext(path.rstrip('/'))[0]}.{what}.npy"


def _count(source, file):
    return source.model_copy(update={"file": file})._look()[0][0]


def _groups(path, key, known, keys, counts):
    """The groups of each split, by whole numbers."""
    import numpy as np

    if known == [""]:
        place = _neighbour(path, "groups")
        if not os.path.exists(os.path.expanduser(place)):
            return {}
        found = {"train": _column(place, None, "groups")}
        _check_count(found["train"], counts["train"], printable(place), "groups")
    else:
        own = {s: _beside(k, _candidates(k, _GROUPS), known) for s, (k, _) in keys.items()}
        if all(own.values()) and len({*own.values()}) == len(keys):
            found = {split: _column(path, name, "groups") for split, name in own.items()}
            for split, groups in found.items():
                _check_count(groups, counts[split], _named(path, own[split]), "groups")
        else:
            name = _beside(key, [*_GROUPS], known)
            if not name:
                return {}
            every = _column(path, name, "groups")
            if len(keys) > 1 and len(every) == counts["train"]:
                found = {"train": every}
            else:
                _check_count(every, sum(counts.values()), _named(path, name), "groups")
                found = dict(zip(keys, np.split(every, [counts["train"]]), strict=False))
    every, ends = np.concatenate([*found.values()]), np.cumsum([*map(len, found.values())])[:-1]
    numbers = np.unique(every, return_inverse=True)[1].reshape(-1)
    return dict(zip(found, np.split(numbers, ends), strict=True))


def _column(path, key, what):
    """A whole array of one axis."""
    try:
        found = array_files.read_whole(path, key)
    except (UnreadableError, OSError) as error:
        words = str(getattr(error, "strerror", None) or error)
        raise SpecError(
            f"{_named(path, key)}: {words}{'' if words[-1:] in '.?' else '.'}"
        ) from None
    if found.ndim == 2 and found.shape[1] == 1:
        return found[:, 0]
    if found.ndim != 1:
        one_hot = " One column for each class is not read: save numpy.argmax(..., axis=1)."
        raise SpecError(
            f"{_named(path, key)}: {what} are of shape (count,), not {found.shape}."
            f"{one_hot * (what == 'labels' and found.ndim == 2)}"
        )
    return found


def _check_count(values, count, name, what):
    if len(values) != count:
        raise SpecError(
            f"{name}: {len(values):,} {what} for {count:,} rows. There must be one for each row."
        )


def _named(path, key):
    return printable(f"{path}:{key}" if key else path)
