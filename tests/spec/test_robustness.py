"""Whatever stands in a spec, the answer is a spec or a list of its errors: never a traceback."""

import random

import pytest
import yaml

from kclr.errors import SpecError
from kclr.spec import parse_spec

FULL = """
name: run
data: {source: "tfds:cifar10", split: train, tile: 8}
seed: 3
stack:
  - name: one
    block: {filters: 8, kernel_size: 3, strides: 1, padding: same, pool_size: 2, whitening: zca}
    patches: {patch_size: 6, crop_size: 8, stride: 1, augment: [{class_name: RandomHue, config:
              {factor: 0.1}}]}
    objective: {name: triplet, margin: 1.0, mining: all}
    train: {steps: 5, jit: auto, optimizer: {class_name: Adam, config: {learning_rate: {class_name:
            CosineDecay, config: {initial_learning_rate: 0.1, decay_steps: 0.5}}}}}
  - data: photos
    patches: {max_shift: 2}
export: {pool: grid, onnx: false}
"""
ODD = [
    None, True, False, 0, 1, -1, 3.5, 1e300, float("nan"), float("inf"), 10**30, "", "x", "1", " ",
    "a.b", "photos", "triplet", "\0", "é\u2028", "x" * 5000, [], [None], [[]], ["x"], {}, {"x": 1},
    {"": None}, {"name": 3}, {"class_name": None}, {"source": []}, [{}], {"config": {"config": {}}},
    {"learning_rate": {"class_name": []}},
]  # fmt: skip


def paths(value, path=()):
    yield path
    children = value.items() if isinstance(value, dict) else ()
    for key, inside in enumerate(value) if isinstance(value, list) else children:
        yield from paths(inside, (*path, key))


def changed(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("seed", range(10))
def test_odd_values_anywhere_are_taken_or_explained(seed):
    choice = random.Random(seed)
    for _ in range(30):
        value = yaml.safe_load(FULL)
        for _ in range(choice.randint(1, 4)):
            value = changed(value, choice.choice(list(paths(value))), choice.choice(ODD))
        text = yaml.safe_dump(value, allow_unicode=False)
        overrides = [
            ".".join(map(str, choice.choice(list(paths(value)))))
            + choice.choice(["=", "=3", "=x", ".x=1", ".class_name=x", ".0=1", "=[{}]"])
            for _ in range(choice.randint(0, 2))
        ]
        try:
            assert parse_spec(text, overrides)
        except SpecError as error:
            lines = str(error).splitlines()
            assert all(len(line) < 700 for line in lines), lines
            if lines[0].endswith((" error", " errors")):
                assert len(lines) > 1
                assert len(set(lines)) == len(lines), lines


def test_a_hex_number_too_long_to_be_written_out_is_refused():
    for key in ("seed", "name", "data", "stack"):
        with pytest.raises(SpecError, match="too large"):
            parse_spec(f"stack: [{{}}]\nx: 1\n{key}: 0x{'f' * 6000}\n".replace("x: 1\n", ""))
