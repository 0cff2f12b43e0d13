"""Classifiers by name: the paper's own, three common ones for small images, and custom ones.

Every classifier takes float images in [0, 1], shaped (batch, height, width, channels), or series as
images of height 1, scaled as those that its filters were learned from. It returns logits, float
(batch, classes), for a loss with `from_logits=True`. Augmentation and other preprocessing come
before it. To add one, decorate a function that builds it, in a new file here:

    @register_classifier("two-layers")
    def two_layers(input_shape, classes, filters=64): ...

or in your own module, which you name under the entry point group `kclr.plugins`; or do not register
it, and name it `module:two_layers`.
"""

import functools
import importlib
import inspect
import os
import sys
from difflib import get_close_matches

import numpy as np

from kclr.errors import SpecError
from kclr.spec.registry import parts, register


def register_classifier(name):
    """Register a function that builds a classifier as `name`.

    The function takes `input_shape`, three ints, and `classes`, an int; its other parameters have
    defaults and are the classifier's options. It returns a Keras model as described above.

    Raises:
        ValueError: the name is taken by another function, or contains a colon.
    """
    if ":" in name:
        raise ValueError(f"{name!r} contains a colon, which separates a module and a function")
    return register("classifier", name)


def classifier_names() -> list[str]:
    """Names of all registered classifiers, those of plug-ins included. Needs no TensorFlow."""
    return sorted(parts("classifier"))


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
        builder = parts("classifier")[name]
    elif kind == "applications":
        if input_shape[0] == 1:
            raise SpecError(_for_images(name))
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


def of_images_alone(name) -> str | None:
    """Why a classifier does not take series, or None. Needs no TensorFlow."""
    return _for_images(name) if name.startswith("applications:") else None


def _for_images(name):
    return (
        f"{name} is for images, not for series. Use {', '.join(classifier_names())}, or "
        "MODULE:FUNCTION, which takes series as images of height 1."
    )


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
