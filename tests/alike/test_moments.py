"""Windows are followed through frames; what is still or moves with the camera is not used."""

from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from kclr.alike.moments import followed
from kclr.data.patches import PatchTripletGenerator
from kclr.errors import RunError
from kclr.stack import train

PHOTOGRAPHS = files("kclr") / "data" / "photographs"


def photograph(name):
    return np.asarray(Image.open(PHOTOGRAPHS / name).convert("RGB"))


def film(seed, camera=(0, 1), thing=(1, -1), frames=8):
    """A real photograph under a camera that moves, and before it a square of another one that moves
    otherwise: uint8 (frames, 48, 48, 3), and the square's corner in each frame."""
    random = np.random.default_rng(seed)
    ground, square = photograph("coffee.png"), photograph("chelsea.png")[60:72, 120:132]
    y, x = random.integers(100, 250, 2)
    made, corners = [], []
    for frame in range(frames):
        top, left = y + frame * camera[0], x + frame * camera[1]
        picture = ground[top : top + 48, left : left + 48].copy()
        corner = np.array([10, 26]) + frame * np.array(thing)
        picture[corner[0] : corner[0] + 12, corner[1] : corner[1] + 12] = square
        made.append(picture)
        corners.append(corner)
    return np.stack(made), corners


def test_windows_are_followed_to_where_they_are():
    frames, corners = film(0)
    begins = [corners[0] + 2, np.array([36, 20])]
    ends = followed(list(frames), begins, (8, 8), 2)
    # The camera moves to the right by 7 px in all, and so does what stands still to the left.
    np.testing.assert_array_equal(ends, [corners[-1] + 2, [36, 13]])


def views_of(images, steps=10, **options):
    alike = {"name": "moments", "windows": 60, "search": 2} | options
    generator = PatchTripletGenerator(images, 8, batch_size=16, alike=alike)
    batches = [(np.array(v), np.array(n)) for v, n in generator.views().take(steps)]
    return generator, *(np.concatenate(part) for part in zip(*batches, strict=True))


def test_only_what_moves_otherwise_than_the_camera_is_used():
    films = np.concatenate([film(seed)[0] for seed in range(3)])
    generator, views, numbers = views_of(films, length=8, gap=4)
    assert views.shape[1:] == (2, 8, 8, 3)
    assert {*numbers.tolist()} <= {0, 1, 2}
    rows = generator.rows
    top, left = np.divmod(rows.corners, 48)
    bottom, right = np.divmod(rows.other_corners, 48)
    moved = np.stack([bottom - top, right - left], axis=1) - [0, -4]
    assert (np.abs(moved).max(axis=1) >= 1).all()
    np.testing.assert_array_equal(rows.others - rows.images, 4)
    # Most of what was found lies on the square, of which a window looks the same later.
    assert (np.abs(views[:, 0].astype(int) - views[:, 1]).mean(axis=(1, 2, 3)) < 40).mean() > 0.7
    np.testing.assert_array_equal(rows.images // 8, rows.numbers)


def test_a_single_sequence_has_negatives_and_still_ones_have_words():
    frames = film(0)[0]
    generator, _, _ = views_of(frames, gap=2)
    assert len({*generator.rows.numbers.tolist()}) == len(generator.rows)
    still = film(0, (0, 0), (0, 0))[0]
    with pytest.raises(RunError, match="no window moves 1 px otherwise than the whole picture"):
        views_of(still)
    kept, _, _ = views_of(still, motion=0)
    np.testing.assert_array_equal(kept.rows.corners, kept.rows.other_corners)
    with pytest.raises(RunError, match="needs sequences of more than 9 frames"):
        views_of(frames, gap=9)


MOMENTS = {"name": "moments", "windows": 40, "search": 2}


def trains_by_moments(source, out):
    """A layer trains end to end on the films of a source."""
    patches = {"patch_size": 8, "alike": MOMENTS}
    steps = {"steps": 4, "batch_size": 8, "log_every": 2}
    layer = {"block": {"filters": 4}, "patches": patches, "objective": "infonce", "train": steps}
    (layer,) = train({"data": source, "stack": [layer]}, out, bare=True).layers
    assert np.isfinite(layer.kernel).all()


def test_folders_of_frames_train_end_to_end(tmp_path):
    for number in range(2):
        folder = tmp_path / f"films/film{number}"
        folder.mkdir(parents=True)
        for frame, picture in enumerate(film(number)[0]):
            Image.fromarray(picture).save(folder / f"{frame + 4}.png")  # 9.png is before 10.png
    generator = PatchTripletGenerator(str(tmp_path / "films"), 8, alike=MOMENTS)
    rows, names = generator.rows, [name.split("/") for name in generator._buffer.names]
    for first, second in zip(rows.images, rows.others, strict=True):
        (film_of, begin), (same, end) = names[first], names[second]
        assert film_of == same
        assert int(end[:-4]) - int(begin[:-4]) == 4
    trains_by_moments(f"folder:{tmp_path / 'films'}", tmp_path / "run")
