"""What holds for every registered objective: precision, configs, files, and a place in a spec."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kclr.layers import ContrastiveConvBlock
from kclr.losses import ContrastiveLoss, ObjectiveState
from kclr.model import TripletModel
from kclr.spec import parse_spec
from kclr.spec.objectives import takes, variables
from kclr.spec.registry import parts
from kclr.stack import train

OBJECTIVES = {
    "triplet": {},
    "soft triplet": {"objective": "triplet", "margin": "soft", "mining": "hardest"},
    "infonce": {"temperature": 0.2},
    "ntxent": {"temperature": 1},
    "barlow": {"redundancy": 0.01},
    "vicreg": {"covariance": 2.0},
    "spectral": {"radius": 3.0},
    "blocks": {"others": 5},
    "position": {"neighbours": 3, "hidden": 8},
    "exemplar": {"seeds": 32},
    "hinged blocks": {"objective": "blocks", "loss": "hinge"},
    "supcon": {"temperature": 0.2},
    "supcon of labels alone": {"objective": "supcon", "unlabelled": "without"},
    "cross_entropy": {"classes": 3},
    "predsim": {"classes": 3, "similarity": 0.5},
    "rotation": {"hidden": 8},
}


def loss_of(case):
    return ContrastiveLoss(**{"objective": case} | OBJECTIVES[case])


def with_variables(case, dimensions=75):
    """A case's objective as a function of images and embeddings, with its variables at random, and
    with labels if it takes them."""
    objective, state = loss_of(case).objective, ObjectiveState()
    maps = (5, 5, 3) if dimensions == 75 else (1, 1, dimensions)
    if variables(objective):
        state.hold(objective, dimensions, maps)

    def call(images, embeddings):
        if takes(objective, "maps"):
            embeddings = tf.reshape(embeddings, (-1, embeddings.shape[1], *maps))
        given = {"state": state.values()} if hasattr(objective, "state") else {}
        said = {"labels": images % 4 - 1, "turns": images % 4}
        given |= {what: own for what, own in said.items() if takes(objective, what)}
        return objective(images, embeddings, **given)

    return call


def test_every_registered_objective_is_tested_here():
    assert set(parts("objective")) <= {loss_of(case).objective.part_name for case in OBJECTIVES}


@pytest.mark.parametrize("case", OBJECTIVES)
def test_half_precision_is_compared_in_float32(images, embeddings, case):
    objective = with_variables(case)
    for dtype in ("float16", "bfloat16"):
        half = tf.cast(embeddings, dtype)
        loss, statistics = objective(images, half)
        expected, _ = objective(images, tf.cast(half, "float32"))
        assert {loss.dtype, *(value.dtype for value in statistics.values())} == {tf.float32}
        assert loss == expected


@pytest.mark.parametrize("case", OBJECTIVES)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_embeddings_have_finite_gradients(images, case, value):
    given = tf.fill((24, 4, 5), value)
    with tf.GradientTape() as tape:
        tape.watch(given)
        loss, statistics = with_variables(case, 5)(images, given)
    for part in (loss, tape.gradient(loss, given), *statistics.values()):
        assert np.isfinite(part).all()
    ceiling = statistics.get("alike_loss", loss_of(case).objective.ceiling)
    if case == "predsim":  # whose similarities are 1, or 0 where nothing is seen
        assert loss >= (1 - 1e-5) * ceiling
    elif case != "triplet":  # nothing is semi-hard there
        np.testing.assert_allclose(loss, ceiling, rtol=1e-5)


@pytest.mark.parametrize("case", OBJECTIVES)
def test_batches_of_unknown_size_compile_and_are_those_of_eager_numbers(images, embeddings, case):
    objective = with_variables(case)
    unknown = [tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None, 4, 75))]
    call = tf.function(objective, input_signature=unknown, autograph=False)  # as Keras' step
    for count in (24, 9):
        few = images[:count], embeddings[:count] - 0.3
        (loss, statistics), (expected, told) = call(*few), objective(*few)
        np.testing.assert_allclose(loss, expected, rtol=1e-4)
        for name in told:
            np.testing.assert_allclose(statistics[name], told[name], rtol=1e-3)


@pytest.mark.parametrize(
    "case", sorted(OBJECTIVES.keys() - {"cross_entropy", "predsim", "rotation"})
)
def test_a_single_patch_of_a_crop_is_refused(case):
    with pytest.raises(ValueError, match="two patches per crop"):
        with_variables(case)(np.arange(4), np.zeros((4, 1, 3), np.float32))


@pytest.mark.parametrize("case", OBJECTIVES)
def test_configs_make_the_round_trip(case):
    loss = loss_of(case)
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert restored.objective == loss.objective
    assert restored.get_config() == loss.get_config()


@pytest.mark.parametrize(
    "case",
    [
        case if case in ("triplet", "vicreg") else pytest.param(case, marks=pytest.mark.full)
        for case in OBJECTIVES
    ],
)
def test_a_model_trains_and_a_saved_one_goes_on(tmp_path, case):
    views = 4 if case == "position" else 2
    patches = np.random.default_rng(0).integers(0, 256, (32, views, 7, 7, 3), dtype=np.uint8)
    images = np.arange(32) // 2
    if {"takes_labels", "takes_turns"} & {*dir(loss_of(case).objective)}:
        images = np.stack([images, images % 3 - 1, images % 4], axis=1)
    kernel = keras.initializers.GlorotUniform(seed=0)
    model = TripletModel(ContrastiveConvBlock(4, 6, kernel_initializer=kernel))
    model.compile("adam", loss=loss_of(case))
    first = model.train_on_batch(patches, images, return_dict=True)
    assert set(loss_of(case).objective.statistics) < first.keys()
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    model.reset_metrics()  # which older versions of Keras leave to the caller
    told = [m.train_on_batch(patches, images, return_dict=True) for m in (model, restored)]
    assert told[0] == told[1]


@pytest.mark.full
def test_a_spec_names_each_and_its_layers_are_learned(tmp_path):
    variables = {"name": "ntxent", "learn_temperature": True, "queue_size": 50}
    layers = [
        {
            "block": {"filters": 4, "kernel_size": 2, "pool_size": 1},
            "objective": objective,
            "train": {"steps": 3, "batch_size": 16, "log_every": 2, "jit": False},
        }
        for objective in (variables, "infonce", "barlow", "vicreg", {"name": "spectral"})
    ]
    spec = parse_spec(repr({"data": {"source": "photos", "limit": 64}, "stack": layers}))
    run = train(spec, tmp_path / "run", bare=True)
    for layer, resolved in zip(run.layers, spec.stack, strict=True):
        assert np.isfinite(layer.kernel).all()
        rows = layer.history()
        assert [row["step"] for row in rows] == [2, 3]
        assert set(resolved.objective.statistics) < rows[-1].keys()
