"""Optimizers, schedules and augmentations of a spec as objects of Keras."""

import contextlib
import inspect

import keras

from kclr.errors import SpecError
from kclr.spec.findings import Finding, describe
from kclr.spec.keras_parts import Optimizer
from kclr.spec.schema import Patches, Spec


def check_keras_objects(spec: Spec, name: str) -> None:
    """Make every object once, so that a wrong config is found before the first layer is trained.

    Raises:
        SpecError: Keras refuses some; the message lists all.
    """
    findings = []
    for index, layer in enumerate(spec.stack):
        for make in (
            lambda layer=layer: keras_optimizer(layer.train.optimizer, 1000),
            lambda layer=layer: keras_augmentation(layer.patches),
        ):
            try:
                make()
            except SpecError as error:
                where, _, words = str(error).partition(": ")
                findings.append(Finding(("stack", index, *where.split(".")), words))
    if findings:
        raise SpecError(describe(name, findings))


def keras_optimizer(optimizer: Optimizer, total: int):
    """Keras' optimizer, with shares of the layer's steps in its schedule turned into steps."""
    config = dict(optimizer.config)
    rate = config.get("learning_rate")
    if isinstance(rate, dict):
        schedule = dict(rate["config"])
        if rate["class_name"] in (
            "CosineDecay",
            "ExponentialDecay",
            "InverseTimeDecay",
            "PolynomialDecay",
        ):
            schedule.setdefault("decay_steps", total)
        for key in schedule:
            if key.endswith("steps") or key == "boundaries":
                schedule[key] = _in_steps(schedule[key], total)
        config["learning_rate"] = _keras_object(
            keras.optimizers.schedules,
            rate["class_name"],
            schedule,
            "train.optimizer.config.learning_rate",
        )
    return _keras_object(keras.optimizers, optimizer.class_name, config, "train.optimizer")


def _in_steps(value, total):
    if isinstance(value, list):
        return [_in_steps(item, total) for item in value]
    return round(value * total) if isinstance(value, float) and 0 < value < 1 else value


def keras_augmentation(patches: Patches):
    """The augmentations of a spec as one Keras layer, or None where there are none."""
    if not patches.augment:
        return None
    layers = []
    for index, augmentation in enumerate(patches.augment):
        config = dict(augmentation.config)
        layer_class = getattr(keras.layers, augmentation.class_name, None)
        if layer_class and "value_range" in inspect.signature(layer_class).parameters:
            config.setdefault("value_range", (0, 1))  # Keras assumes 0 to 255
        where = f"patches.augment.{index}"
        layers.append(_keras_object(keras.layers, augmentation.class_name, config, where))
    return keras.Sequential(layers)


def _keras_object(module, class_name, config, where):
    """An object of Keras, or of a registered class, from its serialised form."""
    try:
        known = keras.saving.get_registered_object(class_name) or getattr(module, class_name, None)
        if known is None:
            raise ValueError(f"{class_name} is not registered with Keras in this process")
        return known(**config)
    except (TypeError, ValueError, NotImplementedError) as error:
        reason = str(error).replace(f"{class_name}.__init__() ", "")
        raise SpecError(f"{where}: Keras does not take this {class_name}: {reason}") from None


@contextlib.contextmanager
def dtype_policy(name):
    """While the block runs, Keras builds layers with this dtype policy, as "mixed_bfloat16"."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
