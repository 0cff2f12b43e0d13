"""What a spec cannot have on several devices, each with its cure."""

import pytest

from kclr.errors import SpecError
from kclr.spec import parse_spec

LAYER = "stack: [{objective: {name: ntxent, queue_size: 8}, train: {%s}}]"
ADAM = "optimizer: {class_name: Adam, config: {%s}}"


def complaint(train, *overrides):
    with pytest.raises(SpecError) as caught:
        parse_spec(LAYER % train, ["train.distribute=mirrored", *overrides])
    return str(caught.value)


def test_what_tensorflow_refuses_is_found_before_it_is_started():
    assert "stack.0.train.jit: XLA cannot be combined" in complaint("jit: true")
    for key in ("gradient_accumulation_steps: 2", "use_ema: true, ema_overwrite_frequency: 3"):
        name = key.split(", ")[-1].split(":")[0]
        assert f"optimizer.config.{name}: " in complaint(ADAM % key)


def test_a_clipped_gradient_would_be_another_one():
    words = complaint(ADAM % "clipnorm: 1.0")
    assert "stack.0.train.optimizer.config.clipnorm: 1.0 would clip each device" in words
    assert "remove train.distribute: mirrored" in words


def test_a_queue_needs_what_all_devices_have():
    words = complaint("steps: 5", "train.gather=false")
    assert "stack.0.objective.queue_size: 8: without train.gather" in words


@pytest.mark.parametrize("train", ["steps: 5", "jit: false", ADAM % "clipnorm: null"])
def test_what_works_on_several_devices_is_taken(train):
    spec = parse_spec(LAYER % train, ["train.distribute=multi-worker", "train.shard=file"])
    assert spec.train.gather


def test_on_one_device_all_of_it_is_allowed():
    parse_spec(LAYER % f"jit: true, {ADAM % 'clipnorm: 1.0'}", ["train.gather=false"])
