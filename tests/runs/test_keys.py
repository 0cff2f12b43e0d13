"""What is said when a run cannot be gone on with: which keys, and how many pictures."""

import json

import pytest

from kclr.errors import SpecError
from kclr.runs.keys import check_same, differences, made, other_images

BEFORE = {
    "format": 3,
    "layers": [{"train": {"steps": 200, "optimizer": {"class_name": "Adam"}}}],
    "first": 1,
    "seed": 0,
    "fingerprint": "a",
    "images": {
        "data": {"source": "folder", "name": "folder:p", "limit": None, "content": "a", "count": 3}
    },
}


def images(content, count=3, name="folder:p"):
    return {"data": {"name": name, "content": content, "count": count}}


def refusal(changes, before=None, **options):
    """What is said of layer 2, trained with BEFORE, when the spec has these changes."""
    there = made(BEFORE, hidden=("images",)).written() if before is None else before
    with pytest.raises(SpecError) as caught:
        check_same(made(BEFORE | changes, hidden=("images",)), there, "r: layer conv2", **options)
    return str(caught.value)


def test_a_key_that_differs_is_named_as_in_the_spec_with_both_values():
    own = {"train": {"steps": 400, "optimizer": {"class_name": "SGD"}}}
    assert refusal({"layers": [own]}).splitlines() == [
        "r: layer conv2 was trained with other settings:",
        "  stack.1.train.steps: 200 there, 400 in the spec",
        '  stack.1.train.optimizer.class_name: "Adam" there, "SGD" in the spec',
        "Use another directory with out=... (--out), or replace the existing one with "
        "overwrite=True (--overwrite; it is lost).",
    ]


def test_an_option_of_the_images_is_named_by_its_key():
    changed = {"data": BEFORE["images"]["data"] | {"limit": 10}}
    said = refusal({"images": changed, "fingerprint": "b"})
    assert "\n  data.limit: null there, 10 in the spec\n" in said


def test_keys_that_one_side_does_not_have_are_said_to_be_unset():
    before, now = {"a": {"x": 1}, "b": []}, {"a": {"x": 1, "y": "two"}}
    assert differences(before, now) == [
        'a.y: not set there, "two" in the spec',
        "b: [] there, not set in the spec",
    ]


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"a": "1", "b": "9", "c": "3"}, "1 of 3 pictures differ (b)"),
        ({"a": "1", "b": "2", "d": "4"}, "1 new (d), 1 gone (c)"),
        ({"b": "1", "a": "2", "c": "3"}, "the same pictures in another order"),
        ({f"\x1b{n}": str(n) for n in range(9, 14)}, "5 new (\\x1b9, \\x1b10, \\x1b11, ...)"),
    ],
)
def test_pictures_that_differ_are_counted_and_named(now, said):
    known = {"old": {"a": "1", "b": "2", "c": "3"}, "new": now}
    assert f"folder:p: {said}" in other_images(images("old"), images("new"), known)[0]


def test_many_pictures_are_counted_where_none_is_known_by_itself():
    assert other_images(images("old", 500), images("new", 480), {"new": {"a": "1"}}) == [
        "folder:p: other images (500 then, 480 now)"
    ]
    assert other_images(images("old"), images("new", 7, "photos"), {}) == [
        "photos: not folder:p (3 then, 7 now)"
    ]


@pytest.mark.parametrize("before", ["0" * 64, {"key": "0" * 64}, "{", "[" * 100_000, "[1]", ""])
def test_layers_of_an_earlier_kclr_are_said_to_be_that(before):
    assert "by an earlier version of kclr" in refusal({}, before)


@pytest.mark.parametrize(
    "facts",
    [
        {"format": 3},
        {"format": 3, "layers": 7, "first": "x", "images": [1], "shared": 2},
        {"format": 3, "layers": [3], "first": 0, "images": {"data": 5}},
        {"format": 3, "layers": [[]], "first": 0, "images": {"data": {"content": [], "name": 1}}},
    ],
)
def test_facts_that_somebody_changed_end_in_a_refusal_too(facts):
    known = {"a": {"x": 1}}
    assert "trained" in refusal({}, {"key": "x", "made_of": facts}, known=known)


def test_the_same_key_is_gone_on_with_whatever_is_said_of_it():
    now = made(BEFORE, hidden=("images",))
    check_same(now, json.dumps(now.written()), "r")
    check_same(now, {"key": now.key, "made_of": {"images": 7}}, "r")
    assert now.key == made(BEFORE | {"images": 1}, hidden=("images",)).key
