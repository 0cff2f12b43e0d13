"""Restarting dead filters while their layer is trained."""

import keras
import numpy as np

from kclr.whitening import idle_filters, unit


class Reseed(keras.callbacks.Callback):
    """Restarts dead filters after every `every` steps of a `fit` of one epoch.

    A dead filter gets a random direction in the space in which its block learns (of whitened
    windows, if it whitens), with the median length of the others; a bias of 0; and the initial
    batch normalisation and optimizer moments. All of this depends only on the seed and the step, so
    that a resumed training gets the same filters.

    Args:
        blocks: the built `ContrastiveConvBlock`s that are trained, from the image upwards.
        answers: function that returns for each of them the filters' responses to a fixed set of
            images: float (windows, filters). Dead is as `kclr.whitening.idle_filters` has it.
        every: int, steps between two looks; those of `StepHistory`, and before it in the list.
        total: int, steps of the whole training. There is no look after the last.
        seed: int.
        counts: keras.Variable, int (blocks,), to which the restarted filters are added; of the
            model, so that its checkpoint has them.
        start: int, steps done before this training.
    """

    def __init__(self, blocks, answers, every, total, seed, counts, start=0):
        super().__init__()
        self.blocks, self.answers, self.counts = blocks, answers, counts
        self.every, self.total, self.seed, self.start = every, total, seed, start

    def on_train_batch_end(self, batch, logs=None):
        step = self.start + batch + 1
        if step % self.every or step >= self.total:
            return
        counts = keras.ops.convert_to_numpy(self.counts).copy()
        for index, (block, answers) in enumerate(zip(self.blocks, self.answers(), strict=True)):
            dead, _ = idle_filters(answers)
            if dead:
                random = np.random.default_rng([self.seed, step, index])
                restart(block, dead, random, self.model.optimizer)
                counts[index] += len(dead)
        self.counts.assign(counts)


def restart(block, filters, random, optimizer):
    """Restart some filters of a block from a random direction.

    Args:
        block: built ContrastiveConvBlock.
        filters: list of int.
        random: numpy Generator.
        optimizer: the built Keras optimizer that trains it.
    """
    kernel = keras.ops.convert_to_numpy(block.kernel)
    lengths = np.linalg.norm(kernel.reshape(-1, block.filters), axis=0)
    others = np.delete(lengths, filters)
    length = np.median(others if others.any() else lengths) or 1.0
    drawn = unit(random.standard_normal((len(filters), kernel[..., 0].size))).T * length
    changed = [(block.kernel, drawn.reshape(*kernel.shape[:3], -1))]
    normed = block.normalization
    if normed is not None:
        changed += [(normed.gamma, 1.0), (normed.beta, 0.0)]
        changed += [(normed.moving_mean, 0.0), (normed.moving_variance, 1.0)]
    elif block.use_bias:
        changed.append((block.bias, 0.0))
    for variable, value in changed:
        _put(variable, filters, value)
        for slot, fresh in _slots(optimizer, variable):
            _put(slot, filters, keras.ops.convert_to_numpy(fresh)[..., filters])


def _put(variable, filters, value):
    array = keras.ops.convert_to_numpy(variable).copy()
    array[..., filters] = value
    variable.assign(array)


def _slots(optimizer, variable):
    """An optimizer's state for a variable, and its initial value.

    Keras has no public way to an optimizer's variables by the weight that they belong to.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of mixed_float16
    trained = optimizer._trainable_variables
    places = [index for index, each in enumerate(trained) if each is variable]
    if not places:
        return
    new = type(optimizer).from_config(optimizer.get_config())
    new.build([variable])
    for name, held in vars(optimizer).items():
        if not isinstance(held, list) or len(held) != len(trained) or name == "_variables":
            continue
        slot = held[places[0]]
        if slot is None or slot is variable or tuple(slot.shape) != tuple(variable.shape):
            continue
        # The running mean of the weights themselves is no moment.
        mean = name == "_model_variables_moving_average"
        yield slot, variable if mean else vars(new)[name][0]
