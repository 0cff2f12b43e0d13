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


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
def test_any_number_of_channels_of_any_type_is_read_as_it_is(photos, dtype, channels):
    bands = np.concatenate([photos] * 5, axis=-1)[..., :channels].astype(dtype)
    images = as_images(bands)
    assert (images.channels, images.dtype) == (channels, dtype)
    np.testing.assert_array_equal(np.stack(list(images.read())), bands)
    assert all("are dark" in words for words in images.warnings)


def test_other_types_are_said_to_be_converted(photos):
    images = as_images(photos.astype(np.int64))
    assert images.dtype == "float32"
    np.testing.assert_array_equal(np.stack(list(images.read())), photos)
    (warning,) = images.warnings
    assert "10 of the first 10 pictures have numbers of a type that is not kept" in warning


def test_floats_are_standardised_by_channel(photos):
    bands = (photos * [1.0, 10, 100] + [0, 5, -7]).astype(np.float32)
    scaling = as_images(bands).scaling()
    np.testing.assert_allclose(scaling.shift, bands.mean((0, 1, 2), dtype=float), rtol=1e-6)
    np.testing.assert_allclose(scaling.spread, bands.std((0, 1, 2), dtype=float), rtol=1e-6)
    scaled = scaling(bands)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.std((0, 1, 2)), 1, rtol=1e-5)


def test_every_scale_is_what_it_says(photos):
    bands = photos.astype(np.float32)
    low, high = np.percentile(bands.reshape(-1, 3), [1, 99], axis=0)
    scaling = as_images(bands, scale="percentile").scaling()
    np.testing.assert_allclose(scaling.shift, low)
    np.testing.assert_allclose(scaling.spread, high - low)
    assert as_images(bands, scale=(5, 25)).scaling()(np.array([5.0, 15, 25])).tolist() == [
        0,
        0.5,
        1,
    ]
    assert as_images(bands, range=(5, 25)).scaling() == as_images(bands, scale=(5, 25)).scaling()
    assert as_images(bands, scale="none").scaling()(np.array([5.0])) == 5
    deep = as_images(photos.astype(np.uint16)).scaling()
    assert deep(np.array([0, 65535], np.uint16)).tolist() == [0, 1]
    assert as_images(photos).scaling().usual


def test_floats_that_are_not_between_0_and_1_are_no_unit(photos):
    words = r"values go from .* to .*, not from 0 to 1\. Use scale='standard', or say which values"
    with pytest.raises(SpecError, match=words):
        as_images(photos.astype(np.float32) * 40, scale="unit")
    unit = as_images((photos / 255).astype(np.float32), scale="unit")
    assert unit.scaling()(np.float32([0.25])) == 0.25


def test_constant_channels_are_named(photos):
    bands = photos.astype(np.float32)
    bands[..., 1] = 7
    images = as_images(bands)
    assert images.scaling()(bands)[..., 1].max() == 0
    (warning,) = images.warnings
    assert "channel 1 (counted from 0) of 3 is the same everywhere" in warning


@pytest.mark.parametrize("scale", ["unti", (3, 3), (1, 2, 3), ("a", 1), (0, float("nan"))])
def test_a_wrong_scale_is_refused(photos, scale):
    with pytest.raises(SpecError, match="arrays: scale"):
        as_images(photos, scale=scale)


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
    for form in (dark, list(dark), tf.data.Dataset.from_tensor_slices(dark)):
        assert as_images(form).channels == channels
    images = as_images(dark, alpha=True)
    assert images.channels == channels - 1
    laid = np.stack(list(images.read()))
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
        ([np.zeros((3, 8, 8), np.uint8)], r"np\.moveaxis\(image, 0, -1\)"),
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


def test_functions_that_return_iterators_are_read_anew(photos):
    images = as_images(lambda: (photo for photo in photos))
    assert (images.channels, images.dtype, images.count) == (3, "uint8", None)
    for start in (0, 3):
        np.testing.assert_array_equal(np.stack(list(images.read(start))), photos[start:])
    labelled = as_images(lambda: ((photo[:9, :9], 1) for photo in photos))
    np.testing.assert_array_equal(np.stack(list(labelled.read())), photos[:, :9, :9])
    rows = as_images(lambda: iter(photos[:, 0].astype(np.float32)), series=True)
    assert [image.shape for image in rows.read()] == [(1, 30, 3)] * 10


def test_keras_data_sets_in_python_are_read_batch_by_batch(photos):
    import keras

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return photos[4 * index : 4 * index + 4], np.zeros(4)

    images = as_images(Batches())
    np.testing.assert_array_equal(np.stack(list(images.read())), photos)
    assert len(PatchTripletGenerator(Batches(), 6)._buffer) == 10


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


@pytest.mark.parametrize("kind", [np.asarray, list])
def test_12_bits_in_16_are_warned_of_and_scale_cures_it(photos, kind):
    deep = photos.astype(np.uint16) * 16
    plain, ranged = as_images(kind(deep)), as_images(kind(deep), scale=(0, 4080))
    list(plain.read())
    (warning,) = plain.warnings
    assert "as_images(images, scale=[0, 4095])" in warning
    np.testing.assert_allclose(ranged.scaling()(deep), photos / np.float32(255), rtol=1e-6)
    assert ranged.warnings == []
    assert (
        plain.fingerprint
        != ranged.fingerprint
        == as_images(kind(deep), scale=(0, 4080)).fingerprint
    )


def test_series_as_long_as_they_have_channels_are_series():
    square = np.arange(288, dtype=np.float32).reshape(2, 12, 12)
    for given in (square, [*square], lambda: iter(square)):
        images = as_images(given, series=True)
        assert images.channels == 12
        np.testing.assert_array_equal(np.concatenate([*images.read()]), square)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((2, 3, 4, 5)), r"shape \(2, 3, 4, 5\): expected \(series, length, channels\)"),
        (
            [np.zeros((3, 4, 5))],
            r"series 0 of the list .*expected \(length, channels\) or \(length",
        ),
        ([np.zeros(3), "a"], "series 1 of the list is str 'a'"),
        (lambda: iter([np.zeros((3, 4, 5))]), r"shape \(3, 4, 5\): expected \(length, channels\)"),
        (np.array([{}, {}]), "series 0 of the list holds objects instead of numbers"),
    ],
)
def test_what_are_no_series_is_refused(given, words):
    with pytest.raises(SpecError, match=words):
        as_images(given, series=True)
