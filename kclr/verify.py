"""Whether a run is complete and unchanged, and whether its training can be repeated.

    kclr verify runs/my --retrain

Everything is read as for any use of the run (`kclr.runs.run`), but each part separately, so that a
damaged one does not hide another. `verify_run` returns the checks; read it from top to bottom.
"""

import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from kclr.errors import RunError, SpecError
from kclr.events import Listener
from kclr.runs.directories import RUN, contents
from kclr.runs.paths import shown
from kclr.runs.run import Run, TrainedLayer, comparable
from kclr.runs.safe_reading import opened, read_bytes, read_json
from kclr.spec.schema import Spec
from kclr.spec.wording import printable

RIGHT, NOTE, WRONG = "right", "note", "wrong"
MOST_STEPS = 500  # that a layer's training is repeated for, unless more are asked for
# Largest relative difference of a repeated number: on the machine and with the versions of the
# training, and on others, where sums are taken in another order.
ROUNDING, ELSEWHERE = 1e-4, 0.05
_VARIABLES = "saved_model/variables/variables.data-00000-of-00001"
_AROUND_WEIGHTS = 1 << 24  # bytes of an export's file beside its weights, at most
# Columns of a history that tell of the clock, or of a probe, which is not repeated.
_NOT_REPEATED = ("seconds", "patches_per_second", "probe_accuracy", "probe_seconds")


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        place: a file of the run, a layer, or what else it is about.
        state: "right", "note" (informative, nothing is wrong) or "wrong".
        words: what was found.
    """

    place: str
    state: str
    words: str


@dataclass(frozen=True)
class Verification:
    """All checks of a run.

    Attributes:
        run: its directory. checks: the checks, in the order in which they were made.
    """

    run: str
    checks: tuple[Check, ...]

    @property
    def right(self) -> bool:
        """Whether nothing is wrong."""
        return all(check.state != WRONG for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return {
            "run": self.run,
            "right": self.right,
            "checks": [asdict(check) for check in self.checks],
        }


def verify_run(path, retrain: int = 0, tell: Callable[[str], None] | None = None) -> Verification:
    """Check everything in a run.

    Args:
        path: of the run's directory.
        retrain: repeat every layer's training up to the first row of its history, if that has at
            most this many steps, and compare; learners without steps are repeated entirely. 0 for
            none. Needs the images.
        tell: function that receives short progress messages.

    Raises:
        RunError: the run does not exist.
    """
    run = Run(path)
    if not (run.path / "spec.yaml").exists() and not run.directories():
        raise RunError(f"{run.path} is not a run: it has neither spec.yaml nor layers.")
    tell = tell or (lambda words: None)
    layers: list[TrainedLayer | None] = []
    checks: list[Check] = []
    for number, name, directory in run.directories():
        tell(f"layer {name}")
        layer, found = _layer(run, number, name, directory, layers)
        layers.append(layer)
        checks += found
    labelled = any(layer and "test_accuracy" in layer.facts for layer in layers)
    spec, found = _specs(run, labelled)
    checks = [*found, *checks, *_order(run), *_settings(spec, layers)]
    checks += [*_summary(run, layers, tell), *_exports(run, layers), *_others(run)]
    if retrain:
        checks += _repeated(run, spec, layers, retrain, tell)
    return Verification(str(run.path), tuple(checks))


def _tried(place, look, *kinds) -> tuple[Any, list[Check]]:
    """What `look` returns, or that it is wrong."""
    try:
        return look(), []
    except (RunError, *kinds) as error:
        return None, [Check(place, WRONG, str(error))]


def _specs(run, labelled) -> tuple[Spec | None, list[Check]]:
    """The spec of the run, and what was found of both its files."""
    _, checks = _tried("spec.yaml", lambda: run.text("spec.yaml"))
    # What kclr transfer trained with labels has settings of another kind.
    look = (lambda: run.resolved) if labelled else run.spec
    spec, wrong = _tried("resolved.yaml", look, SpecError)
    checks += wrong
    return None if labelled else spec, checks or [Check("spec.yaml", RIGHT, "both can be read")]


def _layer(run, number, name, directory, lower) -> tuple[TrainedLayer | None, list[Check]]:
    """A layer, and what was found of its files, each by itself."""
    place = f"layers/{directory.name}"
    if not (directory / "layer.json").exists():
        words = "has no layer.json, so the layer is not finished. Remove it"
        return None, [Check(place, WRONG, words)]
    below = lower[-1].block["filters"] if lower and lower[-1] else None
    found, wrong = _tried(f"{place}/layer.json", lambda: run.layer(number, name, below))
    if found is None:
        return None, wrong
    told = "summary.json" if found.facts.get("sha256") is None else "layer.json"
    _, wrong = _tried(f"{place}/layer.json", found.check_facts)
    checks = wrong or [Check(f"{place}/layer.json", RIGHT, "can be read")]
    for array in ("kernel", "bias"):
        value, wrong = _tried(f"{place}/{array}.npy", lambda array=array: getattr(found, array))
        words = "" if wrong else f"{'x'.join(map(str, value.shape))}, as {told} says"
        checks += wrong or [Check(f"{place}/{array}.npy", RIGHT, words)]
    rows, wrong = _tried(f"{place}/history.csv", found.history)
    if rows:
        wrong = _history(run, found, rows)
        checks += wrong or [Check(f"{place}/history.csv", RIGHT, f"{len(rows)} rows")]
    else:
        checks += wrong
    key = found.facts.get("key")
    if key is None:
        checks.append(Check(place, NOTE, "has no key: it is not known what it was trained on"))
    return found, checks


def _history(run, layer: TrainedLayer, rows) -> list[Check]:
    """A history beside the layer's facts, and beside the run's metrics."""
    place = f"layers/{layer.directory.name}/history.csv"
    steps = [row.get("step") for row in rows]
    if None in steps or any(a >= b for a, b in pairwise(steps)):
        if "test_accuracy" in layer.facts:
            return []  # of a classifier, by epoch
        return [Check(place, WRONG, "its steps do not increase from row to row")]
    total = layer.facts.get("steps")
    if total is not None and steps[-1] != total:
        return [Check(place, WRONG, f"it ends at step {steps[-1]:g}, but layer.json says {total}")]
    own, wrong = _tried("metrics.jsonl", lambda: run.rows(layer.name))
    if own and comparable(own) != comparable(rows):
        return [Check(place, WRONG, "its rows are not those of metrics.jsonl")]
    return wrong


def _order(run) -> Iterator[Check]:
    """That no layer is missing, and none is there twice."""
    numbers = [number for number, _, _ in run.directories()]
    if not numbers:
        yield Check("layers", NOTE, "no layer is finished")
    elif numbers != list(range(1, len(numbers) + 1)):
        words = ", ".join(directory.name for _, _, directory in run.directories())
        yield Check(
            "layers", WRONG, (f"there should be one for each number from 01 on; found {words}")
        )


def _settings(spec, layers) -> Iterator[Check]:
    """That the layers are those of the spec."""
    for index, layer in enumerate(layers if spec else ()):
        if layer is None:
            continue
        place = f"layers/{layer.directory.name}"
        if index >= len(spec.stack) or spec.stack[index].name != layer.name:
            yield Check(place, WRONG, "resolved.yaml does not have this layer at its place")
            continue
        block = spec.stack[index].block.arguments()
        # An older version's layer lacks arguments that this one has by default.
        if any(block.get(key) != value for key, value in layer.block.items()):
            yield Check(place, WRONG, "its block is not that of resolved.yaml")
        else:
            yield Check(place, RIGHT, "its block is that of resolved.yaml")


def _summary(run, layers, tell) -> Iterator[Check]:
    """What the summary vouches for."""
    summary, wrong = _tried("summary.json", lambda: run.summary)
    if summary is None:
        again = "Continue with: kclr train SPEC --resume"
        yield from wrong or [Check("summary.json", NOTE, f"the run is not finished. {again}")]
        digests = {place: own for layer in layers if layer for place, own in layer.digests.items()}
        # The arrays were read, and are checked.
        others = {place: own for place, own in digests.items() if not place.endswith(".npy")}
        yield from (Check(place, WRONG, words) for place, words in run.changed(others))
        return
    digests = summary.get("sha256") or {}
    bad = []
    for name, digest in digests.items():
        tell(name)
        bad += [Check(place, WRONG, words) for place, words in run.changed({name: digest})]
    yield from bad
    words = f"{len(digests) - len(bad)} of {len(digests)} files match their sha256"
    state = WRONG if bad else RIGHT if digests else NOTE
    yield Check("summary.json", state, words)
    told = [(each.get("name"), each.get("key")) for each in summary.get("layers") or ()]
    if told and told != [each and (each.name, each.facts.get("key")) for each in layers]:
        yield Check("summary.json", WRONG, "its layers and keys are not those of layers/")


def _exports(run, layers) -> Iterator[Check]:
    """What `kclr export` wrote into the run, which the summary does not vouch for."""
    folder = run.path / "exports"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        place = f"exports/{path.name}"
        about = path / "saved_model" / "assets.extra" / "kclr.json"
        told, wrong = _tried(place, lambda about=about: read_json(about, run.path))
        named = told.get("layers") if isinstance(told, dict) else None
        named = [str(name) for name in named] if isinstance(named, list) else []
        own = [each and each.name for each in layers]
        if not wrong and (not named or named != own[: len(named)]):
            wrong = [Check(place, WRONG, "it contains other layers. Export them again")]
        if not wrong and not (path / "model.keras").is_file():
            wrong = [Check(place, WRONG, "it has no model.keras. Export it again")]
        wrong = wrong or [*_weights(run, path, layers[: len(named)])]
        yield from wrong or [Check(place, RIGHT, f"of the layers {', '.join(named)}")]


def _weights(run, path, layers) -> Iterator[Check]:
    """The files of an export whose weights are not those of the layers, to the last bit.

    Keras and TensorFlow write weights as they lie in memory, so they are looked for as bytes: what
    reads HDF5 is not made for files of strangers.
    """
    arrays, damaged = _tried("", lambda: [a for own in layers for a in (own.kernel, own.bias)])
    if damaged:
        return  # which was said of the layer
    needed = [array.astype("<f4").tobytes() for array in arrays]
    most = 2 * sum(map(len, needed)) + _AROUND_WEIGHTS
    for name, read in (("model.keras", _in_keras), (_VARIABLES, read_bytes)):
        place, file = f"exports/{path.name}/{name}", path / name
        content, wrong = _tried(place, lambda read=read, file=file: read(file, run.path, most))
        if not wrong and any(numbers not in content for numbers in needed):
            words = "its weights are not those of the run's layers. Export it again"
            wrong = [Check(place, WRONG, words)]
        yield from wrong


def _in_keras(path, inside, most) -> bytes:
    """The file of weights in a `.keras` file."""
    with opened(path, inside, most) as file:
        try:
            with zipfile.ZipFile(file) as archive, archive.open("model.weights.h5") as weights:
                return weights.read(most)
        except Exception as error:  # zipfile and zlib fail in many ways
            raise RunError(f"{path}: cannot be read: {error}. Export it again") from None


def _others(run) -> Iterator[Check]:
    """What is in the directory and was not written by a training."""
    ours, foreign = contents(run.path, RUN)
    rests = [place for place in ours if any(map(shown, place.rstrip("/").split("/")))]
    for places, words in (
        (
            rests,
            "left by an interrupted write; the next `kclr train ... --resume` repairs it",
        ),
        (foreign, "not written by this run's training, and not used"),
    ):
        if places:
            more = f" and {len(places) - 3} more" if places[3:] else ""
            yield Check(", ".join(places[:3]) + more, NOTE, words)


class _EnoughError(Exception):
    """The first row of a history is there."""


class _FirstRow(Listener):
    def heard(self, event):
        if event.kind == "row":
            raise _EnoughError(event.facts)


def _repeated(run, spec, layers, most, tell) -> Iterator[Check]:
    """Every layer learned again from the run's spec, as far as that is asked for."""
    if spec is None:
        labelled = any(layer and "test_accuracy" in layer.facts for layer in layers)
        words = "it was trained with labels by kclr transfer" if labelled else "its spec is damaged"
        yield Check("--retrain", NOTE, f"not trained again: {words}")
        return
    if spec.train.distribute != "none" and not spec.train.gather:
        yield Check(
            "--retrain", NOTE, ("trained on several separate devices; not trained again here")
        )
        return
    tell("loading TensorFlow and the images")
    from kclr.data.checks import source_findings
    from kclr.data.sources import open_sources
    from kclr.runs.keys import layers_made
    from kclr.spec.findings import refusal

    try:
        findings = source_findings(spec)
        if findings:
            raise refusal(str(run.path / "resolved.yaml"), findings)
        opened = open_sources(spec)
        identities = {source: images.identity() for source, images in opened.items()}
        keys = [made.key for made in layers_made(spec, identities)]
    except (SpecError, RunError) as error:
        yield Check("--retrain", NOTE, f"its images are missing. {error}")
        return
    for layer, key in zip(layers, keys, strict=False):
        if layer and layer.facts.get("key") not in (None, key):
            words = "its key differs: other images, or another version of kclr"
            yield Check(f"layers/{layer.directory.name}", NOTE, words)
    for first, top in spec.trainings():
        if top < len(layers) and None not in layers[: top + 1]:
            tell(f"layer {layers[top].name} again")
            images = opened[spec.stack[top].data or spec.data]
            yield from _again(run, spec, first, top, layers, images, most)


def _again(run, spec, first, top, layers, images, most) -> list[Check]:
    """One training again, and how far it is from what is on disk."""
    from kclr.stack import learn
    from kclr.version import hardware, versions

    layer, place = layers[top], f"layers/{layers[top].directory.name}"
    summary, _ = _tried("", lambda: run.summary)
    here = {"versions": versions(), "hardware": hardware()}
    same = summary is not None and all(summary[key] == value for key, value in here.items())
    try:
        recorded = layer.history()
        if spec.stack[top].learner.contrastive and not recorded:
            return [Check(place, NOTE, "has no history to compare with; not trained again")]
        if recorded and recorded[0]["step"] > most:
            words = f"its history starts at step {recorded[0]['step']:g}; not trained again. "
            return [
                Check(place, NOTE, words + ("Repeat it with --retrain and at least as many steps"))
            ]
        with tempfile.TemporaryDirectory(prefix="kclr-") as folder:
            checkpoint = Path(folder, "again.npz")
            found = learn(spec, first, top, layers[:first], images, checkpoint, _FirstRow())
    except _EnoughError as enough:
        row = enough.args[0]
        names = [name for name in row if name in recorded[0] and name not in _NOT_REPEATED]
        far = {name: _apart(row[name], recorded[0][name]) for name in names}
        name = max(far, key=far.__getitem__)
        what = f"its first {recorded[0]['step']:g} steps again"
        return [_judged(place, what, far[name], same, name, recorded[0][name], row[name])]
    except (RunError, SpecError) as error:
        return [Check(place, WRONG, f"cannot be learned again: {error}")]
    return [
        _judged(
            f"layers/{own.directory.name}", "learned again", _apart(new.kernel, own.kernel), same
        )
        for own, new in zip(layers[first : top + 1], found, strict=True)
    ]


def _apart(one, other) -> float:
    """The largest difference of two arrays, as a share of the largest number in them."""
    import numpy as np

    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if one.shape != other.shape:
        return np.inf
    largest = max(np.abs(one).max(), np.abs(other).max(), np.finfo(np.float32).tiny)
    apart = float(np.abs(one - other).max() / largest)
    return apart if apart == apart else np.inf


def _judged(place, what, apart, same, name="kernel", before=None, now=None) -> Check:
    where = "" if same else ", on another machine or with other versions"
    if apart == 0:
        return Check(place, RIGHT, f"{what}: identical{where}")
    numbers = "" if before is None else f" ({before:g} before, {now:g} now)"
    words = f"{what}: {name} differs by {apart:.2g} of its size{numbers}{where}"
    return Check(place, RIGHT if apart <= (ROUNDING if same else ELSEWHERE) else WRONG, words)


def print_verification(found: Verification) -> None:
    """What was found, a line each, and the verdict."""
    width = max(len(check.state) for check in found.checks)
    for check in found.checks:
        words = " ".join(check.words.split())
        print(printable(f"{check.state:<{width}}  {check.place}: {words}"))
    wrong = sum(check.state == WRONG for check in found.checks)
    verdict = f"{wrong} of {len(found.checks)} checks failed" if wrong else "all checks passed"
    print(printable(f"{found.run}: {verdict}"))
