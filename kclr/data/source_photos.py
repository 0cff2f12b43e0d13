"""`photos`: natural photographs that scikit-learn and scikit-image ship; nothing to download."""

import importlib.metadata
import importlib.util
import os
from typing import Annotated

from pydantic import Field

from kclr.data import image_files
from kclr.data.fingerprints import of_files
from kclr.data.sources import Source
from kclr.errors import SpecError
from kclr.spec.registry import register

# Photographs only: no drawings, no scans, nothing seen through a microscope or a telescope.
_PHOTOS = (
    ("sklearn", "scikit-learn", "datasets/images", ("china.jpg", "flower.jpg")),
    (
        "skimage",
        "scikit-image",
        "data",
        ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png"),
    ),
)


@register("source", "photos")
class Photos(Source):
    """Seven photographs that scikit-learn and scikit-image ship, cut into tiles."""

    tile: Annotated[int, Field(ge=2, le=65536)] | None = 64
    """Cut every picture into tiles of so many px, each an image of its own. For few, large ones."""

    def problem(self):
        if len(_paths()) < 2:
            return (
                "photos: the pictures of scikit-learn and scikit-image are not installed. "
                "Run: pip install scikit-learn scikit-image"
            )
        return None

    def image_shape(self):
        sizes = [size for size in map(image_files.size, _paths()[: self.limit]) if size]
        return self._smallest(sizes)

    def open(self):
        problem = self.problem()
        if problem:
            raise SpecError(problem)
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
    """The photographs that are installed. The packages are found without importing them: slow."""
    found = []
    for package, _, folder, names in _PHOTOS:
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            paths = [os.path.join(place, *folder.split("/"), name) for name in names]
            found += [path for path in paths if os.path.isfile(path)]
    return found
