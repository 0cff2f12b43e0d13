"""SensorJitter: what it changes and what not, and that it can be used as Keras' layers are."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kclr.layers import SensorJitter

WIDTH = 50


def series(examples=200, channels=4, shape=(WIDTH,)):
    return np.random.default_rng(0).normal(size=(examples, *shape, channels)).astype("float32")


def changed(inputs, **options):
    return keras.ops.convert_to_numpy(SensorJitter(seed=1, **options)(inputs, training=True))


def test_nothing_changes_outside_training():
    inputs = series()
    layer = SensorJitter(0.5, 0.5, 0.5, 0.5)
    np.testing.assert_array_equal(layer(inputs), inputs)
    np.testing.assert_array_equal(layer(inputs, training=False), inputs)
    np.testing.assert_array_equal(changed(inputs, gain=0, offset=0), inputs)


@pytest.mark.parametrize("shape", [(WIDTH,), (1, WIDTH), (3, WIDTH)])
def test_each_channel_of_each_example_has_its_own_gain_and_offset(shape):
    inputs = series(shape=shape)
    outputs = changed(inputs, gain=0.3, offset=[0.1, 0.4])
    flat = [each.reshape(len(inputs), -1, 4).astype(np.float64) for each in (inputs, outputs)]
    x, y = (each - each.mean(axis=1, keepdims=True) for each in flat)
    gain = (x * y).sum(axis=1) / (x * x).sum(axis=1)
    offset = flat[1].mean(axis=1) - gain * flat[0].mean(axis=1)
    fitted = flat[0] * gain[:, None] + offset[:, None]
    np.testing.assert_allclose(flat[1], fitted, atol=1e-5)
    assert len(np.unique(gain.round(6))) > 750  # of 800
    assert gain.min() == pytest.approx(0.7, abs=0.02)
    assert gain.max() == pytest.approx(1.3, abs=0.02)
    assert offset.min() == pytest.approx(0.1, abs=0.01)
    assert offset.max() == pytest.approx(0.4, abs=0.01)
    assert abs(np.corrcoef(gain.ravel(), offset.ravel())[0, 1]) < 0.1


@pytest.mark.parametrize("shape", [(WIDTH,), (2, WIDTH)])
def test_a_stretch_of_time_becomes_the_mean_of_all_channels(shape):
    inputs = series(shape=shape)
    outputs = changed(inputs, gain=0, offset=0, time_drop=[0.2, 0.5])
    touched = (outputs != inputs).reshape(200, -1, WIDTH, 4)
    along = touched.any(axis=(1, 3))
    assert (touched == along[:, None, :, None]).all()  # all channels and lines at once
    lengths = along.sum(axis=1)
    assert lengths.min() == pytest.approx(0.2 * WIDTH, abs=1)
    assert lengths.max() == pytest.approx(0.5 * WIDTH, abs=1)
    assert (np.abs(np.diff(along.astype(int), axis=1)).sum(axis=1) <= 2).all()  # one stretch
    assert along.any(axis=0).all()  # anywhere
    means = inputs.mean(axis=tuple(range(1, inputs.ndim - 1)), keepdims=True)
    means, there = np.broadcast_to(means, inputs.shape), touched.reshape(inputs.shape)
    np.testing.assert_allclose(outputs[there], means[there], atol=1e-6)


@pytest.mark.parametrize("drop", [0.4, 1])
def test_channels_become_zero_but_never_all_of_an_example(drop):
    inputs = series(examples=2000)
    outputs = changed(inputs, gain=0, offset=0, band_drop=drop)
    gone = (outputs == 0).all(axis=1)
    np.testing.assert_array_equal(outputs, np.where(gone[:, None], 0, inputs))
    assert gone.sum(axis=1).max() == 3
    # Of four the one that is left when all would go comes back.
    wanted = drop - drop**4 / 4
    assert gone.mean() == pytest.approx(wanted, abs=0.02)


def test_the_same_seed_draws_the_same_and_a_kept_state_goes_on(tmp_path):
    inputs, options = series(8), {"time_drop": 0.3, "band_drop": 0.2}
    np.testing.assert_array_equal(changed(inputs, **options), changed(inputs, **options))
    layer = SensorJitter(seed=1, **options)
    first = np.array(layer(inputs, training=True))
    assert (first != np.array(layer(inputs, training=True))).any()
    model = keras.Sequential([keras.Input((WIDTH, 4)), SensorJitter(seed=1, **options)])
    model(inputs, training=True)
    model.save(tmp_path / "jitter.keras")
    again = keras.models.load_model(tmp_path / "jitter.keras")
    assert again.layers[0].get_config() == model.layers[0].get_config()
    for own, kept in zip(again.variables, model.variables, strict=True):  # as a checkpoint does
        own.assign(kept)
    np.testing.assert_array_equal(again(inputs, training=True), model(inputs, training=True))
    keras.utils.set_random_seed(3)
    one = np.array(SensorJitter()(inputs, training=True))
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(SensorJitter()(inputs, training=True), one)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_gives_the_same_up_to_rounding(policy):
    inputs, options = series(), {"gain": 0.2, "time_drop": 0.3, "band_drop": 0.2}
    outputs = SensorJitter(seed=1, dtype=policy, **options)(inputs, training=True)
    assert outputs.dtype == policy[6:]
    outputs = keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float32"))
    rounding = 0.005 if policy == "mixed_float16" else 0.04
    np.testing.assert_allclose(outputs, changed(inputs, **options), atol=rounding)


def test_it_works_in_a_graph_of_any_batch_and_width():
    layer = SensorJitter(time_drop=0.5, band_drop=0.5)
    assert layer.compute_output_shape((None, None, 6)) == (None, None, 6)
    symbolic = layer(keras.Input((1, None, 6)))
    assert symbolic.shape == (None, 1, None, 6)
    signature = [tf.TensorSpec((None, 1, None, 6), "float32")]
    function = tf.function(lambda x: layer(x, training=True), signature)
    assert function(series(3, 6, (1, 17))).shape == (3, 1, 17, 6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gain": 1.5}, "gain=1.5: use a number from 0 to 1, or two numbers from -1 to 1"),
        ({"gain": -0.1}, "gain=-0.1: use a number from 0 to 1"),
        ({"offset": [0.2, 0.1]}, "the lower one first"),
        ({"time_drop": [-0.1, 0.1]}, "two numbers from 0 to 1"),
        ({"time_drop": [0.1]}, "two numbers from 0 to 1"),
        ({"band_drop": 2}, "band_drop=2: use a number from 0 to 1"),
    ],
)
def test_an_argument_out_of_its_range_is_named(options, words):
    with pytest.raises(ValueError, match=words):
        SensorJitter(**options)
