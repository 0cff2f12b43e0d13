"""Augmentations of Keras that do not fit the images or how training is compiled."""

from collections.abc import Iterable

from kclr.spec.keras_names import COLOURED, COLOURED_ARGUMENTS, NOT_COMPILED
from kclr.spec.keras_parts import KerasObject
from kclr.spec.schema import Spec
from kclr.spec.wording import Finding


def colour_findings(augment: Iterable[KerasObject], channels: int, *path) -> list[Finding]:
    """Colour augmentations of gray images.

    Args:
        augment: the augmentations.
        channels: of the images.
        *path: the key path of the augmentations in the spec.
    """
    findings = []
    for index, augmentation in enumerate(augment if channels != 3 else ()):
        name, place = augmentation.class_name, (*path, index)
        words = (
            f"{name} changes colours, but the images are gray. Use RandomBrightness or "
            "RandomContrast, or set data.channels to 3."
        )
        if name in COLOURED:
            findings.append(Finding(place, words))
        for key in COLOURED_ARGUMENTS.get(name, ()):
            if augmentation.config.get(key) is not None:
                words = f"{name} changes colours with it, but the images are gray. Remove it."
                findings.append(Finding((*place, "config", key), words))
    return findings


def compile_findings(spec: Spec) -> list[Finding]:
    """Augmentations that XLA cannot compile, if the spec asks for XLA."""
    findings = []
    for index, layer in enumerate(spec.stack):
        names = [one.class_name for one in layer.patches.augment if one.class_name in NOT_COMPILED]
        if layer.train.jit is True and names:
            words = f"XLA cannot compile {names[0]}. Use auto or false."
            findings.append(Finding(("stack", index, "train", "jit"), words))
    return findings
