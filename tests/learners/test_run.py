"""A layer of another run: trained further, or taken as it is, and refused where it does not fit."""

import re
from functools import partial

import numpy as np
import pytest

from kclr.cli import main
from kclr.data.sources import as_images
from kclr.errors import SpecError
from kclr.events import Listener
from kclr.runs.keys import layers_made
from kclr.runs.run import PlainLayer
from kclr.spec import parse_spec
from kclr.stack import train as train_and_export

pytestmark = pytest.mark.usefixtures("without_pictures")

train = partial(train_and_export, bare=True)

SPEC = """
data: {source: photos, limit: 100}
stack:
  - block: {filters: 4}
    train: {steps: 2, batch_size: 8, log_every: 2, jit: false}
  - block: {filters: 3}
    learner: SECOND
"""
FURTHER = """
    train: {steps: 2, batch_size: 8, log_every: 2, jit: false,
            optimizer: {class_name: SGD, config: {learning_rate: 1.0e-9}}}
"""


def spec(second, rest="", overrides=()):
    return parse_spec(SPEC.replace("SECOND", str(second)) + rest, overrides)


class Heard(Listener):
    def __init__(self):
        self.kept_layers = []

    def heard(self, event):
        if event.name == "kept":
            self.kept_layers.append(event.of)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return train(spec("random"), tmp_path_factory.mktemp("first") / "run")


@pytest.fixture(scope="module")
def further(first, tmp_path_factory):
    heard = Heard()
    made = spec(f"{{start: {first.path}}}", FURTHER)
    run = train(made, tmp_path_factory.mktemp("further") / "run", listener=heard)
    assert heard.kept_layers == ["conv1"]  # which is not trained again
    return run


def test_a_layer_of_a_run_is_trained_further_from_its_kernel(first, further):
    np.testing.assert_array_equal(further.layers[0].kernel, first.layers[0].kernel)
    found, before = further.layers[1], first.layers[1]
    # Steps of next to nothing, and whitening measured on other crops: folded in and out again.
    np.testing.assert_allclose(found.kernel, before.kernel, atol=1e-3)
    assert not np.array_equal(found.kernel, before.kernel)
    assert found.facts["steps"] == 2


def test_more_steps_of_a_finished_layer_are_refused_with_the_way_to_train_it_further(first):
    with pytest.raises(SpecError) as stop:
        train(spec("random", "", ["stack.0.train.steps=5"]), first.path, resume=True)
    for words in ("conv1 was trained for 2 steps, but the spec says 5", "--out",
                  f"stack.0.learner: {{start: {first.path}}}, and steps: 3 more"):  # fmt: skip
        assert words in str(stop.value)


def test_the_key_of_a_layer_has_the_kernel_that_it_starts_from_and_not_its_place(
    first, further, tmp_path
):
    (tmp_path / "moved").symlink_to(first.path)
    paths = (first.path, tmp_path / "moved", further.path)
    specs = [spec(f"{{start: {path}}}", FURTHER) for path in paths]
    known = {source: as_images(source).identity() for source in specs[0].sources()}
    here, moved, other = (layers_made(each, known)[1].key for each in specs)
    assert here == moved != other


def test_a_layer_of_a_run_is_taken_as_it_is_above_the_layers_that_it_was_trained_on(first):
    made = spec(f"run:{first.path}").stack[1]
    found = made.learner.learn(made, None, first.layers[:1], None, 0, None, None)
    np.testing.assert_array_equal(found.kernel, first.layers[1].kernel)
    assert found.facts == {"seconds": 0.0, "run": str(first.path), "layer": "conv2"}
    own = first.layers[0]
    other = PlainLayer("conv1", own.block, own.kernel + 1, own.bias)
    with pytest.raises(SpecError, match="trained on other layers than those below this one. Use"):
        made.learner.learn(made, None, [other], None, 0, None, None)


@pytest.mark.parametrize(
    ("learner", "words"),
    [
        ("{start: nowhere/run}", "stack.0.learner.start: nowhere/run is not a run: it has no spec"),
        ("{start: {name: 'run:RUN', layer: conv9}}", "has no finished layer 'conv9'. Choose from"),
        ("{name: 'run:RUN', layer: conv2}", "stack.0.learner: layer conv2 .* 3 filters of 3x3x4"),
        ("{start: run}", "'run' needs an argument. Write run:PATH"),
        ("{start: {name: kmeanz}}", "Did you mean 'kmeans'"),
    ],
)
def test_check_says_what_is_wrong_with_a_run_in_a_spec(first, tmp_path, capsys, learner, words):
    path = tmp_path / "s.yaml"
    text = learner.replace("RUN", str(first.path))
    path.write_text(f"stack: [{{block: {{filters: 4}}, learner: {text}}}]")
    assert main(["check", str(path)]) == 2
    assert re.search(words, capsys.readouterr().err)


def test_check_passes_a_run_that_fits(first, tmp_path, capsys):
    path = tmp_path / "s.yaml"
    path.write_text(f"stack: [{{block: {{filters: 4}}, learner: {{start: {first.path}}}}}]")
    assert main(["check", str(path)]) == 0, capsys.readouterr().err
