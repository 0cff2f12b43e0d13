"""Labelled images for evaluating filters, each with a training and a test split.

Names are those of specs: `tfds:NAME`, `folder:PATH` with a folder for each class, and `digits`,
scikit-learn's handwritten digits, which need no download.
"""

import difflib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from kclr.data.class_folders import layout
from kclr.data.pixels import to_channels
from kclr.data.source_tfds import LabelledTfds, _read
from kclr.data.sources import Images, split_source
from kclr.errors import RunError, SpecError

SPLITS = ("train", "test")
HELD_OUT = ("test", "validation", "valid", "val")  # names of the part that is kept for judging
TEST_SHARE = 0.2  # of the images where a set comes in one part
_DIGITS_SCALE = 4  # 8x8 px are too few for a kernel of 6 and a pool
_MEGABYTE = 1 << 20


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images with labels.

    Attributes:
        images: uint8 (count, height, width, channels), or an opened source that is read again for
            every pass, if the images do not fit in memory or have different sizes.
        labels: int64 (images,), the class index of each image.
        classes: names of the classes.
        name: of the data set, in messages and tables.
        rows: numbers of the source's pictures that belong to it, ascending; None for all.
    """

    images: Any
    labels: Any
    classes: tuple[str, ...]
    name: str = "images"
    rows: Any = None

    def __len__(self):
        return len(self.labels)

    def batches(self, size) -> Iterator[Any]:
        """The images in order: uint8 (up to `size`, height, width, channels), all of one size.

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


def load_labelled(name, split, channels=None, limit=None, data_dir=None, memory=1024) -> Labelled:
    """Labelled images of a data set.

    If the data set has no splits, a fifth of every class is kept for `test`, always the same.

    Args:
        name: `tfds:NAME` with a feature `label`; `folder:PATH` with a folder of pictures for each
            class, in `PATH/train` and `PATH/test` or in `PATH` itself, where each may hold folders
            `train` and `test` (see `kclr.data.class_folders`); or `digits`.
        split: "train" or "test".
        channels: 1 or 3, what the images are converted to; their own number by default.
        limit: int, use only this many, the first ones in the data set's order (which mixes the
            classes).
        data_dir: directory of all TensorFlow data sets.
        memory: megabytes of pixels to keep; the images of a larger set are read for every pass.

    Returns:
        The images of the split; `classes` are those of the whole data set.

    Raises:
        SpecError: the data set does not exist or has no labels.
        RunError: a picture cannot be read.
    """
    if split not in SPLITS:
        raise SpecError(f"split {split!r}: labelled images have the splits train and test.")
    scheme, argument = split_source(name)
    loaders: dict[str, Callable[..., Labelled]] = {
        "tfds": _tfds,
        "folder": _folder,
        "digits": _digits,
    }
    if scheme not in loaders:
        near = difflib.get_close_matches(scheme, loaders, n=1)
        cure = f"Did you mean {near[0]!r}? " if near else ""
        raise SpecError(
            f"{name} is not a labelled data set. {cure}Use tfds:NAME, folder:PATH with a folder "
            "for each class, or digits."
        )
    if scheme == "tfds" and data_dir:
        argument["data_dir"] = data_dir
    return _kept(loaders[scheme](split, channels, **argument), name, limit, memory)


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
    images = np.empty((len(found), *first.shape), np.uint8)
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


def _divide(labels, split, name, classes):
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


def _tfds(split, channels, **argument):
    import numpy as np

    source = LabelledTfds(**argument, channels=channels)
    source = source.model_copy(update={"max_unreadable": 1.0})
    source.open()  # what is not on disk is downloaded
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(source._place())
    lengths = builder.info.splits
    features = dict(builder.info.features.items())
    feature = features.get("label")
    if not isinstance(feature, tfds.features.ClassLabel):
        raise SpecError(
            f"tfds:{source.name} has no feature 'label' with classes; its features are "
            f"{', '.join(sorted(features))}. Choose a data set for classification."
        )
    read = {part: _labels(builder, part) for part in ("train", *HELD_OUT) if part in lengths}
    # Challenges publish their test images with -1 for a label.
    held_out = [part for part in HELD_OUT if part in read and (read[part] >= 0).all()]
    part = held_out[0] if split == "test" and held_out else "train"
    images = source.model_copy(update={"split": part}).open()
    labels, classes = read[part], tuple(feature.names)
    if held_out:
        return Labelled(images, labels, classes)
    present, indices = np.unique(labels, return_inverse=True)
    rows = _divide(indices, split, source.spec_name(), [classes[index] for index in present])
    return Labelled(images, labels[rows], classes, rows=rows)


def _labels(builder, part):
    import numpy as np

    size = builder.info.splits[part].num_examples
    return np.fromiter(_read(builder, "label", [(part, 0, size)], 0), np.int64, size)


def _folder(split, channels, path):
    import numpy as np

    found = layout(path)
    source, *numbers = found.labels(split)
    images = source.model_copy(update={"channels": channels}).open()
    for words in images.warnings:  # which files are left out
        warnings.warn(words, stacklevel=2)
    rows, labels = (np.array(column, np.int64) for column in numbers)
    if found.divided:
        whole = len(rows) == images.count
        return Labelled(images, labels, found.classes, rows=None if whole else rows)
    kept = _divide(labels, split, path, found.classes)
    return Labelled(images, labels[kept], found.classes, rows=rows[kept])


def _digits(split, channels):
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    classes = tuple(str(name) for name in digits.target_names)
    rows = _divide(digits.target, split, "digits", classes)
    values = (digits.images[rows] * (255 / 16) + 0.5).astype(np.uint8)
    large = values.repeat(_DIGITS_SCALE, axis=1).repeat(_DIGITS_SCALE, axis=2)[..., None]
    images = np.stack([to_channels(image, channels or 1) for image in large])
    return Labelled(images, digits.target[rows].astype(np.int64), classes)
