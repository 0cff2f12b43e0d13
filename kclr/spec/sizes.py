"""Impossible sizes: a kernel larger than its patch, a crop larger than the images, ..."""

from kclr.spec.geometry import layer_geometry, output_size, window
from kclr.spec.schema import Spec
from kclr.spec.wording import Finding

MOST_WHITENED = 8000  # numbers of a window; the eigenvectors of so many take minutes, and gigabytes


def size_findings(spec: Spec, index: int) -> list[Finding]:
    """What is impossible in layer `index` for any images and any layers below it."""
    at = ("stack", index, "patches")
    block, patches = spec.stack[index].block, spec.stack[index].patches
    size, crop = patches.patch_size or 0, patches.crop_size or 0
    least = window([block], 1)
    if size < block.kernel_size:
        return [
            Finding(
                (*at, "patch_size"),
                f"{size} is smaller than the kernel ({block.kernel_size}). Use at least {least}, "
                "or a smaller kernel_size.",
            )
        ]
    sizes = layer_geometry(spec.stack, index)
    findings = []
    if sizes.patch_map < 1:
        findings.append(
            Finding(
                (*at, "patch_size"),
                f"the patch is too small for the max-pool: {size} leaves "
                f"{_cells(sizes.patch_conv)} after the convolution, fewer than the max-pool's "
                f"{block.pool_size}. Use at least {least}, or a smaller pool_size.",
            )
        )
    if patches.max_shift:
        if patches.max_shift >= size:
            findings.append(
                Finding(
                    (*at, "max_shift"),
                    f"{patches.max_shift} allows patches of {size} that do not overlap. Use 1 to "
                    f"{size - 1}.",
                )
            )
        if crop != size + patches.max_shift:
            findings.append(
                Finding(
                    (*at, "crop_size"),
                    f"{crop} is not the patch plus the largest shift ({size} + "
                    f"{patches.max_shift}). Remove it.",
                )
            )
    elif patches.stride and patches.stride >= size:
        findings.append(
            Finding(
                (*at, "stride"),
                f"{patches.stride} leaves no overlap between patches of {size}. "
                f"Use 1 to {size - 1}.",
            )
        )
    elif patches.stride and crop < size + patches.stride:
        room = "no" if crop < size else "a single"
        findings.append(
            Finding(
                (*at, "crop_size"),
                f"{crop} has room for {room} patch of {size}. Use at least "
                f"{size + patches.stride}, so that two patches fit.",
            )
        )
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
        side = layer.block.kernel_size
        numbers = side**2 * depth
        if numbers <= MOST_WHITENED:
            continue
        if layer.block.whitening == "zca":
            words = (
                f"zca of windows of {numbers:,} values ({side}x{side}x{depth}) takes too long. "
                f"Use standardize, or {most}."
            )
            findings.append(Finding(("stack", index, "block", "whitening"), words))
        elif layer.learner.part_name == "whiten":
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


def least_image(spec: Spec, index: int) -> int:
    """Smallest height and width of images that layer `index` can be trained on, px."""
    if spec.stack[index].learner.contrastive:
        return layer_geometry(spec.stack, index).image_crop
    return max(2, window([layer.block for layer in spec.stack[: index + 1]], 1)) + 1


def image_findings(spec: Spec, index: int, height: int, width: int) -> list[Finding]:
    """The errors in layer `index` for images of at least `height` x `width` px."""
    smallest = min(height, width)
    patches = spec.stack[index].patches
    field = window([layer.block for layer in spec.stack[: index + 1]], 1)
    if not spec.stack[index].learner.contrastive and smallest <= max(2, field):
        words = (
            f"its filters see {_square(max(2, field))} px, but the images ({height}x{width}) must "
            "be larger. Use smaller kernels, strides or pools, or larger images."
        )
        return [Finding(("stack", index, "block"), words)]
    crop = layer_geometry(spec.stack, index).image_crop
    if spec.stack[index].learner.contrastive and crop > smallest:
        below = [layer.block for layer in spec.stack[:index]]
        largest = patches.crop_size or 0
        while largest > 0 and window(below, largest) > smallest:
            largest -= 1
        least = (patches.patch_size or 0) + (patches.max_shift or patches.stride or 0)
        cure = f"Use {largest} or less" if largest >= least else "Use a smaller patch_size"
        if index:
            words = (
                f"{patches.crop_size} needs crops of {crop} px, larger than the images "
                f"({height}x{width}). {cure}, smaller layers below, or larger images."
            )
        else:
            words = (
                f"{crop} is larger than the images ({height}x{width}). {cure}, or larger images."
            )
        return [Finding(("stack", index, "patches", "crop_size"), words)]
    size = smallest
    for layer in spec.stack[: index + 1]:
        size = output_size(layer.block, size)
    if size < 1:
        return [
            Finding(
                ("stack", index, "block"),
                f"nothing is left of {height}x{width} images after this layer. Use smaller "
                "kernels, strides or pools, padding: same, or fewer layers.",
            )
        ]
    return []


def _square(size):
    return f"{size}x{size}"


def _cells(count):
    return "1 cell" if count == 1 else f"{count} cells"
