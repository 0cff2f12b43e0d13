"""What the precision `auto` stands for, layer by layer."""

from collections.abc import Mapping

from kclr.spec.schema import Spec

AUTO, PRECISIONS = "auto", ("float32", "mixed_bfloat16", "mixed_float16")
# Channels of a layer's input, below which its convolution is no faster in bfloat16: measured.
_WIDE = 64


def settled(spec: Spec, units: bool, before: Mapping[str, str] | None = None) -> Spec:
    """A spec that says the precision of each layer.

    `auto` is `mixed_bfloat16` above a layer of 64 filters or more, where the device has units for
    it, and `float32` elsewhere.

    Args:
        spec: from `kclr.load_spec`.
        units: whether the device that trains has units for bfloat16 (see
            `kclr.keras_backend.bfloat16_units`).
        before: by a layer's name the precision in which its run was begun, which it keeps.
    """
    stack, before = list(spec.stack), before or {}
    for index, layer in enumerate(stack):
        if layer.learner.contrastive and layer.train.precision == AUTO:
            wide = index > 0 and stack[index - 1].block.filters >= _WIDE
            own = "mixed_bfloat16" if units and wide else "float32"
            train = layer.train.model_copy(update={"precision": before.get(layer.name or "", own)})
            stack[index] = layer.model_copy(update={"train": train})
    return spec.model_copy(update={"stack": tuple(stack)})


def precisions(spec: Spec) -> dict[str, str]:
    """The precision of each layer that takes steps, by its name."""
    return {
        layer.name or "": layer.train.precision for layer in spec.stack if layer.learner.contrastive
    }
