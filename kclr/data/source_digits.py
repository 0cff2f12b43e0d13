"""`digits`: scikit-learn's 1,797 handwritten digits, which need no download."""

from kclr.data.fingerprints import array_digest
from kclr.data.sources import Source
from kclr.spec.registry import register

_SCALE = 4  # 8x8 px are too few for a kernel of 6 and a pool
_SIDE = 8 * _SCALE


@register("source", "digits")
class Digits(Source):
    """Handwritten digits of scikit-learn, gray, each pixel repeated to a square of 4x4 px."""

    def image_shape(self):
        return (*self._smallest([(_SIDE, _SIDE)])[:2], self.channels or 1)

    def open(self):
        images = _images()

        def records(start):
            for number in range(start, len(images)):
                yield f"digit {number}", lambda number=number: images[number]

        return self._images(records, len(images), 1, fingerprint=array_digest(images))

    def labelled(self, split, channels=None):
        import numpy as np
        from sklearn.datasets import load_digits

        from kclr.data.labels import Labelled, divide

        digits = load_digits()
        classes = tuple(str(name) for name in digits.target_names)
        rows = divide(digits.target, split, "digits", classes)
        images = self.model_copy(update={"channels": channels}).open()
        chosen = np.stack(list(images.read()))[rows]
        return Labelled(chosen, digits.target[rows].astype(np.int64), classes)

    def picture_labels(self):
        import numpy as np
        from sklearn.datasets import load_digits

        from kclr.data.labels import divide

        digits = load_digits()
        classes = tuple(str(name) for name in digits.target_names)
        rows = divide(digits.target, "train", "digits", classes)
        numbers = np.full(len(digits.target), -1)
        numbers[rows] = digits.target[rows]
        return numbers, classes


def _images():
    """uint8 (images, height, width, 1)."""
    import numpy as np
    from sklearn.datasets import load_digits

    values = (load_digits().images * (255 / 16) + 0.5).astype(np.uint8)
    return values.repeat(_SCALE, axis=1).repeat(_SCALE, axis=2)[..., None]
