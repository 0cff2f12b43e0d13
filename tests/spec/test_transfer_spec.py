from pathlib import Path

import pytest
import yaml

from kclr.errors import SpecError
from kclr.spec.transfer import TransferSpec, json_schema, parse_transfer

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("transfer*.yaml"))


def complaint(text, overrides=()):
    with pytest.raises(SpecError) as caught:
        parse_transfer(text, overrides, "my.yaml")
    return str(caught.value)


def test_a_spec_needs_nothing_but_its_images():
    spec = parse_transfer("data: digits")
    assert (spec.classifier.name, spec.repeats, spec.labels) == ("zhao", 3, (1.0,))
    assert spec.arms[0] == "random start"


def test_everything_wrong_is_said_at_once_with_lines_and_cures():
    message = complaint(
        "dat: digits\n"
        "arms: [random start, random start]\n"
        "seed: -1\n"
        "train:\n"
        "  epoch: 3\n"
        "  optimizer: {class_name: Adm}\n"
        "  augment: [RandomFlip, {class_name: RandomCrop, config: {height: 8, widht: 8}}]\n"
    )
    assert message.splitlines() == [
        "my.yaml: 7 errors",
        "  data: is missing and has no default. Add array:FILE, audio:PATH, digits, folder:PATH, "
        "series:FILE or tfds:NAME, or a mapping with the key source.",
        "  line 1, dat: unknown key. Did you mean 'data'?",
        "  line 2, arms.1: 'random start' is a duplicate. Remove one.",
        "  line 3, seed: -1 is out of range. Use 0 to 2147483647.",
        "  line 5, train.epoch: unknown key. Did you mean 'epochs'?",
        "  line 6, train.optimizer.class_name: 'Adm' is not known to Keras. Did you mean 'Adam'?",
        "  line 7, train.augment.1.config.widht: unknown argument of RandomCrop. Did you mean "
        "'width'?",
    ]


@pytest.mark.parametrize("amount", ["0", "-0.1", "1.5", "2.5"])
def test_what_is_no_amount_of_labels_is_refused(amount):
    message = complaint(f"data: digits\nlabels: [1.0, {amount}]")
    assert f"labels.1: {amount} is not an amount of labels" in message.replace("0.0", "0")


def test_labels_are_shares_or_numbers_of_each_class():
    assert parse_transfer("data: digits\nlabels: [0.01, 1, 25]").labels == (0.01, 1.0, 25.0)


def test_a_classifier_keeps_the_options_beside_its_name():
    classifier = parse_transfer("data: digits\nclassifier: {name: vgg, depth: 11}").classifier
    assert (classifier.name, classifier.options) == ("vgg", {"depth": 11})
    assert classifier.model_dump() == {"name": "vgg", "depth": 11}


def test_set_reaches_below_what_stands_there_by_name_or_by_default():
    spec = parse_transfer(
        "data: digits\nclassifier: vgg",
        [
            "classifier.depth=11",
            "supervised.data=tfds:cifar100",
            "supervised.epochs=3",
            "train.optimizer.config.learning_rate=0.01",
            "train.epochs=5",
        ],
    )
    assert spec.classifier.options == {"depth": 11}
    assert (spec.supervised.data, spec.supervised.epochs) == ("tfds:cifar100", 3)
    assert spec.train.optimizer.config == {"learning_rate": 0.01}
    assert spec.train.epochs == 5


def test_an_unknown_key_of_set_is_complained_of_as_one_of_the_file():
    assert "--set, train.epoch: unknown key. Did you mean" in complaint(
        "data: digits", ["train.epoch=3"]
    )


@pytest.mark.parametrize("text", ["", "- data: digits", "digits"])
def test_what_is_no_mapping_is_answered_with_a_beginning(text):
    assert "Start with `data: ...`." in complaint(text)


def test_a_resolved_spec_is_the_same_spec():
    spec = parse_transfer("data: digits\nsupervised: digits\nlabels: [0.5]\nclassifier: resnet")
    again = TransferSpec.model_validate(spec.model_dump(mode="json"))
    assert again == spec


def test_the_papers_schedule_is_the_default():
    rate = parse_transfer("data: digits").train.optimizer.config["learning_rate"]
    assert rate["config"] == {"boundaries": [0.6667], "values": [0.001, 0.0001]}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid(path):
    assert parse_transfer(path.read_text(), name=str(path)).title


def test_the_schema_knows_every_key_and_says_what_it_means():
    schema = json_schema()
    assert set(schema["properties"]) == set(TransferSpec.model_fields)
    assert all(key["description"] for key in schema["properties"].values())
    assert schema["$defs"]["Classifier"]["anyOf"][0] == {"type": "string"}


def test_an_infinite_option_of_a_classifier_is_the_same_in_the_resolved_spec():
    spec = parse_transfer("{data: digits, classifier: {name: zhao, dense_units: .inf}}")
    again = yaml.safe_dump(spec.model_dump(mode="json"))
    assert parse_transfer(again) == spec
    assert spec.classifier.options["dense_units"] == float("inf")
