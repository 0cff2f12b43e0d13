"""The Keras layers of kclr, and a stack of trained ones."""

from kclr.layers.block import ContrastiveConvBlock, Decorrelation
from kclr.layers.frozen import smallest_image, stacked
from kclr.layers.shared import SharedPatches

__all__ = ["ContrastiveConvBlock", "Decorrelation", "SharedPatches", "smallest_image", "stacked"]
