"""What is written to a run: its specs, its layers one by one, and the summary that finishes it."""

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from kclr.runs.directories import LOCK, MARKER, RUN, contents
from kclr.runs.keys import Identity, Made, adopt, check_finished, from_runs, list_pictures
from kclr.runs.paths import atomic, remove, write_csv
from kclr.runs.run import Run, TrainedLayer, write_arrays
from kclr.runs.safe_reading import sha256
from kclr.spec.schema import Spec
from kclr.version import hardware, versions


def begin(
    run: Run,
    spec: Spec,
    text: str | None,
    made: Sequence[Made],
    images: Iterable[Identity],
    bare: bool = False,
) -> None:
    """Check that what the run holds is of the same spec and images, and write both down.

    Args:
        run: locked for this process. spec: from `kclr.load_spec`.
        text: the spec as the user wrote it; by default the resolved spec.
        made: what the layers depend on (see `layers_made`).
        images: what identifies those of the spec.
        bare: keep no list of the pictures.

    Raises:
        SpecError: it holds something else.
    """
    resolved = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)
    check_finished(run, spec, made, images)
    if not bare:
        list_pictures(run, images)
    # The layers below one that is trained further are there already.
    adopt(spec, run.path, [part.run for part in from_runs(spec)], made)
    run.write_text("spec.yaml", text or resolved)
    run.write_text("resolved.yaml", resolved)
    remove(run.path / "summary.json")


@contextlib.contextmanager
def writing_layer(
    run: Run, index: int, facts: Mapping[str, Any], kernel, bias, rows: Sequence[Mapping] = ()
) -> Iterator[TrainedLayer]:
    """Write a finished layer, and what the block adds to it: all of it, or nothing.

    Args:
        run: of the layer. index: from 0.
        facts: `name`, `block`, and whatever else `layer.json` shall say.
        kernel, bias: float32, see `TrainedLayer`.
        rows: of its history.
    """
    with atomic(run.layer_directory(index, facts["name"])) as temporary:
        temporary.mkdir(parents=True)
        facts = {**facts, "sha256": write_arrays(temporary, kernel, bias)}
        if rows:
            write_csv(temporary / "history.csv", rows)
        text = json.dumps(facts, indent=2) + "\n"
        (temporary / "layer.json").write_text(text, encoding="utf-8")
        yield TrainedLayer(temporary, facts)


def write_summary(run: Run, seed: int, images: Mapping[str, Any] | None = None) -> None:
    """Write the summary, which makes the run finished.

    Args:
        run: with all its layers. seed: of the run.
        images: for each source of files by name, which of them are used and which are left out.
    """
    summary = {
        "versions": versions(),
        "hardware": hardware(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seed": seed,
        **({} if images is None else {"images": dict(images)}),
        "layers": [
            {"name": layer.name, "kernel_shape": list(layer.kernel.shape)}
            | {
                key: value
                for key, value in layer.facts.items()
                # The digests stand below, of all files.
                if key not in ("name", "block", "sha256", "made_of")
            }
            for layer in run.layers
        ],
        "sha256": {
            place: sha256(run.path / place)
            for place in sorted(contents(run.path, RUN)[0])
            if place[-1] != "/"
            and place not in (LOCK, MARKER, "summary.json")
            and not place.startswith("exports/")
        },
    }
    run.write_text("summary.json", json.dumps(summary, indent=2) + "\n")
