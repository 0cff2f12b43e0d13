"""Numbers of any type to uint8."""

import numpy as np
import pytest

from kclr.data.pixels import Noticed, UnreadableError, to_channels


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, np.float64])
def test_limits_become_black_and_white_and_the_rest_lies_between(dtype):
    raw = np.array([[0, 100, 2047.5, 4095, 5000]]).astype(dtype)
    shown = to_channels(raw, 1, (100, 4095))[0, :, 0]
    exact = np.clip((raw[0].astype(float) - 100) / 3995 * 255, 0, 255)
    assert np.abs(shown - exact).max() <= 0.5
    assert shown[[0, 1, 3, 4]].tolist() == [0, 0, 255, 255]


def test_limits_leave_numbers_of_eight_bits_alone():
    raw = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    np.testing.assert_array_equal(to_channels(raw, 3, (0, 4095)), raw)


def test_limits_do_not_let_numbers_through_that_are_none():
    with pytest.raises(UnreadableError, match="not finite"):
        to_channels(np.array([[0, np.nan]]), 1, (0, 1))


def test_value_a_little_too_large_is_told_with_all_its_digits():
    with pytest.raises(UnreadableError, match=r"go from 0 to 1\.0000001, not from 0 to 1"):
        to_channels(np.array([[0, 1.0000001]], np.float32), 1)
    with pytest.raises(UnreadableError, match=r"go from 0 to 255, not from 0 to 1"):
        to_channels(np.array([[0, 255.0]]), 1)


def test_large_images_are_turned_gray_as_small_ones_are():
    # More numbers than are turned at once.
    image = np.random.default_rng(0).integers(0, 256, (900, 700, 4), np.uint8)
    gray = to_channels(image, 1)
    for row in (0, 371, 899):
        np.testing.assert_array_equal(gray[row : row + 1], to_channels(image[row : row + 1], 1))


def test_twelve_bits_in_sixteen_are_warned_of_with_the_measured_values():
    noticed = Noticed()
    noticed.add(0, np.array([[12, 3000]], np.uint16), (), None)
    noticed.add(1, np.array([[40, 4000]], np.uint16), (), None)
    noticed.add(0, np.array([[12, 3000]], np.uint16), (), None)  # read once more
    (warning,) = noticed.warnings("range {}".format)
    # 4,000 of 65,535 is level 16 of 255.
    assert "the first 2 16-bit pictures have values from 12 to 4,000 of 65,535" in warning
    assert "leaves 17 of 256 gray levels" in warning
    assert warning.endswith("Set the values that become black and white: range [0, 4095]")


@pytest.mark.parametrize(
    ("raw", "limits"),
    [
        (np.array([[12, 40000]], np.uint16), None),
        (np.array([[12, 4000]], np.uint16), (0, 4095)),
        (np.array([[12, 200]], np.uint8), None),
    ],
)
def test_numbers_that_use_their_bits_are_not_warned_of(raw, limits):
    noticed = Noticed()
    noticed.add(0, raw, (), limits)
    assert noticed.warnings("range {}".format) == []
