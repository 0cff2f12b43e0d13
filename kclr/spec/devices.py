"""What does not work on several devices (`train.distribute`): what would train differently than on
one device, and what TensorFlow refuses."""

from kclr.spec.schema import Spec
from kclr.spec.wording import Finding, shown

_PART_ONLY = ("clipnorm", "global_clipnorm", "clipvalue")
_REFUSED = ("gradient_accumulation_steps", "ema_overwrite_frequency")


def device_findings(spec: Spec) -> list[Finding]:
    """Errors in a spec that is trained on several devices."""
    if spec.train.distribute == "none":
        return []
    findings = []
    for _, index in spec.trainings():
        layer = spec.stack[index]
        if not layer.learner.contrastive:
            continue
        path = ("stack", index, "train")
        if layer.train.jit is True:
            words = "XLA cannot be combined with tf.distribute. Use auto or false."
            findings.append(Finding((*path, "jit"), words))
        for key, value in layer.train.optimizer.config.items():
            if value is None or key not in (*_PART_ONLY, *_REFUSED):
                continue
            words = "does not work with tf.distribute"
            if key in _PART_ONLY:
                words = "would clip each device's part of the gradient instead of the gradient"
            cure = f"Remove it, or remove train.distribute: {spec.train.distribute}."
            message = f"{shown(value)} {words}. {cure}"
            findings.append(Finding((*path, "optimizer", "config", key), message))
        queue = getattr(layer.objective, "queue_size", 0)
        if queue and not spec.train.gather:
            words = (
                f"{queue}: without train.gather each device would have its own queue, but only "
                "one is saved. Use 0, or gather: true."
            )
            findings.append(Finding(("stack", index, "objective", "queue_size"), words))
    return findings
