"""The base of learners that use windows of a layer's input and no gradients."""

import time
from typing import Annotated, ClassVar

from pydantic import Field

from kclr.health import Learned
from kclr.spec.registry import Part
from kclr.spec.values import pair


class WindowLearner(Part):
    """Filters are directions in the space of whitened windows, found by `directions`."""

    windows: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """Number of random windows of the layer's input to learn from; fewer if they would take more
    than half a gigabyte."""
    threshold: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Subtracted from a filter's response to a whitened window, before the activation (soft
    threshold of Coates and Ng 2011, "The importance of encoding versus training"); part of the bias
    afterwards."""
    both_signs: bool = False
    """Learn half as many filters and add the negative of each, which a ReLU makes different
    features (as in Coates and Ng 2011)."""

    contrastive: ClassVar[bool] = False
    whitening_above: ClassVar[str] = "standardize"
    components: ClassVar[bool] = False  # whether it takes the eigenvectors of its windows
    baseline: ClassVar[str | None] = None  # what the probe calls it as one
    title: ClassVar[str | None] = None  # what tables call that

    def directions(self, whitened, covariance, filters, random):
        """Find filters among whitened windows.

        Args:
            whitened: float32 (windows, numbers).
            covariance: float64 (numbers, numbers), of the windows before the whitening; None where
                it is not "zca".
            filters: int.
            random: numpy Generator.

        Returns:
            float (numbers, filters), of length 1 each.
        """
        raise NotImplementedError

    def find(self, block, shape, below, images, random, whitening, epsilon, tell=None):
        """The plain convolution of a layer, and its responses to whitened windows.

        Args:
            block: dict, arguments of the layer's `ContrastiveConvBlock`.
            shape: of its kernel: height, width, channels, filters.
            below: the layers below (see `kclr.layers.stacked`).
            images: what `kclr.data.sources.as_images` takes.
            random: numpy Generator.
            whitening, epsilon: as a spec's block has them; contrast is in `block`.
            tell: as `PatchTripletGenerator` has it.

        Returns:
            kernel: float32 of that shape. bias: float32 (filters,). answers: float32 (windows,
            filters), before the activation.
        """
        import numpy as np

        from kclr.whitening import Whitened, input_windows

        made = input_windows(below, block, shape, images, random, self.windows, tell)
        contrast = block["contrast_epsilon"] if block.get("contrast") == "patch" else None
        space = Whitened(
            made, whitening, epsilon, standardize=bool(below), contrast_epsilon=contrast
        )
        filters = shape[-1]
        half = -(-filters // 2) if self.both_signs else filters
        found = self.directions(space.windows, space.covariance, half, random)
        if self.both_signs:
            found = np.concatenate([found, -found], axis=1)[:, :filters]
        kernel, bias = space.convolution(found, -self.threshold)
        answers = space.windows[:5000] @ found.astype(np.float32) - np.float32(self.threshold)
        return kernel, bias, answers

    def learn(self, layer, sizes, below, images, seed, checkpoint, listener) -> Learned:
        """Find one layer's filters on the frozen output of those below.

        Args:
            layer: of the spec. below: the layers below (see `kclr.layers.stacked`). images: what
                `kclr.data.sources.as_images` takes. seed: int.
            listener: receives progress events of decoding. sizes, checkpoint: not needed; the rest
            takes seconds.

        Returns:
            `Learned`, whose facts are seconds, and the numbers of dead and duplicate filters.

        Raises:
            RunError: all windows are the same, or have values that are not finite.
        """
        import keras
        import numpy as np

        from kclr.data.sources import as_images
        from kclr.training.progress import LayerProgress
        from kclr.whitening import idle_filters

        start = time.perf_counter()
        images, block = as_images(images), layer.block
        channels = below[-1].kernel.shape[-1] if below else images.channels
        kernel, bias, answers = self.find(
            block.arguments(),
            (*pair(block.kernel_size), channels, block.filters),
            below,
            images,
            np.random.default_rng(seed),
            block.whitening,
            block.whitening_epsilon,
            LayerProgress(listener, layer.name).decoding,
        )
        dead, alike = idle_filters(answers)
        facts = {
            "seconds": round(time.perf_counter() - start, 3),
            "dead_filters": len(dead),
            "duplicate_filters": len(alike),
        }
        activated = keras.activations.get(block.activation)(answers)
        return Learned(kernel, bias, facts, keras.ops.convert_to_numpy(activated))
