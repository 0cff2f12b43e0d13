"""What callbacks see and do in real trainings: rows, collapses, checkpoints."""

import errno
import types
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_sample_image
from sklearn.feature_extraction.image import extract_patches_2d

from kclr.callbacks import (
    CollapseError,
    CollapseGuard,
    KeepMetrics,
    StepHistory,
    TrainingState,
    restore,
)
from kclr.errors import RunError
from kclr.layers import ContrastiveConvBlock
from kclr.losses import ContrastiveLoss
from kclr.model import TripletModel, effective_rank, spread
from kclr.spec.registry import Part

CROPS = extract_patches_2d(load_sample_image("china.jpg"), (8, 8), max_patches=512, random_state=0)
PATCHES = np.stack([CROPS[:, r : r + 7, c : c + 7] for r in (0, 1) for c in (0, 1)], axis=1)
IMAGES = np.arange(512, dtype=np.int32)


def model(
    optimizer="adam", encoder=None, augment=None, seed=0, eager=True, steps_at_once=1, **objective
):
    """Eager where steps are few: tracing takes longer than they do."""
    keras.utils.set_random_seed(seed)
    made = TripletModel(encoder or ContrastiveConvBlock(8, 6), augment=augment)
    made.compile(
        optimizer, ContrastiveLoss(**objective),
        run_eagerly=eager, steps_per_execution=steps_at_once,
    )  # fmt: skip
    made.build((None, 4, 7, 7, 3))
    made.optimizer.build(made.trainable_variables)
    return made


def batches(start=0, size=32):
    """An endless data set whose batch is a function of its step."""
    steps = tf.data.Dataset.counter(start)
    patches, images = tf.constant(PATCHES), tf.constant(IMAGES)

    def batch(step):
        chosen = (tf.range(size) + tf.cast(step, tf.int32) * 19) % len(IMAGES)
        return tf.gather(patches, chosen), tf.gather(images, chosen)

    return steps.map(batch)


def fit(trained, steps, *callbacks, start=0, epochs=1):
    return trained.fit(
        batches(start), steps_per_epoch=steps, epochs=epochs, callbacks=list(callbacks),
        shuffle=False, verbose=0,
    )  # fmt: skip


class Losses(keras.callbacks.Callback):
    """The loss of each single step, undone from Keras' running means."""

    def __init__(self):
        super().__init__()
        self.values, self._sum, self._count = [], 0.0, 0

    def on_train_batch_end(self, batch, logs=None):
        self._count += 1
        total = logs["loss"] * self._count
        self.values.append(total - self._sum)
        self._sum = total


def test_rows_are_means_of_their_own_steps_with_a_short_last_one():
    single, rows = Losses(), []
    fit(model(), 7, single)
    history = StepHistory(3, 7, rows.append)
    fit(model(), 7, history)
    assert [row["step"] for row in rows] == [3, 6, 7]
    expected = [np.mean(single.values[a:b]) for a, b in ((0, 3), (3, 6), (6, 7))]
    np.testing.assert_allclose([row["loss"] for row in rows], expected, rtol=1e-4)
    assert history.last == rows[-1]
    assert rows[0]["learning_rate"] == pytest.approx(1e-3)
    assert {"seconds", "effective_rank", "active_share"} <= rows[0].keys()
    assert rows[0]["seconds"] < rows[1]["seconds"] <= history.seconds


@pytest.mark.full
def test_rows_count_on_over_epochs_and_over_several_steps_at_once():
    rows = []
    fit(model(), 4, StepHistory(3, 8, rows.append), epochs=2)
    assert [row["step"] for row in rows] == [3, 6, 8]
    rows = []
    fit(model(steps_at_once=4, eager=False), 8, StepHistory(3, 8, rows.append))
    assert [row["step"] for row in rows] == [4, 8]


def test_seconds_and_steps_of_an_earlier_training_count():
    rows = []
    fit(model(), 3, StepHistory(5, 8, rows.append, start=5, seconds=1000.0))
    assert [row["step"] for row in rows] == [8]
    assert rows[0]["seconds"] > 1000


class Constant(keras.layers.Layer):
    """An encoder that says the same of everything."""

    def build(self, input_shape):
        self.answer = self.add_weight(shape=(6,), initializer="ones")

    def call(self, inputs):
        return tf.ones((tf.shape(inputs)[0], 1)) * self.answer

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 6)


def guarded(trained, steps, every=5, **options):
    """Fits under a guard; the history's rows."""
    rows = []
    guard = CollapseGuard(trained.loss.objective.ceiling, every, **options)
    fit(trained, steps, guard, StepHistory(every, steps, rows.append))
    return rows


@pytest.mark.parametrize(
    ("distance", "mining"), [("euclidean", "semi-hard"), ("cosine", "hardest"), ("cosine", "all")]
)
def test_an_encoder_that_never_told_patches_apart_is_stopped(distance, mining):
    trained = model(encoder=Constant(), distance=distance, mining=mining, margin=0.5)
    with pytest.raises(CollapseError, match="the embeddings have collapsed") as stop:
        guarded(trained, 40)
    assert int(trained.optimizer.iterations) == 15
    for words in ("0.5", "their spread is", "effective rank is", "Try whitening: zca",
                  "a smaller margin", "on_collapse: warn"):  # fmt: skip
        assert words in str(stop.value)
    assert ("mining: semi-hard" in str(stop.value)) == (mining != "semi-hard")
    assert ("distance: euclidean" in str(stop.value)) == (distance != "euclidean")


OTHERS = {
    "soft triplet": ({"objective": "triplet", "margin": "soft", "mining": "all"}, "with a small"),
    "infonce": ({"objective": "infonce"}, "a lower temperature"),
    "ntxent": ({"objective": "ntxent", "temperature": 0.02}, "a lower temperature"),
    "barlow": ({"objective": "barlow"}, "block.batch_norm: true"),
    "vicreg": ({"objective": "vicreg"}, "a larger weight of variance"),
    "spectral": ({"objective": "spectral"}, "radius: 1"),
    "spectral in a ball": ({"objective": "spectral", "radius": 2.0}, "embedding.standardize: true"),
}
# A training by each takes seconds: three stand for all where that is what is tried.
SOME = [
    name
    if name in ("infonce", "barlow", "spectral")
    else pytest.param(name, marks=pytest.mark.full)
    for name in OTHERS
]
# float (64 crops, 4 patches, 6 dimensions); a crop's patches are alike, and all of one image's.
EMBEDDINGS = np.random.default_rng(0).normal(size=(64, 1, 6)) * np.ones((64, 4, 1))
EMBEDDINGS += np.random.default_rng(1).normal(size=(64, 4, 6)) / 5


def looked_at(objective, *embeddings, every=5):
    """The looks, from 1, of a guard that is fed what an objective says of each of the embeddings.

    Returns:
        the look and the error that stopped it, or None.
    """
    loss = ContrastiveLoss(**objective)
    guard = CollapseGuard(loss.objective.ceiling, every)
    guard.set_model(types.SimpleNamespace(loss=loss))
    guard.on_epoch_begin(0)
    for look, given in enumerate(embeddings, 1):
        given = tf.constant(given, tf.float32)
        value, statistics = loss.with_statistics(np.arange(64), given)
        logs = {"loss": value, **statistics, "spread": spread(given[:, 0])}
        logs["effective_rank"] = effective_rank(given[:, 0])
        try:
            guard.on_train_batch_end(look * every - 1, logs)
        except CollapseError as error:
            return look, str(error)
    return None


def test_a_guard_that_is_interrupted_stops_where_an_uninterrupted_one_does():
    def looks(guard, first, count):
        for look in range(first, first + count):
            loss = {"loss": 1.0, "spread": 1.0 if look < 3 else 1e-4, "effective_rank": 1.0}
            guard.on_train_batch_end((look + 1) * 5 - 1 - guard.started, loss)

    def guarding(start=0, seen=None):
        made = CollapseGuard(1.0, 5, start=start)
        made.set_model(types.SimpleNamespace(loss=None))
        made.state, made.started = seen or {}, start
        made.on_epoch_begin(0)
        return made

    first = guarding()
    looks(first, 0, 5)  # two of the last looks agree
    again = guarding(25, first.state)
    with pytest.raises(CollapseError, match=r"spread is 0.0001 \(largest: 1\),"):
        looks(again, 5, 1)
    looks(guarding(25), 5, 1)  # without what was seen before it would go on


def test_answers_beyond_all_measure_stop_a_training_where_looks_in_a_row_agree():
    def looks(said, action="stop", seen=None):
        guard = CollapseGuard(1.0, 1, action=action, excess=iter(said).__next__)
        guard.set_model(types.SimpleNamespace(loss=None))
        guard.state = seen or {}
        guard.on_epoch_begin(0)
        for step in range(len(said)):
            guard.on_train_batch_end(step, {"loss": 0.5, "spread": 1.0, "effective_rank": 1.0})
        return guard.state

    with pytest.raises(CollapseError, match="after 4 steps it is loud"):
        looks(["", *["it is loud"] * 3])
    looks(["it is loud"] * 5, action="warn")
    seen = looks(["it is loud", "", "it is loud", "it is loud"])
    with pytest.raises(CollapseError, match="after 1 steps"):
        looks(["it is loud"], seen=seen)


def test_the_first_and_the_last_step_are_looked_at_between_two_rows_too():
    for step, total in ((1, None), (7, 7)):
        guard = CollapseGuard(1.0, 50, total=total)
        guard.on_epoch_begin(0)
        for done in range(1, step):
            guard.on_train_batch_end(done - 1, {"loss": 1.0, "spread": 1.0})
        with pytest.raises(CollapseError, match=f"loss is nan after {step} step"):
            guard.on_train_batch_end(step - 1, {"loss": np.nan, "spread": 1.0})


@pytest.mark.parametrize("name", OTHERS)
def test_embeddings_that_become_alike_are_stopped_whatever_the_objective(name):
    objective, cure = OTHERS[name]
    healthy = [EMBEDDINGS] * 3
    alike = [1 + EMBEDDINGS * 1e-6] * 3
    look, said = looked_at(objective, *healthy, *alike)
    assert look == 6
    assert "for embeddings that are all alike it is" in said
    assert cure in said
    assert ("margin" in said) == (objective["objective"] == "triplet")


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("name", OTHERS)
def test_embeddings_that_never_differed_are_stopped_whatever_the_objective(name, value):
    assert looked_at(OTHERS[name][0], *[np.full((64, 4, 6), value)] * 4)[0] == 3


@pytest.mark.parametrize("name", OTHERS)
def test_embeddings_that_grow_from_next_to_nothing_are_let_grow(name):
    growing = [EMBEDDINGS * 1e-4 * 1.5**look for look in range(20)]
    assert looked_at(OTHERS[name][0], *growing) is None
    parting = [1 + EMBEDDINGS * 3e-3 * 1.5**look for look in range(15)]
    assert looked_at(OTHERS[name][0], *parting) is None


@pytest.mark.parametrize("name", OTHERS)
def test_healthy_embeddings_of_any_length_that_stay_or_shrink_are_no_collapse(name):
    for scale in (0.05, 1, 30):
        assert looked_at(OTHERS[name][0], *[EMBEDDINGS * scale] * 5) is None
    shrinking = [EMBEDDINGS * 10 * 0.7**look for look in range(10)]
    assert looked_at(OTHERS[name][0], *shrinking) is None


def test_an_objective_that_knows_no_ceiling_is_judged_by_its_embeddings_alone():
    class Silent(Part):
        statistics: ClassVar = ()
        ceiling: ClassVar = None

        def __call__(self, images, embeddings):
            return tf.reduce_mean(embeddings), {}

    silent = {"objective": Silent()}
    look, said = looked_at(silent, EMBEDDINGS, *[EMBEDDINGS * 1e-6] * 3)
    assert look == 4
    assert "Try whitening: zca, a smaller learning_rate or a larger batch_size" in said
    assert looked_at(silent, *[EMBEDDINGS] * 5) is None


@pytest.mark.parametrize("distance", ["euclidean", pytest.param("cosine", marks=pytest.mark.full)])
def test_filters_that_all_died_are_stopped(distance):
    dead = ContrastiveConvBlock(8, 6, bias_initializer=keras.initializers.Constant(-100.0))
    trained = model(encoder=dead, distance=distance, mining="hardest", margin=0.5)
    with pytest.raises(CollapseError, match="spread is 0 "):
        guarded(trained, 40)


def test_the_collapse_of_hardest_mining_on_photographs_is_stopped():
    trained = model(
        keras.optimizers.SGD(1.0, weight_decay=0.9), mining="hardest", eager=False, margin=1.0
    )
    with pytest.raises(
        CollapseError, match=r"the loss stays at 1(\.\d+)? .*largest: 0\.\d"
    ) as stop:
        guarded(trained, 200, every=10)
    assert "for embeddings that are all alike it is 1)" in str(stop.value)


@pytest.mark.full
def test_embeddings_that_draw_near_each_other_for_a_while_are_let_recover():
    """Cosine distance with hardest mining: a fifth of the first distances, then more again."""
    objective = {"mining": "hardest", "distance": "cosine", "margin": 0.3}
    trained = model(keras.optimizers.Adam(0.003), eager=False, **objective)
    distances = [row["negative_distance"] for row in guarded(trained, 200, every=20)]
    assert min(distances) < 0.25 * distances[0]
    assert distances[-1] > 2 * min(distances)


def test_a_warning_comes_once_and_the_training_goes_on():
    said = []
    trained = model(encoder=Constant(), distance="cosine", margin=0.5)
    guarded(trained, 25, action="warn", warn=said.append)
    assert len(said) == 1
    assert int(trained.optimizer.iterations) == 25


@pytest.mark.parametrize("mining", ["semi-hard", pytest.param("all", marks=pytest.mark.full)])
def test_a_training_that_starts_from_tiny_embeddings_is_let_grow(mining):
    """Loss at the margin and next to no distances, for hundreds of steps: but they grow."""
    tiny = keras.initializers.RandomNormal(stddev=1e-4, seed=0)
    encoder = ContrastiveConvBlock(8, 6, kernel_initializer=tiny)
    trained = model(keras.optimizers.SGD(3e-5), encoder, eager=False, mining=mining)
    rows = guarded(trained, 300, every=20)
    assert rows[0]["loss"] > 0.98 * 2.0
    assert rows[0]["negative_distance"] < 0.01 * 2.0
    assert rows[-1]["negative_distance"] > rows[0]["negative_distance"]


@pytest.mark.full
@pytest.mark.parametrize("distance", ["euclidean", pytest.param("cosine", marks=pytest.mark.full)])
def test_a_healthy_training_is_not_stopped(distance):
    rows = guarded(model(distance=distance, margin=0.2, mining="random"), 30)
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize("name", SOME)
def test_a_healthy_training_by_any_objective_is_not_stopped(name):
    rows = guarded(model(eager=False, **OTHERS[name][0]), 40)
    assert rows[-1]["effective_rank"] > 1
    assert rows[-1].keys() > set(ContrastiveLoss(**OTHERS[name][0]).objective.statistics)


def test_a_task_that_is_solved_is_no_collapse():
    """No triplet left to learn from, and the embeddings far apart."""
    far = keras.initializers.RandomNormal(stddev=100.0, seed=0)
    encoder = ContrastiveConvBlock(8, 6, activation=None, kernel_initializer=far)
    rows = guarded(model(encoder=encoder, margin=1e-3, mining="semi-hard"), 20)
    assert rows[-1]["active_share"] < 0.01


@pytest.mark.parametrize(
    ("mining", "action", "what"), [("random", "stop", "loss"), ("semi-hard", "warn", "spread")]
)
def test_a_training_that_leaves_the_numbers_is_stopped_whatever_the_action(mining, action, what):
    """Where all is infinite nothing is semi-hard: a loss of 0 then."""
    linear = ContrastiveConvBlock(8, 6, activation=None)
    trained = model(keras.optimizers.SGD(1e30), encoder=linear, mining=mining)
    with pytest.raises(CollapseError, match=f"the {what} is (nan|inf) after 5 steps. Try a small"):
        guarded(trained, 50, action=action)


def test_an_unknown_action_is_refused():
    with pytest.raises(ValueError, match="'stop' or 'warn'"):
        CollapseGuard(1.0, 5, action="raise")


class Interrupt(keras.callbacks.Callback):
    """Saves after a step and ends the training there."""

    def __init__(self, state, step):
        super().__init__()
        self.state, self.step = state, step

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self.step:
            self.state.save()
            raise KeyboardInterrupt


def augmented(policy="float32"):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        jitter = keras.layers.RandomBrightness(0.3, value_range=(0, 1), seed=5)
        rate = keras.optimizers.schedules.CosineDecay(0.01, 12)
        return model(keras.optimizers.Adam(rate), augment=jitter)
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize(
    "policy", ["float32", pytest.param("mixed_float16", marks=pytest.mark.full)]
)
def test_an_interrupted_training_ends_with_the_same_weights_and_rows_bit_for_bit(tmp_path, policy):
    whole, rows = augmented(policy), []
    fit(whole, 12, KeepMetrics(), StepHistory(5, 12, rows.append))

    first, first_rows = augmented(policy), []
    history = StepHistory(5, 12, first_rows.append)
    state = TrainingState(tmp_path / "deep/state.npz", history, every=1e9)
    interrupt = Interrupt(state, 7)
    state.set_model(first)
    with pytest.raises(KeyboardInterrupt):
        fit(first, 12, KeepMetrics(), history, state, interrupt)

    second, second_rows = augmented(policy), []
    second(PATCHES[:8], training=True)  # as a process with other random numbers behind it
    step, seconds = restore(second, tmp_path / "deep/state.npz")
    assert step == 7
    assert seconds > 0
    fit(second, 5, KeepMetrics(), StepHistory(5, 12, second_rows.append, 7, seconds), start=7)

    for one, other in zip(whole.variables, second.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(whole.optimizer.variables, second.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, other)

    def without_time(rows):
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]

    assert without_time(first_rows + second_rows) == without_time(rows)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["state.npz"]


def test_states_are_saved_as_often_as_asked_but_not_after_the_last_step(tmp_path):
    trained = model()
    history = StepHistory(2, 4, lambda row: None)
    saves = []
    state = TrainingState(tmp_path / "state.npz", history, every=0.0)
    state.save = lambda: saves.append(history.step)
    fit(trained, 4, history, state)
    assert saves == [1, 2, 3]
    never = TrainingState(tmp_path / "state.npz", StepHistory(2, 4, lambda row: None), every=1e9)
    fit(model(), 4, never.history, never)
    assert not (tmp_path / "state.npz").exists()


@pytest.fixture
def saved(tmp_path):
    trained = model()
    history = StepHistory(2, 10, lambda row: None)
    state = TrainingState(tmp_path / "state.npz", history, every=1e9)
    state.set_model(trained)
    state.save()
    return state


def test_a_full_disk_leaves_the_last_state_whole_and_says_so(saved, monkeypatch):
    before = saved.path.read_bytes()

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(RunError, match=r"cannot be written: No space left.*--resume"):
        saved.save()
    assert saved.path.read_bytes() == before
    assert [path.name for path in saved.path.parent.iterdir()] == ["state.npz"]


def test_a_directory_that_cannot_be_written_is_a_clear_error(saved, tmp_path):
    (tmp_path / "file").write_text("in the way")
    saved.path = tmp_path / "file" / "state.npz"
    with pytest.raises(RunError, match="the checkpoint cannot be written"):
        saved.save()


def test_a_damaged_state_is_refused_and_changes_nothing(saved):
    whole = saved.path.read_bytes()
    trained = model(seed=3)
    before = [variable.numpy() for variable in trained.variables]
    flipped = bytearray(whole)
    flipped[len(flipped) // 2 : len(flipped) // 2 + 40] = b"\xff" * 40
    for damage in (b"", b"not a state", whole[: len(whole) // 2], whole[:-10], bytes(flipped)):
        saved.path.write_bytes(damage)
        with pytest.raises(RunError, match="this checkpoint cannot be used.*Remove it"):
            restore(trained, saved.path)
    for variable, value in zip(trained.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_state_of_another_model_is_refused(saved):
    for other in (model("sgd"), model(encoder=ContrastiveConvBlock(9, 6))):
        with pytest.raises(RunError, match="of another model.*Remove it"):
            restore(other, saved.path)


def test_metrics_are_carried_over_the_start_of_the_first_epoch_alone():
    trained = model()
    trained.train_on_batch(PATCHES[:32], IMAGES[:32])
    carried = trained.get_metrics_result()["loss"]
    firsts = []
    told = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: firsts.append(
            float(trained.get_metrics_result()["loss"])
        )
    )
    fit(trained, 2, KeepMetrics(), told, epochs=2)
    np.testing.assert_allclose(firsts, [float(carried), 0.0], rtol=1e-6)
