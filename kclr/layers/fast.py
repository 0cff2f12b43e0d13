"""The two parts of a training step that TensorFlow has faster forms of, on a CPU, than Keras takes.

Both give Keras' own numbers up to rounding; `tools/bench` measures them.
"""

import contextlib
import contextvars
import math

import keras
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable(package="kclr")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras' batch normalisation of maps, in training by TensorFlow's fused kernel.

    Args, weights, config: those of `keras.layers.BatchNormalization`. Inputs are float (batch,
    height, width, channels), normalised by channel; float64, a mask or `renorm` take Keras' way.
    """

    def call(self, inputs, training=None, mask=None):
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        plain = mask is None and not getattr(self, "renorm", False) and not self.synchronized
        if not (training and self.trainable and plain and dtype != "float64"):
            return super().call(inputs, training=training, mask=mask)
        empty = tf.zeros((0,), "float32")
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=empty,
            variance=empty,
            epsilon=self.epsilon,
            is_training=True,
        )
        # TensorFlow's variance has count - 1 in the denominator, Keras' has the count.
        count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:3]), "float32")
        variance *= (count - 1) / count
        for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + tf.stop_gradient(new) * (1 - self.momentum))
        return ops.cast(outputs, self.compute_dtype)


def several_replicas() -> bool:
    """Whether what is made now will be trained on several devices (`tf.distribute`), where batch
    normalisation needs the statistics of all."""
    return tf.distribute.get_strategy().num_replicas_in_sync > 1


# Numbers of a kernel from which a core's cache does not hold it, and places of a map up to which an
# image has too little to do with it.
_LARGE_KERNEL, _FEW_PLACES = 2**20, 32
_as_usual = contextvars.ContextVar("kclr_usual_convolutions", default=False)


@contextlib.contextmanager
def usual_convolutions(wanted=True):
    """While the block runs, what is traced has TensorFlow's own convolutions: for XLA, which is as
    fast with them, and for files that other programs read.

    Args:
        wanted: bool, false for no difference.
    """
    token = _as_usual.set(bool(wanted) or _as_usual.get())
    try:
        yield
    finally:
        _as_usual.reset(token)


def why_windows(size, kernel, strides, padding, dtype) -> str:
    """Why a convolution is taken as one product of matrices, in words; "" where it is TensorFlow's.

    This depends on the sizes alone and not on the processor, so that a training goes on with the
    same numbers wherever it is resumed. oneDNN reads and writes the whole kernel for each image of
    a batch, and where few places of its map use a kernel that no cache holds, that is all that it
    does: measured with 3x3 kernels of 768 into 1,536 channels on maps of 4x4, twice to 25 times
    the time of the product, on processors with AVX2, AVX-512 and AMX. In bfloat16 its gradient of
    any wide kernel takes several times what the product's does.

    Args:
        size: (int, int), height and width of the input; None where not known.
        kernel: (int, int, int, int), shape of the kernel: height, width, channels, filters.
        strides: (int, int). padding: "valid" or "same". dtype: of the input.
    """
    dtype = keras.backend.standardize_dtype(dtype)
    if _as_usual.get():
        return ""
    if dtype == "bfloat16" and kernel[2] >= 64 and padding == "valid" and tuple(strides) == (1, 1):
        return f"bfloat16 and {kernel[2]} channels"
    numbers = math.prod(kernel)
    if None in size or numbers < _LARGE_KERNEL or tf.config.list_physical_devices("GPU"):
        return ""
    rows, columns = (_places(*each, padding) for each in zip(size, kernel, strides, strict=False))
    if rows * columns > _FEW_PLACES:
        return ""
    return f"{numbers:,} numbers of a kernel for {rows}x{columns} places of a map"


def convolution(inputs, kernel, strides, padding):
    """A convolution, as one product of matrices where that is faster (see `why_windows`).

    The windows side by side take the memory of the inputs times the kernel's area.

    Args:
        inputs: float (batch, height, width, channels).
        kernel: float (kernel height, kernel width, channels, filters), of the same dtype.
        strides: (int, int). padding: "valid" or "same".

    Returns:
        float (batch, height, width, filters).
    """
    height, width, _, filters = kernel.shape
    if not why_windows(inputs.shape[1:3], kernel.shape, strides, padding, inputs.dtype):
        return ops.conv(
            inputs, kernel, strides=strides, padding=padding, data_format="channels_last"
        )
    sizes = [ops.shape(inputs)[axis] for axis in (1, 2)]
    rows, columns = (
        _places(*each, padding) for each in zip(sizes, (height, width), strides, strict=True)
    )
    # From the first place of a window to behind the last one.
    down, right = (
        (count - 1) * step + 1 for count, step in zip((rows, columns), strides, strict=True)
    )
    if padding == "same":
        around = zip((down, right), (height, width), sizes, strict=True)
        missing = [max(0, reach + extent - 1 - own) for reach, extent, own in around]
        inputs = ops.pad(
            inputs, [(0, 0), *((each // 2, each - each // 2) for each in missing), (0, 0)]
        )
    windows = ops.concatenate(
        [
            inputs[:, y : y + down : strides[0], x : x + right : strides[1]]
            for y in range(height)
            for x in range(width)
        ],
        axis=-1,
    )
    return ops.matmul(windows, ops.reshape(kernel, (-1, filters)))


def _places(size, extent, step, padding):
    """How many windows of `extent` cells fit side by side, every `step` cells."""
    return -(-size // step) if padding == "same" else (size - extent) // step + 1
