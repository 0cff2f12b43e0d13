"""A search in keras-tuner's terms, and a trial's values as a spec again."""

import keras_tuner
import pytest

from kclr.errors import SpecError
from kclr.search.space import declare, plain_of, stages, trial_spec, with_values, yaml_of
from kclr.spec import parse_spec

CONDITIONAL = """
probe: digits
stack:
  - block: {filters: 4}
search:
  space:
    stack.0.objective.margin: {float: [1, 2], when: {stack.0.objective: [triplet]}}
    stack.0.objective.temperature: {float: [0.1, 1], when: {stack.0.objective: [ntxent]}}
    stack.0.objective: {choice: [triplet, ntxent, barlow]}
    stack.0.train.batch_size: {int: [8, 64], step: 2, sampling: log}
    stack.0.block.batch_norm: {boolean: true}
"""


def test_values_of_a_condition_are_there_with_it_alone_and_make_a_valid_spec():
    import yaml

    plain, search = yaml.safe_load(CONDITIONAL), parse_spec(CONDITIONAL).search
    hp = keras_tuner.HyperParameters()
    declare(hp, search, search.space)
    seen = set()
    for seed in range(40):
        for number, one in enumerate(hp.space):
            hp.values.pop(one.name, None)
            if hp.is_active(one):
                hp.values[one.name] = one.random_sample(seed * 100 + number)
        values = dict(hp.values)
        spec = trial_spec(with_values(plain, search, values), 0)
        objective = spec.stack[0].objective
        assert objective.part_name == values["stack.0.objective"]
        assert ("stack.0.objective.margin" in values) == (objective.part_name == "triplet")
        if objective.part_name == "ntxent":
            assert 0.1 <= objective.temperature <= 1
        assert spec.stack[0].train.batch_size in (8, 16, 32, 64)
        assert spec.search is None
        seen.add(objective.part_name)
    assert seen == {"triplet", "ntxent", "barlow"}


def test_values_that_do_not_go_together_are_said_without_lines():
    plain = {"stack": [{"block": {"kernel_size": 6}}]}
    search = parse_spec(
        "{probe: digits, stack: [{}], search: {space: {stack.0.patches.patch_size: {int: [3, 9]}}}}"
    ).search
    with pytest.raises(SpecError, match=r"these values: .*\n  stack.0.patches.patch_size: 3 is"):
        trial_spec(with_values(plain, search, {"stack.0.patches.patch_size": 3}), 0)


def test_a_trial_of_a_lower_layer_has_the_grids_of_its_layers():
    plain = {
        "probe": {"data": "digits", "grid": [3, 2], "power": [0.5, 1], "all_layers": True},
        "stack": [{"block": {"filters": 4}}, {"block": {"filters": 4}}],
        "export": {"grid_size": [3, 2], "all_layers": True},
    }
    spec = trial_spec(plain, 0)
    assert (spec.probe.grid, spec.probe.power, spec.export.grid_size) == ((3,), (0.5,), (3,))
    assert plain["probe"]["grid"] == [3, 2]


def test_stages_are_those_of_the_searched_layers_or_one_for_all():
    text = """
{probe: digits, stack: [{learner: kmeans}, {}, {}, {}], search: {space: {
  stack.1.train.steps: {int: [1, 9]}, stack.3.train.steps: {int: [1, 9]}}}}
"""
    greedy = stages(parse_spec(text))
    assert [(s.name, s.top, s.shared) for s in greedy] == [("conv2", 1, 1), ("conv4", 3, 3)]
    (whole,) = stages(parse_spec(text, ["search.layers=together"]))
    assert (whole.name, whole.top, whole.shared, len(whole.paths)) == ("conv4", 3, 1, 2)
    (whole,) = stages(parse_spec(text, ["search.layers=together", "train.end_to_end=true"]))
    assert whole.shared == 1


@pytest.mark.parametrize(
    "text",
    [
        "stack: [{block: {kernel_size: 5}}, {patches: {max_shift: 2}}, {learner: kmeans}]",
        "stack: [{block: {pool_size: 3, pool_strides: 2}, patches: {crop_size: 12}}]",
    ],
)
def test_sizes_that_follow_by_default_follow_again_from_a_checked_spec(text):
    spec = parse_spec(text)
    plain = plain_of(spec)
    assert parse_spec(yaml_of(plain)) == spec
    assert ("crop_size" in plain["stack"][0]["patches"]) == ("crop_size" in text)
    assert "patch_size" not in plain["stack"][0]["patches"]
