"""The paper's own classifier, and three common ones for small images.

For series, images of height 1, each has its one-dimensional form: kernels, strides and pools along
the series alone, of the same sizes.
"""

from kclr.errors import SpecError
from kclr.spec.values import along_series
from kclr.transfer.classifiers import register_classifier


@register_classifier("zhao")
def zhao(
    input_shape,
    classes,
    filters=(256, 512),
    kernel_sizes=(6, 3),
    dense_units=512,
    dropout=0.0,
    pool_size=2,
):
    """The classifier of Zhao (2020): two convolutions and two dense layers.

    From the paper: the first convolution (256 filters of 6x6, 2x2 max-pool, ReLU), 512 filters in
    the second, and two dense layers. Chosen here, since the paper does not say: 3x3 for the second
    kernel, convolutions padded to keep the size, the same pool and ReLU after the second, 512 units
    in the first dense layer, no dropout, no normalisation, and Keras' default initializers (Glorot
    uniform, biases 0). `filters=(64, 128)` makes it about nine times cheaper; for long series a
    larger `pool_size` does.
    """
    import keras

    along = _along(input_shape)
    layers = [keras.Input(input_shape)]
    for index, (count, size) in enumerate(zip(filters, kernel_sizes, strict=True), 1):
        layers += [
            keras.layers.Conv2D(count, along(size), padding="same", name=f"conv{index}"),
            keras.layers.MaxPooling2D(along(pool_size), padding="same", name=f"pool{index}"),
            keras.layers.ReLU(name=f"relu{index}"),
        ]
    layers += [
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dense(dense_units, activation="relu", name="dense1"),
        keras.layers.Dropout(dropout, name="dropout"),
        keras.layers.Dense(classes, dtype="float32", name="logits"),
    ]
    return keras.Sequential(layers, name="zhao")


@register_classifier("alexnet")
def alexnet(input_shape, classes, filters=64, dense_units=1024, dropout=0.5):
    """AlexNet (Krizhevsky et al. 2012) for small images.

    Its five convolutions and three dense layers, with the widths 64-192-384-256-256 of the
    one-column form (Krizhevsky 2014). For small images the first kernel is 5x5 at every pixel
    instead of 11x11 at every fourth, and dense layers have 1,024 units instead of 4,096.
    Overlapping 3x3 pools after the first, second and last convolution; no response normalisation.
    He normal.
    """
    import keras

    along = _along(input_shape)
    plan = [(1, 5, True), (3, 5, True), (6, 3, False), (4, 3, False), (4, 3, True)]
    layers = [keras.Input(input_shape)]
    for index, (width, size, pooled) in enumerate(plan, 1):
        layers.append(
            keras.layers.Conv2D(
                width * filters,
                along(size),
                padding="same",
                activation="relu",
                kernel_initializer="he_normal",
                name=f"conv{index}",
            )
        )
        if pooled:
            pool = keras.layers.MaxPooling2D(
                along(3), along(2), padding="same", name=f"pool{index}"
            )
            layers.append(pool)
    layers.append(keras.layers.Flatten(name="flatten"))
    for index in (1, 2):
        layers += [
            keras.layers.Dropout(dropout, name=f"dropout{index}"),
            keras.layers.Dense(
                dense_units,
                activation="relu",
                kernel_initializer="he_normal",
                name=f"dense{index}",
            ),
        ]
    layers.append(keras.layers.Dense(classes, dtype="float32", name="logits"))
    return keras.Sequential(layers, name="alexnet")


VGG_BLOCKS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


@register_classifier("vgg")
def vgg(input_shape, classes, depth=16, filters=64, dropout=0.5):
    """VGG (Simonyan and Zisserman 2015) for small images, with batch normalisation.

    Its convolutions at depth 11, 13, 16 or 19, the first with `filters` filters, each followed by
    batch normalisation; then the mean over the map and one dense layer of 8 x `filters` units in
    place of two of 4,096 (as Liu and Deng 2015 for CIFAR-10). Pools are padded, so that images of
    less than 32 px keep a map. He normal; convolutions have no bias, since normalisation has.
    """
    import keras

    if depth not in VGG_BLOCKS:
        raise SpecError(f"depth={depth}: choose from {', '.join(map(str, VGG_BLOCKS))}")
    along = _along(input_shape)
    layers = [keras.Input(input_shape)]
    for block, count in enumerate(VGG_BLOCKS[depth]):
        for index in range(count):
            name = f"block{block + 1}_conv{index + 1}"
            layers += _normalised(filters * min(2**block, 8), along(1), name, along(3))
            layers.append(keras.layers.ReLU(name=f"block{block + 1}_relu{index + 1}"))
        pool = keras.layers.MaxPooling2D(along(2), padding="same", name=f"block{block + 1}_pool")
        layers.append(pool)
    layers += [
        keras.layers.GlobalAveragePooling2D(name="mean"),
        keras.layers.Dense(
            8 * filters, activation="relu", kernel_initializer="he_normal", name="dense1"
        ),
        keras.layers.Dropout(dropout, name="dropout"),
        keras.layers.Dense(classes, dtype="float32", name="logits"),
    ]
    return keras.Sequential(layers, name=f"vgg{depth}")


@register_classifier("resnet")
def resnet(input_shape, classes, depth=20, filters=16):
    """The residual network of He et al. (2016, section 4.2) for CIFAR-10.

    A 3x3 convolution, then three stages of (depth - 2) / 6 blocks of two 3x3 convolutions, with
    `filters`, twice and four times as many filters and half the size from stage to stage; the mean
    over the map; one dense layer. Where the size changes the shortcut is a 1x1 convolution (their
    option B; they used A). He normal. Weight decay is left to the optimizer.
    """
    import keras

    blocks, rest = divmod(depth - 2, 6)
    if blocks < 1 or rest:
        raise SpecError(f"depth={depth}: use 6n + 2, such as 20, 32, 44, 56")
    along = _along(input_shape)
    image = keras.Input(input_shape)

    def normalised(maps, count, strides, name, size=3):
        for layer in _normalised(count, along(strides), name, along(size)):
            maps = layer(maps)
        return maps

    maps = keras.layers.ReLU(name="relu1")(normalised(image, filters, 1, "conv1"))
    for stage in range(3):
        for block in range(blocks):
            name = f"stage{stage + 1}_block{block + 1}"
            count, strides = filters * 2**stage, 2 if stage and not block else 1
            shortcut = maps
            if strides == 2:
                shortcut = normalised(maps, count, strides, f"{name}_shortcut", size=1)
            maps = normalised(maps, count, strides, f"{name}_conv1")
            maps = keras.layers.ReLU(name=f"{name}_relu1")(maps)
            maps = normalised(maps, count, 1, f"{name}_conv2")
            maps = keras.layers.Add(name=f"{name}_add")([maps, shortcut])
            maps = keras.layers.ReLU(name=f"{name}_relu2")(maps)
    maps = keras.layers.GlobalAveragePooling2D(name="mean")(maps)
    logits = keras.layers.Dense(classes, dtype="float32", name="logits")(maps)
    return keras.Model(image, logits, name=f"resnet{depth}")


def _along(input_shape):
    """A function of a size, which makes it one along a series where the input is series."""
    return along_series if input_shape[0] == 1 else lambda size: size


def _normalised(filters, strides, name, size):
    import keras

    return [
        keras.layers.Conv2D(
            filters,
            size,
            strides,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            name=name,
        ),
        keras.layers.BatchNormalization(name=f"{name}_norm"),
    ]
