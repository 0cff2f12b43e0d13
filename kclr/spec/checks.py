"""What is wrong with a spec as a whole: sizes, devices, augmentations, the keys of a search."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kclr.errors import Finding, SpecError
from kclr.spec.geometry import cut_around, layer_geometry, output_size, window
from kclr.spec.keras_parts import (
    COLOURED,
    COLOURED_ARGUMENTS,
    GRAY_OR_COLOURED,
    NOT_COMPILED,
    OF_IMAGES,
    KerasObject,
)
from kclr.spec.objectives import each_of
from kclr.spec.overrides import override
from kclr.spec.registry import parts
from kclr.spec.schema import Spec
from kclr.spec.search import PROBE, assignments, layer_of, parents_first, text_of
from kclr.spec.values import Size, axes, by, each_axis, pair, short, with_next
from kclr.spec.wording import nearest, shown

MOST_WHITENED = 8000  # numbers of a window; the eigenvectors of so many take minutes, and gigabytes


def size_findings(spec: Spec, index: int) -> list[Finding]:
    """What is impossible in layer `index` for any images and any layers below it."""
    at = ("stack", index, "patches")
    block, patches = spec.stack[index].block, spec.stack[index].patches
    patch, crop = patches.patch_size or 0, patches.crop_size or 0
    least = short(*window([block], 1))
    findings = [
        Finding(
            (*at, "patch_size"),
            f"{where}{size} is smaller than the kernel ({kernel}). Use at least {needed}, or a "
            "smaller kernel_size.",
        )
        for where, size, kernel, needed in axes(patch, block.kernel_size, least)
        if size < kernel
    ]
    if findings:
        return findings
    sizes = layer_geometry(spec.stack, index)
    cells = (short(*sizes.patch_conv), short(*sizes.patch_map))
    findings += [
        Finding(
            (*at, "patch_size"),
            f"{where}the patch is too small for the max-pool: {size} leaves {_cells(convolved)} "
            f"after the convolution, fewer than the max-pool's {pool}. Use at least {needed}, or a "
            "smaller pool_size.",
        )
        for where, size, convolved, pooled, pool, needed in axes(
            patch, *cells, block.pool_size, least
        )
        if pooled < 1
    ]
    if patches.alike.own_windows:
        return findings + _alike_findings(at, patches)
    if patches.max_shift:
        return findings + _shift_findings(at, patch, crop, patches.max_shift)
    if sizes.grid and patches.stride:
        findings += _grid_of_patches(at, patch, crop, patches.stride, line=max(sizes.grid) > 1)
    return findings


def objective_findings(spec: Spec, index: int) -> list[Finding]:
    """An objective that needs other windows than those that the layer's patches are."""
    layer = spec.stack[index]
    if not layer.learner.contrastive or not hasattr(layer.objective, "problem"):
        return []
    words = layer.objective.problem(layer.patches)
    return [Finding(("stack", index, "objective"), words)] if words else []


def _alike_findings(at, patches):
    """What is wrong with the options of a notion that places its windows itself."""
    findings = [
        Finding((*at, "alike", key), words)
        for key, words in patches.alike.problems(patches.patch_size)
    ]
    if words := patches.alike.problem(patches):
        findings.append(Finding((*at, "alike"), words))
    crop = short(*patches.alike.crop(patches.patch_size))
    if patches.crop_size != crop and not findings:
        words = f"{patches.alike.part_name} needs crops of {shown(crop)}. Remove it."
        findings.append(Finding((*at, "crop_size"), words))
    return findings


def _shift_findings(at, patch, crop, max_shift):
    findings = []
    for where, size, shift, side in axes(patch, max_shift, crop):
        if shift >= size:
            cure = f"Use 1 to {size - 1}."
            if size == 1:  # which every shift leaves
                allowed = each_axis(lambda own, far: min(far, own - 1), patch, max_shift)
                cure = f"Use {shown(short(*allowed))}."
            words = f"{where}{shift} allows patches of {size} that do not overlap. {cure}"
            findings.append(Finding((*at, "max_shift"), words))
        if side != size + shift:
            words = (
                f"{where}{side} is not the patch plus the largest shift ({size} + {shift}). "
                "Remove it."
            )
            findings.append(Finding((*at, "crop_size"), words))
    return findings


def _grid_of_patches(at, patch, crop, stride, line):
    """What is wrong with a grid of patches; `line`: it has several patches on some axis."""
    findings = []
    for where, size, step, side in axes(patch, stride, crop):
        if step >= size and (side >= size + step or (size > 1 and not line)):
            key = "stride"
            words = f"{step} leaves no overlap between patches of {size}. Use 1 to {size - 1}."
            if size == 1:
                key, words = "crop_size", f"patches of 1 do not overlap in {side}. Use 1."
            findings.append(Finding((*at, key), where + words))
        elif side < size or (size > 1 and not line):
            room = "no" if side < size else "a single"
            words = (
                f"{where}{side} has room for {room} patch of {size}. Use at least {size + step}, "
                "so that two patches fit."
            )
            findings.append(Finding((*at, "crop_size"), words))
    return findings


def name_findings(spec: Spec) -> list[Finding]:
    """Layers with the same name, or names that differ only in case, which some disks cannot tell
    apart."""
    findings = []
    names: dict[str, int] = {}
    for index, layer in enumerate(spec.stack):
        name = (layer.name or "").lower()
        if name in names:
            words = f"{layer.name!r} is also the name of layer {names[name]}. Use different names."
            findings.append(Finding(("stack", index, "name"), words))
        names.setdefault(name, index)
    return findings


OF_EACH_LAYER = (  # keys that take a number for all layers, or a list of one for each
    ("export", "grid_size"),
    ("export", "power"),
    ("probe", "grid"),
    ("probe", "power"),
)


def grid_findings(spec: Spec) -> list[Finding]:
    """Lists of grids or powers that do not have one item for each pooled layer."""
    findings = []
    for section, key in OF_EACH_LAYER:
        options = getattr(spec, section)
        grids = getattr(options, key, 1)
        layers = len(spec.stack) if getattr(options, "all_layers", False) else 1
        if not isinstance(grids, tuple) or len(grids) == layers:
            continue
        what, cure = "the top layer", "Use one number, or add all_layers: true."
        if key != "power" and len(grids) == 2 and all(isinstance(side, int) for side in grids):
            cure = f"{cure[:-1]}, or {shown([grids])} for rows and columns."
        if options.all_layers:
            what = f"{layers} layer{'s' * (layers > 1)}"
            cure = f"Use one number, or a list of {layers}."
        words = f"{list(grids)} is {len(grids)} number{'s' * (len(grids) > 1)} for {what}. {cure}"
        findings.append(Finding((section, key), words))
    return findings


def whitening_findings(spec: Spec, channels: int | None = None) -> list[Finding]:
    """Layers whose windows are too large for ZCA whitening, or for principal components.

    Args:
        spec: checked.
        channels: of the images, to check the first layer; None to check those above it.
    """
    below = [layer.block.filters for layer in spec.stack[:-1]]
    seen = enumerate(below, start=1) if channels is None else [(0, channels)]
    most = f"windows of at most {MOST_WHITENED:,} values"
    findings = []
    for index, depth in seen:
        layer = spec.stack[index]
        height, width = pair(layer.block.kernel_size)
        numbers = height * width * depth
        if numbers <= MOST_WHITENED:
            continue
        if layer.block.whitening == "zca":
            words = (
                f"zca of windows of {numbers:,} values ({height}x{width}x{depth}) takes too long. "
                f"Use standardize, or {most}."
            )
            findings.append(Finding(("stack", index, "block", "whitening"), words))
        elif getattr(layer.learner, "components", False):
            words = (
                f"the components of windows of {numbers:,} values take too long. Use another "
                f"learner, or {most}."
            )
            findings.append(Finding(("stack", index, "learner"), words))
    return findings


def together_findings(spec: Spec) -> list[Finding]:
    """`train.end_to_end` of a stack with nothing to train at once."""
    if not spec.train.end_to_end or any(first < last for first, last in spec.joined()):
        return []
    words = (
        "there are no two layers of the learner contrastive on top of each other. Add one, or "
        "remove it."
    )
    return [Finding(("train", "end_to_end"), words)]


def least_image(spec: Spec, index: int) -> Size:
    """Smallest height and width of images that layer `index` can be trained on, px."""
    if spec.stack[index].learner.contrastive:
        return short(*layer_geometry(spec.stack, index).image_crop)
    field = window([layer.block for layer in spec.stack[: index + 1]], 1)
    return short(*with_next(short(*cut_around(field)), 1))


def image_findings(spec: Spec, index: int, height: int, width: int) -> list[Finding]:
    """The errors in layer `index` for images of at least `height` x `width` px."""
    layer, images = spec.stack[index], f"the images ({height}x{width})"
    needed = pair(least_image(spec, index))
    small = [axis for axis, size in enumerate((height, width)) if size < needed[axis]]
    if small and not layer.learner.contrastive:
        field = "x".join(map(str, cut_around(layer_geometry(spec.stack, index).receptive_field)))
        words = (
            f"its filters see {field} px, but {images} must be larger. Use smaller kernels, "
            "strides or pools, or larger images."
        )
        return [Finding(("stack", index, "block"), words)]
    if small:
        return _crop_findings(spec, index, height, width)
    size = (height, width)
    for below in spec.stack[: index + 1]:
        size = output_size(below.block, size)
    if min(size) < 1:
        return [
            Finding(
                ("stack", index, "block"),
                f"nothing is left of {height}x{width} images after this layer. Use smaller "
                "kernels, strides or pools, padding: same, or fewer layers.",
            )
        ]
    return []


def _crop_findings(spec, index, height, width):
    """A crop that is larger than the images."""
    patches = spec.stack[index].patches
    if patches.alike.own_windows:
        px, cells = least_image(spec, index), patches.crop_size
        crops = f"crops of {by(px)} px" + (f" ({by(cells)} cells)" if index else "")
        words = (
            f"{patches.alike.part_name} needs {crops}, larger than the images ({height}x{width}). "
            f"Use {patches.alike.smaller}, or larger images."
        )
        return [Finding(("stack", index, "patches", "alike"), words)]
    below = [layer.block for layer in spec.stack[:index]]
    sizes = (patches.crop_size, least_image(spec, index), patches.patch_size)
    reach = patches.max_shift or patches.stride
    square = all(isinstance(size, int) for size in (*sizes, reach))
    room = min(height, width) if square else (height, width)
    findings = []
    for axis, (where, crop, px, patch, step, most) in enumerate(axes(*sizes, reach, room)):
        if px <= most:
            continue
        largest = crop
        while largest > 0 and window(below, largest)[axis] > most:
            largest -= 1
        cure = f"Use {largest} or less" if largest >= patch + step else "Use a smaller patch_size"
        words = f"{px} is larger than the images ({height}x{width}). {cure}, or larger images."
        if index:
            words = (
                f"{crop} needs crops of {px} px, larger than the images ({height}x{width}). "
                f"{cure}, smaller layers below, or larger images."
            )
        findings.append(Finding(("stack", index, "patches", "crop_size"), where + words))
    return findings


def _cells(count):
    return "1 cell" if count == 1 else f"{count} cells"


_PART_ONLY = ("clipnorm", "global_clipnorm", "clipvalue")


_REFUSED = ("gradient_accumulation_steps", "ema_overwrite_frequency")


def device_findings(spec: Spec) -> list[Finding]:
    """Errors in a spec that is trained on several devices."""
    if spec.train.distribute == "none":
        return []
    findings = []
    for _, index in spec.trainings():
        layer = spec.stack[index]
        if not layer.learner.contrastive:
            continue
        path = ("stack", index, "train")
        if layer.train.jit is True:
            words = "XLA cannot be combined with tf.distribute. Use auto or false."
            findings.append(Finding((*path, "jit"), words))
        for key, value in layer.train.optimizer.config.items():
            if value is None or key not in (*_PART_ONLY, *_REFUSED):
                continue
            words = "does not work with tf.distribute"
            if key in _PART_ONLY:
                words = "would clip each device's part of the gradient instead of the gradient"
            cure = f"Remove it, or remove train.distribute: {spec.train.distribute}."
            message = f"{shown(value)} {words}. {cure}"
            findings.append(Finding((*path, "optimizer", "config", key), message))
        if spec.train.shard == "file" and layer.patches.alike.fixes_rows:
            words = (
                f"{layer.patches.alike.part_name} needs the images of all workers. Use "
                "train.shard: example."
            )
            findings.append(Finding(("stack", index, "patches", "alike"), words))
        for place, objective in each_of(layer.objective):
            queue = getattr(objective, "queue_size", 0)
            if queue and not spec.train.gather:
                words = (
                    f"{queue}: without train.gather each device would have its own queue, but only "
                    "one is saved. Use 0, or gather: true."
                )
                where = ("stack", index, "objective", *place, "queue_size")
                findings.append(Finding(where, words))
    return findings


def augmentations(spec, index) -> list[tuple[Sequence[KerasObject], tuple[Any, ...]]]:
    """The augmentations of the images of layer `index`, each with its key path in the spec; those
    of whole images are of the first layer's."""
    place: tuple[Any, ...] = ("stack", index, "patches", "augment")
    found = [(spec.stack[index].patches.augment, place)]
    if index == 0 and spec.export.alignment:
        found.append((spec.export.alignment.augment, ("export", "alignment", "augment")))
    return found


def augmentation_findings(
    augment: Iterable[KerasObject], channels: int, *path, series: bool = False, unit: bool = True
) -> list[Finding]:
    """Augmentations that the images do not take, or that would spoil them.

    Args:
        augment: the augmentations.
        channels: of the images.
        *path: the key path of the augmentations in the spec.
        series: whether each image is a series, of height 1.
        unit: whether the values of a network's input are from 0 to 1.
    """
    findings = []
    for index, augmentation in enumerate(augment):
        place = (*path, index)
        if refused := _unfit(augmentation, channels, series, unit):
            findings.append(Finding(place, refused))
            continue
        for key, words in _unfit_arguments(augmentation, channels, series):
            findings.append(Finding((*place, "config", key), words))
    return findings


def _images_are(channels, series):
    if series:
        return "the data are series"
    return "the images are gray" if channels == 1 else f"the images have {channels} channels"


def _unfit(augmentation, channels, series, unit) -> str | None:
    """Why images do not take an augmentation at all."""
    name, many = augmentation.class_name, series or channels not in (1, 3)
    if (name in COLOURED and (series or channels != 3)) or (name in GRAY_OR_COLOURED and many):
        cure = "Use SensorJitter."
        if not many:
            cure = "Use RandomBrightness or RandomContrast, or set data.channels to 3."
        return f"{name} changes colours, but {_images_are(channels, series)}. {cure}"
    if series and name in OF_IMAGES:
        return (
            f"{name} is for images of two dimensions, but the data are series. Use SensorJitter, "
            "or RandomTranslation with a height_factor of 0."
        )
    if name == "DropColors" and channels == 1:
        return "DropColors keeps one channel, and the images have no other. Remove it."
    ranged = "value_range" in (augmentation.arguments(name) or ())
    if ranged and not unit and augmentation.config.get("value_range") is None:
        return (
            f"{name} takes values from 0 to 1, but those of the data are scaled otherwise. Use "
            "SensorJitter or GaussianNoise, or add its value_range."
        )
    return None


def _unfit_arguments(augmentation, channels, series):
    """The arguments that images do not take, each with the reason."""
    name, config = augmentation.class_name, augmentation.config
    for key in COLOURED_ARGUMENTS.get(name, ()) if series or channels != 3 else ():
        if config.get(key) is not None:
            images = _images_are(channels, series)
            yield key, f"{name} changes colours with it, but {images}. Remove it."
    if not series:
        return
    if name == "RandomFlip" and config.get("mode") == "vertical":
        yield "mode", "vertical: a series has no up and down. Use horizontal, which reverses time."
    moved = config.get("height_factor", 0)
    moves = any(moved if isinstance(moved, (list, tuple)) else [moved])
    if name == "RandomZoom" and moves:
        yield (
            "height_factor",
            f"{shown(moved)} zooms a series off itself. Use 0; width_factor stretches it in time.",
        )
    if name == "RandomTranslation" and moves:
        yield (
            "height_factor",
            f"{shown(moved)} moves a series off itself. Use 0; width_factor shifts it in time.",
        )
    blurred = config.get("kernel_size", 3)
    height, width = blurred if isinstance(blurred, (list, tuple)) else (blurred, blurred)
    if name == "RandomGaussianBlur" and height != 1:
        words = f"{shown(blurred)} blurs a series with what is above and below it, nothing. "
        yield "kernel_size", f"{words}Use [1, {width}]."


def compile_findings(spec: Spec) -> list[Finding]:
    """Augmentations that XLA cannot compile, if the spec asks for XLA."""
    findings = []
    for index, layer in enumerate(spec.stack):
        names = [one.class_name for one in layer.patches.augment if one.class_name in NOT_COMPILED]
        if layer.train.jit is True and names:
            words = f"XLA cannot compile {names[0]}. Use auto or false."
            findings.append(Finding(("stack", index, "train", "jit"), words))
    return findings


# What is known of every layer's training; an objective's own statistics come with it.
METRICS = (PROBE, "loss", "spread", "effective_rank", "dead_filters", "duplicate_filters")


def search_findings(
    spec: Spec, value: dict[str, Any], check: Callable[[Any], list[Finding]]
) -> list[Finding]:
    """The errors in a search.

    Args:
        spec: checked, with a section `search`.
        value: its plain value.
        check: returns the errors in the plain value of a spec, except those in its sizes. Whether a
            layer's sizes are possible depends on several keys: a trial with impossible sizes fails.
    """
    assert spec.search
    at = ("search", "space")
    space, findings = spec.search.space, []
    for path, own in space.items():
        for parent, values in own.when.items():
            if parent not in space:
                words = f"{parent} is not a hyperparameter of this search.{nearest(parent, space)}"
                findings.append(Finding((*at, path, "when", parent), words))
                continue
            allowed = [text_of(choice) for choice in space[parent].extremes]
            wrong = [choice for choice in values if text_of(choice) not in allowed]
            if space[parent].ends:
                words = f"{parent} has a range. Use a choice or a boolean."
                findings.append(Finding((*at, path, "when", parent), words))
            elif wrong:
                words = f"{shown(wrong[0])} is not a value of {parent}.{nearest(wrong[0], allowed)}"
                findings.append(Finding((*at, path, "when", parent), words))
    order = parents_first(space)
    if not findings:
        circle = [path for path in space if path not in order]
        findings += [
            Finding(
                (*at, path, "when"),
                ("depends on itself through other hyperparameters. Remove one `when`."),
            )
            for path in circle[:1]
        ]
    plain = {key: part for key, part in value.items() if key != "search"}
    if not findings:
        for path in space:
            findings += _value_findings(spec, path, plain, check)
    return findings + _whole_findings(spec, bool(value.get("probe")))


def _value_findings(spec, path, plain, check):
    """The first value that the key, or a key set together with it, cannot have."""
    own, at = spec.search.space[path], ("search", "space", path)
    if path.split(".")[0] == "search":
        return [Finding(at, "a search cannot change itself. Remove it.")]
    given: dict[str, Any] = {}
    for parent in parents_first(spec.search.space):
        if parent in _ancestors(spec.search.space, path):
            children = [spec.search.space[path], *map(spec.search.space.get, given)]
            wanted = next((c.when[parent] for c in children if c and parent in c.when), None)
            given[parent] = text_of(wanted[0]) if wanted else text_of(None)
    for value in own.extremes:
        try:
            changed, keys = plain, []
            for assignment in assignments(spec.search.space, given):
                changed, _ = override(changed, assignment)
            tried = value if own.choice is None else text_of(value)
            for assignment in assignments({path: own}, {path: tried}):
                changed, key = override(changed, assignment)
                keys.append(key)
        except SpecError as error:
            return [Finding(at, error.findings[0].message)]
        if ("stack", len(spec.stack)) in keys:
            return [Finding(at, "a search cannot add a layer. Add it to the stack first.")]
        for finding in check(changed):
            if any(finding.path[: len(key)] == key for key in keys):
                name = ".".join(map(str, finding.path))
                beside = "" if name == path else f"{name}: "
                return [Finding(at, f"{beside}{finding.message}")]
    return []


def _ancestors(space, path):
    """The hyperparameters that `path` depends on, directly or through others."""
    found = set(space[path].when)
    for parent in space[path].when:
        found |= _ancestors(space, parent)
    return found


def _whole_findings(spec, probed):
    """Objective, tuner and layers that cannot be combined; `probed` if the spec has a probe."""
    search, findings = spec.search, []
    metric = search.objective.metric
    objectives: list[Any] = [part() for part in parts("objective").values()]
    objectives += [layer.objective for layer in spec.stack]
    known = {name for objective in objectives for name in objective.statistics}
    if metric == PROBE and not probed:
        words = "probe_accuracy needs the section `probe`. Add it, as in probe: tfds:cifar10."
        findings.append(Finding(("search", "objective"), words))
    elif metric not in known | set(METRICS):
        words = (
            f"{shown(metric)} is not a metric of a training.{nearest(metric, (*METRICS, *known))}"
        )
        findings.append(Finding(("search", "objective", "metric"), words))
    greedy = search.layers == "greedy"
    for path, own in search.space.items():
        layers = {layer_of(key) for key in (path, *own.also)}
        layers |= {layer_of(parent) for parent in own.when}
        if greedy and (None in layers or len(layers) > 1):
            words = (
                "does not belong to a single layer, but the search goes layer by layer. Use paths "
                "that start with one stack.N, or layers: together."
            )
            findings.append(Finding(("search", "space", path), words))
    if greedy and spec.train.end_to_end:
        words = "greedy cannot train the layers at once (train.end_to_end). Use layers: together."
        findings.append(Finding(("search", "layers"), words))
    return findings
