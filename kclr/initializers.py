"""A run's kernels as Keras initializers, so that a classifier starts from them.

    kernel = kclr.initializers.ContrastiveKernel("runs/layer1")
    bias = kclr.initializers.ContrastiveBias("runs/layer1")
    keras.layers.Conv2D(256, 6, kernel_initializer=kernel, bias_initializer=bias)

What goes where an initializer is asked for:

- **the object**, as above: the only form that reads a run, once, when it is made;
- **a dict**, `keras.initializers.serialize(kernel)`: what Keras writes into a saved model. It
  holds the numbers themselves, so a `.keras` file needs no run beside it, and it holds no path: a
  dict that names one is refused, since a stranger's file must not choose what is read here;
- **a string**, `"kclr>ContrastiveKernel"`: Keras makes such a class without arguments, so it
  names no run and is refused. Register a class that needs no argument, and its name will do:

      @keras.saving.register_keras_serializable("mine")
      class Edges(kclr.initializers.ContrastiveKernel):
          def __init__(self):
              super().__init__("runs/layer1")

      keras.layers.Conv2D(256, 6, kernel_initializer="mine>Edges")

Keras calls a model's initializers when it loads the model, before the saved weights take their
place; these then compute from what the file holds. It knows them by name once this module is
imported: `import kclr.initializers` before `keras.models.load_model`.
"""

import math
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
    """The kernel of a run's layer, for `kernel_initializer` of a `Conv2D` on images in [0, 1].

    A layer of the run's own shape gets the run's kernel, to the last bit. For another shape:

    - another kernel size: the kernel is resampled (`kclr.kernels.resample`). It answers to the
      enlarged picture as it did before; for a smaller kernel, nearly;
    - another number of image channels: `kclr.kernels.with_channels`. To gray, the sum;
    - another number of filters in the layer below: `inputs` says which of them are there;
    - fewer filters: the most diverse are kept, in the order of their choice
      (`kclr.kernels.most_diverse`); more: `extra` draws the rest, after the learned ones.

    Where the run's layer normalises the contrast of each patch (`block.contrast` in its spec), a
    plain kernel leaves that out, and a warning says so: what answers alike is the run's
    `model.keras`.

    Args:
        run: the directory of a run; what `kclr.load_run` returns; a kernel, float (height, width,
            channels in, filters); or a pair of such a kernel and its bias.
        layer: index (from 0; negative from the end) or name of the run's layer. It is not used
            with a bare kernel.
        adapt: True adapts all that differs, False refuses a layer of any other shape; a collection
            of "size", "channels" and "filters" adapts these and refuses the others.
        scale: None keeps the learned scale. A name, dict or instance of a Keras `VarianceScaling`
            initializer ("he_normal", "glorot_uniform", "lecun_normal", ...) multiplies the learned
            filters, all by one factor, so that their mean square is that rule's variance.
        extra: the Keras initializer (name, dict or instance) of the filters that the run does not
            have. It draws for the whole layer, so its own scale is right. Give it a seed, or call
            `keras.utils.set_random_seed`, to draw the same again.
        inputs: for a layer above the first, int (maps,): which filters of the run's layer below
            the maps are that the new layer sees, in their order, as `kept` of that layer's
            initializer says. Further maps are read with weight 0. None where it sees them all:

                first = ContrastiveKernel(run)
                second = ContrastiveKernel(run, 1, inputs=first.kept((6, 6, 3, 16)))

            (`kclr.transfer.initialize` does this for a whole model.) Of a bare array with more than
            4 channels they are taken for filters too.

    Raises:
        RunError: the run or its layer is not there, is damaged, or cannot be read.
        SpecError: an argument cannot be what was meant; or, when called, the shape differs in what
            is not to be adapted, or is no `Conv2D`'s. Not to be seen from a shape: a depthwise
            kernel with a multiplier of 2 or more, and groups.
    """

    def __init__(
        self, run, layer=0, *, adapt=True, scale=None, extra="glorot_uniform", inputs=None
    ):
        kernel, _, above = _learned(run, layer)
        self.kernel = kernels.checked(kernel, 4, SpecError, "the kernel")
        self.above = _is_above(above, self.kernel, inputs)
        self.inputs = _inputs(inputs, self.kernel)
        self.adapt = _adaptations(adapt)
        self.scale = _variance_rule(scale)
        self.extra = _initializer(extra, "extra")

    def kept(self, shape):
        """Which of the run's filters a layer gets, for `inputs` of the layer above it.

        Args:
            shape: (height, width, channels in, filters) of the layer's kernel.

        Returns:
            list of int, in the order of the layer's maps; all of them in theirs, unless it has
            fewer.

        Raises:
            SpecError: as when the initializer is called.
        """
        return self._fitted(tuple(shape))[1].tolist()

    def _fitted(self, shape):
        """The kernel in a layer's shape, without filters to be drawn; its filters' indices."""
        kernels.check_shape(self.kernel.shape, shape, self.adapt, self.inputs, self.above)
        fitted, weights = _fit(self.kernel, shape[:3], self.inputs)
        kept = np.arange(self.kernel.shape[3])
        if shape[3] < kept.size:
            kept = kernels.most_diverse(fitted, shape[3], weights)
            fitted = fitted[..., kept]
        return fitted, kept

    def __call__(self, shape, dtype=None):
        shape = tuple(shape)
        fitted, _ = self._fitted(shape)
        filters = shape[3]
        fitted = fitted * _scale_factor(self.scale, (fitted**2).mean(axis=(0, 1, 2)), shape)
        dtype = dtype or keras.config.floatx()
        learned = ops.cast(ops.convert_to_tensor(fitted.astype(np.float32)), dtype)
        missing = filters - fitted.shape[3]
        if missing <= 0:
            return learned
        drawn = ops.cast(self.extra(shape, dtype=dtype), dtype)
        return ops.concatenate([learned, drawn[..., -missing:]], axis=-1)

    def get_config(self):
        return {
            "kernel": kernels.encode(self.kernel),
            "adapt": list(self.adapt),
            "scale": self.scale and keras.initializers.serialize(self.scale),
            "extra": keras.initializers.serialize(self.extra),
            "inputs": self.inputs,
            "above": self.above,
        }

    @classmethod
    def from_config(cls, config):
        if not config:
            return _without_arguments(cls, ContrastiveKernel)
        # Configs of older versions say nothing of a layer below, and took channels for an image's.
        config = {"inputs": None, "above": False} | config
        _check_keys(config, ["kernel", "adapt", "scale", "extra", "inputs", "above"])
        kernel = kernels.decode(config["kernel"], 4, "kernel")
        initializer = cls.__new__(cls)
        options = {key: config[key] for key in ("adapt", "scale", "extra", "inputs")}
        ContrastiveKernel.__init__(initializer, kernel, **options)
        if not isinstance(config["above"], bool):
            raise SpecError("this config's above is neither true nor false")
        initializer.above = config["above"]
        return initializer


@keras.saving.register_keras_serializable(package="kclr")
class ContrastiveBias(keras.initializers.Initializer):
    """The bias that belongs to a `ContrastiveKernel`, for `bias_initializer` of the same layer.

    Filters beyond the run's start at zero. The bias is exact for the run's own kernel size and
    channels. Where whitening was folded in, it holds the filters' response to the mean image of
    the run's data; resampling keeps that for a flat mean image, not to the last digit.

    Args:
        run, layer, adapt, scale, inputs: as given to the `ContrastiveKernel`; a kernel alone has no
            bias, so arrays come as a pair of kernel and bias.
        kernel_shape: (height, width, channels in) of the layer's kernel. Which filters are kept
            and how they are scaled depends on it, and Keras does not tell it to a bias: needed
            with `scale`, and where the layer has fewer filters than the run.

    Raises:
        RunError, SpecError: as `ContrastiveKernel`; SpecError too where `kernel_shape` is needed
            and missing.
    """

    kernel_shape: Any = None
    order: Any = None
    mean_squares: Any = None

    def __init__(self, run, layer=0, *, kernel_shape=None, adapt=True, scale=None, inputs=None):
        kernel, bias, above = _learned(run, layer)
        if bias is None:
            raise SpecError("this layer has no bias. Leave it out, or give a pair (kernel, bias)")
        kernel = kernels.checked(kernel, 4, SpecError, "the kernel")
        self.bias = kernels.checked(bias, 1, SpecError, "the bias")
        if self.bias.shape != kernel.shape[3:]:
            raise SpecError(
                f"the bias has {self.bias.size} numbers for {kernel.shape[3]} filters. "
                "Give the bias that belongs to the kernel"
            )
        self.adapt = _adaptations(adapt)
        self.scale = _variance_rule(scale)
        if kernel_shape is not None:
            self.kernel_shape = _kernel_shape(kernel_shape)
            above, inputs = _is_above(above, kernel, inputs), _inputs(inputs, kernel)
            whole = (*self.kernel_shape, kernel.shape[3])
            kernels.check_shape(kernel.shape, whole, self.adapt, inputs, above)
            fitted, weights = _fit(kernel, self.kernel_shape, inputs)
            # The kernel itself stays out: what it says about the bias is two numbers a filter,
            # and a saved model holds the kernel once already.
            self.order = kernels.most_diverse(fitted, kernel.shape[3], weights)
            self.mean_squares = (fitted**2).mean(axis=(0, 1, 2)).astype(np.float32)

    def __call__(self, shape, dtype=None):
        if len(shape) != 1:
            raise SpecError(f"a bias has one number a filter, not the shape {tuple(shape)}")
        (filters,), learned = shape, self.bias.size
        if filters != learned and "filters" not in self.adapt:
            raise SpecError(kernels.refusal("filters", f"{learned} filters", filters))
        if self.kernel_shape is None and (self.scale or filters < learned):
            raise SpecError(
                "which filters are kept and how they are scaled depends on the layer's kernel. "
                "Give ContrastiveBias its kernel_shape=(height, width, channels in)"
            )
        kept = self.order[:filters] if filters < learned else np.arange(learned)
        bias = self.bias[kept].astype(np.float64)
        if self.scale:
            shape = (*self.kernel_shape, filters)
            bias = bias * _scale_factor(self.scale, self.mean_squares[kept], shape)
        bias = np.pad(bias, (0, max(0, filters - learned))).astype(np.float32)
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
        }

    @classmethod
    def from_config(cls, config):
        if not config:
            return _without_arguments(cls, ContrastiveBias)
        keys = ["bias", "kernel_shape", "order", "mean_squares", "adapt", "scale"]
        _check_keys(config, keys)
        initializer = cls.__new__(cls)
        initializer.bias = kernels.decode(config["bias"], 1, "bias")
        initializer.adapt = _adaptations(config["adapt"])
        initializer.scale = _variance_rule(config["scale"])
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
        return run, None, None
    if isinstance(run, (tuple, list)) and len(run) == 2:
        return (*run, None)
    if isinstance(run, (str, os.PathLike)):
        return _read_layer(as_path(run).expanduser(), layer)
    if not hasattr(run, "layers"):
        raise SpecError(
            f"{type(run).__name__} is no run. Give the path of a run's directory, what "
            "kclr.load_run returns, a kernel's array, or a pair (kernel, bias)"
        )
    position = _position(layer, [each.name for each in run.layers], "the run")
    found = run.layers[position]
    if kernels.contrast_left_out(getattr(found, "block", None)):
        kernels.warn_of_contrast([f"the run's layer {found.name}"])
    return found.kernel, found.bias, position > 0


def _read_layer(path, layer):
    """What `_learned` says of a run's directory, or of one with nothing but the arrays of one."""
    found = Run(path).kernels
    if not found:
        siblings = [each.name for each in path.parent.glob("*") if (each / "layers").is_dir()]
        near = get_close_matches(path.name, siblings, 1)
        wrong = "no layers/NN-NAME/kernel.npy in it" if path.is_dir() else "no such directory"
        cure = (
            f"Did you mean {path.parent / near[0]}?" if near else "Give a directory of kclr train"
        )
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
        raise SpecError("inputs: the run's first layer reads an image. Leave it out")
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
            f"inputs={inputs!r}: give indices of the {below} filters of the layer below, each "
            "once, as kept(shape) of that layer's initializer"
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
            "a config must not name a run: what is loaded from a file never chooses what is read. "
            "Make the object in Python, ContrastiveKernel(run), or use its own get_config()"
        )
    if sorted(config) != sorted(keys):
        raise SpecError(
            f"this config has the keys {', '.join(map(str, config))} and needs "
            f"{', '.join(keys)}. Use what get_config() returned"
        )


def _without_arguments(cls, base):
    if cls.__init__ is not base.__init__:
        return cls()
    raise SpecError(
        f'"kclr>{base.__name__}" names no run. Give the object {base.__name__}(run), its '
        "keras.initializers.serialize(...) dict, or the name of a registered subclass that needs "
        "no argument"
    )


def _adaptations(adapt):
    if isinstance(adapt, bool):
        return kernels.ADAPTATIONS if adapt else ()
    chosen = (adapt,) if isinstance(adapt, str) else tuple(adapt)
    if not set(chosen) <= set(kernels.ADAPTATIONS):
        raise SpecError(
            f"adapt={adapt!r}: give True, False or some of {', '.join(kernels.ADAPTATIONS)}"
        )
    return chosen


def _initializer(identifier, argument):
    try:
        initializer = keras.initializers.get(identifier)
    except (ValueError, TypeError) as error:
        raise SpecError(f"{argument}={identifier!r} is no Keras initializer") from error
    if not isinstance(initializer, keras.initializers.Initializer):
        raise SpecError(f"{argument}={identifier!r} is no Keras initializer")
    return initializer


def _variance_rule(scale):
    rule = scale if scale is None else _initializer(scale, "scale")
    if rule is not None and not isinstance(rule, keras.initializers.VarianceScaling):
        raise SpecError(
            f"scale={scale!r} has no fan-in rule. Use he_normal, glorot_uniform, lecun_normal or "
            "a keras.initializers.VarianceScaling"
        )
    return rule


def _scale_factor(rule, mean_squares, shape):
    """What to multiply filters by, so that their mean square is the rule's variance.

    Args:
        rule: a `VarianceScaling`, or None for 1.
        mean_squares: float (filters,), of each learned filter that the layer gets.
        shape: (height, width, channels in, filters) of the layer's kernel.
    """
    if rule is None:
        return 1.0
    mean_square = float(np.mean(mean_squares))
    if mean_square <= 0:
        raise SpecError("a kernel of zeros cannot be scaled. Leave scale out, or train it again")
    fan_in, fan_out = (shape[0] * shape[1] * count for count in shape[2:])
    fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    return math.sqrt(rule.scale / fans[rule.mode] / mean_square)


def _kernel_shape(shape):
    shape = tuple(shape)
    if len(shape) != 3 or not all(isinstance(n, (int, np.integer)) and n > 0 for n in shape):
        raise SpecError(f"kernel_shape={shape}: give (height, width, channels in) of the layer")
    return tuple(int(n) for n in shape)
