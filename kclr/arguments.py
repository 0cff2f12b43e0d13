"""The arguments of each command."""

import argparse
import os

from kclr.version import __version__


def parser(functions) -> argparse.ArgumentParser:
    """The parser of the command line; `functions` has one for each command's name."""
    parser = argparse.ArgumentParser(
        prog="kclr",
        description="Learn convolution filters from images without labels, layer by layer.",
        epilog="Start with: kclr init my.yaml && kclr train my.yaml",
    )
    parser.add_argument("--version", action="version", version=f"kclr {__version__}")
    debugging = "show the full traceback of errors"
    default = bool(os.environ.get("KCLR_DEBUG"))
    parser.add_argument("--debug", action="store_true", default=default, help=debugging)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name, words):
        sub = commands.add_parser(name, help=words, description=words[0].upper() + words[1:] + ".")
        sub.set_defaults(command=functions[name])
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=debugging)
        return sub

    def spec_arguments(sub):
        sub.add_argument("spec", metavar="SPEC", help="the YAML file")
        sub.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY.PATH=VALUE",
            dest="overrides",
            help="set a key of the spec, such as stack.0.train.steps=200; can be repeated",
        )

    sub = command("init", "write a commented spec to start from")
    sub.add_argument(
        "path", nargs="?", default="kclr.yaml", help=("file to write (default: kclr.yaml)")
    )
    words = (
        "number of layers (default: 1); with more than one, k-means in the first layer and "
        "contrast above"
    )
    sub.add_argument("--layers", type=int, choices=(1, 2, 3), help=words)
    sub.add_argument(
        "--data",
        metavar="SOURCE",
        help="look at these images or series, such as folder:PATH, array:FILE or audio:PATH, or "
        "'{source: audio:PATH, rate: 8000}', and write a spec that fits them, with up to three "
        "layers",
    )

    sub = command("check", "check a spec and print it with all defaults and sizes")
    spec_arguments(sub)
    sub.add_argument("--json", action="store_true", help="print the resolved spec as JSON")

    def output_arguments(sub, what, place):
        sub.add_argument("--out", metavar="DIR", help=f"output directory (default: {place}/NAME)")
        again = sub.add_mutually_exclusive_group()
        again.add_argument(
            "--resume", action="store_true", help=(f"continue the {what} in the output directory")
        )
        again.add_argument(
            "--overwrite", action="store_true", help=(f"replace the {what} in the output directory")
        )
        sub.add_argument("--json", action="store_true", help="print progress as lines of JSON")

    sub = command("train", "train the layers of a spec and export them")
    spec_arguments(sub)
    output_arguments(sub, "run", "runs")
    workers = {"type": _several, "metavar": "N"}
    words = (
        "train with N processes on this machine, like on a cluster (train.distribute: multi-worker)"
    )
    sub.add_argument("--workers", **workers, help=words)
    words = "also write and print where the time went, with a trace of some steps for TensorBoard"
    sub.add_argument("--profile", action="store_true", help=words)

    sub = command("search", "search for the best values of spec keys with keras-tuner")
    spec_arguments(sub)
    output_arguments(sub, "search", "searches")
    words = "run trials in N processes on this machine, sharing its GPUs in turn"
    sub.add_argument("--workers", **workers, help=words)

    sub = command("show", "print a run as a table")
    sub.add_argument("run", metavar="RUN", help="the run directory")
    sub.add_argument("--json", action="store_true", help="print its summary as JSON")

    sub = command("verify", "check every file of a run and, on request, its training")
    sub.add_argument("run", metavar="RUN", help="the run directory")
    words = "repeat each layer's first steps, up to the first row of its history, and compare"
    sub.add_argument(
        "--retrain", type=int, nargs="?", const=500, default=0, metavar="STEPS",
        help=f"{words}; layers whose first row is after STEPS are skipped (default: 500)",
    )  # fmt: skip
    sub.add_argument("--json", action="store_true", help="print the result as JSON")

    sub = command("export", "export a run's layers for other programs")
    sub.add_argument("run", metavar="RUN", help="the run directory")
    sub.add_argument("--out", metavar="DIR", help="output directory (default: inside the run)")
    sub.add_argument("--layers", type=int, metavar="N", help="only the first N layers")
    sub.add_argument(
        "--pool",
        choices=("mean", "max", "grid", "flatten"),
        default="grid",
        help="how `embed` turns a map into a vector (default: grid)",
    )
    cells = {
        "type": _cells,
        "default": 2,
        "metavar": "N",
        "help": "cells per side (default: 2) or 1x4, or with --all-layers one per layer: 3,2,2",
    }
    power = {
        "type": _powers,
        "default": 1.0,
        "metavar": "P",
        "help": (
            "exponent for the pooled features, 0.5 for square roots (default: 1), or one per "
            "layer: 0.5,0.5,1"
        ),
    }
    sub.add_argument("--grid-size", **cells)
    sub.add_argument("--power", **power)
    sub.add_argument(
        "--all-layers", action="store_true", help="let `embed` return the vectors of all layers"
    )
    sub.add_argument(
        "--alignment",
        action="store_true",
        help="align what `embed` returns, as the spec's export.alignment says",
    )
    sub.add_argument("--onnx", action="store_true", help="also write model.onnx")
    sub.add_argument(
        "--litert",
        type=_litert,
        metavar="SIZE",
        help="also write model.tflite, for images of so many px, 32 or 32x64 (height and width)",
    )

    sub = command("probe", "evaluate a run's frozen features with classifiers on labelled images")
    sub.add_argument("run", metavar="RUN", help="the run directory")
    sub.add_argument(
        "--data",
        default="tfds:cifar10",
        metavar="DATA",
        help="tfds:NAME, folder:PATH or audio:PATH with a folder for each class or a labels.csv, "
        "array:FILE or series:FILE with labels, or digits; or one of these with options, as in "
        "'{source: audio:PATH, rate: 8000}' (default: tfds:cifar10)",
    )
    sub.add_argument(
        "--labels",
        type=_amounts,
        default=(1.0,),
        metavar="A,B,...",
        help="shares of the labels (0.01,0.1,1.0) or numbers per class (10,100)",
    )
    sub.add_argument(
        "--baselines",
        type=_names,
        default=(),
        metavar="A,B,...",
        help="other filters of the same geometry: random,whitened,kmeans,pca",
    )
    sub.add_argument(
        "--classifiers",
        type=_names,
        default=("ridge", "knn"),
        metavar="A,B,...",
        help="from ridge,logistic,knn,mean and other readouts (default: ridge,knn)",
    )
    sub.add_argument("--grid", **cells)
    sub.add_argument(
        "--all-layers", action="store_true", help=("concatenate the features of all layers")
    )
    sub.add_argument("--power", **power)
    sub.add_argument(
        "--alignment",
        action="store_true",
        help="align the features of all filters, as the spec's export.alignment says",
    )
    sub.add_argument(
        "--flips",
        action="store_true",
        help=("average the features of each image and its mirror image"),
    )
    sub.add_argument(
        "--precision",
        choices=("float32", "mixed_bfloat16", "auto"),
        default="float32",
        help=(
            "precision of the convolutions; bfloat16 is faster on CPUs with AMX, auto is the faster"
            " one (default: float32)"
        ),
    )
    sub.add_argument(
        "--repeats", type=int, default=1, metavar="N", help=("number of draws of the labels")
    )
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the first draw")
    sub.add_argument(
        "--limit", type=int, metavar="N", help=("use only this many images of each split")
    )
    sub.add_argument("--json", action="store_true", help="print the results as JSON")

    sub = command("transfer", "train classifiers from several starts and compare them")
    spec_arguments(sub)
    output_arguments(sub, "experiment", "transfers")
    words = (
        "let `classifier: MODULE:FUNCTION` import and run that module, also from the working "
        "directory; only for specs that you trust"
    )
    sub.add_argument("--allow-code", action="store_true", help=words)

    sub = command(
        "report", ("write an HTML page about runs, transfer experiments, searches and probes")
    )
    sub.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="directories of train, transfer and search, and the output of probe --json",
    )
    sub.add_argument(
        "--out", default="report.html", metavar="FILE", help="file to write (default: report.html)"
    )

    command("schema", "print the JSON Schema of specs, for editors")
    return parser


def _several(text):
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of workers. Use 2 or more.")
    return int(text)


def _names(text):
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _cells(text):
    """A whole number, or rows and columns; or several for several layers."""
    cells = _of_each(text, _size, "2, or as in 3,2,2")
    return [cells] if isinstance(cells, tuple) else cells


def _size(text):
    """A whole number, or as in 3x9 two: a height and a width."""
    sides = [int(side) for side in text.split("x", 1)]
    return sides[0] if len(sides) == 1 else tuple(sides)


def _litert(text):
    try:
        return _size(text)
    except ValueError:
        words = f"{text!r} is no size. Write it as in 32 or 32x64."
        raise argparse.ArgumentTypeError(words) from None


def _powers(text):
    """A number, or several for several layers."""
    return _of_each(text, float, "0.5, or as in 0.5,0.5,1")


def _of_each(text, number, example):
    try:
        values = [number(word) for word in _names(text)]
    except ValueError:
        values = []
    if not values:
        words = f"{text!r} is not a number. Use for example {example} for three layers."
        raise argparse.ArgumentTypeError(words)
    return values[0] if len(values) == 1 else values


def _amounts(text):
    """Numbers with a decimal point are shares, whole numbers are counts."""
    try:
        amounts = [float(word) if "." in word else int(word) for word in _names(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of shares and numbers. Use for example 0.01,0.1,1.0 or 10,100."
        ) from None
    return tuple(float(amount) if amount == 1 else amount for amount in amounts)
