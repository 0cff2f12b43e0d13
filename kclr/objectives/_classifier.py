"""A small classifier as variables of an objective: trained, saved and restored with the model, and
left behind after training like a projection head."""

import itertools
from collections.abc import Sequence
from typing import Any


def variables(inputs: int, hidden: Sequence[int], classes: int) -> dict[str, dict[str, Any]]:
    """What an objective's `state` returns for a classifier of dense layers, with ReLU between them.

    It begins with equal scores for all classes, so that the loss begins at log(classes).

    Args:
        inputs: numbers of an example.
        hidden: widths of the layers before the last one.
        classes: number of classes.

    Returns:
        the arguments of Keras' `add_weight` by name: `kernel0`, `bias0`, `kernel1`, ...
    """
    found: dict[str, dict[str, Any]] = {}
    widths = [inputs, *hidden, classes]
    for index, (own, following) in enumerate(itertools.pairwise(widths)):
        last = index == len(hidden)
        start = "zeros" if last else "glorot_uniform"
        found[f"kernel{index}"] = {"shape": (own, following), "initializer": start}
        found[f"bias{index}"] = {"shape": (following,), "initializer": "zeros"}
    return found


def scores(state, examples):
    """The classifier's scores.

    Args:
        state: the values of `variables` by name.
        examples: float (examples, inputs).

    Returns:
        float (examples, classes).
    """
    from keras import ops

    for index in range(len(state) // 2):
        examples = ops.relu(examples) if index else examples
        examples = ops.matmul(examples, state[f"kernel{index}"]) + state[f"bias{index}"]
    return examples


def cross_entropy(scored, labels):
    """`-log softmax(scores)[label]` of each example.

    Args:
        scored: float (examples, classes). labels: int32 (examples,).

    Returns:
        float (examples,), and whether the right class has the highest score: float, 0 or 1.
    """
    from keras import ops

    losses = ops.sparse_categorical_crossentropy(labels, scored, from_logits=True)
    right = ops.equal(ops.cast(ops.argmax(scored, axis=-1), "int32"), labels)
    return losses, ops.cast(right, scored.dtype)


def given(objective, state):
    """The values of an objective's variables, where they are all there.

    Raises:
        ValueError: some are missing.
    """
    state = state or {}
    missing = objective.state(1).keys() - state.keys()
    if missing:
        raise ValueError(
            f"{objective.part_name} needs its variables ({', '.join(sorted(missing))}): compile a "
            "TripletModel with this loss."
        )
    return state
