"""DropColors: in training, all channels of an image but one are replaced by noise."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="kclr")
class DropColors(keras.layers.Layer):
    """Keeps one channel of each image, drawn at random, and replaces the others by noise.

    Against shortcuts through colour, such as chromatic aberration, which tells where in a
    photograph a patch is from (Doersch et al. 2015, "Unsupervised visual representation learning
    by context prediction", section 3.1). The noise has the mean of the channel that stays, and
    `noise` times its standard deviation. Only in training; images of one channel do not change.

    Args:
        noise: float from 0 to 1, a share of the kept channel's standard deviation.
        seed: int or None.

    Input: float (batch, ..., width, channels). Output: of that shape and of the compute dtype.

    Raises:
        ValueError: `noise` is out of its range.
    """

    def __init__(self, noise=0.01, seed=None, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= noise <= 1:
            raise ValueError(f"noise={noise}: use a number from 0 to 1")
        self.noise, self.seed = noise, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=False):
        if not training or inputs.shape[-1] == 1:
            return inputs
        images = ops.cast(inputs, "float32")
        channels = inputs.shape[-1]
        each = (ops.shape(inputs)[0], *(1,) * (len(inputs.shape) - 2))
        drawn = keras.random.uniform((*each, channels), seed=self.seed_generator, dtype="float32")
        stays = drawn == ops.max(drawn, axis=-1, keepdims=True)
        kept = ops.sum(ops.where(stays, images, 0.0), axis=-1, keepdims=True)
        axes = tuple(range(1, len(inputs.shape) - 1))
        mean = ops.mean(kept, axis=axes, keepdims=True)
        deviation = ops.std(kept, axis=axes, keepdims=True)
        random = keras.random.normal(ops.shape(inputs), seed=self.seed_generator, dtype="float32")
        noise = mean + self.noise * deviation * random
        return ops.cast(ops.where(stays, images, noise), inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {"noise": self.noise, "seed": self.seed}
