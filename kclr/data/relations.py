"""Which images are alike, and so what the rows of a batch are cut from."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kclr.spec.findings import refusal_apart
from kclr.spec.registry import Part, parts
from kclr.spec.schema import Patches


def as_notion(alike) -> Any:
    """What makes windows alike, in a form that `patches.alike` of a spec may have.

    Raises:
        SpecError: there is no such notion, or its options are wrong.
    """
    from pydantic import ValidationError

    if isinstance(alike, Part):
        return alike
    try:
        return Patches.model_validate({"alike": alike}).alike
    except ValidationError as error:
        spec, under = {"stack": [{"patches": {"alike": alike}}]}, ("stack", 0, "patches")
        raise refusal_apart(error, "alike", spec, under, (*under, "alike")) from None


def paired(anchors, positives, place="any") -> tuple[Any, Any]:
    """Arrays of anchors and of positives as images, one behind the other, and what is alike.

    Args:
        anchors, positives: arrays (images, height, width, channels), or lists of arrays; of the
            same length. The images at the same place in both are alike.
        place: "any", or "same", if windows of both are cut at the same place.

    Returns:
        images, and a notion for them.

    Raises:
        ValueError: they are not arrays, or not as many.
    """
    import numpy as np

    for given, name in ((anchors, "anchors"), (positives, "positives")):
        if not isinstance(given, (np.ndarray, list, tuple)) or isinstance(given[0], str):
            raise ValueError(
                f"{name} are {type(given).__name__} {str(given)[:60]!r}, but pairs are arrays, or "
                "lists of arrays. For files, use alike={'name': 'given', 'pairs': TABLE}."
            )
    if len(anchors) != len(positives):
        raise ValueError(
            f"{len(anchors):,} anchors, but {len(positives):,} positives. Use one positive for "
            "each anchor."
        )
    if place not in ("any", "same"):
        raise ValueError(f"place is {place!r}. Use 'any' or 'same'.")
    shapes = [own.shape for own in (anchors, positives) if isinstance(own, np.ndarray)]
    images: Any = [*anchors, *positives]
    if len(shapes) == 2 and shapes[0] == shapes[1]:
        images = np.concatenate([anchors, positives])
    return images, parts("alike")["given"].of_arrays(len(positives), place)


@dataclass(frozen=True)
class Rows:
    """What the rows of batches are cut from: all numpy, one entry for each possible row.

    Attributes:
        images: int32 (rows,), the image of a row's first window.
        numbers: int32 (rows,), what a batch says in place of the image's number: rows with the same
            one are never negatives of each other.
        corners: int64 (rows,), where the window's first pixel is, counted in pixels from that of
            its image; None where it is drawn anew each time.
        alike: int32 (entries,), images, those of each row one behind the other; or None, where all
            windows of a row are from its image.
        firsts, counts: int64, int32 (rows,), where a row's part of `alike` begins, and how many
            images that are; of none at all the row's own image is taken.
        own: int32 (rows,), the place in a row's part that is the row's image and does not count,
            or one beyond its end.
        others, other_corners: int32, int64 (rows,), image and corner of each row's second window,
            where that stays the same too; or None.
    """

    images: Any
    numbers: Any
    corners: Any = None
    alike: Any = None
    firsts: Any = None
    counts: Any = None
    own: Any = None
    others: Any = None
    other_corners: Any = None

    def __len__(self):
        return len(self.images)

    @cached_property
    def _tensors(self):
        import numpy as np
        import tensorflow as tf

        order = np.argsort(self.numbers, kind="stable")
        ordered = self.numbers[order]
        first = np.searchsorted(ordered, self.numbers, side="left")
        same = np.searchsorted(ordered, self.numbers, side="right") - first
        found = {
            "images": self.images,
            "numbers": self.numbers,
            "order": order,
            "first": first.astype(np.int32),
            "same": same.astype(np.int32),
        }
        more = "corners", "alike", "firsts", "counts", "own", "others", "other_corners"
        found |= {key: getattr(self, key) for key in more if getattr(self, key) is not None}
        # Outside of the function that is being traced when they are first needed.
        with tf.init_scope(), tf.device("CPU:0"):
            return {key: tf.constant(value) for key, value in found.items()}

    def of(self, key, rows):
        """The values of an attribute for some rows. Args: its name; int (any,)."""
        import tensorflow as tf

        return tf.gather(self._tensors[key], rows)

    def alike_to(self, rows, random):
        """For each row an image that is alike, each as likely as the next.

        Args:
            rows: int64 (batch,). random: float32 (batch,), uniform in [0, 1).

        Returns:
            int32 (batch,), images.
        """
        import tensorflow as tf

        from kclr.data.sampling import below

        own, counts = self.of("own", rows), self.of("counts", rows)
        others = counts - tf.cast(own < counts, tf.int32)
        drawn = below(random, tf.maximum(others, 1))
        drawn += tf.cast(drawn >= own, tf.int32)
        place = self.of("firsts", rows) + tf.cast(drawn, tf.int64)
        alone = others < 1
        place = tf.where(alone, tf.zeros_like(place), place)
        return tf.where(alone, self.of("images", rows), tf.gather(self._tensors["alike"], place))

    def not_alike(self, rows, random):
        """For each row one with another number, each as likely as the next.

        Args, returns: as `alike_to`, but int64 (batch,), rows.
        """
        import tensorflow as tf

        from kclr.data.sampling import below

        first, same = self.of("first", rows), self.of("same", rows)
        drawn = below(random, len(self) - same)
        return tf.gather(self._tensors["order"], tf.where(drawn < first, drawn, drawn + same))


def of_groups(groups, alone) -> Rows:
    """Rows in which an image is alike to the others of its group.

    Args:
        groups: int (images,), the group of each; below 0 for none.
        alone: bool, whether an image of no group, or the only one of its group, is a row that is
            alike to itself; otherwise it is no row.
    """
    import numpy as np

    groups = np.asarray(groups, np.int64)
    order = np.argsort(groups, kind="stable").astype(np.int32)
    ordered = groups[order]
    firsts = np.searchsorted(ordered, groups, side="left")
    counts = (np.searchsorted(ordered, groups, side="right") - firsts).astype(np.int32)
    places = np.empty(len(groups), np.int64)
    places[order] = np.arange(len(groups))
    own = (places - firsts).astype(np.int32)
    counts[groups < 0] = 0
    numbers = _numbered(np.where(groups < 0, -1, groups))
    chosen = np.arange(len(groups)) if alone else np.flatnonzero(counts > 1)
    return Rows(
        images=chosen.astype(np.int32),
        numbers=numbers[chosen],
        alike=order,
        firsts=firsts[chosen],
        counts=counts[chosen],
        own=own[chosen],
    )


def of_pairs(firsts, seconds, count, alone, both=True, chains=True) -> Rows:
    """Rows in which an image is alike to those that it has a pair with.

    Args:
        firsts, seconds: int (pairs,), the images of each pair.
        count: of images.
        alone: bool, as for `of_groups`: of images in no pair.
        both: bool, whether the second one of a pair is a row too.
        chains: bool, whether all images that pairs connect have one number, also those that only
            others connect; otherwise each has its own.
    """
    import numpy as np

    firsts, seconds = np.asarray(firsts, np.int64), np.asarray(seconds, np.int64)
    links = np.stack([firsts, seconds], axis=1)
    directed = np.concatenate([links, links[:, ::-1]]) if both else links
    directed = np.unique(directed[directed[:, 0] != directed[:, 1]], axis=0)
    counts = np.bincount(directed[:, 0], minlength=count).astype(np.int32)
    begins = np.cumsum(counts, dtype=np.int64) - counts
    numbers = np.arange(count, dtype=np.int32)
    if chains:
        numbers = _numbered(_connected(links, count))
    chosen = np.arange(count) if alone else np.flatnonzero(counts)
    return Rows(
        images=chosen.astype(np.int32),
        numbers=numbers[chosen],
        alike=directed[:, 1].astype(np.int32),
        firsts=begins[chosen],
        counts=counts[chosen],
        own=counts[chosen],
    )


def _connected(links, count):
    """The smallest image that each one is connected with: int64 (count,)."""
    import numpy as np

    least = np.arange(count)
    while True:
        before = least.copy()
        smaller = np.minimum(least[links[:, 0]], least[links[:, 1]])
        for side in (0, 1):
            np.minimum.at(least, links[:, side], smaller)
        least = np.minimum(least, least[least])
        if (least == before).all():
            return least


def _numbered(groups):
    """Numbers from 0 for groups; images of none, below 0, have one each."""
    import numpy as np

    none = groups < 0
    _, numbers = np.unique(np.where(none, -1, groups), return_inverse=True)
    numbers = numbers.reshape(-1).astype(np.int32)
    numbers[none] = numbers.max(initial=0) + 1 + np.arange(none.sum(), dtype=np.int32)
    return numbers
