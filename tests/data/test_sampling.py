"""What a step draws, against plain counting."""

import numpy as np
import pytest

from kclr.data import sampling


def images_of(steps, batch_size, count, seed=1, chunk=0):
    import tensorflow as tf

    as_int = lambda value: tf.constant(value, tf.int64)  # noqa: E731
    return np.concatenate([
        sampling.select_images(seed, as_int(step), as_int(chunk), batch_size, as_int(count)).numpy()
        for step in range(steps)
    ])  # fmt: skip


@pytest.mark.parametrize("count", [2, 3, 5, 7, 31, 64])
def test_small_sources_are_used_evenly(count):
    drawn = images_of(count, 64, count)
    assert np.bincount(drawn, minlength=count).tolist() == [64] * count
    assert (np.sort(drawn.reshape(-1, count), axis=1) == np.arange(count)).all()


@pytest.mark.parametrize("count", [64, 65, 127, 128, 1000])
def test_images_of_a_batch_are_different_and_rounds_repeat_none(count):
    rounds = images_of(3 * (count // 64), 64, count).reshape(3, -1)
    for drawn in rounds:
        assert len(np.unique(drawn)) == count // 64 * 64
    assert not np.array_equal(rounds[0], rounds[1])
    assert 0 <= rounds.min() <= rounds.max() < count


def test_every_image_has_its_turn():
    drawn = images_of(400, 64, 100)  # 36 of 100 are left out of each round
    counts = np.bincount(drawn, minlength=100)
    assert counts.min() > 0.75 * 256
    assert counts.max() < 1.25 * 256


def test_seed_and_chunk_change_the_order():
    orders = {images_of(1, 64, 100, seed, chunk).tobytes() for seed in (1, 2) for chunk in (0, 1)}
    assert len(orders) == 4


def test_negatives_are_of_other_images_each_as_often():
    images = np.array([3, 3, 3, 8, 8, 1])
    counts = np.zeros((6, 6), int)
    random = np.random.default_rng(0)
    for _ in range(600):
        chosen = sampling.other_images(images, random.random(6, np.float32)).numpy()
        counts[np.arange(6), chosen] += 1
    same = images[:, None] == images
    assert (counts[same] == 0).all()
    for row, others in zip(counts, (~same).sum(axis=1), strict=True):
        expected = 600 / others
        assert np.abs(row[row > 0] - expected).max() < 5 * np.sqrt(expected)


def test_bound_is_never_reached():
    almost_one = np.nextafter(np.float32(1), np.float32(0))
    for bound in (1, 3, 10, 50_000, (1 << 24) + 1):
        assert sampling.below(np.array([0, almost_one]), bound).numpy().tolist()[1] <= bound - 1
    assert sampling.below(np.float32([0.0, 0.5, 0.999]), 4).numpy().tolist() == [0, 2, 3]


def test_neighbours_lie_side_by_side_or_corner_to_corner():
    windows = np.array([[y, x] for y in (0, 2, 4) for x in (0, 5, 10)])
    pairs = sampling.neighbours(windows, (2, 5))
    assert len(pairs) == 40  # 12 edges and 8 diagonals of a 3 x 3 grid, both ways
    apart = np.abs(windows[pairs[:, 0]] - windows[pairs[:, 1]])
    assert np.unique(apart, axis=0).tolist() == [[0, 5], [2, 0], [2, 5]]
    row = np.array([[0, x] for x in (0, 5, 10)])
    assert sampling.neighbours(row, (1, 5)).tolist() == [[0, 1], [1, 0], [1, 2], [2, 1]]


@pytest.mark.parametrize(
    ("crop", "reach"), [((9, 9), (2, 2)), ((12, 12), (2, 2)), ((8, 11), (1, 3)), ((7, 9), (0, 2))]
)
def test_all_shifts_are_as_likely_and_stay_in_the_crop(crop, reach):
    random = np.random.default_rng(0).random((3, 40_000), np.float32)
    anchors, positives = sampling.shifted_pairs(random, (7, 7), crop, reach).numpy()
    for corners in (anchors, positives):
        assert corners.min(axis=0).tolist() == [0, 0]
        assert corners.max(axis=0).tolist() == [crop[0] - 7, crop[1] - 7]
    shifts, counts = np.unique(positives - anchors, axis=0, return_counts=True)
    assert len(shifts) == (2 * reach[0] + 1) * (2 * reach[1] + 1) - 1
    assert np.abs(shifts).max(axis=0).tolist() == [*reach]
    assert [0, 0] not in shifts.tolist()
    expected = 40_000 / len(shifts)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
