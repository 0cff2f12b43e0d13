"""The probe as a callback: the figures of scikit-learn, and a training that it leaves alone."""

import random
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import kclr
from kclr.callbacks import Probe, StepHistory
from kclr.data.labels import Labelled, load_labelled
from kclr.errors import SpecError
from kclr.layers import ContrastiveConvBlock, SharedPatches, stacked
from kclr.pooling import Pooling
from kclr.probing.features import features
from kclr.probing.protocol import probe, validation_rows

pytestmark = pytest.mark.usefixtures("without_pictures")

DIGITS = load_digits()
IMAGES = (DIGITS.images[..., None] * (255 / 16)).astype(np.uint8)  # (1797, 8, 8, 1)
LABELS = DIGITS.target


def classifier(seed=0, eager=True):
    """Convolution, batch normalisation and dropout: all that differs in training.

    Eager where steps are few: tracing takes longer than they do.
    """
    keras.utils.set_random_seed(seed)
    made = keras.Sequential(
        [
            keras.Input((None, None, 1)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.RandomTranslation(0.1, 0.1),
            keras.layers.Dropout(0.3),
            keras.layers.GlobalMaxPooling2D(),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile("adam", loss, run_eagerly=eager)
    return made


def fit(model, *callbacks, steps=8, epochs=1, **options):
    data = tf.data.Dataset.from_tensor_slices((IMAGES / 255, LABELS)).batch(64).repeat()
    return model.fit(
        data, steps_per_epoch=steps, epochs=epochs, callbacks=list(callbacks), verbose=0, **options
    )


def constant():
    """Vectors of the pixels: what is judged does not change with training."""
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])


def test_it_runs_every_so_many_steps_and_after_the_last_one():
    told = []
    probe = Probe((IMAGES, LABELS), every=3, limit=300, on_result=told.append)
    fit(classifier(), probe, steps=4, epochs=2)
    assert [result["step"] for result in probe.results] == [3, 6, 8]
    assert told == probe.results
    assert all(0 <= result["accuracy"] <= 1 < 1 + result["seconds"] for result in told)
    assert 0 < probe.seconds <= sum(result["seconds"] for result in told) + 0.01


def test_several_steps_at_once_are_counted():
    model = classifier()
    model.compile("adam", model.loss, steps_per_execution=4)
    probe = Probe((IMAGES, LABELS), every=3, limit=100)
    fit(model, probe, steps=8)
    assert [result["step"] for result in probe.results] == [4, 8]


def test_without_a_number_of_steps_it_runs_once_an_epoch_and_the_history_has_it():
    probe = Probe((IMAGES, LABELS), limit=300)
    history = fit(classifier(), probe, steps=2, epochs=3).history
    assert history["probe_accuracy"] == [result["accuracy"] for result in probe.results]
    assert [result["step"] for result in probe.results] == [2, 4, 6]


def test_a_training_of_unknown_length_or_that_was_ended_is_probed_at_its_end():
    once = tf.data.Dataset.from_generator(
        lambda: ((IMAGES[i : i + 64] / 255, LABELS[i : i + 64]) for i in range(0, 320, 64)),
        output_signature=(tf.TensorSpec((64, 8, 8, 1)), tf.TensorSpec((64,), tf.int64)),
    )
    probe = Probe((IMAGES, LABELS), every=3, limit=100)
    classifier().fit(once, callbacks=[probe], verbose=0)
    assert [result["step"] for result in probe.results] == [3, 5]


def test_callbacks_after_it_see_it_at_the_steps_it_ran():
    rows = []
    probe = Probe((IMAGES, LABELS), every=4, limit=100)
    fit(classifier(), probe, StepHistory(2, 8, rows.append))
    assert [row.get("probe_accuracy") for row in rows] == [
        None, probe.results[0]["accuracy"], None, probe.results[1]["accuracy"],
    ]  # fmt: skip
    assert rows[1]["probe_seconds"] == probe.results[0]["seconds"]


def test_keras_own_callbacks_can_follow_it():
    probe = Probe((IMAGES, LABELS), limit=300, encoder=constant())
    stop = keras.callbacks.EarlyStopping("probe_accuracy", mode="max", patience=2)
    history = fit(classifier(), probe, stop, steps=1, epochs=9).history
    assert len(history["loss"]) == 3  # the pixels do not change


def test_the_training_ends_with_the_same_weights_bit_for_bit():
    without = classifier(eager=False)
    fit(without)
    expected = random.random(), np.random.random(), float(tf.random.uniform(()))
    before = classifier(eager=False)  # which sets the seeds anew
    fit(before, Probe("digits", every=1, limit=200, labels=0.5, classifier="logistic"))
    assert (random.random(), np.random.random(), float(tf.random.uniform(()))) == expected
    with_it = classifier(eager=False)
    fit(with_it, Probe((IMAGES, LABELS), every=1, limit=200, classifier="knn"))
    for one, other, third in zip(
        without.variables, with_it.variables, before.variables, strict=True
    ):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, third)


def test_the_figure_is_that_of_scikit_learn_on_the_divided_training_images():
    """The strengths agree to a neighbour's worth: any of scikit-learn's own may be the chosen."""
    from kclr.probing.readouts.ridge import STRENGTHS

    probe = Probe((IMAGES / 255, LABELS), encoder=constant())
    probe.set_model(classifier())
    accuracy = probe.measure()["accuracy"]
    judging = validation_rows(LABELS, 0)
    pixels = IMAGES.reshape(len(IMAGES), -1) / 255
    scores = [
        make_pipeline(StandardScaler(), RidgeClassifier(alpha=alpha))
        .fit(pixels[~judging], LABELS[~judging])
        .score(pixels[judging], LABELS[judging])
        for alpha in STRENGTHS
    ]
    assert min(scores) <= accuracy <= max(scores)
    assert np.abs(np.array(scores) - accuracy).min() < 2 / judging.sum()
    assert accuracy > 0.9


def test_a_pipeline_of_scikit_learn_judges_as_it_does_alone():
    pipeline = make_pipeline(StandardScaler(), RidgeClassifier(alpha=10))
    probe = Probe((IMAGES, LABELS), classifier=pipeline, encoder=constant())
    probe.set_model(classifier())
    accuracy = probe.measure()["accuracy"]
    judging = validation_rows(LABELS, 0)
    pixels = IMAGES.reshape(len(IMAGES), -1) / 255
    pipeline.fit(pixels[~judging], LABELS[~judging])
    assert accuracy == pytest.approx(pipeline.score(pixels[judging], LABELS[judging]), abs=0.005)


def test_it_agrees_with_the_probe_of_the_layers_themselves():
    block = ContrastiveConvBlock(6, 3)
    model = kclr.TripletModel(block)
    model.build((None, 6, 6, 1))
    found = Probe((IMAGES, LABELS), labels=0.5, grid=3)
    found.set_model(model)
    judging = validation_rows(LABELS, 0)
    kernel, bias = (np.asarray(part) for part in block.folded())
    layer = SimpleNamespace(
        name="conv1", block={"filters": 6, "kernel_size": 3}, kernel=kernel, bias=bias
    )
    made = features(stacked([layer], 1), IMAGES, Pooling(grid=3))
    expected, _, _ = probe(
        made[~judging], LABELS[~judging], made[judging], LABELS[judging], labels=0.5
    )
    assert found.measure()["accuracy"] == pytest.approx(expected, abs=0.02)


def test_only_training_images_are_looked_at(monkeypatch):
    splits = []

    def load(name, split, *arguments, **options):
        splits.append(split)
        return load_labelled(name, split, *arguments, **options)

    monkeypatch.setattr("kclr.probing.callback.load_labelled", load)
    fit(classifier(), Probe("digits", every=4, limit=200))
    assert splits == ["train"]


def test_what_judges_is_a_fifth_of_every_class_and_never_fits():
    judging = validation_rows(LABELS, seed=3)
    for label in range(10):
        assert judging[label == LABELS].mean() == pytest.approx(0.2, abs=0.01)
    np.testing.assert_array_equal(judging, validation_rows(LABELS, seed=3))
    assert (judging != validation_rows(LABELS, seed=4)).any()
    probe = Probe((IMAGES, LABELS), labels=20, classifier="knn", encoder=constant())
    probe.set_model(classifier())
    images, judged = probe._read()
    assert (~judged).sum() == 200
    assert judged.sum() == validation_rows(LABELS, 0).sum()
    assert np.bincount(images.labels[~judged]).tolist() == [20] * 10


def test_the_model_is_called_in_evaluation_mode():
    seen = []

    class Watched(keras.layers.Layer):
        def call(self, inputs, training=None):
            seen.append(training)
            return keras.ops.reshape(inputs, (-1, 64))

    probe = Probe((IMAGES, LABELS), limit=100)
    probe.set_model(Watched())
    probe.measure()
    assert seen == [False]


def test_the_encoder_of_a_triplet_model_is_judged_without_its_head():
    block = ContrastiveConvBlock(4, 3, whitening="zca")
    model = kclr.TripletModel(SharedPatches(block, 6, 1), head=keras.layers.Dense(2))
    model.build((None, 7, 7, 1))
    probe = Probe("digits", limit=300)  # told by the block that images are gray
    probe.set_model(model)
    assert probe.measure()["accuracy"] > 0.3
    assert probe._features.model is block
    assert probe.data.images.shape == (300, 32, 32, 1)


def test_images_have_the_channels_of_a_model_that_only_training_builds():
    patches = np.random.default_rng(0).random((64, 4, 7, 7, 3), np.float32)
    model = kclr.TripletModel(ContrastiveConvBlock(4, 6))
    model.compile("adam")
    probe = Probe("digits", every=2, limit=100)
    model.fit(patches, np.arange(64), batch_size=16, verbose=0, callbacks=[probe])
    assert probe.data.images.shape == (100, 32, 32, 3)
    assert [result["step"] for result in probe.results] == [2, 4]


def test_a_function_gives_the_encoder_as_it_is_at_each_probe():
    layers = [constant(), constant()]
    probe = Probe((IMAGES, LABELS), every=4, limit=100, encoder=lambda: layers[-1])
    fit(classifier(), probe)
    first = probe._features.model
    assert first is layers[1]
    layers.pop()
    assert probe.measure()["accuracy"] == probe.results[0]["accuracy"]
    assert probe._features.model is layers[0]


def test_weights_are_read_as_they_are_at_each_probe():
    model = classifier()
    probe = Probe((IMAGES, LABELS), limit=300)
    probe.set_model(model)
    before = probe.measure()["accuracy"]
    for weight in model.layers[0].weights:
        weight.assign(weight * 0)
    assert probe.measure()["accuracy"] < 0.3 < before


def test_weights_that_left_the_numbers_are_a_low_figure_and_no_crash():
    model = classifier()
    for weight in model.weights:
        weight.assign(weight * np.nan) if weight.dtype == "float32" else None
    probe = Probe((IMAGES, LABELS), limit=300)
    probe.set_model(model)
    assert probe.measure()["accuracy"] < 0.3


def test_images_that_are_read_for_every_pass_give_the_same(tmp_path):
    """A folder of pictures too large for the memory, or of several sizes."""
    from PIL import Image

    for number, (image, label) in enumerate(zip(IMAGES[:120], LABELS[:120], strict=True)):
        place = tmp_path / str(label)
        place.mkdir(exist_ok=True)
        Image.fromarray(image[..., 0]).save(place / f"{number}.png")
    kept = load_labelled(f"folder:{tmp_path}", "train", 1)
    read = load_labelled(f"folder:{tmp_path}", "train", 1, memory=0)
    assert isinstance(kept.images, np.ndarray)
    assert not isinstance(read.images, np.ndarray)
    accuracies = []
    for data in (kept, read):
        probe = Probe(data, limit=80, encoder=constant())
        probe.set_model(classifier())
        accuracies.append(probe.measure()["accuracy"])
    assert accuracies[0] == accuracies[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"every": 0}, "every: 0 is not possible. Use 1 or more."),
        ({"seed": -1}, "seed: -1 is not possible. Use 0 or more."),
        ({"grid": 0}, "grid: 0"),
        ({"labels": 1.5}, "not an amount of labels"),
        ({"classifier": "rigde"}, "Did you mean 'ridge'?"),
    ],
)
def test_what_is_not_possible_is_said_when_it_is_made(arguments, words):
    with pytest.raises(SpecError, match=words.replace("?", r"\?")):
        Probe("digits", **arguments)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("digist", "Did you mean 'digits'?"),
        ((IMAGES, LABELS[:5]), "There must be one label per image"),
        ((IMAGES[:, :, :, 0], LABELS), "images of 8x8, but the model takes anyxanyx1"),
        (Labelled(IMAGES[:3], np.arange(3), ()), "no class has two images"),
        (Labelled(IMAGES[:4], np.arange(4) // 2, ()), "2 labelled images of 2 classes are too few"),
        (Labelled(IMAGES[:9], np.zeros(9, int), ()), "7 labelled images of a single class"),
    ],
)
def test_labelled_images_that_are_not_there_are_said_before_the_first_step(data, words):
    model = classifier()
    with pytest.raises(SpecError, match=words.replace("?", r"\?")):
        fit(model, Probe(data, every=1))
    assert int(model.optimizer.iterations) == 0
