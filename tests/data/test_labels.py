"""Labelled images: whose label is whose, which part is kept for judging, and what is refused."""

import importlib.util
import re

import numpy as np
import pytest
from PIL import Image

from kclr.data.checks import labelled_findings
from kclr.data.labels import labelled_source, load_labelled
from kclr.data.sources import source
from kclr.errors import RunError, SpecError
from kclr.spec import load_spec

needs_soundfile = pytest.mark.skipif(
    not importlib.util.find_spec("soundfile"), reason="soundfile is not installed"
)


def write(folder, count, value, size=(12, 12)):
    """Pictures of `count` gray values from `value` on, so that a picture tells which one it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("L", size, value + number).save(folder / f"{number}.png")


def values(labelled):
    return [int(image[0, 0, 0]) for batch in labelled.batches(7) for image in batch]


@pytest.fixture
def animals(tmp_path):
    write(tmp_path / "cat", 10, 0)
    write(tmp_path / "dog", 20, 100)
    return tmp_path


def test_each_picture_has_the_label_of_its_folder(animals):
    train = load_labelled(f"folder:{animals}", "train")
    assert train.classes == ("cat", "dog")
    assert train.images.dtype == np.uint8
    assert train.images.shape == (24, 12, 12, 3)
    assert [value >= 100 for value in values(train)] == list(train.labels == 1)


def test_an_undivided_folder_keeps_a_fifth_of_each_class_for_judging(animals):
    train, test = (load_labelled(f"folder:{animals}", split) for split in ("train", "test"))
    assert np.bincount(train.labels).tolist() == [8, 16]
    assert np.bincount(test.labels).tolist() == [2, 4]
    assert sorted(values(train) + values(test)) == [*range(10), *range(100, 120)]


def test_the_images_for_judging_are_always_the_same(animals):
    assert values(load_labelled(str(animals), "test")) == values(
        load_labelled(str(animals), "test")
    )


@pytest.mark.parametrize("held_out", ["test", "val", "validation"])
def test_a_divided_folder_stays_as_it_is(tmp_path, held_out):
    for split, start in (("train", 0), (held_out, 50)):
        write(tmp_path / split / "a", 3, start)
        write(tmp_path / split / "b", 4, start + 100)
    assert sorted(values(load_labelled(str(tmp_path), "train"))) == [0, 1, 2, *range(100, 104)]
    test = load_labelled(str(tmp_path), "test")
    assert sorted(values(test)) == [50, 51, 52, *range(150, 154)]
    assert [value >= 150 for value in values(test)] == list(test.labels == 1)


def test_a_class_without_test_images_keeps_the_numbers_of_the_others(tmp_path):
    for name, start in (("a", 0), ("b", 50), ("c", 100)):
        write(tmp_path / "train" / name, 2, start)
    write(tmp_path / "test" / "c", 2, 200)
    assert load_labelled(str(tmp_path), "test").labels.tolist() == [2, 2]


def test_gray_pictures_and_color_pictures_fit_either_run(animals):
    gray = load_labelled(str(animals), "train", channels=1)
    color = load_labelled(str(animals), "train", channels=3)
    assert gray.images.shape[-1] == 1
    np.testing.assert_array_equal(np.repeat(gray.images, 3, axis=-1), color.images)


def test_images_that_do_not_fit_the_memory_are_read_again_in_the_same_order(tmp_path):
    write(tmp_path / "a", 10, 0, (300, 200))
    write(tmp_path / "b", 10, 100, (300, 200))
    kept = load_labelled(str(tmp_path), "train")
    streamed = load_labelled(str(tmp_path), "train", memory=1)
    assert isinstance(kept.images, np.ndarray)
    assert not isinstance(streamed.images, np.ndarray)
    assert values(streamed) == values(streamed) == values(kept)
    assert {len(batch) for batch in streamed.batches(4)} == {4}
    np.testing.assert_array_equal(streamed.labels, kept.labels)


def test_pictures_of_several_sizes_come_in_batches_of_one(tmp_path):
    write(tmp_path / "a", 9, 0, (12, 12))
    write(tmp_path / "b", 9, 100, (16, 20))
    train = load_labelled(str(tmp_path), "train")
    for batch in train.batches(4):
        assert len(batch) <= 4
        assert batch.shape[1:] in ((12, 12, 3), (20, 16, 3))
    assert [value >= 100 for value in values(train)] == list(train.labels == 1)


@pytest.mark.parametrize("memory", [1, 1024])
def test_a_limit_takes_the_first_images(tmp_path, memory):
    write(tmp_path / "a", 10, 0, (300, 200))
    write(tmp_path / "b", 10, 100, (300, 200))
    whole = load_labelled(str(tmp_path), "train", memory=memory)
    part = load_labelled(str(tmp_path), "train", memory=memory, limit=5)
    assert len(part) == 5
    assert values(part) == values(whole)[:5]
    np.testing.assert_array_equal(part.labels, whole.labels[:5])


def test_digits_are_those_of_scikit_learn_four_times_as_large():
    from sklearn.datasets import load_digits

    digits = load_digits()
    known = {
        image.tobytes(): label for image, label in zip(digits.images, digits.target, strict=True)
    }
    parts = [load_labelled("digits", split, channels=3) for split in ("train", "test")]
    assert sum(map(len, parts)) == len(digits.target)
    for part in parts:
        assert part.images.shape[1:] == (32, 32, 3)
        small = np.round(part.images[:, 2::4, 1::4, 0] * (16 / 255))
        assert [known[image.tobytes()] for image in small] == part.labels.tolist()
        assert np.ptp(np.bincount(part.labels) / len(part)) < 0.02


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Data sets of TensorFlow Datasets, made here: each image's value is 10 times its label."""
    tf = pytest.importorskip("tensorflow")
    tfds = pytest.importorskip("tensorflow_datasets")
    path = tmp_path_factory.mktemp("tfds")
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(8, 8, 3)),
            "label": tfds.features.ClassLabel(names=["x", "y", "z"]),
        }
    )

    def examples(labels):
        labels = tf.constant(labels, tf.int64)
        images = tf.cast(labels * 10 + 10, tf.uint8)[:, None, None, None]
        images = tf.broadcast_to(images, (len(labels), 8, 8, 3))
        return tf.data.Dataset.from_tensor_slices({"image": images, "label": labels})

    for name, splits in (
        ("divided", {"train": [0, 1, 2, 1, 0, 2], "test": [2, 1]}),
        ("secret", {"train": [0, 1, 2] * 5, "test": [-1, -1]}),
    ):
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            features=features,
            split_datasets={split: examples(labels) for split, labels in splits.items()},
            data_dir=path,
        )
    return str(path)


def test_a_tensorflow_data_set_has_its_own_labels_and_classes(data_dir):
    for split, count in (("train", 6), ("test", 2)):
        found = load_labelled("tfds:divided", split, data_dir=data_dir)
        assert len(found) == count
        assert found.classes == ("x", "y", "z")
        assert values(found) == [10 * label + 10 for label in found.labels]


def test_a_test_split_without_labels_is_not_used(data_dir):
    train, test = (
        load_labelled("tfds:secret", split, data_dir=data_dir) for split in ("train", "test")
    )
    assert np.bincount(train.labels).tolist() == [4, 4, 4]
    assert np.bincount(test.labels).tolist() == [1, 1, 1]
    assert values(test) == [10 * label + 10 for label in test.labels]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digit", "Did you mean 'digits'?"),
        ("photos", "'photos' is not a labelled data set"),
        ("folder:nowhere/at/all", "folder not found"),
        ("tfds:no_such_set_at_all", "no_such_set_at_all"),
    ],
)
def test_what_has_no_labels_is_refused_with_the_cure(name, words, data_dir, monkeypatch):
    monkeypatch.setattr("kclr.data.source_tfds.reachable", lambda hosts: False)
    with pytest.raises(SpecError) as error:
        load_labelled(name, "train", data_dir=data_dir)
    assert words in str(error.value)


def test_pictures_without_a_class_folder_are_refused(tmp_path):
    write(tmp_path, 3, 0)
    with pytest.raises(SpecError, match="no class folders, but at least two are needed"):
        load_labelled(str(tmp_path), "train")
    write(tmp_path / "a", 3, 0)
    write(tmp_path / "b", 3, 0)
    with pytest.raises(SpecError, match=r"0\.png, 1\.png, 2\.png are not in a class folder"):
        load_labelled(str(tmp_path), "train")


def test_a_test_class_that_is_not_trained_is_refused(tmp_path):
    for folder in ("train/a", "train/b", "test/a", "test/c"):
        write(tmp_path / folder, 2, 0)
    with pytest.raises(SpecError, match="c is not in a class folder of the training images"):
        load_labelled(str(tmp_path), "test")


def test_a_class_of_one_picture_cannot_be_divided(tmp_path):
    write(tmp_path / "a", 5, 0)
    write(tmp_path / "b", 1, 0)
    with pytest.raises(SpecError, match="class 'b' has 1 image,"):
        load_labelled(str(tmp_path), "train")


def test_labelled_pictures_that_are_left_out_are_counted(animals):
    for name in ("one.psd", "two.PSD"):
        (animals / "cat" / name).write_bytes(b"8BPS")
    with pytest.warns(UserWarning, match=r"2 \.psd.* left out"):
        load_labelled(f"folder:{animals}", "train")


@pytest.mark.parametrize("memory", [1, 1024])
def test_all_broken_pictures_are_named_at_once(tmp_path, memory):
    for folder in ("train/a", "train/b", "test/a", "test/b"):
        write(tmp_path / folder, 6, 0, (300, 200))
    for name in ("a/3.png", "b/4.png"):
        (tmp_path / "train" / name).write_bytes(b"no picture")
    with pytest.raises(RunError) as error:
        values(load_labelled(str(tmp_path), "train", memory=memory))
    words = str(error.value)
    assert "2 labelled pictures cannot be read" in words
    assert "a/3.png: not in a known image format" in words
    assert "b/4.png: not in a known image format" in words
    assert len(values(load_labelled(str(tmp_path), "test"))) == 12


@pytest.mark.parametrize(
    ("fit", "judge"),
    [("Train", "Test"), ("training", "VAL"), ("train_set", "test_set"), ("trainData", "eval")],
)
@pytest.mark.parametrize("form", ["{split}/{name}", "{name}/{split}"])
def test_parts_are_known_by_their_usual_names_at_either_level(tmp_path, form, fit, judge):
    for split, start in ((fit, 0), (judge, 50)):
        for name, more in (("a", 0), ("b", 100)):
            write(tmp_path / form.format(split=split, name=name), 3, start + more)
    train, test = (load_labelled(str(tmp_path), split) for split in ("train", "test"))
    assert train.classes == test.classes == ("a", "b")
    assert sorted(values(train)) == [0, 1, 2, 100, 101, 102]
    assert sorted(values(test)) == [50, 51, 52, 150, 151, 152]
    for part in (train, test):
        assert [value >= 100 for value in values(part)] == list(part.labels == 1)


def test_labelled_files_are_read_as_those_that_filters_were_learned_from(tmp_path):
    sound = source("audio:other", rate=8000, mono=False, limit=3)
    found = labelled_source(f"audio:{tmp_path}", sound)
    assert (found.path, found.rate, found.mono, found.limit) == (str(tmp_path), 8000, False, None)
    assert labelled_source(f"folder:{tmp_path}", source("folder:x", pages="channels")).pages == (
        "channels"
    )
    assert labelled_source("digits", source("photos")).spec_name() == "digits"
    with pytest.raises(SpecError, match="is of images, but the filters were learned from series"):
        labelled_source(f"folder:{tmp_path}", sound)
    images = np.random.default_rng(0).random((10, 2, 9, 9)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=images, y=np.arange(10) % 2)
    name = f"array:{tmp_path / 'a.npz'}"
    like = source("array:other.npy", channels_first=True)
    assert labelled_findings(name, ("data",), like) == []
    read = load_labelled(name, "train", like=like).images
    assert read.shape == (8, 9, 9, 2)
    assert {one.tobytes() for one in read} < {np.moveaxis(i, 0, -1).tobytes() for i in images}
    # What is written with the labelled images counts.
    own = {"source": name, "channels_first": False}
    assert load_labelled(own, "train", like=like).images.shape == (8, 2, 9, 9)


@pytest.mark.parametrize(
    ("data", "path", "words"),
    [
        ({"source": "array:{}", "limit": 3}, "limit", "is not an option of labelled images. Use "),
        ({"source": "array:{}", "nodata": 0, "scale": "none"}, "scale", "is not an option of lab"),
    ],
)
def test_options_that_labelled_images_do_not_have_are_named(tmp_path, data, path, words):
    np.savez(tmp_path / "a.npz", x=np.zeros((10, 9, 9), np.uint8), y=np.arange(10) % 2)
    data = data | {"source": data["source"].format(tmp_path / "a.npz")}
    spec = load_spec({"stack": [{}], "probe": {"data": data}})
    (finding,) = labelled_findings(spec.probe.data, ("probe", "data"))
    assert finding.path[-1] == path
    assert words in finding.message
    with pytest.raises(SpecError, match=re.escape(words)):
        load_labelled(data, "train")


@needs_soundfile
def test_labelled_sounds_have_the_rate_of_those_that_filters_were_learned_from(tmp_path):
    import soundfile

    for place, rate in (("run", 8000), ("a", 16000), ("b", 11025)):
        (tmp_path / place).mkdir()
        for number in range(5):
            soundfile.write(tmp_path / place / f"{number}.wav", np.zeros(rate // 10), rate)
    (tmp_path / "labelled").mkdir()
    for place in "ab":
        (tmp_path / place).rename(tmp_path / "labelled" / place)
    name = f"audio:{tmp_path / 'labelled'}"
    (finding,) = labelled_findings(name, ("data",))
    assert f"Resample them to one: {{source: {name}, rate: 1" in finding.message
    like = source(f"audio:{tmp_path / 'run'}")
    for data, options in ((name, {"like": like}), ({"source": name, "rate": 8000}, {})):
        assert load_labelled(data, "train", **options).images.shape == (8, 1, 800, 1)


def test_a_part_to_fit_on_alone_is_divided(tmp_path):
    write(tmp_path / "Train" / "a", 5, 0)
    write(tmp_path / "Train" / "b", 5, 100)
    assert load_labelled(str(tmp_path), "test").classes == ("a", "b")


def test_a_class_may_be_called_train(tmp_path):
    for name in ("train", "bus", "car"):
        write(tmp_path / name, 3, 0)
    assert load_labelled(str(tmp_path), "train").classes == ("bus", "car", "train")


def test_pictures_to_judge_on_without_classes_are_refused_with_a_cure_that_works(tmp_path):
    for folder in ("train/a", "train/b", "test"):
        write(tmp_path / folder, 5, 0)
    with pytest.raises(SpecError) as error:
        load_labelled(str(tmp_path), "test")
    words = str(error.value)
    assert "test holds pictures, but not in folders of the classes" in words
    assert f"Move test out of {tmp_path} to hold out a fifth of each class" in words
    assert labelled_findings(str(tmp_path), ("data",))[0].message == words
    (tmp_path / "test").rename(tmp_path.parent / f"{tmp_path.name} elsewhere")
    assert len(load_labelled(str(tmp_path), "test")) == 2
    assert labelled_findings(str(tmp_path), ("data",)) == []


def test_the_labelled_one_of_two_parts_is_judged_on(tmp_path):
    for folder in ("train/a", "train/b", "test", "val/a", "val/b"):
        write(tmp_path / folder, 2, 0 if folder == "test" else 50)
    assert min(values(load_labelled(str(tmp_path), "test"))) == 50


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["cats", "dogs", "test"], "Move test out of"),
        (["test/a", "test/b"], "no folder train"),
        (["Train/a", "Train/b", "training/a", "test/a"], "two names of the same split"),
        (["a/train", "a/test", "b"], "Divide all classes in the same way, or none"),
        (["train/a", "train/b", "extra"], "next to it would make it a class"),
    ],
)
def test_parts_that_would_be_classes_are_refused(tmp_path, folders, words):
    for folder in folders:
        write(tmp_path / folder, 2, 0)
    with pytest.raises(SpecError, match=words):
        load_labelled(str(tmp_path), "train")
