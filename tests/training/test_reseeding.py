"""Dead filters are started anew, with all that was learned of them forgotten."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kclr.callbacks import CollapseError
from kclr.errors import SpecError
from kclr.events import Listener
from kclr.layers import ContrastiveConvBlock
from kclr.losses import ContrastiveLoss
from kclr.model import TripletModel
from kclr.report.tables import print_run
from kclr.spec import parse_spec
from kclr.stack import train
from kclr.training.reseeding import Reseed, restart

pytestmark = pytest.mark.usefixtures("without_pictures")

PATCHES = np.random.default_rng(1).integers(0, 256, (16, 4, 7, 7, 3), dtype=np.uint8)
DEAD, ALIVE = [1, 4], [0, 2, 3, 5]

OPTIMIZERS = {
    "Adam": keras.optimizers.Adam,
    "amsgrad": lambda rate: keras.optimizers.Adam(rate, amsgrad=True, use_ema=True),
    "Adagrad": keras.optimizers.Adagrad,
    "SGD": keras.optimizers.SGD,
    "momentum": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    "RMSprop": keras.optimizers.RMSprop,
    "scaled": lambda rate: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(rate)),
}
if hasattr(keras.optimizers, "Muon"):  # which not every release of Keras has
    OPTIMIZERS["Muon"] = keras.optimizers.Muon


def trained(optimizer, steps=2, **arguments):
    keras.utils.set_random_seed(0)
    block = ContrastiveConvBlock(6, 6, **arguments)
    model = TripletModel(block)
    model.compile(optimizer, ContrastiveLoss(), run_eagerly=True)
    model.build((None, 4, 7, 7, 3))
    model.optimizer.build(model.trainable_variables)
    for _ in range(steps):
        model.train_on_batch(PATCHES, np.arange(16))
    return model, block


def moments(optimizer, shape):
    """All that an optimizer holds of weights of this shape, but their own running mean."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    held = [each for each in optimizer.variables if tuple(each.shape) == shape]
    return [each.numpy() for each in held if not each.path.endswith("average")]


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("Adam", "amsgrad", "momentum", "scaled")
        else pytest.param(name, marks=pytest.mark.full)
        for name in OPTIMIZERS
    ],
)
def test_kernel_bias_and_moments_of_the_named_filters_alone_are_new(name):
    model, block = trained(OPTIMIZERS[name](0.01))
    fresh, _ = trained(OPTIMIZERS[name](0.01), steps=0)
    before = block.kernel.numpy()
    old = {shape: moments(model.optimizer, shape) for shape in ((6, 6, 3, 6), (6,))}
    restart(block, DEAD, np.random.default_rng(3), model.optimizer)
    after = block.kernel.numpy()
    np.testing.assert_array_equal(after[..., ALIVE], before[..., ALIVE])
    lengths = np.linalg.norm(before.reshape(-1, 6), axis=0)
    expected = np.random.default_rng(3).standard_normal((2, 108))
    expected *= np.median(lengths[ALIVE]) / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(after[..., DEAD].reshape(108, 2), expected.T, rtol=1e-4)
    assert block.bias.numpy()[DEAD].tolist() == [0, 0]
    for shape, held in old.items():
        now = moments(model.optimizer, shape)
        first = moments(fresh.optimizer, shape)
        assert len(now) == len(held) == len(first)
        for array, was, new in zip(now, held, first, strict=True):
            np.testing.assert_array_equal(array[..., ALIVE], was[..., ALIVE])
            np.testing.assert_array_equal(array[..., DEAD], new[..., DEAD])
    model.train_on_batch(PATCHES, np.arange(16))
    assert np.isfinite(block.kernel.numpy()).all()


@pytest.mark.parametrize(
    ("optimizer", "held"),
    [
        (lambda: keras.optimizers.Adam(0.01, use_ema=True), "average"),
        (lambda: keras.optimizers.ScheduleFreeAdamW(0.01), "momentum"),
    ],
)
def test_what_an_optimizer_holds_in_the_place_of_weights_is_the_new_ones(optimizer, held):
    if held == "momentum" and not hasattr(keras.optimizers, "ScheduleFreeAdamW"):
        pytest.skip("this release of Keras has no such optimizer")
    model, block = trained(optimizer())
    restart(block, DEAD, np.random.default_rng(3), model.optimizer)
    (found,) = (
        each.numpy()
        for each in model.optimizer.variables
        if each.path.endswith(held) and len(each.shape) == 4
    )
    np.testing.assert_array_equal(found[..., DEAD], block.kernel.numpy()[..., DEAD])


def test_batch_normalisation_starts_anew_too():
    model, block = trained("adam", batch_norm=True)
    before = [variable.numpy() for variable in block.normalization.variables]
    restart(block, DEAD, np.random.default_rng(3), model.optimizer)
    normed = block.normalization
    for variable, was in zip(normed.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy()[ALIVE], was[ALIVE])
    found = [
        getattr(normed, name).numpy()[DEAD].tolist()
        for name in ("gamma", "beta", "moving_mean", "moving_variance")
    ]
    assert found == [[1, 1], [0, 0], [0, 0], [1, 1]]


def test_a_block_of_dead_filters_alone_comes_to_life():
    model, block = trained("adam")
    block.kernel.assign(np.zeros(block.kernel.shape))
    restart(block, list(range(6)), np.random.default_rng(3), model.optimizer)
    lengths = np.linalg.norm(block.kernel.numpy().reshape(-1, 6), axis=0)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)


def test_it_looks_every_so_many_steps_and_not_after_the_last():
    model, block = trained("adam", steps=0)
    looks = []

    def answers():
        looks.append(int(model.optimizer.iterations))
        found = np.random.default_rng(0).normal(size=(50, 6))
        found[:, DEAD] = 0
        return [found]

    counts = keras.Variable([0], dtype="int32", trainable=False)
    reseed = Reseed([block], answers, every=2, total=6, seed=7, counts=counts)
    data = (PATCHES, np.arange(16))
    model.fit(*data, batch_size=16, steps_per_epoch=1, verbose=0)
    looks.clear()
    batches = tf.data.Dataset.from_tensors(data).repeat()
    model.fit(batches, steps_per_epoch=6, callbacks=[reseed], shuffle=False, verbose=0)
    assert looks == [3, 5]
    assert counts.numpy().tolist() == [4]


# Filters of a bias so low that they never answer, and so have no gradient.
SPEC = """
data: {source: photos, limit: 300}
stack:
  - block: {filters: 6}
    learner: {start: {name: patches, windows: 500, threshold: 100}}
    train: {steps: 7, batch_size: 16, log_every: 2, checkpoint_seconds: 0, reseed: true, jit: false}
"""


class Stop(Listener):
    def __init__(self, step):
        self._step = step

    def heard(self, event):
        if event.kind == "step" and event.done == self._step:
            raise KeyboardInterrupt


def test_a_layer_of_dead_filters_learns_and_ends_alike_when_interrupted(tmp_path, capsys):
    run = train(parse_spec(SPEC), tmp_path / "run", bare=True)
    (layer,) = run.layers
    assert layer.facts["reseeded"] == 6
    print_run(run)
    _, header, row, *_ = capsys.readouterr().out.splitlines()
    assert row.split()[header.split().index("reseeded")] == "6"
    assert layer.facts["dead_filters"] == 0
    with pytest.raises(KeyboardInterrupt):
        train(parse_spec(SPEC), tmp_path / "cut", listener=Stop(4), bare=True)
    (again,) = train(parse_spec(SPEC), tmp_path / "cut", resume=True, bare=True).layers
    np.testing.assert_array_equal(again.kernel, layer.kernel)
    np.testing.assert_array_equal(again.bias, layer.bias)
    assert again.facts["reseeded"] == 6
    other = parse_spec(SPEC, ["stack.0.train.log_every=3"])
    with pytest.raises(SpecError, match="other settings"):
        train(other, tmp_path / "cut", resume=True)


def test_without_it_they_stay_dead(tmp_path):
    with pytest.raises(CollapseError, match=r"6 \(0, 1, 2, 3, 4, 5\) are dead"):
        train(parse_spec(SPEC, ["stack.0.train.reseed=false"]), tmp_path / "run")
