"""The lists of names against the installed Keras."""

import inspect

import keras
import pytest

from kclr.errors import SpecError
from kclr.spec import keras_parts, parse_spec

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
    "CenterCrop", "ContrastLimitedAdaptiveHistogramEqualization", "CutMix", "Equalization",
    "MaxNumBoundingBoxes", "MixUp", "RandomCrop", "Resizing",
}  # fmt: skip
ABSTRACT = {
    "LearningRateSchedule", "LossScaleOptimizer", "MultiOptimizer", "Optimizer", "OptimizerMap",
}  # fmt: skip


@pytest.mark.parametrize("kind", LISTS)
def test_every_name_is_known_to_keras(kind):
    absent = [name for name in getattr(keras_parts, kind) if not hasattr(LISTS[kind], name)]
    assert not absent or VERSION < NEWEST_TESTED, absent


@pytest.mark.parametrize("kind", ["OPTIMIZERS", "SCHEDULES"])
def test_no_class_of_keras_is_missing(kind):
    classes = {name for name, value in vars(LISTS[kind]).items() if inspect.isclass(value)}
    assert classes - ABSTRACT - set(getattr(keras_parts, kind)) == set()


def test_no_activation_that_keeps_the_shape_is_missing():
    functions = {
        name for name, value in vars(keras.activations).items()
        if inspect.isfunction(value) and name not in ("get", "serialize", "deserialize")
    }  # fmt: skip
    assert functions - set(keras_parts.ACTIVATIONS) == {"glu", "threshold"} & functions
    numbers = keras.ops.convert_to_tensor([[-1.0, 0.5, 2.0]])
    for name in functions & set(keras_parts.ACTIVATIONS):
        assert keras.activations.get(name)(numbers).shape == (1, 3)


def test_no_augmentation_that_keeps_an_images_size_is_missing():
    base = inspect.getmro(keras.layers.RandomFlip)[1]
    layers = {
        name for name, value in vars(keras.layers).items()
        if inspect.isclass(value) and issubclass(value, base)
    }  # fmt: skip
    assert layers - LEFT_OUT - set(keras_parts.AUGMENTATIONS) == set()


def test_a_keras_newer_than_the_table_may_take_more(monkeypatch):
    text = "stack: [{train: {optimizer: {class_name: Adam, config: {learning_rat: 1}}}}]"
    with pytest.raises(SpecError, match="unknown argument"):
        parse_spec(text)
    monkeypatch.setattr(keras_parts, "_newer_keras", lambda: True)
    assert parse_spec(text)


def test_a_registered_class_and_lower_case_are_taken():
    optimizer = parse_spec("stack: [{train: {optimizer: 'mine>Best'}}]").stack[0].train.optimizer
    assert optimizer.class_name == "mine>Best"
    assert parse_spec("stack: [{train: {optimizer: rmsprop}}]").stack[
        0
    ].train.optimizer.class_name == ("RMSprop")
