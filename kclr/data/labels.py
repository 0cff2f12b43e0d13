"""Labelled images for evaluating filters, each with a training and a test split.

Names are those of sources whose class has a method `labelled`: `tfds:NAME`, `folder:PATH` with a
folder for each class, `digits`, ...
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from kclr.data.sources import Images, Source, source, split_source
from kclr.errors import RunError, SpecError
from kclr.scaling import EIGHT_BITS, Scaling, fixed, matching
from kclr.spec.registry import parts
from kclr.spec.wording import nearest, shown

SPLITS = ("train", "test")
HELD_OUT = ("test", "validation", "valid", "val")  # names of the part that is kept for judging
TEST_SHARE = 0.2  # of the images where a set comes in one part
_MEGABYTE = 1 << 20


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images with labels.

    Attributes:
        images: (count, height, width, channels), or an opened source that is read again for every
            pass, if the images do not fit in memory or have different sizes.
        labels: int64 (images,), the class index of each image.
        classes: names of the classes.
        name: of the data set, in messages and tables.
        rows: numbers of the source's pictures that belong to it, ascending; None for all.
        scaling: how the images' numbers become a network's input.
    """

    images: Any
    labels: Any
    classes: tuple[str, ...]
    name: str = "images"
    rows: Any = None
    scaling: Scaling = EIGHT_BITS

    def __len__(self):
        return len(self.labels)

    def batches(self, size) -> Iterator[Any]:
        """The images in order: (up to `size`, height, width, channels), all of one size.

        Raises:
            RunError: a picture cannot be read.
        """
        import numpy as np

        if not isinstance(self.images, Images):
            for start in range(0, len(self.images), size):
                yield self.images[start : start + size]
            return
        batch: list[Any] = []
        for image in _read_all(self.images, self.rows):
            if batch and (len(batch) == size or image.shape != batch[0].shape):
                yield np.stack(batch)
                batch = []
            batch.append(image)
        if batch:
            yield np.stack(batch)


def load_labelled(
    name, split, channels=None, limit=None, data_dir=None, memory=1024, scaling=None
) -> Labelled:
    """Labelled images of a data set.

    If the data set has no splits, a fifth of every class is kept for `test`, always the same.

    Args:
        name: `tfds:NAME` with a feature `label`; `folder:PATH` with a folder of pictures for each
            class, in `PATH/train` and `PATH/test` or in `PATH` itself, where each may hold folders
            `train` and `test` (see `kclr.data.class_folders`); `digits`; or another source with
            labels.
        split: "train" or "test".
        channels: of the images; their own number by default.
        limit: int, use only this many, the first ones in the data set's order (which mixes the
            classes).
        data_dir: directory of all TensorFlow data sets.
        memory: megabytes of pixels to keep; the images of a larger set are read for every pass.
        scaling: that of the run whose filters see the images; by default that of the training
            split.

    Returns:
        The images of the split; `classes` are those of the whole data set.

    Raises:
        SpecError: the data set does not exist or has no labels, or its numbers are of another type
            than the scaling's.
        RunError: a picture cannot be read.
    """
    if split not in SPLITS:
        raise SpecError(f"split {split!r}: labelled images have the splits train and test.")
    problem = labels_problem(name)
    if problem:
        raise SpecError(problem)
    options = {"data_dir": data_dir} if data_dir and split_source(name)[0] == "tfds" else {}
    found = source(name, **options).labelled(split, channels)
    images = found.images
    dtype = images.dtype if isinstance(images, Images) else images.dtype.name
    if scaling is None and isinstance(images, Images):
        if fixed(images.scaled_by, dtype) is None and split == "test":
            scaling = load_labelled(name, "train", channels, limit, data_dir, memory).scaling
        else:
            scaling = images.scaling()
    if scaling is not None:
        found = replace(found, scaling=_matched(dtype, scaling, name))
    return _kept(found, name, limit, memory)


def _matched(dtype, scaling, name) -> Scaling:
    """How labelled images become the input of filters that were learned with a scaling.

    Raises:
        SpecError: their numbers mean something else.
    """
    found = matching(scaling, dtype)
    if found is None:
        raise SpecError(
            f"{name}: its numbers are {dtype}, but the filters were learned from {scaling.dtype}. "
            f"Convert the labelled images to {scaling.dtype}, in the same unit."
        )
    return found


def scaled(labelled: Labelled, scaling: Scaling | None = None) -> Labelled:
    """Labelled images in memory as the float32 input of a network; 8-bit pictures stay as they are.

    Args:
        labelled: with an array of images.
        scaling: in place of their own.

    Raises:
        SpecError: the scaling is not for their numbers.
    """
    own = labelled.scaling
    if scaling is not None:
        own = _matched(labelled.images.dtype.name, scaling, labelled.name)
    if own.usual:
        return replace(labelled, scaling=own)
    return replace(labelled, images=own(labelled.images), scaling=Scaling("float32", (0,), (1,)))


def labelled_names() -> dict[str, str]:
    """The sources that may have labels: their names, and how they are written."""
    found = {}
    for name, part in sorted(parts("source").items()):
        if part.labelled is not Source.labelled:
            argument = getattr(part, "argument", None)
            found[name] = name + (f":{argument.upper()}" if argument else "")
    return found


def labels_problem(name) -> str | None:
    """Why a name is not one of labelled images, with the cure, or None. Cheap."""
    scheme, known = split_source(name)[0], labelled_names()
    if scheme in known:
        return None
    forms = [*known.values()]
    close = nearest(scheme, known, forms)
    unknown = scheme not in parts("source")
    if unknown and "mean" not in close and re.fullmatch(r"[\w.-]{1,60}", name):
        close = f" Did you mean tfds:{name}, or the folder folder:{name}?{close}"
    return f"{shown(name)} is not a labelled data set.{close}"


def folder_of(name) -> list[str]:
    """The folder of pictures that labelled images are read from; empty for others."""
    scheme, argument = split_source(name)
    return [argument["path"]] if scheme == "folder" and "path" in argument else []


def _kept(found, name, limit, memory):
    """The first `limit` images, in memory where they fit."""
    import numpy as np

    found = replace(found, name=name)
    if limit is not None and limit < len(found):
        rows = np.arange(len(found)) if found.rows is None else found.rows
        images = found.images if isinstance(found.images, Images) else found.images[:limit]
        found = replace(found, images=images, labels=found.labels[:limit], rows=rows[:limit])
    if not isinstance(found.images, Images):
        return found
    first = next(_read_all(found.images, found.rows[:1] if found.rows is not None else None))
    if first.nbytes * len(found) > memory * _MEGABYTE:
        return found
    images = np.empty((len(found), *first.shape), first.dtype)
    for number, image in enumerate(_read_all(found.images, found.rows)):
        if image.shape != first.shape:
            return found
        images[number] = image
    return replace(found, images=images, rows=None)


def _read_all(images: Images, rows) -> Iterator[Any]:
    """The pictures of `rows`; unlike in training, one that cannot be read is an error.

    All are read before the error is raised, so that it names every unreadable one.
    """
    wanted = None if rows is None else iter(rows)
    following = next(wanted, None) if wanted else None
    broken = []
    for number, (name, found) in enumerate(images.pictures()):
        if wanted and number != following:
            continue
        if found:
            yield found[0]
        else:
            broken.append(f"{name}: {dict(images.skipped).get(name, 'it cannot be read')}")
        if wanted:
            following = next(wanted, None)
            if following is None:
                break
    if broken:
        shown = "\n  ".join(broken[:5] + [f"and {len(broken) - 5} more"] * (len(broken) > 5))
        raise RunError(
            f"{images.name}: {len(broken)} labelled pictures cannot be read:\n  {shown}\nFix or "
            "remove them: results are comparable only if all pictures are used."
        )


def divide(labels, split, name, classes):
    """The rows of a split of images without splits: a fifth of each class is the test split."""
    import numpy as np

    random = np.random.default_rng(0)
    chosen = []
    for index in range(len(classes)):
        rows = random.permutation(np.flatnonzero(labels == index))
        if len(rows) < 2:
            raise SpecError(
                f"{name}: class {classes[index]!r} has {len(rows) or 'no'} "
                f"image{'s' if len(rows) != 1 else ''}, but both training and test need one. Add "
                "images of it, or remove the class."
            )
        test = max(1, round(TEST_SHARE * len(rows)))
        chosen.append(rows[:test] if split == "test" else rows[test:])
    return np.sort(np.concatenate(chosen))
