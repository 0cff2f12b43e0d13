"""How raw numbers become a network's input: shifted and divided, of each channel or of all."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

# What stays as it is in memory and on disk; other types of numbers are converted to one of these.
DTYPES = ("uint8", "uint16", "int16", "float16", "float32")
MOST = {"uint8": 255.0, "uint16": 65535.0, "int16": 32767.0}  # the largest number of a type
_PERCENTILES = (1, 99)
_SAMPLED = 1 << 22  # pixels that percentiles are taken of
_ROWS = 1 << 18  # pixels at once, which are wider in between


@dataclass(frozen=True)
class Scaling:
    """A network's input is `(raw - shift) / spread`.

    Attributes:
        dtype: of the raw numbers, one of `DTYPES`.
        shift, spread: one number for all channels, or one for each. Spreads are above 0.
    """

    dtype: str = "uint8"
    shift: tuple[float, ...] = (0.0,)
    spread: tuple[float, ...] = (255.0,)

    def __post_init__(self):
        object.__setattr__(self, "shift", tuple(map(float, self.shift)))
        object.__setattr__(self, "spread", tuple(map(float, self.spread)))

    @property
    def usual(self) -> bool:
        """Whether it is that of 8-bit pictures, from 0 and 255 to 0 and 1."""
        return self == EIGHT_BITS

    @property
    def unit(self) -> bool:
        """Whether unsigned whole numbers become 0 to 1, by the range of their type."""
        return self.dtype in ("uint8", "uint16") and self == fixed("unit", self.dtype)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, from which `Scaling(**values)` makes it again."""
        values = asdict(self)
        return values | {key: list(values[key]) for key in ("shift", "spread")}

    def __call__(self, raw, dtype="float32"):
        """The network's input: float of the same shape.

        Args:
            raw: an array or tensor (..., channels).
            dtype: of the result. It is computed in float32, but for 8-bit numbers.
        """
        if hasattr(raw, "__array_interface__"):
            import numpy as np

            shift, spread = (np.asarray(part, np.float32) for part in (self.shift, self.spread))
            made = raw.astype(np.float32)
            return (made - shift if shift.any() else made) / spread
        import tensorflow as tf

        if self.usual:
            return tf.cast(raw, dtype) / 255
        made = tf.cast(raw, tf.float32)
        if any(self.shift):
            made -= tf.constant(self.shift)
        return tf.cast(made / tf.constant(self.spread), dtype)

    def layer(self, name="scaling"):
        """The same as a Keras layer, `keras.layers.Normalization`."""
        import keras

        each = len(self.shift) > 1 or len(self.spread) > 1
        count = max(len(self.shift), len(self.spread))
        shift, variance = (
            list(part) * (count if len(part) == 1 else 1)
            for part in (self.shift, [own**2 for own in self.spread])
        )
        return keras.layers.Normalization(
            axis=-1 if each else None,
            mean=shift if each else shift[0],
            variance=variance if each else variance[0],
            dtype="float32",
            name=name,
        )


EIGHT_BITS = Scaling()


def network_input(raw, scaling: Scaling | None = None, dtype="float32"):
    """A network's input of numbers that may be scaled already.

    Args:
        raw: a tensor (..., channels).
        scaling: of the raw numbers. Without one, or with that of 8-bit pictures, whole numbers are
            taken as 0 to 255, and floats are returned as they are.
        dtype: of what is scaled.
    """
    if scaling is not None and not scaling.usual:
        return scaling(raw, dtype)
    return raw if raw.dtype.is_floating else EIGHT_BITS(raw, dtype)


def fixed(scale, dtype) -> Scaling | None:
    """The scaling that an option asks for, or None where it has to be measured.

    Args:
        scale: "unit", "none", "standard", "percentile" or (low, high).
        dtype: of the raw numbers.
    """
    if isinstance(scale, (tuple, list)):
        low, high = scale
        return Scaling(dtype, (low,), (high - low,))
    if scale == "unit":
        return Scaling(dtype, (0.0,), (MOST.get(dtype, 1.0),))
    return Scaling(dtype, (0.0,), (1.0,)) if scale == "none" else None


def matching(scaling: Scaling, dtype) -> Scaling | None:
    """What makes numbers of another type the input of a network that has learned with `scaling`.

    Between uint8 and uint16 the full ranges correspond, where these become 0 to 1; otherwise only
    numbers of the same type mean the same, and for others the result is None.
    """
    whole = ("uint8", "uint16")
    if scaling == fixed("unit", scaling.dtype) and dtype in whole and scaling.dtype in whole:
        return fixed("unit", dtype)
    return scaling if dtype == scaling.dtype else None


def measured(scale, dtype, pixels: Iterable[Any]) -> tuple[Scaling, list[str]]:
    """The scaling "standard" or "percentile" of some pixels.

    Args:
        scale, dtype: as of `fixed`.
        pixels: arrays (pixels, channels), without those that are not to be counted.

    Returns:
        The scaling, and words about channels that it cannot do much for.
    """
    import numpy as np

    count, kept = 0, 0
    first: Any = None
    total: Any = 0.0
    squares: Any = 0.0
    seen: list[Any] = []
    for block in pixels:
        for start in range(0, len(block), _ROWS):
            rows = block[start : start + _ROWS].astype(np.float64)
            count += len(rows)
            if scale == "standard":
                # Around the first pixels' mean, so that no digits are lost.
                first = rows.mean(axis=0) if first is None else first
                total = total + (rows - first).sum(axis=0)
                squares = squares + ((rows - first) ** 2).sum(axis=0)
            elif kept < _SAMPLED:
                seen.append(rows[:: max(1, len(rows) // 4096)])
                kept += len(seen[-1])
    if not count:
        return Scaling(dtype, (0.0,), (1.0,)), []
    if scale == "standard":
        mean = total / count
        shift, spread = first + mean, np.sqrt(np.maximum(squares / count - mean**2, 0))
    else:
        shift, high = np.percentile(np.concatenate(seen), _PERCENTILES, axis=0)
        spread = high - shift
    constant = np.flatnonzero(spread <= 1e-12 * np.maximum(np.abs(shift), 1e-30))
    words = []
    if len(constant):
        named = ", ".join(map(str, constant[:10])) + ", ..." * (len(constant) > 10)
        words.append(
            f"channel{'s' * (len(constant) > 1)} {named} (counted from 0) of {len(shift)} "
            f"{'are' if len(constant) > 1 else 'is'} the same everywhere, and nothing can be "
            "learned from it."
        )
    spread[constant] = 1.0
    return Scaling(dtype, tuple(shift.tolist()), tuple(spread.tolist())), words
