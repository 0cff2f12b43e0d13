"""`--set`: which path means what, and what is said where it means nothing."""

import pytest

from kclr.errors import SpecError
from kclr.spec import parse_spec
from kclr.spec.overrides import override

SPEC = """
data: photos
stack:
  - objective: triplet
    train: {optimizer: SGD}
  - train: {optimizer: {class_name: Adam, config: {learning_rate: 0.1}}}
"""


def layer(*overrides, index=0):
    return parse_spec(SPEC, overrides).stack[index]


def refusal(*overrides, text=SPEC):
    with pytest.raises(SpecError) as error:
        parse_spec(text, overrides, name="my.yaml")
    return str(error.value)


def test_values_are_typed_as_in_the_file():
    train = layer(
        "stack.0.train.steps=7",
        "stack.0.train.jit=false",
        "stack.0.train.checkpoint_seconds=1e-1",
        "stack.0.train.precision=mixed_bfloat16",
    ).train
    assert (train.steps, train.jit, train.checkpoint_seconds) == (7, False, 0.1)
    assert train.precision == "mixed_bfloat16"


def test_the_later_of_two_overrides_wins():
    assert layer("stack.0.block.filters=3", "stack.0.block.filters=5").block.filters == 5


def test_values_may_be_quoted_hold_equal_signs_or_be_mappings():
    spec = parse_spec(SPEC, ["name='007'", "data=folder:a=b", "export={pool: mean, grid_size: 3}"])
    assert spec.name == "007"
    assert spec.data.path == "a=b"
    assert spec.export.grid_size == 3


def test_null_takes_a_value_away():
    text = "stack: [{train: {steps: 5}}]"
    train = parse_spec(text, ["stack.0.train.steps=null", "stack.0.train.epochs=2"]).stack[0].train
    assert (train.steps, train.epochs) == (None, 2)
    assert parse_spec(text, ["stack.0.train.steps="]).stack[0].train.steps == 1000


def test_null_takes_a_key_away_that_may_not_be_null():
    text = "stack: [{block: {filters: 3}, train: {steps: 5}}]"
    layer = parse_spec(text, ["stack.0.train=null", "stack.0.learner=kmeans"]).stack[0]
    assert layer.learner.part_name == "kmeans"
    assert parse_spec(text, ["stack.0.block.filters=null"]).stack[0].block.filters == 64
    assert parse_spec(text, ["seed=null", "stack.0.embedding=null"]) == parse_spec(text)
    with pytest.raises(SpecError, match="--set, stack: is missing"):
        parse_spec(text, ["stack=null"])


@pytest.mark.parametrize(
    ("assignment", "index", "value"),
    [
        ("stack.0.objective.margin=0.5", 0, lambda made: made.objective.margin == 0.5),
        ("stack.1.objective.margin=0.5", 1, lambda made: made.objective.margin == 0.5),
        ("stack.0.train.optimizer.config.momentum=0.9", 0,
         lambda made: made.train.optimizer.config == {"momentum": 0.9}),
        ("stack.1.train.optimizer.config.learning_rate=0.2", 1,
         lambda made: made.train.optimizer.config == {"learning_rate": 0.2}),
        ("stack.1.train.optimizer.class_name=sgd", 1,
         lambda made: made.train.optimizer.class_name == "SGD"),
    ],
)  # fmt: skip
def test_a_name_becomes_the_mapping_it_stands_for(assignment, index, value):
    assert value(layer(assignment, index=index))


def test_options_can_be_set_below_what_a_default_stands_for():
    text = "stack: [{}]"
    assert parse_spec(text, ["data.tile=16"]).data.tile == 16
    wide = parse_spec(text, ["data.tile=[1, 16]", "stack.0.block.kernel_size=[3, 9]"])
    assert (wide.data.tile, wide.stack[0].block.kernel_size) == ((1, 16), (3, 9))
    assert parse_spec(text, ["data=folder:x", "data.limit=3"]).data.limit == 3
    optimizer = parse_spec(text, ["stack.0.train.optimizer.config.beta_1=0.5"]).stack[0].train
    assert optimizer.optimizer.config == {"learning_rate": 0.001, "beta_1": 0.5}
    path = "stack.0.train.optimizer.config.learning_rate"
    text = "stack: [{train: {optimizer: {class_name: Adam, config: {learning_rate: CosineDecay}}}}]"
    made = parse_spec(text, [f"{path}.config.initial_learning_rate=0.1"]).stack[0].train.optimizer
    assert made.config["learning_rate"]["config"] == {"initial_learning_rate": 0.1}


def test_a_list_gets_one_more_item():
    made = parse_spec("stack: [{}]", ["stack.1={block: {filters: 5}}", "stack.1.name=top"]).stack
    assert [each.block.filters for each in made] == [64, 5]
    assert made[1].name == "top"
    flip = "stack.0.patches.augment.0=RandomFlip"
    augment = parse_spec("stack: [{}]", [flip]).stack[0].patches.augment
    assert [each.class_name for each in augment] == ["RandomFlip"]


def test_what_was_given_is_left_as_it_is():
    value = {"stack": [{"block": {"filters": 3}}]}
    changed, path = override(value, "stack.0.block.filters=5")
    assert value == {"stack": [{"block": {"filters": 3}}]}
    assert changed == {"stack": [{"block": {"filters": 5}}]}
    assert path == ("stack", 0, "block", "filters")


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("steps",
         "'steps' is not of the form KEY.PATH=VALUE, as in --set stack.0.train.steps=200."),
        ("=3", "'=3' is not of the form"),
        ("stack..steps=3", "'stack..steps=3' is not of the form"),
        ("stack.0.=3", "'stack.0.=3' is not of the form"),
        ("stack.2.name=x", "stack.2.name: stack has no item '2'; its items are 0 to 1."),
        ("stack.-1.name=x", "stack.-1.name: stack has no item '-1'; its items are 0 to 1."),
        ("stack.conv1.name=x", "stack.conv1.name: stack has no item 'conv1'"),
        ("stack.².name=x", "stack.².name: stack has no item '²'"),
        ("stack." + "9" * 5000 + "=x", "stack has no item '999"),
        ("stack.0.trian.steps=3",
         "stack.0.trian.steps: unknown key stack.0.trian. Did you mean 'train'?"),
        ("stack.3={}", "stack.3: stack has no item '3'; its items are 0 to 1."),
        ("stack.0.patches.augment.1=RandomFlip",
         "stack.0.patches.augment.1: stack.0.patches.augment has no item '1'; it is empty."),
        ("stack.0.patches.augment.0.config.mode=x",
         "stack.0.patches.augment.0.config.mode: stack.0.patches.augment has no item '0'; it is "
         "empty."),
        ("seed.x=3", "seed.x: seed is null, which has no keys. Set the whole value: seed=..."),
        ("stack.1.train.optimizer.config.learning_rate.config.x=1",
         "stack.1.train.optimizer.config.learning_rate is 0.1, which has no keys."),
        ("stack.0.block.filters=[", "stack.0.block.filters: '[' cannot be read: not valid YAML"),
        ("stack.0.block.filters=many",
         "--set, stack.0.block.filters: 'many' is not a whole number. "
         "Use 1 to 65536."),
        ("stack.0.block.filtres=3", "--set, stack.0.block.filtres: unknown key. Did you mean "
         "'filters'?"),
        ("stack.0.objective.margn=3", "--set, stack.0.objective.margn: unknown key. Did you mean "
         "'margin'?"),
        ("stack.0=conv", "--set, stack.0: 'conv' is not a mapping."),
        ("stack=[]", "--set, stack: [] is too short. Use at least 1."),
    ],
)  # fmt: skip
def test_a_wrong_override_is_explained(assignment, expected):
    message = refusal(assignment)
    assert expected in message
    assert "--set" in message


def test_a_number_has_no_keys():
    text = "{seed: 3, stack: [{}]}"
    assert "seed.x: seed is 3, which has no keys." in refusal("seed.x=1", text=text)


def test_wrong_overrides_and_wrong_keys_are_told_together():
    message = refusal("stack.7.name=x", "seed=-1", text="sed: 3\nstack: [{}]")
    assert message.splitlines()[0] == "my.yaml: 3 errors"
    assert message.splitlines()[1].startswith("  line 1, sed: ")


def test_an_override_can_mend_the_file():
    assert parse_spec("stack: [{block: {filters: x}}]", ["stack.0.block.filters=3"])
    assert parse_spec("", ["stack=[{}]"])


def test_an_overridden_value_does_not_keep_the_lines_of_the_old_one():
    message = refusal("stack=[{blok: 3}]", text="stack:\n  - blok: 2")
    assert "--set, stack.0.blok: unknown key. Did you mean 'block'?" in message


def test_overrides_of_what_is_no_mapping_wait_until_it_is_one():
    for text in ("word", "[1]", "3"):
        assert "a spec is a mapping with the key `stack`" in refusal("seed=3", text=text)


def test_a_long_override_is_not_repeated_in_full():
    assert len(refusal("seed=" + "[" * 100_000)) < 500
    assert len(refusal("x" * 100_000)) < 500


def test_digits_without_end_are_answered_in_a_line_that_can_be_read():
    digits = "9" * 5000
    with pytest.raises(SpecError) as caught:
        parse_spec(f"data: photos\nstack: [{{}}]\nseed: '{digits[:400]}'", [f"seed.{digits}=1"])
    assert max(map(len, str(caught.value).splitlines())) < 1000
    assert "Use 0 to" in str(caught.value)
