"""The section `search`: every mistake is found at once, before anything is imported or trained."""

import pytest

from kclr.errors import SpecError
from kclr.spec import parse_spec
from kclr.spec.search import (
    Hyperparameter,
    assignments,
    layer_of,
    parents_first,
    rounded,
    text_of,
)

BASE = """
probe: digits
stack:
  - learner: kmeans
  - block: {filters: 8}
    objective: {name: ntxent, temperature: 0.2}
    patches: {augment: [{class_name: RandomHue, config: {factor: 0.1}}]}
search:
  space:
"""


def messages(space, extra="", overrides=()):
    with pytest.raises(SpecError) as caught:
        parse_spec(f"{BASE}    {space}\n{extra}", overrides)
    return str(caught.value).splitlines()[1:]


def test_a_search_is_read_with_its_defaults_and_dumped_again():
    search = parse_spec(f"{BASE}    stack.1.objective.temperature: {{float: [0.1, 1]}}").search
    assert search.space["stack.1.objective.temperature"].float == (0.1, 1.0)
    assert (search.layers, search.tuner.name, search.trials) == ("greedy", "bayesian", 20)
    assert (search.objective.metric, search.objective.better) == ("probe_accuracy", "max")
    assert parse_spec(f"{BASE}    stack.1.seed: {{int: [0, 1]}}", ["search=null"]).search is None


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("stack.1.objective.temperatur: {float: [0.1, 1]}", "Did you mean 'temperature'?"),
        ("stack.1.objectiv.temperature: {float: [0.1, 1]}", "Did you mean 'objective'?"),
        ("stack.2.objective.temperature: {float: [0.1, 1]}", "its items are 0 to 1"),
        ("stack.2: {choice: [{block: {filters: 8}}]}", "a search cannot add a layer. Add it to"),
        ("stack.1.objective.temperature: {float: [0.0, 1]}", "0.0 is out of range. Use 0.01"),
        ("stack.1.train.steps: {int: [0, 9]}", "0 is out of range. Use 1 to 2147483647"),
        ("stack.1.train.steps: {float: [1, 9]}", "is not a whole number"),
        ("stack.1.block.padding: {choice: [same, vald]}", "Did you mean 'valid'?"),
        ("stack.1.embedding.head: {choice: [[8], [a]]}", "'a' is not a whole number"),
        ("stack.1.block.filters: {boolean: true}", "true is not a whole number"),
        ("stack.1.patches.augment.0.config.facto: {float: [0, 1]}", "Did you mean 'factor'?"),
        ("stack.1.objective.margin: {float: [1, 2]}", "unknown key"),
        ("stack.1.train.steps: {}", "has no values. Use one of float, int, choice or boolean"),
        ("stack.1.train.steps: {int: [1, 2], choice: [3]}", "has int and choice"),
        ("stack.1.train.steps: {int: [9, 1]}", "Write the lower number first"),
        ("stack.1.train.decorrelation: {float: [0, 1], sampling: log}", "lowest number above 0"),
        ("stack.1.train.jit: {boolean: true, step: 2}", "is only for float and int"),
        ("stack.1.train.steps: {int: [1, 9], when: {stack.1.x: [1]}}", "not a hyperparameter"),
        ("stack.1.train.steps: {int: [1, 9], when: {stack.1.train.steps: [1]}}", "has a range"),
        ("seed: {int: [0, 9]}", "does not belong to a single layer"),
        ("search.trials: {int: [1, 9]}", "cannot change itself"),
        ("stack..steps: {int: [1, 9]}", "is not of the form KEY.PATH=VALUE"),
    ],
)
def test_a_hyperparameter_that_cannot_be_is_named_with_the_cure(written, words):
    (line, *_) = messages(written)
    assert line.strip().startswith(f"line 10, search.space.{written.partition(':')[0]}")
    assert words in line


def test_all_mistakes_are_said_in_one_go():
    found = messages(
        "stack.1.train.steps: {int: [0, 9]}\n    stack.1.block.filters: {int: [0, 4]}",
        "  tuner: {name: grid, factor: 4}\n  objective: accuracie\nsed: 1",
    )
    assert len(found) == 5


def test_a_condition_counts_for_the_check_of_the_key_that_it_allows():
    space = (
        "stack.1.objective: {choice: [triplet, {name: ntxent, temperature: 0.1}]}\n"
        "    stack.1.objective.margin: {float: [1, 2], when: {stack.1.objective: [triplet]}}"
    )
    assert parse_spec(f"{BASE}    {space}")
    assert "is not a value of" in messages(space.replace("[triplet]}}", "[barlow]}}"))[0]


def test_the_objective_needs_what_it_is_measured_by():
    space = "stack.1.train.steps: {int: [1, 9]}"
    assert "needs the section `probe`" in messages(space, overrides=["probe=null"])[0]
    assert parse_spec(f"{BASE}    {space}", ["search.objective=contrast_accuracy", "probe=null"])
    assert "not a metric" in messages(space, "  objective: {metric: losses, direction: min}")[0]
    assert "whether a high or a low" in messages(space, "  objective: positive_distance")[0]
    text = f"{BASE}    {space}\n  objective: {{metric: positive_distance, direction: min}}"
    assert parse_spec(text).search.objective.better == "min"


def test_a_resolved_search_is_as_valid_as_the_one_that_was_written():
    import yaml

    spec = parse_spec(f"{BASE}    stack.1.block.batch_norm: {{boolean: true}}\n  tuner: random")
    assert parse_spec(yaml.safe_dump(spec.model_dump(mode="json"))) == spec


def test_values_become_assignments_wider_keys_first():
    space = {
        "stack.0.train.optimizer.config.beta": Hyperparameter(float=[0, 1], also=["stack.0.a"]),
        "stack.0.train": Hyperparameter(choice=[{"steps": 3}]),
    }
    values = {"stack.0.train.optimizer.config.beta": 1 / 3, "stack.0.train": '{"steps": 3}'}
    assert assignments(space, values) == [
        'stack.0.train={"steps": 3}',
        "stack.0.train.optimizer.config.beta=0.333333",
        "stack.0.a=0.333333",
    ]


@pytest.mark.parametrize(
    "value", [1, 0.5, True, None, "relu", "1", "yes: no", [1, [2]], {"a": "b"}]
)
def test_a_choice_of_any_form_survives_as_text(value):
    from kclr.spec.reading import read_yaml

    assert read_yaml(text_of(value), "value").value == value


def test_small_helpers_keep_their_word():
    assert rounded(0.123456789) == 0.123457
    assert rounded(7) == 7
    assert (layer_of("stack.3.block"), layer_of("seed"), layer_of("stack")) == (3, None, None)
    space = {"b": Hyperparameter(int=[1, 2], when={"a": [True]}), "a": Hyperparameter(boolean=True)}
    assert parents_first(space) == ["a", "b"]
