"""`kclr.transfer.initialize` is a function, found without waiting for TensorFlow."""

import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import kclr.transfer
from kclr.runs.run import PlainLayer
from kclr.transfer import starting


def test_a_model_starts_from_a_run_by_the_name_that_the_room_has():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
    run = SimpleNamespace(layers=[PlainLayer("edges", {"pool_size": 2}, kernel, np.zeros(4))])
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 3)])
    report = kclr.transfer.initialize(model, run, layers=1, freeze=True, scale=False)
    np.testing.assert_array_equal(model.layers[0].kernel, kernel)
    assert report.rows[0].frozen
    assert kclr.transfer.initialize is starting.initialize


def test_other_names_are_refused_as_by_any_module():
    with pytest.raises(AttributeError, match="No kclr.transfer attribute initialise"):
        kclr.transfer.initialise  # noqa: B018


def test_the_name_is_there_before_tensorflow_is():
    ask = "import sys, kclr.transfer; print(kclr.transfer.initialize, 'tensorflow' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
    assert answer.stdout.split()[-1] == "False", answer.stderr
