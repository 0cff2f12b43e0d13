"""The run directory as it is read: what is damaged is named, with what to do about it."""

import json

import numpy as np
import pytest

from kclr.errors import RunError
from kclr.run import load_run


@pytest.fixture
def path(tmp_path):
    """A run directory of one layer."""
    folder = tmp_path / "layers/01-conv1"
    folder.mkdir(parents=True)
    (tmp_path / "spec.yaml").write_text("stack: [{}]\n")
    np.save(folder / "kernel.npy", np.zeros((3, 3, 1, 4), np.float32))
    np.save(folder / "bias.npy", np.zeros(4, np.float32))
    facts = {"name": "conv1", "block": {"filters": 4}, "key": "x"}
    (folder / "layer.json").write_text(json.dumps(facts))
    return tmp_path


def everything(path):
    run = load_run(path)
    return run.summary, [(layer.name, layer.kernel, layer.bias) for layer in run.layers]


def test_a_run_that_is_not_finished_has_no_summary(path):
    summary, ((name, kernel, bias),) = everything(path)
    assert (summary, name, kernel.shape, bias.shape) == (None, "conv1", (3, 3, 1, 4), (4,))


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", '{"name": "conv1"}'])
def test_a_damaged_layer_is_named_with_the_cure(path, text):
    file = path / "layers/01-conv1/layer.json"
    file.write_text(text)
    with pytest.raises(RunError) as caught:
        everything(path)
    assert str(caught.value).startswith(f"{file}: ")
    assert f"remove {file.parent} and go on with `kclr train ... --resume`" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "{}", "[3]", "null"])
def test_a_damaged_summary_is_named_with_the_cure(path, text):
    (path / "summary.json").write_text(text)
    with pytest.raises(RunError) as caught:
        everything(path)
    assert f"remove {path / 'summary.json'} and go on" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("kernel.npy", np.zeros((3, 3, 1, 4)), "not a float32 array of 4 axes"),
        ("kernel.npy", np.zeros((3, 3, 4), np.float32), "not a float32 array of 4 axes"),
        ("kernel.npy", np.zeros((3, 3, 1, 5), np.float32), "5 filters, and layer.json says 4"),
        ("bias.npy", np.zeros(3, np.float32), "3 filters, and layer.json says 4"),
        ("bias.npy", None, "cannot be read"),
    ],
)
def test_a_damaged_kernel_is_named_with_the_cure(path, name, array, words):
    file = path / "layers/01-conv1" / name
    file.unlink() if array is None else np.save(file, array)
    with pytest.raises(RunError, match=words) as caught:
        everything(path)
    assert str(caught.value).startswith(f"{file}: ")
    assert f"remove {file.parent} and go on" in str(caught.value)
