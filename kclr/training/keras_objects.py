"""Optimizers, schedules and augmentations of a spec as Keras objects."""

import contextlib
import inspect
import random
from collections.abc import Sequence

import keras
import numpy as np

from kclr.errors import Finding, SpecError, reason
from kclr.keras_backend import dtype_policy
from kclr.spec.checks import augmentation_findings, augmentations
from kclr.spec.findings import refusal
from kclr.spec.geometry import layer_geometry
from kclr.spec.keras_parts import KINDS, OWN_LAYERS, KerasObject, Optimizer, Schedule
from kclr.spec.schema import Spec
from kclr.spec.values import Size, pair


def check_keras_objects(spec: Spec, name: str) -> None:
    """Make every object once, so that a wrong config is found before the first layer is trained.

    Raises:
        SpecError: Keras refuses some; the message lists all.
    """
    findings = []
    for index, layer in enumerate(spec.stack):
        for make in (
            lambda layer=layer: keras_optimizer(layer.train.optimizer, 1000),
            lambda layer=layer: keras_augmentation(layer.patches.augment),
        ):
            findings += [
                Finding(("stack", index, *found.path), found.message) for found in _refused(make)
            ]
    if spec.export.alignment:
        findings += _refused(
            lambda: keras_augmentation(spec.export.alignment.augment, _OF_ALIGNMENT)
        )
    if findings:
        raise refusal(name, findings)


_OF_ALIGNMENT = ("export", "alignment", "augment")


def _refused(make):
    try:
        make()
    except SpecError as error:
        return error.findings
    return []


def check_augmentations(spec: Spec, opened, name: str) -> None:
    """Refuse augmentations that these images do not take, or Keras cannot apply.

    Args:
        spec: from `kclr.load_spec`. opened: the images of each of its sources. name: in messages.

    Raises:
        SpecError: there are some.
    """
    findings: list[Finding] = []
    for index, layer in enumerate(spec.stack):
        images = opened[layer.data or spec.data]
        channels, unit = images.channels, images.scaled_by == "unit"
        for augment, place in augmentations(spec, index):
            found = augmentation_findings(
                augment, channels, *place, series=images.series, unit=unit
            )
            if not found and augment:
                size = (1 if images.series else 32, 32)  # of whole images, whose size may differ
                if place[0] == "stack":
                    size = layer_geometry(spec.stack, index).image_patch
                problem = augmentation_problem(augment, size, channels)
                found = [Finding(place, problem)] if problem else []
            findings += found
    if findings:
        raise refusal(name, findings)


def keras_optimizer(optimizer: Optimizer, total: int):
    """Keras' optimizer, with shares of the training's steps turned into steps.

    Args:
        optimizer: of the spec.
        total: int, all steps of the training.
    """
    place = ("train", "optimizer")
    config = _in_keras_numbers(Optimizer, optimizer.class_name, optimizer.config, total)
    rate = config.get("learning_rate")
    if isinstance(rate, dict):
        name = rate["class_name"]
        schedule = _in_keras_numbers(Schedule, name, rate["config"], total)
        if "decay_steps" in (Schedule.arguments(name) or {}):
            schedule.setdefault("decay_steps", max(1, total - (schedule.get("warmup_steps") or 0)))
        config["learning_rate"] = _keras_object(
            keras.optimizers.schedules, name, schedule, (*place, "config", "learning_rate")
        )
    return _keras_object(keras.optimizers, optimizer.class_name, config, place)


def _in_keras_numbers(part, class_name, config, total):
    """A config with shares as steps, and floats where Keras does not take whole numbers for them.

    Of a class that is not Keras' own, what is called a number of steps is one.
    """
    known = part.arguments(class_name)
    changed = {}
    for key, value in config.items():
        kind = known.get(key, "").rstrip("!?") if known else ""
        steps = kind in ("steps", "steps_or_0", "boundaries")
        if known is None:
            steps = key.endswith("steps") or key == "boundaries"
        if steps:
            value = _in_steps(value, total, least=0 if kind in ("", "steps_or_0") else 1)
        elif kind and KINDS[kind].number:
            value = [*map(_as_float, value)] if isinstance(value, list) else _as_float(value)
        changed[key] = value
    return changed


def _in_steps(value, total, least):
    if isinstance(value, (list, tuple)):
        return [_in_steps(item, total, least) for item in value]
    share = isinstance(value, float) and 0 <= value <= 1
    return max(least, round(value * total)) if share else value


def _as_float(value):
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def keras_augmentation(augment: Sequence[KerasObject], place: tuple = ("patches", "augment")):
    """The augmentations of a spec as one Keras layer, or None where there are none.

    Where the dtype policy computes in float16, which several of them do not take, they compute in
    float32.

    Args:
        augment: of the spec.
        place: their path in it, for messages.

    Raises:
        SpecError: Keras refuses one of them.
    """
    if not augment:
        return None
    policy = keras.config.dtype_policy()
    policy = "float32" if policy.compute_dtype == "float16" else policy.name
    layers = []
    for index, augmentation in enumerate(augment):
        config = dict(augmentation.config)
        layer_class = getattr(keras.layers, augmentation.class_name, None)
        if layer_class and "value_range" in inspect.signature(layer_class).parameters:
            config.setdefault("value_range", (0, 1))  # Keras assumes 0 to 255
        where = (*place, index)
        with dtype_policy(policy):
            layers.append(_keras_object(keras.layers, augmentation.class_name, config, where))
    with dtype_policy(policy):
        return keras.Sequential(layers)


def augmentation_problem(augment: Sequence[KerasObject], size: Size, channels: int) -> str | None:
    """Why Keras cannot apply the augmentations of a spec, tried once; None where it can.

    Args:
        augment: of the spec.
        size: height and width of a patch, in px.
        channels: of the images.
    """
    layers = keras_augmentation(augment)
    if layers is None:
        return None
    shape = (*pair(size), channels)
    try:
        changed = tuple(layers(keras.ops.zeros((2, *shape)), training=True).shape[1:])
    except Exception as error:  # of any kind: Keras, TensorFlow, somebody's layer
        return f"Keras {keras.__version__} cannot apply them: {reason(error)}. Use others."
    if changed != shape:
        before, after = ("x".join(map(str, each)) for each in (shape, changed))
        return f"patches of {before} become {after}. Use augmentations that keep the size."
    return None


def _keras_object(module, class_name, config, place):
    """An object of Keras, of kclr, or of a registered class, from its serialised form."""
    try:
        name = f"kclr>{class_name}" if class_name in OWN_LAYERS else class_name
        known = keras.saving.get_registered_object(name) or getattr(module, class_name, None)
        if known is None:
            raise ValueError(f"{class_name} is not registered with Keras in this process")
        return known(**config)
    except (TypeError, ValueError, NotImplementedError) as error:
        reason = str(error).replace(f"{class_name}.__init__() ", "")
        raise SpecError.at(place, f"Keras rejects this {class_name}: {reason}") from None


@contextlib.contextmanager
def globals_kept():
    """Whoever calls kclr finds the global random states of Python, numpy, TensorFlow and Keras as
    they were before, and Keras' session with its dtype policy."""
    # There is no public way to learn what these are.
    from keras.src.backend.common import global_state
    from tensorflow.python.eager import context

    trackers = {
        name: tracker
        for name, tracker in vars(global_state).items()
        if name.endswith("_TRACKER")  # newer versions of Keras have a second one
    }
    session = {name: dict(vars(tracker)) for name, tracker in trackers.items()}
    eager, numbers = context.context(), (random.getstate(), np.random.get_state())
    seed, drawn = eager._seed, getattr(eager, "_rng", None)
    try:
        yield
    finally:
        random.setstate(numbers[0])
        np.random.set_state(numbers[1])
        eager._set_global_seed(seed)
        if drawn is not None:  # as long as no seed was ever set
            eager._rng = drawn
        for name, tracker in trackers.items():
            setattr(global_state, name, tracker)
            vars(tracker).clear()
            vars(tracker).update(session[name])
