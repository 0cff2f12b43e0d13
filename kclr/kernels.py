"""A convolution's kernel made to fit another convolution: size, channels, number of filters.

Pure numpy functions of kernels shaped (height, width, channels in, filters), as Keras has them;
that of a series has the height 1. All have one aim: as far as the new layer can see what the old
one saw, it responds the same. So a kernel's bias stays right, and so do the layers above.
"""

import base64
import math
import warnings

import numpy as np

from kclr.errors import SpecError

MAX_BYTES = 256 * 2**20
ADAPTATIONS = ("size", "channels", "filters")

# Of a bare array that nobody says more of: gray, colour, and alpha or depth beside it.
MOST_COLOURS = 4
# More input channels than this are the features of a layer below and not an image's: they have
# no counterpart in another layer, whereas gray, colour, alpha, depth and near infrared do.
MOST_IMAGE_CHANNELS = 16


def interpolation(size, new_size):
    """The matrix of a one-dimensional, linear, antialiased resize of `size` samples.

    The same weights as `tf.image.resize(method="bilinear", antialias=True)`: a triangle as wide
    as the sparser of the two grids, pixel centres at halves.

    Returns:
        float64 (new_size, size); each row sums to 1.
    """
    centres = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    width = max(1.0, size / new_size)
    weights = np.maximum(0.0, 1 - np.abs(np.arange(size) - centres[:, None]) / width)
    return weights / weights.sum(axis=1, keepdims=True)


def resample(kernel, size):
    """Resample a kernel so that it responds to resized patches as to the original ones.

    The pseudo-inverse of the patch's own resize (Beyer et al. 2023, FlexiViT, section 3.4): a
    larger kernel's response to an enlarged patch equals the old response to the patch; a smaller
    kernel comes as near to that as least squares can. Plain interpolation does neither. What a
    smaller kernel loses of its response to a flat patch is spread evenly over it, because a bias
    that holds the subtracted mean of the images relies on that response.

    Args:
        kernel: float (height, width, channels in, filters).
        size: (new height, new width).

    Returns:
        float64 (new height, new width, channels in, filters).
    """
    rows, columns = (
        np.linalg.pinv(interpolation(old, new).T)
        for old, new in zip(kernel.shape[:2], size, strict=True)
    )
    resampled = np.einsum("yh,xw,hwcf->yxcf", rows, columns, kernel.astype(np.float64))
    lost = kernel.sum(axis=(0, 1), dtype=np.float64) - resampled.sum(axis=(0, 1))
    return resampled + lost / (size[0] * size[1])


def with_channels(kernel, channels):
    """Give a kernel of image channels another number of them.

    - to fewer: the weights of the last channels are spread evenly over those that stay. To one
      (gray) that is the sum, so a gray picture gets the answer it got as three equal channels;
    - from one (gray) to more: an equal share each, so equal channels get the gray picture's answer;
    - from several to more: the first ones keep their weights, the new ones start at zero, so the
      answer is the old one whatever they hold, until training uses them.

    Args:
        kernel: float (height, width, channels in, filters).
        channels: the new number of channels in, >= 1.

    Returns:
        float64 (height, width, channels, filters).
    """
    kernel = kernel.astype(np.float64)
    old = kernel.shape[2]
    if old == 1:
        return np.repeat(kernel / channels, channels, axis=2)
    if channels <= old:
        spread = kernel[:, :, channels:].sum(axis=2, keepdims=True) / channels
        return kernel[:, :, :channels] + spread
    return np.pad(kernel, [(0, 0), (0, 0), (0, channels - old), (0, 0)])


def reading(kernel, inputs, channels):
    """Let a kernel of an upper layer read other maps than those that it was learned on.

    Args:
        kernel: float (height, width, channels in, filters).
        inputs: int (kept,), which filters of the layer below the new layer's first maps are.
        channels: of the new layer, at least as many; further maps are read with weight 0.

    Returns:
        float64 (height, width, channels, filters).
    """
    kernel = kernel.astype(np.float64)[:, :, np.asarray(inputs, np.int64)]
    return np.pad(kernel, [(0, 0), (0, 0), (0, channels - kernel.shape[2]), (0, 0)])


def most_diverse(kernel, count, weights=None):
    """Choose filters that differ most, the strongest first.

    Farthest-point selection (Gonzalez 1985): each next filter is the one whose cosine distance to
    the nearest chosen one is largest, so that every filter left out has a likeness among those
    kept. A filter and its negative are far apart, as they are after a ReLU. Ties go to the
    lower index; the first k of k + 1 chosen filters are the k chosen filters.

    A pivoted QR decomposition, the other usual way, takes a filter and its negative for the same
    and has nothing to say once it has chosen as many filters as a kernel has weights.

    Args:
        kernel: float (height, width, channels in, filters).
        count: how many to choose, at most `filters`.
        weights: float (filters,) >= 0, how much each filter's distances count, 1 by default.
            Filters of zeros count nothing and are chosen last.

    Returns:
        int64 (count,), indices of filters in the order of their choice.
    """
    filters = kernel.reshape(-1, kernel.shape[-1]).T.astype(np.float64)
    norms = np.linalg.norm(filters, axis=1)
    unit = filters / np.where(norms > 0, norms, 1)[:, None]
    weights = np.where(norms > 0, 1.0 if weights is None else weights, 0.0)
    score, distances = weights * norms, np.full(len(unit), np.inf)
    chosen: list[int] = []
    while len(chosen) < count:
        score[chosen] = -1
        chosen.append(int(np.argmax(score)))
        distances = np.minimum(distances, np.maximum(1 - unit @ unit[chosen[-1]], 0))
        score = weights * distances
    return np.array(chosen, np.int64)


def fit(kernel, shape):
    """Bring a kernel to another size and number of channels, and rank its filters.

    Args:
        kernel: float (height, width, channels in, filters).
        shape: (height, width, channels in) to bring it to.

    Returns:
        fitted: float64 (*shape, filters); weights: float64 (filters,), the share of each filter's
        strength that survived, 1 for the filter that kept most, for `most_diverse`: a filter
        of pure colour that has become next to nothing in gray is then not worth keeping.
    """
    fitted = kernel.astype(np.float64)
    if fitted.shape[:2] != tuple(shape[:2]):
        fitted = resample(fitted, shape[:2])
    if fitted.shape[2] != shape[2]:
        fitted = with_channels(fitted, shape[2])
    before = np.sqrt((kernel.astype(np.float64) ** 2).sum(axis=(0, 1, 2)))
    after = np.sqrt((fitted**2).sum(axis=(0, 1, 2)))
    kept = after / np.where(before > 0, before, 1)
    return fitted, kept / max(kept.max(), np.finfo(float).tiny)


def refusal(part, own, wanted):
    """The words for a kernel that may not be adapted."""
    return f"the run's kernel has {own}, the layer {wanted}. Make them equal, or adapt {part!r}"


def of_image(shape):
    """The shape of a kernel, or of its start, with the height 1 where it is that of a series.

    Args:
        shape: (height, width, channels in, filters), or (length, channels in, filters).
    """
    return (1, *shape) if len(shape) == 3 else tuple(shape)


def folded(kernel, bias, shift, spread):
    """Kernel and bias that answer raw numbers as the given ones answer scaled ones.

    The network sees `(raw - shift) / spread`. What a convolution without padding answers is linear,
    so it can see the raw numbers instead: the kernel is divided by `spread`, and the bias keeps
    what the shift took away.

    Args:
        kernel: float (height, width, channels in, filters). bias: float (filters,).
        shift, spread: float (channels in,).

    Returns:
        float64, of the shapes of kernel and bias.
    """
    raw = kernel.astype(np.float64) / spread[:, None]
    return raw, bias - np.einsum("yxcf,c->f", raw, shift)


def check_shape(own, shape, adapt, inputs=None, above=False, depthwise=False):
    """Refuse a layer's kernel that the run's kernel cannot, or is not to, be adapted to.

    Args:
        own: (height, width, channels in, filters) of the run's kernel.
        shape: the layer's.
        adapt: what is to be adapted, of `ADAPTATIONS`.
        inputs: which filters of the layer below the layer's first channels are; None for all of
            them, or an image's channels.
        above: whether the channels are filters of a layer below, and not an image's.
        depthwise: whether the layer is known to be depthwise, so that one filter is enough.
    """
    if len(shape) != 4:
        raise SpecError(
            f"the kernel of a Conv2D is (height, width, channels in, filters) and that of a Conv1D "
            f"(length, channels in, filters), not {shape}. Use this initializer only for these"
        )
    if shape == own:  # other filters in other places, where there are `inputs`, are no other shape
        return
    if shape[:2] != own[:2]:
        first = 1 if own[0] == shape[0] == 1 else 0  # a series has no height
        own_size, size = ("x".join(map(str, each[first:2])) for each in (own, shape))
        if "size" not in adapt:
            raise SpecError(refusal("size", f"size {own_size}", size))
        if tuple(shape[:2]) == (1, 1):
            raise SpecError(
                f"a kernel of size {size} cannot hold the pattern of one of size {own_size}. Use "
                "this initializer for a convolution with a larger kernel, not for a pointwise one"
            )
    if shape[2] != own[2]:
        if "channels" not in adapt:
            raise SpecError(refusal("channels", f"{own[2]} channels in", shape[2]))
        if above and inputs is None:
            raise SpecError(
                f"the kernel reads {own[2]} filters of the layer below, but this layer sees "
                f"{shape[2]} maps. Pass which filters these are, for example "
                "inputs=ContrastiveKernel(run, 0).kept(shape of the kernel below), or let "
                "kclr.transfer.initialize(model, run) initialize both layers"
            )
        if above and len(inputs) > shape[2]:
            raise SpecError(
                f"inputs names {len(inputs)} filters of the layer below, but this layer sees "
                f"{shape[2]} maps. Name at most as many"
            )
        if not above and max(own[2], shape[2]) > MOST_IMAGE_CHANNELS:
            raise SpecError(
                f"the run's kernel has {own[2]} channels in, the layer {shape[2]}: more than "
                f"{MOST_IMAGE_CHANNELS} are features of a layer below, which do not correspond to "
                "other features. Use this initializer for a Conv2D on the input that it was "
                "trained on"
            )
    if shape[3] != own[3]:
        if "filters" not in adapt:
            raise SpecError(refusal("filters", f"{own[3]} filters", shape[3]))
        if shape[3] == 1 and not depthwise:
            raise SpecError(
                f"{shape} is a depthwise kernel, or a convolution of one filter: neither can hold "
                f"{own[3]} filters. Use this initializer for a convolution of two filters or more, "
                "or depthwise=True with a run of one channel"
            )


def scale_factor(rule, mean_squares, shape):
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
        raise SpecError("a kernel of zeros cannot be scaled. Remove scale, or train it again")
    fan_in, fan_out = (shape[0] * shape[1] * count for count in shape[2:])
    fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    return math.sqrt(rule.scale / fans[rule.mode] / mean_square)


def separated(kernel, multiplier):
    """The depthwise and the pointwise kernel whose product is nearest to a kernel.

    A separable convolution's kernel is, for each channel in, a (height * width, filters) matrix of
    rank `multiplier` at most. The nearest one is that of the largest singular values (Eckart and
    Young 1936, "The approximation of one matrix by another of lower rank").

    Args:
        kernel: float (height, width, channels in, filters).
        multiplier: int, from 1 to the smaller one of height * width and filters.

    Returns:
        depthwise: float64 (height, width, channels in, multiplier); pointwise: float64 (1, 1,
        channels in * multiplier, filters); kept: float64 (multipliers,), the share of the kernel's
        energy, the sum of its squares, that each multiplier from 1 on keeps.
    """
    height, width, channels, filters = kernel.shape
    of_channels = kernel.astype(np.float64).transpose(2, 0, 1, 3).reshape(channels, -1, filters)
    places, values, weights = np.linalg.svd(of_channels, full_matrices=False)
    root = np.sqrt(values[:, None, :multiplier])  # so that both parts learn at the same rate
    depthwise = (places[:, :, :multiplier] * root).transpose(1, 0, 2)
    pointwise = weights[:, :multiplier] * root.transpose(0, 2, 1)
    energy = (values**2).sum(axis=0).cumsum()
    return (
        depthwise.reshape(height, width, channels, multiplier),
        pointwise.reshape(1, 1, -1, filters),
        energy / energy[-1] if energy[-1] else np.ones(len(energy)),
    )


def contrast_left_out(block):
    """Whether a plain kernel lacks what its layer does besides: the contrast of each window.

    Args:
        block: arguments of the layer's `kclr.ContrastiveConvBlock`; None where nothing is known.
    """
    return bool(block) and block.get("contrast") == "patch"


def warn_of_contrast(names):
    """Warn, where there is something to warn of, that these layers' contrast is left out."""
    if names:
        # Not of the caller's line: one warning will do for a kernel, its bias, and many of them.
        warnings.warn(
            f"per-patch contrast normalisation of {', '.join(names)} is omitted, since a plain "
            "kernel cannot include it; model.keras and saved_model include it.",
            stacklevel=1,
        )


def checked(array, dimensions, error, what):
    """A read-only float32 copy of an array that can be a kernel or a bias."""
    array = np.asarray(array)
    if array.ndim != dimensions or array.size == 0 or not np.can_cast(array.dtype, np.longdouble):
        wanted = "(height, width, channels in, filters)" if dimensions == 4 else "(filters,)"
        raise error(f"{what} is {array.dtype} {array.shape}; values of shape {wanted} are needed")
    if array.size * 4 > MAX_BYTES:
        raise error(f"{what} is larger than {MAX_BYTES >> 20} MiB, the limit for a config")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise error(f"{what} has values that are not finite. Train this layer again")
    array.flags.writeable = False
    return array


def encode(array):
    """An array as plain values for a config: shape, and base64 of its float32 numbers."""
    return {
        "shape": list(array.shape),
        "float32": base64.b64encode(array.astype("<f4").tobytes()).decode("ascii"),
    }


def decode(value, dimensions, key):
    """The array of `encode`. Raw numbers only: nothing is unpickled, unpacked or opened."""
    if not isinstance(value, dict) or sorted(value) != ["float32", "shape"]:
        raise SpecError(f"this config's {key} is not a mapping of shape and float32")
    shape, text = value["shape"], value["float32"]
    if not isinstance(shape, (list, tuple)) or not all(type(n) is int and n > 0 for n in shape):
        raise SpecError(f"this config's {key} has the shape {shape!r}")
    size = 4 * math.prod(shape)
    if size > MAX_BYTES:
        raise SpecError(f"this config's {key} is larger than {MAX_BYTES >> 20} MiB")
    if not isinstance(text, str) or len(text) != 4 * math.ceil(size / 3):
        raise SpecError(f"this config's {key} does not have the {size} bytes of its shape")
    try:
        raw = base64.b64decode(text, validate=True)
        array = np.frombuffer(raw, "<f4").reshape(shape)
    except ValueError as error:
        raise SpecError(f"this config's {key} is damaged: {error}") from error
    return checked(array, dimensions, SpecError, f"this config's {key}")
