"""Images in memory: whole, or in chunks where they are too many."""

import itertools

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from kclr.data import pool
from kclr.data.sources import Images, as_images, source
from kclr.errors import RunError


@pytest.fixture(scope="module")
def mixed():
    flower = load_sample_image("flower.jpg")
    sizes = itertools.product((30, 41, 300), (30, 55, 270))
    return [flower[:height, -width:] for height, width in sizes]


@pytest.fixture
def folder(tmp_path):
    """200 noise pictures of 300 x 280 px, 50 MB, three of them too small."""
    random = np.random.default_rng(0)
    for number in range(200):
        size = (12, 12) if number in (5, 50, 150) else (300, 280)
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.bmp")
    return str(tmp_path)


def test_mixed_sizes_come_back_from_the_buffer(mixed):
    buffer = pool.load(as_images(mixed))
    assert len(buffer) == len(mixed)
    for index, image in enumerate(mixed):
        np.testing.assert_array_equal(buffer.image(index), image)


def test_images_are_read_once_for_all_who_share_them(mixed):
    images = as_images(mixed)
    assert pool.load(images) is pool.load(images, memory=50)


def test_what_does_not_fit_is_not_kept(folder):
    assert pool.load(source(folder).open(), memory=20) is None
    assert len(pool.load(source(folder).open(), memory=60)) == 200


def test_more_memory_than_there_is_is_an_error_not_a_crash(mixed):
    with pytest.raises(RunError, match=r"more than this machine has\. Lower data.memory"):
        pool.load(as_images(mixed), memory=1 << 36)


def test_chunks_stay_within_the_memory(folder):
    chunks = pool.Chunks(source(folder).open(), crop_size=24, memory=9)
    assert chunks.pictures < 20
    for index in range(12):
        buffer = chunks.get(index)
        assert 2 <= len(buffer) <= chunks.pictures
        assert buffer.pixels.nbytes <= 3 << 20
        assert buffer.heights.max() <= pool.TILE
        assert buffer.widths.max() <= pool.TILE


def test_chunks_hold_tiles_of_the_pictures_in_turn(folder):
    images = source(folder).open()
    everything = dict(itertools.islice(images.pictures(), 200))
    names = list(everything)
    chunks = pool.Chunks(images, crop_size=24, memory=9, seed=3)
    for index in (0, 1, 15):
        buffer = chunks.get(index)
        start = index * chunks.pictures
        turn = [names[place % 200] for place in range(start, start + chunks.pictures)]
        assert list(buffer.names) == [name for name in turn if everything[name][0].shape[0] >= 24]
        for place in (0, len(buffer) - 1):
            (whole,) = everything[buffer.names[place]]
            tile = buffer.image(place)
            assert any(
                np.array_equal(whole[top : top + 256, left : left + 256], tile)
                for top in range(300 - 256 + 1)
                for left in range(280 - 256 + 1)
                if np.array_equal(whole[top, left], tile[0, 0])
            )


def test_chunk_is_the_same_however_it_is_reached(folder):
    images = source(folder).open()
    one_by_one = pool.Chunks(images, 24, memory=9, seed=1)
    reached = [one_by_one.get(index) for index in range(30)]
    for index in (29, 4, 17, 5):
        jumped = pool.Chunks(images, 24, memory=9, seed=1).get(index)
        np.testing.assert_array_equal(jumped.pixels, reached[index].pixels)
        assert jumped.names == reached[index].names
        back = one_by_one.get(index)
        np.testing.assert_array_equal(back.pixels, reached[index].pixels)


def test_second_round_takes_other_tiles(folder):
    chunks = pool.Chunks(source(folder, limit=10).open(), 24, memory=9)
    rounds = -(-10 // chunks.pictures)
    first = {n: chunks.get(0).image(0).tobytes() for n in chunks.get(0).names[:1]}
    for index in range(1, 4 * rounds):
        buffer = chunks.get(index)
        for place, name in enumerate(buffer.names):
            if name in first:
                assert buffer.image(place).tobytes() != first[name]


def test_too_small_pictures_are_counted(folder):
    images = source(folder).open()
    chunks = pool.Chunks(images, 24, memory=9)
    for index in range(200 // chunks.pictures + 1):
        chunks.get(index)
    assert dict(images.skipped) == dict.fromkeys(
        ("5.bmp", "50.bmp", "150.bmp"), "smaller than the crop of 24 px"
    )


def test_too_many_small_pictures_stop_the_run_with_the_cure(folder):
    with pytest.raises(RunError, match="Use a smaller crop_size"):
        pool.Chunks(source(folder).open(), 290, memory=9)


def test_picture_that_breaks_while_training_is_an_error_that_is_kept(folder, tmp_path):
    images = source(folder, max_unreadable=0.02).open()
    chunks = pool.Chunks(images, 24, memory=9)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(RunError, match="an empty file"):
        list(map(chunks.get, range(30)))
    assert isinstance(chunks.failure, RunError)


def test_source_cut_into_many_tiles_keeps_a_share_of_them(folder):
    images = source(folder, tile=20).open()
    chunks = pool.Chunks(images, 15, memory=9)
    buffer = chunks.get(0)
    assert chunks.images_per_picture > 20
    assert buffer.pixels.nbytes <= 3 << 20
    assert {image.shape[0] for image in map(buffer.image, range(len(buffer)))} == {20}
    small = {"5.bmp", "50.bmp", "150.bmp"} & {name for name, _ in images.skipped}
    assert len(set(buffer.names)) == min(200, chunks.pictures) - len(small)


class Decoded:
    """Pictures of noise as a source that counts how often each is decoded."""

    def __init__(self, count, size, memory):
        random = np.random.default_rng(7)
        self.pixels = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]
        self.numbers = []
        self.images = Images(self._records, channels=3, count=count, memory=memory)

    def _records(self, start):
        for number in range(start, len(self.pixels)):
            yield str(number), lambda number=number: self._decode(number)

    def _decode(self, number):
        self.numbers.append(number)
        return self.pixels[number]


def tiles(picture, seed, number):
    """The tile of a picture in the `number`-th place of the endlessly repeated source."""
    random = np.random.default_rng([seed, number])
    top, left = (random.integers(side - pool.TILE + 1) for side in picture.shape[:2])
    return picture[top : top + pool.TILE, left : left + pool.TILE]


def test_few_huge_pictures_are_decoded_once_for_many_chunks():
    decoded = Decoded(8, (700, 600), memory=20)
    chunks = pool.Chunks(decoded.images, 24, seed=5)
    for index in (*range(8), 0, 3):  # as many as a whitening and the first steps take
        buffer = chunks.get(index)
        for number in range(8):
            expected = tiles(decoded.pixels[number], 5, 8 * index + number)
            np.testing.assert_array_equal(buffer.image(number), expected)
    assert decoded.numbers == list(range(8))
    held = sum(image.nbytes for own in chunks._ahead.values() for image in own[-1])
    assert held + 3 * buffer.pixels.nbytes <= 20 << 20


def test_pictures_that_were_read_to_learn_their_sizes_are_not_read_again():
    decoded = Decoded(100, (300, 280), memory=20)
    chunks = pool.Chunks(decoded.images, 24, seed=5)
    assert chunks.turns == 1
    first = chunks.get(0)
    again = chunks.get(0)
    assert again is first
    with chunks._lock:
        chunks._held[1].result()
    most = max(decoded.numbers)
    assert most < 64 or sorted(decoded.numbers) == list(range(most + 1))
    for number in range(chunks.pictures):
        np.testing.assert_array_equal(first.image(number), tiles(decoded.pixels[number], 5, number))


def test_a_source_that_does_not_fit_is_found_out_once():
    decoded = Decoded(8, (700, 600), memory=3)
    assert pool.load(decoded.images) is None
    read = len(decoded.numbers)
    assert pool.load(decoded.images) is None
    assert len(decoded.numbers) == read
    assert len(pool.load(decoded.images, memory=30)) == 8


def test_large_pictures_say_how_far_their_decoding_is(monkeypatch):
    monkeypatch.setattr(pool, "_TOLD_PIXELS", 1_000_000)
    told = []
    decoded = Decoded(8, (700, 600), memory=20)
    pool.Chunks(decoded.images, 24, tell=lambda *pictures: told.append(pictures))
    assert told == [(3, 8), (6, 8)]
