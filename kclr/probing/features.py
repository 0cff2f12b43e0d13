"""Frozen features: feature maps pooled over a grid, one vector per image."""

import math
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from kclr.errors import SpecError
from kclr.keras_backend import compiles
from kclr.layers import ContrastiveConvBlock, smallest_image
from kclr.layers.fast import usual_convolutions
from kclr.pooling import Pooling, pool_maps, signed_power
from kclr.probing.memory import MEMORY, room
from kclr.scaling import network_input


class Features:
    """Pooled maps of a frozen model in inference mode, batch by batch.

    The graph is made once per image size and uses the current weights at each call.

    Args:
        model: Keras layer or model, from images (batch, height, width, channels) to a map (batch,
            height, width, filters), to vectors (batch, ...), or to a list of these, whose features
            are concatenated.
        pooling: how a map becomes a vector; lists in it have one item for each of the model's
            outputs.
        jit: bool, or "auto": whether XLA compiles the model. For convolution blocks that takes a
            third of the time of the plain graph; not every layer of Keras can be compiled.
        scaling: `kclr.scaling.Scaling` of the images' numbers; by default whole numbers are scaled
            from 0 and 255 to 0 and 1, and the model sees floats as they are.
    """

    def __init__(self, model, pooling: Pooling, jit: bool | str = "auto", scaling=None):
        self.model, self._pooling, self._scaling = model, pooling, scaling
        # Means of bfloat16 maps take XLA a sixth of the time. Beside a GPU it may be forbidden.
        self._cells = tf.function(_cells, jit_compile=compiles(), autograph=False)
        self._jit = compiles(jit, getattr(model, "compute_dtype", "float32"), on_gpu=True)
        # XLA compiles anew for every shape.
        self._compiled = tf.function(self._pooled, jit_compile=self._jit, autograph=False)
        plain = partial(self._pooled, cells=_cells)
        self._plain = tf.function(plain, autograph=False, reduce_retracing=True)

    def _pooled(self, inputs, cells=None):
        inputs = tf.cast(network_input(inputs, self._scaling), tf.float32)
        if not self._pooling.flips:
            return self._vectors(inputs, cells)
        return (self._vectors(inputs, cells) + self._vectors(inputs[:, :, ::-1], cells)) / 2

    def _vectors(self, inputs, cells):
        outputs = self.model(inputs, training=False)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        vectors = []
        for each, (grid, power) in zip(outputs, self._pooling.of_each(len(outputs)), strict=True):
            is_map = len(each.shape) == 4
            own = cells or self._cells
            vector = own(each, self._pooling.pool, grid) if is_map else _flat(each)
            vectors.append(signed_power(tf.cast(vector, tf.float32), power))
        return tf.concat(vectors, axis=-1)

    def __call__(self, images, batch_size=256, memory=MEMORY):
        """The features of images.

        Args:
            images: an array (images, ...), or `kclr.data.labels.Labelled`.
            batch_size: int, images at a time.
            memory: megabytes; more features than that are kept in a temporary file, which is
                removed with the array.

        Returns:
            float32 (images, features): for a map grid * grid * filters, cell by cell; an array, or
            a `numpy.memmap`.

        Raises:
            SpecError: the images do not fit the model (see `check_fits`).
        """
        batches = images.batches if hasattr(images, "batches") else _batches(images)
        out, shape, done = None, None, 0
        for batch in batches(batch_size):
            check_fits(self.model, batch, getattr(images, "name", "images"))
            shape = shape or (min(batch_size, len(images)), *batch.shape[1:])
            if batch.shape[1:] == shape[1:]:
                padding = [(0, shape[0] - len(batch)), *[(0, 0)] * (batch.ndim - 1)]
                with usual_convolutions(self._jit):
                    values = self._compiled(np.pad(batch, padding)).numpy()[: len(batch)]
            else:
                values = self._plain(batch).numpy()
            if out is None:
                out = room((len(images), values.shape[1]), memory)
            out[done : done + len(batch)] = values
            done += len(batch)
        return out


def features(model, images, pooling: Pooling | None = None, batch_size=256, memory=MEMORY):
    """The features of images, computed once (see `Features`)."""
    scaling = getattr(images, "scaling", None)
    made = Features(model, pooling or Pooling(), scaling=scaling)
    return made(images, batch_size, memory)


def _cells(maps, pool, grid):
    return pool_maps(tf.cast(maps, tf.float32), pool, grid)


def _flat(vectors):
    return tf.reshape(vectors, (-1, math.prod(vectors.shape[1:])))


def check_fits(model, batch, name):
    """Refuse images that a model cannot take.

    Args:
        model: Keras layer or model.
        batch: (images, ...), a batch of them.
        name: of the data set, in messages.

    Raises:
        SpecError: the images are too small for kclr's layers, or have another shape than the
            model's.
    """
    taken: Any = getattr(model, "input_shape", None)
    given = batch.shape
    layers = getattr(model, "layers", [])
    if batch.ndim == 4 and any(isinstance(layer, ContrastiveConvBlock) for layer in layers):
        height, width, channels = given[1:]
        smallest = smallest_image(model)
        if height < smallest[0] or width < smallest[1]:
            raise SpecError(
                f"{name}: images of {height}x{width} px are too small for these layers, which need "
                f"at least {smallest[0]}x{smallest[1]}. Use larger images, or fewer layers."
            )
        if channels != taken[-1]:
            raise SpecError(
                f"{name}: images have {channels} channels, but the layers take {taken[-1]}. "
                "Use images with as many channels."
            )
    if not isinstance(taken, tuple) or not all(size is None or size > 0 for size in taken):
        return  # it is known to the model alone
    sizes = list(zip(taken[1:], given[1:], strict=False))
    if len(taken) != len(given) or any(size not in (None, own) for size, own in sizes):
        raise SpecError(
            f"{name}: images of {_by(given[1:])}, but the model takes {_by(taken[1:])}. Use "
            "images of that shape."
        )


def _by(shape):
    return "x".join("any" if size is None else str(size) for size in shape)


def _batches(images):
    return lambda size: (images[start : start + size] for start in range(0, len(images), size))
