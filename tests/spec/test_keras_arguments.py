"""What `kclr check` takes as arguments of Keras' classes, tried out on Keras itself."""

import runpy
from inspect import signature
from operator import attrgetter
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml

from kclr.spec import keras_arguments, parse_spec
from kclr.spec.keras_arguments import ARGUMENTS
from kclr.spec.keras_parts import KINDS
from kclr.spec.transfer import parse_transfer
from kclr.training.keras_objects import keras_augmentation, keras_optimizer

ROOT = Path(__file__).parents[2]
INSTALLED = ".".join(keras.__version__.split(".")[:2])

# The ends of each kind's range, and something between them.
TAKEN = {
    "number": [-1e30, 0, 1e30],
    "amount": [0, 0.5, 1e30],
    "positive": [1e-30, 1, 1e30],
    "negative": [-1e30, -0.5, 0],
    "momentum": [0, 0.999],
    "share": [0, 0.5, 1],
    "share_above_0": [1e-6, 1],
    "growth": [1, 2, 1000],
    "rate": [1e-30, 1, 1_000_000],
    "rate_or_0": [0, 1, 1_000_000],
    "rates": [[1, 0.5, 0]],
    "steps": [1, 2**31 - 1, 1e-9, 1.0],
    "steps_or_0": [0, 2**31 - 1, 0.0, 1.0],
    "boundaries": [[0.5, 1.0], [1, 2]],
    "count": [1, 2**31 - 1],
    "several": [2, 2**31 - 1],
    "few": [1, 3],
    "bins": [2],
    "size": [12],
    "seed": [0, 2**31 - 1],
    "factor": [-1, 0, 1, [-1, 1]],
    "strength": [0, 1, [0, 1], [0.2, 0.2]],
    "zoom": [-0.99, 0, 1, [-0.5, 1]],
    "turn": [-1, 0, 1, [-1, 1]],
    "bits": [1, 8, [1, 8]],
    "odd": [1, 3, [3, 5]],
    "range": [[0, 1], [-1, 0.5]],
    "fill": [-1, 0.5],
    "fill_or_colour": [0, [0.5, 0, 1]],
    "padding": [0, [0, 0], [[0, 0], [0, 0]]],
    "flag": [True, False],
    "text": ["mine", "a-b.c_1"],
    "texts": [[], ["kernel"]],
    "flips": ["horizontal", "vertical", "horizontal_and_vertical"],
    "interpolation": ["nearest", "bilinear"],
    "fill_mode": ["constant", "nearest", "reflect", "wrap"],
    "channels_last": ["channels_last"],
    "float32": ["float32"],
}
# Of those, what no kind takes that does not list it above.
NEVER = ["many", [1], {}, {"a": 1}, float("nan"), float("inf"), -1e31, 1e31, 10**31, [[]], [None]]
CLASSES = [(package, name) for package in ARGUMENTS for name in ARGUMENTS[package]]


def arguments(package, name):
    return dict(words.split("=") for words in ARGUMENTS[package][name].split())


def used(package, name, config):
    """Check a config as a spec's, and have Keras do a step with what it makes of it."""
    written = {"class_name": name, "config": config}
    if package == "keras.layers":
        text = yaml.safe_dump({"data": "digits", "train": {"augment": [written]}})
        augment = keras_augmentation(parse_transfer(text).train.augment)
        return augment(keras.ops.ones((2, 12, 12, 3)), training=True)
    if package.endswith("schedules"):
        config = {"learning_rate": written}
        written = {"class_name": "SGD", "config": config}
    text = yaml.safe_dump({"stack": [{"train": {"optimizer": written}}]})
    optimizer = keras_optimizer(parse_spec(text).stack[0].train.optimizer, 100)
    weights = keras.Variable(np.ones((3, 3), "float32"))
    optimizer.build([weights])
    optimizer.apply([keras.ops.ones((3, 3))])
    assert np.isfinite(float(optimizer.learning_rate))
    return weights


@pytest.mark.skipif(INSTALLED != keras_arguments.VERSION, reason="of another release of Keras")
def test_the_table_is_what_the_tool_makes_of_the_installed_keras():
    made = runpy.run_path(str(ROOT / "tools" / "keras_arguments"))["table"]()
    assert made == Path(keras_arguments.__file__).read_text(), "run tools/keras_arguments"


@pytest.mark.parametrize(("package", "name"), CLASSES, ids=lambda value: value)
def test_keras_takes_what_check_takes(package, name):
    class_ = getattr(attrgetter(package[6:])(keras), name, None)
    if class_ is None:
        pytest.skip(f"Keras {keras.__version__} has no {name}")
    # An older release of Keras lacks some, and says so before a training starts.
    known = {key for base in class_.__mro__ for key in signature(base.__init__).parameters}
    values = {
        key: TAKEN[kind.rstrip("!?")] + [None] * ("?" in kind)
        for key, kind in arguments(package, name).items()
        if key in known | {"dtype", "trainable", "name"}
    }
    clips = ("clipnorm", "clipvalue", "global_clipnorm")  # of which one may be given
    for turn in range(max(map(len, values.values()))):
        config = {key: several[turn % len(several)] for key, several in values.items()}
        for key in {*clips} - {clips[turn % 3]} & config.keys():
            config[key] = None
        if "boundaries" in config:
            config |= {"values": [1, 0.5, 0], "boundaries": [[0.5, 1.0], [1, 2]][turn % 2]}
        try:
            used(package, name, config)
        except Exception:
            if INSTALLED == keras_arguments.VERSION:
                raise
            pytest.skip(f"Keras {keras.__version__} cannot use its {name}")


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_takes_what_is_none_of_it(kind):
    fits = KINDS[kind].fits
    assert all(fits(value) for value in TAKEN[kind])
    taken = [value for value in NEVER if fits(value)]
    assert taken == {"text": ["many"], "rates": [[1]], "boundaries": [[1]]}.get(kind, [])
    assert not fits(True) or kind == "flag"
