"""The run directory: written atomically, checked when read, never overwritten by accident.

Runs are read through `Run`, which knows what is a layer and what is not, and opens only regular
files inside the run (`kclr.runs.safe_reading`).
"""

import contextlib
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kclr.errors import RunError, SpecError
from kclr.runs.paths import append, as_path, atomic
from kclr.runs.safe_reading import (
    MOST_ROWS,
    parsed,
    read_array,
    read_bytes,
    read_numbers,
    read_text,
    sha256,
)
from kclr.scaling import Scaling
from kclr.spec import parse_spec
from kclr.spec.precision import PRECISIONS
from kclr.spec.reading import read_yaml
from kclr.spec.schema import NAME, Spec

if TYPE_CHECKING:
    import numpy as np

ARRAYS = ("kernel.npy", "bias.npy")
METRICS = "metrics.jsonl"
_CHECKSUM = "crc32"  # in a line of `metrics.jsonl`: of the rest of the line
_FACTS = "facts"  # under `sha256` in `layer.json`: of all else that it says
_LAYER = re.compile(rf"(\d\d)-({NAME.strip('^$')})")


@dataclass(frozen=True)
class TrainedLayer:
    """One layer of a run.

    Attributes:
        directory: where its files are.
        facts: what `layer.json` says: name, block, key, steps, seconds, loss, ...
        run: the run that it is of; None while it is being written.
        below: int, filters of the layer below; None for the first layer, and where that is not
            known.
    """

    directory: Any
    facts: dict[str, Any]
    run: "Run | None" = None
    below: int | None = None

    @property
    def name(self) -> str:
        """The layer's name, as in the spec."""
        return self.facts["name"]

    @property
    def block(self) -> dict[str, Any]:
        """Arguments of the `ContrastiveConvBlock` that the layer is, without whitening; empty where
        there is only its kernel."""
        return self.facts["block"]

    @cached_property
    def kernel(self) -> "np.ndarray":
        """float32 (kernel height, kernel width, channels in, filters), whitening folded in.

        Raises:
            RunError: the file is damaged, or not of this layer.
        """
        kernel = self._array("kernel.npy", 4)
        size = self.block.get("kernel_size")
        size = tuple(size) if isinstance(size, list | tuple) else (size, size)
        if size[0] is not None and kernel.shape[:2] != size:
            self._refuse("kernel.npy", f"a kernel of {_by(kernel.shape[:2])}", _by(size))
        # Between the first convolutions of a classifier trained with labels there may be others.
        if self.below not in (None, kernel.shape[2]) and "test_accuracy" not in self.facts:
            path = self.directory / "kernel.npy"
            raise RunError(
                f"{path}: {kernel.shape[2]} channels in, but the layer below has {self.below} "
                f"filters. {_mend(path)}"
            )
        return kernel

    @cached_property
    def bias(self) -> "np.ndarray":
        """float32 (filters,).

        Raises:
            RunError: the file is damaged, or not of this layer.
        """
        return self._array("bias.npy", 1)

    def _array(self, name, axes):
        import numpy as np

        path = self.directory / name
        array, digest = read_array(path, self._inside, _mend(path))
        known, where = self._digest(name)
        if known not in (None, digest):
            raise RunError(
                f"{path}: damaged or replaced: {where} has another sha256. {_mend(path)}"
            )
        if array.ndim != axes or (self.block and array.dtype != np.float32):
            raise RunError(f"{path}: not a float32 array of {axes} axes. {_mend(path)}")
        filters = self.block.get("filters", array.shape[-1])
        if array.shape[-1] != filters:
            self._refuse(name, f"{array.shape[-1]} filters", filters)
        if not np.isfinite(array).all():
            raise RunError(f"{path}: some of its values are not finite. {_mend(path)}")
        return array

    def _refuse(self, name, what, told):
        path = self.directory / name
        raise RunError(f"{path}: {what}, but layer.json says {told}. {_mend(path)}")

    def _digest(self, name):
        """The sha256 that a file had when it was written, and what says so: `layer.json`, or, where
        that is lost or of an older version, the summary."""
        own = (self.facts.get("sha256") or {}).get(name)
        if own or self.run is None:
            return own, "layer.json"
        known = ((self.run.summary or {}).get("sha256") or {}).get(self._named(name))
        return known, "summary.json"

    def _named(self, name):
        return f"layers/{self.directory.name}/{name}"

    @property
    def digests(self) -> dict[str, str]:
        """The sha256 that each of the layer's files had when it was written, by its place in the
        run, as `layer.json` says; older versions knew of the arrays alone."""
        own = self.facts.get("sha256") or {}
        return {self._named(name): known for name, known in own.items() if name != _FACTS}

    def check_facts(self) -> None:
        """Compare what `layer.json` says with the digest of it that it holds, if it has one.

        Raises:
            RunError: it was changed.
        """
        known = (self.facts.get("sha256") or {}).get(_FACTS)
        if known and known != _facts_digest(self.facts):
            path = self.directory / "layer.json"
            raise RunError(
                f"{path}: damaged or changed: its content has another sha256 than when it was "
                f"written. {_mend(path)}"
            )

    @property
    def _inside(self):
        return self.directory if self.run is None else self.run.path

    def history(self) -> list[dict[str, float]]:
        """The rows of `history.csv`; none where the layer was found without training steps.

        Raises:
            RunError: it cannot be read.
        """
        path = self.directory / "history.csv"
        if not path.exists() and "steps" not in self.facts:
            return []
        return read_numbers(path, self._inside, _mend(path))


@dataclass(frozen=True)
class PlainLayer:
    """A layer that `kclr.layers.stacked` takes, as a trained one of a run.

    Attributes:
        name: of the layer. block: arguments of the `ContrastiveConvBlock` that it is.
        kernel: float32 (kernel height, kernel width, channels in, filters). bias: (filters,).
    """

    name: str
    block: dict[str, Any]
    kernel: Any
    bias: Any


def write_arrays(directory, kernel, bias) -> None:
    """Write a layer's `kernel.npy` and `bias.npy`.

    Args:
        directory: Path. kernel, bias: float32, see `TrainedLayer`.
    """
    import numpy as np

    for name, array in zip(ARRAYS, (kernel, bias), strict=True):
        np.save(directory / name, array)


def write_facts(directory, facts) -> None:
    """Write a layer's `layer.json`, with the sha256 of its other files, and of what it says.

    Args:
        directory: Path, with the other files. facts: `name`, `block`, ...
    """
    names = sorted(path.name for path in directory.iterdir() if path.name != "layer.json")
    digests = {name: sha256(directory / name) for name in names}
    facts = {**facts, "sha256": digests}
    facts["sha256"] = digests | {_FACTS: _facts_digest(facts)}
    text = json.dumps(facts, indent=2) + "\n"
    (directory / "layer.json").write_text(text, encoding="utf-8")


def _facts_digest(facts):
    """A sha256 of what a `layer.json` says, but for this one."""
    known = {name: own for name, own in facts["sha256"].items() if name != _FACTS}
    return hashlib.sha256(json.dumps({**facts, "sha256": known}).encode()).hexdigest()


def _by(size):
    return "x".join(map(str, size))


def _mend(path):
    """What to do about a damaged file of a run."""
    lost = path if path.name == "summary.json" else path.parent
    return f"Restore the file, or remove {lost} and continue with `kclr train ... --resume`."


class Run:
    """A run directory. `kclr.load_run(path)` opens one that exists.

    Attributes:
        path: the directory. layers: its finished layers, from the image upwards.
    """

    def __init__(self, path):
        self.path = as_path(path)

    def __repr__(self):
        return f"Run({str(self.path)!r})"

    @property
    def layers(self) -> list[TrainedLayer]:
        """The finished layers, from the image upwards.

        Raises:
            RunError: what one of them says of itself cannot be read.
        """
        return list(self._layers())

    @property
    def kernels(self) -> list[TrainedLayer]:
        """As `layers`, with those of which there are only the arrays: they have a name and an empty
        `block`."""
        return list(self._layers(bare=True))

    def _layers(self, bare=False) -> Iterator[TrainedLayer]:
        last, filters = 0, None
        for number, name, directory in self.directories():
            if (directory / "layer.json").exists():
                layer = self.layer(number, name, filters if number == last + 1 else None)
            elif bare and (directory / ARRAYS[0]).exists():
                layer = TrainedLayer(directory, {"name": name, "block": {}}, self)
            else:
                continue
            yield layer
            last, filters = number, layer.block.get("filters")

    def layer(self, number, name, below=None) -> TrainedLayer:
        """A finished layer, by its number (from 1) and its name.

        Args:
            below: int, filters of the layer below, where they are known.

        Raises:
            RunError: what it says of itself cannot be read.
        """
        directory = self.layer_directory(number - 1, name)
        file = directory / "layer.json"
        # Building these classes takes a tenth of the time of `kclr check`, which reads no run.
        from kclr.runs.records import LayerFacts, read_record

        facts = read_record(file, LayerFacts, self.path, "kclr train", _mend(file))
        if facts["name"] != name:
            raise RunError(
                f"{file}: it belongs to a layer {facts['name']}. Move {directory} out of the run; "
                "if a layer is then missing, continue with `kclr train ... --resume`."
            )
        return TrainedLayer(directory, facts, self, below)

    def directories(self) -> list[tuple[int, str, Any]]:
        """What is called as a layer is: number (from 1), name and path, from the image upwards."""
        folder = self.path / "layers"
        found = []
        for path in folder.iterdir() if folder.is_dir() else ():
            named = _LAYER.fullmatch(path.name)
            if named and path.is_dir():
                found.append((int(named[1]), named[2], path))
        return sorted(found, key=lambda each: each[:2])

    @property
    def summary(self) -> dict[str, Any] | None:
        """What `summary.json` says; None while the run is not finished.

        Raises:
            RunError: it cannot be read.
        """
        path = self.path / "summary.json"
        if not path.exists():
            return None
        from kclr.runs.records import Summary, read_record

        return read_record(path, Summary, self.path, "kclr train", _mend(path))

    @property
    def precisions(self) -> dict[str, str]:
        """The precision in which the training of each layer was begun, by its name; empty where
        there is no resolved spec that can be read."""
        try:
            stack = self.resolved["stack"]
            known = {
                layer["name"]: layer["train"]["precision"] for layer in stack if "train" in layer
            }
        except (OSError, RunError, KeyError, TypeError):
            return {}
        return {name: own for name, own in known.items() if own in PRECISIONS}

    @property
    def resolved(self) -> dict[str, Any]:
        """The spec of the run with every default, as plain values.

        Raises:
            RunError: it cannot be read.
        """
        try:
            value = read_yaml(self.text("resolved.yaml"), str(self.path / "resolved.yaml")).value
        except SpecError as error:
            raise RunError(f"{error} Restore the file, or train again.") from None
        if not isinstance(value, dict):
            raise RunError(f"{self.path / 'resolved.yaml'}: not a spec. Restore it.")
        return value

    def spec(self) -> Spec:
        """The checked spec of the run.

        Raises:
            RunError: it cannot be read. SpecError: it is not a spec, or not of this version.
        """
        return parse_spec(self.text("resolved.yaml"), name=str(self.path / "resolved.yaml"))

    def text(self, name, most=2**20) -> str:
        """What a text file of the run says, which has so many bytes at most.

        Raises:
            RunError: it cannot be read.
        """
        return read_text(self.path / name, self.path, "Restore it, or train again.", most)

    @property
    def scaling(self) -> Scaling:
        """How raw numbers become the input of the first layer; by default 8-bit ones."""
        facts = next((layer.facts for layer in self.kernels), {})
        return Scaling(**facts["scaling"]) if facts.get("scaling") else Scaling()

    @property
    def series(self) -> bool:
        """Whether the run has learned from series, and not from images."""
        return bool(next((layer.facts for layer in self.kernels), {}).get("series"))

    def preprocessing(self, name="scaling"):
        """A `keras.layers.Normalization` from raw numbers to the input of the first layer, to put
        in front of a model that starts from the run's kernels."""
        return self.scaling.layer(name)

    def changed(self, digests: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """The files that have not the sha256 that they should have.

        Args:
            digests: sha256 of files by their places in the run.

        Yields:
            The place, and what is wrong.
        """
        for place, digest in digests.items():
            try:
                if sha256(self.path / place, self.path) != digest:
                    yield place, "its sha256 is not the one that it was written with"
            except RunError as error:
                yield place, str(error)

    def check_arrays(self) -> None:
        """Read the kernel and the bias of every layer.

        Raises:
            RunError: one is damaged.
        """
        for layer in self.layers:
            _ = layer.kernel, layer.bias

    def layer_directory(self, index, name):
        """Where layer `index` (from 0) is kept."""
        return self.path / "layers" / f"{index + 1:02d}-{name}"

    def checkpoint(self, index, name):
        """Where an unfinished layer's training state is kept."""
        return self.path / "checkpoints" / f"{index + 1:02d}-{name}.npz"

    def write_text(self, name, text):
        """Write one of the run's text files."""
        with atomic(self.path / name) as path:
            path.write_text(text, encoding="utf-8")

    def append(self, name, row):
        """Add a line of JSON to one of the run's files."""
        append(self.path / name, _line(row))

    def write_lines(self, name, rows):
        """Write one of the run's files of JSON lines."""
        self.write_text(name, "".join(map(_line, rows)))

    def trim(self, name, keep):
        """Keep only those JSON lines of a file for which `keep(row)` is true; damaged ones go."""
        if (self.path / name).exists():
            self.write_lines(name, [row for row in self.lines(name) if row and keep(row)])

    def rows(self, layer) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl` that belong to a layer, by its name.

        Raises:
            RunError: one of the file's lines is damaged.
        """
        name = METRICS
        if not (self.path / name).exists():
            return []
        rows = []
        for number, row in enumerate(self.lines(name), 1):
            if row is None:
                raise RunError(
                    f"{self.path / name}: line {number} is damaged. Remove that line, and "
                    "continue with `kclr train ... --resume`."
                )
            if row["layer"] == layer:
                rows.append({key: value for key, value in row.items() if key != "layer"})
        return rows

    def lines(self, name) -> Iterator[dict[str, Any] | None]:
        """The rows of a file of JSON lines, None for damaged ones: unreadable, or not as written.

        Earlier versions wrote lines without a checksum.

        Raises:
            RunError: the file cannot be read.
        """
        path = self.path / name
        cure = "Restore it, or remove it and continue with `kclr train ... --resume`."
        content = read_bytes(path, self.path, MOST_ROWS, cure)
        # Where one line has a checksum, all have.
        checked = f'"{_CHECKSUM}":'.encode() in content
        for line in content.splitlines():
            row = None
            with contextlib.suppress(ValueError):
                row = parsed(line.decode())
            known = row.pop(_CHECKSUM, None) if isinstance(row, dict) else None
            right = not checked or known == _checksum(row)
            yield row if right and _is_row(row) else None


def _line(row) -> str:
    return json.dumps({**row, _CHECKSUM: _checksum(row)}) + "\n"


def _checksum(row) -> int:
    return zlib.crc32(json.dumps(row).encode())


def comparable(rows) -> list[dict[str, str]]:
    """Rows of a history or of `metrics.jsonl` as text, in which a number that is none is like
    another, and 4 like 4.0."""
    return [{name: repr(float(value)) for name, value in row.items()} for row in rows]


def _is_row(row):
    return (
        isinstance(row, dict)
        and isinstance(row.get("layer"), str)
        and type(row.get("step")) is int
        and all(type(value) in (int, float) for key, value in row.items() if key != "layer")
    )


def _lost(run, names) -> str | None:
    """A layer that a finished run had, and that is not among these names."""
    try:
        summary = run.summary or {}
    except RunError:
        return None  # a damaged summary, which `kclr verify` tells of
    known = (layer.get("name") for layer in summary.get("layers") or ())
    return next((name for name in known if name not in names), None)


def load_run(path) -> Run:
    """Open a run directory.

    Args:
        path: a directory that `kclr train` wrote, finished or not.

    Returns:
        A `Run`; its `layers` have `name`, `kernel`, `bias` and `block`.

    Raises:
        RunError: the run does not exist, or has no finished layer.
    """
    run = Run(path)
    if not (run.path / "spec.yaml").is_file():
        others = sorted(p.parent.name for p in run.path.parent.glob("*/spec.yaml"))
        hint = f" Runs next to it: {', '.join(others[:5])}." if others else ""
        raise RunError(
            f"{run.path} is not a run: it has no spec.yaml.{hint} `kclr train SPEC --out RUN` "
            "creates a run."
        )
    layers = run.layers
    if not layers:
        raise RunError(
            f"{run.path} has no finished layer. Continue with `kclr train ... --resume`."
        )
    lost = _lost(run, {layer.name for layer in layers})
    if lost:
        raise RunError(
            f"{run.path}: its summary.json has the layer {lost}, but no layer of that name is "
            "finished. Restore its layer.json, or continue with `kclr train ... --resume`."
        )
    names = [layer.directory.name for layer in layers]
    for number, name in enumerate(names, 1):
        if int(name[:2]) != number:
            raise RunError(
                f"{run.path} should have one layer for each number from 01 on, but has "
                f"{', '.join(names)}. Remove what does not belong to it, or continue with `kclr "
                "train ... --resume`."
            )
    return run


def labels_used(layers) -> int:
    """The most labels that one of some layers was trained with; 0 for layers without any."""
    known = [getattr(layer, "facts", {}).get("labels") for layer in layers]
    return max((own["count"] for own in known if own), default=0)
