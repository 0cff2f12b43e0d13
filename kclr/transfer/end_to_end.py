"""Layer by layer and end to end, compared: the cost of each training and the quality of its
features.

What is found here is the part of `results.json` under `end_to_end`; `kclr.transfer.claims` makes
the table of it, together with the arms' accuracies.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from kclr.data.labels import Labelled
from kclr.errors import interrupted
from kclr.pooling import Pooling
from kclr.probing.judging import stack_features
from kclr.runs.keys import key_of
from kclr.runs.paths import is_full
from kclr.runs.records import JudgedLayers
from kclr.runs.run import Run
from kclr.spec.values import grid_of_series
from kclr.transfer.claims import END_TO_END, LAYER_BY_LAYER
from kclr.transfer.pretraining import Pretraining, fingerprint, images_digest
from kclr.transfer.results import Results, slug

PROBE: Mapping[str, Any] = {"classifier": "ridge", "grid": 2, "labels": 1.0}


def compare(
    filters: Pretraining, seeds: Sequence[int], images, results: Results, tell
) -> dict[str, Any]:
    """Evaluate the runs of an experiment and the same stacks trained end to end.

    Args:
        filters: of the experiment.
        seeds: of its repeats.
        images: function of a number of channels that returns its training and test images.
        results: its directory. Results are kept there and reused if nothing changed.
        tell: function that receives short progress messages.

    Returns:
        `probe`, the protocol; and `runs`: for each way, and each run where every repeat has one of
        its own, `way`, `seed`, `seconds`, `patches` (None where an older run does not say),
        `hardware`, and the probe's test accuracies on the features of the `top_layer` and of
        `all_layers`, concatenated. If that failed, `failed` says why instead of its numbers.
    """
    own = {filters.later(seed): seed for seed in reversed(seeds)}
    runs = []
    for way, find in ((LAYER_BY_LAYER, filters.run), (END_TO_END, filters.end_to_end)):
        for later, seed in sorted(own.items()):
            about: dict[str, Any] = {"way": way, "seed": seed}
            name = f"{way} {later}" if later else way
            try:
                run = find(seed)
                about |= cost(run) | _judged(run, images, seed, results, name, tell)
            except Exception as error:  # of Keras, of TensorFlow, of images that are too small
                if is_full(error) or interrupted(error):
                    raise
                results.write_failure(about, results.path / _place(name), error)
            runs.append(about)
    return {"probe": dict(PROBE), "runs": runs}


def cost(run: Run) -> dict[str, Any]:
    """What a run's training took: `seconds`, `patches` seen, and the `hardware` it ran on.

    Layers that were trained at once have the facts of the whole training, which count once.
    """
    counted: list[dict[str, Any]] = []
    for layer in run.layers:
        if layer.facts.get("end_to_end") and counted and counted[-1].get("end_to_end"):
            continue
        counted.append(layer.facts)
    patches = [facts.get("patches") for facts in counted]
    return {
        "seconds": round(sum(facts["seconds"] for facts in counted), 3),
        "patches": None if None in patches else sum(patches),
        "hardware": (run.summary or {}).get("hardware"),
    }


def _place(name):
    return f"probes/{slug(name)}.json"


def _judged(run, images, seed, results, name, tell):
    """The probe's accuracies, reused or computed."""
    channels = run.layers[0].kernel.shape[2]
    training, test = images(channels)
    facts = [images_digest(training, test), fingerprint(run), dict(PROBE), seed]
    key = key_of(facts)
    place = _place(name)
    known = results.read_json(place, JudgedLayers)
    if known is None or known["key"] != key:
        tell(f"{name}: probe")
        known = {"key": key} | probe_layers(run.layers, training, test, seed)
        results.write_json(place, known)
    return {part: known[part] for part in ("top_layer", "all_layers")}


def probe_layers(layers, training: Labelled, test: Labelled, seed) -> dict[str, float]:
    """The default probe on the top layer's features, and on those of all layers, concatenated.

    Args:
        layers: of a run, from the image upwards.
        training, test: labelled images with as many channels as the first layer sees.
        seed: int, of the images that choose the ridge's strength.

    Returns:
        Test accuracies `top_layer` and `all_layers`, shares of 1.

    Raises:
        SpecError: the images are too small for the layers.
    """
    grid = PROBE["grid"]
    if training.images.shape[1] == 1:
        grid = grid_of_series(grid, len(layers))
    frozen = stack_features(layers, training, test, Pooling(grid, all_layers=True))
    judged = {"top_layer": slice(-1, None), "all_layers": None}
    return {
        name: frozen.score(PROBE["classifier"], PROBE["labels"], seed, part).accuracy
        for name, part in judged.items()
    }
