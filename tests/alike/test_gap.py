"""Windows with a gap: where they are, and what there is no room for."""

import numpy as np
import pytest

from kclr.data.patches import PatchTripletGenerator
from kclr.errors import SpecError
from kclr.spec import load_spec, parse_spec
from kclr.spec.geometry import layer_geometry


@pytest.fixture(scope="module")
def numbered():
    """12 images whose three channels are image, y and x."""
    y, x = np.mgrid[:40, :50]
    return [np.stack([np.full_like(y, n), y, x], axis=-1).astype(np.uint8) for n in range(12)]


def corners(generator, steps=20):
    views = np.concatenate([np.array(views) for views, _ in generator.views().take(steps)])
    assert len({*views[0, :, 0, 0, 0]}) == 1
    return views[:, :, 0, 0, 1:].astype(int)


def test_neighbours_lie_around_the_middle_in_order_and_never_touch(numbered):
    alike = {"name": "gap", "gap": 4, "jitter": 1}
    found = corners(PatchTripletGenerator(numbered, 7, batch_size=8, alike=alike))
    apart = found[:, 1:] - found[:, :1]
    cells = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0)]
    for index, cell in enumerate(cells):
        off = apart[:, index] - 11 * np.array(cell)
        assert {*off.ravel().tolist()} == {-2, -1, 0, 1, 2}
    # On the axis on which two windows lie apart there are at least 4 - 2 px between them.
    assert (np.abs(apart).max(axis=-1) - 7 >= 2).all()


def test_one_neighbour_is_each_of_them(numbered):
    alike = {"name": "gap", "gap": 3, "jitter": 0, "neighbours": "one"}
    found = corners(PatchTripletGenerator(numbered, 6, batch_size=8, alike=alike))
    assert found.shape[1] == 2
    assert len(np.unique(found[:, 1] - found[:, 0], axis=0)) == 8
    assert {*np.abs(found[:, 1] - found[:, 0]).ravel()} == {0, 9}


def test_series_have_one_before_and_one_after():
    series = np.arange(3 * 64 * 2, dtype=np.float32).reshape(3, 1, 64, 2)
    alike = {"name": "gap", "gap": 4, "jitter": 1}
    generator = PatchTripletGenerator(series, (1, 8), batch_size=3, alike=alike)
    assert generator.crop_size == (1, 34)
    views, _ = next(iter(generator.views()))
    starts = np.array(views)[:, :, 0, 0, 0] // 2
    apart = starts[:, 1:] - starts[:, :1]
    assert (np.abs(apart - [-12, 12]) <= 2).all()


def test_triplets_are_the_middle_a_neighbour_and_another_image(numbered):
    generator = PatchTripletGenerator(numbered, 5, batch_size=8, alike="gap")
    for anchor, positive, negative in generator.triplets().take(5):
        numbers = [
            np.round(255 * part[:, 0, 0, 0].numpy()) for part in (anchor, positive, negative)
        ]
        assert (numbers[0] == numbers[1]).all()
        assert (numbers[0] != numbers[2]).all()


def test_a_batch_depends_on_its_step_and_shares_make_it(numbered):
    generator = PatchTripletGenerator(numbered, 5, batch_size=8, alike="gap", seed=3)
    *_, (third, _) = generator.views().take(3)
    again = PatchTripletGenerator(numbered, 5, batch_size=8, alike="gap", seed=3)
    parts = [next(iter(again.views(2, (index, 2))))[0] for index in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(parts), third)


SPEC = """
data: photos
stack:
  - {block: {filters: 4}, patches: {patch_size: 7}}
  - {block: {filters: 4}, patches: {patch_size: 6, alike: {name: gap, gap: 3, jitter: 1}}}
"""


def test_above_the_first_layer_sizes_are_in_cells():
    sizes = layer_geometry(parse_spec(SPEC).stack, 1)
    patch = 5 * 2 + 7  # six cells that are 2 px apart, each of 7 px
    assert sizes.image_patch == (patch, patch)
    assert sizes.image_crop == (3 * patch + 2 * 6 + 2 * 2,) * 2
    assert sizes.views == 9


def refused(inside):
    with pytest.raises(SpecError) as error:
        parse_spec(f"stack:\n  - {{{inside}}}")
    return [line.split("stack.0.")[1] for line in str(error.value).splitlines()[1:]]


def test_what_cannot_be_has_its_words():
    assert refused("patches: {alike: {name: gap, gap: 4, jitter: 2}}") == [
        "patches.alike.jitter: 2 can move windows together that are 4 apart. Use 1 or less, or a "
        "larger gap."
    ]
    assert refused("patches: {alike: {name: gap, gap: [0, 4]}}") == [
        "patches.alike.gap: in height, 0 leaves no gap between windows. Use 1 or more."
    ]
    assert refused("patches: {alike: gap, max_shift: 2}") == [
        "patches.max_shift: is for `alike: near`; gap places windows itself. Remove it."
    ]
    assert refused("patches: {alike: gap, crop_size: 9}") == [
        "patches.crop_size: gap needs crops of 31. Remove it."
    ]
    assert refused("patches: {alike: gip}") == [
        "patches.alike: 'gip' is not a known notion of what is alike. Did you mean 'gap'?"
    ]
    assert refused("objective: position") == [
        "objective: position needs windows around a middle one. Add patches.alike: gap."
    ]
    alike = "{name: gap, neighbours: one}"
    assert refused(f"patches: {{alike: {alike}}}, objective: position") == [
        "objective: position needs all neighbours. Remove patches.alike.neighbours."
    ]


def test_images_too_small_for_a_gap_are_refused(tmp_path):
    from kclr.data.checks import load_checked

    np.save(tmp_path / "small.npy", np.zeros((4, 20, 40, 3), np.uint8))
    text = {"data": f"array:{tmp_path / 'small.npy'}", "stack": [{"patches": {"alike": "gap"}}]}
    with pytest.raises(SpecError) as error:
        load_checked(text)
    assert "alike: gap needs crops of 31 px, larger than the images (20x40). Use a " in str(
        error.value
    )
    assert "smaller patch_size or gap, or larger images." in str(error.value)


def test_from_python_other_sizes_and_unknown_notions_are_refused(numbered):
    with pytest.raises(ValueError, match="places its windows itself"):
        PatchTripletGenerator(numbered, 5, crop_size=8, alike="gap")
    with pytest.raises(ValueError, match="gap: in height, 0 leaves no gap"):
        PatchTripletGenerator(numbered, 5, alike={"name": "gap", "gap": (0, 3)})
    with pytest.raises(SpecError, match="'gpa' is not a known notion"):
        PatchTripletGenerator(numbered, 5, alike="gpa")


def test_near_is_the_default_and_in_no_key():
    plain = parse_spec("stack: [{}]")
    named = parse_spec("stack: [{patches: {alike: near}}]")
    assert plain == named
    assert "alike" not in plain.model_dump(mode="json")["stack"][0]["patches"]
    assert load_spec(plain.model_dump(mode="json")) == plain
    other = parse_spec("stack: [{patches: {alike: gap}}]")
    assert load_spec(other.model_dump(mode="json")) == other
