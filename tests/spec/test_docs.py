"""What is generated from the schema is up to date and right: page, JSON Schema, examples."""

import importlib.machinery
import importlib.util
import json
import re
from pathlib import Path

import pydantic
import pytest
import yaml

from kclr.spec import keras_parts, load_spec, parse_spec, schema, search
from kclr.spec.reading import starter
from kclr.spec.registry import descriptions, parts
from kclr.spec.schema import json_schema
from kclr.spec.transfer import parse_transfer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def docs():
    loader = importlib.machinery.SourceFileLoader("kclr_tools_docs", str(ROOT / "tools" / "docs"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made():
    """The JSON Schema, which takes a second."""
    return json_schema()


@pytest.fixture(scope="module")
def validator(made):
    return pytest.importorskip("jsonschema").Draft202012Validator(made)


def test_the_generated_files_are_those_of_the_schema(docs):
    if tuple(map(int, pydantic.VERSION.split(".")[:2])) < (2, 11):
        pytest.skip("older releases of pydantic describe nested classes otherwise")
    for path, text in docs.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is stale: run tools/docs"


def test_a_stale_file_is_found_and_written(docs, tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    made = docs.pages()  # once, for it takes a second
    monkeypatch.setattr(docs, "pages", lambda: made)
    assert docs.main(["--check"]) == 1
    assert "docs/spec.md, docs/spec.schema.json" in capsys.readouterr().out
    assert docs.main([]) == 0
    assert docs.main(["--check"]) == 0


def test_every_key_is_described():
    models = [schema.Spec, schema.Layer, schema.Block, schema.Patches, schema.Train, schema.Export]
    models += [schema.Embedding, schema.Training, *parts("learner").values()]
    models += [keras_parts.Optimizer, keras_parts.Schedule, keras_parts.Augmentation]
    models += [search.Search, search.Hyperparameter, search.Tuner, search.Goal]
    models += [*parts("objective").values(), *parts("source").values()]
    models += parts("alike").values()
    for model in models:
        assert set(model.model_fields) <= set(descriptions(model)), model.__name__


def test_every_example_is_a_valid_value(docs):
    places = {
        schema.Spec: "", schema.Layer: "stack.0.", schema.Block: "stack.0.block.",
        schema.Patches: "stack.0.patches.", schema.Train: "stack.0.train.",
        schema.Embedding: "stack.0.embedding.", schema.Training: "train.",
        schema.Export: "export.", schema.Probe: "probe.", search.Search: "search.",
        search.Goal: "search.objective.",
    }  # fmt: skip
    sought = "search: {space: {stack.0.block.filters: {int: [1, 9]}}}\n"
    for model, place in places.items():
        for key, example in docs.EXAMPLES[model].items():
            searched = model in (search.Search, search.Goal)
            probe = "probe: digits\n" if model is schema.Probe or searched else ""
            probe += sought if searched else ""
            assert parse_spec(f"{probe}stack: [{{}}, {{}}]", [f"{place}{key}={example}"])
    assert search.Tuner.model_validate({"name": "hyperband", "factor": 2, "rounds": 4})
    assert search.Tuner.model_validate({"initial": 10})
    kinds = {"float": "[1, 2]"}
    for key, example in docs.EXAMPLES[search.Hyperparameter].items():
        base = {} if key in search.KINDS else kinds
        text = "{" + ", ".join(f"{k}: {v}" for k, v in (base | {key: example}).items()) + "}"
        assert search.Hyperparameter.model_validate(yaml.safe_load(text))
    for kind in ("learner", "objective", "alike"):
        for key, example in docs.EXAMPLES[kind].items():
            takers = [part for part in parts(kind).values() if key in part.model_fields]
            assert takers, key
            for part in takers:
                needed = {"path": "runs/first"} if "path" in part.model_fields else {}
                if part.part_name == "given" and key not in ("pairs", "groups"):
                    needed = {"pairs": "pairs.csv"}
                assert part.model_validate(needed | {key: yaml.safe_load(example)})
    for key, example in docs.EXAMPLES["source"].items():
        takers = [part for part in parts("source").values() if key in part.model_fields]
        assert takers, key
        for part in takers:
            needed = {part.argument: "there"} if part.argument else {}
            assert part.model_validate(needed | {key: yaml.safe_load(example)})
    for model in (keras_parts.Optimizer, keras_parts.Schedule, keras_parts.Augmentation):
        assert model.model_validate({k: yaml.safe_load(v) for k, v in docs.EXAMPLES[model].items()})


def test_examples_on_the_page_are_valid(docs):
    blocks = re.findall(r"```yaml\n(.*?)```", docs.spec_page(), re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        value = yaml.safe_load(block) or {}
        if "optimizer" in value:
            value = {"stack": [{"train": value}]}
        assert parse_spec(yaml.safe_dump({"stack": [{}]} | value))


def test_the_starter_spells_out_the_defaults():
    assert parse_spec(starter()) == parse_spec("stack: [{}]")


def test_the_starters_second_layer_is_valid_when_its_comment_is_taken_away():
    head, _, tail = starter().partition("  # - name: conv2")
    text = head + "  # - name: conv2".replace("# ", "") + tail.replace("  # ", "  ")
    spec = parse_spec(text)
    assert spec.stack[1].name == "conv2"
    assert spec.stack[1].block.filters == 128


def test_the_deep_starter_is_the_recipe_of_its_config():
    recipe = load_spec(ROOT / "configs/depth.yaml", ["data=photos"])
    same = [f"stack.{index}.block.filters={384 << index}" for index in range(3)]
    deep = parse_spec(starter(3), same)
    assert deep == recipe
    two = parse_spec(starter(2), same[:2])
    assert two.stack == recipe.stack[:2]
    assert two.export.grid_size == (3, 2)


VALID = [
    starter(),
    starter(2),
    starter(3),
    "stack: [{}]",
    "{stack: [{learner: kmeans}, {learner: {start: {name: patches, windows: 9}}}]}",
    "{stack: [{learner: {name: 'run:runs/first', layer: conv1}}, {learner: {start: ../first}}]}",
    "{data: ./pictures, stack: [{}]}",
    "{data: {source: folder:pictures, limit: 3}, stack: [{data: {source: ../x, tile: 9}}]}",
    "{data: {source: 'tfds:cifar10', split: test}, stack: [{objective: triplet}]}",
    "stack: [{objective: {margin: 1}, block: {whitening: true, pool_strides: 1}}]",
    "stack: [{train: {optimizer: SGD, jit: false, epochs: 3, checkpoint_seconds: 0}}]",
    "stack: [{train: {optimizer: {class_name: Adam, config: {learning_rate: {class_name: "
    "CosineDecay, config: {initial_learning_rate: 0.1}}}}}}]",
    "stack: [{patches: {max_shift: 2, augment: [RandomFlip, {class_name: RandomHue, config: "
    "{factor: 0.1}}]}, train: {optimizer: 'my>Own'}}]",
]
VALID += [
    "{stack: [{}], search: {space: {stack.0.train.steps: {int: [1, 2]}}, objective: loss}}",
    "{probe: digits, stack: [{}], search: {space: {stack.0.train.reseed: {boolean: true}}, "
    "tuner: {name: hyperband, factor: 2}, minutes: 3}}",
]
INVALID = [
    "{}",
    "stack: []",
    "{sed: 3, stack: [{}]}",
    "stack: [{learner: kmean}]",
    "stack: [{learner: {start: contrastive}}]",
    "stack: [{learner: kmeans, embedding: {pool: max}}]",
    "{seed: -1, stack: [{}]}",
    "{data: 3, stack: [{}]}",
    "{data: {tile: 3}, stack: [{}]}",
    "{data: {source: photos, split: test}, stack: [{}]}",
    "{stack: [{}], search: {}}",
    "{stack: [{}], search: {space: {stack.0.train.steps: {ints: [1, 2]}}, objective: loss}}",
    "{stack: [{}], search: {space: {stack.0.train.steps: {int: [1.5, 2]}}, objective: loss}}",
    "{data: {source: 'tfds:cifar10', path: x}, stack: [{}]}",
    "stack: [{block: {filters: many}}]",
    "stack: [{block: {padding: vald}}]",
    "stack: [{block: {activation: rellu}}]",
    "stack: [{objective: tripled}]",
    "stack: [{objective: {name: tripled}}]",
    "stack: [{objective: {margn: 3}}]",
    "stack: [{train: {optimizer: Adm}}]",
    "stack: [{train: {optimizer: {config: {}}}}]",
    "stack: [{train: {optimizer: {class_name: Adam, config: {learning_rate: -1}}}}]",
    "stack: [{train: {optimizer: {class_name: Adam, config: {learning_rate: CosinDecay}}}}]",
    "stack: [{patches: {augment: [RandomFlp]}}]",
    "stack: [{patches: {augment: RandomFlip}}]",
]


@pytest.mark.parametrize("text", VALID)
def test_what_kclr_takes_an_editor_takes(text, validator):
    assert parse_spec(text)
    assert [error.message for error in validator.iter_errors(yaml.safe_load(text))] == []


@pytest.mark.parametrize("text", INVALID)
def test_what_kclr_refuses_an_editor_refuses(text, validator):
    with pytest.raises(ValueError, match=r"[0-9]+ errors?\b"):
        parse_spec(text)
    assert not validator.is_valid(yaml.safe_load(text))


def test_the_json_schema_is_sound_and_every_reference_in_it_leads_somewhere(made):
    text = json.dumps(made)
    for name in set(re.findall(r'"#/\$defs/(\w+)"', text)):
        assert name in made["$defs"]
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(made)


SHIPPED = sorted((ROOT / "configs").rglob("*.yaml"))
GRIDS = [path for path in SHIPPED if path.parent.name == "experiments"]


@pytest.mark.parametrize("path", GRIDS, ids=lambda p: p.stem)
def test_every_try_of_an_experiment_is_a_valid_spec(path):
    asked = yaml.safe_load(path.read_text())
    if "sets" in asked:  # of tools/suite, whose specs fit its data
        assert all(set(one) <= {"data", "labelled", "peer", "spec", "set"} for one in
                   asked["sets"].values())  # fmt: skip
        return
    text = (path.parent / asked["spec"]).read_text()
    for name, overrides in asked["tries"].items():
        assert parse_spec(text, [*overrides, "seed=1"], name=name)


@pytest.mark.parametrize("path", [p for p in SHIPPED if p not in GRIDS], ids=lambda p: p.stem)
def test_shipped_configs_name_the_schema_and_are_valid(path):
    first, _, rest = path.read_text().partition("\n")
    relative = first.partition("$schema=")[2]
    kind, parse = ("transfer", parse_transfer) if "transfer" in first else ("spec", parse_spec)
    assert (path.parent / relative).resolve() == ROOT / "docs" / f"{kind}.schema.json"
    assert parse(rest)
