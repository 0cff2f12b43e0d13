"""YAML as people write it, and as it should not be."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from kclr.errors import SpecError
from kclr.spec import reading
from kclr.spec.reading import MOST_VALUES, read_yaml


def complaint(text):
    with pytest.raises(SpecError) as error:
        read_yaml(text, "my.yaml")
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-1E3", -1000.0),
        ("1.5e2", 150.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("1_000", 1000),
        ("0x10", 16),
        ("-0", 0),
        (".inf", float("inf")),
        ("true", True),
        ("no", False),
        ("~", None),
        ("", None),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1e", "1e"),
        ("'5'", "5"),
        ("folder:my pictures", "folder:my pictures"),
        ("\ufeffa: 1", {"a": 1}),
        ("a: 1\r\nb: [2]\r\n", {"a": 1, "b": [2]}),
    ],
)
def test_plain_values_are_what_a_person_means(text, value):
    read = read_yaml(text, "my.yaml").value
    assert read == value
    assert type(read) is type(value)


def test_keys_are_text_whatever_they_look_like():
    assert read_yaml("{1: a, on: b, null: c, 1.5: d}", "").value == {
        "1": "a", "on": "b", "null": "c", "1.5": "d",
    }  # fmt: skip


def test_each_key_and_item_has_its_line():
    document = read_yaml("a: 1\n\nb:\n  - c: 2\n    d: [3,\n      4]\n", "")
    assert document.lines == {
        (): 1, ("a",): 1, ("b",): 3, ("b", 0): 4, ("b", 0, "c"): 4, ("b", 0, "d"): 5,
        ("b", 0, "d", 0): 5, ("b", 0, "d", 1): 6,
    }  # fmt: skip


def test_repeated_keys_are_found_at_their_second_line():
    document = read_yaml("a: 1\nb: {c: 1,\n c: 2}\na: 3\n", "")
    assert document.repeated == [(("b", "c"), 3), (("a",), 4)]
    assert document.value == {"a": 3, "b": {"c": 2}}


def test_anchors_aliases_and_merge_keys_are_those_of_pyyaml():
    text = """
    base: &base {a: 1, b: {c: 2}}
    other: &other {a: 5, d: 6}
    one: {<<: *base, a: 3}
    two: {a: 4, <<: [*other, *base]}
    three: [*base, *base]
    """
    document = read_yaml(text, "")
    assert document.value == yaml.safe_load(text)
    assert document.repeated == []
    assert document.lines["one", "a"] == 4
    assert document.lines["one", "b", "c"] == 2


def test_aliases_that_multiply_are_refused_quickly():
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    assert f"more than {MOST_VALUES:,} values" in complaint("\n".join(rows))


def test_a_value_that_holds_itself_is_refused():
    assert complaint("a: &a [1, *a]") == (
        "my.yaml:1:4: contains itself through an alias. Write it out."
    )


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "- " * 100_000 + "1", "{a: " * 60 + "1" + "}" * 60]
)
def test_deep_nesting_is_refused(text):
    assert "nested too deeply" in complaint(text)


def test_a_long_file_is_read():
    rows = "".join(f"- {{a: {i}, b: [1, 2]}}\n" for i in range(10_000))
    document = read_yaml(rows, "")
    assert len(document.value) == 10_000
    assert document.lines[9_999, "b"] == 10_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:\n\tb: 1", "my.yaml:2:1: the line is indented with a tab. Use spaces."),
        ("a: 1\n---\nb: 2", "my.yaml:2:1: a second document starts here. Keep one of the two."),
        ("a: 1\n b: 2", "my.yaml:2:3: not valid YAML: mapping values are not "
         "allowed in this context. Check the indentation, or put text with a colon in quotes."),
        ("a: [1, 2", "Check that every quote and bracket is closed."),
        ("a: 'x", "Check that every quote and bracket is closed."),
        ("a: *b", "my.yaml:1:4: undefined alias"),
        ("a: !!python/object:os.system x", "tags such as tag:yaml.org,2002:python/object:os"),
        ("a: !!set {x}", "are not supported. Remove it."),
        ("a: !!int x", "my.yaml:1:4: x is not a valid number."),
        ("a: " + "9" * 5000, "is not a valid number."),
        ("? [a, b]\n: 1", (
            "my.yaml:1:3: a key must be plain text. Put text with brackets in quotes."
        )),
        ("{{ name }}: 1", "a key must be plain text."),
        ("<<: 3", "`<<` takes a mapping (*name), or a list of mappings."),
        ('a: "x\\0"', "my.yaml:1:4: the character \\x00 is not allowed in text. Remove it."),
        ('"\\0": 1', "my.yaml:1:1: the character \\x00 is not allowed in text."),
        ("a: " + "9" * 400, "my.yaml:1:4: the number is too large for any key."),
        ('a: "C:\\Users"', "Use single quotes, as in 'C:\\pictures'."),
        ('a: "C:\\pictures"', "Use single quotes, as in 'C:\\pictures'."),
        ("b: 1\na: \x01", "my.yaml:2: the character '\\x01' is not allowed in YAML. Remove it."),
    ],
)  # fmt: skip
def test_what_is_not_read_is_said_with_its_line(text, expected):
    assert expected in complaint(text)


def test_an_unpaired_surrogate_is_refused_as_any_text():
    assert complaint("a: \ud800").startswith("my.yaml")


def test_deep_nesting_is_refused_before_pyyaml_nests_as_deeply(monkeypatch):
    monkeypatch.setattr(reading._Loader, "get_single_node", None)
    for text in ("[" * 100_000, "- " * 100_000, "{a: " * 100_000):
        with pytest.raises(SpecError, match="nested too deeply"):
            read_yaml(text, "my.yaml")


def test_a_programs_values_become_those_of_a_file():
    written = {1: (np.int64(3), np.float32(0.5), Path("a/b")), "b": None}
    found = reading.plain_value(written, "spec")
    assert found == {"1": [3, 0.5, "a/b"], "b": None}
    assert type(found["1"][0]) is int
    endless = []
    endless.append(endless)
    for odd in (endless, "x\0", 10**400):
        with pytest.raises(SpecError, match="^spec: "):
            reading.plain_value([odd], "spec")


@pytest.mark.parametrize("tag", ["int", "float", "bool"])
@pytest.mark.parametrize("word", ["''", "'-'", "x", "0x"])
def test_a_tag_on_what_it_does_not_fit_is_refused_in_words(tag, word):
    with pytest.raises(SpecError, match=r"spec:1:\d+: .*not a valid number"):
        read_yaml(f"a: !!{tag} {word}", "spec")
