"""The contents of kclr's JSON files, so that a damaged or foreign file is noticed when it is read.

Keys that are not named here may be there too: other versions of kclr write others. Only values that
something is computed from, or printed, are held to their kind.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from kclr.errors import RunError
from kclr.runs.paths import as_path
from kclr.runs.safe_reading import read_json
from kclr.spec.schema import NAME

LARGEST = 65536

Words = Annotated[str, Field(max_length=10_000)]
ShortWords = Annotated[str, Field(max_length=300)]
Size = Annotated[int, Field(ge=1, le=LARGEST)]
Pair = Size | Annotated[list[Size], Field(min_length=2, max_length=2)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[FiniteFloat, Field(ge=0)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Digests = dict[ShortWords, Digest]


class Record(BaseModel):
    """What a file holds at least."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


class BlockArguments(Record):
    """Arguments of a `ContrastiveConvBlock`; no others, for the layer would be another."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())

    filters: Size
    kernel_size: Pair = 1
    strides: Pair = 1
    padding: Literal["valid", "same"] = "valid"
    pool_size: Pair = 2
    pool_strides: Pair | None = None
    activation: ShortWords | None = "relu"
    contrast: Literal["none", "patch"] = "none"
    contrast_epsilon: Annotated[FiniteFloat, Field(gt=0, le=1_000_000)] = 0.00015


class ScalingFacts(Record):
    """`kclr.scaling.Scaling`."""

    dtype: Literal["uint8", "uint16", "int16", "float16", "float32"]
    shift: list[FiniteFloat]
    spread: Annotated[list[Annotated[FiniteFloat, Field(gt=0)]], Field(min_length=1)]


class LabelFacts(Record):
    """Labels that a layer was trained with."""

    source: Words
    count: Count
    pictures: Count
    classes: Count


class LayerFacts(Record):
    """`layer.json`."""

    name: Annotated[str, Field(pattern=NAME)]
    block: BlockArguments
    key: ShortWords | None = None
    steps: Count | None = None
    patches: Count | None = None
    seconds: Seconds | None = None
    patches_per_second: FiniteFloat | None = None
    loss: float | None = None
    effective_rank: float | None = None
    dead_filters: Count | None = None
    duplicate_filters: Count | None = None
    reseeded: Count | None = None
    convolution: ShortWords | None = None
    probe_accuracy: Share | None = None
    probe_seconds: Seconds | None = None
    test_accuracy: Share | None = None
    end_to_end: bool | None = None
    data: Words | None = None
    sha256: Digests | None = None
    scaling: ScalingFacts | None = None
    series: bool | None = None
    labels: LabelFacts | None = None


class Hardware(Record):
    """What something was made on."""

    processor: ShortWords | None = None
    cores: Count | None = None
    gpus: list[ShortWords] | None = None


class Summary(Record):
    """`summary.json` of a run."""

    versions: dict[ShortWords, ShortWords]
    hardware: Hardware
    seed: Count
    finished: ShortWords
    layers: list[dict[str, Any]] | None = None
    sha256: dict[Words, Digest] | None = None


class Epoch(Record):
    """An epoch of a classifier."""

    test_accuracy: Share


class MayFail(Record):
    """Numbers, or in `failed` why there are none."""

    failed: Words | None = None

    @property
    def has_failed(self):
        return "failed" in self.model_fields_set

    @model_validator(mode="after")
    def _with_reason(self):
        if self.has_failed and self.failed is None:
            raise ValueError("it failed without a reason")
        return self


class Unit(MayFail):
    """A repeat of an arm."""

    arm: ShortWords
    labels: Annotated[FiniteFloat, Field(gt=0, le=1e9)]
    seed: Count
    trace: Words = ""
    images: Annotated[int, Field(ge=1)] | None = None
    accuracy: Share | None = None
    seconds: Seconds | None = None
    parameters: Count | None = None
    history: list[Epoch] | None = None
    key: ShortWords | None = None

    @model_validator(mode="after")
    def _whole(self):
        needed = (self.images, self.accuracy, self.seconds, self.history)
        if not self.has_failed and None in needed:
            raise ValueError("it neither failed nor has images, accuracy, seconds and history")
        return self


class JudgedRun(MayFail):
    """A run of the comparison of training layer by layer and end to end."""

    way: Literal["layer by layer", "end to end"]
    seed: Count
    seconds: Seconds | None = None
    patches: Count | None = None
    hardware: dict[str, Any] | None = None
    top_layer: Share | None = None
    all_layers: Share | None = None

    @model_validator(mode="after")
    def _whole(self):
        lacking = {"seconds", "patches", "hardware"} - self.model_fields_set
        if not self.has_failed and (lacking or None in (self.top_layer, self.all_layers)):
            raise ValueError("it neither failed nor has results")
        return self


class Comparison(Record):
    """What `results.json` says under `end_to_end`."""

    runs: Annotated[list[JudgedRun], Field(min_length=1)]


class Results(Record):
    """`results.json` of a transfer experiment."""

    name: ShortWords
    title: Words | None = None
    units: list[Unit]
    spec: dict[str, Any] | None = None
    versions: dict[ShortWords, ShortWords] | None = None
    hardware: Hardware | None = None
    end_to_end: Comparison | None = None

    @model_validator(mode="after")
    def _each_once(self):
        units = [(unit.arm, unit.labels, unit.seed) for unit in self.units]
        if len({*units}) < len(units):
            raise ValueError("a unit occurs twice")
        if "end_to_end" in self.model_fields_set and self.end_to_end is None:
            raise ValueError("end_to_end is null")
        return self


class JudgedLayers(Record):
    """What the probe of a transfer experiment found of a run."""

    key: ShortWords
    top_layer: Share
    all_layers: Share


class Best(Record):
    """`best.json` of a search's stage."""

    trial: ShortWords
    values: dict[ShortWords, Any]
    score: FiniteFloat


class BestOfLayer(Best):
    """The best trial of a searched layer."""

    layer: ShortWords


class TrialResult(MayFail):
    """`result.json` of a trial."""

    warnings: list[Words] = []
    score: FiniteFloat | None = None
    seconds: Seconds | None = None
    steps: Count | None = None
    complete: bool | None = None

    @model_validator(mode="after")
    def _whole(self):
        numbers = (self.score, self.seconds, self.complete)
        if "score" in self.model_fields_set and None in numbers:
            raise ValueError("it has a score but not its seconds, or whether it is complete")
        if "steps" in self.model_fields_set and self.steps is None:
            raise ValueError("its steps are null")
        return self


class Trial(TrialResult):
    """A trial in `search.json`."""

    layer: ShortWords
    trial: ShortWords
    values: dict[ShortWords, Any]


class Objective(Record):
    """What a search makes better."""

    metric: ShortWords
    direction: Literal["max", "min"]


class Search(Record):
    """`search.json`."""

    name: ShortWords
    objective: Objective
    rows: list[Trial]
    best: list[BestOfLayer]
    spec: dict[str, Any] | None = None
    versions: dict[ShortWords, ShortWords] | None = None
    hardware: Hardware | None = None


class Hyperparameters(Record):
    """keras-tuner's space, and values in it."""

    space: list[dict[ShortWords, Any]]
    values: dict[ShortWords, bool | int | FiniteFloat | Words]


class TunersTrial(Record):
    """`trial.json`, which keras-tuner writes."""

    trial_id: ShortWords
    status: Literal["RUNNING", "IDLE", "INVALID", "STOPPED", "COMPLETED", "FAILED"]
    hyperparameters: Hyperparameters
    metrics: dict[str, Any]
    score: FiniteFloat | None
    best_step: Count | None
    message: str | None

    @model_validator(mode="after")
    def _whole(self):
        if self.status == "COMPLETED" and self.score is None:
            raise ValueError("it is completed without a score")
        return self


class Entry(Record):
    """A trial in a round of Hyperband."""

    id: ShortWords
    past_id: ShortWords | None


class Bracket(Record):
    """Rounds of Hyperband, each with the better trials of the one before."""

    bracket_num: Count
    rounds: list[list[Entry]]

    @model_validator(mode="after")
    def _whole(self):
        if len(self.rounds) != self.bracket_num + 1:
            raise ValueError(f"bracket {self.bracket_num} has {len(self.rounds)} rounds")
        return self


class OracleState(Record):
    """`oracle.json`, which keras-tuner writes, with the seconds so far."""

    ongoing_trials: dict[ShortWords, ShortWords]
    hyperparameters: Hyperparameters
    start_order: list[ShortWords]
    end_order: list[ShortWords]
    run_times: dict[ShortWords, Count]
    retry_queue: list[ShortWords]
    seed: Count
    seed_state: Count
    tried_so_far: list[ShortWords]
    id_to_hash: dict[ShortWords, ShortWords | None]
    display: dict[ShortWords, Any]
    seconds: FiniteFloat  # a rounding below 0, where an earlier kclr had not begun
    brackets: list[Bracket] = []
    current_bracket: Count = 0
    current_iteration: Count = 0

    def trials(self) -> set[str]:
        """The numbers of all trials that it names."""
        entries = (entry for own in self.brackets for round_ in own.rounds for entry in round_)
        named = {name for entry in entries for name in (entry.id, entry.past_id) if name}
        return named.union(
            self.ongoing_trials.values(), self.start_order, self.end_order, self.retry_queue
        )


class ProbeRow(Record):
    """What a classifier came to with some features and labels."""

    features: ShortWords
    classifier: ShortWords
    data: ShortWords
    labels: Annotated[FiniteFloat, Field(gt=0, le=1e9)]
    label_count: Count
    repeats: Count
    mean: Share
    spread: Annotated[FiniteFloat, Field(ge=0)] | None


class Probed(Record):
    """What `kclr probe --json` prints."""

    summaries: list[ProbeRow]


def read_record(path, model: type[Record], inside, command, cure) -> dict[str, Any]:
    """What a JSON file says, as plain values that are as `model` has them.

    Args:
        path: of the file. inside: see `kclr.runs.safe_reading.opened`.
        model: what it holds at least.
        command: that writes such files, as "kclr train".
        cure: last sentence of the message.

    Raises:
        RunError: it cannot be read, or is not as it should be.
    """
    value = read_json(path, inside, cure)
    try:
        model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # What is left out is pydantic's name of one of several kinds that would do.
        parts = [str(part) for part in first["loc"] if not re.search(r"-|\[", str(part))]
        place = ".".join(parts)[:200]
        words = f"{place}: {first['msg']}" if place else first["msg"]
        raise RunError(f"{path}: not a valid file of `{command}` ({words}). {cure}") from None
    return value


def read_results(path) -> dict[str, Any]:
    """What `results.json` of a transfer experiment says.

    Raises:
        RunError: it cannot be read.
    """
    cure = "Run the experiment again with resume=True (--resume); finished units are kept."
    return read_record(path, Results, as_path(path).parent, "kclr transfer", cure)


def read_search(path) -> dict[str, Any]:
    """What `search.json` of a search says.

    Raises:
        RunError: it cannot be read.
    """
    cure = "Continue the search with resume=True (--resume); finished trials are kept."
    return read_record(path, Search, as_path(path).parent, "kclr search", cure)


def read_probe(path) -> dict[str, Any]:
    """What a file of `kclr probe --json` says.

    Raises:
        RunError: it cannot be read.
    """
    cure = f"Run the probe again: kclr probe RUN --json > {path}"
    return read_record(path, Probed, None, "kclr probe --json", cure)
