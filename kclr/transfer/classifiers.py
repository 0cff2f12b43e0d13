"""Classifiers by name: the paper's own, three common ones for small images, and custom ones.

Every classifier takes float images in [0, 1], shaped (batch, height, width, channels), and returns
logits, float (batch, classes), for a loss with `from_logits=True`. Augmentation and other
preprocessing come before it. To add one, decorate a function that builds it:

    @register_classifier("two-layers")
    def two_layers(input_shape, classes, filters=64): ...

and name its module under the entry point group `kclr.plugins`; or do not register it, and name it
`module:two_layers`.
"""

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from difflib import get_close_matches

import numpy as np

from kclr.errors import SpecError
from kclr.spec.registry import parts

_builders: dict[str, Callable] = {}


def register_classifier(name):
    """Register a function that builds a classifier as `name`.

    The function takes `input_shape`, three ints, and `classes`, an int; its other parameters have
    defaults and are the classifier's options. It returns a Keras model as described above.

    Raises:
        ValueError: the name is taken by another function, or contains a colon.
    """
    if ":" in name:
        raise ValueError(f"{name!r} contains a colon, which separates a module and a function")

    def decorate(builder):
        taken = _builders.get(name, builder)
        known, new = (f"{each.__module__}:{each.__qualname__}" for each in (taken, builder))
        if known != new:
            raise ValueError(f"the classifier {name!r} is already {known}")
        _builders[name] = builder
        return builder

    return decorate


def classifier_names() -> list[str]:
    """Names of all registered classifiers, those of plug-ins included. Needs no TensorFlow."""
    parts("source")  # the registry imports every plug-in when it is first asked for anything
    return sorted(_builders)


def build_classifier(name, input_shape, classes, **options):
    """Build a classifier with fresh weights.

    Args:
        name: a registered name ("zhao", "alexnet", "vgg", "resnet"); "applications:VGG16" for a
            model of `keras.applications`, without its trained weights; or "module:function" for a
            function that builds a Keras model from `input_shape` and `classes`. Its module is
            imported, also from the working directory: do not use such names from untrusted sources.
        input_shape: (height, width, channels) of the images.
        classes: int >= 2, how many logits.
        **options: of that classifier: for an application, of its function in Keras.

    Returns:
        keras.Model, built and not compiled. If a custom model ends in a softmax, it is removed, so
        that the model returns logits.

    Raises:
        SpecError: the name or an option is not known; the images are too small; or a custom
            function fails or does not return a Keras model with the right output.
    """
    input_shape = tuple(input_shape)
    if len(input_shape) != 3 or not all(isinstance(n, (int, np.integer)) for n in input_shape):
        raise SpecError(f"input_shape={input_shape}: use (height, width, channels) of the images")
    if classes < 2:
        raise SpecError(f"classes={classes}: a classifier needs at least two classes")
    kind, colon, rest = name.partition(":")
    if not colon:
        known = classifier_names()
        if name not in known:
            forms = f"{', '.join(known)}, applications:NAME or MODULE:FUNCTION"
            raise SpecError(f"{name!r} is not a known classifier. {_nearest(name, known, forms)}")
        builder = _builders[name]
    elif kind == "applications":
        builder, options = _application(rest, options)
    else:
        builder = _imported(kind, rest)
    _check_options(name, builder, options)
    try:
        if kind == "applications":
            model = builder(input_shape=input_shape, classes=classes, **options)
        else:
            model = builder(input_shape, classes, **options)
    except Exception as error:
        raise SpecError(f"{name} cannot be built: {_words(error)}") from error
    _check_model(name, model, input_shape, classes)
    return model


@register_classifier("zhao")
def zhao(
    input_shape, classes, filters=(256, 512), kernel_sizes=(6, 3), dense_units=512, dropout=0.0
):
    """The classifier of Zhao (2020): two convolutions and two dense layers.

    From the paper: the first convolution (256 filters of 6x6, 2x2 max-pool, ReLU), 512 filters in
    the second, and two dense layers. Chosen here, since the paper does not say: 3x3 for the second
    kernel, convolutions padded to keep the size, the same pool and ReLU after the second, 512 units
    in the first dense layer, no dropout, no normalisation, and Keras' default initializers (Glorot
    uniform, biases 0). `filters=(64, 128)` makes it about nine times cheaper.
    """
    import keras

    layers = [keras.Input(input_shape)]
    for index, (count, size) in enumerate(zip(filters, kernel_sizes, strict=True), 1):
        layers += [
            keras.layers.Conv2D(count, size, padding="same", name=f"conv{index}"),
            keras.layers.MaxPooling2D(2, padding="same", name=f"pool{index}"),
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

    plan = [(1, 5, True), (3, 5, True), (6, 3, False), (4, 3, False), (4, 3, True)]
    layers = [keras.Input(input_shape)]
    for index, (width, size, pooled) in enumerate(plan, 1):
        layers.append(
            keras.layers.Conv2D(
                width * filters,
                size,
                padding="same",
                activation="relu",
                kernel_initializer="he_normal",
                name=f"conv{index}",
            )
        )
        if pooled:
            layers.append(keras.layers.MaxPooling2D(3, 2, padding="same", name=f"pool{index}"))
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
    layers = [keras.Input(input_shape)]
    for block, count in enumerate(VGG_BLOCKS[depth]):
        for index in range(count):
            layers += _normalised(
                filters * min(2**block, 8), 1, f"block{block + 1}_conv{index + 1}"
            )
            layers.append(keras.layers.ReLU(name=f"block{block + 1}_relu{index + 1}"))
        layers.append(keras.layers.MaxPooling2D(2, padding="same", name=f"block{block + 1}_pool"))
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
    image = keras.Input(input_shape)

    def normalised(maps, count, strides, name, size=3):
        for layer in _normalised(count, strides, name, size):
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


def _normalised(filters, strides, name, size=3):
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


def _application(name, options):
    """A function of `keras.applications`, and the options under which it takes [0, 1]."""
    import keras

    known = [
        each
        for each in dir(keras.applications)
        if each[0].isupper() and callable(getattr(keras.applications, each))
    ]
    if name not in known:
        raise SpecError(f"{name!r} is not in keras.applications. {_nearest(name, known)}")
    if options.get("weights") is not None:
        raise SpecError(
            f"applications:{name}: weights={options['weights']!r}: a classifier starts with fresh "
            "weights. For trained ones, write a function and name it MODULE:FUNCTION"
        )
    function = getattr(keras.applications, name)
    parameters = inspect.signature(function).parameters
    ours = {"weights": None, "classifier_activation": None, "include_preprocessing": False}
    options = {key: value for key, value in ours.items() if key in parameters} | options
    if name.startswith("EfficientNetB"):  # divides by 255 whatever is asked
        return _before(function, lambda: keras.layers.Rescaling(255.0)), options
    return function, options


def _before(function, layer):
    """The application with a layer between the images and itself."""
    import keras

    @functools.wraps(function)
    def build(input_shape, **options):
        image = keras.Input(input_shape)
        model = function(input_tensor=layer()(image), **options)
        return keras.Model(image, model.output, name=model.name)

    return build


def _imported(module_name, function_name):
    place = os.getcwd()  # where a console script does not look by itself
    if place not in sys.path:
        sys.path.append(place)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise SpecError(
                f"{module_name}:{function_name}: module {error.name!r} not found, neither "
                f"installed nor in {place}. Start kclr in its directory, or set PYTHONPATH"
            ) from None
        raise SpecError(f"the module {module_name} cannot be imported: {error}") from error
    except Exception as error:
        raise SpecError(f"the module {module_name} cannot be imported: {_words(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise SpecError(
            f"{module_name} has no function {function_name!r}. {_nearest(function_name, known)}"
        )
    return function


def _check_options(name, builder, options):
    parameters = inspect.signature(builder).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return
    if name.startswith("applications:"):
        known = [each for each in parameters if each not in ("input_shape", "classes")]
    else:
        known = list(parameters)[2:]
    for option in options:
        if option not in known:
            raise SpecError(f"{name} has no option {option!r}. {_nearest(option, known)}")


def _check_model(name, model, input_shape, classes):
    import keras

    if not isinstance(model, keras.Model):
        raise SpecError(
            f"{name} returned {type(model).__name__}, not a Keras model. Return a keras.Model"
        )
    images = np.random.default_rng(0).random((2, *input_shape), np.float32)
    for _ in range(2):
        try:
            outputs = model(images, training=False)
        except Exception as error:
            raise SpecError(
                f"{name} does not take images of shape {input_shape}: {_words(error)}"
            ) from error
        shape = getattr(outputs, "shape", None)
        if shape is None or tuple(shape) != (2, classes):
            own = f"of shape {(None, *shape[1:])}" if shape is not None else "more than one"
            raise SpecError(f"{name} has outputs {own}; {(None, classes)} is needed")
        outputs = keras.ops.convert_to_numpy(outputs).astype(np.float64)
        if outputs.min() < 0 or not np.allclose(outputs.sum(axis=1), 1, atol=1e-2):
            return
        _take_softmax_off(model)
    raise SpecError(f"{name} returns probabilities. Remove the softmax: logits are needed")


def _take_softmax_off(model):
    import keras

    try:
        last = model.outputs[0]._keras_history.operation
    except (AttributeError, TypeError, IndexError):
        return
    if getattr(last, "activation", None) is keras.activations.softmax:
        last.activation = keras.activations.linear


def _nearest(name, known, choices=None):
    lower = {each.lower(): each for each in known}
    near = get_close_matches(name.lower(), lower, 1)
    if near:
        return f"Did you mean {lower[near[0]]!r}?"
    return f"Choose from {choices or ', '.join(known)}" if known else "It takes none"


def _words(error):
    return " ".join(str(error).split()) or type(error).__name__
