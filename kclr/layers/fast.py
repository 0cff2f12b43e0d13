"""The two parts of a training step that TensorFlow has faster forms of, on a CPU, than Keras takes.

Both give Keras' own numbers up to rounding; `tools/bench` measures them.
"""

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


def convolution(inputs, kernel, strides, padding):
    """A convolution, as one product of matrices where that is faster.

    In bfloat16 oneDNN's gradient of a kernel takes several times what the forward pass does; the
    gradient of a product does not. The windows side by side take the memory of the inputs times the
    kernel's area.

    Args:
        inputs: float (batch, height, width, channels).
        kernel: float (kernel height, kernel width, channels, filters), of the same dtype.
        strides: (int, int). padding: "valid" or "same".

    Returns:
        float (batch, height, width, filters).
    """
    height, width, channels, filters = kernel.shape
    wide = channels >= 64 and keras.backend.standardize_dtype(inputs.dtype) == "bfloat16"
    if not wide or padding != "valid" or tuple(strides) != (1, 1):
        return ops.conv(
            inputs, kernel, strides=strides, padding=padding, data_format="channels_last"
        )
    rows, columns = (ops.shape(inputs)[axis] - size + 1 for axis, size in ((1, height), (2, width)))
    windows = ops.concatenate(
        [inputs[:, y : y + rows, x : x + columns] for y in range(height) for x in range(width)],
        axis=-1,
    )
    return ops.matmul(windows, ops.reshape(kernel, (-1, filters)))
