"""The lists of names, and the arguments read from Keras' source, against the installed Keras."""

import inspect
import sys

import keras
import pytest

from kclr.spec import keras_names, keras_signatures, parse_spec

LISTS = {
    "OPTIMIZERS": keras.optimizers,
    "SCHEDULES": keras.optimizers.schedules,
    "ACTIVATIONS": keras.activations,
    "AUGMENTATIONS": keras.layers,
}
# Older releases of Keras lack some; the newest must have all.
NEWEST_TESTED = (3, 15)
VERSION = tuple(map(int, keras.__version__.split(".")[:2]))

# Image layers that change an image's size, mix images, need more than images, or do nothing at
# random; and those that drop numbers rather than change pictures.
LEFT_OUT = {
    "CenterCrop", "ContrastLimitedAdaptiveHistogramEqualization", "CutMix", "MaxNumBoundingBoxes",
    "MixUp", "RandomCrop", "Resizing",
}  # fmt: skip
ABSTRACT = {
    "LearningRateSchedule", "LossScaleOptimizer", "MultiOptimizer", "Optimizer", "OptimizerMap",
}  # fmt: skip
PACKAGES = {
    "OPTIMIZERS": "keras.optimizers",
    "SCHEDULES": "keras.optimizers.schedules",
    "AUGMENTATIONS": "keras.layers",
}
CLASSES = [(kind, name) for kind in PACKAGES for name in getattr(keras_names, kind)]


@pytest.mark.parametrize("kind", LISTS)
def test_every_name_is_known_to_keras(kind):
    absent = [name for name in getattr(keras_names, kind) if not hasattr(LISTS[kind], name)]
    assert not absent or VERSION < NEWEST_TESTED, absent


@pytest.mark.parametrize("kind", ["OPTIMIZERS", "SCHEDULES"])
def test_no_class_of_keras_is_missing(kind):
    classes = {name for name, value in vars(LISTS[kind]).items() if inspect.isclass(value)}
    assert classes - ABSTRACT - set(getattr(keras_names, kind)) == set()


def test_no_activation_that_keeps_the_shape_is_missing():
    functions = {
        name for name, value in vars(keras.activations).items()
        if inspect.isfunction(value) and name not in ("get", "serialize", "deserialize")
    }  # fmt: skip
    assert functions - set(keras_names.ACTIVATIONS) == {"glu", "threshold"} & functions
    numbers = keras.ops.convert_to_tensor([[-1.0, 0.5, 2.0]])
    for name in functions & set(keras_names.ACTIVATIONS):
        assert keras.activations.get(name)(numbers).shape == (1, 3)


def test_no_augmentation_that_keeps_an_images_size_is_missing():
    base = inspect.getmro(keras.layers.RandomFlip)[1]
    layers = {
        name for name, value in vars(keras.layers).items()
        if inspect.isclass(value) and issubclass(value, base)
    }  # fmt: skip
    assert layers - LEFT_OUT - set(keras_names.AUGMENTATIONS) == set()


def accepted(class_, name):
    """Whether a class's constructor takes an argument, by asking Keras."""
    try:
        class_(**{name: None})
    except TypeError as error:
        return "unexpected keyword" not in str(error)
    except Exception:
        return True
    return True


@pytest.mark.parametrize(("kind", "name"), CLASSES, ids=lambda value: value)
def test_arguments_are_those_of_keras_own_constructors(kind, name):
    class_ = getattr(LISTS[kind], name, None)
    if class_ is None:
        pytest.skip(f"Keras {keras.__version__} has no {name}")
    found = keras_signatures.arguments(PACKAGES[kind], name)
    signature = inspect.signature(class_.__init__).parameters.values()
    own = {p.name: p.default is p.empty for p in signature if p.kind is p.POSITIONAL_OR_KEYWORD}
    del own["self"]
    assert own.items() <= found.items()
    # What `**kwargs` hands on to the bases.
    bases = {
        parameter
        for base in inspect.getmro(class_)
        for parameter in inspect.signature(base.__init__).parameters
    }
    assert set(found) <= bases | {"input_shape", "input_dim", "decay"}
    if any(p.kind is p.VAR_KEYWORD for p in signature):
        assert "name" in found
    if kind == "AUGMENTATIONS":
        assert {"dtype", "trainable"} <= set(found) or "kwargs" not in {p.name for p in signature}


def test_a_keras_that_is_not_there_or_is_laid_out_otherwise_stops_nothing(tmp_path, monkeypatch):
    keras_signatures.arguments.cache_clear()
    monkeypatch.setattr(keras_signatures.importlib.util, "find_spec", lambda name: None)
    text = "stack: [{train: {optimizer: {class_name: Adam, config: {learning_rat: 1}}}}]"
    assert parse_spec(text)
    keras_signatures.arguments.cache_clear()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "__init__.py").write_text("from elsewhere import *")
    sys.path.insert(0, str(tmp_path))
    try:
        monkeypatch.undo()
        found = keras_signatures.importlib.util.find_spec("odd")
        monkeypatch.setattr(keras_signatures.importlib.util, "find_spec", lambda name: found)
        assert parse_spec(text)
    finally:
        sys.path.remove(str(tmp_path))
        keras_signatures.arguments.cache_clear()


def test_a_registered_class_and_lower_case_are_taken():
    optimizer = parse_spec("stack: [{train: {optimizer: 'mine>Best'}}]").stack[0].train.optimizer
    assert optimizer.class_name == "mine>Best"
    assert parse_spec("stack: [{train: {optimizer: rmsprop}}]").stack[
        0
    ].train.optimizer.class_name == ("RMSprop")
