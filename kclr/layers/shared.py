"""SharedPatches: one convolution for all patches of a crop."""

import keras
from keras import ops

from kclr.spec.values import pair, short


@keras.saving.register_keras_serializable(package="kclr")
class SharedPatches(keras.layers.Layer):
    """The maps of all patches of a crop's grid, from one convolution over the whole crop.

    Equal to cutting the patches out, convolving each without padding, pooling and activating it,
    with a fraction of the operations: neighbouring patches share most of their convolution.

    Args:
        block: ContrastiveConvBlock, channels-last.
        patch_size: int or two ints, height and width of a patch, in px of the block's input.
        stride: int or two ints, between neighbouring patches, a multiple of the block's strides.
        slices: bool, take the window maximum by slices (fast under XLA) in place of the max-pool
            operation (fast without).

    Input: float (batch, crop height, crop width, channels). Output: float (batch, patches, height,
    width, filters), the patches row by row.

    Raises:
        ValueError: the patches cannot share a convolution, or the crop has no room for a patch.
    """

    def __init__(self, block, patch_size, stride, slices=False, **kwargs):
        super().__init__(**kwargs)
        self.block, self.slices = block, bool(slices)
        self.patch_size = pair(patch_size, "patch_size")
        self.stride = pair(stride, "stride")
        if any(own % step for own, step in zip(self.stride, block.strides, strict=True)):
            raise ValueError(
                f"patches at every {stride} px cannot share a convolution with strides "
                f"{block.strides}. Use a stride that is a multiple of the block's."
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
        patch = self.patch_size[axis]
        patches = (crop - patch) // self.stride[axis] + 1
        convolved = (patch - block.kernel_size[axis]) // block.strides[axis] + 1
        cells = (convolved - block.pool_size[axis]) // block.pool_strides[axis] + 1
        if patches < 1 or cells < 1:
            raise ValueError(
                f"a crop of {crop} px has no room for a patch of {patch} px with a cell left "
                "after the block. Use larger crops or patches, or a smaller kernel_size or "
                "pool_size."
            )
        return patches, cells, self.stride[axis] // block.strides[axis]

    def call(self, crops):
        block = self.block
        outputs, bias = block.convolve(crops, padding="valid")
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
        return block.activate(ops.stack(patches, axis=1), bias)

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
            "patch_size": short(*self.patch_size),
            "stride": short(*self.stride),
            "slices": self.slices,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["block"] = keras.saving.deserialize_keras_object(config["block"])
        return cls(**config)
