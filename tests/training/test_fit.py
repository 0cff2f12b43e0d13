"""Training by contrast: several layers at once, the head, and what is left behind of it."""

from functools import partial

import keras
import numpy as np
import pytest

import kclr
from kclr.events import Listener
from kclr.spec import parse_spec
from kclr.stack import train as train_and_export
from kclr.training.checkpoints import TrainingState

train = partial(train_and_export, bare=True)  # in half the time

TWO = """
data: {source: photos, limit: 300}
train: {end_to_end: true}
stack:
  - block: {filters: 6}
    train: {steps: 4, batch_size: 16}
  - block: {filters: 8, batch_norm: true}
    objective: {name: ntxent, learn_temperature: true, queue_size: 64}
    embedding: {pool: grid, standardize: true, head: [12, 6]}
    train: {steps: 6, batch_size: 16, log_every: 5, checkpoint_seconds: 0, jit: false}
"""


class Stop(Listener):
    """Presses Ctrl-C at a step."""

    def __init__(self, step):
        self._step = step

    def heard(self, event):
        if event.kind == "step" and event.done == self._step:
            raise KeyboardInterrupt


def arrays(run):
    return [array for layer in run.layers for array in (layer.kernel, layer.bias)]


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A run, and what callbacks of a user's own saw: arguments, steps with their logs, and the
    kernels before the first step."""
    given, steps, begun = [], [], []

    def callbacks(layers, blocks, start):
        given.append(([layer.name for layer in layers], [block.filters for block in blocks], start))
        begun.extend(keras.ops.convert_to_numpy(block.folded()[0]) for block in blocks)
        step = lambda batch, logs: steps.append((batch, dict(logs)))  # noqa: E731
        return [keras.callbacks.LambdaCallback(on_train_batch_end=step)]

    out = tmp_path_factory.mktemp("at-once") / "run"
    return train(parse_spec(TWO), out, callbacks=callbacks), given, steps, begun


@pytest.fixture(scope="module")
def at_once(followed):
    return followed[0]


def test_callbacks_of_your_own_know_the_layers_and_see_every_step(followed):
    run, given, steps, _ = followed
    assert given == [(["conv1", "conv2"], [6, 8], 0)]
    assert [batch for batch, _ in steps] == list(range(10))
    assert steps[4][1]["loss"] == pytest.approx(run.layers[1].history()[0]["loss"], rel=1e-6)


def test_layers_trained_at_once_share_their_steps_and_their_history(at_once):
    first, second = at_once.layers
    assert first.facts["steps"] == second.facts["steps"] == 10
    assert first.facts["patches"] == 10 * 16 * 4
    assert first.facts["end_to_end"] is True
    assert first.history() == second.history()
    assert [row["step"] for row in first.history()] == [5, 10]
    assert second.history()[-1]["temperature"] != pytest.approx(0.1, abs=1e-6)


def test_training_at_once_moves_the_lower_layer_too(followed):
    run, _, _, begun = followed
    for layer, before in zip(run.layers, begun, strict=True):
        assert np.abs(layer.kernel - before).max() > 1e-3


def without_time(run):
    """Facts and rows of all layers, but for the clock and the digests of files with it."""
    timed = ("seconds", "patches_per_second", "sha256")
    held = [each for layer in run.layers for each in (layer.facts, *layer.history())]
    return [{k: v for k, v in each.items() if k not in timed} for each in held]


def after_step(step, monkeypatch):
    """Press Ctrl-C between step `step` and what comes next."""
    own = TrainingState.on_train_batch_end

    def pressed(self, batch, logs=None):
        own(self, batch, logs)
        if self.history.step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingState, "on_train_batch_end", pressed)


@pytest.mark.parametrize(
    ("step", "when"),
    [
        (3, "within"),
        pytest.param(5, "between", marks=pytest.mark.full),
        pytest.param(10, "between", marks=pytest.mark.full),
    ],
)
def test_an_interrupted_training_at_once_ends_with_the_same_layers(
    at_once, tmp_path, monkeypatch, step, when
):
    if when == "between":
        after_step(step, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(parse_spec(TWO), tmp_path / "cut", listener=Stop(step if when == "within" else -1))
    monkeypatch.undo()
    resumed = train(parse_spec(TWO), tmp_path / "cut", resume=True)
    for found, expected in zip(arrays(resumed), arrays(at_once), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert without_time(resumed) == without_time(at_once)


def test_training_at_once_and_layer_by_layer_do_not_share_a_directory(at_once):
    with pytest.raises(kclr.SpecError, match="trained with other settings"):
        train(parse_spec(TWO, ["train.end_to_end=false"]), at_once.path, resume=True)


def test_layers_above_one_that_takes_no_steps_are_trained_at_once_on_it(tmp_path):
    text = TWO.replace(
        "stack:\n", "stack:\n  - block: {filters: 5}\n    learner: {name: patches, windows: 500}\n"
    )
    run = train(parse_spec(text), tmp_path / "run")
    assert [layer.kernel.shape[2:] for layer in run.layers] == [(3, 5), (5, 6), (6, 8)]
    assert [layer.facts.get("steps") for layer in run.layers] == [None, 10, 10]


def test_decorrelation_is_part_of_the_loss_of_every_layer_that_is_trained(tmp_path):
    spec = parse_spec(
        TWO,
        [
            "stack.1.train.decorrelation=5000",
            "stack.0.train.steps=1",
            "stack.1.train.steps=1",
            "stack.1.train.log_every=1",
        ],
    )
    run = train(spec, tmp_path / "run")
    # Random directions in N dimensions have a mean squared cosine of 1 / N. Next to it the
    # objective's own loss, of 128 embeddings to choose from, is small.
    expected = 5000 * (1 / 108 + 1 / 54)
    assert run.layers[1].history()[0]["loss"] == pytest.approx(expected, rel=0.6)


def test_statistics_of_normalised_contrast_are_measured_and_the_run_has_it(tmp_path, monkeypatch):
    from kclr.training import fit as training

    seen, own = [], training.WindowStatistics

    class Watched(own):
        def update(self, windows):
            super().update(windows)
            seen.append(windows)

    monkeypatch.setattr(training, "WindowStatistics", Watched)
    text = """
    data: {source: photos, limit: 300}
    stack:
      - block: {filters: 6, contrast: patch, contrast_epsilon: 0.01, whitening: zca}
        train: {steps: 2, batch_size: 16}
      - block: {filters: 4, contrast: patch, whitening: standardize}
        train: {steps: 2, batch_size: 16}
    """
    run = train(parse_spec(text), tmp_path / "run")
    first = np.concatenate([windows for windows in seen if windows.shape[1] == 6 * 6 * 3])
    np.testing.assert_allclose(first.mean(axis=1), 0, atol=1e-5)
    assert 0.3 < first.var(axis=1).mean() < 1
    second = np.concatenate([windows for windows in seen if windows.shape[1] == 6])
    windows = second.reshape(-1, 3 * 3 * 6)
    np.testing.assert_allclose(windows.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(windows.var(axis=1).max(), 1, atol=0.01)
    assert [layer.block["contrast"] for layer in run.layers] == ["patch", "patch"]
    assert [layer.block["contrast_epsilon"] for layer in run.layers] == [0.01, 0.00015]


@pytest.mark.parametrize(
    ("embedding", "dimensions"),
    [
        ("{}", 2 * 2 * 8),
        pytest.param("{pool: mean}", 8, marks=pytest.mark.full),
        pytest.param("{pool: grid, grid_size: 2}", 4 * 8, marks=pytest.mark.full),
        ("{pool: mean, standardize: true, head: [5, 3]}", 3),
    ],
)
def test_an_embedding_has_the_numbers_that_the_spec_says(
    tmp_path, monkeypatch, embedding, dimensions
):
    from kclr.objectives.triplet import Triplet

    seen = set()

    def watched(self, images, embeddings):
        seen.add(tuple(embeddings.shape[1:]))
        raise KeyboardInterrupt

    monkeypatch.setattr(Triplet, "__call__", watched)
    text = f"""
    data: {{source: photos, limit: 300}}
    stack:
      - block: {{filters: 8, whitening: none}}
        patches: {{patch_size: 9, max_shift: 2}}
        embedding: {embedding}
        train: {{steps: 1, batch_size: 16}}
    """
    with pytest.raises(KeyboardInterrupt):  # once all is known
        train(parse_spec(text), tmp_path / "run")
    assert seen == {(2, dimensions)}
