"""Keras on another backend, and files of kclr's in a program that only imports it."""

import os
import subprocess
import sys

import keras
import pytest
import tensorflow as tf

import kclr
from kclr.keras_backend import compiles, require_tensorflow
from kclr.layers import ContrastiveConvBlock

PROGRAM = """
import sys
import kclr
assert "keras" not in sys.modules and "tensorflow" not in sys.modules
import {first}
import keras
assert keras.models.load_model("model.keras").layers[-1].name == "mine"
"""


@pytest.mark.parametrize("first", ["tensorflow", pytest.param("keras", marks=pytest.mark.full)])
def test_a_model_loads_where_kclr_is_imported_before_keras(tmp_path, first):
    block = ContrastiveConvBlock(2, 3, name="mine")
    keras.Sequential([keras.Input((8, 8, 3)), block]).save(tmp_path / "model.keras")
    words = [sys.executable, "-c", PROGRAM.format(first=first)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("gpus", "variable", "arguments", "expected"),
    [
        ([], "1", {}, True),
        ([], "1", {"precision": "mixed_bfloat16"}, False),
        ([], "1", {"able": False}, False),
        ([], "0", {}, False),
        ([], "0", {"asked": True, "able": False}, True),
        ([], "1", {"asked": False}, False),
        (["one"], "1", {}, False),
        (["one"], "1", {"on_gpu": True}, True),
    ],
)
def test_xla_compiles_what_is_faster_with_it_and_what_is_asked_for(
    monkeypatch, gpus, variable, arguments, expected
):
    monkeypatch.setenv("KCLR_XLA", variable)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    assert compiles(**arguments) is expected


def test_another_backend_is_named_with_the_cure(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    words = (
        r"^kclr\.train needs Keras on TensorFlow, but its backend is jax \(by KERAS_BACKEND\)\. "
    )
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.delitem(vars(kclr), "train", raising=False)  # as before its first use
    with pytest.raises(kclr.RunError, match=words + r"Set .*=tensorflow before"):
        _ = kclr.train
    monkeypatch.delenv("KERAS_BACKEND")
    with pytest.raises(kclr.RunError, match=r"jax \(by keras.json\)"):
        require_tensorflow("kclr")
    assert kclr.load_spec({"stack": [{}]})


def test_a_backend_that_is_not_installed_is_named_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(kclr.RunError, match="its backend is jax"):
        require_tensorflow("kclr")
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(ImportError):
        require_tensorflow("kclr")
