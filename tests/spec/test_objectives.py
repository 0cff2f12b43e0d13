"""A list of objectives in one layer: what a spec may say, and what comes of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kclr.cli import main
from kclr.errors import SpecError
from kclr.layers import ContrastiveConvBlock
from kclr.losses import ContrastiveLoss
from kclr.model import TripletModel
from kclr.objectives.infonce import NTXent
from kclr.objectives.supcon import SupCon
from kclr.objectives.triplet import Triplet
from kclr.spec import load_spec, parse_spec
from kclr.spec.objectives import Several
from kclr.spec.overrides import override
from kclr.training.callbacks import CollapseGuard

pytestmark = pytest.mark.usefixtures("without_pictures")

LIST = ["ntxent", {"name": "supcon", "weight": 0.5, "temperature": 0.2}]


def patches_and_targets(crops=16):
    patches = np.random.default_rng(0).integers(0, 256, (crops, 2, 7, 7, 3), dtype=np.uint8)
    return patches, np.stack([np.arange(crops), np.arange(crops) % 3 - 1], axis=1)


def objective_of(text):
    spec = parse_spec(f"data: {{source: digits, labels: 0.1}}\nstack: [{{objective: {text}}}]")
    return spec.stack[0].objective


def test_the_loss_is_the_weighted_sum_and_each_statistic_has_its_objectives_name():
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(12, 3, 5)).astype("float32")
    images, labels = np.arange(12) // 2, np.arange(12) % 3 - 1
    found, told = ContrastiveLoss(LIST).with_statistics(
        np.stack([images, labels], axis=1), embeddings
    )
    one, of_one = NTXent()(images, embeddings)
    other, of_other = SupCon(temperature=0.2)(images, embeddings, labels)
    np.testing.assert_allclose(found, float(one) + 0.5 * float(other), rtol=1e-6)
    expected = {f"ntxent_{name}": value for name, value in of_one.items()}
    expected |= {f"supcon_{name}": value for name, value in of_other.items()}
    expected |= {"ntxent_loss": one, "supcon_loss": other}
    expected["alike_loss"] = of_one["alike_loss"] + 0.5 * of_other["alike_loss"]
    assert told.keys() == expected.keys() == set(ContrastiveLoss(LIST).objective.statistics)
    for name, value in told.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, err_msg=name)


def test_a_single_objective_stays_what_it_was_and_a_list_is_written_as_one():
    assert objective_of("{name: triplet, margin: 1.0}") == Triplet(margin=1.0)
    spec = parse_spec(
        "{data: {source: digits, labels: 1.0}, stack: [{objective: [ntxent, {name: supcon, "
        "weight: 2}]}]}"
    )
    plain = spec.model_dump(mode="json")
    written = plain["stack"][0]["objective"]
    assert [(own["name"], own["weight"]) for own in written] == [("ntxent", 1.0), ("supcon", 2.0)]
    assert load_spec(plain).stack[0].objective == spec.stack[0].objective


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[ntxent, {name: supcon, weight: 0}]", "objective.1.weight: 0 leaves the objective"),
        ("[ntxent, {name: supcon, weight: -1}]", "objective.1.weight: -1 is not a weight"),
        ("[ntxent, {name: supcon, weigth: 1}]", "weigth: unknown key. Did you mean 'weight'"),
        ("[ntxent, supcn]", "'supcn' is not a known objective. Did you mean 'supcon'"),
        ("[ntxent, {name: supcon, temperature: 0}]", "objective.1.temperature: 0 is out of range"),
        ("[{weight: 2}]", "objective.0: has no key 'name'"),
        ("[]", "objective: \\[\\] is too short"),
        ("{name: ntxent, weight: 2}", "objective.weight: unknown key"),
    ],
)
def test_mistakes_in_a_list_are_told_at_their_place(text, words):
    with pytest.raises(SpecError, match=words):
        objective_of(text)


def test_python_is_told_of_a_weight_of_nothing():
    with pytest.raises(SpecError, match=r"1\.weight: 0 leaves the objective without effect"):
        ContrastiveLoss(["ntxent", {"name": "supcon", "weight": 0}])


def test_set_reaches_into_a_list():
    value = {"stack": [{"objective": ["ntxent", {"name": "supcon"}]}]}
    changed, path = override(value, "stack.0.objective.1.weight=0.25")
    assert path == ("stack", 0, "objective", 1, "weight")
    changed, _ = override(changed, "stack.0.objective.0.temperature=0.5")
    assert changed["stack"][0]["objective"] == [
        {"name": "ntxent", "temperature": 0.5},
        {"name": "supcon", "weight": 0.25},
    ]


def test_a_model_of_a_list_makes_the_round_trip_with_its_variables(tmp_path):
    patches, targets = patches_and_targets()
    loss = ContrastiveLoss(
        [{"name": "ntxent", "learn_temperature": True, "queue_size": 8}, "supcon", "ntxent"]
    )
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.objective == loss.objective
    assert again.get_config() == loss.get_config()
    model = TripletModel(ContrastiveConvBlock(4, 6))
    model.compile("adam", loss=loss, run_eagerly=True)
    told = model.train_on_batch(patches, targets, return_dict=True)
    assert {"ntxent_loss", "ntxent2_loss", "ntxent_temperature", "supcon_loss"} < told.keys()
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    for one, other in zip(model.variables, restored.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    assert any("ntxent_queue" in variable.path for variable in restored.variables)


@pytest.mark.parametrize("objectives", [["ntxent", "supcon"], ["triplet", "supcon"]])
def test_the_guard_sees_that_a_list_has_collapsed(objectives):
    model = TripletModel(keras.layers.Identity())
    model.compile("sgd", loss=ContrastiveLoss(objectives))
    embeddings = tf.fill((12, 2, 5), 1.0)
    loss, told = model.loss.with_statistics(patches_and_targets(12)[1], embeddings)
    guard = CollapseGuard(model.loss.objective.ceiling, every=1, patience=2, action="warn",
                          warn=(said := []).append)  # fmt: skip
    guard.set_model(model)
    logs = {"loss": loss, "spread": 0.0, "effective_rank": 0.0, **told}
    for batch in range(3):
        guard.on_train_batch_end(batch, logs)
    assert len(said) == (objectives[0] == "ntxent")  # nothing is semi-hard in a triplet's
    assert objectives[0] != "ntxent" or "collapsed" in said[0]


def test_layers_of_another_list_have_another_key(tmp_path):
    from kclr.data.sources import open_sources
    from kclr.runs.keys import layers_made

    def key(objective):
        data = "{source: digits, labels: 0.1, limit: 300}"
        spec = parse_spec(f"{{data: {data}, stack: [{{objective: {objective}}}]}}")
        images = {source: own.identity() for source, own in open_sources(spec).items()}
        return layers_made(spec, images)[0].key

    keys = [
        key(text)
        for text in (
            "supcon",
            "[supcon]",
            "[ntxent, supcon]",
            "[ntxent, {name: supcon, weight: 2}]",
        )
    ]
    assert len({*keys}) == 4


def test_a_list_is_trained_from_a_spec_and_its_history_has_all_statistics(tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text("""
data: {source: digits, labels: 0.2, limit: 300}
stack:
  - block: {filters: 4}
    objective: [{name: ntxent, learn_temperature: true}, {name: supcon, weight: 0.5}]
    train: {steps: 6, batch_size: 16, log_every: 2, checkpoint_seconds: 0}
""")
    assert main(["train", str(spec), "--out", str(tmp_path / "run")]) == 0
    rows = (tmp_path / "run/layers/01-conv1/history.csv").read_text().splitlines()
    assert "supcon_class_accuracy" in rows[0]
    assert len(rows) == 4


def test_a_list_compares_as_its_terms_do():
    one, other = (objective_of("[ntxent, supcon]") for _ in range(2))
    assert isinstance(one, Several)
    assert one == other
    assert hash(one) == hash(other)
    assert one != objective_of("[supcon, ntxent]")
