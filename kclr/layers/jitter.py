"""SensorJitter: in training, what differs from sensor to sensor and fails in them."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="kclr")
class SensorJitter(keras.layers.Layer):
    """Changes each channel's gain and offset, and drops stretches of time and whole channels.

    What `RandomColorJitter` is to photographs, for series, spectrograms and images of any channels:
    no sensor has the gain and the zero of the next one, and some of its numbers are missing. (For
    noise there is `keras.layers.GaussianNoise`.) In training, and in this order, for each example:

    - gain and offset: each channel becomes `(1 + gain) * channel + offset`;
    - time drop-out: a stretch along the width gets, in each channel, the example's mean (Park et
        al. 2019, SpecAugment, section 2);
    - band drop-out: channels become 0, each by itself; one of them always stays.

    Else it changes nothing.

        keras.layers.Conv1D(64, 9)(SensorJitter(gain=0.2, time_drop=0.3)(series))

    Args:
        gain: float from 0 to 1, drawn from [-gain, gain]; or the two ends, from -1 to 1. One for
            each example and channel.
        offset: float from 0 to 1, drawn from [-offset, offset], or the two ends, from -1 to 1, in
            the input's own unit: a share of the range of values in [0, 1], and a share of a
            standard deviation where they were standardised.
        time_drop: float from 0 to 1, the longest stretch as a share of the width, its share drawn
            from [0, time_drop]; or the two ends.
        band_drop: float from 0 to 1, the probability that a channel becomes 0.
        seed: int or None.

    Input: float (batch, ..., width, channels), channels last: images (batch, height, width,
    channels) or series (batch, length, channels). Output: of that shape and of the compute dtype.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, gain=0.1, offset=0.1, time_drop=0.0, band_drop=0.0, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.gain, self._gain = gain, _ends(gain, "gain", -1)
        self.offset, self._offset = offset, _ends(offset, "offset", -1)
        self.time_drop, self._time_drop = time_drop, _ends(time_drop, "time_drop", 0)
        if not 0 <= band_drop <= 1:
            raise ValueError(f"band_drop={band_drop}: use a number from 0 to 1")
        self.band_drop, self.seed = band_drop, seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True

    def _draw(self, shape, low, high):
        # In float32 whatever is computed in: float16 has few numbers between two ends.
        return keras.random.uniform(shape, low, high, dtype="float32", seed=self.seed_generator)

    def call(self, inputs, training=False):
        if not training:
            return inputs
        outputs, places = inputs, (1,) * (len(inputs.shape) - 2)
        batch, channels = ops.shape(inputs)[0], inputs.shape[-1]
        each = (batch, *places, channels)
        if self._gain != (0, 0):
            outputs = outputs * ops.cast(1 + self._draw(each, *self._gain), outputs.dtype)
        if self._offset != (0, 0):
            outputs = outputs + ops.cast(self._draw(each, *self._offset), outputs.dtype)
        if self._time_drop != (0, 0):
            dropped = self._dropped_stretch((batch, *places, 1), ops.shape(inputs)[-2])
            axes = tuple(range(1, len(inputs.shape) - 1))
            mean = ops.mean(ops.cast(outputs, "float32"), axis=axes, keepdims=True)
            outputs = ops.where(dropped, ops.cast(mean, outputs.dtype), outputs)
        if self.band_drop:
            drawn = self._draw(each, 0, 1)
            stays = (drawn >= self.band_drop) | (drawn == ops.max(drawn, axis=-1, keepdims=True))
            outputs = outputs * ops.cast(stays, outputs.dtype)
        return outputs

    def _dropped_stretch(self, each, width):
        """Bool (batch, ..., width, 1), of one stretch in each example."""
        width = ops.cast(width, "float32")
        length = self._draw(each, *self._time_drop) * width
        start = self._draw(each, 0, 1) * (width - length)
        middles = ops.reshape(ops.arange(width, dtype="float32") + 0.5, (-1, 1))
        return (middles >= start) & (middles < start + length)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {
            "gain": self.gain,
            "offset": self.offset,
            "time_drop": self.time_drop,
            "band_drop": self.band_drop,
            "seed": self.seed,
        }


def _ends(value, name, lowest):
    """The two ends of what is drawn, of a number or of two."""
    if isinstance(value, (list, tuple)):
        low, high = value if len(value) == 2 else (1, 0)
    else:
        low, high = (-value if lowest < 0 else 0), value
    if not lowest <= low <= high <= 1:
        raise ValueError(
            f"{name}={value}: use a number from 0 to 1, or two numbers from {lowest} to 1, the "
            "lower one first"
        )
    return float(low), float(high)
