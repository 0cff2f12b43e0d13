"""Given: a table of the user's says which images are alike."""

import csv
import hashlib
import io
import os
from typing import Literal

from pydantic import model_validator

from kclr.alike import OtherImages
from kclr.errors import RunError
from kclr.runs.safe_reading import MOST_ROWS, read_text
from kclr.spec.registry import register
from kclr.spec.wording import any_of, invalid, printable

# A first line of these words alone is a heading.
_HEADINGS = {"anchor", "file", "first", "group", "image", "name", "number", "positive", "second"}
_LISTED = 5  # names in a message


@register("alike", "given")
class Given(OtherImages):
    """Windows of images that a table of yours has as a pair or in one group: the same patient, the
    same place on another day, neighbours in a graph.

    A table is a CSV file that names pictures as messages of kclr do, by their path or name, or by
    their number in the source, from 0 on. Files are also found by their name without folders.
    """

    pairs: str | None = None
    """A CSV file with two pictures in each row, which are alike, or with one and all those that are
    alike to it. A heading (`anchor,positive`) may be in the first line."""
    groups: str | None = None
    """Instead of `pairs`: a CSV file with a picture and its group in each row. A heading
    (`file,group`) may be in the first line."""
    chains: bool = True
    """With `pairs`: whether all pictures that pairs connect, also through others, count as one
    group, so that they are never negatives of each other. `false` for graphs in which everything is
    connected: each picture then counts by itself."""
    place: Literal["any", "same"] = "any"
    """Where the two windows lie in their pictures: anywhere, or at the same place, for pictures
    that lie on top of each other. In pictures of different sizes that is the same share of the way
    from one edge to the other."""
    unlisted: Literal["leave_out", "itself"] = "leave_out"
    """What happens to pictures that have no other one: no window is cut from them, or two from the
    same picture."""

    @staticmethod
    def of_arrays(count, place) -> OtherImages:
        """The notion for so many anchors and, behind them, as many positives."""
        return Paired(count=count, place=place)

    @model_validator(mode="after")
    def _one_table(self):
        if self.pairs is None and self.groups is None:
            words = "needs a table. Add pairs: FILE.csv, or groups: FILE.csv."
            raise invalid(words, value=None)
        if self.pairs is not None and self.groups is not None:
            words = "cannot be combined with `pairs`. Keep one."
            raise invalid(words, "groups", value=self.groups)
        return self

    @property
    def same_place(self) -> bool:
        return self.place == "same"

    @property
    def _table(self) -> tuple[str, str]:
        """The key of the table, and its path."""
        return ("pairs", self.pairs) if self.pairs is not None else ("groups", self.groups or "")

    def made_of(self) -> dict[str, str]:
        key, path = self._table
        text = read_text(os.path.expanduser(path), most=MOST_ROWS)
        return {key: hashlib.sha256(text.encode()).hexdigest()}

    def file_problems(self, source):
        key, path = self._table
        try:
            lines, names = read_table(path, key), source and source.picture_names()
            if names:
                of_images = names, range(len(names)), (), printable(source.spec_name())
                _found(_named(lines, key), *of_images, printable(path))
        except RunError as error:
            yield key, str(error)

    def rows(self, buffer, patch, images, seed):
        import numpy as np

        from kclr.data.relations import of_groups, of_pairs

        key, path = self._table
        place, lines = printable(path), read_table(path, key)
        skipped = [name for name, _ in images.skipped]
        of_images = buffer.names, buffer.numbers.tolist(), skipped, images.name
        found = _found(_named(lines, key), *of_images, place)
        alone = self.unlisted == "itself"
        if key == "groups":
            names, numbers = zip(*lines, strict=True)
            known = {group: number for number, group in enumerate(dict.fromkeys(numbers))}
            groups = np.full(len(buffer), -1)
            for name, group in zip(names, numbers, strict=True):
                groups[found[name]] = known[group]
            rows = of_groups(groups, alone)
        else:
            linked = [
                (one, other)
                for first, *rest in lines
                for second in rest
                for one in found[first]
                for other in found[second]
            ]
            pairs = np.array(linked, np.int64).reshape(-1, 2)
            rows = of_pairs(pairs[:, 0], pairs[:, 1], len(buffer), alone, chains=self.chains)
        return checked(rows, place, "chains: false" if key == "pairs" and self.chains else "")


class Paired(OtherImages):
    """Arrays of anchors and of positives, one behind the other: those at the same place in both are
    alike. From Python alone; see `kclr.data.patches.PatchTripletGenerator`."""

    count: int
    """Number of anchors, and of positives."""
    place: Literal["any", "same"] = "any"
    """As of `Given`."""

    @property
    def same_place(self) -> bool:
        return self.place == "same"

    def rows(self, buffer, patch, images, seed):
        import numpy as np

        from kclr.data.relations import of_pairs

        places = np.full(2 * self.count, -1)
        places[buffer.numbers] = np.arange(len(buffer))
        pairs = places.reshape(2, self.count)
        pairs = pairs[:, (pairs >= 0).all(axis=0)]  # whose images are both large enough
        rows = of_pairs(pairs[0], pairs[1], len(buffer), alone=False, both=False)
        return checked(rows, "positives")


def checked(rows, place, cure=""):
    """Rows, if there are enough to learn from.

    Args:
        rows: `kclr.data.relations.Rows`. place: what says which images are alike, in messages.
        cure: what else to try where all are alike.

    Raises:
        RunError: no two images are alike, or all are.
    """
    if not (rows.counts > (rows.own < rows.counts)).any():
        raise RunError(
            f"{place}: no two of the images are alike. Use a table that names at least two "
            "pictures that are used."
        )
    if len({*rows.numbers.tolist()}) < 2:
        also = f", or {cure}" if cure else ""
        raise RunError(
            f"{place}: all images are alike, directly or through others, so that there are no "
            f"negatives. Use a table of several groups{also}."
        )
    return rows


def read_table(path, key) -> list[list[str]]:
    """The rows of a table, each a list of texts.

    Args:
        path: of a CSV file. key: "pairs" or "groups".

    Raises:
        RunError: it cannot be read, or has errors; the message names the first ones.
    """
    place = printable(path)
    text = read_text(
        os.path.expanduser(path), cure="It is the table of what is alike.", most=MOST_ROWS
    )
    try:
        lines = [
            (number, [cell.strip() for cell in line])
            for number, line in enumerate(csv.reader(io.StringIO(text)), 1)
            if any(cell.strip() for cell in line)
        ]
    except csv.Error as error:
        raise RunError(f"{place}: not a CSV file: {error}. Write it with commas.") from None
    if lines and {cell.lower() for cell in lines[0][1]} <= _HEADINGS:
        del lines[0]
    what = "two pictures or more" if key == "pairs" else "a picture and its group"
    wrong = [
        number
        for number, line in lines
        if not all(line) or len(line) < 2 or (key == "groups" and len(line) > 2)
    ]
    if wrong:
        shown = any_of(wrong[:_LISTED]) + (", ..." if len(wrong) > _LISTED else "")
        raise RunError(
            f"{place}: {len(wrong)} row{'s' * (len(wrong) > 1)} without {what} (line {shown}). "
            f"Each row of {key} has {what}, separated by commas."
        )
    if not lines:
        raise RunError(f"{place}: it has no rows. Each row of {key} has {what}.")
    return [line for _, line in lines]


def _named(lines, key) -> list[str]:
    """The pictures that the rows of a table name."""
    return [name for line in lines for name in (line if key == "pairs" else line[:1])]


def _found(wanted, names, numbers, skipped, source, place) -> dict[str, list[int]]:
    """The images of each picture that a table names; of a skipped one there are none.

    Args:
        wanted: as the table names them.
        names, numbers: of each image's picture. skipped: names of pictures without images.
        source, place: names of the source and of the table, for messages.

    Raises:
        RunError: there is no such picture, or a name is that of several.
    """
    own: dict[str, list[int]] = {}
    short: dict[str, set[str]] = {}
    by_number: dict[int, list[int]] = {}
    for index, (name, number) in enumerate(zip(names, numbers, strict=True)):
        own.setdefault(name, []).append(index)
        by_number.setdefault(number, []).append(index)
    for name in (*own, *skipped):
        short.setdefault(os.path.basename(name), set()).add(name)
    count = max(by_number, default=-1) + 1 + len(skipped)
    found: dict[str, list[int]] = {}
    missing, several = [], []
    for name in dict.fromkeys(wanted):
        full = short.get(name, set())
        if name in own:
            found[name] = own[name]
        elif len(full) == 1:
            found[name] = own.get(next(iter(full)), [])
        elif full:
            several.append(name)
        elif name.isdecimal() and int(name) < count:
            found[name] = by_number.get(int(name), [])
        elif name not in skipped:
            missing.append(name)
        else:
            found[name] = []
    for wrong, words, cure in (
        (missing, "that {name} does not have", "Names are such as {first}, or numbers below {n}."),
        (several, "that several pictures have", "Write them with their folders."),
    ):
        if wrong:
            listed = ", ".join(map(printable, wrong[:_LISTED]))
            words = words.format(name=source)
            cure = cure.format(first=printable(next(iter(own))), n=f"{count:,}")
            raise RunError(
                f"{place}: {len(wrong):,} name{'s' * (len(wrong) > 1)} {words} ({listed}"
                f"{', ...' * (len(wrong) > _LISTED)}). {cure}"
            )
    return found
