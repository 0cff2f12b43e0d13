"""The Keras layers of kclr, and a stack of trained ones."""

from kclr.layers.block import (
    ContrastiveConvBlock,
    Decorrelation,
    scaling_of,
    smallest_image,
    stacked,
)
from kclr.layers.colors import DropColors
from kclr.layers.jitter import SensorJitter
from kclr.layers.shared import SharedPatches

__all__ = [
    "ContrastiveConvBlock",
    "Decorrelation",
    "DropColors",
    "SensorJitter",
    "SharedPatches",
    "scaling_of",
    "smallest_image",
    "stacked",
]
