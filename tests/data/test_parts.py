"""Parts of a source's pictures: each worker reads its own, and together they read all."""

import itertools

import numpy as np
import pytest

from kclr.data.sources import Images, as_images


def numbered(pictures, **options):
    """Images whose pixels are their number; `read` lists the numbers that were decoded."""
    read: list[int] = []

    def records(start):
        def decoded(number):
            read.append(number)
            return np.full((4, 4, 3), number, np.uint8)

        for number in range(start, pictures):
            yield str(number), lambda number=number: decoded(number)

    return Images(records=records, channels=3, **options), read


def numbers(images, start=0):
    return [int(image[0, 0, 0]) for image in images.read(start)]


@pytest.mark.parametrize("options", [{"count": 11}, {}, {"limit": 10}, {"count": 9, "limit": 9}])
def test_every_picture_is_read_by_one_worker(options):
    images, _ = numbered(11, **options)
    parts = [numbers(images.part(index, 3)) for index in range(3)]
    assert sorted(itertools.chain(*parts)) == numbers(images)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("options", [{"count": 11}, {}])
def test_a_worker_decodes_no_pictures_of_another_and_starts_anywhere(options):
    images, read = numbered(11, **options)
    part = images.part(1, 3)
    own = numbers(part)
    assert read == own
    assert numbers(part, 2) == own[2:]
    assert part.count in (len(own), None)


def test_parts_of_arrays_are_arrays(photographs):
    images = as_images(photographs[:10])
    halves = [list(images.part(index, 2).read()) for index in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves), photographs[:10])


def test_what_one_worker_skips_does_not_count_for_another():
    images, _ = numbered(10, count=10, max_unreadable=0.5)
    first, second = images.part(0, 2), images.part(1, 2)
    first.skip({"3": "empty"})
    assert second.skipped == images.skipped == []
