"""Labels that a training may use: which they are, what is said of them, and where they arrive."""

import numpy as np
import pytest

import kclr
from kclr.cli import main
from kclr.data.labels import draw, load_labelled
from kclr.data.patches import PatchTripletGenerator
from kclr.data.sources import as_images, source
from kclr.errors import SpecError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pictures in PATH/train/class and PATH/test/class, and a folder without splits."""
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for place in ("split/train", "split/test", "whole"):
        for name in ("cats", "dogs"):
            (root / place / name).mkdir(parents=True)
            for number in range(10):
                image = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                np.save(root / place / name / f"{number}.npy", image)
    return root


def of_names(images):
    """The label of each picture, by its name."""
    names = [name for name, _ in images.pictures()]
    return dict(zip(names, images.labels.numbers.tolist(), strict=True))


def test_a_probe_of_the_same_share_and_seed_has_the_same_labels():
    images = source("digits", labels=0.1, label_seed=3).open()
    train = load_labelled("digits", "train")
    chosen = train.part(draw(train.labels, 0.1, 3))
    labels = images.labels
    kept = np.flatnonzero(labels.numbers >= 0)
    pictures = np.stack(list(images.read()))[kept]
    np.testing.assert_array_equal(pictures, chosen.images)
    np.testing.assert_array_equal(labels.numbers[kept], chosen.labels)
    assert (labels.count, labels.classes) == (len(chosen), train.classes)


def test_pictures_that_are_kept_for_testing_are_never_labelled(folders):
    divided = of_names(source(f"folder:{folders}/split", labels=1.0).open())
    assert {name for name, label in divided.items() if label < 0} == {
        f"test/{kind}/{number}.npy" for kind in ("cats", "dogs") for number in range(10)
    }
    assert all(label == ("dogs" in name) for name, label in divided.items() if label >= 0)
    whole = source(f"folder:{folders}/whole", labels=1.0).open()
    test = source(f"folder:{folders}/whole").labelled("test")
    names = np.array([name for name, _ in whole.pictures()])
    assert {*names[whole.labels.numbers < 0]} == {*names[test.rows]}


def test_labels_of_a_table_and_of_an_archive_are_read(folders, tmp_path):
    table = "file,label\n" + "".join(f"cats/{n}.npy,{'ab'[n % 2]}\n" for n in range(8))
    place = folders / "whole" / "labels.csv"
    place.write_text(table)
    try:
        found = of_names(source(f"folder:{folders}/whole", labels=1.0).open())
    finally:
        place.unlink()
    assert all(found[f"cats/{n}.npy"] in (n % 2, -1) for n in range(8))
    assert sum(label >= 0 for label in found.values()) == 6  # and one of each class for testing
    file = tmp_path / "own.npz"
    np.savez(file, x_train=np.zeros((6, 8, 8)), y_train=[0, 1] * 3, x_test=np.zeros((2, 8, 8)),
             y_test=[0, 1])  # fmt: skip
    labels = source(f"array:{file}", labels=2).open().labels
    assert labels.count == 4
    assert all(own in (-1, number % 2) for number, own in enumerate(labels.numbers))


@pytest.mark.parametrize("memory", [None, 1])
def test_batches_have_each_crops_class_beside_its_image(photographs, memory):
    tiles = photographs[:60] if memory is None else photographs.repeat(4, axis=0)[:800]
    y = np.arange(len(tiles)) % 5 - 1
    marked = np.maximum(tiles, 1)
    marked[:, :, :, 0] = (y + 1)[:, None, None]
    images = as_images(marked, y=y, **({} if memory is None else {"memory": memory}))
    with_labels = PatchTripletGenerator(images, 6, batch_size=16, seed=2)
    assert (with_labels._chunks is None) == (memory is None)
    for crops, targets in with_labels.crops().take(3):
        assert targets.shape == (16, 2)
        np.testing.assert_array_equal(targets[:, 1], crops[:, 0, 0, 0].numpy().astype(int) - 1)
    plain = PatchTripletGenerator(
        as_images(marked, **({} if memory is None else {"memory": memory})),
        6,
        batch_size=16,
        seed=2,
    )
    for (own, targets), (crops, numbers) in zip(
        with_labels.views().take(2), plain.views().take(2), strict=True
    ):
        np.testing.assert_array_equal(own, crops)
        np.testing.assert_array_equal(targets[:, 0], numbers)
    assert next(iter(with_labels.triplets()))[0].shape == (16, 6, 6, 3)


@pytest.mark.parametrize("memory", [None, 1])
def test_a_share_of_each_batch_is_drawn_from_the_labelled_images(photographs, memory):
    tiles = photographs[:60] if memory is None else photographs.repeat(4, axis=0)[:800]
    y = np.where(np.arange(len(tiles)) % 10, -1, np.arange(len(tiles)) // 10 % 2)
    images = as_images(tiles, y=y, **({} if memory is None else {"memory": memory}))
    generator = PatchTripletGenerator(images, 6, batch_size=16, seed=2, labelled=0.375)
    batches = [targets.numpy() for _, targets in generator.crops().take(6)]
    assert all((targets[-6:, 1] >= 0).all() for targets in batches)
    assert sum((targets[:, 1] >= 0).sum() for targets in batches) < 6 * 12
    if memory is None:  # there are six
        assert all(sorted(targets[-6:, 0]) == [*range(0, 60, 10)] for targets in batches)
    again = next(iter(generator.crops(3, share=(1, 2))))[1]
    np.testing.assert_array_equal(again, batches[3][8:])
    with pytest.raises(ValueError, match="labelled needs images with labels"):
        PatchTripletGenerator(tiles, 6, labelled=0.25)


def test_a_share_of_the_batch_needs_labels_in_a_spec(tmp_path, capsys):
    train = "{steps: 2, batch_size: 8, labelled: 0.5}"
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC.replace("DATA", "digits").replace("OBJECTIVE", "ntxent"))
    assert main(["check", str(file), "--set", f"stack.0.train={train}"]) == 2
    assert "train.labelled: needs data.labels, and an objective" in capsys.readouterr().err


def test_each_number_of_labels_has_a_fingerprint_and_none_is_that_of_before():
    plain, some, other, more = (
        source("digits", **options).open()
        for options in ({}, {"labels": 0.1}, {"labels": 0.1, "label_seed": 1}, {"labels": 0.2})
    )
    assert "labels" not in plain.options
    assert "label_seed" not in plain.options
    assert len({own.fingerprint for own in (plain, some, other, more)}) == 4


def test_a_model_trains_on_labelled_arrays_in_python(photographs):
    y = np.arange(64) % 3 - 1
    generator = PatchTripletGenerator(as_images(photographs[:64], y=y), 7, batch_size=16)
    model = kclr.TripletModel(kclr.ContrastiveConvBlock(4, 6))
    model.compile("adam", loss=kclr.losses.ContrastiveLoss("supcon"), run_eagerly=True)
    history = model.fit(generator, steps_per_epoch=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert 0 < history["labelled_share"][0] < 1


def test_a_spec_is_trained_on_labelled_arrays(photographs, tmp_path):
    spec = {"stack": [{"block": {"filters": 4}, "objective": "supcon",
                       "train": {"steps": 2, "batch_size": 8}}]}  # fmt: skip
    images = as_images(photographs[:40], y=np.arange(40) % 3 - 1)
    run = kclr.train(spec, tmp_path / "run", images=images, bare=True, verbose=False)
    assert run.layers[0].facts["labels"]["count"] == 26
    with pytest.raises(SpecError, match="needs labels"):
        kclr.train(spec, tmp_path / "other", images=photographs[:40], bare=True, verbose=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"y": [0, 1, 2]}, "3 labels do not match 6 pictures"),
        ({"y": [[0]] * 6}, "labels are whole numbers or texts of shape"),
        ({"y": [-1] * 6}, "no image has a label"),
        ({"labels": 0.5}, "arrays have no labels"),
        ({"y": [0, 0, 1, 1, 1, 1], "labels": 0.1}, "is less than one. Use 0.25 or more"),
    ],
)
def test_wrong_labels_of_arrays_are_told_in_words(options, words):
    with pytest.raises(SpecError, match=words.replace("0.25", "0.5")):
        PatchTripletGenerator(as_images(np.zeros((6, 9, 9, 1), np.uint8), **options), 6)


SPEC = """
data: DATA
stack:
  - objective: OBJECTIVE
    train: {steps: 2, batch_size: 8}
"""


def checked(tmp_path, data, objective="supcon"):
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC.replace("DATA", data).replace("OBJECTIVE", objective))
    return main(["check", str(file)])


def test_check_says_how_many_labels_the_training_uses(tmp_path, capsys):
    assert checked(tmp_path, "{source: digits, labels: 0.1}") == 0
    out = capsys.readouterr().out
    assert "Labels: the training of conv1 uses 143 labels for the 1,797 pictures of digits" in out
    assert checked(tmp_path, "digits", "ntxent") == 0
    assert "Labels:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "objective", "words"),
    [
        ("digits", "supcon", "stack.0.objective: needs labels, but digits is used without"),
        ("{source: photos, labels: 0.1}", "supcon", "photos has no labels for a training"),
        ("{source: digits, labels: 0.1}", "ntxent", "no objective of this spec takes labels"),
        ("{source: digits, labels: 0.001}", "supcon", "is less than one. Use 0.008 or more"),
        ("{source: digits, labels: 1.5}", "supcon", "1.5 is not an amount of labels"),
    ],
)
def test_labels_that_cannot_be_used_are_told_in_words(tmp_path, capsys, data, objective, words):
    assert checked(tmp_path, data, objective) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_says_how_many_labels_it_was_trained_with(tmp_path):
    from kclr.probing.probe import probe_run
    from kclr.report.sections.runs import LAYER_COLUMNS

    spec = {
        "data": {"source": "digits", "labels": 2, "limit": 400},
        "stack": [{"block": {"filters": 4}, "objective": "supcon",
                   "train": {"steps": 2, "batch_size": 8}}],
    }  # fmt: skip
    run = kclr.train(spec, tmp_path / "run", bare=True, verbose=False)
    used = {"source": "digits", "count": 20, "pictures": 400, "classes": 10}
    assert run.layers[0].facts["labels"] == used
    assert LAYER_COLUMNS["labels used"](run.layers[0]) == "20"  # of the report
    found = probe_run(run, "digits", classifiers=["mean"], limit=200)
    assert found[0].features == "run, trained with 20 labels"
