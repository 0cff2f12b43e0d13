"""ContrastiveConvBlock: the layer that kclr trains, and the shared form of its patches."""

import math
import numbers

import keras
from keras import ops


def _whole(value, name):
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{name} must be a whole number above 0; got {value!r}")
    return int(value)


def _pair(value, name):
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name} must be a whole number above 0, or two of them; got {value!r}")
    return tuple(_whole(number, name) for number in pair)


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

    Args:
        filters: int, number of filters.
        kernel_size: int or two ints, height and width.
        strides: int or two ints, of the convolution.
        padding: "valid" or "same", of the convolution. With "same" and whitening the border is
            padded with zeros before whitening, as the plain convolution does.
        pool_size: int or two ints, window of the max-pool, which is never padded; 1 for none.
        pool_strides: int or two ints, or None for `pool_size`.
        activation: name, function or None, applied after the max-pool.
        use_bias: bool, whether a bias is learned. A whitened block has one when folded in any case.
        whitening: "zca" for whole kernel windows, "standardize" for each channel, or "none". The
            transform is set by `set_whitening`, and is the identity until then.
        kernel_initializer, bias_initializer: Keras initializers.
        data_format: "channels_last", "channels_first" or None for Keras' own setting.

    Input: float (batch, height, width, channels). Output: float (batch, pooled height, pooled
    width, filters). With "channels_first" the channels stand second in both.

    Raises:
        ValueError: an argument is none of these, or the input is too small for one output cell.
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
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        data_format=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = _whole(filters, "filters")
        self.kernel_size = _pair(kernel_size, "kernel_size")
        self.strides = _pair(strides, "strides")
        self.padding = _choice(padding, "padding", ("valid", "same"))
        self.pool_size = _pair(pool_size, "pool_size")
        self.pool_strides = _pair(
            pool_size if pool_strides is None else pool_strides, "pool_strides"
        )
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.whitening = _choice(whitening, "whitening", ("none", "standardize", "zca"))
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.data_format = _choice(
            keras.config.image_data_format() if data_format is None else data_format,
            "data_format",
            ("channels_last", "channels_first"),
        )
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape):
        channels = input_shape[-1 if self.data_format == "channels_last" else 1]
        if channels is None:
            raise ValueError("the number of channels of the input must be known to build the block")
        shape = (*self.kernel_size, channels, self.filters)
        # Not cast by mixed precision: whitening is folded before, in full precision.
        self.kernel = self.add_weight(
            name="kernel", shape=shape, initializer=self.kernel_initializer, autocast=False
        )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.filters,),
                initializer=self.bias_initializer,
                autocast=False,
            )
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
            ValueError: the block has no whitening or is not built, or a shape is another.
        """
        if self.whitening == "none" or not self.built:
            raise ValueError(
                f"{self.name} has no whitening to set. Create the block with whitening='zca' or "
                "'standardize', and build it first."
            )
        self.whitening_mean.assign(mean)
        self.whitening_transform.assign(transform)

    def folded(self):
        """Kernel and bias of the plain convolution that this block is.

        Returns:
            kernel: (kernel height, kernel width, channels, filters); bias: (filters,). Both in
            float32 (float64 for a block of that), whatever the precision of the convolution; the
            bias is zeros where there is none.
        """
        dtype = keras.backend.result_type(self.variable_dtype, "float32")
        kernel = ops.cast(self.kernel, dtype)
        bias = ops.cast(self.bias, dtype) if self.use_bias else ops.zeros((self.filters,), dtype)
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
        """The convolution alone, before the max-pool and the activation.

        Args:
            inputs: float (batch, height, width, channels), whatever the block's data_format.
            padding: in place of the block's own.
        """
        kernel, bias = self.folded()
        outputs = ops.conv(
            ops.cast(inputs, self.compute_dtype),
            ops.cast(kernel, self.compute_dtype),
            strides=self.strides,
            padding=padding or self.padding,
            data_format="channels_last",
        )
        if not self.use_bias and self.whitening == "none":
            return outputs
        return outputs + ops.cast(bias, outputs.dtype)

    def call(self, inputs):
        self.compute_output_shape(inputs.shape)  # raises where no cell is left
        # TensorFlow convolves and pools channels-last only, where there is no GPU.
        channels_first = self.data_format == "channels_first"
        if channels_first:
            inputs = ops.transpose(inputs, (0, 2, 3, 1))
        outputs = self.convolve(inputs)
        if self.pool_size != (1, 1) or self.pool_strides != (1, 1):
            outputs = ops.max_pool(
                outputs, self.pool_size, self.pool_strides, data_format="channels_last"
            )
        outputs = self.activation(outputs)
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
                        f"{self.name}: an input of {given} px leaves nothing after a kernel of "
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
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "data_format": self.data_format,
        }


@keras.saving.register_keras_serializable(package="kclr")
class SharedPatches(keras.layers.Layer):
    """The maps of all patches of a crop's grid, from one convolution over the whole crop.

    Equal to cutting the patches out, convolving each without padding, pooling and activating it,
    with a fraction of the operations: neighbouring patches share most of their convolution.

    Args:
        block: ContrastiveConvBlock, channels-last.
        patch_size: int, of the square patches, in px of the block's input.
        stride: int, between neighbouring patches, a multiple of the block's strides.
        slices: bool, take the window maximum by slices (fast under XLA) in place of the max-pool
            operation (fast without).

    Input: float (batch, crop, crop, channels). Output: float (batch, patches, height, width,
    filters), the patches row by row.

    Raises:
        ValueError: the patches cannot share a convolution, or the crop holds no patch.
    """

    def __init__(self, block, patch_size, stride, slices=False, **kwargs):
        super().__init__(**kwargs)
        self.block, self.slices = block, bool(slices)
        self.patch_size = _whole(patch_size, "patch_size")
        self.stride = _whole(stride, "stride")
        if self.stride % block.strides[0] or self.stride % block.strides[1]:
            raise ValueError(
                f"patches at every {stride} px share no convolution with strides {block.strides}. "
                "Use a stride that is a multiple of the block's."
            )
        if block.data_format != "channels_last":
            raise ValueError(
                "SharedPatches takes a channels-last block. Create it with "
                "data_format='channels_last'."
            )
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape):
        self.compute_output_shape(input_shape)  # raises where a crop holds no patch
        if not self.block.built:
            self.block.build(input_shape)

    def _sizes(self, crop, axis):
        """Patches on this axis, cells of a patch's map, and cells between two patches."""
        block = self.block
        if crop is None:
            raise ValueError("the height and width of the crops must be known")
        patches = (crop - self.patch_size) // self.stride + 1
        convolved = (self.patch_size - block.kernel_size[axis]) // block.strides[axis] + 1
        cells = (convolved - block.pool_size[axis]) // block.pool_strides[axis] + 1
        if patches < 1 or cells < 1:
            raise ValueError(
                f"a crop of {crop} px holds no patch of {self.patch_size} px with a cell left "
                "after the block. Use larger crops or patches, or a smaller kernel_size or "
                "pool_size."
            )
        return patches, cells, self.stride // block.strides[axis]

    def call(self, crops):
        block = self.block
        outputs = block.convolve(crops, padding="valid")
        rows, height, row_step = self._sizes(crops.shape[1], 0)
        columns, width, column_step = self._sizes(crops.shape[2], 1)
        # The max over the pool's window at every place, then each patch's own cells of it.
        if block.pool_size != (1, 1):
            outputs = self._window_max(outputs)
        patches = []
        for row in range(rows):
            for column in range(columns):
                top, left = row * row_step, column * column_step
                bottom = top + (height - 1) * block.pool_strides[0] + 1
                right = left + (width - 1) * block.pool_strides[1] + 1
                patches.append(
                    outputs[
                        :,
                        top : bottom : block.pool_strides[0],
                        left : right : block.pool_strides[1],
                    ]
                )
        return block.activation(ops.stack(patches, axis=1))

    def _window_max(self, maps):
        if not self.slices:
            return ops.max_pool(maps, self.block.pool_size, 1, data_format="channels_last")
        for axis, size in enumerate(self.block.pool_size):
            cells = maps.shape[axis + 1] - size + 1
            shifted = [
                maps[:, k : k + cells] if axis == 0 else maps[:, :, k : k + cells]
                for k in range(size)
            ]
            maps = shifted[0]
            for other in shifted[1:]:
                maps = ops.maximum(maps, other)
        return maps

    def compute_output_shape(self, input_shape):
        rows, height, _ = self._sizes(input_shape[1], 0)
        columns, width, _ = self._sizes(input_shape[2], 1)
        return (input_shape[0], rows * columns, height, width, self.block.filters)

    def get_config(self):
        return super().get_config() | {
            "block": keras.saving.serialize_keras_object(self.block),
            "patch_size": self.patch_size,
            "stride": self.stride,
            "slices": self.slices,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["block"] = keras.saving.deserialize_keras_object(config["block"])
        return cls(**config)


def stacked(layers, channels, size=None, padding=None, name="stack") -> keras.Model:
    """The Keras model of trained layers on top of each other.

    Args:
        layers: from the image upwards; each has `name`, `block` (arguments of
            `ContrastiveConvBlock`), `kernel` and `bias`, as the layers of `kclr.load_run` have.
        channels: int, of the images.
        size: int, height and width of the images; None for any.
        padding: in place of every block's own; "valid" in training, where windows are complete.
        name: str, of the model.

    Returns:
        Model from float images (batch, height, width, channels) in [0, 1] to the last layer's map.
    """
    image = keras.Input((size, size, channels), name="kclr_image")
    maps = image
    for layer in layers:
        arguments = layer.block | ({"padding": padding} if padding else {})
        block = ContrastiveConvBlock(**arguments, name=layer.name, data_format="channels_last")
        maps = block(maps)
        block.set_weights([layer.kernel, layer.bias])
    return keras.Model(image, maps, name=name)
