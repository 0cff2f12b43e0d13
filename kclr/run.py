"""The run directory: written atomically, checked when read, never overwritten by accident."""

import contextlib
import csv
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import yaml

from kclr.errors import RunError, SpecError
from kclr.paths import append, as_path, atomic

if TYPE_CHECKING:
    import numpy as np


def sha256(path) -> str:
    """Hex digest of a file."""
    with as_path(path).open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class TrainedLayer:
    """One layer of a run.

    Attributes:
        directory: where its files are.
        facts: what `layer.json` says: name, block, key, steps, seconds, loss, ...
    """

    directory: Any
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """The layer's name, as in the spec."""
        return self.facts["name"]

    @property
    def block(self) -> dict[str, Any]:
        """Arguments of the `ContrastiveConvBlock` that the layer is, without whitening."""
        return self.facts["block"]

    @cached_property
    def kernel(self) -> "np.ndarray":
        """float32 (kernel height, kernel width, channels in, filters), whitening folded in."""
        return self._array("kernel.npy", 4)

    @cached_property
    def bias(self) -> "np.ndarray":
        """float32 (filters,)."""
        return self._array("bias.npy", 1)

    def _array(self, name, axes):
        import numpy as np

        path = self.directory / name
        try:
            with path.open("rb") as file:
                array = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise RunError(f"{path}: cannot be read: {error}. {_mend(path)}") from None
        filters = self.block.get("filters")
        if array.ndim != axes or array.dtype != np.float32:
            raise RunError(f"{path}: not a float32 array of {axes} axes. {_mend(path)}")
        if filters is not None and array.shape[-1] != filters:
            raise RunError(
                f"{path}: {array.shape[-1]} filters, and layer.json says {filters}. {_mend(path)}"
            )
        return array

    def history(self) -> list[dict[str, float]]:
        """The rows of `history.csv`; none where the layer was found without training steps."""
        path = self.directory / "history.csv"
        if not path.exists() and "steps" not in self.facts:
            return []
        return [
            {key: float(value) for key, value in row.items() if value}
            for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        ]


def _facts(path, keys) -> dict[str, Any]:
    """What a JSON file of a run says, which has these keys at least.

    Raises:
        RunError: it cannot be read, or was written by something else.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}. {_mend(path)}") from None
    if not isinstance(facts, dict) or not facts.keys() >= set(keys):
        raise RunError(f"{path}: not as `kclr train` writes it. {_mend(path)}")
    return facts


def _mend(path):
    """What to do about a damaged file of a run."""
    lost = path if path.name == "summary.json" else path.parent
    return f"Copy the file back, or remove {lost} and go on with `kclr train ... --resume`."


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
        """The finished layers, from the image upwards."""
        return [
            TrainedLayer(path.parent, _facts(path, ("name", "block")))
            for path in sorted(self.path.glob("layers/[0-9]*/layer.json"))
        ]

    @property
    def summary(self) -> dict[str, Any] | None:
        """What `summary.json` says; None while the run is not finished."""
        path = self.path / "summary.json"
        return _facts(path, ("versions", "hardware", "seed", "finished")) if path.exists() else None

    @property
    def resolved(self) -> dict[str, Any]:
        """The spec of the run with every default, as plain values."""
        return yaml.safe_load((self.path / "resolved.yaml").read_text())

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
        append(self.path / name, json.dumps(row) + "\n")

    def trim(self, name, keep):
        """Keep only those JSON lines of a file for which `keep(row)` is true; damaged ones go."""
        path = self.path / name
        if not path.exists():
            return
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
        self.write_text(name, "".join(json.dumps(row) + "\n" for row in rows if keep(row)))

    def rows(self, layer) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl` that belong to a layer, by its name."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        return [
            {k: v for k, v in row.items() if k != "layer"}
            for row in rows
            if row.get("layer") == layer
        ]


def load_run(path) -> Run:
    """Open a run directory.

    Args:
        path: a directory that `kclr train` wrote, finished or not.

    Returns:
        A `Run`; its `layers` have `name`, `kernel`, `bias` and `block`.

    Raises:
        RunError: there is no run, or no layer of it is finished.
    """
    run = Run(path)
    if not (run.path / "spec.yaml").is_file():
        others = sorted(p.parent.name for p in run.path.parent.glob("*/spec.yaml"))
        hint = f" Runs beside it: {', '.join(others[:5])}." if others else ""
        raise RunError(
            f"{run.path} is not a run: it has no spec.yaml.{hint} "
            "`kclr train SPEC --out RUN` makes one."
        )
    if not run.layers:
        raise RunError(
            f"{run.path} has no finished layer yet. Go on with `kclr train ... --resume`."
        )
    return run


def check_same(key, trained, where):
    """Refuse to go on with a layer that was trained otherwise.

    Raises:
        SpecError: the layer's key (see `kclr.stack`) is not the trained one.
    """
    if trained != key:
        raise SpecError(
            f"{where} was trained with other settings or other images. Train into another "
            "directory with --out, or start anew with --overwrite (what is there is lost)."
        )
