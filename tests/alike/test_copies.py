"""Copies of a window: equal before their transformations; seed windows lie where something is."""

import numpy as np
import pytest

from kclr.alike.copies import gradient_energy, seed_windows
from kclr.data import pool
from kclr.data.patches import PatchTripletGenerator
from kclr.data.sources import as_images
from kclr.errors import RunError, SpecError
from kclr.spec import parse_spec
from kclr.stack import train


@pytest.fixture(scope="module")
def numbered():
    """12 images whose three channels are image, y and x."""
    y, x = np.mgrid[:30, :40]
    return [np.stack([np.full_like(y, n), y, x], axis=-1).astype(np.uint8) for n in range(12)]


def test_all_copies_are_the_same_window(numbered):
    alike = {"name": "copies", "copies": 3}
    generator = PatchTripletGenerator(numbered, 7, batch_size=8, alike=alike)
    views, images = next(iter(generator.views()))
    assert views.shape == (8, 3, 7, 7, 3)
    np.testing.assert_array_equal(views, np.repeat(views[:, :1], 3, axis=1))
    np.testing.assert_array_equal(np.array(views)[:, 0, 0, 0, 0], images)


def test_seed_windows_stay_where_they_are_and_are_numbered(numbered):
    alike = {"name": "copies", "seeds": 30}
    generator = PatchTripletGenerator(numbered, 7, batch_size=15, alike=alike)
    assert (generator.image_count, generator.steps_per_epoch) == (30, 2)
    seen = {}
    for views, seeds in generator.views().take(8):
        for view, seed in zip(np.array(views)[:, 0, 0, 0], np.array(seeds), strict=True):
            assert seen.setdefault(int(seed), view.tolist()) == view.tolist()
    assert sorted(seen) == list(range(30))
    of_image = np.bincount([view[0] for view in seen.values()])
    assert {*of_image.tolist()} == {2, 3}
    anchor, positive, negative = next(iter(generator.triplets()))
    np.testing.assert_array_equal(anchor, positive)
    assert (np.array(anchor) != np.array(negative)).any(axis=(1, 2, 3)).all()


def test_gradient_energy_is_that_of_each_window():
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 2), dtype=np.uint8)
    found, exact = gradient_energy(image, (3, 4)), image.astype(float)
    squares = np.zeros((9, 11))
    for y in range(9):
        for x in range(11):
            if y < 8:
                squares[y, x] += ((exact[y + 1, x] - exact[y, x]) ** 2).sum()
            if x < 10:
                squares[y, x] += ((exact[y, x + 1] - exact[y, x]) ** 2).sum()
    expected = [[squares[y : y + 3, x : x + 4].sum() for x in range(8)] for y in range(7)]
    np.testing.assert_allclose(found, expected)


def test_seeds_lie_where_gradients_are_and_never_on_missing_pixels():
    images = np.zeros((3, 20, 20, 1), np.float32)
    images[0, 12:18, 12:18] = np.random.default_rng(0).normal(size=(6, 6, 1))
    images[1, :, :8] = np.nan
    opened = as_images(images, scale="none")
    buffer = pool.load(opened)
    found, corners = seed_windows(buffer, (4, 4), 90, True, 0)
    assert np.bincount(found).tolist() == [30, 30, 30]
    top, left = np.divmod(corners, 20)
    assert (top[found == 0] >= 8).all()
    assert (left[found == 0] >= 8).all()
    assert (left[found == 1] >= 8).all()
    assert len(np.unique(corners[found == 2])) > 15  # blank: anywhere


def test_wrong_use_has_its_words(numbered):
    def refused(inside):
        with pytest.raises(SpecError) as error:
            parse_spec(f"stack: [{{{inside}}}]")
        return str(error.value).partition("stack.0.")[2]

    assert refused("patches: {alike: copies}") == (
        "patches.alike: copies of a window are equal without transformations. Add patches.augment."
    )
    flips = "augment: [RandomFlip]"
    assert refused(f"patches: {{alike: {{name: copies, gradients: true}}, {flips}}}") == (
        "patches.alike: gradients are for seed windows. Add patches.alike.seeds, or remove it."
    )
    assert refused(f"patches: {{alike: copies, {flips}}}, objective: exemplar") == (
        "objective: exemplar needs seed windows. Add them, as in patches.alike: {name: copies, "
        "seeds: 2000}."
    )
    alike = f"patches: {{alike: {{name: copies, seeds: 9}}, {flips}}}"
    assert refused(f"{alike}, objective: {{name: exemplar, seeds: 8}}") == (
        "objective: exemplar of 8 seeds, but patches.alike has 9. Remove the key."
    )
    large = np.zeros((40, 100, 100, 3), np.uint8)
    alike = {"name": "copies", "seeds": 9}
    with pytest.raises(RunError, match="alike: copies needs all images in memory, but they take"):
        PatchTripletGenerator(large, 7, memory=1, alike=alike)


def test_a_layer_learns_to_tell_its_seeds(tmp_path):
    brighter = "{class_name: RandomBrightness, config: {factor: 0.1, value_range: [0, 1]}}"
    spec = parse_spec(
        f"""
        data: photos
        stack:
          - block: {{filters: 8}}
            patches: {{alike: {{name: copies, seeds: 32, gradients: true}}, augment: [{brighter}]}}
            objective: exemplar
            embedding: {{standardize: true}}
            train:
              {{steps: 20, batch_size: 32, log_every: 10,
                optimizer: {{class_name: Adam, config: {{learning_rate: 0.02}}}}}}
        """
    )
    rows = train(spec, tmp_path / "run", bare=True).layers[0].history()
    assert rows[-1]["loss"] < 2 < np.log(32)
    assert rows[-1]["seed_accuracy"] > 0.5
