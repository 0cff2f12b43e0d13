"""Impossible sizes: a kernel larger than its patch, a crop larger than the images, ..."""

from kclr.spec.geometry import cut_around, layer_geometry, output_size, window
from kclr.spec.schema import Spec
from kclr.spec.values import Size, axes, each_axis, pair, short, with_next
from kclr.spec.wording import Finding, shown

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
    if patches.max_shift:
        return findings + _shift_findings(at, patch, crop, patches.max_shift)
    if sizes.grid and patches.stride:
        findings += _grid_of_patches(at, patch, crop, patches.stride, line=max(sizes.grid) > 1)
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
