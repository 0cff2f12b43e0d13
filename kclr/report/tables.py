"""Specs, runs and probes as text tables."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import yaml

from kclr.errors import RunError
from kclr.spec.cost import about, step_flops, training_seconds
from kclr.spec.geometry import layer_geometry, output_size
from kclr.spec.precision import AUTO, settled
from kclr.spec.schema import Spec
from kclr.spec.values import by, pair, short
from kclr.spec.wording import printable
from kclr.version import has_amx, matmul_speed

if TYPE_CHECKING:
    from rich.table import Table

    from kclr.runs.run import Run


EXAMPLE = (96, 96, 3)


def print_spec(spec: Spec) -> None:
    """The resolved spec, and the sizes of its layers for the smallest of its images."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    values = spec.model_dump(mode="json")
    print(yaml.dump(values, Dumper=dumper, sort_keys=False, allow_unicode=True))
    print(geometry_table(spec))
    for words in label_words(spec):
        print(f"\n{words}")
    if any(
        layer.learner.contrastive for layer in spec.stack
    ):  # else there is nothing to measure for
        print(f"\n{cost_table(spec, matmul_speed())}")


def label_words(spec: Spec) -> list[str]:
    """What is said of the labels that a spec's training uses: which layers, and how many."""
    found: dict[Any, list[str]] = {}
    for _, top in spec.trainings():
        layer = spec.stack[top]
        if layer.takes_labels:
            found.setdefault(layer.data or spec.data, []).append(layer.name or "")
    return [
        f"Labels: the training of {' and '.join(layers)} uses {_labels_of(source)}. Its filters "
        "are not unsupervised."
        for source, layers in found.items()
    ]


def _labels_of(source):
    name, amount = printable(source.spec_name()), source.labels
    counted = source.label_count()
    if counted:
        return f"{counted[0]:,} labels for the {counted[1]:,} pictures of {name}"
    share = f"{100 * amount:g} % of the labels" if amount <= 1 else f"{amount:g} labels"
    return f"{share} of each class of {name}"


def cost_table(spec: Spec, speed: float) -> str:
    """What the training of each contrastive layer costs, and about how long it takes.

    Args:
        spec: checked, with possible sizes.
        speed: of this machine's matrix products, floating-point operations a second.

    Returns:
        Plain text with fixed widths; empty if no layer takes steps.
    """
    rows: list[tuple[str, ...]] = [("layer", "a step", "steps", "in all", "about", "precision")]
    units = has_amx()
    asked = [layer.train.precision for layer in spec.stack if layer.learner.contrastive]
    spec = settled(spec, units)
    for index, layer in enumerate(spec.stack):
        if not layer.learner.contrastive:
            continue
        first = spec.stack[0]
        shape = (first.data or spec.data).image_shape() or EXAMPLE
        step, steps = step_flops(spec, index, shape[2]), layer.train.steps
        seconds = training_seconds(spec, index, shape[2], speed, units)
        row = [layer.name or "", f"{step / 1e9:,.1f} GFLOP"]
        if steps is None or seconds is None:
            rows.append((*row, f"{layer.train.epochs} epochs", "-", "-", layer.train.precision))
            continue
        whole = f"{step * steps / 1e12:,.1f} TFLOP"
        rows.append((*row, f"{steps:,}", whole, about(seconds), layer.train.precision))
    if len(rows) == 1:
        return ""
    lines = [
        "What training costs, in convolutions alone, and about how long it takes here,",
        f"where a float32 matrix product has {speed / 1e9:,.0f} GFLOP/s:",
        *_aligned(rows),
    ]
    if AUTO in asked:
        lines += [
            f"Precision auto: this processor has {'' if units else 'no '}units for bfloat16 (AMX).",
            "With a GPU the GPU decides. A run that is resumed keeps its precision.",
        ]
    return "\n".join(lines)


def print_images(spec: Spec, out=None) -> None:
    """Which files of a spec's sources are used and which are left out; warnings go to standard
    error.

    Args:
        spec: checked.
        out: where to print everything but warnings; standard output by default.
    """
    for source in spec.sources():
        census = source.census()
        if census:
            name = printable(source.spec_name())
            print(f"\n{name}: {census}", file=out)
            for words in census.warnings():
                print(f"{name}: {words}", file=sys.stderr)
        if source.quick:
            try:
                missing = source.open().missing_in_first()
            except RunError as error:
                missing = str(error)
            if missing:
                print(missing, file=sys.stderr)


def geometry_table(spec: Spec) -> str:
    """Each layer's sizes: of its training patches, and of its output for a whole image.

    Plain text with fixed widths, so that it can be piped. If the size of the images is not known
    before they are read, the second table is for images of size `EXAMPLE`.
    """
    trained = [("layer", "crop", "patch", "patches per crop", "map of a patch")]
    whole = [("layer", "input", "output", "receptive field", "jump")]
    unknown = []
    series = spec.data.series
    unit = "samples" if series else "px"

    def own(shape):
        return _joined(shape[1:] if series else shape)

    for index, layer in enumerate(spec.stack):
        sizes = layer_geometry(spec.stack, index)
        name = layer.name or ""
        if layer.learner.contrastive:
            crop, patch = (f"{own(px)} {unit}" for px in (sizes.image_crop, sizes.image_patch))
            patch_map = own((*sizes.patch_map, layer.block.filters))
            trained.append((name, crop, patch, str(sizes.views), patch_map))
        else:
            trained.append((name, *"----"))  # it sees single windows of its kernel
        shape = (layer.data or spec.data).image_shape()
        if shape is None:
            unknown.append(name)
        shapes = _shapes(spec, index, shape or EXAMPLE)
        field, jump = f"{own(sizes.receptive_field)} {unit}", by(short(*sizes.jump))
        jump = f"{jump if not series else sizes.jump[1]} {unit}"
        whole.append((name, own(shapes[-2]), own(shapes[-1]), field, jump))
    where = "samples of the series" if series else "pixels of the image"
    rows = [f"What each layer is trained on, in {where}:", *_aligned(trained), ""]
    rows += [f"Output for the smallest of its {'series' if series else 'images'}:"]
    rows += [*_aligned(whole)]
    if unknown:
        which = "" if len(unknown) == len(spec.stack) else f" of {', '.join(unknown)}"
        rows += [
            f"The size of the images{which} is not known before they are read; the second table",
            f"uses {_joined(EXAMPLE)} as an example.",
        ]
    return "\n".join(rows)


def _shapes(spec, index, shape):
    """Shapes of an image, and of its maps up to layer `index`."""
    shapes = [shape]
    for layer in spec.stack[: index + 1]:
        shapes.append((*output_size(layer.block, shapes[-1][:2]), layer.block.filters))
    return shapes


def _joined(shape):
    return "nothing" if 0 in shape else "x".join(map(str, shape))


def _aligned(rows):
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  " + "  ".join(cells).rstrip()


def print_run(run: "Run") -> None:
    """A run's layers, and where it was made."""
    from kclr.report.sections import hardware, versions

    columns = {
        "steps": ("steps", ",.0f"),
        "seconds": ("seconds", ".1f"),
        "patches/s": ("patches_per_second", ",.0f"),
        "loss": ("loss", ".4f"),
        "rank": ("effective_rank", ".1f"),
        "dead": ("dead_filters", "d"),
        "duplicates": ("duplicate_filters", "d"),
    }
    layers = run.layers
    if any("reseeded" in layer.facts for layer in layers):
        columns["reseeded"] = ("reseeded", "d")
    if any("probe_accuracy" in layer.facts for layer in layers):
        columns |= {"probe": ("probe_accuracy", ".1%"), "probing": ("probe_seconds", ".1f")}
    rows = [("layer", "kernel", *columns)]
    for layer in layers:
        facts = [
            "-" if layer.facts.get(key) is None else format(layer.facts[key], shape)
            for key, shape in columns.values()
        ]
        rows.append((layer.name, "x".join(map(str, layer.kernel.shape)), *facts))
    print(printable(run.path))
    print(*map(printable, _aligned(rows)), sep="\n")
    for layer in layers:
        if used := layer.facts.get("labels"):
            print(
                f"  {printable(layer.name)} was trained with {used['count']:,} labels for the "
                f"{used['pictures']:,} pictures of {printable(used['source'])}"
            )
    summary = run.summary
    if summary is None:
        print("  not finished; continue with: kclr train SPEC --resume")
        return
    probed = ""
    if "probe" in columns:
        probed = "  probe: accuracy on held-out training images; probing: its seconds\n"
    print(
        "  rank: effective rank of the embeddings; dead, duplicates: numbers of "
        f"filters\n{probed}  seed {summary['seed']}, finished {printable(summary['finished'])}\n  "
        f"{printable(hardware(summary))}\n  {printable(versions(summary))}"
    )


def print_uses(path) -> None:
    """The files of a finished run, and three lines of Python that use it."""
    from kclr.runs.run import load_run

    run = load_run(path)
    first = run.layers[0]
    height, width, _, filters = first.kernel.shape
    series = run.series
    print(f"\nfilters     {first.directory / 'filters.png'}")
    print(f"SavedModel  {run.path / 'saved_model'}")
    print(f"run         {run.path}\n")
    size = width if series else short(height, width)
    strides = pair(first.block.get("strides", 1))
    steps = strides[1] if series else short(*strides)
    words = f", strides={steps}" if steps != 1 else ""
    # Whoever has raw numbers need not scale them.
    raw = "" if run.scaling.usual else ", raw=True"
    print("import keras, kclr")
    print(f'kernel = kclr.initializers.ContrastiveKernel("{run.path}"{raw})')
    if raw:
        print(f'bias = kclr.initializers.ContrastiveBias("{run.path}", raw=True)')
    kind = "Conv1D" if series else "Conv2D"
    bias = ", bias_initializer=bias" if raw else ""
    print(f"layer = keras.layers.{kind}({filters}, {size}{words}, kernel_initializer=kernel{bias})")


def probe_table(summaries: Sequence[Any]) -> "Table":
    """Test accuracies in percent: a section for each classifier, a row for each kind of features, a
    column for each amount of labels.

    Args:
        summaries: from `kclr.probing.probe.summaries`.
    """
    from rich.table import Table

    from kclr.report.sections import classifier_title, filters_name

    columns = list(dict.fromkeys((s.labels, s.label_count) for s in summaries))
    cells = {(s.classifier, s.features, s.labels, s.label_count): s for s in summaries}
    spread = any(summary.spread is not None for summary in summaries)
    names = printable(", ".join(dict.fromkeys(summary.data for summary in summaries)))
    title = f"test accuracy on {names}, %" + (", mean ± standard deviation" if spread else "")
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("filters")
    table.add_column("classifier")
    for labels, count in columns:
        table.add_column(_amount(labels, count), justify="right")
    for classifier in dict.fromkeys(summary.classifier for summary in summaries):
        table.add_section()
        for features in dict.fromkeys(summary.features for summary in summaries):
            found = [cells.get((classifier, features, *column)) for column in columns]
            if any(found):
                shown = classifier_title(classifier)
                row = (filters_name(features), shown, *map(_accuracy, found))
                table.add_row(*map(printable, row))
    return table


def print_probe(summaries: Sequence[Any]) -> None:
    """Print the table of a probe."""
    from rich.console import Console

    Console(markup=False, emoji=False).print(probe_table(summaries), highlight=False)


def _amount(labels, count):
    if labels > 1:
        return f"{labels:g} labels\nper class"
    share = "all" if labels == 1 else f"{100 * labels:g} % of"
    return f"{share} labels\n({count:,})"


def _accuracy(summary):
    if summary is None:
        return ""
    mean = f"{100 * summary.mean:.1f}"
    return mean if summary.spread is None else f"{mean} ± {100 * summary.spread:.1f}"
