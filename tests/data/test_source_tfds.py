"""TensorFlow Datasets, from a tiny data set written with the library's own writer."""

import json
import os
import shutil

import numpy as np
import pytest
from sklearn.datasets import load_digits

from kclr.data import source_tfds
from kclr.data.labels import load_labelled
from kclr.data.sources import source
from kclr.errors import SpecError


@pytest.fixture(scope="module")
def digits():
    return (load_digits().images * 15.9).astype(np.uint8)[..., None]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, digits):
    """Scikit-learn's digits as `tiny_digits`: 60 in three files for training, 20 for testing."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")
    place = root / "tiny_digits" / "1.0.0"
    place.mkdir(parents=True)
    features = tfds.features.FeaturesDict({
        "picture": tfds.features.Image(shape=(8, 8, 1)),
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(num_classes=10),
    })  # fmt: skip
    infos = []
    for split, start, sizes in (("train", 0, (30, 10, 20)), ("test", 60, (20,))):
        import tensorflow as tf

        template = tfds.core.ShardedFileTemplate(
            data_dir=place, dataset_name="tiny_digits", split=split, filetype_suffix="tfrecord"
        )
        number = start
        for shard, size in enumerate(sizes):
            path = template.sharded_filepath(shard_index=shard, num_shards=len(sizes))
            with tf.io.TFRecordWriter(str(path)) as writer:
                for _ in range(size):
                    example = {
                        "picture": digits[number],
                        "image": np.repeat(digits[number, : 6 + number % 3], 3, axis=-1),
                        "label": number % 10,
                    }
                    writer.write(features.serialize_example(features.encode_example(example)))
                    number += 1
        infos.append(
            tfds.core.SplitInfo(
                name=split, shard_lengths=list(sizes), num_bytes=1, filename_template=template
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=str(place), features=features, split_infos=infos, filename_template=None
    )
    info = json.loads((place / "dataset_info.json").read_text())
    info.update(name="tiny_digits", version="1.0.0")
    (place / "dataset_info.json").write_text(json.dumps(info))
    return str(root)


def opened(data_dir, **options):
    return source("tfds:tiny_digits", data_dir=data_dir, **options).open()


def test_images_come_in_the_order_of_the_files(data_dir, digits):
    images = opened(data_dir, feature="picture")
    assert (images.count, images.channels) == (60, 1)
    np.testing.assert_array_equal(np.stack(list(images.read())), digits[:60])


@pytest.mark.parametrize("start", [0, 1, 29, 30, 45, 59, 60])
def test_reading_starts_anywhere(data_dir, digits, start):
    images = list(opened(data_dir, feature="picture").read(start))
    assert len(images) == 60 - start
    for image, exact in zip(images, digits[start:60], strict=True):
        np.testing.assert_array_equal(image, exact)


@pytest.mark.parametrize(
    ("split", "chosen"),
    [
        ("test", slice(60, 80)),
        ("train[:50%]", slice(0, 30)),
        ("train[-5:]", slice(55, 60)),
        ("train[25:45]", slice(25, 45)),
        ("train[50:]+test", slice(50, 80)),
    ],
)
def test_slices_of_splits(data_dir, digits, split, chosen):
    images = opened(data_dir, feature="picture", split=split)
    exact = digits[chosen]
    assert images.count == len(exact)
    np.testing.assert_array_equal(np.stack(list(images.read())), exact)
    np.testing.assert_array_equal(np.stack(list(images.read(3))), exact[3:])


def test_images_of_mixed_sizes(data_dir, digits):
    images = list(opened(data_dir, limit=7).read())
    assert [image.shape for image in images] == [(6 + n % 3, 8, 3) for n in range(7)]
    np.testing.assert_array_equal(images[5][..., 1], digits[5, :8, :, 0])


def test_size_is_known_without_tensorflow_where_it_is_fixed(data_dir):
    tiny = source("tfds:tiny_digits", data_dir=data_dir)
    assert tiny.image_shape() is None
    assert tiny.model_copy(update={"feature": "picture"}).image_shape() == (8, 8, 1)
    gray = source("tfds:tiny_digits", data_dir=data_dir, feature="picture", channels=3, tile=4)
    assert gray.image_shape() == (4, 4, 3)


def test_fingerprint_follows_the_slice(data_dir):
    splits = ("train", "train[:10]", "test")
    assert len({opened(data_dir, split=split).fingerprint for split in splits}) == 3
    same = {opened(data_dir, split=split).fingerprint for split in ("train[:50%]", "train[:30]")}
    assert len(same) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "trian"}, "has no split 'trian'. Choose from test, train."),
        ({"split": "train[:10"}, "is not a slice of a split. Write it as train[:90%]"),
        ({"split": "train[a:b]"}, "is not a valid slice"),
        ({"split": "train[:0]"}, "is empty. Widen its slice"),
        ({"feature": "label"}, "has no image feature 'label'; its features are image, label"),
        ({"feature": "img"}, "Choose an image feature: feature: image or picture."),
    ],
)
def test_wrong_options_are_explained(data_dir, options, message):
    with pytest.raises(SpecError) as error:
        opened(data_dir, **options)
    assert message in str(error.value)


@pytest.fixture
def offline(monkeypatch):
    asked = []
    monkeypatch.setattr(source_tfds, "reachable", lambda hosts: asked.append(hosts))
    return asked


def test_missing_data_set_without_a_network_says_so_at_once(data_dir, offline):
    missing = source("tfds:mnist", data_dir=data_dir)
    with pytest.raises(SpecError) as error:
        missing.open()
    assert str(error.value) == (
        f"tfds:mnist is not on this machine (looked in {data_dir}) and could not be downloaded: "
        "no network. Copy the data set there (found: tiny_digits), or train on your own "
        "pictures: data: folder:PATH"
    )
    assert missing.problem() == str(error.value)
    assert len(offline) == 2


@pytest.mark.parametrize("folder", ["tiny_digits", "tiny_digits/1.0.0", ".."])
def test_data_dir_that_is_a_folder_off_names_the_right_one(data_dir, folder, monkeypatch):
    monkeypatch.setattr(source_tfds, "reachable", lambda hosts: True)  # it would be downloaded
    wrong = os.path.normpath(os.path.join(data_dir, folder))
    missing = source("tfds:tiny_digits", data_dir=wrong)
    assert missing.problem() == (
        f"tfds:tiny_digits is in {data_dir}/tiny_digits/1.0.0, so {wrong} is not the directory "
        f"of all data sets. Use data_dir: {data_dir}, or set TFDS_DATA_DIR={data_dir}"
    )
    for read in (missing.open, lambda: load_labelled("tfds:tiny_digits", "train", data_dir=wrong)):
        with pytest.raises(SpecError) as error:
            read()
        assert str(error.value) == missing.problem()
    assert source("tfds:tiny_digits", data_dir=data_dir).problem() is None


def test_data_dir_in_the_folder_of_a_config_names_the_right_one(data_dir, tmp_path, offline):
    shutil.copytree(f"{data_dir}/tiny_digits", tmp_path / "tiny_digits" / "plain")
    wrong = str(tmp_path / "tiny_digits" / "plain" / "1.0.0")
    problem = source("tfds:tiny_digits/plain", data_dir=wrong).problem()
    assert f"Use data_dir: {tmp_path}, or" in problem


def test_misspelled_data_set_names_the_one_on_disk(data_dir, offline):
    problem = source("tfds:tiny_digit", data_dir=data_dir).problem()
    assert problem.endswith("Did you mean tfds:tiny_digits, which is?")


def test_unknown_data_set_names_the_nearest_that_exists(tmp_path, offline):
    with pytest.raises(
        SpecError,
        match=r"'cifarr100' is not known to TensorFlow Datasets. Did you mean tfds:cifar100\?",
    ):
        source("tfds:cifarr100", data_dir=str(tmp_path)).open()
    assert not offline


def test_data_dir_is_taken_from_the_environment(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", data_dir)
    assert source("tfds:tiny_digits").open().count == 60


def test_version_and_config_are_part_of_the_name(data_dir, tmp_path):
    shutil.copytree(f"{data_dir}/tiny_digits", tmp_path / "tiny_digits" / "plain")
    for name in ("tiny_digits", "tiny_digits/plain", "tiny_digits/plain:1.0.0"):
        assert source(f"tfds:{name}", data_dir=str(tmp_path)).problem() is None
    shutil.copytree(tmp_path / "tiny_digits" / "plain", tmp_path / "tiny_digits" / "fancy")
    part = source("tfds:tiny_digits/fancy", data_dir=str(tmp_path), feature="picture")
    assert part.image_shape() == (8, 8, 1)


def test_damaged_data_set_is_explained(data_dir, tmp_path):
    shutil.copytree(f"{data_dir}/tiny_digits", tmp_path / "tiny_digits")
    (tmp_path / "tiny_digits" / "1.0.0" / "dataset_info.json").write_text("{")
    problem = source("tfds:tiny_digits", data_dir=str(tmp_path)).problem()
    assert "is damaged" in problem
    assert problem.endswith("Copy or download the data set again.")
