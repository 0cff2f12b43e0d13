"""Parts of a package of somebody else's: registered, checked, described and told apart."""

import importlib.metadata
from typing import Annotated

import pytest
from pydantic import Field, field_validator

from kclr.errors import SpecError
from kclr.spec import Part, parse_spec, register, registry
from kclr.spec.schema import json_schema


class Inner(Part):
    """A mapping inside of a part."""

    depth: int = 1
    """How deep."""


@pytest.fixture(autouse=True)
def _plugin():
    registry.parts("objective")

    @register("objective", "plugged")
    class Plugged(Part):
        """An objective of somebody else's."""

        amount: Annotated[int, Field(ge=1)] | str = 3
        """How many, or a word."""
        inner: Inner = Field(default_factory=Inner)
        """What is inside."""
        even: int = 2
        """An even number."""

        @field_validator("even")
        @classmethod
        def _check_even(cls, value):
            if value % 2:
                raise ValueError("use an even number")
            return value

    yield
    del registry._parts["objective"]["plugged"]


def refusal(objective):
    with pytest.raises(SpecError) as error:
        parse_spec(f"stack:\n  - objective: {objective}\n")
    return [line.partition("stack.0.objective")[2] for line in str(error.value).splitlines()[1:]]


def test_a_plugged_part_is_found_by_its_name_with_its_defaults():
    made = parse_spec("stack: [{objective: plugged}]")
    assert made.stack[0].objective.inner.depth == 1
    dumped = made.model_dump(mode="json")["stack"][0]["objective"]
    assert dumped == {"name": "plugged", "amount": 3, "inner": {"depth": 1}, "even": 2}
    assert parse_spec(str(made.model_dump(mode="json")).replace("None", "null")) == made


def test_its_keys_are_checked_as_kclrs_own():
    assert refusal("plugge") == [": 'plugge' is not a known objective. Did you mean 'plugged'?"]
    assert refusal("{name: plugged, amont: 3}") == [".amont: unknown key. Did you mean 'amount'?"]
    assert refusal("{name: plugged, inner: {dept: 3}}") == [
        ".inner.dept: unknown key. Did you mean 'depth'?"
    ]
    assert refusal("{name: plugged, even: 3}") == [".even: 3: use an even number."]


def test_a_choice_of_types_is_one_place_in_messages():
    lines = refusal("{name: plugged, amount: [3]}")
    assert lines == [".amount: [3] is not allowed. Use a whole number or text, 1 or more."]


def test_options_can_be_set_below_its_name():
    spec = parse_spec("stack: [{objective: plugged}]", ["stack.0.objective.inner.depth=4"])
    assert spec.stack[0].objective.inner.depth == 4


def test_it_is_in_the_json_schema_with_descriptions_and_references_that_lead_somewhere():
    made = json_schema()
    branches = made["$defs"]["Layer"]["properties"]["objective"]["anyOf"]
    assert "plugged" in branches[0]["enum"]
    branch = next(
        b for b in branches if b.get("properties", {}).get("name") == {"const": "plugged"}
    )
    assert branch["required"] == ["name"]
    assert branch["properties"]["amount"]["description"] == "How many, or a word."
    assert branch["properties"]["inner"]["$ref"] == "#/$defs/Inner"
    assert made["$defs"]["Inner"]["properties"]["depth"]["description"] == "How deep."


def test_a_name_is_given_once_and_only_among_known_kinds():
    with pytest.raises(ValueError, match="'triplet' is already kclr"):

        @register("objective", "triplet")
        class Other(Part):
            """Another one."""

    with pytest.raises(ValueError, match="'miner' is not a kind of part; choose from source, obj"):
        register("miner", "x")


def test_a_broken_plug_in_is_named_and_the_rest_goes_on(monkeypatch, caplog):
    broken = importlib.metadata.EntryPoint("mine", "not_there.at_all", "kclr.plugins")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [broken])
    monkeypatch.setattr(registry, "_broken", [])
    registry._load_plugins.cache_clear()
    try:
        assert parse_spec("stack: [{objective: triplet}]")
        assert refusal("mine_own") == [
            ": 'mine_own' is not a known objective. Choose from "
            + ", ".join(sorted(registry.parts("objective")))
            + ". The plug-in mine, which could not be loaded, may have it."
        ]
    finally:
        registry._load_plugins.cache_clear()
    (record,) = caplog.records
    assert record.getMessage() == (
        "the plug-in mine (not_there.at_all) cannot be loaded and is ignored: "
        "ModuleNotFoundError: No module named 'not_there'. Fix or remove it."
    )
