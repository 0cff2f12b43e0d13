"""Labels of images: of those that filters are evaluated on, with a training and a test split, and
of those that a training may use.

Names are those of sources whose class has a method `labelled`: `tfds:NAME`, `folder:PATH` with a
folder for each class, `array:FILE` with labels, `digits`, ...
"""

import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from kclr.data.images import PictureLabels
from kclr.data.pixels import invalid_pixels
from kclr.data.sources import Images, Source, as_source, split_source
from kclr.errors import RunError, SpecError
from kclr.scaling import EIGHT_BITS, Scaling, fixed, matching
from kclr.spec.registry import form, parts
from kclr.spec.wording import any_of, nearest, printable, shown

SPLITS = ("train", "test")
HELD_OUT = ("test", "validation", "valid", "val")  # names of the part that is kept for judging
TEST_SHARE = 0.2  # of the images where a set comes in one part
_MEGABYTE = 1 << 20
_DRAW = 0  # what labels are drawn with, besides their seed


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
        groups: int64 (images,), what a split must not cut through, such as the person that each is
            of; None where nothing is known of it.
    """

    images: Any
    labels: Any
    classes: tuple[str, ...]
    name: str = "images"
    rows: Any = None
    scaling: Scaling = EIGHT_BITS
    groups: Any = None

    def __len__(self):
        return len(self.labels)

    def part(self, rows) -> "Labelled":
        """Some of the images.

        Args:
            rows: int (images,), their numbers, ascending.
        """
        import numpy as np

        groups = None if self.groups is None else self.groups[rows]
        found = replace(self, labels=self.labels[rows], groups=groups)
        if isinstance(self.images, Images):
            own = np.arange(len(self)) if self.rows is None else self.rows
            return replace(found, rows=own[rows])
        return replace(found, images=self.images[rows])

    def batches(self, size) -> Iterator[Any]:
        """The images in order: (up to `size`, height, width, channels), all of one size.

        Pixels without a measurement (NaN, infinite, `nodata`) have the mean of their channel in the
        picture.

        Raises:
            RunError: a picture cannot be read, or has no measurement at all.
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
    data, split, channels=None, limit=None, data_dir=None, memory=1024, scaling=None, like=None
) -> Labelled:
    """Labelled images of a data set.

    If the data set has no splits, a fifth of every class is kept for `test`, always the same.

    Args:
        data: `tfds:NAME` with a feature `label`; `folder:PATH` or `audio:PATH` with a folder for
            each class, in `PATH/train` and `PATH/test` or in `PATH` itself, where each may hold
            folders `train` and `test` (see `kclr.data.class_folders`), or with a table
            `PATH/labels.csv` (see `kclr.data.label_tables`); `array:FILE` or `series:FILE` with
            labels (see `kclr.data.array_labels`); `digits`; or another source with labels. Or a
            mapping of one of these with options that say how it is read, such as `{"source":
            "audio:letters", "rate": 8000}`; or the `Source` itself.
        split: "train" or "test".
        channels: of the images; their own number by default.
        limit: int, use only this many, the first ones in the data set's order (which mixes the
            classes); of an array's rows, whose order may not, always the same ones, drawn at
            random.
        data_dir: directory of all TensorFlow data sets.
        memory: megabytes of pixels to keep; the images of a larger set are read for every pass.
        scaling: that of the run whose filters see the images; by default that of the training
            split.
        like: the source that the filters were learned from. Labelled files of that kind are read
            in the same way, but for options in `data`.

    Returns:
        The images of the split; `classes` are those of the whole data set.

    Raises:
        SpecError: the data set does not exist or has no labels, or its numbers are of another type
            than the scaling's.
        RunError: a picture cannot be read.
    """
    if split not in SPLITS:
        raise SpecError(f"split {split!r}: labelled images have the splits train and test.")
    problem = labels_problem(data)
    if problem:
        raise SpecError(problem)
    own = labelled_source(data, like)
    if data_dir and own.part_name == "tfds":
        own = own.model_copy(update={"data_dir": data_dir})
    for option, words in option_problems(own):
        raise SpecError(f"{labelled_name(data)}, {option}: {words}")
    name, found = labelled_name(data), own.labelled(split, channels)
    images = found.images
    dtype = images.dtype if isinstance(images, Images) else images.dtype.name
    if scaling is None and isinstance(images, Images):
        if fixed(images.scaled_by, dtype) is None and split == "test":
            scaling = load_labelled(own, "train", channels, limit, None, memory).scaling
        else:
            scaling = images.scaling()
    if scaling is not None:
        found = replace(found, scaling=_matched(dtype, scaling, name))
    return _kept(found, name, limit, memory, own.mixed)


def training_labels(source: Source) -> PictureLabels:
    """The labels of a source's pictures that a training may use, as its option `labels` says.

    Raises:
        SpecError: there are none, or a class has less than one by that share.
    """
    import numpy as np

    if type(source).picture_labels is Source.picture_labels:
        raise SpecError(
            f"{source.spec_name()} has no labels for a training. Use {any_of(training_names())}, "
            "or remove `labels`."
        )
    numbers, classes = source.picture_labels()
    numbers = np.asarray(numbers)[: source.limit]
    known = np.flatnonzero(numbers >= 0)
    amount = 1.0 if source.labels is None else source.labels
    for label, count in zip(*np.unique(numbers[known], return_counts=True), strict=True):
        if amount <= 1 and round(amount * count) < 1:
            raise SpecError(
                f"{shown(amount)} of the {count:,} images of class {printable(classes[label])!r} "
                f"is less than one. Use {math.ceil(1000 / count) / 1000:g} or more, or a number "
                "per class, 2 or more."
            )
    if len(np.unique(numbers[known])) < 2:
        raise SpecError(
            f"{printable(source.spec_name())}: its {len(numbers):,} pictures have labels of fewer "
            "than two classes. Raise the limit, or use other pictures."
        )
    used = known[draw(numbers[known], amount, source.label_seed)]
    kept = np.full(len(numbers), -1, np.int32)
    kept[used] = numbers[used]
    return PictureLabels(kept, tuple(classes))


def labelled_source(data, like=None) -> Any:
    """The source of labelled images, with the options of `like`; see `load_labelled`.

    Raises:
        SpecError: there is no such source, or one is of series and the other of images.
    """
    found = as_source(data)
    if like is not None and like.series != found.series:
        kinds = ("images", "series") if like.series else ("series", "images")
        forms = [
            own
            for key, own in labelled_names().items()
            if parts("source")[key].series == like.series
        ]
        raise SpecError(
            f"{shown(labelled_name(data))} is of {kinds[0]}, but the filters were learned from "
            f"{kinds[1]}. Use {any_of(forms)}."
        )
    if type(like) is not type(found):
        return found
    set_ = found.model_fields_set
    return found.model_copy(update={k: v for k, v in like.read_alike().items() if k not in set_})


def labelled_name(data) -> str:
    """What labelled images are called in messages and tables."""
    return data if isinstance(data, str) else as_source(data).spec_name()


def option_problems(own: Source) -> Iterator[tuple[str, str]]:
    """Options of a source that say nothing of labelled images, and words for each."""
    for option in sorted(own.model_fields_set - {own.argument, *own.reading}):
        if getattr(own, option) != type(own).model_fields[option].default:
            yield option, f"is not an option of labelled images. Use {any_of(own.reading)}."


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
    return {
        name: form(name, part)
        for name, part in sorted(parts("source").items())
        if part.labelled is not Source.labelled
    }


def training_names() -> list[str]:
    """The sources that a training may have labels of, as they are written."""
    return [
        form(name, part)
        for name, part in sorted(parts("source").items())
        if part.picture_labels is not Source.picture_labels
    ]


def labels_problem(data) -> str | None:
    """Why a source is not one of labelled images, with the cure, or None. Cheap."""
    name = labelled_name(data)
    scheme, known = split_source(name)[0], labelled_names()
    if scheme in known:
        return None
    forms = [*known.values()]
    close = nearest(scheme, known, forms)
    unknown = scheme not in parts("source")
    if unknown and "mean" not in close and re.fullmatch(r"[\w.-]{1,60}", name):
        close = f" Did you mean tfds:{name}, or the folder folder:{name}?{close}"
    return f"{shown(name)} is not a labelled data set.{close}"


def _kept(found, name, limit, memory, mixed):
    """`limit` of the images, in memory where they fit."""
    import numpy as np

    found = replace(found, name=name)
    if limit is not None and limit < len(found):
        order = np.arange(len(found))
        if not mixed:
            order = np.random.default_rng(0).permutation(order)
        found = found.part(np.sort(order[:limit]))
    if not isinstance(found.images, Images):
        return found
    first = next(_read_all(found.images, found.rows))
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
    broken, filled = [], 0
    for number, (name, found) in enumerate(images.pictures()):
        if wanted and number != following:
            continue
        if found:
            invalid = invalid_pixels(found[0], images.nodata)
            if invalid is None:
                yield found[0]
            elif invalid.all():
                broken.append(f"{name}: all of it is missing (NaN, infinite, or no data)")
            else:
                filled += 1
                yield _filled(found[0], invalid)
        else:
            broken.append(f"{name}: {dict(images.skipped).get(name, 'it cannot be read')}")
        if wanted:
            following = next(wanted, None)
            if following is None:
                break
    if filled:
        warnings.warn(
            f"{images.name}: {filled:,} labelled pictures have missing pixels (NaN, infinite, or "
            "no data). They take the mean of their channel in the picture.",
            stacklevel=2,
        )
    if broken:
        shown = "\n  ".join(broken[:5] + [f"and {len(broken) - 5} more"] * (len(broken) > 5))
        raise RunError(
            f"{images.name}: {len(broken)} labelled pictures cannot be read:\n  {shown}\nFix or "
            "remove them: results are comparable only if all pictures are used."
        )


def _filled(image, invalid):
    """An image whose invalid pixels have the mean of the others, in each channel."""
    import numpy as np

    mean = image[~invalid].mean(axis=0, dtype=np.float64)
    made = image.copy()
    made[invalid] = (mean if image.dtype.kind == "f" else np.rint(mean)).astype(image.dtype)
    return made


def divide(labels, split, name, classes, groups=None):
    """The rows of a split of images without splits: a fifth of each class is the test split.

    Args:
        labels: int (images,).
        split: "train" or "test".
        name: of the data set, in messages.
        classes: names of the classes.
        groups: int (images,), of which each is in one of the splits only; None for none. About a
            fifth of each class is then the test split.

    Raises:
        SpecError: a class cannot be in both.
    """
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
    if groups is None:
        return np.sort(np.concatenate(chosen))
    judging = whole_groups(labels, groups, 0, name)
    return np.flatnonzero(judging == (split == "test"))


def draw(labels, amount, seed):
    """Choose labelled images at random, class by class.

    With the same seed a smaller amount is part of a larger one.

    Args:
        labels: int (images,).
        amount: a share of each class in (0, 1], or a whole number per class, 2 or more. At least
            two of each class are drawn, so that one can be held out, and all if there are fewer.
        seed: int.

    Returns:
        int64 (drawn,), their numbers, ascending.

    Raises:
        SpecError: the amount is not valid.
    """
    import numpy as np

    check_amount(amount)
    random = np.random.default_rng([seed, _DRAW])
    chosen = []
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        count = round(amount * len(rows)) if amount <= 1 else int(amount)
        chosen.append(rows[: max(2, count)])
    return np.sort(np.concatenate(chosen))


def check_amount(amount):
    """Refuse what is not an amount of labels.

    Raises:
        SpecError: it is neither a share in (0, 1] nor a whole number, 2 or more.
    """
    number = isinstance(amount, (int, float)) and not isinstance(amount, bool)
    if not number or not (0 < amount <= 1 or (amount >= 2 and amount % 1 == 0)):
        raise SpecError(
            f"labels: {amount} is not an amount of labels. Use a share (0.01 for one in a "
            "hundred, 1.0 for all), or a whole number per class, 2 or more."
        )


def whole_groups(labels, groups, seed, name):
    """Mark about a fifth of the images, in whole groups and with about a fifth of each class.

    Args:
        labels, groups: int (images,).
        seed: int.
        name: of the data set, in messages.

    Returns:
        bool (images,). No class is in the marked part alone.

    Raises:
        SpecError: there are not enough groups.
    """
    import numpy as np
    from sklearn.model_selection import StratifiedGroupKFold

    most = np.unique(labels, return_counts=True)[1].max()
    parts = min(round(1 / TEST_SHARE), len(np.unique(groups)), most)
    best, judged = None, 0
    if parts > 1:
        folds = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
        with warnings.catch_warnings():  # of classes with fewer images than there are folds
            warnings.simplefilter("ignore", UserWarning)
            found = [*folds.split(labels, labels, groups)]
        for fitting, judging in found:
            here = np.unique(labels[judging])
            if len(here) > judged and np.isin(here, labels[fitting]).all():
                best, judged = judging, len(here)
    if best is None:
        count = len(np.unique(groups))
        raise SpecError(
            f"{name}: {count} group{'s' * (count != 1)} cannot be "
            "divided so that training has images of every class. Each class needs images of two "
            "groups. Add some, or remove the groups."
        )
    marked = np.zeros(len(labels), bool)
    marked[best] = True
    return marked


def check_split_groups(training, test) -> str | None:
    """Words about groups that are in both of two splits, or None.

    Args:
        training, test: int (images,), the group of each.
    """
    both = {*training.tolist()} & {*test.tolist()}
    if not both:
        return None
    every = {*training.tolist()} | {*test.tolist()}
    return (
        f"{len(both)} of its {len(every)} groups are in both the training and the test images, so "
        "its test accuracy is not that of new groups."
    )


def as_classes(labels, names, name):
    """Class indices of labels, and the names of the classes.

    Args:
        labels: whole numbers or str (images,).
        names: array (classes,) of the classes' names, or None: the labels themselves.
        name: of the data set, in messages.

    Returns:
        int64 (images,), and a tuple of str.

    Raises:
        SpecError: they do not match, or there are not two classes.
    """
    import numpy as np

    texts = labels.dtype.kind == "U"
    present, indices = np.unique(labels, return_inverse=True)
    if names is None:
        classes = tuple(map(str, present.tolist()))
    else:
        classes = tuple(map(str, names.tolist()))
        strange = [
            own
            for own in present.tolist()
            if (own not in classes if texts else not 0 <= own < len(classes))
        ]
        if strange:
            listed = ", ".join(printable(own) for own in strange[:5])
            wanted = "" if texts else f", for labels from 0 to {len(classes) - 1}"
            raise SpecError(
                f"{name}: its array `classes` has {len(classes)} names{wanted}, but there are also "
                f"labels {listed}{', ...' * (len(strange) > 5)}. Correct either."
            )
        places = [classes.index(own) for own in present.tolist()] if texts else present
        indices = np.asarray(places, np.int64)[indices.reshape(-1)]
    if len(present) < 2:
        raise SpecError(
            f"{name}: all labels are {printable(present[0])}, but at least two classes are needed."
        )
    return indices.reshape(-1).astype(np.int64), classes
