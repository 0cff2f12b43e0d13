"""Trained layers on top of each other, as a plain Keras model."""

import keras

from kclr.errors import RunError
from kclr.layers.block import ContrastiveConvBlock


def stacked(
    layers, channels, size=None, padding=None, name="stack", scaling=None, series=False
) -> keras.Model:
    """The Keras model of trained layers on top of each other.

    Args:
        layers: from the image upwards; each has `name`, `block` (arguments of
            `ContrastiveConvBlock`), `kernel` and `bias`, as the layers of `kclr.load_run` have.
        channels: int, of the images.
        size: int, or two, height and width of the images; None for any.
        padding: in place of every block's own; "valid" in training, where windows are complete.
        name: str, of the model.
        scaling: `kclr.scaling.Scaling`; the model then takes raw numbers.
        series: bool, take series (batch, length, channels), and return maps of that form.

    Returns:
        Model from float images (batch, height, width, channels) to the last layer's map. Without
        `scaling` they are scaled already; 8-bit pictures to [0, 1].

    Raises:
        RunError: a layer's `block` is not valid for `ContrastiveConvBlock`.
    """
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    shape = (width, channels) if series else (height, width, channels)
    image = maps = keras.Input(shape, name="kclr_image")
    if scaling is not None and not scaling.usual:
        maps = scaling.layer("kclr_scaling")(maps)
    if series:
        maps = keras.ops.expand_dims(maps, 1)
    for layer in layers:
        arguments = layer.block | ({"padding": padding} if padding else {})
        try:
            block = ContrastiveConvBlock(**arguments, name=layer.name, data_format="channels_last")
        except (TypeError, ValueError) as error:  # of a layer that was read from somebody's file
            raise RunError(
                f"layer {layer.name} cannot be built: {error}. Restore its layer.json; a custom "
                "activation must be registered with Keras first."
            ) from None
        maps = block(maps)
        block.set_weights([layer.kernel, layer.bias])
    if series:
        maps = keras.ops.squeeze(maps, 1)
    return keras.Model(image, maps, name=name)


def smallest_image(model) -> tuple[int, int]:
    """Height and width in px of the smallest images that leave one cell of `model`'s map.

    With "valid" padding this is the receptive field of a cell (Dumoulin and Visin 2016, "A guide to
    convolution arithmetic for deep learning").
    """
    blocks = [layer for layer in model.layers if isinstance(layer, ContrastiveConvBlock)]
    sizes = []
    for axis in (0, 1):
        cells = 1
        for block in reversed(blocks):
            cells = (cells - 1) * block.pool_strides[axis] + block.pool_size[axis]
            kernel = 1 if block.padding == "same" else block.kernel_size[axis]
            cells = (cells - 1) * block.strides[axis] + kernel
        sizes.append(cells)
    return sizes[0], sizes[1]
