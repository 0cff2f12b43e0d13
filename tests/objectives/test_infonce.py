"""InfoNCE and NT-Xent against scipy in float64 and Keras' cross-entropy; temperature and queue."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax
from sklearn.metrics.pairwise import cosine_similarity

from kclr.callbacks import KeepMetrics, StepHistory, TrainingState, restore
from kclr.errors import SpecError
from kclr.layers import ContrastiveConvBlock
from kclr.losses import ContrastiveLoss
from kclr.model import TripletModel
from kclr.objectives.infonce import InfoNCE, NTXent, surprise

OBJECTIVES = {"infonce": InfoNCE, "ntxent": NTXent}


def twin(objective, images, embeddings, temperature, queue=None, queue_images=()):
    """Loss and statistics in float64, one pair at a time."""
    crops, views, dimensions = embeddings.shape
    candidates = embeddings.reshape(-1, dimensions).astype(np.float64)
    of_image = np.repeat(images, views)
    if queue is not None:
        candidates = np.concatenate([candidates, queue])
        of_image = np.concatenate([of_image, queue_images])
    cosines = cosine_similarity(candidates)
    losses, first, positives, negatives, alike = [], [], [], [], []
    for crop in range(crops):
        for view in range(views if isinstance(objective, NTXent) else 1):
            anchor = crop * views + view
            others = cosines[anchor][of_image != images[crop]]
            negatives.append(others)
            for positive in range(crop * views, (crop + 1) * views):
                if positive == anchor:
                    continue
                cosine = cosines[anchor, positive]
                losses.append(-log_softmax(np.append(cosine, others) / temperature)[0])
                first.append(cosine > others.max(initial=-2))
                positives.append(cosine)
                alike.append(np.log(1 + len(others)))
    return np.mean(losses), {
        "contrast_accuracy": np.mean(first),
        "positive_similarity": np.mean(positives),
        "negative_similarity": np.concatenate(negatives).mean(),
        "alike_loss": np.mean(alike),
    }


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(("views", "temperature"), [(2, 0.01), (4, 0.2)])
def test_loss_and_statistics_are_those_of_numpy(images, embeddings, name, views, temperature):
    objective = OBJECTIVES[name](temperature=temperature)
    calls = [(24, objective), (10, objective)]
    if views == 4:
        calls.append((24, tf.function(objective, jit_compile=True)))
    for count, call in calls:
        few = embeddings[:count, :views] - 0.3
        loss, statistics = call(images[:count], few)
        expected, expected_statistics = twin(objective, images[:count], few, temperature)
        np.testing.assert_allclose(loss, expected, rtol=1e-4)
        assert statistics.keys() == expected_statistics.keys() == set(objective.statistics)
        for key, value in statistics.items():
            np.testing.assert_allclose(value, expected_statistics[key], rtol=1e-4, err_msg=key)


def test_with_two_views_ntxent_is_keras_crossentropy_over_all_other_patches(embeddings):
    """Chen et al. 2020, section 2.1: 2N patches, each to be told from 2N - 2 others."""
    pairs = embeddings[:, :2] - 0.3
    logits = cosine_similarity(pairs.transpose(1, 0, 2).reshape(48, -1)) / 0.5
    np.fill_diagonal(logits, -1e9)
    labels = np.roll(np.arange(48), 24)
    expected = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    loss, _ = NTXent(temperature=0.5)(np.arange(24), pairs)
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_finite_differences(embeddings, name):
    objective = OBJECTIVES[name](temperature=0.1, learn_temperature=True, queue_size=2)
    images = tf.constant([0, 0, 1, 2])
    small = tf.constant(embeddings[:4, :3, ::15] - 0.3, tf.float64)
    queue = tf.constant(embeddings[4:6, 0, ::15] - 0.2, tf.float64)
    queue /= tf.norm(queue, axis=1, keepdims=True)

    @tf.function(autograph=False)  # traced once for all differences
    def loss(embeddings, log_scale):
        state = {"log_scale": log_scale, "queue": queue, "queue_images": tf.constant([2, 5])}
        return objective(images, embeddings, state)[0]

    scale = tf.constant(np.log(10.0), tf.float64)
    theoretical, numerical = tf.test.compute_gradient(loss, [small, scale], delta=1e-6)
    for one, other in zip(theoretical, numerical, strict=True):
        assert np.abs(one).max() > 1e-3
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_surprise_neither_overflows_nor_vanishes():
    sure = surprise(np.float32([[50.0]]), np.float32([[0.0, -100.0]]), np.array([[True, False]]))
    np.testing.assert_allclose(sure[0], [[np.exp(-50.0)]], rtol=1e-4)
    wrong = surprise(np.float32([[-1e4]]), np.float32([[1e4, 1e4]]), np.array([[True, True]]))
    np.testing.assert_allclose(wrong[0], [[2e4 + np.log(2)]], rtol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_patches_of_the_same_image_are_never_negatives(name):
    """Two images, all crops of each in one direction, at a right angle to those of the other."""
    images = np.array([7, 9, 7, 9, 7], np.int64)
    embeddings = np.where(images[:, None, None] == 7, [1.0, 0.0], [0.0, 3.0]) * np.ones((5, 2, 1))
    loss, statistics = OBJECTIVES[name](temperature=1.0)(images, embeddings.astype(np.float32))
    assert statistics["negative_similarity"] == 0
    counts = np.where(images == 7, 4, 6)
    np.testing.assert_allclose(loss, np.log1p(counts * np.exp(-1)).mean(), rtol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_batch_of_one_image_has_no_loss_and_no_gradient(embeddings, name):
    given = tf.constant(embeddings)
    with tf.GradientTape() as tape:
        tape.watch(given)
        loss, statistics = OBJECTIVES[name]()(np.zeros(24, np.int32), given)
    assert loss == statistics["alike_loss"] == statistics["negative_similarity"] == 0
    assert not np.any(tape.gradient(loss, given))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_order_of_crops_and_a_common_scale_and_rotation_change_nothing(
    images, embeddings, name
):
    objective = OBJECTIVES[name]()
    expected = objective(images, embeddings)[0]
    order = np.random.default_rng(0).permutation(24)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(75, 75)))[0].astype(np.float32)
    for changed in (embeddings * 1e-6, embeddings * 1e6, embeddings @ rotation):
        np.testing.assert_allclose(objective(images, changed)[0], expected, rtol=1e-4)
    np.testing.assert_allclose(objective(images[order], embeddings[order])[0], expected, rtol=1e-5)
    mirrored = objective(images, embeddings[:, ::-1])[0]
    if name == "ntxent":
        np.testing.assert_allclose(mirrored, expected, rtol=1e-5)
    else:
        assert abs(mirrored - expected) > 1e-4


@pytest.mark.parametrize("name", OBJECTIVES)
def test_queued_patches_are_negatives_but_for_those_of_the_anchors_image(images, embeddings, name):
    objective = OBJECTIVES[name](queue_size=11, temperature=0.3)
    embeddings = embeddings - 0.3
    queue = embeddings[13:, 0] / np.linalg.norm(embeddings[13:, 0], axis=-1, keepdims=True)
    queue_images = np.array([0, 1, 2, 50, 51, 52, 53, 3, 54, 0, 1])
    expected, expected_statistics = twin(
        objective, images[:9], embeddings[:9], 0.3, queue, queue_images
    )
    state = {"queue": queue, "queue_images": queue_images}
    loss, statistics = objective(images[:9], embeddings[:9], state)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    for key, value in statistics.items():
        np.testing.assert_allclose(value, expected_statistics[key], rtol=1e-4, err_msg=key)


def test_the_first_batches_are_compared_with_what_is_queued_alone(images, embeddings):
    """An empty place is no negative, and the oldest patches make room."""
    objective, plain = InfoNCE(queue_size=8), InfoNCE()
    arguments = objective.state(75)
    layer = keras.layers.Layer()
    state = {
        name: layer.add_weight(**given, name=name).numpy() for name, given in arguments.items()
    }
    loss, statistics = objective(images[:3], embeddings[:3], state)
    expected, told = plain(images[:3], embeddings[:3])
    assert (loss, statistics["alike_loss"]) == (expected, told["alike_loss"])
    units = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    for crops in (slice(0, 1), slice(1, 3), slice(3, 4)):
        state = objective.next_state(images[crops], embeddings[crops], state)
        state = {name: np.asarray(value) for name, value in state.items()}
    np.testing.assert_array_equal(state["queue_images"], np.repeat(images[[3, 1]], 4))
    np.testing.assert_allclose(state["queue"], units[[3, 1]].reshape(8, 75), rtol=1e-5)


def test_variables_without_a_model_that_holds_them_are_refused(images, embeddings):
    for options, names in (
        ({"queue_size": 4}, "queue, queue_images"), ({"learn_temperature": True}, "log_scale"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"\({names}\): compile a TripletModel"):
            ContrastiveLoss("ntxent", **options)(images, embeddings)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0}, "temperature: 0 is out of range. Use 0.01 to 100."),
        ({"queue_size": -1}, "queue_size: -1 is out of range. Use 0 to 1048576."),
        ({"learn_temperature": "yes"}, "learn_temperature: 'yes' is not allowed."),
    ],
)
def test_wrong_options_are_refused_in_the_words_of_a_spec(options, words):
    with pytest.raises(SpecError) as refusal:
        ContrastiveLoss("ntxent", **options)
    assert words in str(refusal.value)


PATCHES = np.random.default_rng(0).integers(0, 256, (32, 2, 7, 7, 3), dtype=np.uint8)
IMAGES = np.arange(32)


def model(optimizer="adam", seed=0, **options):
    keras.utils.set_random_seed(seed)
    made = TripletModel(ContrastiveConvBlock(4, 6), head=keras.layers.Dense(5))
    options = {"learn_temperature": True, "queue_size": 40} | options
    made.compile(optimizer, ContrastiveLoss("ntxent", **options), run_eagerly=True)
    made.build((None, 2, 7, 7, 3))
    made.optimizer.build(made.trainable_variables)
    return made


def test_a_learned_temperature_is_trained_told_and_held_above_a_hundredth():
    trained = model(keras.optimizers.SGD(0.1))
    told = trained.fit(PATCHES, IMAGES, batch_size=8, epochs=3, verbose=0).history["temperature"]
    assert told[0] != told[-1]
    assert all(0.01 <= value <= 1 for value in told)
    held = model(keras.optimizers.SGD(0.0), temperature=0.5)
    held.objective_state.log_scale.assign(9.0)
    held.train_on_batch(PATCHES, IMAGES)
    np.testing.assert_allclose(held.objective_state.log_scale, np.log(100), rtol=1e-6)


def test_evaluation_leaves_the_queue_as_it_is_and_training_does_not():
    trained = model()
    trained.evaluate(PATCHES, IMAGES, verbose=0)
    assert not trained.objective_state.queue.numpy().any()
    trained.train_on_batch(PATCHES[:10], IMAGES[:10])
    assert (np.linalg.norm(trained.objective_state.queue.numpy(), axis=1) > 0.5).sum() == 20
    np.testing.assert_array_equal(
        trained.objective_state.queue_images[:20], np.repeat(np.arange(10), 2)
    )


def test_another_objective_takes_its_own_variables_and_the_same_keeps_them():
    trained = model()
    trained.train_on_batch(PATCHES, IMAGES)
    scale = float(trained.objective_state.log_scale.numpy())
    trained.compile("sgd", trained.loss)
    assert float(trained.objective_state.log_scale.numpy()) == scale
    names = {variable.name for variable in trained.variables}
    assert {"log_scale", "queue", "queue_images"} <= names
    trained.compile("sgd", ContrastiveLoss("ntxent", queue_size=3))
    assert [tuple(v.shape) for v in trained.objective_state.variables] == [(3, 5), (3,)]
    trained.train_on_batch(PATCHES, IMAGES)
    trained.compile("sgd", ContrastiveLoss("triplet"))
    assert trained.objective_state.variables == []
    trained.train_on_batch(PATCHES, IMAGES)


def steps(trained, start, stop, *callbacks):
    """The batch of a step is a function of the step."""
    data = tf.data.Dataset.range(start, stop).map(
        lambda step: tuple(
            tf.roll(tf.constant(part), tf.cast(step, tf.int32), axis=0)[:16]
            for part in (PATCHES, IMAGES)
        )
    )
    trained.fit(data, callbacks=[KeepMetrics(), *callbacks], shuffle=False, verbose=0)


def test_a_training_that_goes_on_from_a_checkpoint_ends_bit_for_bit_the_same(tmp_path):
    whole, first, second = model(), model(), model(seed=3)
    steps(whole, 0, 7)
    history = StepHistory(100, 100, lambda row: None)
    state = TrainingState(tmp_path / "state.npz", history, every=1e9)
    steps(first, 0, 4, history, state)
    state.save()
    restore(second, tmp_path / "state.npz")
    steps(second, 4, 7)
    for one, other in zip(whole.variables, second.variables, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_saved_model_keeps_its_temperature_and_its_queue(tmp_path):
    trained = model()
    trained.fit(PATCHES, IMAGES, batch_size=8, verbose=0)
    trained.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    trained.reset_metrics()  # which older versions of Keras leave to the caller
    told = [m.train_on_batch(PATCHES, IMAGES, return_dict=True) for m in (trained, restored)]
    assert told[0] == told[1]
    for one, other in zip(trained.variables, restored.variables, strict=True):
        np.testing.assert_array_equal(one, other)
