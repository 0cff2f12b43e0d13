"""A run's kernels as Keras initializers, to start a classifier from them.

    kernel = kclr.initializers.ContrastiveKernel("runs/layer1")
    bias = kclr.initializers.ContrastiveBias("runs/layer1")
    keras.layers.Conv2D(256, 6, kernel_initializer=kernel, bias_initializer=bias)

An initializer can be given in three forms:

- **the object**, as above: the only form that reads a run, once, when it is created;
- **a dict**, `keras.initializers.serialize(kernel)`: what Keras writes into a saved model. It
    contains the values, so a `.keras` file does not need the run. It never contains a path: a dict
    with a path is refused, since a foreign file must not choose what is read;
- **a string**, `"kclr>ContrastiveKernel"`: Keras creates such a class without arguments, so it does
    not name a run and is refused. Register a class without arguments to use its name:

      @keras.saving.register_keras_serializable("mine")
      class Edges(kclr.initializers.ContrastiveKernel):
          def __init__(self):
              super().__init__("runs/layer1")

      keras.layers.Conv2D(256, 6, kernel_initializer="mine>Edges")

Keras calls a model's initializers when it loads the model, before it sets the saved weights; they
use the values in the file. Keras knows them by name once this module is imported: `import
kclr.initializers` before `keras.models.load_model`.
"""

import os
from difflib import get_close_matches
from typing import Any

import keras
import numpy as np
from keras import ops

from kclr import kernels
from kclr.errors import RunError, SpecError
from kclr.runs.paths import as_path
from kclr.runs.run import Run


@keras.saving.register_keras_serializable(package="kclr")
class ContrastiveKernel(keras.initializers.Initializer):
    """The kernel of a run's layer, for `kernel_initializer` of a `Conv2D` or a `Conv1D`.

    The layer's input is what the run's network saw: images in [0, 1], say, or with `raw` the
    numbers as they are in the files. The kernel of a `Conv1D`, (length, channels in, filters), is
    taken as one of height 1, as a run of series has. A layer of the same shape gets the run's
    exact kernel. For another shape:

    - another kernel size: the kernel is resampled (`kclr.kernels.resample`). A larger kernel
        responds to the enlarged image as before; a smaller one approximately;
    - another number of image channels: `kclr.kernels.with_channels`. To gray, the sum;
    - another number of filters in the layer below: `inputs` says which of them exist;
    - fewer filters: the most diverse are kept, in the order of their choice
        (`kclr.kernels.most_diverse`); more: `extra` initializes the rest, after the learned ones.

    If the run's layer normalises the contrast of each patch (`block.contrast` in its spec), a plain
    kernel omits this, and a warning says so; the run's `model.keras` includes it.

    Args:
        run: the directory of a run; what `kclr.load_run` returns; a kernel, float (height, width,
            channels in, filters) or (length, channels in, filters); or a pair of such a kernel and
            its bias.
        layer: index (from 0; negative from the end) or name of the run's layer. Not used with a
            kernel array.
        adapt: True adapts any difference, False refuses a layer of another shape; a collection of
            "size", "channels" and "filters" adapts only these.
        scale: None keeps the learned scale. A name, dict or instance of a Keras `VarianceScaling`
            initializer ("he_normal", "glorot_uniform", "lecun_normal", ...) scales the learned
            filters by one common factor, so that their mean square is that rule's variance.
        extra: the Keras initializer (name, dict or instance) of the filters that the run does not
            have. It is called for the whole layer, so its own scale is right. For repeatable values
            give it a seed, or call `keras.utils.set_random_seed`.
        inputs: for a layer above the first, int (maps,): for each map that the new layer sees, the
            index of the filter in the run's layer below, as returned by `kept` of that layer's
            initializer. Further maps get weight 0. None if it sees all of them:

                first = ContrastiveKernel(run)
                second = ContrastiveKernel(run, 1, inputs=first.kept((6, 6, 3, 16)))

            (`kclr.transfer.initialize` does this for a whole model.) An array with more than 4
                channels is also taken as reading filters.
        raw: True lets the layer read raw numbers, as they are in the run's files: the run's
            scaling, `(raw - shift) / spread` of each channel, is folded into the kernel, and into
            the bias by `ContrastiveBias(run, raw=True)`, which is needed with it. Exact for
            `padding="valid"`. With "same" it is not at the borders: what is added there is a raw 0,
            and not the 0 of scaled numbers. In place of True also (shift, spread), each a number or
            one for each channel. Filters of `extra` are divided by `spread` too.
        depthwise: True for `depthwise_initializer` of a `DepthwiseConv2D` or `SeparableConv2D`, or
            of their forms for series. Such a kernel, (height, width, channels in, multiplier), has
            filters of one channel, so the run's must have been learned on one (`data.channels: 1`):
            each channel gets the same `multiplier` filters. For a separable convolution on any
            number of channels see `kclr.separable_kernels`.

    Raises:
        RunError: the run or its layer does not exist, is damaged, or cannot be read.
        SpecError: an argument is not valid; or, when called, the shape differs in a way that is not
            to be adapted, or is not that of a convolution. A shape does not show groups, or,
            without `depthwise`, a depthwise kernel with a multiplier of 2 or more.
    """

    def __init__(
        self,
        run,
        layer=0,
        *,
        adapt=True,
        scale=None,
        extra="glorot_uniform",
        inputs=None,
        raw=False,
        depthwise=False,
    ):
        kernel, _, above = _learned(run, layer)
        self.kernel = kernels.checked(kernel, 4, SpecError, "the kernel")
        scaling = _scaling(run, raw, self.kernel, above)
        self.spread = None if scaling is None else scaling[1].tolist()
        self.above = scaling is None and _is_above(above, self.kernel, inputs)
        self.inputs = _inputs(inputs, self.kernel)
        self.depthwise = _is_depthwise(depthwise, self.kernel, inputs)
        self.adapt = _adaptations(adapt)
        self.scale = _variance_rule(scale)
        self.extra = _initializer(extra, "extra")

    def kept(self, shape):
        """Which of the run's filters a layer gets, for `inputs` of the layer above it.

        Args:
            shape: (height, width, channels in, filters) of the layer's kernel, or (length,
                channels in, filters).

        Returns:
            list of int, in the order of the layer's maps; all filters in their order, unless the
            layer has fewer.

        Raises:
            SpecError: as when the initializer is called.
        """
        return self._fitted(self._seen(kernels.of_image(shape)))[1].tolist()

    def _seen(self, shape):
        """The shape of what one filter sees: of a depthwise kernel a single channel."""
        return (*shape[:2], 1, *shape[3:]) if self.depthwise and len(shape) == 4 else shape

    def _fitted(self, shape):
        """The kernel in a layer's shape, without filters to be drawn; its filters' indices."""
        kernels.check_shape(
            self.kernel.shape, shape, self.adapt, self.inputs, self.above, self.depthwise
        )
        fitted, weights = _fit(self.kernel, shape[:3], self.inputs)
        kept = np.arange(self.kernel.shape[3])
        if shape[3] < kept.size:
            kept = kernels.most_diverse(fitted, shape[3], weights)
            fitted = fitted[..., kept]
        return fitted, kept

    def __call__(self, shape, dtype=None):
        shape = tuple(shape)
        seen = self._seen(kernels.of_image(shape))
        fitted, _ = self._fitted(seen)
        fitted = fitted * kernels.scale_factor(self.scale, (fitted**2).mean(axis=(0, 1, 2)), seen)
        dtype = dtype or keras.config.floatx()
        missing = shape[-1] - fitted.shape[3]
        spread = np.ones(1) if self.spread is None else _spread(self.spread, seen[2])
        # A depthwise kernel's filters are the same for all channels.
        whole = (*kernels.of_image(shape)[:3], fitted.shape[3])
        fitted = np.broadcast_to(fitted / spread[:, None], whole).reshape(*shape[:-1], whole[3])
        learned = ops.cast(ops.convert_to_tensor(fitted.astype(np.float32)), dtype)
        if missing <= 0:
            return learned
        drawn = ops.cast(self.extra(shape, dtype=dtype), dtype)[..., -missing:]
        if self.spread is not None:
            drawn = drawn / ops.cast(spread[:, None], dtype)
        return ops.concatenate([learned, drawn], axis=-1)

    def get_config(self):
        return {
            "kernel": kernels.encode(self.kernel),
            "adapt": list(self.adapt),
            "scale": self.scale and keras.initializers.serialize(self.scale),
            "extra": keras.initializers.serialize(self.extra),
            "inputs": self.inputs,
            "above": self.above,
            "spread": self.spread,
            "depthwise": self.depthwise,
        }

    @classmethod
    def from_config(cls, config):
        if not config:
            return _without_arguments(cls, ContrastiveKernel)
        # Configs of older versions say nothing of a layer below, and took channels for an image's.
        config = {"inputs": None, "above": False, "spread": None, "depthwise": False} | config
        options = {key: config.get(key) for key in ("adapt", "scale", "extra", "inputs")}
        _check_keys(config, ["kernel", *options, "above", "spread", "depthwise"])
        kernel = kernels.decode(config["kernel"], 4, "kernel")
        initializer = cls.__new__(cls)
        options["raw"] = config["spread"] is not None and (0, config["spread"])
        options["depthwise"] = config["depthwise"]
        ContrastiveKernel.__init__(initializer, kernel, **options)
        if not isinstance(config["above"], bool):
            raise SpecError("this config's above is neither true nor false")
        initializer.above = config["above"]
        return initializer


@keras.saving.register_keras_serializable(package="kclr")
class ContrastiveBias(keras.initializers.Initializer):
    """The bias that belongs to a `ContrastiveKernel`, for `bias_initializer` of the same layer.

    Filters beyond the run's start at zero. The bias is exact for the run's own kernel size and
    channels. If whitening was folded in, it contains the filters' response to the mean image of the
    run's data; resampling keeps this approximately, for a flat mean image.

    Args:
        run, layer, adapt, scale, inputs: as for `ContrastiveKernel`; arrays must be a pair of
            kernel and bias.
        kernel_shape: (height, width, channels in) of the layer's kernel, or (length, channels in).
            Which filters are kept and how they are scaled depends on it, but Keras does not pass it
            to a bias: required with `scale` and with `depthwise`, and if the layer has fewer
            filters than the run.
        raw, depthwise: as for `ContrastiveKernel`. A depthwise layer has a bias for each filter of
            each channel; that of a separable convolution belongs to its pointwise kernel, so it
            takes another initializer.

    Raises:
        RunError, SpecError: as for `ContrastiveKernel`; also SpecError if `kernel_shape` is
            required but missing.
    """

    kernel_shape: Any = None
    order: Any = None
    mean_squares: Any = None

    depthwise: bool = False

    def __init__(
        self,
        run,
        layer=0,
        *,
        kernel_shape=None,
        adapt=True,
        scale=None,
        inputs=None,
        raw=False,
        depthwise=False,
    ):
        kernel, bias, above = _learned(run, layer)
        if bias is None:
            raise SpecError(
                "this layer has no bias. Remove this initializer, or pass a pair (kernel, bias)"
            )
        kernel = kernels.checked(kernel, 4, SpecError, "the kernel")
        self.bias = kernels.checked(bias, 1, SpecError, "the bias")
        if self.bias.shape != kernel.shape[3:]:
            raise SpecError(
                f"the bias has {self.bias.size} values for {kernel.shape[3]} filters. Pass the "
                "bias that belongs to the kernel"
            )
        scaling = _scaling(run, raw, kernel, above)
        self.adapt = _adaptations(adapt)
        self.scale = _variance_rule(scale)
        self.depthwise = _is_depthwise(depthwise, kernel, inputs)
        if scaling is not None:
            raw_bias = kernels.folded(kernel, self.bias, *scaling)[1]
            self.bias = kernels.checked(raw_bias, 1, SpecError, "the bias for raw numbers")
        if kernel_shape is not None:
            self.kernel_shape = _kernel_shape(kernel_shape)
            above = scaling is None and _is_above(above, kernel, inputs)
            inputs = _inputs(inputs, kernel)
            seen = (*self.kernel_shape[:2], 1) if self.depthwise else self.kernel_shape
            if scaling is not None:
                _spread(scaling[1], seen[2])
            whole = (*seen, kernel.shape[3])
            kernels.check_shape(kernel.shape, whole, self.adapt, inputs, above)
            fitted, weights = _fit(kernel, seen, inputs)
            # The kernel itself stays out: what it says about the bias is two numbers a filter,
            # and a saved model holds the kernel once already.
            self.order = kernels.most_diverse(fitted, kernel.shape[3], weights)
            self.mean_squares = (fitted**2).mean(axis=(0, 1, 2)).astype(np.float32)

    def __call__(self, shape, dtype=None):
        if len(shape) != 1:
            raise SpecError(f"a bias has one value per filter, not the shape {tuple(shape)}")
        (filters,), learned = shape, self.bias.size
        channels = self.kernel_shape[2] if self.depthwise and self.kernel_shape else 1
        if filters % channels:
            raise SpecError(
                f"a depthwise layer of {channels} channels does not have {filters} biases. Pass "
                "its kernel_shape=(height, width, channels in)"
            )
        filters //= channels
        if filters != learned and "filters" not in self.adapt:
            raise SpecError(kernels.refusal("filters", f"{learned} filters", filters))
        known = self.kernel_shape is not None
        if not known and (self.scale or self.depthwise or filters < learned):
            raise SpecError(
                "which filters are kept and how they are scaled depends on the layer's kernel. "
                "Pass kernel_shape=(height, width, channels in) to ContrastiveBias"
            )
        kept = self.order[:filters] if filters < learned else np.arange(learned)
        bias = self.bias[kept].astype(np.float64)
        if self.scale:
            seen = (*self.kernel_shape[:2], 1 if self.depthwise else self.kernel_shape[2], filters)
            bias = bias * kernels.scale_factor(self.scale, self.mean_squares[kept], seen)
        bias = np.pad(bias, (0, max(0, filters - learned))).astype(np.float32)
        bias = np.tile(bias, channels)
        return ops.cast(ops.convert_to_tensor(bias), dtype or keras.config.floatx())

    def get_config(self):
        known = self.kernel_shape is not None
        return {
            "bias": kernels.encode(self.bias),
            "kernel_shape": list(self.kernel_shape) if known else None,
            "order": self.order.tolist() if known else None,
            "mean_squares": kernels.encode(self.mean_squares) if known else None,
            "adapt": list(self.adapt),
            "scale": self.scale and keras.initializers.serialize(self.scale),
            "depthwise": self.depthwise,
        }

    @classmethod
    def from_config(cls, config):
        if not config:
            return _without_arguments(cls, ContrastiveBias)
        config = {"depthwise": False} | config  # which older versions did not know
        keys = ["bias", "kernel_shape", "order", "mean_squares", "adapt", "scale", "depthwise"]
        _check_keys(config, keys)
        initializer = cls.__new__(cls)
        initializer.bias = kernels.decode(config["bias"], 1, "bias")
        initializer.adapt = _adaptations(config["adapt"])
        initializer.scale = _variance_rule(config["scale"])
        if not isinstance(config["depthwise"], bool):
            raise SpecError("this config's depthwise is neither true nor false")
        initializer.depthwise = config["depthwise"]
        if config["kernel_shape"] is not None:
            filters = initializer.bias.size
            initializer.kernel_shape = _kernel_shape(config["kernel_shape"])
            initializer.mean_squares = kernels.decode(config["mean_squares"], 1, "mean_squares")
            order = config["order"]
            if (
                not isinstance(order, (list, tuple))
                or not all(type(index) is int for index in order)
                or sorted(order) != list(range(filters))
                or initializer.mean_squares.size != filters
            ):
                raise SpecError("this config's order and mean_squares do not belong to its bias")
            initializer.order = np.array(order, np.int64)
        return initializer


def _learned(run, layer):
    """What the arguments of an initializer mean: the kernel, the bias (None if there is none), and
    whether there is a layer below (None if nobody knows)."""
    if isinstance(run, np.ndarray):
        return _as_image(run), None, None
    if isinstance(run, (tuple, list)) and len(run) == 2:
        return _as_image(run[0]), run[1], None
    if isinstance(run, (str, os.PathLike)):
        return _read_layer(as_path(run).expanduser(), layer)
    if not hasattr(run, "layers"):
        raise SpecError(
            f"{type(run).__name__} is not a run. Pass the path of a run's directory, the result "
            "of kclr.load_run, a kernel array, or a pair (kernel, bias)"
        )
    position = _position(layer, [each.name for each in run.layers], "the run")
    found = run.layers[position]
    if kernels.contrast_left_out(getattr(found, "block", None)):
        kernels.warn_of_contrast([f"the run's layer {found.name}"])
    return found.kernel, found.bias, position > 0


def _as_image(kernel):
    """A kernel of series, (length, channels in, filters), with a height of 1."""
    return kernel[None] if getattr(kernel, "ndim", 4) == 3 else kernel


def _scaling(run, raw, kernel, above):
    """The shift and the spread that `raw` folds into kernel and bias, float64 (channels in,); None
    for nothing.

    Raises:
        SpecError: the run does not say, or the layer does not read raw numbers.
    """
    if raw is False or raw is None:
        return None
    if above:
        raise SpecError("raw: only a run's first layer reads raw numbers. Remove it")
    scaling = raw
    if raw is True:
        named = isinstance(run, (str, os.PathLike))
        scaling = getattr(Run(as_path(run).expanduser()) if named else run, "scaling", None)
        if scaling is None:
            raise SpecError(
                "raw=True: nothing says how the raw numbers were scaled. Pass a run, or "
                "raw=(shift, spread)"
            )
    pair = (scaling.shift, scaling.spread) if hasattr(scaling, "spread") else scaling
    try:
        channels = kernel.shape[2]
        shift, spread = (np.broadcast_to(np.float64(each), (channels,)) for each in pair)
        if np.isfinite(shift).all() and np.isfinite(spread).all() and (spread > 0).all():
            return shift, spread
    except (TypeError, ValueError):  # not two, not numbers, or not one for each channel
        pass
    raise SpecError(
        f"raw={raw!r}: use True, or (shift, spread), each a number or one for each of the "
        f"{kernel.shape[2]} channels, with a spread above 0"
    )


def _spread(spread, channels):
    """The spread of a layer's channels.

    Raises:
        SpecError: the layer has another number of channels, whose spread nobody knows.
    """
    spread = np.asarray(spread)
    if len(spread) != channels and np.ptp(spread) > 0:
        raise SpecError(
            f"raw: the run's {len(spread)} channels are scaled differently, and the layer has "
            f"{channels}. Make their number equal, or scale the layer's input and remove raw"
        )
    return spread if len(spread) == channels else np.repeat(spread[:1], channels)


def _is_depthwise(depthwise, kernel, inputs):
    """`depthwise`, where the run's kernel is such that it can be."""
    if not isinstance(depthwise, bool):
        raise SpecError(f"depthwise={depthwise!r} is neither True nor False")
    if depthwise and (kernel.shape[2] != 1 or inputs is not None):
        raise SpecError(
            f"a depthwise kernel has filters of one channel, but the run's read {kernel.shape[2]} "
            "together. Use a run that was learned on one channel (data.channels: 1), or this one "
            "in a Conv2D or Conv1D"
        )
    return depthwise


def _read_layer(path, layer):
    """What `_learned` says of a run's directory, or of one with nothing but the arrays of one."""
    found = Run(path).kernels
    if not found:
        siblings = [each.name for each in path.parent.glob("*") if (each / "layers").is_dir()]
        near = get_close_matches(path.name, siblings, 1)
        wrong = "it has no layers/NN-NAME/kernel.npy" if path.is_dir() else "directory not found"
        cure = f"Did you mean {path.parent / near[0]}?" if near else "Use a directory of kclr train"
        raise RunError(f"{path}: {wrong}. {cure}")
    position = _position(layer, [each.name for each in found], path)
    own = found[position]
    if kernels.contrast_left_out(own.block):
        kernels.warn_of_contrast([str(own.directory)])
    without = not own.block and not (own.directory / "bias.npy").exists()
    return own.kernel, None if without else own.bias, position > 0


def _is_above(known, kernel, inputs):
    """Whether a kernel's channels are filters of a layer below, where only the caller knows."""
    if known is None:
        return inputs is not None or kernel.shape[2] > kernels.MOST_COLOURS
    if inputs is not None and not known:
        raise SpecError("inputs: the run's first layer reads an image. Remove it")
    return known


def _inputs(inputs, kernel):
    """`inputs` as a list of int, or None.

    Raises:
        SpecError: they cannot be filters of the layer below.
    """
    if inputs is None:
        return None
    try:
        listed = np.asarray(inputs)
    except ValueError:  # lists of several lengths
        listed = np.empty(0)
    below = kernel.shape[2]
    if (
        listed.ndim != 1
        or not np.issubdtype(listed.dtype, np.integer)
        or not listed.size
        or len({*listed.tolist()}) < listed.size
        or not (listed.min() >= 0 and listed.max() < below)
    ):
        raise SpecError(
            f"inputs={inputs!r}: pass indices of the {below} filters of the layer below, without "
            "duplicates, as returned by kept(shape) of that layer's initializer"
        )
    return listed.tolist()


def _fit(kernel, shape, inputs):
    """`kernels.fit`, of a kernel that reads these filters of the layer below."""
    if inputs is not None:
        kernel = kernels.reading(kernel, inputs, shape[2])
    return kernels.fit(kernel, shape)


def _position(layer, names, where):
    if isinstance(layer, str):
        if layer in names:
            return names.index(layer)
        near = get_close_matches(layer, names, 1)
        cure = f"Did you mean {near[0]!r}?" if near else f"Choose from {', '.join(names)}"
        raise RunError(f"{where} has no layer {layer!r}. {cure}")
    if isinstance(layer, bool) or not isinstance(layer, (int, np.integer)):
        raise SpecError(f"layer={layer!r} is neither an index nor a name")
    if not -len(names) <= layer < len(names):
        raise RunError(
            f"{where} has no layer {layer}: it has {len(names)}, counted from 0: {', '.join(names)}"
        )
    return range(len(names))[layer]


def _check_keys(config, keys):
    if "run" in config:
        raise SpecError(
            "a config must not name a run: a file must never choose what is read. Create the "
            "object in Python, ContrastiveKernel(run), or use its get_config()"
        )
    if sorted(config) != sorted(keys):
        raise SpecError(
            f"this config has the keys {', '.join(map(str, config))} but needs {', '.join(keys)}. "
            "Use the result of get_config()"
        )


def _without_arguments(cls, base):
    if cls.__init__ is not base.__init__:
        return cls()
    raise SpecError(
        f'"kclr>{base.__name__}" does not name a run. Pass the object {base.__name__}(run), its '
        "keras.initializers.serialize(...) dict, or the name of a registered subclass without "
        "arguments"
    )


def _adaptations(adapt):
    if isinstance(adapt, bool):
        return kernels.ADAPTATIONS if adapt else ()
    chosen = (adapt,) if isinstance(adapt, str) else tuple(adapt)
    if not set(chosen) <= set(kernels.ADAPTATIONS):
        raise SpecError(
            f"adapt={adapt!r}: use True, False or some of {', '.join(kernels.ADAPTATIONS)}"
        )
    return chosen


def _initializer(identifier, argument):
    try:
        initializer = keras.initializers.get(identifier)
    except (ValueError, TypeError) as error:
        raise SpecError(f"{argument}={identifier!r} is not a Keras initializer") from error
    if not isinstance(initializer, keras.initializers.Initializer):
        raise SpecError(f"{argument}={identifier!r} is not a Keras initializer")
    return initializer


def _variance_rule(scale):
    rule = scale if scale is None else _initializer(scale, "scale")
    if rule is not None and not isinstance(rule, keras.initializers.VarianceScaling):
        raise SpecError(
            f"scale={scale!r} has no fan-in rule. Use he_normal, glorot_uniform, lecun_normal or "
            "a keras.initializers.VarianceScaling"
        )
    return rule


def _kernel_shape(shape):
    shape = (1, *shape) if len(shape) == 2 else tuple(shape)
    if len(shape) != 3 or not all(isinstance(n, (int, np.integer)) and n > 0 for n in shape):
        raise SpecError(f"kernel_shape={shape}: use (height, width, channels in) of the layer")
    return tuple(int(n) for n in shape)
