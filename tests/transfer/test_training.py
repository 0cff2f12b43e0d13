import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from kclr.data.labels import load_labelled
from kclr.errors import RunError, SpecError
from kclr.keras_backend import dtype_policy
from kclr.scaling import Scaling
from kclr.spec.transfer import Classifier, parse_transfer
from kclr.transfer.training import (
    check_training,
    fit,
    new_classifier,
    steps_per_epoch,
    training_batches,
)

DIGITS = load_labelled("digits", "train")
IMAGES, LABELS = DIGITS.images[:40], DIGITS.labels[:40]
CROPS = """
augment:
  - {class_name: ZeroPadding2D, config: {padding: 4}}
  - {class_name: RandomCrop, config: {height: 32, width: 32}}
"""
SHIFTS = """
augment:
  - class_name: RandomTranslation
    config: {height_factor: 0.125, width_factor: 0.125, fill_mode: constant, interpolation: nearest}
"""


def section(text=""):
    lines = "".join(f"  {line}\n" for line in text.strip().splitlines())
    return parse_transfer("data: digits\n" + (f"train:\n{lines}" if lines else "")).train


def batches(train, count, seed=0):
    return [
        (images.numpy(), labels.numpy())
        for images, labels in training_batches(IMAGES, LABELS, train, seed).take(count)
    ]


@pytest.mark.parametrize(
    ("images", "steps"),
    [
        (50_000, 391),  # all labels: as many passes as epochs
        (5_000, 40),  # 4,000 steps in 100 epochs are more than min_steps
        (500, 10),  # 4 steps a pass would be 400 in all
    ],
)
def test_few_labels_are_passed_over_more_often(images, steps):
    assert steps_per_epoch(images, section(), 50_000) == steps


def test_few_labels_get_no_more_steps_than_all():
    train = section("epochs: 2\nbatch_size: 32")
    assert steps_per_epoch(30, train, 300) == steps_per_epoch(300, train, 300) == 10
    assert steps_per_epoch(30, section("epochs: 2\nmin_steps: 0\nbatch_size: 32"), 300) == 1


@pytest.mark.parametrize("augment", ["", CROPS, SHIFTS])
def test_the_same_seed_gives_the_same_batches(augment):
    train = section(f"batch_size: 16\n{augment}")
    first, again, other = batches(train, 4), batches(train, 4), batches(train, 4, seed=1)
    for (left, left_labels), (right, right_labels) in zip(first, again, strict=True):
        np.testing.assert_array_equal(left, right)
        np.testing.assert_array_equal(left_labels, right_labels)
    assert any((left[0] != right[0]).any() for left, right in zip(first, other, strict=True))


def test_every_pass_sees_every_image_once_in_a_new_order():
    seen = np.concatenate([images for images, _ in batches(section("batch_size: 20"), 4)])
    passes = seen[:40], seen[40:]
    for found in passes:
        expected = IMAGES.astype(np.float32) / 255
        np.testing.assert_array_equal(
            np.sort(found.reshape(40, -1), axis=0), np.sort(expected.reshape(40, -1), axis=0)
        )
    assert (passes[0] != passes[1]).any()


@pytest.mark.parametrize("augment", [CROPS, SHIFTS])
def test_every_image_is_shifted_by_its_own_few_pixels(augment):
    padded = np.pad(IMAGES, [(0, 0), (4, 4), (4, 4), (0, 0)])
    shifts = {}
    for y in range(9):
        for x in range(9):
            for shifted in padded[:, y : y + 32, x : x + 32]:
                shifts.setdefault(shifted.tobytes(), set()).add((y, x))
    ((images, _),) = batches(section(f"batch_size: 40\n{augment}"), 1)
    found = [shifts.get(np.rint(image * 255).astype(np.uint8).tobytes()) for image in images]
    assert all(found)
    assert not set.intersection(*found)


def test_an_augmentation_that_changes_the_size_is_refused():
    train = section("augment: [{class_name: ZeroPadding2D, config: {padding: 4}}]")
    with pytest.raises(SpecError, match="32x32x1 become 40x40x1"):
        check_training(train, (32, 32, 1))
    check_training(section(CROPS), (32, 32, 1))


def test_an_augmentation_that_the_images_do_not_take_is_refused():
    hue = section("augment: [RandomFlip, {class_name: RandomHue, config: {factor: 0.2}}]")
    with pytest.raises(SpecError, match=r"^train\.augment\.1: .*the data are series"):
        check_training(hue, (1, 100, 3))
    contrast = section("augment: [{class_name: RandomContrast, config: {factor: 0.2}}]")
    check_training(contrast, (32, 32, 6), Scaling("uint16", (0,), (65535,)))
    with pytest.raises(SpecError, match="scaled otherwise"):
        check_training(contrast, (32, 32, 6), Scaling("float32", (1,), (3,)))


def test_what_keras_refuses_is_said_with_its_place():
    train = section("augment: ['nobody>Shift']")
    with pytest.raises(SpecError, match=r"^train\.augment\.0: Keras rejects .*nobody>Shift"):
        check_training(train, (32, 32, 1))


def test_a_loss_that_is_no_number_ends_the_training_with_a_cure():
    train = section("epochs: 2\noptimizer: {class_name: SGD, config: {learning_rate: 0.1}}")
    train.optimizer.config["learning_rate"] = 1e38  # which a spec would not be taken with
    model = new_classifier(Classifier(filters=[2, 2], dense_units=4), (32, 32, 1), 10, 0)
    with pytest.raises(RunError, match="smaller learning rate"):
        fit(model, (IMAGES, LABELS), (IMAGES, LABELS), train, 3, 0)


def test_history_tells_the_accuracy_of_the_test_images_as_keras_counts_it():
    train = section("epochs: 2\nbatch_size: 20")
    model = new_classifier(Classifier(filters=[4, 4], dense_units=8), (32, 32, 1), 10, 0)
    test = DIGITS.images[40:100], DIGITS.labels[40:100]
    told = []
    rows = fit(model, (IMAGES, LABELS), test, train, 2, 0, told.append)
    assert rows == told
    assert [row["epoch"] for row in rows] == [1, 2]
    guesses = model.predict(test[0].astype(np.float32) / 255, verbose=0).argmax(axis=1)
    assert rows[-1]["test_accuracy"] == pytest.approx(np.mean(guesses == test[1]))


def test_precision_is_that_of_the_spec_and_only_while_it_lasts():
    with dtype_policy(section("precision: mixed_bfloat16").precision):
        model = new_classifier(Classifier(filters=[4, 4], dense_units=8), (32, 32, 1), 10, 0)
    assert model.get_layer("conv1").compute_dtype == "bfloat16"
    assert model.get_layer("conv1").kernel.dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"
    rows = fit(model, (IMAGES, LABELS), (IMAGES, LABELS), section("epochs: 1"), 2, 0)
    assert np.isfinite(rows[0]["loss"])


def test_weights_depend_on_the_seed_alone():
    keras.utils.set_random_seed(3)
    first = new_classifier(Classifier(filters=[4, 4]), (32, 32, 1), 10, 0).get_weights()
    tf.random.normal([3])
    again = new_classifier(Classifier(filters=[4, 4]), (32, 32, 1), 10, 0).get_weights()
    other = new_classifier(Classifier(filters=[4, 4]), (32, 32, 1), 10, 1).get_weights()
    assert all((left == right).all() for left, right in zip(first, again, strict=True))
    assert (first[0] != other[0]).any()


def test_ctrl_c_waits_for_the_end_of_a_classifiers_step(monkeypatch):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    model = keras.Sequential([keras.Input(IMAGES.shape[1:]), keras.layers.Flatten()])
    model.add(keras.layers.Dense(10))
    done = []

    def train_step(data):
        if len(done) == 1:
            signal.raise_signal(signal.SIGINT)
        done.append(int(model.optimizer.iterations))
        return keras.Model.train_step(model, data)

    monkeypatch.setattr(model, "train_step", train_step)
    compiled = model.compile
    monkeypatch.setattr(model, "compile", lambda *a, **k: compiled(*a, **k, run_eagerly=True))
    data = IMAGES, LABELS
    with pytest.raises(KeyboardInterrupt):
        fit(model, data, data, section("epochs: 2\nbatch_size: 8"), 5, seed=0)
    assert done == [0, 1]
    assert int(model.optimizer.iterations) == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
