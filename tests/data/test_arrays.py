"""Arrays, lists and tf.data sets as images."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from kclr.data.sources import as_images
from kclr.errors import SpecError


@pytest.fixture(scope="module")
def photos():
    flower = load_sample_image("flower.jpg")
    return np.stack([flower[y : y + 20, y : y + 30] for y in range(0, 200, 20)])


def test_uint8_arrays_stay_as_they_are(photos):
    images = as_images(photos)
    assert (images.count, images.channels) == (10, 3)
    np.testing.assert_array_equal(np.stack(list(images.read())), photos)
    np.testing.assert_array_equal(np.stack(list(images.read(4))), photos[4:])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_from_0_to_1_are_scaled(photos, dtype):
    images = as_images((photos / 255).astype(dtype))
    error = np.stack(list(images.read())).astype(int) - photos
    assert np.abs(error).max() == 0


def test_gray_arrays_need_no_last_axis(photos):
    images = as_images(photos[..., 0])
    assert images.channels == 1
    np.testing.assert_array_equal(np.stack(list(images.read()))[..., 0], photos[..., 0])


def test_gray_is_that_of_pil(photos):
    gray = next(as_images(photos, channels=1).read())
    np.testing.assert_array_equal(gray[..., 0], np.asarray(Image.fromarray(photos[0]).convert("L")))


def test_lists_mix_sizes_and_channels(photos):
    mixed = [photos[0], photos[1][:7, :9, 0], photos[2][:5]]
    images = list(as_images(mixed).read())
    assert [image.shape for image in images] == [(20, 30, 3), (7, 9, 3), (5, 30, 3)]
    np.testing.assert_array_equal(images[1][..., 2], mixed[1])


def test_tiles_and_limit(photos):
    assert len(list(as_images(photos, tile=10, limit=2).read())) == 2 * 2 * 3


@pytest.mark.parametrize("form", ["plain", "labelled", "dictionary"])
@pytest.mark.parametrize("batch", [None, 4])
def test_data_sets_of_every_form(photos, form, batch):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(photos)
    if form == "labelled":
        dataset = dataset.map(lambda image: (image, 3))
    if form == "dictionary":
        dataset = dataset.map(lambda image: {"label": 3, "image": image})
    if batch:
        dataset = dataset.batch(batch)
    images = as_images(dataset)
    assert images.channels == 3
    assert images.count == (None if batch else 10)
    np.testing.assert_array_equal(np.stack(list(images.read())), photos)
    np.testing.assert_array_equal(np.stack(list(images.read(3))), photos[3:])


def test_gray_data_sets_batched_and_not(photos):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(photos[..., 0])
    for images in (as_images(dataset), as_images(dataset.batch(4))):
        assert images.channels == 1
        np.testing.assert_array_equal(np.stack(list(images.read()))[..., 0], photos[..., 0])


def test_endless_data_set_needs_a_limit(photos):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(photos).repeat()
    with pytest.raises(SpecError, match=r"infinite\. Say how many images to use: limit"):
        as_images(dataset)
    assert len(list(as_images(dataset, limit=15).read())) == 15


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 4), np.uint8), "expected \\(count, height, width, channels\\)"),
        (np.zeros((4, 3, 8, 8), np.uint8), "images with 8 channels: expected 1 or 3"),
        (np.full((2, 8, 8, 3), 255.0), "values go from 255 to 255, not from 0 to 1"),
        (np.full((2, 8, 8, 3), -1.0), "Give uint8, or floats between 0 and 1"),
        (np.full((2, 8, 8, 3), np.nan), "not from 0 to 1"),
        (np.full((2, 8, 8, 3), 300), "not from 0 to 255"),
        ([], "nothing that images can be read from"),
        (7, "nothing that images can be read from"),
        (np.array([["a"]]), "expected"),
    ],
)
def test_other_things_are_refused_with_the_cure(images, message):
    with pytest.raises(SpecError, match=message):
        as_images(images)


def test_fingerprint_follows_the_pixels(photos):
    changed = photos.copy()
    changed[3, 4, 5] ^= 1
    prints = [as_images(images).fingerprint for images in (photos, photos.copy(), changed)]
    assert prints[0] == prints[1] != prints[2]
