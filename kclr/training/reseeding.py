"""Dead filters that are started anew while their layer is trained."""

import keras
import numpy as np

from kclr.whitening import idle_filters, unit


class Reseed(keras.callbacks.Callback):
    """Starts filters anew that have died, after every so many steps of a `fit` of one epoch.

    A dead filter gets a random direction in the space in which its block learns (of whitened
    windows, where that whitens), as long as the median of the others is; a bias of 0; the batch
    normalisation and the optimizer's moments of a filter that was never trained. All of it is a
    function of the seed and the step, so that a training that was resumed finds the same.

    Args:
        blocks: the built `ContrastiveConvBlock`s that are trained, from the image upwards.
        answers: function that returns for each of them what its filters answer to the same images
            as ever: float (windows, filters). Dead is as `kclr.whitening.idle_filters` has it.
        every: int, steps between two looks; those of `StepHistory`, and before it in the list.
        total: int, steps of the whole training. There is no look after the last.
        seed: int.
        counts: keras.Variable, int (blocks,), to which the filters that were started anew are
            added; of the model, so that its checkpoint has them.
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
                start_anew(block, dead, random, self.model.optimizer)
                counts[index] += len(dead)
        self.counts.assign(counts)


def start_anew(block, filters, random, optimizer):
    """Give some filters of a block a random direction, and forget what was learned of them.

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
    """What an optimizer holds of a variable, number by number, and what it would hold at first.

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
