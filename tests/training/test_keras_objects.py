"""Optimizers, schedules and augmentations of specs as Keras applies them."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from kclr.data.checks import load_checked
from kclr.errors import SpecError
from kclr.keras_backend import dtype_policy
from kclr.spec import keras_arguments, keras_parts, parse_spec
from kclr.spec.checks import augmentation_findings
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
    kinds = keras_parts.Augmentation.arguments(name)
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
    cannot = bool(augmentation_findings(patches.augment, channels))
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


@pytest.mark.parametrize("name", keras_parts.Augmentation.names)
def test_what_check_passes_for_many_channels_and_series_keras_applies(name):
    if not hasattr(keras.layers, name) and name not in keras_parts.OWN_LAYERS:
        pytest.skip(f"Keras {keras.__version__} has no {name}")
    patches = augmentation_of(name)
    for shape in ((9, 9, 2), (9, 9, 6), (1, 40, 1), (1, 40, 3), (1, 40, 6)):
        if augmentation_findings(patches.augment, shape[2], series=shape[0] == 1):
            continue
        images = np.random.default_rng(0).random((6, *shape), "float32")
        try:
            changed = keras_augmentation(patches.augment)(images, training=True)
        except Exception:
            assert OLDER, (name, shape)
            continue
        assert changed.shape == images.shape
        assert np.isfinite(changed).all()


def refused(augment, channels, **how):
    written = yaml.safe_dump(augment, default_flow_style=True, width=1e6)
    patches = layer_of(f"patches: {{augment: {written}}}").patches
    found = augmentation_findings(patches.augment, channels, **how)
    return {".".join(map(str, each.path)): each.message for each in found}


def test_colours_of_many_channels_and_of_series_are_refused_with_what_to_use():
    hue = {"class_name": "RandomHue", "config": {"factor": 0.2}}
    jitter = {
        "class_name": "RandomColorJitter",
        "config": {"brightness_factor": 0.3, "hue_factor": 0.1},
    }
    augment = [hue, jitter, "RandomGrayscale", "RandAugment", "SensorJitter"]
    assert refused(augment, 3) == {}
    assert refused(augment, 6) == {
        "0": "RandomHue changes colours, but the images have 6 channels. Use SensorJitter.",
        "1.config.hue_factor": "RandomColorJitter changes colours with it, but the images have 6 "
        "channels. Remove it.",
        "2": "RandomGrayscale changes colours, but the images have 6 channels. Use SensorJitter.",
        "3": "RandAugment changes colours, but the images have 6 channels. Use SensorJitter.",
    }
    three_axes = refused(augment, 3, series=True)  # of an acceleration, and no colours
    assert (
        three_axes["0"] == "RandomHue changes colours, but the data are series. Use SensorJitter."
    )
    assert [*three_axes] == ["0", "1.config.hue_factor", "2", "3"]


def test_what_is_up_and_down_of_images_is_refused_for_series():
    def written(name, **config):
        return {"class_name": name, "config": config}

    good = [
        written("RandomFlip", mode="horizontal"),
        written("RandomTranslation", height_factor=0, width_factor=0.2),
        written("RandomZoom", height_factor=0, width_factor=0.2),
        written("RandomGaussianBlur", kernel_size=[1, 5]),
        written("GaussianNoise", stddev=0.1),
        "SensorJitter",
    ]
    assert refused(good, 1, series=True) == {}
    bad = [
        written("RandomFlip", mode="vertical"),
        written("RandomTranslation", height_factor=[0, 0.1], width_factor=0.2),
        written("RandomGaussianBlur", kernel_size=5),
        "RandomGaussianBlur",
        written("RandomRotation", factor=0.1),
    ]
    assert refused(bad, 1) == {}
    assert refused(bad, 1, series=True) == {
        "0.config.mode": "vertical: a series has no up and down. Use horizontal, which reverses "
        "time.",
        "1.config.height_factor": "[0, 0.1] moves a series off itself. Use 0; width_factor shifts "
        "it in time.",
        "2.config.kernel_size": "5 blurs a series with what is above and below it, nothing. Use "
        "[1, 5].",
        "3.config.kernel_size": "3 blurs a series with what is above and below it, nothing. Use "
        "[1, 3].",
        "4": "RandomRotation is for images of two dimensions, but the data are series. Use "
        "SensorJitter, or RandomTranslation with a height_factor of 0.",
    }


def test_a_range_of_0_to_1_is_refused_where_values_are_scaled_otherwise():
    contrast = {"class_name": "RandomContrast", "config": {"factor": 0.2}}
    ranged = {"class_name": "RandomContrast", "config": {"factor": 0.2, "value_range": [-3, 3]}}
    augment = [contrast, ranged, "SensorJitter", "RandomFlip"]
    assert refused(augment, 6) == {}
    assert refused(augment, 6, unit=False) == {
        "0": "RandomContrast takes values from 0 to 1, but those of the data are scaled otherwise. "
        "Use SensorJitter or GaussianNoise, or add its value_range."
    }


OWN = {
    "DropColors": {"noise": 1, "seed": 3},
    "SensorJitter": {
        "gain": [-1, 1],
        "offset": 1,
        "time_drop": [0, 1],
        "band_drop": 1,
        "seed": 3,
    },
}


@pytest.mark.parametrize("name", keras_parts.OWN_LAYERS)
def test_kclrs_own_layers_take_what_check_takes(name):
    layer = keras.saving.get_registered_object(f"kclr>{name}")
    known = {*inspect.signature(layer).parameters, "name", "dtype", "trainable"} - {"kwargs"}
    assert {*keras_parts.Augmentation.arguments(name)} == known
    config = OWN[name]
    augment = [{"class_name": name, "config": config}, f"kclr>{name}"]
    written = yaml.safe_dump(augment, default_flow_style=True, width=1e6)
    patches = layer_of(f"patches: {{augment: {written}}}").patches
    made = keras_augmentation(patches.augment).layers
    assert [type(each) for each in made] == [layer, layer]
    assert config.items() <= made[0].get_config().items()
    misspelt = next(iter(config))[:-1]
    for form in (name, name.lower(), f"kclr>{name}"):
        augment = f"[{{class_name: '{form}', config: {{{misspelt}: 1}}}}]"
        with pytest.raises(SpecError, match=rf"{misspelt}: unknown argument of {name}\. Did"):
            layer_of(f"patches: {{augment: {augment}}}")


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

    augment = layer_of("patches: {augment: ['broken>Broken']}").patches.augment
    words = augmentation_problem(augment, 8, 3)
    assert words.startswith(f"Keras {keras.__version__} cannot apply them: RuntimeError: ")
    assert "no such thing" in words
    flipped = layer_of("patches: {augment: [RandomFlip]}").patches.augment
    assert augmentation_problem(flipped, 8, 1) is None
    smaller = "[RandomFlip, {class_name: 'broken>Smaller', config: {cropping: 1}}]"

    @keras.saving.register_keras_serializable("broken")
    class Smaller(keras.layers.Cropping2D):
        pass

    augment = layer_of(f"patches: {{augment: {smaller}}}").patches.augment
    words = augmentation_problem(augment, 8, 1)
    assert words == "patches of 8x8x1 become 6x6x1. Use augmentations that keep the size."
