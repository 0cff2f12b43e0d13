"""Optimizers, schedules and augmentations of specs as Keras applies them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from kclr.data.checks import load_checked
from kclr.errors import SpecError
from kclr.keras_backend import dtype_policy
from kclr.spec import keras_arguments, keras_parts, parse_spec
from kclr.spec.checks import colour_findings
from kclr.spec.keras_arguments import ARGUMENTS
from kclr.training.keras_objects import (
    augmentation_problem,
    keras_augmentation,
    keras_optimizer,
)

# What an older Keras cannot, a newer one can; `stack.train` tries before a training starts.
OLDER = keras.__version__.split(".")[:2] != keras_arguments.VERSION.split(".")
FACTORS = {"stddev": 0.1, "RandomPosterization": 4}


def layer_of(inside, above="data: photos"):
    return parse_spec(f"{above}\nstack: [{{{inside}}}]").stack[0]


def rates(config, total, class_name="CosineDecay"):
    """The learning rate before each step, and after the last."""
    written = {"class_name": class_name, "config": config}
    spec = {"class_name": "SGD", "config": {"learning_rate": written}}
    layer = layer_of(f"train: {{optimizer: {yaml.safe_dump(spec, default_flow_style=True)}}}")
    schedule = keras_optimizer(layer.train.optimizer, total).learning_rate
    assert float(schedule) >= 0
    made = keras_optimizer(layer.train.optimizer, total)._learning_rate
    return [float(made(step)) for step in range(total + 1)]


def cosine(step, total, rate=0.1):
    return rate * 0.5 * (1 + np.cos(np.pi * step / total))


@pytest.mark.parametrize("decay", [{"decay_steps": 1.0}, {"decay_steps": 200}, {}])
def test_a_decay_over_the_whole_training_ends_with_it(decay):
    found = rates({"initial_learning_rate": 0.1} | decay, 200)
    np.testing.assert_allclose(found, cosine(np.arange(201), 200), atol=1e-7)


@pytest.mark.parametrize("warmup", [0.5, 100])
def test_a_decay_after_a_warm_up_ends_with_the_training(warmup):
    config = {"initial_learning_rate": 0, "warmup_target": 0.1, "warmup_steps": warmup}
    found = rates(config, 200)
    np.testing.assert_allclose(found[:101], np.arange(101) / 1000, atol=1e-7)
    np.testing.assert_allclose(found[100:], cosine(np.arange(101), 100), atol=1e-7)


def test_shares_and_numbers_of_steps_mean_the_same_in_every_schedule():
    for name, kinds in ARGUMENTS["keras.optimizers.schedules"].items():
        given = {"initial_learning_rate": 1, "decay_rate": 0.5, "values": [1, 0.5], "name": "a"}
        config = {key: value for key, value in given.items() if f"{key}=" in kinds}
        steps = {word.split("=")[0] for word in kinds.split() if "steps" in word.split("=")[1]}
        shares, counts = dict.fromkeys(steps, 0.25), dict.fromkeys(steps, 10)
        if "boundaries=" in kinds:
            config.pop("decay_steps", None)
            shares, counts = {"boundaries": [0.25]}, {"boundaries": [10]}
        assert shares, name
        assert rates(config | shares, 40, name) == rates(config | counts, 40, name), name


def test_whole_numbers_stand_for_numbers():
    layer = layer_of(
        "train: {optimizer: {class_name: SGD, config: {learning_rate: 1, momentum: 0}}}"
    )
    assert float(keras_optimizer(layer.train.optimizer, 10).learning_rate) == 1.0


def augmentation_of(name):
    """The shortest config of an augmentation, and for a jitter all that it does."""
    kinds = dict(word.split("=") for word in ARGUMENTS["keras.layers"][name].split())
    config = {
        key: FACTORS.get(key, FACTORS.get(name, 0.3))
        for key, kind in kinds.items()
        if "!" in kind or (name == "RandomColorJitter" and key.endswith("_factor"))
    }
    written = yaml.safe_dump([{"class_name": name, "config": config}], default_flow_style=True)
    return layer_of(f"patches: {{augment: {written}}}").patches


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", keras_parts.AUGMENTATIONS)
def test_what_check_passes_keras_applies(name, channels):
    if not hasattr(keras.layers, name):
        pytest.skip(f"Keras {keras.__version__} has no {name}")
    patches = augmentation_of(name)
    images = np.random.default_rng(0).random((6, 9, 9, channels), "float32")
    cannot = bool(colour_findings(patches.augment, channels))
    assert not cannot or channels == 1
    for precision in ("float32", "mixed_bfloat16", "mixed_float16"):
        with dtype_policy(precision):
            augment = keras_augmentation(patches.augment)
            try:
                if precision == "mixed_float16":  # as in a training: in a graph, of any batch
                    shape = tf.TensorSpec((None, 9, 9, channels), "float16")
                    function = tf.function(lambda x: augment(x, training=True), [shape])  # noqa: B023
                    changed = function(tf.cast(images, "float16"))
                else:
                    changed = augment(images, training=True)
            except Exception:
                if not cannot and OLDER:
                    pytest.skip(f"Keras {keras.__version__} cannot apply its {name}")
                assert cannot
                continue
        assert not cannot
        assert changed.shape == images.shape
        assert changed.dtype == ("bfloat16" if precision == "mixed_bfloat16" else "float32")
        assert np.isfinite(keras.ops.cast(changed, "float32")).all()


def test_what_xla_does_not_compile_is_known():
    for name in ("RandomErasing", keras_parts.NOT_COMPILED[-1]):
        augment = keras_augmentation(augmentation_of(name).augment)
        augment.build((6, 9, 9, 3))
        function = tf.function(lambda x: augment(x, training=True), jit_compile=True)  # noqa: B023
        if name not in keras_parts.NOT_COMPILED:
            assert function(tf.zeros((6, 9, 9, 3))).shape == (6, 9, 9, 3)
            continue
        with pytest.raises(tf.errors.InvalidArgumentError):
            function(tf.zeros((6, 9, 9, 3)))


def test_colours_of_gray_images_are_refused_by_check(tmp_path):
    path = tmp_path / "gray.yaml"
    augment = "[RandomFlip, {class_name: RandomHue, config: {factor: 1}}]"
    path.write_text(
        f"data: {{source: photos, channels: 1}}\nstack: [{{patches: {{augment: {augment}}}}}]"
    )
    words = r"augment\.1: RandomHue changes colours, but the images are gray\. Use RandomBright"
    with pytest.raises(SpecError, match=words):
        load_checked(path)


def test_an_augmentation_that_keras_cannot_apply_is_named_before_a_training_starts():
    @keras.saving.register_keras_serializable("broken")
    class Broken(keras.layers.Layer):
        def call(self, inputs, training=False):
            raise RuntimeError("no such thing")

    patches = layer_of("patches: {augment: ['broken>Broken']}").patches
    words = augmentation_problem(patches, 8, 3)
    assert words.startswith(f"Keras {keras.__version__} cannot apply them: RuntimeError: ")
    assert "no such thing" in words
    assert augmentation_problem(layer_of("patches: {augment: [RandomFlip]}").patches, 8, 1) is None
    smaller = "[RandomFlip, {class_name: 'broken>Smaller', config: {cropping: 1}}]"

    @keras.saving.register_keras_serializable("broken")
    class Smaller(keras.layers.Cropping2D):
        pass

    words = augmentation_problem(layer_of(f"patches: {{augment: {smaller}}}").patches, 8, 1)
    assert words == "patches of 8x8x1 become 6x6x1. Use augmentations that keep the size."
