"""A spec's search as a HyperModel, for your own keras-tuner script."""

import os
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import keras
import keras_tuner
from keras_tuner.errors import FailedTrialError

from kclr.data.checks import draft_checked, with_sources
from kclr.data.sources import as_images
from kclr.errors import Finding, SpecError
from kclr.layers import ContrastiveConvBlock
from kclr.runs.directories import RUN, discard
from kclr.runs.keys import key_of
from kclr.runs.run import Run
from kclr.search.space import declare, plain_of, stages, trial_spec, with_values, yaml_of
from kclr.search.trials import Trials
from kclr.spec.findings import draft
from kclr.spec.schema import Spec
from kclr.spec.search import Search
from kclr.training.keras_objects import check_keras_objects


class StackHyperModel(keras_tuner.HyperModel):
    """The stack of a spec, over the hyperparameters of its section `search`.

    Every trial trains the whole stack (`search.layers: together`); the lowest layers that no
    hyperparameter affects are trained once. `get_best_models` returns the plain stack with learned
    kernels. The script chooses the tuner, the number of trials and their directory.

    Args:
        spec: path of a YAML file, the plain value of a spec, or a `Spec`.
        overrides: `key.path=value`, each.
        directory: for what the trials share, and for unfinished trainings: `paused` and killed ones
            continue from their checkpoints there. A temporary directory by default.
        max_epochs: the argument of keras-tuner's Hyperband of the same name; an epoch is then a
            share of the topmost layer's steps. Without it every trial takes all steps.

    Attributes:
        spec: the checked `Spec`. objective: the spec's objective for keras-tuner.

    Raises:
        SpecError: the spec has errors, or no section `search`.
    """

    def __init__(self, spec, overrides=(), directory=None, max_epochs=None):
        if isinstance(spec, (str, os.PathLike)):
            made = draft_checked(spec, overrides)
        else:
            plain = plain_of(spec) if isinstance(spec, Spec) else spec
            made = with_sources(draft(yaml_of(plain), overrides))
        self.spec: Spec = made.finished()
        search = check_search(self.spec, made.name)
        check_keras_objects(self.spec, made.name)
        together = self.spec.model_copy(
            update={"search": search.model_copy(update={"layers": "together"})}
        )
        (self._stage,) = stages(together)
        self._plain: dict[str, Any] = made.value
        self._place = Path(directory or tempfile.mkdtemp(prefix="kclr-search-"))
        self._trials = Trials(self._plain, search, self._stage, self._place / "shared")
        self._search, self._max_epochs = search, max_epochs
        self.objective = keras_tuner.Objective(search.objective.metric, search.objective.better)
        super().__init__()

    def build(self, hp):
        """The stack before it is trained: a Keras model from images in [0, 1] to the top's map."""
        declare(hp, self._search, self._stage.paths)
        plain = with_values(self._plain, self._search, self._values(hp))
        try:
            spec = trial_spec(plain, self._stage.top)
        except SpecError:
            spec = self.spec  # `fit` says what is wrong with these values
        channels = as_images(spec.stack[0].data or spec.data).channels
        blocks = [
            ContrastiveConvBlock(**layer.block.arguments(), name=layer.name) for layer in spec.stack
        ]
        return keras.Sequential([keras.Input((None, None, channels)), *blocks])

    def fit(self, hp, model, *args, callbacks=(), epochs=None, initial_epoch=0, **kwargs):
        """Train the stack, and copy its weights into `model`.

        Returns:
            The objective's value, `score`, and `seconds` of training, by name.

        Raises:
            FailedTrialError: the values are impossible together, or the training failed by them.
            SpecError, RunError: an error that does not depend on the values.
        """
        values = self._values(hp)
        out = self._place / "trials" / key_of(values)[:12]
        share = None
        if epochs and self._max_epochs:
            share = Fraction(min(epochs, self._max_epochs), self._max_epochs)
        try:
            result = self._trials.train(values, out, share)
        except FailedTrialError:
            raise
        except Exception as error:
            raise keras_tuner.errors.FatalRuntimeError(str(error)) from error
        if result["complete"]:
            for layer in Run(out).layers:
                model.get_layer(layer.name).set_weights([layer.kernel, layer.bias])
            discard(out, RUN)
        told = {self.objective.name: result["score"]}
        listed = keras.callbacks.CallbackList(list(callbacks), model=model)
        listed.on_train_begin()
        listed.on_epoch_begin(initial_epoch)
        listed.on_epoch_end(initial_epoch, told)
        listed.on_train_end(told)
        return told

    def _values(self, hp) -> Mapping[str, Any]:
        return {path: hp.values[path] for path in self._stage.paths if path in hp.values}


def check_search(spec: Spec, name: str) -> Search:
    """The section `search` of a spec.

    Raises:
        SpecError: it has no section `search`.
    """
    if spec.search is None:
        words = (
            "the section `search` is missing. Add it, as in search: {space: "
            "{stack.0.block.filters: {choice: [32, 64]}}, objective: effective_rank}."
        )
        raise SpecError(f"{name}: {words}", [Finding(("search",), words)])
    return spec.search
