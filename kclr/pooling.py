"""Pooling a feature map of any size to one vector, for classifiers and similarity search."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import ops

from kclr.errors import SpecError
from kclr.layers import ContrastiveConvBlock
from kclr.spec.values import by, pair, short

POOLS = ("mean", "max", "grid", "flatten")
PRECISIONS = ("float32", "mixed_bfloat16", "auto")


@dataclass(frozen=True)
class Pooling:
    """Which maps of a stack make the features of an image, and how.

    A map pooled over a grid, often after the square root, is what a linear classifier of frozen
    features sees in Coates, Lee and Ng (2011, "An analysis of single-layer networks in unsupervised
    feature learning", section 3.3), there over 2x2 cells.

    Attributes:
        grid: int from 1 to 64, cells of the grid on each side (see `grid_mean`); or a list of them,
            one for each map, from the image upwards, where rows and columns may stand in place of
            a number: `[(1, 4)]`.
        power: float above 0, up to 1, that the pooled numbers are raised to (see `signed_power`);
            or a list, as for `grid`.
        all_layers: bool, the maps of all layers, concatenated; otherwise that of the top layer.
        flips: bool, the mean of the features of each image and of its mirror image. A linear
            classifier on it is one that averages its answers to both.
        precision: of the convolutions: "float32"; "mixed_bfloat16", which is faster on CPUs with
            AMX; or "auto" for the faster one.
        pool: "mean", "max", "grid" or "flatten" (see `pool_maps`).
        grid_argument: what `grid` is called, in messages.

    Raises:
        SpecError: a value is none of these.
    """

    grid: Any = 2
    power: Any = 1.0
    all_layers: bool = False
    flips: bool = False
    precision: str = "float32"
    pool: str = "grid"
    grid_argument: str = "grid"

    def __post_init__(self):
        for argument, known in (("pool", POOLS), ("precision", PRECISIONS)):
            value = getattr(self, argument)
            if value not in known:
                raise SpecError(
                    f"{argument}: {value!r} is not known. Use one of {', '.join(known)}."
                )
        grid_of_each(self.grid, None, self.grid_argument)
        power_of_each(self.power, None)

    def of_each(self, count: int) -> list[tuple[Any, float]]:
        """The grid and the power of each of some maps, from the image upwards.

        Raises:
            SpecError: `grid` or `power` is a list of another number of them.
        """
        grids = grid_of_each(self.grid, count, self.grid_argument)
        return list(zip(grids, power_of_each(self.power, count), strict=True))

    def of_stack(self, layers: int) -> list[tuple[Any, float]]:
        """The same for the maps of a stack of so many layers: all, or that of its top alone."""
        return self.of_each(layers if self.all_layers else 1)

    def of_lowest(self, layers: int) -> "Pooling":
        """The pooling of a stack's lowest layers, while those above are not there."""
        grid, power = (
            own[:layers] if isinstance(own, (list, tuple)) else own
            for own in (self.grid, self.power)
        )
        return replace(self, grid=grid, power=power)

    def maps(self, model) -> keras.Model:
        """The model that gives the maps to pool: those of all blocks of a stack, or its output."""
        if not self.all_layers and len(model.output_shape) == 4:
            return model
        blocks = [layer.output for layer in model.layers if isinstance(layer, ContrastiveConvBlock)]
        # That of a series is an image of height 1.
        return keras.Model(model.input, blocks if self.all_layers else blocks[-1])

    def lengths(self, filters: Sequence[int]) -> list[int]:
        """How many numbers each of some maps with so many filters makes; not for "flatten"."""
        each = zip(filters, self.of_each(len(filters)), strict=True)
        return [count * _cells(self.pool, grid) for count, (grid, _) in each]


def grid_mean(maps, grid_size):
    """Mean of each cell of a grid laid over every map, whatever the map's size.

    Cell i of n on an axis of length s runs from floor(i s / n) up to, not including,
    ceil((i + 1) s / n), as in PyTorch's adaptive average pooling. Where n divides s the cells are
    equal and apart; else neighbours share a row, so that every map of at least one cell will do
    (`numpy.array_split` would leave cells empty where s < n).

    Args:
        maps: float (batch, height, width, channels); height and width may be unknown in a graph.
        grid_size: int n, cells on each side; or two, rows and columns.

    Returns:
        float (batch, rows, columns, channels), in the dtype of `maps`.
    """
    for axis, cells in enumerate(pair(grid_size), start=1):
        size = ops.shape(maps)[axis]
        means = []
        for cell in range(cells):
            start = cell * size // cells
            # Not as -(-a // b): ONNX divides whole numbers towards zero.
            stop = ((cell + 1) * size + cells - 1) // cells
            part = maps[:, start:stop] if axis == 1 else maps[:, :, start:stop]
            means.append(ops.mean(part, axis=axis))
        maps = ops.stack(means, axis=axis)
    return maps


def grid_of_each(grid, count, argument="grid"):
    """The grid for each of some maps: the cells on a side, or rows and columns.

    Args:
        grid: int, or a list of one for each; in the list two ints may stand in place of one.
        count: int, of the maps; None where any number of them will do.
        argument: what `grid` is called, in messages.

    Raises:
        SpecError: they are not as many as the maps, or none is possible.
    """
    grids = _of_each(grid, count, argument)
    for cells in grids:
        sides = cells if isinstance(cells, (list, tuple)) else [cells] * 2
        if len(sides) != 2 or not all(1 <= side <= 64 for side in sides):
            raise SpecError(f"{argument}: {cells} is not possible. Use 1 to 64.")
    return [short(*pair(cells)) for cells in grids]


def power_of_each(power, count):
    """The power of `signed_power` for each of some maps.

    Args:
        power: float above 0, up to 1, or a list of them.
        count: int, of the maps; None where any number of them will do.

    Raises:
        SpecError: they are not as many as the maps, or one is not possible.
    """
    powers = _of_each(power, count, "power")
    for each in powers:
        if isinstance(each, bool) or not isinstance(each, (int, float)) or not 0 < each <= 1:
            raise SpecError(f"power: {each!r} is not possible. Use a number above 0, up to 1.")
    return powers


def _of_each(value, count, argument):
    values = list(value) if isinstance(value, (list, tuple)) else [value] * (count or 1)
    if count is not None and len(values) != count:
        raise SpecError(
            f"{argument}: {len(values)} numbers for {count} map{'s' * (count != 1)}. Use one for "
            "all, or one for each layer, from the image upwards."
        )
    return values


def hyphened(value):
    """A number, or a list of one for each layer, as a part of a name: 0.5, or 0.5-0.5-1."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return "-".join(f"{v:g}" if isinstance(v, (int, float)) else by(short(*v)) for v in values)


def signed_power(features, power):
    """Every feature's magnitude raised to a power, its sign kept.

    0.5 is the power normalisation of Perronnin, Sánchez and Mensink (2010, "Improving the Fisher
    kernel for large-scale image classification", section 3.2): many features are near zero for most
    images and large for a few, which dominate a linear classifier.

    Args:
        features: float (...).
        power: float above 0, up to 1 (no change).

    Returns:
        float (...), in the dtype of `features`.
    """
    if power == 1:
        return features
    magnitude = ops.abs(features)
    powered = ops.sqrt(magnitude) if power == 0.5 else ops.power(magnitude, power)
    return ops.sign(features) * powered


def pool_maps(maps, pool="grid", grid_size=2, power=1.0):
    """One vector of each feature map.

    Args:
        maps: float (batch, height, width, channels), of at least one cell.
        pool: "mean" or "max" over the whole map; "grid" for the mean of each cell of a grid, row by
            row (see `grid_mean`); "flatten" for the map itself.
        grid_size: int, cells of the grid per side; or two, rows and columns.
        power: float above 0, up to 1, that the pooled numbers are raised to (see `signed_power`).

    Returns:
        float (batch, length), the channels of each cell together: `channels` numbers for "mean" and
        "max", rows * columns * channels for "grid", height * width * channels for "flatten", whose
        length so depends on the size of the images.
    """
    if pool == "mean":
        return signed_power(ops.mean(maps, axis=(1, 2)), power)
    if pool == "max":
        return signed_power(ops.max(maps, axis=(1, 2)), power)
    if pool == "grid":
        maps = grid_mean(maps, grid_size)
    maps = signed_power(maps, power)
    batch, height, width, channels = ops.shape(maps)
    return ops.reshape(maps, (batch, height * width * channels))


def _cells(pool, grid_size):
    return math.prod(pair(grid_size)) if pool == "grid" else 1


@keras.saving.register_keras_serializable(package="kclr")
class MapPooling(keras.layers.Layer):
    """`pool_maps` as a layer, between a stack's map and a classifier.

    Args:
        pool: "mean", "max", "grid" or "flatten".
        grid_size: int, cells of the grid per side; or two, rows and columns.
        power: float above 0, up to 1, that the pooled numbers are raised to (see `signed_power`).

    Raises:
        ValueError: an argument is not valid.
    """

    def __init__(self, pool="grid", grid_size=2, power=1.0, **kwargs):
        super().__init__(**kwargs)
        if pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}; got {pool!r}")
        (self.power,) = power_of_each(power, 1)
        self.pool = pool
        self.grid_size = short(*pair(grid_size, "grid_size"))
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def call(self, inputs):
        return pool_maps(inputs, self.pool, self.grid_size, self.power)

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        if self.pool != "flatten":
            return (batch, channels * _cells(self.pool, self.grid_size))
        known = height is not None and width is not None
        return (batch, height * width * channels if known else None)

    def get_config(self):
        return super().get_config() | {
            "pool": self.pool,
            "grid_size": self.grid_size,
            "power": self.power,
        }
