"""The sections of the report, one file for each kind of thing that it shows.

A section is a class registered by its name, which is also the key of its numbers in `numbers.json`:

    @register("section", "probes")
    class Probes(Section):
        template = "<p>{{ part.words }}</p>"

        def read(self, path):
            return json.loads(path.read_text()) if path.suffix == ".json" else None

        def show(self, found, path, name, folder, names):
            ...

`kclr report` asks the sections in their `order` which of them shows a path, and puts what they make
of it on the page in that order. What a section needs beyond the standard library is imported in its
methods if it is heavy. See `probes.py`.
"""

import inspect
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from kclr.drawing.filters import filters_png
from kclr.errors import RunError
from kclr.probing.baselines import baseline_titles
from kclr.runs.safe_reading import read_bytes
from kclr.spec.registry import parts

NOTHING = "\N{EN DASH}"


class Names:
    """Names of files and of places in the page: plain, and no two alike."""

    def __init__(self):
        self._taken = set()

    def __call__(self, words):
        plain = re.sub(r"[^\w.-]+", "-", words).strip("-.") or "unnamed"
        name, number = plain, 1
        while name.lower() in self._taken:
            number += 1
            name = f"{plain}-{number}"
        self._taken.add(name.lower())
        return name


class Section(ABC):
    """A kind of thing that the report shows.

    Attributes:
        order: place among the sections: a path is shown by the first that can read it. Runs have
            80, for they take every directory, and probes 90, for they take every JSON file.
    """

    order: ClassVar[int] = 50

    @property
    def template(self) -> str:
        """HTML of one thing, in Jinja, which escapes the values: `part` is what `show` returned.

        The heading above it and the origin below are the page's. By default that of the file beside
        the class's own whose name ends in `.html`.
        """
        return Path(inspect.getfile(type(self))).with_suffix(".html").read_text(encoding="utf-8")

    @abstractmethod
    def read(self, path: Path) -> Any:
        """What is to be shown of a path; None if it is not one of these.

        Raises:
            RunError: it is one, but cannot be read.
        """

    def within(self, path: Path) -> Iterable[Path]:
        """What else is shown with a path: other paths inside it, which other sections read."""
        return ()

    @abstractmethod
    def show(self, found: Any, path: Path, name: str, folder: Path, names: Names) -> dict[str, Any]:
        """Write plots and tables of one thing, and return what the page shows of it.

        Args:
            found: from `read`.
            path: of it. name: that of its directory or file.
            folder: where plots and tables go.
            names: makes names of files and of places in the page that are not taken.

        Returns:
            The values of the template, and for the page: `name`; `title`, the heading; `anchor`,
            from `names`; `provenance`, facts by name; `spec`, YAML, where there is one; `digests`,
            SHA-256 by file, where they are known; `numbers`, plain values for `numbers.json`.

        Raises:
            RunError: a file cannot be read.
        """


def sections() -> dict[str, Section]:
    """All sections by name, in their order."""
    made = {name: section() for name, section in parts("section").items()}
    return dict(sorted(made.items(), key=lambda item: (item[1].order, item[0])))


def copy_picture(layer, path: Path, series=False) -> str | None:
    """Copy the picture of a layer's filters, which its training drew with the images at hand.

    Args:
        layer: of a run. path: where to. series: whether the run has learned from series.

    Returns:
        What the picture shows; None where there is none that says so, and the filters' weights
        were drawn.

    Raises:
        RunError: the kernel cannot be read.
    """
    from PIL import Image

    try:
        drawn = read_bytes(layer.directory / "filters.png", layer.directory)
        with Image.open(io.BytesIO(drawn), formats=("PNG",)) as picture:
            words = str(picture.info["Description"])
    except (RunError, OSError, ValueError, SyntaxError, KeyError, Image.DecompressionBombError):
        filters_png(path, layer.kernel, series=series)
        return None
    path.write_bytes(drawn)
    return f"{words}."


def mean_and_spread(mean, spread) -> str:
    """Shares as percent, such as "64.1 ± 0.8"; a spread that is None is left out."""
    return f"{100 * mean:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def versions(found) -> str:
    """Versions of kclr and its dependencies, from a summary or results."""
    named = {"kclr": found["kclr"]} if "kclr" in found else {}
    named |= found.get("versions") or {}
    return ", ".join(f"{name} {version}" for name, version in named.items()) or NOTHING


def hardware(found) -> str:
    """Of a summary or of results, in words."""
    facts = found.get("hardware")
    if not facts:
        return NOTHING
    gpus = ", ".join(facts.get("gpus") or []) or "no GPU"
    return f"{facts.get('cores', '?')} cores of {facts.get('processor', '?')}, {gpus}"


def without(mapping, *keys) -> dict[str, Any]:
    """A copy without some keys."""
    return {key: value for key, value in mapping.items() if key not in keys}


def classifier_title(name: str) -> str:
    """A classifier of features for people: a readout's `title`, else what it is called."""
    return getattr(parts("readout").get(name), "title", name)


def filters_name(features: str) -> str:
    """The displayed name of a kind of filters, such as "spherical k-means, all layers"."""
    name, comma, rest = features.partition(",")
    return baseline_titles().get(name, name) + comma + rest
