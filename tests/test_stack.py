"""Whole trainings: what a run holds, and that nothing in it depends on interruptions."""

import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import yaml

import kclr
from kclr.data.sources import as_images
from kclr.runs.directories import RUN, writing
from kclr.spec import parse_spec
from kclr.spec.precision import settled
from tests.processes import Forked

pytestmark = pytest.mark.usefixtures("without_pictures")

ONE_LAYER = """
data: photos
stack:
  - block: {filters: 8, kernel_size: 6}
    train: {steps: 12, batch_size: 32, log_every: 5}
"""
# For what does not depend on how filters are found: no steps, so a second.
QUICK = """
data: photos
stack:
  - {block: {filters: 8, kernel_size: 6}, learner: {name: patches, windows: 500}}
"""
# As `two_layers` of conftest.py was trained with.
TWO_LAYERS = f"""{ONE_LAYER.rstrip()}
  - block: {{filters: 6, kernel_size: 3}}
    train: {{steps: 6, batch_size: 16, log_every: 5}}
"""


def train(text, out, **options):
    return kclr.train(parse_spec(text), out, text=text, **options)


def kernels(run):
    return [layer.kernel for layer in kclr.load_run(run).layers]


@pytest.fixture
def run(two_layers):
    return two_layers


def test_a_run_holds_what_the_documentation_lists(run):
    names = {path.relative_to(run.path).as_posix() for path in run.path.rglob("*")}
    layer_files = ("kernel.npy", "bias.npy", "history.csv", "filters.png", "curves.png")
    for directory in ("layers/01-conv1", "layers/02-conv2"):
        assert {f"{directory}/{file}" for file in layer_files} <= names
    assert {
        "spec.yaml",
        "resolved.yaml",
        "metrics.jsonl",
        "model.keras",
        "saved_model",
        "summary.json",
    } <= names
    assert (run.path / "spec.yaml").read_text() == TWO_LAYERS
    said = settled(parse_spec(TWO_LAYERS), units=False)
    assert parse_spec((run.path / "resolved.yaml").read_text()) == said


def test_kernels_have_the_documented_shape_and_type(run):
    first, second = run.layers
    assert first.kernel.shape == (6, 6, 3, 8)
    assert second.kernel.shape == (3, 3, 8, 6)
    for layer in run.layers:
        assert layer.kernel.dtype == layer.bias.dtype == np.float32
        assert np.isfinite(layer.kernel).all()
        assert layer.bias.shape == layer.kernel.shape[-1:]


def test_the_summary_says_what_was_done_and_its_hashes_are_those_of_the_files(run):
    summary = run.summary
    layer = summary["layers"][0]
    assert layer["name"] == "conv1"
    assert layer["kernel_shape"] == [6, 6, 3, 8]
    assert layer["steps"] == 12
    for key in ("seconds", "patches_per_second", "loss", "effective_rank"):
        assert layer[key] > 0
    assert summary["seed"] == 0
    assert "layers/01-conv1/kernel.npy" in summary["sha256"]
    for name, digest in summary["sha256"].items():
        assert kclr.runs.run.sha256(run.path / name) == digest


def test_the_history_has_a_row_for_each_interval_and_one_for_the_rest(run):
    assert [row["step"] for row in run.layers[0].history()] == [5, 10, 12]
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["layer"] for line in lines] == ["conv1"] * 3 + ["conv2"] * 2


def test_the_keras_model_is_the_stack_of_the_kernels_on_disk(run):
    import keras

    model = keras.models.load_model(run.path / "model.keras")
    for layer in run.layers:
        kernel, bias = model.get_layer(layer.name).get_weights()
        np.testing.assert_array_equal(kernel, layer.kernel)
        np.testing.assert_array_equal(bias, layer.bias)


def test_a_compiled_training_gives_the_same_kernel_again_and_up_to_rounding_the_plain_one(
    run, tmp_path, with_xla
):
    one, again = (kernels(train(ONE_LAYER, tmp_path / name, bare=True).path)[0] for name in "ab")
    np.testing.assert_array_equal(one, again)
    plain = kernels(run.path)[0]
    assert not np.array_equal(one, plain)
    np.testing.assert_allclose(one, plain, atol=1e-3 * np.abs(plain).max())


@pytest.fixture(scope="module")
def first_layer(tmp_path_factory):
    """The first layer of `TWO_LAYERS`, with events for TensorBoard."""
    pytest.importorskip("tensorboard")
    out = tmp_path_factory.mktemp("first") / "run"
    return train("tensorboard: true" + ONE_LAYER, out, bare=True)


def test_another_seed_gives_other_kernels(run, tmp_path):
    other = train("seed: 1\n" + ONE_LAYER, tmp_path / "other", bare=True)
    assert not np.allclose(kernels(run.path)[0], kernels(other.path)[0])


def test_a_finished_run_is_not_overwritten_by_accident(run, tmp_path):
    place = shutil.copytree(run.path, tmp_path / "run")
    before = (place / "layers/01-conv1/kernel.npy").stat().st_mtime_ns
    with pytest.raises(kclr.RunError, match=r"--resume.*--overwrite.*--out"):
        train(TWO_LAYERS, place)
    train(TWO_LAYERS, place, resume=True)
    assert (place / "layers/01-conv1/kernel.npy").stat().st_mtime_ns == before
    with pytest.raises(kclr.SpecError, match="conv1 was trained with other settings"):
        train(TWO_LAYERS.replace("steps: 12", "steps: 11"), place, resume=True)
    assert (place / "layers/01-conv1/kernel.npy").stat().st_mtime_ns == before


def test_overwriting_starts_anew_and_spares_what_is_no_run(tmp_path):
    train(QUICK, tmp_path / "run", bare=True)
    changed = QUICK.replace("filters: 8", "filters: 4")
    assert (
        kernels(train(changed, tmp_path / "run", overwrite=True, bare=True).path)[0].shape[-1] == 4
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("everything")
    with pytest.raises(kclr.RunError, match="kclr did not create it"):
        train(QUICK, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_the_same_seed_gives_the_same_kernels_and_adding_a_layer_trains_only_that(
    run, first_layer, tmp_path
):
    shutil.copytree(first_layer.path, tmp_path / "grown")
    first = tmp_path / "grown/layers/01-conv1/kernel.npy"
    before = first.stat().st_mtime_ns
    train(TWO_LAYERS, tmp_path / "grown", resume=True, bare=True)
    assert first.stat().st_mtime_ns == before
    for one, other in zip(kernels(run.path), kernels(tmp_path / "grown"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_shifted_augmented_patches_and_a_layer_with_its_own_images(tmp_path):
    text = """
    data: photos
    stack:
      - block: {filters: 4, whitening: none, use_bias: false}
        patches: {patch_size: 8, max_shift: 3, augment_views: positive,
                  augment: [RandomFlip, {class_name: RandomBrightness, config: {factor: 0.4}}]}
        objective: {name: triplet, mining: all, distance: cosine, margin: 0.3}
        train: {steps: 4, batch_size: 8, optimizer: {class_name: SGD, config: {learning_rate:
                {class_name: CosineDecay, config: {initial_learning_rate: 0.1}}}}}
      - data: {source: photos, tile: 32}
        block: {filters: 4, padding: same, activation: tanh}
        patches: {max_shift: 1}
        train: {epochs: 1, batch_size: 64, precision: mixed_bfloat16}
    """
    first, second = train(text, tmp_path / "run", bare=True).layers
    assert (first.bias == 0).all()
    assert first.history()[-1]["learning_rate"] < 1e-3
    assert second.facts["steps"] > 4
    assert first.facts["convolution"] == second.facts["convolution"] == "TensorFlow's"


def test_a_run_goes_on_elsewhere_in_the_precision_in_which_it_was_begun(tmp_path, monkeypatch):
    text = """
    stack:
      - {block: {filters: 64, pool_size: 4}, learner: random}
      - block: {filters: 4, kernel_size: 2}
        train: {steps: 2, batch_size: 8}
    """
    monkeypatch.setattr("kclr.stack.bfloat16_units", lambda: True)
    begun = train(text, tmp_path / "run", bare=True)
    expected = begun.layers[1]
    kernel, key = expected.kernel, expected.facts["key"]
    shutil.rmtree(expected.directory)
    (begun.path / "summary.json").unlink(missing_ok=True)
    monkeypatch.setattr("kclr.stack.bfloat16_units", lambda: False)
    found = train(text, begun.path, bare=True, resume=True)
    assert begun.precisions == found.precisions == {"conv2": "mixed_bfloat16"}
    assert found.layers[1].facts["key"] == key
    np.testing.assert_array_equal(found.layers[1].kernel, kernel)


def test_a_dict_or_a_path_over_an_array_trains_as_a_spec_over_the_same_pictures(
    tmp_path, photographs, capsys
):
    from PIL import Image

    layer = {"block": {"filters": 3}, "train": {"steps": 2, "batch_size": 8, "jit": False}}
    (tmp_path / "pictures").mkdir()
    for index, image in enumerate(photographs[:12]):
        Image.fromarray(image).save(tmp_path / "pictures" / f"{index:02d}.png")
    array = np.stack([*as_images(tmp_path / "pictures").read()])  # in the folder's own order
    text = yaml.safe_dump({"data": str(tmp_path / "pictures"), "stack": [layer]})
    (tmp_path / "own.yaml").write_text(text)
    expected = kclr.train(parse_spec(text), tmp_path / "a", bare=True)
    made = (tmp_path / "a/layers/01-conv1/kernel.npy").stat().st_mtime_ns
    # The same layer, which is kept.
    kclr.train(tmp_path / "own.yaml", tmp_path / "a", bare=True, verbose=False, resume=True)
    assert (tmp_path / "a/layers/01-conv1/kernel.npy").stat().st_mtime_ns == made
    assert capsys.readouterr() == ("", "")
    written = {"data": "folder:nowhere", "stack": (layer,)}
    run = kclr.train(written, tmp_path / "c", images=array, bare=True, verbose=True)
    assert "conv1: training 2 steps" in capsys.readouterr().out
    np.testing.assert_array_equal(kernels(run.path)[0], kernels(expected.path)[0])
    assert run.resolved["data"]["source"] == "arrays"
    made = (tmp_path / "c/layers/01-conv1/kernel.npy").stat().st_mtime_ns
    again = kclr.train({"stack": [layer]}, tmp_path / "c", bare=True, images=array, resume=True)
    assert len(again.layers) == 1
    assert (tmp_path / "c/layers/01-conv1/kernel.npy").stat().st_mtime_ns == made
    assert capsys.readouterr() == ("", "")
    with pytest.raises(kclr.SpecError, match="data: nowhere: folder not found"):
        kclr.train(written, tmp_path / "e")


def test_a_long_training_says_first_how_long_it_will_take(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("kclr.stack._LONG", 0)
    spec = {"stack": [{"block": {"filters": 2}, "train": {"steps": 1, "batch_size": 2}}]}
    kclr.train(spec, tmp_path / "run", verbose=True)
    said = capsys.readouterr().out.splitlines()
    (expected,) = [line for line in said if "on this machine" in line]
    assert expected.startswith("training: about ")
    assert said.index(expected) < said.index("conv1: preparing")


def test_colours_of_an_array_of_gray_images_are_refused_before_anything_is_trained(
    tmp_path, photographs
):
    augment = [{"class_name": "RandomHue", "config": {"factor": 1}}]
    spec = {"stack": [{"patches": {"augment": augment}}]}
    with pytest.raises(kclr.SpecError, match=r"augment\.0: RandomHue changes colours"):
        kclr.train(spec, tmp_path / "run", images=photographs[:10, ..., :1])
    assert not (tmp_path / "run").exists()


def test_a_wrong_config_of_a_later_layer_is_found_before_the_first_is_trained(tmp_path):
    text = TWO_LAYERS.replace(
        "steps: 6,", "steps: 6, optimizer: {class_name: Adam, config: {beta_3: 1}},"
    )
    with pytest.raises(kclr.SpecError, match=r"stack\.1\.train\.optimizer.*beta_3"):
        train(text, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tensorboard_events_are_written_or_its_absence_is_said_first(
    request, tmp_path, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(kclr.RunError, match=r"pip install 'kclr\[tensorboard\]'"):
        train("tensorboard: true" + ONE_LAYER, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    run = request.getfixturevalue("first_layer")
    import tensorflow as tf

    (events,) = (run.path / "tensorboard" / "conv1").iterdir()
    tags = {value.tag for event in tf.compat.v1.train.summary_iterator(str(events))
            for value in event.summary.value}  # fmt: skip
    assert {"loss", "effective_rank"} <= tags


def test_pictures_that_cannot_be_read_are_counted_and_named(tmp_path):
    from PIL import Image
    from sklearn.datasets import load_sample_image

    photograph = load_sample_image("china.jpg")
    (tmp_path / "pictures").mkdir()
    for index in range(20):
        cut = photograph[20 * index : 20 * index + 40, :60]
        Image.fromarray(cut).save(tmp_path / "pictures" / f"{index}.png")
    (tmp_path / "pictures" / "notes.png").write_text("not in a known image format")

    class Heard(kclr.events.Listener):
        warnings = ()

        def heard(self, event):
            if event.kind == "warned":
                self.warnings += (event.words,)

    heard = Heard()
    text = ONE_LAYER.replace("data: photos", f"data: folder:{tmp_path / 'pictures'}")
    text += "  - {block: {filters: 4}, learner: {name: kmeans, windows: 200}}"
    run = train(text, tmp_path / "run", listener=heard, bare=True)
    assert [layer.facts["skipped_images"] for layer in run.layers] == [1, 1]
    assert len(heard.warnings) == 1
    assert "skipped (notes.png: " in heard.warnings[0]


COLLAPSING = """
stack:
  - block: {filters: 8, whitening: none}
    objective: {name: triplet, mining: hardest, margin: 1.0}
    train: {steps: 2000, batch_size: 32, log_every: 5,
            optimizer: {class_name: SGD, config: {learning_rate: 1.0, weight_decay: 0.9}}}
"""


def test_a_collapse_stops_the_run_with_its_reason(tmp_path):
    with pytest.raises(kclr.callbacks.CollapseError, match=r"collapsed.*Try .*filters .*dead"):
        train(COLLAPSING, tmp_path / "run")
    with pytest.raises(kclr.RunError, match="no finished layer"):
        kclr.load_run(tmp_path / "run")


LONG = """
data: photos
stack:
  - block: {filters: 8}
    patches: {max_shift: 2, augment: [RandomFlip]}
    train: {steps: 60, batch_size: 32, log_every: 10, checkpoint_seconds: 0}
"""


def started(tmp_path, out):
    (tmp_path / "long.yaml").write_text(LONG)
    words = ("train", tmp_path / "long.yaml", "--out", out)
    return Forked(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_rows(out, rows, process):
    while process.poll() is None:
        path = out / "metrics.jsonl"
        if path.exists() and len(path.read_text().splitlines()) >= rows:
            return
        time.sleep(0.01)
    raise AssertionError(process.communicate())


def history_without_time(run):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.layers[0].history()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(LONG, tmp_path_factory.mktemp("whole") / "run", bare=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [pytest.param(signal.SIGKILL, marks=pytest.mark.full), signal.SIGTERM,
            pytest.param(signal.SIGINT, marks=pytest.mark.full)]
)  # fmt: skip
def test_an_interrupted_run_resumes_to_the_same_kernels_bit_for_bit(tmp_path, how, whole):
    process = started(tmp_path, tmp_path / "cut")
    wait_for_rows(tmp_path / "cut", 2, process)
    os.kill(process.pid, how)
    _, err = process.communicate()
    if how != signal.SIGKILL:
        assert process.returncode == 130
        assert "--resume" in err
        assert "Traceback" not in err
    assert not (tmp_path / "cut/summary.json").exists()
    resumed = train(LONG, tmp_path / "cut", resume=True, bare=True)
    np.testing.assert_array_equal(kernels(whole.path)[0], kernels(resumed.path)[0])
    np.testing.assert_array_equal(whole.layers[0].bias, resumed.layers[0].bias)
    assert history_without_time(whole) == history_without_time(resumed)


def test_a_layer_is_finished_with_its_picture_or_not_at_all(tmp_path, without_export):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kclr.stack.draw_layer", full)
        with pytest.raises(OSError, match="No space left"):
            train(QUICK, tmp_path / "run")
    assert not kclr.runs.run.Run(tmp_path / "run").layers
    run = train(QUICK, tmp_path / "run", resume=True)
    assert (run.layers[0].directory / "filters.png").exists()


def test_filters_that_see_a_single_pixel_are_drawn_too(tmp_path, without_export, with_pictures):
    layer = "  - {learner: random, block: {filters: 4, kernel_size: 1, pool_size: 1}}\n"
    run = train(f"data: {{source: photos, limit: 5}}\nstack:\n{layer}{layer}", tmp_path / "run")
    assert all((layer.directory / "filters.png").exists() for layer in run.layers)


def test_overwriting_spares_a_run_that_is_being_trained(tmp_path):
    run = train(QUICK, tmp_path / "run", bare=True)
    another = pytest.raises(kclr.RunError, match="another process")
    with writing(run.path, RUN, resume=True), another:
        train(QUICK, run.path, overwrite=True)
    assert kernels(run.path)


def test_two_trainings_into_one_directory_are_refused(tmp_path):
    with writing(tmp_path / "run", RUN), pytest.raises(kclr.RunError, match="another"):
        train(ONE_LAYER, tmp_path / "run")


def test_a_training_leaves_what_is_global_to_its_caller(nothing_global_changes, tmp_path):
    text = "data: {source: photos, limit: 1}\nstack: [{train: {steps: 2, batch_size: 8}}]"
    kclr.train(parse_spec(text), tmp_path / "run")
