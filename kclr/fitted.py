"""`kclr init --data`: look at the data, and write a spec whose layers fit it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from kclr.data.labels import labels_problem
from kclr.data.sources import as_images, as_source
from kclr.errors import SpecError
from kclr.spec.checks import MOST_WHITENED
from kclr.spec.wording import printable

_LOOKED_AT = 64  # images
_FEW = 2000  # images below which large ones are cut into tiles
_TILE = 128
_ALIGNED = 8  # images that alignment needs at least
_FILTERS = (128, 256, 512)
# Patches and shifts of the second and the third layer, in cells, the best first.
_PATCHES = (((8, 3), (6, 2), (4, 1)), ((4, 2), (4, 1)))
_PATCHES_OF_SERIES = (((16, 8), (8, 4)), ((12, 6), (8, 4)))
_LONG = 4000  # samples from which a series is taken for raw sound, or the like

_HEAD = """\
# A kclr spec for {name}, written by `kclr init --data`.
# {found}
# Check it with `kclr check {path}`, train it with `kclr train {path}`.

data:
{data}
# The same seed gives the same kernels.
seed: 0

stack:
  # Filters by k-means on whitened windows of the {noun}: seconds, no gradient steps.
  - name: conv1
    block: {{filters: {filters}, kernel_size: {kernel}, padding: same{strides}{pool}{whitening}}}
    learner: {{name: kmeans, threshold: 0.5}}
"""

_UPPER = """
  # {why}
  - name: conv{number}
    block: {{filters: {filters}, kernel_size: {kernel}, padding: same, batch_norm: true}}
    patches:              # sizes in cells of the map below; `kclr check` shows them in {unit}
      patch_size: {patch}
      max_shift: {shift}  # anchor and positive are at most this far apart
      augment:
{augment}
    objective: {{name: ntxent, temperature: 0.2}}
    embedding: {{pool: mean, standardize: true, head: [512, 128]}}
    train:
      steps: 500          # or epochs
      batch_size: 256
      precision: auto     # bfloat16 where this machine has units for it
      optimizer:
        class_name: AdamW
        config:
          learning_rate:
            class_name: CosineDecay
            config:
              initial_learning_rate: 0.0
              warmup_target: 0.002
              warmup_steps: 50
              decay_steps: 450
"""

_WHY = (
    "Above it filters by contrast, on the frozen output of the layer below: patches that lie\n"
    "  # close together must embed closer than those of others.",
    "The same again, on larger crops.",
)
_COLOUR = """\
        - {class_name: RandomFlip, config: {mode: horizontal}}
        - class_name: RandomColorJitter
          config:
            value_range: [0, 1]
            brightness_factor: 0.4
            contrast_factor: 0.4
            saturation_factor: 0.4
            hue_factor: 0.1"""
_GRAY = """\
        - {class_name: RandomBrightness, config: {factor: 0.3, value_range: [0, 1]}}
        - {class_name: RandomContrast, config: {factor: 0.4, value_range: [0, 1]}}"""
_TURNED_PATCHES = """\
        - {class_name: RandomRotation, config: {factor: 0.05, fill_mode: reflect}}
        - class_name: RandomZoom
          config: {height_factor: 0.15, width_factor: 0.15, fill_mode: reflect}"""
_STRETCHED = """\
        - class_name: RandomZoom # stretches it in time
          config: {height_factor: 0, width_factor: 0.15, fill_mode: nearest}"""
_SENSORS = """\
        # No sensor has the gain and the zero of the next one.
        - {class_name: SensorJitter, config: {gain: 0.3, offset: 0.1}}"""

_MOVED_IMAGES = """\
      - class_name: RandomTranslation
        config: {height_factor: 0.1, width_factor: 0.1, fill_mode: nearest}
      - class_name: RandomZoom
        config: {height_factor: 0.15, width_factor: 0.15, fill_mode: nearest}"""
_MOVED_SERIES = """\
      - class_name: RandomTranslation
        config: {height_factor: 0, width_factor: 0.1, fill_mode: nearest}
      - class_name: RandomZoom # stretches it in time
        config: {height_factor: 0, width_factor: 0.15, fill_mode: nearest}"""
_TURNED = "      - {class_name: RandomRotation, config: {factor: 0.04, fill_mode: nearest}}"


@dataclass(frozen=True)
class Seen:
    """What the data look like.

    Attributes:
        name: of the source.
        count: images or series, or None where only reading them would tell.
        least: height and width of the smallest ones that were looked at.
        largest: of the largest.
        channels, dtype, series: see `kclr.data.images.Images`.
        span: the smallest and the largest number.
        labelled: whether the source has labels too, to judge the filters by.
        options: of the source, those that were given.
    """

    name: str
    count: int | None
    least: tuple[int, int]
    largest: tuple[int, int]
    channels: int
    dtype: str
    series: bool
    span: tuple[float, float]
    labelled: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def look(data) -> Seen:
    """Read the first images of a source.

    Args:
        data: as a spec has it, such as `folder:pictures`, or a mapping with options.

    Raises:
        SpecError: the source is unknown, or cannot be opened.
        RunError: too many of the pictures cannot be read.
    """
    import numpy as np

    own = as_source(data)
    problem = own.problem()
    if problem:
        raise SpecError(problem)
    images = as_images(own)
    first = [image for _, found in islice(images.pictures(), _LOOKED_AT) for image in found]
    if not first:
        reasons = "".join(f"\n  {picture}: {why}" for picture, why in images.skipped[:5])
        raise SpecError(f"{images.name}: none of the first images can be read:{reasons}")
    heights, widths = zip(*(image.shape[:2] for image in first), strict=True)
    fine = [image[np.isfinite(image)] if image.dtype.kind == "f" else image for image in first]
    lows, highs = ([float(of(one)) for one in fine if one.size] for of in (np.min, np.max))
    return Seen(
        data if isinstance(data, str) else own.spec_name(),
        images.count,
        (min(heights), min(widths)),
        (max(heights), max(widths)),
        1 if "channels" not in own.model_fields_set and _gray(first) else images.channels,
        images.dtype,
        images.series,
        (min(lows, default=0.0), max(highs, default=0.0)),
        labels_problem(own) is None and own.labels_problem() is None,
        own.model_dump(mode="json", include=own.model_fields_set - {own.argument}),
    )


def _gray(images) -> bool:
    """Whether all images are gray ones in three equal channels, as most files of gray pictures."""
    return all(
        image.shape[-1] == 3 and (image[..., :1] == image[..., 1:]).all() for image in images
    )


def fitted_spec(seen: Seen, path="FILE", layers=3) -> str:
    """A commented spec for data, as text.

    Args:
        seen: from `look`.
        path: of the file that it is written to, for its comments.
        layers: 1 to 3, how many at most; fewer where the data have no room for them.

    Raises:
        SpecError: the images are too small for a layer.
    """
    noun = "series" if seen.series else "images"
    tile = _tile(seen)
    room = seen.least[1] if seen.series else tile or min(seen.least)
    first = _first(seen, room)
    text = _HEAD.format(
        name=printable(seen.name),
        found=_found(seen),
        path=path,
        data=_data(seen, tile),
        noun=noun,
        filters=_FILTERS[0],
        **first,
    )
    augment = _COLOUR if seen.channels == 3 and seen.dtype == "uint8" and not seen.series else _GRAY
    if seen.series or seen.channels not in (1, 3) or _scale(seen) not in (None, "unit"):
        augment = _SENSORS
    uppers = _uppers(seen, room, first)
    full = len(uppers) < 2 and layers > len(uppers) + 1
    uppers = uppers[: layers - 1]
    for number, (kernel, patch, shift) in enumerate(uppers, start=2):
        text += _UPPER.format(
            number=number,
            why=_WHY[number - 2],
            filters=_FILTERS[number - 1],
            kernel=kernel,
            patch=patch,
            shift=shift,
            unit="samples" if seen.series else "pixels",
            augment=f"{augment}\n{_STRETCHED if seen.series else _TURNED_PATCHES}",
        )
    if full:
        text += f"\n  # One more layer would need larger {noun}.\n"
    layers = len(uppers) + 1
    grids, powers = ([4, 4, 4] if seen.series else [3, 2, 2])[:layers], [0.5, 0.5, 1][:layers]
    text += (
        "\n# What the SavedModel's `embed` returns: the features of all layers, each pooled on a "
        "grid\n# and raised to a power (0.5: square roots).\n"
        f"export:\n  all_layers: true\n  grid_size: {grids}\n  power: {powers}\n"
    )
    if tile or seen.count is None or seen.count >= _ALIGNED:
        text += (
            "  # Directions in which the features of one image's views differ are shrunk, which\n"
            "  # helps classifiers with few labels most.\n"
            f"  alignment:\n    augment:\n{_views(seen, augment)}\n"
        )
    if seen.labelled:
        text += (
            "\n# The labels that are there, to evaluate the layers with while they learn; nothing "
            f"is\n# learned from them.\nprobe: {_quoted(seen.name)}\n"
        )
    return text


def _views(seen, augment):
    """The augmentations of whole images or series, as lines of the spec."""
    own = [line.removeprefix("  ") for line in augment.splitlines()]
    moved = _MOVED_SERIES if seen.series else _MOVED_IMAGES
    turned = [] if seen.series or seen.channels == 3 else [_TURNED]
    return "\n".join([moved, *turned, *own])


def _found(seen):
    """The data in words."""
    many = f"{seen.count:,}" if seen.count else "Some"
    height, width = seen.least
    low, high = (f"{value:g}" for value in seen.span)
    if seen.series:
        size = f"{width:,} samples" if seen.least == seen.largest else f"{width:,} samples or more"
        what = f"{many} series of {size}"
    else:
        size = f"{height}x{width} px" + ("" if seen.least == seen.largest else " or more")
        what = f"{many} images of {size}"
    channels = f"{seen.channels} channel{'s' * (seen.channels != 1)}"
    return f"{what}, {channels}, {seen.dtype}, values from {low} to {high}."


def _scale(seen) -> Any:
    """The scale to write; None for the default of the numbers' type."""
    whole = seen.dtype == "uint8" or (seen.dtype == "uint16" and seen.span[1] >= 32768)
    return None if whole and seen.channels <= 4 else "standard"


def _tile(seen):
    """The tiles to cut few large images into, or None."""
    few = seen.count is not None and seen.count < _FEW
    large = min(seen.least) >= 2 * _TILE and "tile" not in seen.options
    return _TILE if few and large and not seen.series else None


def _quoted(text):
    """A text as YAML has it, of any length."""
    return json.dumps(text, ensure_ascii=False)


def _data(seen, tile):
    """The lines of the section `data`."""
    lines = [f"  source: {_quoted(seen.name)}"]
    lines += [f"  {key}: {json.dumps(value)}" for key, value in seen.options.items()]
    if not seen.series and seen.channels in (1, 3) and "channels" not in seen.options:
        lines.append(f"  channels: {seen.channels}         # 1 for gray, 3 for colour")
    scale = _scale(seen)
    if scale and "scale" not in seen.options:
        lines.append(
            f"  scale: {scale}     # mean 0 and deviation 1 in each channel; or unit, percentile,"
        )
        lines.append("                      # [low, high] or none. Exports take the raw numbers")
    if tile:
        lines.append(f"  tile: {tile}           # large images are cut into tiles of this size")
    if seen.channels > 3 and not seen.series and "bands" not in seen.options:
        lines.append("  # bands: [3, 2, 1]  # channels to show as red, green and blue in pictures")
    if seen.dtype != "uint8" and "nodata" not in seen.options:
        lines.append('  # nodata: -9999     # a number that stands for "no data", if there is one')
    return "\n".join(lines) + "\n"


def _first(seen, room):
    """Kernel, stride, pool and whitening of the first layer."""
    kernel = 9 if seen.series else 5
    strides, pool = "", ""
    if seen.series and room >= _LONG:
        kernel, strides, pool = 64, ", strides: 8", ", pool_size: 4"
    least = 8 if seen.series else 7
    if room < least:
        noun = "series of" if seen.series else "images of"
        raise SpecError(
            f"{seen.name}: {noun} {room} {'samples' if seen.series else 'px'} are too small for a "
            f"layer. Use at least {least}."
        )
    kernel = min(kernel, room // 2)
    area = kernel if seen.series else kernel * kernel
    whitening = ""
    if area * seen.channels > MOST_WHITENED:
        whitening = ", whitening: standardize"
    return {"kernel": kernel, "strides": strides, "pool": pool, "whitening": whitening}


def _uppers(seen, room, first):
    """Kernel, patch and shift of each layer above the first, as far as there is room."""
    field, jump = first["kernel"], 32 if first["strides"] else 2
    kernel = 5 if seen.series else 3
    found = []
    for choices in _PATCHES_OF_SERIES if seen.series else _PATCHES:
        for patch, shift in choices:
            # Pixels under a patch of so many cells, and under the shift.
            if _window(field, jump, patch) + shift * jump <= room:
                found.append((kernel, patch, shift))
                break
        else:
            break
        # Cells of this layer's output see its kernel and its pool.
        field, jump = _window(field, jump, kernel + 1), 2 * jump
    return found


def _window(field, jump, cells):
    """Pixels under so many cells: `field` of one, which are `jump` apart."""
    return (cells - 1) * jump + field
