"""Checkpoints: damage and hostile content are told of before anything is put into a model."""

import os
import shutil
import signal
import types
import zipfile

import keras
import numpy as np
import pytest

from kclr.callbacks import StepHistory
from kclr.errors import RunError
from kclr.training.checkpoints import (
    TrainingState,
    forget,
    kept,
    previous,
    read_progress,
    read_state,
    restored,
)

TOTAL = 10


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    made = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    made.compile("adam", "mse")
    made.optimizer.build(made.trainable_variables)
    return made


def save(model, path, step):
    """A checkpoint as a training has it; its step can be told by the weights."""
    model.variables[0].assign(np.full((4, 3), step))
    history = types.SimpleNamespace(
        step=step, seconds=1.5, total=TOTAL, last={"loss": 0.5, "effective_rank": 2.0}
    )
    state = TrainingState(path, history)
    state.set_model(model)
    state.save()


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "state.npz"
    save(model, path, 3)
    save(model, path, 6)
    return path


def changed(path, **arrays):
    with np.load(path) as file:
        arrays = dict(file) | arrays
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def test_the_last_two_are_kept_and_go_when_their_layer_is_finished(model, saved):
    save(model, saved, 8)
    assert [read_state(model, path).step for path in kept(saved)] == [8, 6]
    forget(saved)
    assert kept(saved) == []
    assert restored(model, saved, TOTAL) is None


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = b"\xff" * 40
    path.write_bytes(content)


def bomb(path):
    names = zipfile.ZipFile(path).namelist()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.writestr(name, bytes(1 << 20))


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def twice(path):
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("step.npy", file.read("step.npy"))


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a state"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "flipped": flip,
    "a bomb": bomb,
    "large": lambda path: path.write_bytes(path.read_bytes() + bytes(10_000_000)),
    "a pipe": fifo,
    "a link": link,
    "a name twice": twice,
    "step 10^9": lambda path: changed(path, step=np.int64(10**9)),
    "step -5": lambda path: changed(path, step=np.int64(-5)),
    "half a step": lambda path: changed(path, step=np.float64(2.5)),
    "two steps": lambda path: changed(path, step=np.array([2, 3])),
    "no step": lambda path: changed(path, step=None),
    "endless": lambda path: changed(path, seconds=np.float64("inf")),
    "before the start": lambda path: changed(path, seconds=np.float64(-1)),
    "other weights": lambda path: changed(path, **{"0000": np.zeros((4, 4), np.float32)}),
    "wide weights": lambda path: changed(path, **{"0000": np.zeros((4, 3))}),
    "no numbers": lambda path: changed(path, **{"0000": np.full((4, 3), np.nan, np.float32)}),
    "pickled": lambda path: changed(path, **{"0000": np.array([{}], object)}),
    "a guard gone mad": lambda path: changed(path, **{"guard.agreed": np.float64("nan")}),
    "many rows": lambda path: changed(path, **{f"last.{n}": np.float64(0) for n in range(600)}),
    "a huge row": lambda path: changed(path, **{"last.loss": np.zeros(100_000)}),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_newest_falls_back_to_the_one_before_in_words(model, saved, name):
    DAMAGES[name](saved)
    said = []
    state = restored(model, saved, TOTAL, said.append)
    assert state.step == 3
    np.testing.assert_array_equal(model.variables[0], np.full((4, 3), 3))
    (words,) = said
    assert words.startswith(f"{saved}: this checkpoint cannot be used: ")
    assert words.endswith("continues from the previous one, saved after 3 steps.")


def test_how_far_a_training_came_is_read_without_its_model_and_never_unpickled(saved):
    assert read_progress(saved) == (6, 1.5)
    for name in ("empty", "text", "cut", "a pipe", "step -5", "half a step", "no step", "endless"):
        saved.unlink()
        shutil.copy(previous(saved), saved)
        DAMAGES[name](saved)
        with pytest.raises(RunError, match="cannot be (used|read)"):
            read_progress(saved)


def test_where_both_are_damaged_the_cure_is_said_and_nothing_is_changed(model, saved):
    DAMAGES["cut"](saved)
    DAMAGES["step -5"](previous(saved))
    before = [variable.numpy() for variable in model.variables]
    with pytest.raises(RunError, match="Remove both to train the layer from the start"):
        restored(model, saved, TOTAL)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_signal_within_a_step_waits_for_its_end_and_a_second_one_does_not(tmp_path):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    data = np.zeros((40, 4), np.float32), np.zeros((40, 3), np.float32)

    def stopped(step, times):
        trained = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        trained.compile("sgd", "mse", run_eagerly=True)
        history = StepHistory(5, 10, lambda row: None)
        state = TrainingState(tmp_path / "state.npz", history, every=1e9)

        def press(batch, logs):
            for _ in range(times if batch + 1 == step else 0):
                os.kill(os.getpid(), signal.SIGINT)

        pressing = keras.callbacks.LambdaCallback(on_train_batch_end=press)
        with pytest.raises(KeyboardInterrupt), state.interruptible():
            trained.fit(*data, batch_size=4, callbacks=[pressing, history, state], verbose=0)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        return history.step, state.whole

    assert stopped(4, 1) == (4, True)
    assert stopped(4, 2) == (3, False)
    assert stopped(1, 1) == (0, False)


def test_a_kill_between_the_two_renames_costs_one_checkpoint_at_most(model, saved):
    saved.unlink()
    assert restored(model, saved, TOTAL).step == 3


def test_those_of_an_earlier_kclr_are_gone_on_from_but_not_after_the_last_step(model, saved):
    changed(saved, **{"last.loss": None, "last.effective_rank": None})
    assert restored(model, saved, TOTAL).step == 6
    previous(saved).unlink()
    with pytest.raises(RunError, match="earlier kclr. Remove it to train the layer from the start"):
        restored(model, saved, 6)
