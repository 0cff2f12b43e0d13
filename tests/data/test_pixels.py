"""Numbers of any type, and what is strange about them."""

import numpy as np
import pytest

from kclr.data.pixels import (
    Noticed,
    UnreadableError,
    between,
    invalid_pixels,
    kept_dtype,
    to_channels,
)


def test_numbers_are_kept_as_they_are_and_others_become_float32():
    for dtype in ("uint8", "uint16", "int16", "float16", "float32"):
        assert kept_dtype(dtype) == dtype
        raw = (np.arange(12) * 9).reshape(2, 3, 2).astype(dtype)
        made = to_channels(raw, 2, dtype)
        assert made.dtype == dtype
        np.testing.assert_array_equal(made, raw)
    assert kept_dtype("bool") == "uint8"
    assert kept_dtype("int8") == "int16"
    assert [kept_dtype(dtype) for dtype in ("int64", "uint32", "float64")] == ["float32"] * 3


def test_the_widest_of_several_types_is_kept():
    assert kept_dtype("uint8", "uint16") == "uint16"
    assert kept_dtype("float16", "float32") == "float32"
    assert kept_dtype("uint8", "int16") == "float32"


def test_between_8_and_16_bits_the_full_ranges_correspond():
    raw = np.arange(256, dtype=np.uint8).reshape(16, 16)
    wide = to_channels(raw, 1, "uint16")
    np.testing.assert_array_equal(wide[..., 0] / 65535, raw / 255)
    np.testing.assert_array_equal(to_channels(wide, 1, "uint8")[..., 0], raw)


@pytest.mark.parametrize(
    ("raw", "dtype", "words"),
    [
        (
            np.full((2, 2), 0.5),
            "uint8",
            "its values are float64, but those of other pictures uint8",
        ),
        (np.full((2, 2), 256), "uint8", "its values go from 256 to 256, not from 0 to 255"),
        (np.full((2, 2), -40_000), "int16", "not from -32768 to 32767"),
        (np.zeros((2, 2, 5), np.uint8), "uint8", "it has 5 channels instead of 3"),
        (np.zeros((2, 2), complex), "float32", "of type complex128"),
    ],
)
def test_numbers_that_are_not_possible_are_refused(raw, dtype, words):
    with pytest.raises(UnreadableError, match=words):
        to_channels(raw, 3, dtype)


def test_value_a_little_too_large_is_told_with_all_its_digits():
    with pytest.raises(UnreadableError, match=r"go from 0 to 1\.0000001, not from 0 to 1"):
        between(np.array([[0, 1.0000001]], np.float32), 0, 1)
    with pytest.raises(UnreadableError, match=r"go from 0 to 255, not from 0 to 1"):
        between(np.array([[0, 255.0, np.nan]]), 0, 1)


def test_pixels_with_a_value_that_is_missing_are_found():
    image = np.ones((2, 3, 2), np.float32)
    assert invalid_pixels(image) is None
    assert invalid_pixels(image.astype(np.uint8), nodata=0) is None
    image[0, 1, 0], image[1, 2, 1] = np.nan, -np.inf
    expected = [[False, True, False], [False, False, True]]
    np.testing.assert_array_equal(invalid_pixels(image), expected)
    image[0, 0] = -9999
    expected[0][0] = True
    np.testing.assert_array_equal(invalid_pixels(image, nodata=-9999), expected)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_gray_is_the_luma_of_every_type(dtype):
    rgb = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(dtype)
    luma = rgb.astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(to_channels(rgb, 1, dtype)[..., 0] - luma).max() < 0.51


def test_large_images_are_turned_gray_as_small_ones_are():
    # More numbers than are turned at once.
    image = np.random.default_rng(0).integers(0, 256, (900, 700, 3), np.uint8)
    gray = to_channels(image, 1)
    for row in (0, 371, 899):
        np.testing.assert_array_equal(gray[row : row + 1], to_channels(image[row : row + 1], 1))


def test_twelve_bits_in_sixteen_are_warned_of_with_the_measured_values():
    noticed = Noticed()
    noticed.add(0, np.array([[12, 3000]], np.uint16), (), True)
    noticed.add(1, np.array([[40, 4000]], np.uint16), (), True)
    noticed.add(0, np.array([[12, 3000]], np.uint16), (), True)  # read once more
    (warning,) = noticed.warnings("scale {}".format)
    assert "the first 2 16-bit pictures have values from 12 to 4,000 of 65,535" in warning
    assert warning.endswith("Set the values that become 0 and 1: scale [0, 4095]")


@pytest.mark.parametrize(
    ("raw", "full"),
    [
        (np.array([[12, 40000]], np.uint16), True),
        (np.array([[12, 4000]], np.uint16), False),
        (np.array([[12, 200]], np.uint8), True),
    ],
)
def test_numbers_that_use_their_bits_are_not_warned_of(raw, full):
    noticed = Noticed()
    noticed.add(0, raw, (), full)
    assert noticed.warnings("scale {}".format) == []
