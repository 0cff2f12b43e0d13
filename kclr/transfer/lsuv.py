"""Layer-sequential unit variance (LSUV), and hooks into a Keras model while it runs."""

import contextlib
import functools
import math
from typing import Any, NamedTuple

import numpy as np

from kclr.data.sources import as_images
from kclr.errors import SpecError

# Enough to know a layer's variance within a few percent; the fewest, for very large images.
PIXELS, FEWEST_IMAGES = 2**18, 8

NEEDED = {3: "(series, length, channels)", 4: "(images, height, width, channels)"}


# Layers whose output is linear in a kernel, and the name of that kernel.
KERNELS = {
    "Conv1D": "kernel",
    "Conv2D": "kernel",
    "Dense": "kernel",
    "DepthwiseConv1D": "kernel",
    "DepthwiseConv2D": "kernel",
    "SeparableConv1D": "pointwise_kernel",
    "SeparableConv2D": "pointwise_kernel",
}


class Scaled(NamedTuple):
    """What `lsuv` did to a layer: the standard deviation of its output, before and after."""

    layer: Any
    std_before: float
    std_after: float
    divided_by: float


def lsuv(
    model,
    data,
    layers=None,
    tolerance=0.1,
    most_iterations=10,
    orthonormal=False,
    seed=None,
    unit=True,
) -> list[Scaled]:
    """Layer-sequential unit variance (Mishkin and Matas 2016, algorithm 1), in place.

    From the image upwards, every kernel is divided by the standard deviation of its layer's output
    until the variance over all images, positions and units is 1 within `tolerance`. The output is
    taken before the layer's own activation; biases are not changed. The model runs in inference
    mode, where a new BatchNormalization has no effect: its statistics, which start with variance 1,
    are not changed and are then correct.

    Args:
        model: keras.Model with one input, of images or of series.
        data: images, uint8 or float in [0, 1], (images, height, width, channels), or series as the
            model sees them, (series, length, channels); a `tf.data.Dataset` of batches of them,
            alone or first in a tuple; or for images None, for photographs of `data: photos` in the
            model's size. Only a few are used, up to 2^18 pixels (256 images of 32x32) but at least
            8: evenly spaced in an array, the first ones of a data set.
        layers: Keras layers to scale; None for every trainable Conv1D, Conv2D, Dense, DepthwiseConv
            and SeparableConv, nested ones included.
        tolerance: float > 0, of the variance.
        most_iterations: int >= 0, how often a kernel is divided at most.
        orthonormal: first draw orthonormal kernels for Conv2D and Dense, as the paper does.
        seed: int, for these.
        unit: whether the model sees images in [0, 1]. With False they are numbers of any range, as
            the model takes them, and have to be given.

    Returns:
        One `Scaled` for each layer, in the order in which the model runs them. A layer whose output
        does not vary (`std_after` 0) keeps its kernel.

    Raises:
        SpecError: the data are not images for this model, or a layer has no kernel of that kind.
    """
    import keras

    images, _ = few_images(model, data, unit)
    for layer in layers or ():
        if not kernel_name(layer):
            raise SpecError(
                f"{layer.name} is not one of {', '.join(KERNELS)}. Remove it from layers"
            )
    chosen = None if layers is None else {id(layer) for layer in layers}
    draw = keras.initializers.Orthogonal(seed=keras.random.SeedGenerator(seed))
    done: dict[int, Scaled] = {}

    # A layer is scaled while the model runs it, since all below it are settled by then: one pass
    # over the model in place of one for every layer and iteration.
    def watch(layer, call, *args, **kwargs):
        wanted = layer.trainable if chosen is None else id(layer) in chosen
        if not wanted or id(layer) in done:
            return call(*args, **kwargs)
        kernel = getattr(layer, kernel_name(layer) or "kernel")
        if orthonormal and isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            kernel.assign(draw(kernel.shape))
        stds, divided_by = [], 1.0
        while True:
            output = before_activation(layer, call, *args, **kwargs)
            stds.append(standard_deviation(output))
            settled = abs(stds[-1] ** 2 - 1) < tolerance or not 0 < stds[-1] < math.inf
            if settled or len(stds) > most_iterations:
                break
            kernel.assign(kernel / stds[-1])
            divided_by *= stds[-1]
        done[id(layer)] = Scaled(layer, stds[0], stds[-1], divided_by)
        return output if layer.activation is None else layer.activation(output)

    with watched(model, watch, kernel_name):
        model(images, training=False)
    return list(done.values())


def output_stds(model, images) -> dict[Any, float]:
    """Standard deviation of each layer's output before its activation, by layer.

    For every layer with one of `KERNELS`, at the first of its calls.
    """
    stds: dict[Any, float] = {}

    def watch(layer, call, *args, **kwargs):
        output = before_activation(layer, call, *args, **kwargs)
        stds.setdefault(layer, standard_deviation(output))
        return output if layer.activation is None else layer.activation(output)

    with watched(model, watch, kernel_name):
        model(images, training=False)
    return stds


def kernel_name(operation) -> str | None:
    """The attribute that holds a layer's kernel, or None where it has none of `KERNELS`."""
    names = (cls.__name__ for cls in type(operation).__mro__)
    return next((KERNELS[name] for name in names if name in KERNELS), None)


def standard_deviation(output) -> float:
    """Of all numbers in a layer's output, whatever their dtype."""
    from keras import ops

    return float(ops.std(ops.cast(output, "float32")))


def before_activation(layer, call, *args, **kwargs):
    """What a layer's `call` returns, without its own activation."""
    # By way of `vars`, since a built layer does not let go of an activation that is a layer.
    own, vars(layer)["activation"] = layer.activation, None
    try:
        return call(*args, **kwargs)
    finally:
        vars(layer)["activation"] = own


@contextlib.contextmanager
def watched(model, watch, wanted):
    """While the block runs, let `watch(operation, call, ...)` stand in for operations' calls.

    Args:
        model: keras.Model, built; it is to be called eagerly.
        watch: function of an operation, its own call and that call's arguments, which returns what
            the call would.
        wanted: function of an operation, true for those to watch. Layers within layers and within
            nested models are asked too, and operations of `keras.ops` in functional models.
    """
    operations: dict[int, Any] = {}
    for layer in model._flatten_layers():  # Keras has no public way to layers within layers
        for operation in (layer, *(getattr(layer, "operations", None) or ())):
            if operation is not model and wanted(operation):
                operations[id(operation)] = operation
    own = {key: vars(each).get("call") for key, each in operations.items()}
    try:
        for operation in operations.values():
            vars(operation)["call"] = functools.partial(watch, operation, operation.call)
        yield
    finally:
        for key, operation in operations.items():
            vars(operation).pop("call", None)
            if own[key] is not None:
                vars(operation)["call"] = own[key]


def few_images(model, data, unit=True):
    """A few images to measure a model's activations on; the model is built on them if need be.

    Args:
        model, data, unit: as in `lsuv`.

    Returns:
        float32 tensor (images, height, width, channels), or (series, length, channels), as the
        model takes them; str, what they are.

    Raises:
        SpecError: they are not images for this model.
    """
    import tensorflow as tf

    own = getattr(model, "input_shape", None)
    own = own[0] if isinstance(own, list) and len(own) == 1 else own
    if own is not None and (not isinstance(own, tuple) or len(own) not in (3, 4)):
        words = f"the model's input is {own}. Use a model with one input, of images or of series"
        raise SpecError(words)
    series = own is not None and len(own) == 3
    what = "series" if series else "images"
    ranged = unit and not series
    allowed = "uint8, or floats in [0, 1]" if ranged else "numbers, scaled as the model takes them"
    if data is None:
        if not ranged:
            raise SpecError(f"nothing to measure activations on. Pass data: a few {what}")
        if own is None:
            raise SpecError(
                f"the input shape of {model.name} is not known. Pass data: a few images"
            )
        images = _photographs(own[1] or 96, own[2] or 96, own[3] or 3)
        words = f"{len(images)} tiles of kclr's photographs"
    else:
        read = _first_batches if isinstance(data, tf.data.Dataset) else _spread
        images = read(data, 3 if series else 4)
        words = f"{len(images)} of the given {what}"
    if images.dtype == np.uint8 and unit:
        images = images.astype(np.float32) / 255
    kind = np.floating if ranged else np.number
    if not np.issubdtype(images.dtype, kind) or not np.isfinite(images).all():
        raise SpecError(f"{what} are {images.dtype}, or not finite. Use {allowed}")
    if ranged and (images.min() < -0.01 or images.max() > 1.01):
        span = f"{images.min():.4g} to {images.max():.4g}"
        raise SpecError(f"image values are from {span}. Use {allowed}")
    if own is not None and any(
        side not in (None, given) for side, given in zip(own[1:], images.shape[1:], strict=True)
    ):
        raise SpecError(f"{what} are {images.shape[1:]}, but the model takes {own[1:]}")
    images = tf.convert_to_tensor(images.astype(np.float32))
    if not model.built:
        model(images[:1], training=False)
    return images, words


def _count(*sides):
    return max(FEWEST_IMAGES, PIXELS // math.prod(sides))


def _spread(data, axes):
    shape = np.shape(data)
    if len(shape) not in (axes - 1, axes) or 0 in shape:
        raise SpecError(f"data has shape {shape}; {NEEDED[axes]} is needed")
    count = min(shape[0], _count(*shape[1 : axes - 1]))
    chosen = np.linspace(0, shape[0] - 1, count).astype(int)
    images = np.stack([np.asarray(data[index]) for index in chosen])
    return images[..., None] if images.ndim == axes - 1 else images


def _first_batches(dataset, axes):
    batches: list[np.ndarray] = []
    for batch in dataset:
        images = np.asarray(batch[0] if isinstance(batch, (tuple, list)) else batch)
        if images.ndim != axes:
            raise SpecError(
                f"the data set returns arrays of shape {images.shape}; batches are needed: "
                f"{NEEDED[axes]}. Add .batch(128)"
            )
        batches.append(images)
        most = _count(*images.shape[1:-1])
        if sum(map(len, batches)) >= most:
            return np.concatenate(batches)[:most]
    if not batches:
        raise SpecError("the data set is empty. Pass one with a few images or series")
    return np.concatenate(batches)


def _photographs(height, width, channels):
    import tensorflow as tf

    tile = min(max(height, width), 256)
    source = as_images("photos", tile=tile, channels=1 if channels == 1 else 3)
    tiles = list(source.read())
    chosen = np.random.default_rng(0).permutation(len(tiles))[: _count(height, width)]
    images = np.stack([tiles[index] for index in chosen]).astype(np.float32) / 255
    if (height, width) != images.shape[1:3]:
        images = tf.image.resize(images, (height, width), antialias=True).numpy()
    if channels > 3:
        gray = images.mean(axis=3, keepdims=True)
        images = np.concatenate([images, np.repeat(gray, channels - 3, axis=3)], axis=3)
    return np.clip(images[..., :channels], 0, 1)
