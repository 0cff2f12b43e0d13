"""ContrastiveConvBlock and its parts; trained ones on top of each other, as a plain Keras model."""

import math

import keras
import numpy as np
from keras import ops

from kclr.errors import RunError
from kclr.layers.fast import FusedBatchNormalization, convolution, several_replicas
from kclr.scaling import Scaling
from kclr.spec.values import pair, whole

_SCALING = "kclr_scaling_"  # and the type of the raw numbers: the name of a stack's first layer


def window_deviation(inputs, size, strides, padding, epsilon):
    """Standard deviation of every window of a convolution, over its pixels and channels.

    The denominator of the patch normalisation of Coates and Ng (2011, "An analysis of single-layer
    networks in unsupervised feature learning", section 3.1), from the means of all windows and of
    their squares, which two average pools give.

    Args:
        inputs: float (batch, height, width, channels).
        size: (int, int), of the window. strides: (int, int). padding: "valid" or "same"; the zeros
            of "same" belong to a window as its other pixels do.
        epsilon: float > 0, added to the variances, in the unit of the inputs squared.

    Returns:
        float (batch, height, width, 1), in float32 at least: sqrt(variance + epsilon).
    """
    inputs = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    # E[x^2] - E[x]^2 loses all its digits where the mean is large beside the deviation, so large
    # means go first; pixels from 0 to 1 have none.
    shift = ops.mean(inputs, axis=(1, 2, 3), keepdims=True)
    shift = ops.stop_gradient(ops.where(ops.abs(shift) > 1, shift, ops.zeros_like(shift)))
    inputs = inputs - shift
    moments = [ops.mean(inputs, -1, keepdims=True), ops.mean(ops.square(inputs), -1, keepdims=True)]
    moments = ops.average_pool(
        ops.concatenate(moments, axis=-1), size, strides, padding, data_format="channels_last"
    )
    if padding == "same":  # where Keras leaves the zeros out
        ones = ops.ones_like(inputs[:1, :, :, :1])
        counts = ops.conv(
            ones, ops.ones((*size, 1, 1), ones.dtype), strides, padding, "channels_last"
        )
        moments = moments * counts / (size[0] * size[1])
        zeros = ops.concatenate([-shift, ops.square(shift)], axis=-1)
        moments = moments + zeros * (1 - counts / (size[0] * size[1]))
    mean, square = moments[..., :1], moments[..., 1:]
    return ops.sqrt(ops.maximum(square - ops.square(mean), 0.0) + epsilon)


@keras.saving.register_keras_serializable(package="kclr")
class Decorrelation(keras.regularizers.Regularizer):
    """The mean squared cosine between two different filters of a kernel, times a factor.

    The soft orthogonality of Bansal et al. (2018, "Can we gain more from orthogonality
    regularizations in training deep networks?", section 3.1) without its diagonal, so that filters
    keep their lengths. It is 0 for orthogonal filters and `factor` for filters that are all equal
    or opposite; for F filters of N weights with F > N it is at least (F / N - 1) / (F - 1) of
    `factor` (Welch 1974).

    Args:
        factor: float >= 0.

    Call: a float kernel (..., filters). Returns: float scalar. Filters of length 0 count as
    orthogonal to all.

    Raises:
        ValueError: the factor is not such a number.
    """

    def __init__(self, factor=1.0):
        if not isinstance(factor, (int, float)) or not (factor >= 0 and math.isfinite(factor)):
            raise ValueError(f"factor must be a number, 0 or more; got {factor!r}")
        self.factor = float(factor)

    def __call__(self, kernel):
        filters = kernel.shape[-1]
        flat = ops.reshape(kernel, (-1, filters))
        squares = ops.sum(ops.square(flat), axis=0)
        # Safe for the gradient too: where() alone would still divide by zero.
        nothing = squares == 0
        flat = flat * ops.where(nothing, 0.0, ops.rsqrt(ops.where(nothing, 1.0, squares)))
        cosines = ops.matmul(ops.transpose(flat), flat)
        apart = ops.sum(ops.square(cosines * (1 - ops.eye(filters, dtype=cosines.dtype))))
        return self.factor * apart / max(filters * (filters - 1), 1)

    def get_config(self):
        return {"factor": self.factor}


def _choice(value, name, choices):
    if value not in choices:
        known = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be one of {known}; got {value!r}")
    return value


@keras.saving.register_keras_serializable(package="kclr")
class ContrastiveConvBlock(keras.layers.Layer):
    """A convolution, a max-pool and an activation: one layer of Zhao (2020, section 3).

    With whitening, the convolution acts on decorrelated windows of its input, and its kernel is
    learned there; `folded()` gives the kernel and bias of the plain convolution that does the same
    (Krizhevsky 2009; Coates and Ng 2011 whiten patches this way). A block without whitening is a
    plain convolution, and what is exported.

    With contrast normalisation each window is first normalised to mean 0 and variance 1, which a
    plain convolution cannot do: `folded()` omits it, as do uses of the kernel alone
    (`kclr.initializers`, `kclr.transfer.initialize`). A block with that kernel and the same
    contrast is equivalent to this one, and is what is exported then.

    Args:
        filters: int, number of filters.
        kernel_size: int or two ints, height and width.
        strides: int or two ints, of the convolution.
        padding: "valid" or "same", of the convolution. With "same" and whitening the border is
            padded with zeros before whitening, as the plain convolution does.
        pool_size: int or two ints, window of the max-pool, which is never padded; 1 for none.
        pool_strides: int or two ints, or None for `pool_size`.
        activation: name, function or None, applied after the max-pool.
        use_bias: bool, whether a bias is learned; batch normalisation has its own instead. A
            whitened block always has a bias when folded.
        whitening: "zca" for whole kernel windows, "standardize" for each channel, or "none". The
            transform is set by `set_whitening`, and is the identity until then.
        contrast: "patch" to subtract from every kernel window the mean of its numbers, and divide
            by their standard deviation, before whitening and kernel (Coates and Ng 2011, "An
            analysis of single-layer networks in unsupervised feature learning", section 3.1); or
            "none". With "same" the zeros of the border are part of the windows there.
        contrast_epsilon: float > 0, added to a window's variance before the root, in the unit of
            the input squared. The default is close to theirs, 10 for pixels up to 255.
        batch_norm: bool, whether the convolution's output is batch-normalised (Ioffe and Szegedy
            2015) before the max-pool; `folded()` has its moving mean and variance in kernel and
            bias.
        kernel_initializer, bias_initializer: Keras initializers.
        kernel_regularizer: Keras regularizer of the kernel as it is learned, whitening not folded
            in; or None. See `kclr.layers.Decorrelation`.
        data_format: "channels_last", "channels_first" or None for Keras' own setting.

    Input: float (batch, height, width, channels). Output: float (batch, pooled height, pooled
    width, filters). With "channels_first" the channels are the second axis in both.

    Raises:
        ValueError: an argument is not valid, or the input is too small for one output cell.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        strides=1,
        padding="valid",
        pool_size=2,
        pool_strides=None,
        activation="relu",
        use_bias=True,
        whitening="none",
        contrast="none",
        contrast_epsilon=0.00015,
        batch_norm=False,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        data_format=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = whole(filters, "filters")
        self.kernel_size = pair(kernel_size, "kernel_size")
        self.strides = pair(strides, "strides")
        self.padding = _choice(padding, "padding", ("valid", "same"))
        self.pool_size = pair(pool_size, "pool_size")
        self.pool_strides = pair(
            pool_size if pool_strides is None else pool_strides, "pool_strides"
        )
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.whitening = _choice(whitening, "whitening", ("none", "standardize", "zca"))
        self.contrast = _choice(contrast, "contrast", ("none", "patch"))
        if not contrast_epsilon > 0:
            raise ValueError(f"contrast_epsilon must be above 0; got {contrast_epsilon!r}")
        self.contrast_epsilon = float(contrast_epsilon)
        self.batch_norm = batch_norm
        # Of a few hundred steps the moving mean must be that of the last ones.
        self.normalization = (
            FusedBatchNormalization(momentum=0.95, synchronized=several_replicas())
            if batch_norm
            else None
        )
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.data_format = _choice(
            keras.config.image_data_format() if data_format is None else data_format,
            "data_format",
            ("channels_last", "channels_first"),
        )
        self.input_spec = keras.layers.InputSpec(ndim=4)

    @property
    def _has_bias(self):
        return self.use_bias and self.normalization is None  # which has its own

    def build(self, input_shape):
        channels = input_shape[-1 if self.data_format == "channels_last" else 1]
        if channels is None:
            raise ValueError("the number of channels of the input must be known to build the block")
        shape = (*self.kernel_size, channels, self.filters)
        # Not cast by mixed precision: whitening is folded before, in full precision.
        self.kernel = self.add_weight(
            name="kernel",
            shape=shape,
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            autocast=False,
        )
        if self._has_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.filters,),
                initializer=self.bias_initializer,
                autocast=False,
            )
        if self.normalization is not None:
            self.normalization.build((None, None, None, self.filters))
        if self.whitening == "none":
            return
        zca = self.whitening == "zca"
        size = math.prod(shape[:3]) if zca else channels
        self.whitening_mean = self.add_weight(
            name="whitening_mean",
            shape=(size,),
            initializer="zeros",
            trainable=False,
            autocast=False,
        )
        self.whitening_transform = self.add_weight(
            name="whitening_transform",
            shape=(size, size) if zca else (size,),
            initializer=keras.initializers.Identity() if zca else "ones",
            trainable=False,
            autocast=False,
        )

    def set_whitening(self, mean, transform):
        """Set the whitening of a built block.

        Args:
            mean: float (size,), the mean of the input. The size is kernel height * kernel width *
                channels for "zca", the number of channels for "standardize".
            transform: float (size, size), symmetric, for "zca"; (size,) for "standardize". See
                `kclr.whitening`.

        Raises:
            ValueError: the block has no whitening or is not built, or a shape does not match.
        """
        if self.whitening == "none" or not self.built:
            raise ValueError(
                f"{self.name} has no whitening to set. Create the block with whitening='zca' or "
                "'standardize', and build it first."
            )
        self.whitening_mean.assign(mean)
        self.whitening_transform.assign(transform)

    def set_folded(self, kernel, bias):
        """Make a built block a plain convolution: the opposite of `folded`.

        Args:
            kernel: float (kernel height, kernel width, channels, filters).
            bias: float (filters,); ignored if the block learns none, and with batch normalisation,
                which is reset.
        """
        kernel, bias = np.asarray(kernel, np.float64), np.asarray(bias, np.float64)
        if self.whitening != "none":
            mean = ops.convert_to_numpy(self.whitening_mean).astype(np.float64)
            transform = ops.convert_to_numpy(self.whitening_transform).astype(np.float64)
        if self.whitening == "zca":
            flat = kernel.reshape(-1, self.filters)
            bias = bias + mean @ flat
            kernel = np.linalg.solve(transform, flat).reshape(kernel.shape)
        elif self.whitening == "standardize":
            bias = bias + np.sum(mean[:, None] * kernel, axis=(0, 1, 2))
            kernel = kernel / transform[:, None]
        self.kernel.assign(kernel)
        if self._has_bias:
            self.bias.assign(bias)

    def folded(self):
        """Kernel and bias of the plain convolution that is equivalent to this block.

        With `contrast`, the convolution of contrast-normalised windows.

        Returns:
            kernel: (kernel height, kernel width, channels, filters); bias: (filters,). Both in
            float32 (float64 for a block of that), whatever the precision of the convolution; the
            bias is zeros where there is none.
        """
        kernel, bias = self._unwhitened()
        if self.normalization is None:
            return kernel, bias
        moved = self.normalization
        dtype = kernel.dtype
        scale = ops.cast(moved.gamma, dtype) * ops.rsqrt(
            ops.cast(moved.moving_variance, dtype) + moved.epsilon
        )
        shift = ops.cast(moved.beta, dtype) - ops.cast(moved.moving_mean, dtype) * scale
        return kernel * scale, shift

    def _unwhitened(self):
        """Kernel and bias without whitening, before batch normalisation."""
        dtype = keras.backend.result_type(self.variable_dtype, "float32")
        kernel = ops.cast(self.kernel, dtype)
        bias = ops.cast(self.bias, dtype) if self._has_bias else ops.zeros((self.filters,), dtype)
        if self.whitening == "none":
            return kernel, bias
        mean = ops.cast(self.whitening_mean, dtype)
        transform = ops.cast(self.whitening_transform, dtype)
        if self.whitening == "zca":
            flat = ops.matmul(transform, ops.reshape(kernel, (-1, self.filters)))
            return ops.reshape(flat, kernel.shape), bias - ops.matmul(mean, flat)
        kernel = kernel * transform[:, None]
        return kernel, bias - ops.sum(mean[:, None] * kernel, axis=(0, 1, 2))

    def convolve(self, inputs, padding=None):
        """The convolution and its batch normalisation, before max-pool, bias and activation.

        A bias commutes with the max-pool, and has a quarter of the numbers to be added to after it.

        Args:
            inputs: float (batch, height, width, channels), whatever the block's data_format.
            padding: in place of the block's own.

        Returns:
            maps: float (batch, height, width, filters). bias: float (filters,), still to be added;
            None where there is none.
        """
        padding = padding or self.padding
        kernel, bias = self._unwhitened()
        if self.contrast == "patch":
            # As good as to subtract a window's mean, and it takes no second look at the window.
            kernel = kernel - ops.mean(kernel, axis=(0, 1, 2), keepdims=True)
        outputs = convolution(
            ops.cast(inputs, self.compute_dtype),
            ops.cast(kernel, self.compute_dtype),
            self.strides,
            padding,
        )
        if self.contrast == "patch":
            deviation = window_deviation(
                inputs, self.kernel_size, self.strides, padding, self.contrast_epsilon
            )
            outputs = outputs / ops.cast(deviation, outputs.dtype)
        if self.normalization is not None:
            return self.normalization(outputs), None  # takes any bias away
        if self.use_bias or self.whitening != "none":
            return outputs, ops.cast(bias, outputs.dtype)
        return outputs, None

    def activate(self, pooled, bias):
        """What comes after the max-pool: the bias that `convolve` returned, and the activation."""
        return self.activation(pooled if bias is None else pooled + bias)

    def call(self, inputs):
        self.compute_output_shape(inputs.shape)  # raises where no cell is left
        # TensorFlow convolves and pools channels-last only, where there is no GPU.
        channels_first = self.data_format == "channels_first"
        if channels_first:
            inputs = ops.transpose(inputs, (0, 2, 3, 1))
        outputs, bias = self.convolve(inputs)
        if self.pool_size != (1, 1) or self.pool_strides != (1, 1):
            outputs = ops.max_pool(
                outputs, self.pool_size, self.pool_strides, data_format="channels_last"
            )
        outputs = self.activate(outputs, bias)
        return ops.transpose(outputs, (0, 3, 1, 2)) if channels_first else outputs

    def compute_output_shape(self, input_shape):
        channels_last = self.data_format == "channels_last"
        sizes = []
        for axis, size in enumerate(input_shape[1:3] if channels_last else input_shape[2:4]):
            if size is not None:
                kernel, stride = self.kernel_size[axis], self.strides[axis]
                given = size
                size = (
                    -(-size // stride) if self.padding == "same" else (size - kernel) // stride + 1
                )
                size = (size - self.pool_size[axis]) // self.pool_strides[axis] + 1
                if size < 1:
                    raise ValueError(
                        f"{self.name}: an input of {given} px is too small for a kernel of "
                        f"{kernel}, strides of {stride} and a pool of {self.pool_size[axis]}. Use "
                        "larger images, or a smaller kernel_size, strides or pool_size."
                    )
            sizes.append(size)
        if channels_last:
            return (input_shape[0], *sizes, self.filters)
        return (input_shape[0], self.filters, *sizes)

    def get_config(self):
        return super().get_config() | {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "pool_size": self.pool_size,
            "pool_strides": self.pool_strides,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "whitening": self.whitening,
            "contrast": self.contrast,
            "contrast_epsilon": self.contrast_epsilon,
            "batch_norm": self.batch_norm,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "data_format": self.data_format,
        }


def stacked(
    layers, channels, size=None, padding=None, name="stack", scaling=None, series=False
) -> keras.Model:
    """The Keras model of trained layers on top of each other.

    Args:
        layers: from the image upwards; each has `name`, `block` (arguments of
            `ContrastiveConvBlock`), `kernel` and `bias`, as the layers of `kclr.load_run` have.
        channels: int, of the images.
        size: int, or two, height and width of the images; None for any.
        padding: in place of every block's own; "valid" in training, where windows are complete.
        name: str, of the model.
        scaling: `kclr.scaling.Scaling`; the model then takes raw numbers.
        series: bool, take series (batch, length, channels), and return maps of that form.

    Returns:
        Model from float images (batch, height, width, channels) to the last layer's map. Without
        `scaling` they are scaled already; 8-bit pictures to [0, 1].

    Raises:
        RunError: a layer's `block` is not valid for `ContrastiveConvBlock`.
    """
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    shape = (width, channels) if series else (height, width, channels)
    image = maps = keras.Input(shape, name="kclr_image")
    if scaling is not None and not scaling.usual:
        maps = scaling.layer(_SCALING + scaling.dtype)(maps)
    if series:
        maps = keras.ops.expand_dims(maps, 1)
    for layer in layers:
        arguments = layer.block | ({"padding": padding} if padding else {})
        try:
            block = ContrastiveConvBlock(**arguments, name=layer.name, data_format="channels_last")
        except (TypeError, ValueError) as error:  # of a layer that was read from somebody's file
            raise RunError(
                f"layer {layer.name} cannot be built: {error}. Restore its layer.json; a custom "
                "activation must be registered with Keras first."
            ) from None
        maps = block(maps)
        block.set_weights([layer.kernel, layer.bias])
    if series:
        maps = keras.ops.squeeze(maps, 1)
    return keras.Model(image, maps, name=name)


def scaling_of(model) -> Scaling | None:
    """The `scaling` that a model of `stacked` has, or None."""
    for layer in model.layers:
        if layer.name.startswith(_SCALING):
            shift, variance = np.ravel(layer.input_mean), np.ravel(layer.input_variance)
            return Scaling(layer.name.removeprefix(_SCALING), tuple(shift), tuple(variance**0.5))
    return None


def smallest_image(model) -> tuple[int, int]:
    """Height and width in px of the smallest images that leave one cell of `model`'s map.

    With "valid" padding this is the receptive field of a cell (Dumoulin and Visin 2016, "A guide to
    convolution arithmetic for deep learning").
    """
    blocks = [layer for layer in model.layers if isinstance(layer, ContrastiveConvBlock)]
    sizes = []
    for axis in (0, 1):
        cells = 1
        for block in reversed(blocks):
            cells = (cells - 1) * block.pool_strides[axis] + block.pool_size[axis]
            kernel = 1 if block.padding == "same" else block.kernel_size[axis]
            cells = (cells - 1) * block.strides[axis] + kernel
        sizes.append(cells)
    return sizes[0], sizes[1]
