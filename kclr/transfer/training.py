"""One classifier, trained and tested: Keras' own compile and fit on images in memory."""

import math
import time

import keras
import numpy as np
import tensorflow as tf

from kclr.errors import RunError, SpecError
from kclr.scaling import EIGHT_BITS
from kclr.spec.checks import augmentation_findings
from kclr.spec.transfer import TransferTrain
from kclr.training.checkpoints import Interruptible
from kclr.training.keras_objects import keras_augmentation, keras_optimizer
from kclr.transfer.classifiers import build_classifier

_TEST_BATCH = 500
_PLACE = "train", "augment"  # in a spec
# What is random in a repeat, each with a stream of its own, so that arms differ in nothing else.
_ORDER, _AUGMENTATION, _WEIGHTS, _ARM = range(4)


def stream(seed, number) -> int:
    """A seed of its own for one of the things that are random in a repeat."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)


def arm_seed(seed) -> int:
    """The seed of what an arm draws itself."""
    return stream(seed, _ARM)


def steps_per_epoch(images, train: TransferTrain, all_images) -> int:
    """Batches in an epoch.

    With few labels an epoch passes over them several times: as often as it takes to make
    `min_steps` in all epochs together, but no more steps than with all labels.

    Args:
        images: labelled images in use.
        train: from the spec.
        all_images: those that there are with all labels.
    """
    own = math.ceil(images / train.batch_size)
    most = math.ceil(all_images / train.batch_size)
    return max(own, min(most, math.ceil(train.min_steps / train.epochs)))


def new_classifier(classifier, shape, classes, seed):
    """A freshly built classifier; the same seed gives the same weights."""
    keras.utils.set_random_seed(stream(seed, _WEIGHTS))
    return build_classifier(classifier.name, shape, classes, **classifier.options)


def check_training(train: TransferTrain, shape, scaling=EIGHT_BITS):
    """Make the optimizer and the augmentation once, and try the latter.

    Args:
        train: from the spec.
        shape: (height, width, channels) of the images; series have the height 1.
        scaling: of the images' numbers.

    Raises:
        SpecError: Keras refuses one of them, or the augmentation changes the images' size.
    """
    keras_optimizer(train.optimizer, 1000)
    augment = augmentation(train)
    if augment is None:
        return
    how = {"series": shape[0] == 1, "unit": scaling.unit}
    for finding in augmentation_findings(train.augment, shape[2], *_PLACE, **how):
        raise SpecError.at(finding.path, finding.message)
    try:
        changed = tuple(augment(tf.zeros((1, *shape)), training=True).shape[1:])
    except Exception as error:
        raise SpecError.at(_PLACE, f"Keras cannot apply it: {error}") from error
    if changed != tuple(shape):
        before, after = ("x".join(map(str, each)) for each in (shape, changed))
        words = f"images of {before} become {after}. Use layers that together keep the size"
        raise SpecError.at(_PLACE, words)


def augmentation(train: TransferTrain):
    """The augmentations of a spec as one Keras layer, or None where there are none."""
    try:
        return keras_augmentation(train.augment, _PLACE)
    except SpecError:
        raise
    except Exception as error:
        raise SpecError.at(_PLACE, f"Keras rejects it: {error}") from error


def training_batches(images, labels, train: TransferTrain, seed, scaling=EIGHT_BITS):
    """Endless batches of training images, in a new order for every pass, augmented.

    Args:
        images: (images, height, width, channels), raw numbers.
        labels: int (images,).
        train: from the spec.
        seed: of the repeat.
        scaling: of the images' numbers.

    Returns:
        tf.data.Dataset of float32 (batch, height, width, channels), scaled, and int (batch,).
    """
    keras.utils.set_random_seed(stream(seed, _AUGMENTATION))
    augment = augmentation(train)
    images, labels = tf.constant(images), tf.constant(labels)
    rows = tf.data.Dataset.range(len(images))
    rows = rows.shuffle(len(images), seed=stream(seed, _ORDER)).repeat()
    one_by_one = any(layer.class_name == "RandomCrop" for layer in train.augment)

    def gathered(rows):
        return scaling(tf.gather(images, rows)), tf.gather(labels, rows)

    def augmented(batch, labels):
        changed = augment(batch, training=True)
        return tf.ensure_shape(changed, (None, *images.shape[1:])), labels

    dataset = rows.batch(1 if augment and one_by_one else train.batch_size, drop_remainder=True)
    dataset = dataset.map(gathered)
    if augment:
        # Random layers keep their state in variables; in parallel the order would be up to chance.
        dataset = dataset.map(augmented)
    if augment and one_by_one:
        dataset = dataset.unbatch().batch(train.batch_size, drop_remainder=True)
    return dataset.prefetch(2)


def judging_batches(images, labels, scaling=EIGHT_BITS):
    """Batches of test images in their order, as `training_batches` gives them."""
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(_TEST_BATCH)
    return dataset.map(lambda images, labels: (scaling(images), labels)).prefetch(2)


def fit(
    model, training, test, train: TransferTrain, steps, seed, told=None, scaling=EIGHT_BITS
) -> list[dict]:
    """Train a classifier and test it after every epoch.

    Args:
        model: keras.Model that returns logits; changed in place.
        training, test: images (raw numbers) and labels, each.
        train: from the spec.
        steps: batches in an epoch.
        seed: of the repeat.
        told: function that receives every row of the history.
        scaling: of the images' numbers.

    Returns:
        For each epoch its number from 1, `loss` and `accuracy` on the augmented training images
        while they were trained on, `test_accuracy`, and `seconds` of training without the test.

    Raises:
        SpecError: Keras refuses the optimizer or an augmentation.
        RunError: the loss is not finite.
    """
    images, labels = training
    batches = training_batches(images, labels, train, seed, scaling)
    keras.utils.set_random_seed(stream(seed, _ORDER))  # of layers that draw while they train
    model.compile(
        keras_optimizer(train.optimizer, steps * train.epochs),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=train.jit,
    )
    # Else Keras does so while it traces the training step, which is then traced a second time.
    model.optimizer.build(model.trainable_variables)
    history = _History(told)
    with history.interruptible():
        model.fit(
            batches,
            epochs=train.epochs,
            steps_per_epoch=steps,
            validation_data=judging_batches(test[0], test[1], scaling),
            callbacks=[history],
            shuffle=False,  # `batches` does so
            verbose=0,
        )
    return history.rows


class _History(Interruptible):
    """Rows of the history; ends a training when the loss is not finite, or Ctrl-C was pressed."""

    def __init__(self, told):
        super().__init__()
        self.rows: list[dict] = []
        self._told = told

    def on_train_batch_end(self, batch, logs=None):
        self.interrupt_if_pressed()

    def on_test_batch_end(self, batch, logs=None):
        self.interrupt_if_pressed()

    def on_epoch_begin(self, epoch, logs=None):
        self._since = time.perf_counter()

    def on_test_begin(self, logs=None):
        self._seconds = time.perf_counter() - self._since

    def on_epoch_end(self, epoch, logs=None):
        row = {
            "epoch": epoch + 1,
            "loss": float(logs["loss"]),
            "accuracy": float(logs["accuracy"]),
            "test_accuracy": float(logs["val_accuracy"]),
            "seconds": round(self._seconds, 3),
        }
        if not math.isfinite(row["loss"]):
            raise RunError(
                f"the loss is {row['loss']} in epoch {epoch + 1}. Use a smaller learning rate."
            )
        self.rows.append(row)
        if self._told:
            self._told(row)
