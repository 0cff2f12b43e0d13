"""Frozen features: feature maps pooled over a grid, a row of numbers for each image."""

import tempfile

import keras
import numpy as np
import tensorflow as tf

from kclr.errors import SpecError
from kclr.export import smallest_image
from kclr.layers import ContrastiveConvBlock
from kclr.pooling import pool_maps

_MEGABYTE = 1 << 20


def all_maps(model) -> keras.Model:
    """The model that gives the maps of every block of `model`, from the image upwards."""
    blocks = [layer.output for layer in model.layers if isinstance(layer, ContrastiveConvBlock)]
    return keras.Model(model.input, blocks)


def features(model, images, grid=2, batch_size=256, memory=4096):
    """Mean-pooled maps of a frozen model, batch after batch.

    Args:
        model: from float32 images (batch, height, width, channels) in [0, 1] to a map, or to a
            list of maps, whose features then stand side by side.
        images: uint8 (images, height, width, channels), or `kclr.data.labels.Labelled`.
        grid: int, cells of the grid on each side (see `kclr.pooling.grid_mean`).
        batch_size: int, images at a time.
        memory: megabytes; more features than that are kept in a nameless file, which goes with the
            array.

    Returns:
        float32 (images, grid * grid * filters), cell by cell; an array, or a `numpy.memmap`.

    Raises:
        SpecError: the images are too small for the model, or have other channels.
    """
    batches = images.batches if hasattr(images, "batches") else _batches(images)

    def pooled(pixels):
        maps = model(tf.cast(pixels, tf.float32) / 255, training=False)
        maps = maps if isinstance(maps, (list, tuple)) else [maps]
        return tf.concat([pool_maps(each, "grid", grid) for each in maps], axis=-1)

    # XLA takes a third of the time of the plain graph, and compiles anew for every shape.
    compiled = tf.function(pooled, jit_compile=True, autograph=False)
    plain = tf.function(pooled, autograph=False, reduce_retracing=True)
    out, shape, done = None, None, 0
    for batch in batches(batch_size):
        _check_fits(model, batch, getattr(images, "name", "images"))
        shape = shape or (min(batch_size, len(images)), *batch.shape[1:])
        if batch.shape[1:] == shape[1:]:
            padding = [(0, shape[0] - len(batch)), (0, 0), (0, 0), (0, 0)]
            values = compiled(np.pad(batch, padding)).numpy()[: len(batch)]
        else:
            values = plain(batch).numpy()
        if out is None:
            out = room((len(images), values.shape[1]), memory)
        out[done : done + len(batch)] = values
        done += len(batch)
    return out


def _check_fits(model, batch, name):
    height, width, channels = batch.shape[1:]
    smallest = smallest_image(model)
    if height < smallest[0] or width < smallest[1]:
        raise SpecError(
            f"{name}: images of {height}x{width} px are too small for these layers, which need at "
            f"least {smallest[0]}x{smallest[1]}. Use larger images, or fewer layers."
        )
    if channels != model.input_shape[-1]:
        raise SpecError(
            f"{name}: images of {channels} channels, and the layers take {model.input_shape[-1]}. "
            "Turn them into gray or RGB first."
        )


def _batches(images):
    return lambda size: (images[start : start + size] for start in range(0, len(images), size))


def room(shape, memory):
    """An array of float32 that is yet to be filled, on disk where it takes over `memory` MB."""
    if 4 * np.prod(shape, dtype=np.int64) <= memory * _MEGABYTE:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(prefix="kclr-features-") as file:
        return np.memmap(file, np.float32, "w+", shape=tuple(shape))
