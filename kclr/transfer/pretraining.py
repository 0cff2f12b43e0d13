"""The filters of a transfer experiment's arms; each is made once.

Runs that a spec names are trained in the experiment's directory, as are the same stacks trained end
to end and the classifier of supervised transfer; baselines are made again, which takes seconds.
"""

from pathlib import Path
from typing import Any

import numpy as np

from kclr.data.fingerprints import array_digest
from kclr.data.labels import Labelled, labelled_name, load_labelled, scaled
from kclr.data.sources import as_source, open_sources
from kclr.errors import SpecError, interrupted
from kclr.probing.baselines import baseline, run_images
from kclr.probing.protocol import draw
from kclr.runs.paths import is_full
from kclr.runs.run import Run, load_run
from kclr.scaling import Scaling, matching
from kclr.spec.transfer import TransferSpec
from kclr.stack import train as train_run
from kclr.transfer.arms import Start, arms
from kclr.transfer.checks import filter_source, pretrained_spec
from kclr.transfer.progress import preparing
from kclr.transfer.results import Results
from kclr.transfer.supervised import supervised_run
from kclr.transfer.training import arm_seed

MEMORY = 8192  # megabytes of pixels at most; a classifier's images are read again in every epoch


def labelled(data, limit, test_limit, seed, channels=None, like=None) -> tuple[Labelled, Labelled]:
    """Training and test images of a data set, in memory, as many as the limits say.

    Raises:
        SpecError: they do not exist, do not fit in memory, or have different sizes.
        RunError: one cannot be read.
    """
    parts = []
    for split, most in (("train", limit), ("test", test_limit)):
        found = load_labelled(data, split, channels, memory=MEMORY, like=like)
        if not isinstance(found.images, np.ndarray):
            raise SpecError(
                f"data: the images of {found.name} are of different sizes, or need more than "
                f"{MEMORY:,} MB. A classifier needs images of one size that fit in memory: resize "
                "them first."
            )
        if most is not None and most < len(found):
            found = found.part(draw(found.labels, most / len(found), seed))
        parts.append(found)
    return parts[0], parts[1]


def images_digest(training: Labelled, test: Labelled) -> str:
    """A hash of all that the numbers depend on in labelled images."""
    return array_digest(training.images, training.labels, test.images, test.labels)


class Pretraining:
    """The filters of an experiment, made when they are first asked for.

    What could not be made raises the same error each time, so that it is tried once.
    """

    def __init__(self, spec: TransferSpec, results: Results, channels, listener):
        self._spec, self._results, self._listener = spec, results, listener
        self._channels = channels
        self._place = Path(spec.pretrained or "")
        self.needs_end_to_end = any(arms()[name].needs == "end-to-end" for name in spec.arms)
        self._known: dict[tuple, Any] = {}

    def prepares(self, words):
        """Say that a longer step begins."""
        self._listener.heard(preparing(words))

    def train(self, seeds):
        """Train the runs that the spec names; one that fails will fail its arms.

        Raises:
            SpecError: the run's spec does not match its images, Keras or earlier layers.
        """
        makers = [self.run] * bool(self._spec.pretrained)
        makers += [self.end_to_end] * self.needs_end_to_end
        for seed in seeds:
            for make in makers:
                try:
                    make(seed)
                except SpecError:
                    raise
                except Exception as error:
                    if is_full(error) or interrupted(error):
                        raise
                    continue  # told of with each unit that needs it

    def start(self, images, seed) -> Start:
        """What an arm may use in the repeat `seed`, on these labelled images."""
        found: dict[str, Any] = {}
        if self._spec.pretrained:
            found["find_run"] = lambda: self.run(seed)
            found["find_end_to_end"] = lambda: self.end_to_end(seed)
            found["find_baseline"] = lambda name: self._once(self._baseline, name, seed)
        if self._spec.supervised:
            found["find_supervised"] = lambda count: self._once(self._supervised, count, seed)
        return Start(images, arm_seed(seed), self._spec.layers, self._spec.scale, **found)

    def depth(self, seed):
        """How many layers the run has; None where there is none.

        One that could not be trained is known by its spec: arms that need no run are the same with
        it and without it.
        """
        if not self._spec.pretrained:
            return None
        try:
            return len(self.run(seed).layers)
        except Exception:
            return len(pretrained_spec(self._place).stack)

    def scaling(self, seed) -> Scaling | None:
        """How images become the input of the run; None where there is none.

        Raises:
            SpecError, RunError: it could not be trained, and its images cannot be read.
        """
        if not self._spec.pretrained:
            return None
        try:
            return self.run(seed).scaling
        except Exception:
            own = pretrained_spec(self._place)
            return open_sources(own)[own.stack[0].data or own.data].scaling()

    def _once(self, function, *arguments):
        """What a function returns, or raises, the first time."""
        key = (function.__name__, *arguments)
        if key not in self._known:
            try:
                self._known[key] = function(*arguments), None
            except Exception as error:
                self._known[key] = None, error
        value, failure = self._known[key]
        if failure:
            raise failure
        return value

    def later(self, seed) -> int:
        """How much later than the spec's own the seed is that the filters of a repeat have."""
        return seed - self._spec.seed if self._spec.pretrain_each_repeat else 0

    def run(self, seed) -> Run:
        """The pretrained run of a repeat."""
        if self._place.is_dir():
            return load_run(self._place)
        return self._once(self._trained, "pretrained", self.later(seed))

    def end_to_end(self, seed) -> Run:
        """The run of the same spec that was trained end to end."""
        return self._once(self._trained, "end-to-end", self.later(seed))

    def _trained(self, name, later) -> Run:
        """The run of the spec that `pretrained` names, with a seed that is so much later."""
        path, own = self._place, pretrained_spec(self._place)
        changed: dict[str, Any] = {"seed": own.seed + later}
        at_once = name == "end-to-end"
        if at_once:
            changed["train"] = own.train.model_copy(update={"end_to_end": True})
        return train_run(
            own.model_copy(update=changed),
            self._results.path / (f"{name}-{later}" if later else name),
            text=None if at_once else path.read_text(encoding="utf-8"),
            resume=True,
            listener=self._listener,
            name=str(path),
        )

    def _baseline(self, name, seed):
        """Layers with the run's geometry and other kernels, new ones for each repeat."""
        self.prepares(f"{name}: filters")
        run = self.run(seed)
        return baseline(name, run.layers, self._once(self._run_images, seed), arm_seed(seed))

    def _run_images(self, seed):
        return run_images(self.run(seed))

    def _supervised(self, count, seed):
        """The first layers of the classifier that was trained on the other labelled set."""
        training, test, made_of, facts = self._once(self._supervised_images)
        path = self._results.path / "supervised" / f"seed-{seed}"
        return supervised_run(
            self._spec, path, training, test, made_of, count, seed, self.prepares, facts
        ).layers

    def supervised_digest(self) -> tuple[str, int]:
        """A hash of the other labelled images, and how many they are.

        Raises:
            SpecError, RunError: as `labelled`.
        """
        training, test, found, _ = self._once(self._supervised_images)
        return found, len(training) + len(test)

    def _supervised_images(self):
        other: Any = self._spec.supervised
        self.prepares(f"reading {labelled_name(other.data)}")
        training, test = labelled(
            other.data,
            other.limit,
            self._spec.test_limit,
            self._spec.seed,
            self._channels,
            filter_source(self._spec),
        )
        found = images_digest(training, test)
        scaling = self.scaling(self._spec.seed)
        used = matching(scaling or training.scaling, training.images.dtype.name)
        facts: dict[str, Any] = {"scaling": used.as_dict()} if used and not used.usual else {}
        facts |= {"series": True} if as_source(other.data).series else {}
        return scaled(training, scaling), scaled(test, scaling), found, facts


def fingerprint(run: Run) -> list[Any]:
    """What tells a run from others: the keys of its layers, and a hash of their kernels."""
    arrays = [array for layer in run.layers for array in (layer.kernel, layer.bias)]
    return [[layer.facts.get("key") for layer in run.layers], array_digest(*arrays)]
