"""Initialize the first convolutions of any Keras model from a run, and scale what follows.

    report = initialize(model, "runs/layer1", data=images)
    print(report)
    model.compile(...)

These convolutions are found by running the model once, layer by layer, so it may be of any form:
functional, sequential, nested, or a subclass.
"""

import dataclasses
import io
import os
from typing import Any, NamedTuple

import numpy as np

from kclr import kernels
from kclr.errors import SpecError
from kclr.runs.run import load_run
from kclr.spec.values import by, pair, short
from kclr.spec.wording import printable
from kclr.transfer.lsuv import few_images, kernel_name, lsuv, output_stds, watched

__all__ = ["InitializeReport", "InitializedLayer", "initialize", "lsuv"]

# Layers and operations that leave every channel in its place, so that the next convolution still
# sees the maps of the last one. Every layer whose name starts with Random does too.
KEEPING_CHANNELS = """
Activation ActivityRegularization AlphaDropout AveragePooling1D AveragePooling2D BatchNormalization
CenterCrop Cropping1D Cropping2D DropColors Dropout ELU GaussianDropout GaussianNoise
GroupNormalization Identity LayerNormalization LeakyReLU MaxPooling1D MaxPooling2D Normalization
PReLU RMSNormalization ReLU Rescaling Resizing SensorJitter SpatialDropout1D SpatialDropout2D
UpSampling1D UpSampling2D ZeroPadding1D ZeroPadding2D
Abs Absolute Add AveragePool Celu Clip Divide Elu Gelu HardSigmoid HardSilu HardTanh LeakyRelu
MaxPool Maximum Minimum Mish Multiply Negative Pad Relu Relu6 Selu Sigmoid Silu Softplus Softsign
Sqrt Square Subtract Tanh TrueDivide
"""


@dataclasses.dataclass(frozen=True)
class InitializedLayer:
    """One row of an `InitializeReport`: what was done with a layer.

    Attributes:
        run_layer: the run's layer, or None if the model's layer was only scaled.
        model_layer: the model's layer, or None if the run's layer was not copied.
        adaptation: what was done, in words.
        std_before, std_after: standard deviation of the model's layer's output before its
            activation, in the given model and in the changed one.
        frozen: whether the layer was made not trainable.
    """

    run_layer: str | None
    model_layer: str | None
    adaptation: str
    std_before: float | None = None
    std_after: float | None = None
    frozen: bool = False


@dataclasses.dataclass(frozen=True)
class InitializeReport:
    """Which layer was copied where. `print(report)` shows it as a table.

    Attributes:
        rows: first the run's layers, from the image upwards, then the scaled ones.
        data: the images that activations were measured on.
    """

    rows: tuple[InitializedLayer, ...]
    data: str

    def __rich__(self):
        from rich.markup import escape
        from rich.table import Table

        table = Table(title="started from the run", title_justify="left")
        table.caption = f"std: of the output before its activation, on {self.data}"
        for heading in ("run", "model", "how"):
            table.add_column(heading, overflow="fold")
        for heading in ("std before", "std after"):
            table.add_column(heading, justify="right")
        for row in self.rows:
            how = f"{row.adaptation}; frozen" if row.frozen else row.adaptation
            stds = ("" if std is None else f"{std:.3g}" for std in (row.std_before, row.std_after))
            names = (row.run_layer or "", row.model_layer or "", how)
            table.add_row(*(escape(printable(words)) for words in names), *stds)
        return table

    def __str__(self):
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=100, color_system=None, force_jupyter=False).print(self)
        return text.getvalue().rstrip()


def initialize(model, run, layers=None, freeze=False, scale=True, data=None) -> InitializeReport:
    """Initialize the first convolutions of a Keras model from a run, in place.

    The run's first layer is copied to the first `Conv2D` that sees the image (`Conv1D`, where the
    model takes series), each further one to the first that sees the maps of the previous one, in
    the order in which the model runs them. Only layers that keep the channels may be between them:
    activations, pools, normalisation, dropout, padding. Depthwise, grouped and 1x1 convolutions are
    skipped (1x1 if the run's kernel is larger). After one of these, a sum or a concatenation, no
    convolution sees what the run's layer saw: the transfer ends there, and the report names the
    layer.

    Kernels are adapted as in `kclr.initializers.ContrastiveKernel`: their size, the image's
    channels, and, if the model has fewer filters, the most diverse ones are kept. A further layer
    reads the maps that were kept, in their new order, and maps that the run does not have with
    weight 0. Filters that the run does not have keep the model's initial values. The run's bias is
    copied to the model's, if it has one. The contrast normalisation of a run's layers
    (`block.contrast` in a spec) is never copied: a warning says so.

    With `scale` every layer's output then has unit variance. The kernel and bias of a copied
    convolution are divided by one number, which the copied layer above compensates, so that filters
    respond as before; all other trainable layers are scaled by `lsuv`. If a large learned scale
    were kept, the weights above would be so small that Adam's first steps would erase them.

    Args:
        model: keras.Model with one input, of images or of series, scaled as the run's network sees
            them. Compile it afterwards.
        run: a run's directory, or what `kclr.load_run` returns: an object whose `layers` have
            `name`, `kernel` and `bias` (None for none).
        layers: how many of the run's layers to copy, or their names, from the image upwards. None
            copies as many as fit, at least one.
        freeze: make the copied convolutions not trainable, including filters that the run does not
            have.
        scale: give layers unit variance, as above; False keeps the run's values.
        data: a few images or series to measure activations on; see `lsuv`. Where the run's images
            were scaled otherwise than to [0, 1], they are needed, as the model takes them: raw, if
            `run.preprocessing()` comes first in it.

    Returns:
        InitializeReport.

    Raises:
        RunError: the run or its layer does not exist.
        SpecError: a layer cannot be copied, or the data are not images for this model.
    """
    run = load_run(run) if isinstance(run, (str, os.PathLike)) else run
    learned = _chosen(list(run.layers), layers)
    scaling = getattr(run, "scaling", None)
    unit = scaling is None or scaling.unit
    images, words = few_images(model, data, unit)
    calls = _trace(model, images.shape[1:])
    places, misfit = _places(learned, calls)
    if misfit and (layers is not None or not places):
        raise SpecError(f"the run's layer {misfit[0]!r} does not fit {model.name}: {misfit[1]}")
    kernels.warn_of_contrast([f"the run's layer {each.name}" for each, _ in places if _bare(each)])
    before = output_stds(model, images)
    rows = []
    kept, factor = None, 1.0
    for index, (layer, call) in enumerate(places):
        notes = _notes(places[index - 1] if index else None, call, unit)
        notes += ["without its per-patch contrast"] * _bare(layer)
        kept, how = _start(call.operation, layer, kept, factor)
        if scale:
            factor = output_stds(model, images)[call.operation] or 1.0
            for weight in call.operation.weights:
                weight.assign(weight / factor)
            how.append(f"all / {factor:.3g}")
        rows.append((layer.name, call.operation, [*how, *notes], freeze))
        if freeze:
            call.operation.trainable = False
    if scale:
        started = [call.operation for _, call in places]
        seen = dict.fromkeys(call.operation for call in calls if kernel_name(call.operation))
        others = [each for each in seen if each.trainable and each not in started]
        for scaled in lsuv(model, images, others, unit=unit):
            how = (
                f"kernel / {scaled.divided_by:.3g}"
                if scaled.std_after
                else "constant output: not scaled"
            )
            rows.append((None, scaled.layer, [how], False))
    after = output_stds(model, images)
    table = [
        InitializedLayer(
            name, operation.path, "; ".join(how), before[operation], after[operation], frozen
        )
        for name, operation, how, frozen in rows
    ]
    if misfit:
        row = InitializedLayer(misfit[0], None, f"not copied: {misfit[1]}")
        table.insert(len(places), row)
    return InitializeReport(tuple(table), words)


def _bare(layer):
    return kernels.contrast_left_out(getattr(layer, "block", None))


def _chosen(learned, layers):
    """The layers of a run that are asked for, from the image upwards."""
    names = [layer.name for layer in learned]
    if layers is None:
        return learned
    if isinstance(layers, str):
        layers = [layers]
    if isinstance(layers, (int, np.integer)):
        if not 1 <= layers <= len(learned):
            raise SpecError(f"layers={layers}: the run has {len(learned)}: {', '.join(names)}")
        return learned[:layers]
    if not layers or list(layers) != names[: len(layers)]:
        raise SpecError(
            f"layers={list(layers)}: a layer needs all layers below it. The run has, from the "
            f"image upwards: {', '.join(names)}"
        )
    return learned[: len(layers)]


class _Call(NamedTuple):
    """An operation as the model ran it.

    `sees` are the nearest operations below it that mix channels, `through` those that lie between.
    """

    operation: Any
    inputs: list
    output: Any
    sees: tuple
    through: tuple


def _trace(model, shape) -> list[_Call]:
    """Run a model on one image; the calls of its layers in their order."""
    import tensorflow as tf

    calls: list[_Call] = []
    producers: dict[int, _Call] = {}

    def watch(operation, call, *args, **kwargs):
        output = call(*args, **kwargs)
        inputs = [each for each in tf.nest.flatten((args, kwargs)) if tf.is_tensor(each)]
        done = _Call(operation, inputs, output, *_origin(inputs, producers))
        calls.append(done)
        # Dropout hands on what it was given, which so stays the output of the layer below.
        if not any(each is output for each in inputs):
            producers[id(output)] = done
        return output

    image = tf.constant(np.random.default_rng(0).random((1, *shape), np.float32))
    # Not a layer made of layers: what these do is what is to be seen.
    with watched(model, watch, lambda each: _mixes(each) or _keeps(each) or not _inner(each)):
        model(image, training=False)
    return calls


def _origin(inputs, producers):
    """The nearest operations that mix channels below some tensors, and the calls between."""
    sees: dict[Any, None] = {}
    through: dict[int, _Call] = {}
    waiting = list(inputs)
    while waiting:
        call = producers.get(id(waiting.pop()))
        if call is None or call.operation in sees or id(call.output) in through:
            continue
        if _mixes(call.operation):
            sees[call.operation] = None
        else:
            through[id(call.output)] = call
            waiting += call.inputs
    return tuple(sees), tuple(through.values())


def _inner(operation):
    return getattr(operation, "_layers", None)


def _keeps(operation):
    names = [cls.__name__ for cls in type(operation).__mro__]
    return names[0].startswith("Random") or not set(names).isdisjoint(KEEPING_CHANNELS.split())


def _mixes(operation):
    if kernel_name(operation):
        return True
    return (
        bool(getattr(operation, "weights", None))
        and not _inner(operation)
        and not _keeps(operation)
    )


def _places(learned, calls):
    """Pairs of a run's layer and the call where it goes, and the first misfit's name and reason."""
    places: list[tuple[Any, _Call]] = []
    for layer in learned:
        below = (places[-1][1].operation,) if places else ()
        reasons = []
        for call in calls:
            if call.sees != below or not _mixes(call.operation) or call.operation in below:
                continue
            reason = _misfit(layer, call, first=not places)
            if reason is None:
                places.append((layer, call))
                break
            reasons.append(reason)
        else:
            what = f"the maps of {below[0].path}, and only them" if below else "the image"
            return places, (layer.name, "; ".join(reasons[:3]) or f"no convolution sees {what}")
    return places, None


def _misfit(layer, call, first):
    """Why a run's layer cannot be copied to a layer of the model, or None if it can."""
    name, kind = call.operation.path, type(call.operation).__name__
    if {"Conv1D", "Conv2D"}.isdisjoint(cls.__name__ for cls in type(call.operation).__mro__):
        return f"{name} is a {kind}"
    if call.operation.groups > 1:
        return f"{name} is a grouped convolution"
    height, width, channels, filters = kernels.of_image(call.operation.kernel.shape)
    if height * width == 1 and layer.kernel.shape[:2] != (1, 1):
        return f"{name} is 1x1"
    if filters == 1:
        return f"{name} has one filter"
    if first:
        many = max(channels, layer.kernel.shape[2]) > kernels.MOST_IMAGE_CHANNELS
        if many and channels != layer.kernel.shape[2]:
            return f"{name} sees {channels} channels, not those of an image"
        return None
    for between in call.through:
        maps = [each for each in between.inputs if len(each.shape) == len(call.output.shape)]
        if not _keeps(between.operation) or len(maps) != 1:
            return f"{name} comes after {between.operation.name}"
    if channels != call.sees[0].kernel.shape[-1]:
        return f"{name} sees {channels} channels"
    return None


def _notes(below, call, unit=True):
    """How the model's layer differs from the run's, for the report."""
    if below is None:
        low, high = (float(np.asarray(f(call.inputs[0]))) for f in (np.min, np.max))
        if unit and (low < -0.05 or not 0.9 < high < 1.05):
            return [f"sees [0, 1] as {low:.2g} to {high:.2g}, which the run did not"]
        return []
    block = getattr(below[0], "block", None)
    if not block:
        return []
    trained = pair(block.get("pool_strides") or block["pool_size"])
    maps = (below[1].output, call.inputs[0])
    before, after = ((1, *each.shape[1:-1])[-2:] for each in maps)  # series have no height
    pooled = round(before[0] / after[0]), round(before[1] / after[1])
    if trained == pooled:
        return []
    return [f"maps pooled by {by(short(*pooled))}, in the run by {by(short(*trained))}"]


def _start(convolution, layer, kept, factor):
    """Write a run's layer into a convolution.

    Args:
        kept: indices of the lower layer's filters, in the order of the model's maps; None for the
            image.
        factor: what the lower layer's output has been divided by.

    Returns:
        Indices of this layer's filters, in the order that the model has them now; what was done.
    """
    import keras

    kernel = np.asarray(layer.kernel, np.float64) * factor
    shape = kernels.of_image(tuple(convolution.kernel.shape))
    own, words = kernel.shape, []
    if own[:2] != shape[:2]:
        words.append(f"{own[0]}x{own[1]} → {shape[0]}x{shape[1]} resampled")
    if kept is None:
        if own[2] != shape[2]:
            words.append(f"{own[2]} → {shape[2]} channels")
    else:
        if kept.size and kept.max() >= own[2]:
            raise SpecError(f"the run's layer {layer.name!r} has {own[2]} input channels, too few")
        new = shape[2] - kept.size
        kernel = kernels.reading(kernel, kept, shape[2])
        if kept.size < own[2]:
            words.append(f"reads the {kept.size} kept of {own[2]} maps")
        if new:
            words.append(f"reads {new} new maps with weight 0")
    fitted, weights = kernels.fit(kernel, shape[:3])
    filters = np.arange(own[3])
    if shape[3] < own[3]:
        filters = kernels.most_diverse(fitted, shape[3], weights)
        words.append(f"{own[3]} → {shape[3]} most diverse")
    elif shape[3] > own[3]:
        words.append(f"{own[3]} → {shape[3]}, the new ones as they were")
    start = np.array(keras.ops.convert_to_numpy(convolution.kernel))
    start[..., : filters.size] = fitted[..., filters].reshape(*start.shape[:-1], filters.size)
    convolution.kernel.assign(start)
    if layer.bias is not None and convolution.use_bias:
        bias = np.array(keras.ops.convert_to_numpy(convolution.bias))
        bias[: filters.size] = np.asarray(layer.bias)[filters]
        convolution.bias.assign(bias)
    elif layer.bias is not None and np.any(layer.bias):
        words.append("no bias here: the run's bias is not copied")
    return filters, words or ["as learned"]
