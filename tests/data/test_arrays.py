"""Arrays, lists and tf.data sets as images."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from kclr.data.patches import PatchTripletGenerator
from kclr.data.sources import as_images
from kclr.errors import RunError, SpecError


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
    with pytest.raises(SpecError, match=r"infinite\. Say how many .* dataset\.take"):
        as_images(dataset)
    assert len(list(as_images(dataset, limit=15).read())) == 15


@pytest.mark.parametrize("channels", [2, 4])
def test_bands_are_taken_for_transparency_only_where_that_is_said(photos, channels):
    import tensorflow as tf

    dark = np.concatenate([photos[..., : channels - 1], np.full_like(photos[..., :1], 9)], -1)
    forms = [dark, list(dark), tf.data.Dataset.from_tensor_slices(dark)]
    for form in forms:
        with pytest.raises(SpecError, match=rf"{channels} channels.*images\[\.\.\., :.*alpha=True"):
            as_images(form)
    laid = np.stack(list(as_images(dark, alpha=True).read()))
    expected = 255 + 9 / 255 * (photos[..., : channels - 1].astype(float) - 255)
    assert np.abs(laid - expected).max() <= 0.5


def test_data_sets_of_pictures_of_unknown_channels_are_not_cut_into_rows(photos):
    import tensorflow as tf

    def loose():
        yield from photos

    spec = tf.TensorSpec((None, None, None), tf.uint8)
    images = list(as_images(tf.data.Dataset.from_generator(loose, output_signature=spec)).read())
    np.testing.assert_array_equal(np.stack(images), photos)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 5), np.uint8), r"\(4, 5\): expected .*For one gray image use images\[None\]"),
        (
            np.zeros((64, 48, 3), np.uint8),
            r"For one image of 64x48 px use images\[None\]; for 64 gray",
        ),
        (np.zeros((4, 3, 8, 8), np.uint8), r"np\.moveaxis\(images, 1, -1\)"),
        (np.zeros((4, 8, 8, 7), np.uint8), "images with 7 channels: expected 1 or 3"),
        ([np.zeros((3, 8, 8), np.uint8)], r"np\.moveaxis\(image, 0, -1\)"),
        (np.full((2, 8, 8, 3), 255.0), "values go from 255 to 255, not from 0 to 1.*images / 255"),
        (np.full((2, 8, 8, 3), -1.0), r"floats between 0 and 1: \(images \+ 1\) / 2"),
        (np.full((2, 8, 8, 3), np.nan), "not from 0 to 1.*isnan"),
        (np.full((2, 8, 8, 3), 300), "not from 0 to 255"),
        (np.linspace(-40, 7, 32).astype(int).reshape(2, 4, 4, 1), r"images\.max\(\) - images\.min"),
        ([], "no images: the list is empty"),
        (np.zeros((0, 8, 8, 3), np.uint8), "no images: .* is empty"),
        (7, "images cannot be read from"),
        (None, "images cannot be read from"),
        ({"image": 1}, "images cannot be read from dict"),
        (iter([np.zeros((8, 8))]), r"An iterator can be read only once: use list\(images\)"),
        (np.array(["a.png", "b.png"]), "holds texts.*path of their folder"),
        (np.zeros((), np.uint8), "images cannot be read from"),
        (["a.png", "b.png"], r"image 0 .* 'a.png'. .*folder, or open each: \[np.asarray\(PIL"),
        ([np.zeros((8, 8)), None], "image 1 of the list is None. Remove it"),
        ([[[1, 2], [3]]], "image 0 of the list is not an image"),
        ([1, 2], r"image 0 of the list has the shape \(\)"),
        (np.zeros((2, 8, 8), complex), "holds complex numbers"),
        ([Image.new("P", (8, 8))], r"PIL image of mode P. Use image.convert"),
    ],
)
def test_other_things_are_refused_with_the_cure(images, message):
    with pytest.raises(SpecError, match=message):
        as_images(images)


def test_a_data_set_of_texts_is_refused_as_one():
    import tensorflow as tf

    with pytest.raises(SpecError, match="holds"):
        as_images(tf.data.Dataset.from_tensor_slices(np.array([[["a"]]])))


def test_options_that_arrays_do_not_have_are_named(photos):
    with pytest.raises(SpecError, match="arrays: spilt"):
        as_images(photos, spilt="train")
    with pytest.raises(SpecError, match="arrays: limit"):
        as_images(photos, limit=0)


def test_cures_are_said_for_a_spec_and_for_python(photos, tmp_path):
    in_python = r"kclr\.data\.sources\.as_images\(images, tile=64\)"
    with pytest.raises(RunError, match=rf"tiles: {in_python}$"):
        PatchTripletGenerator(photos[:1], 7)
    Image.fromarray(photos[0]).save(tmp_path / "one.png")
    in_spec = r"data: \{source: folder:.*, tile: 64\} in a spec"
    with pytest.raises(RunError, match=rf"tiles: {in_spec}, {in_python} in Python$"):
        PatchTripletGenerator(tmp_path, 7)
    assert PatchTripletGenerator(as_images(tmp_path, tile=10), 7).image_count == 6


@pytest.mark.parametrize("kind", ["object array", "tensor", "PIL", "bool"])
def test_other_kinds_of_images_that_mean_one_thing(photos, kind):
    import tensorflow as tf

    given = {
        "object array": np.array([*photos, None], dtype=object)[:-1],
        "tensor": tf.constant(photos),
        "PIL": [Image.fromarray(photo) for photo in photos],
        "bool": photos > 127,
    }[kind]
    expected = (photos > 127) * np.uint8(255) if kind == "bool" else photos
    np.testing.assert_array_equal(np.stack(list(as_images(given).read())), expected)


def test_fingerprint_follows_the_pixels(photos):
    changed = photos.copy()
    changed[3, 4, 5] ^= 1
    prints = [as_images(images).fingerprint for images in (photos, photos.copy(), changed)]
    assert prints[0] == prints[1] != prints[2]


def test_twelve_bits_in_sixteen_are_warned_of_and_range_spreads_them():
    deep = np.linspace(0, 4095, 256).round().astype(np.uint16).reshape(1, 16, 16)
    with pytest.warns(UserWarning, match=r"17 of 256 gray levels.*range=\[0, 4095\]"):
        PatchTripletGenerator(np.repeat(deep, 3, 0), patch_size=6, batch_size=2)
    (image,) = as_images(deep, range=(0, 4095)).read()
    np.testing.assert_array_equal(image[..., 0], np.arange(256).reshape(16, 16))


def test_range_takes_floats_that_are_not_between_0_and_1():
    (image,) = as_images(np.array([[[-20.0, 0, 20, 40, 0]] * 4]), range=(-20, 20)).read()
    assert image[0, :, 0].tolist() == [0, 128, 255, 255, 128]


@pytest.mark.parametrize("kind", [np.asarray, list])
def test_12_bits_in_16_are_warned_of_and_use_every_gray_level_by_their_range(photos, kind):
    deep = photos.astype(np.uint16) * 16
    plain, ranged = as_images(kind(deep)), as_images(kind(deep), range=(0, 4080))
    list(plain.read())
    (warning,) = plain.warnings
    assert "16 of 256 gray levels" in warning
    assert "as_images(images, range=[0, 4095])" in warning
    np.testing.assert_array_equal(np.stack(list(ranged.read())), photos)
    assert ranged.warnings == []
    assert (
        plain.fingerprint
        != ranged.fingerprint
        == as_images(kind(deep), range=(0, 4080)).fingerprint
    )
