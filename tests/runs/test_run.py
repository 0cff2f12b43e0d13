"""The run directory as it is read: what is damaged is named, with what to do about it."""

import hashlib
import json
import os
import shutil
import tracemalloc

import numpy as np
import pytest

from kclr.errors import RunError
from kclr.runs.run import Run, load_run


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
    assert f"remove {file.parent} and continue with `kclr train ... --resume`" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "{}", "[3]", "null"])
def test_a_damaged_summary_is_named_with_the_cure(path, text):
    (path / "summary.json").write_text(text)
    with pytest.raises(RunError) as caught:
        everything(path)
    assert f"remove {path / 'summary.json'} and continue" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("kernel.npy", np.zeros((3, 3, 1, 4)), "not a float32 array of 4 axes"),
        ("kernel.npy", np.zeros((3, 3, 4), np.float32), "not a float32 array of 4 axes"),
        ("kernel.npy", np.zeros((3, 3, 1, 5), np.float32), "5 filters, but layer.json says 4"),
        ("bias.npy", np.zeros(3, np.float32), "3 filters, but layer.json says 4"),
        ("bias.npy", None, "cannot be read"),
    ],
)
def test_a_damaged_kernel_is_named_with_the_cure(path, name, array, words):
    file = path / "layers/01-conv1" / name
    file.unlink() if array is None else np.save(file, array)
    with pytest.raises(RunError, match=words) as caught:
        everything(path)
    assert str(caught.value).startswith(f"{file}: ")
    assert f"remove {file.parent} and continue" in str(caught.value)


def add_layer(path, number, name, shape, **facts):
    folder = path / f"layers/{number:02d}-{name}"
    folder.mkdir(parents=True)
    np.save(folder / "kernel.npy", np.ones(shape, np.float32))
    np.save(folder / "bias.npy", np.zeros(shape[-1], np.float32))
    facts = {"name": name, "block": {"filters": shape[-1]}, **facts}
    (folder / "layer.json").write_text(json.dumps(facts))
    return folder


def refused(path, reading=everything):
    with pytest.raises(RunError) as caught:
        reading(path)
    return str(caught.value)


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[-3] ^= 0x10
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["kernel.npy", "bias.npy"])
@pytest.mark.parametrize("teller", ["layer.json", "summary.json"])
def test_one_flipped_bit_in_an_array_is_noticed(path, name, teller):
    folder = path / "layers/01-conv1"
    digests = {
        each: hashlib.sha256((folder / each).read_bytes()).hexdigest()
        for each in ("kernel.npy", "bias.npy")
    }
    if teller == "layer.json":
        facts = json.loads((folder / "layer.json").read_text()) | {"sha256": digests}
        (folder / "layer.json").write_text(json.dumps(facts))
    else:  # as older versions have it
        summary = {"versions": {}, "hardware": {}, "seed": 0, "finished": "today"}
        summary["sha256"] = {f"layers/01-conv1/{each}": own for each, own in digests.items()}
        (path / "summary.json").write_text(json.dumps(summary))
    everything(path)
    flip_a_bit(folder / name)
    message = refused(path)
    assert message.startswith(f"{folder / name}: damaged or replaced: {teller} has another")
    assert f"remove {folder} and continue" in message


def test_a_damaged_bias_is_noticed_by_whoever_shows_the_run(path):
    np.save(path / "layers/01-conv1/bias.npy", np.full(4, np.nan, np.float32))
    assert "bias.npy: some of its values" in refused(path, lambda path: Run(path).check_arrays())


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_kernel_with_a_number_that_is_none_is_refused(path, number):
    file = path / "layers/01-conv1/kernel.npy"
    kernel = np.zeros((3, 3, 1, 4), np.float32)
    kernel[1, 1, 0, 2] = number
    np.save(file, kernel)
    assert f"{file}: some of its values are not finite" in refused(path)


def header(shape, dtype="<f4", version=b"\x01\x00"):
    words = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    words += b" " * (-(len(words) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + version + len(words).to_bytes(2, "little") + words


@pytest.mark.parametrize(
    "content",
    [
        header("(1000000, 1000000, 1, 4)"),
        header("(-3, -3, 1, 4)") + b"\0" * 144,
        header("(True, 3, 3, 4)") + b"\0" * 144,
        header("(3, 3, 1, 4)") + b"\0" * 148,
        header("(3, 3, 1, 4)", "|O") + b"\0" * 288,
        header("(3, 3, 1, 4)", "<c8") + b"\0" * 288,
        header("(" * 3000),
        header("(3,), " + "'descr': []*9**9"),
        header("(3, 3, 1, 4)", version=b"\x09\x00"),
        b"\x93NUMPY",
        b"PK\x03\x04" + b"\0" * 200,
        b"",
    ],
)
def test_an_array_takes_no_more_memory_than_its_file_whatever_its_header_claims(path, content):
    file = path / "layers/01-conv1/kernel.npy"
    file.write_bytes(content)
    assert refused(path).startswith(f"{file}: cannot be read: ")


def make_pipe(file):
    os.mkfifo(file)


def link_to_device(file):
    file.symlink_to("/dev/zero")


def link_out(file):
    file.symlink_to(__file__)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("exchange", [make_pipe, link_to_device, link_out])
@pytest.mark.parametrize(
    "name",
    [
        "layers/01-conv1/kernel.npy",
        "layers/01-conv1/bias.npy",
        "layers/01-conv1/layer.json",
        "layers/01-conv1/history.csv",
        "summary.json",
        "resolved.yaml",
        "metrics.jsonl",
    ],
)
def test_only_regular_files_inside_the_run_are_read(path, name, exchange):
    def all_of_it(path):
        everything(path)
        run = Run(path)
        return run.layers[0].history(), run.resolved, run.rows("conv1")

    (path / "resolved.yaml").write_text("seed: 0\n")
    assert all_of_it(path) == ([], {"seed": 0}, [])
    (path / name).unlink(missing_ok=True)
    exchange(path / name)
    assert refused(path, all_of_it).startswith(f"{path / name}: cannot be read: it is ")


def test_links_inside_a_run_and_to_a_run_are_followed(path, tmp_path_factory):
    file = path / "layers/01-conv1/kernel.npy"
    shutil.move(file, path / "kept.npy")
    file.symlink_to(path / "kept.npy")
    place = tmp_path_factory.mktemp("linked") / "run"
    place.symlink_to(path)
    assert everything(place)[1][0][1].shape == (3, 3, 1, 4)


@pytest.mark.parametrize(
    "facts",
    [
        {"name": "conv1\x1b[2J"},
        {"name": "../conv1"},
        {"name": 3},
        {"block": {}},
        {"block": {"filters": True}},
        {"block": {"filters": -4}},
        {"block": {"filters": 4, "kernel_size": [3, 3, 3]}},
        {"block": {"filters": 4, "activation": {"module": "os", "config": "system"}}},
        {"block": {"filters": 4, "trainable": False}},
        {"block": {"filters": 4, "contrast_epsilon": float("nan")}},
        {"steps": "many"},
        {"steps": 10**4000},
        {"dead_filters": 1.5},
        {"seconds": -1.0},
        {"probe_accuracy": 2.0},
        {"sha256": {"kernel.npy": "0"}},
        {"words": "\ud800"},
    ],
)
def test_facts_of_another_kind_are_refused_when_they_are_read(path, facts):
    file = path / "layers/01-conv1/layer.json"
    file.write_text(json.dumps({"name": "conv1", "block": {"filters": 4}} | facts))
    assert refused(path).startswith(f"{file}: ")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"name":' * 100_000, "[" * 90 + "]" * 90])
def test_nesting_without_end_is_refused(path, text):
    (path / "layers/01-conv1/layer.json").write_text(text)
    assert "nested more than 64 deep" in refused(path)
    (path / "metrics.jsonl").write_text(text + "\n")
    assert "line 1 is damaged" in refused(path, lambda path: Run(path).rows("conv1"))


@pytest.mark.parametrize(
    "text",
    ["", "step,loss\n1,two\n", "step,step\n1,2\n", "step,loss\n1\n", "step,loss\n1,2,3\n",
     "<b>,loss\n1,2\n", 'step,"loss\n1,2\n', "step,loss\n1,2\x00\n"],
)  # fmt: skip
def test_a_damaged_history_is_named(path, text):
    file = path / "layers/01-conv1/history.csv"
    file.write_text(text)
    assert refused(path, lambda path: Run(path).layers[0].history()).startswith(f"{file}: ")


def test_what_is_not_a_layer_of_the_run_is_not_taken_for_one(path):
    for name in (".02-conv2.part", "2-conv2", "notes", "02-<svg>"):
        shutil.copytree(path / "layers/01-conv1", path / "layers" / name, dirs_exist_ok=True)
    assert [layer.name for layer in load_run(path).layers] == ["conv1"]
    add_layer(path, 2, "conv2", (3, 3, 4, 6))
    assert [layer.kernel.shape[2] for layer in load_run(path).layers] == [1, 4]
    shutil.copytree(path / "layers/01-conv1", path / "layers/01-conv1.before")
    assert "it belongs to a layer conv1. Move" in refused(path)


def test_a_run_that_lacks_a_layer_in_between_is_not_read(path):
    add_layer(path, 3, "conv3", (3, 3, 4, 6))
    assert "one layer for each number from 01 on, but has 01-conv1, 03-conv3" in refused(path)
    add_layer(path, 2, "conv2", (3, 3, 4, 4))
    load_run(path)
    add_layer(path, 2, "other", (3, 3, 4, 4))
    assert "02-conv2, 02-other" in refused(path)


def test_a_kernel_that_does_not_fit_the_layer_below_or_its_own_block_is_refused(path):
    folder = add_layer(path, 2, "conv2", (3, 3, 5, 6))
    assert "5 channels in, but the layer below has 4 filters" in refused(path)
    shutil.rmtree(folder)
    add_layer(path, 2, "conv2", (3, 2, 4, 6), block={"filters": 6, "kernel_size": [3, 3]})
    assert "a kernel of 3x2, but layer.json says 3x3" in refused(path)


def test_damaged_lines_of_the_metrics_are_named_and_dropped_by_a_resume(path):
    rows = [{"layer": "conv1", "step": step, "loss": 0.5} for step in (1, 2)]
    lines = [json.dumps(rows[0]), '{"layer": "conv1", "st', "[1]", '{"layer": 1, "step": 2}']
    (path / "metrics.jsonl").write_text("\n".join([*lines, json.dumps(rows[1])]) + "\n")
    run = Run(path)
    assert "metrics.jsonl: line 2 is damaged" in refused(path, lambda _: run.rows("conv1"))
    run.trim("metrics.jsonl", lambda row: True)
    both = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.5}]
    assert run.rows("conv1") == both
    lines = (path / "metrics.jsonl").read_text()
    for old, new in (("0.5", "0.6"), ('"crc32"', '"crc3"'), ('"step": 2', '"step": 3')):
        (path / "metrics.jsonl").write_text(lines.replace(old, new, 1))
        assert "is damaged" in refused(path, lambda _: run.rows("conv1"))


def test_reading_a_small_kernel_takes_little_memory(path):
    layer = load_run(path).layers[0]
    tracemalloc.start()
    try:
        assert layer.kernel.shape == (3, 3, 1, 4)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_a_finished_run_that_has_lost_a_layer_is_not_read_as_a_shorter_one(two_layers, tmp_path):
    place = tmp_path / "run"
    shutil.copytree(two_layers.path, place)
    (place / "layers" / "02-conv2" / "layer.json").unlink()
    with pytest.raises(RunError, match=r"summary.json has the layer conv2, but .*--resume"):
        load_run(place)
    (place / "summary.json").unlink()  # as an interrupted training leaves it
    assert [layer.name for layer in load_run(place).layers] == ["conv1"]
