"""`photos`: natural photographs that kclr and scikit-learn ship; nothing to download."""

import importlib.util
import os
from typing import Annotated

from kclr.data import image_files
from kclr.data.fingerprints import of_files
from kclr.data.sources import Source
from kclr.spec.registry import register
from kclr.spec.values import Sides, Size

_OURS = ("chelsea.png", "coffee.png", "rocket.jpg")
_SCIKIT_LEARN = ("china.jpg", "flower.jpg")


@register("source", "photos")
class Photos(Source):
    """Five photographs that kclr and scikit-learn ship, cut into tiles."""

    tile: Annotated[Size, Sides(2, 1 << 20)] | None = 64
    """Cut every picture into tiles of this size in px, each used as an image. For a few large
    pictures."""

    def image_shape(self):
        found = (image_files.PictureFile(path).header() for path in _paths()[: self.limit])
        return self._smallest([(own.height, own.width) for own in found if own])

    def open(self):
        paths = _paths()[: self.limit]

        def records(start):
            for path in paths[start:]:
                yield os.path.basename(path), image_files.PictureFile(path)

        return self._images(
            records,
            count=len(paths),
            channels=3,
            contents=lambda tell: of_files(
                self.part_name, {os.path.basename(path): path for path in paths}, tell
            ),
        )


def _paths():
    """The photographs. scikit-learn is found without importing it, which takes long."""
    ours = [os.path.join(os.path.dirname(__file__), "photographs", name) for name in _OURS]
    spec = importlib.util.find_spec("sklearn")
    theirs = [
        os.path.join(place, "datasets", "images", name)
        for place in (spec.submodule_search_locations or ())
        for name in _SCIKIT_LEARN
    ] if spec else []  # fmt: skip
    return [path for path in theirs + ours if os.path.isfile(path)]
