from types import SimpleNamespace

import numpy as np
import pytest

from kclr.data.labels import load_labelled
from kclr.probing.probe import probe_run
from kclr.runs.run import PlainLayer
from kclr.scaling import EIGHT_BITS
from kclr.transfer.end_to_end import cost, probe_layers

RNG = np.random.default_rng(0)


def run(*facts, hardware=None):
    layers = [SimpleNamespace(facts=each) for each in facts]
    return SimpleNamespace(layers=layers, summary=hardware and {"hardware": hardware})


def test_layers_that_were_trained_at_once_are_counted_once():
    kmeans = {"seconds": 2.0, "patches": 10}
    at_once = {"seconds": 5.0, "patches": 100, "end_to_end": True}
    assert cost(run(kmeans, at_once, at_once)) == {
        "seconds": 7.0,
        "patches": 110,
        "hardware": None,
    }
    one_by_one = {"seconds": 5.0, "patches": 100}
    assert cost(run(kmeans, one_by_one, one_by_one))["patches"] == 210


def test_patches_are_not_known_where_an_older_run_does_not_say():
    found = cost(run({"seconds": 1.0, "patches": 3}, {"seconds": 1.0}, hardware={"cores": 2}))
    assert found == {"seconds": 2.0, "patches": None, "hardware": {"cores": 2}}


def test_the_accuracies_are_those_of_the_default_probe(tmp_path):
    data = [load_labelled("digits", split) for split in ("train", "test")]
    layers = []
    for name, size, channels, filters in (("conv1", 5, 1, 6), ("conv2", 3, 6, 8)):
        kernel = RNG.normal(size=(size, size, channels, filters)).astype(np.float32)
        block = {"filters": filters, "kernel_size": size, "pool_size": 2}
        layers.append(PlainLayer(name, block, kernel, np.zeros(filters, np.float32)))
    found = probe_layers(layers, *data, seed=3)
    for name, all_layers in (("top_layer", False), ("all_layers", True)):
        (expected,) = probe_run(
            SimpleNamespace(layers=layers, path=tmp_path, series=False, scaling=EIGHT_BITS),
            tuple(data),
            classifiers=("ridge",),
            all_layers=all_layers,
            seed=3,
        )
        assert found[name] == pytest.approx(expected.accuracy, abs=1e-9)
