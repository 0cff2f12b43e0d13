"""Alignment: the closed form against numpy in float64, its views, and what a spec may say of it."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import kclr
from kclr.data.checks import source_findings
from kclr.data.sources import as_images
from kclr.errors import RunError, SpecError
from kclr.export import export_run
from kclr.pooling import Pooling
from kclr.probing.alignment import (
    Alignment,
    Views,
    align,
    learn_alignment,
    of_layers,
    views_of_run,
)
from kclr.probing.probe import probe_run
from kclr.probing.protocol import probe
from kclr.spec import parse_spec
from kclr.spec.schema import Alignment as Options

pytestmark = pytest.mark.usefixtures("without_pictures")

NOISE = [{"class_name": "GaussianNoise", "config": {"stddev": 0.2}}]
SPEC = """
data: {source: photos, channels: 1, limit: 4}
stack:
  - block: {filters: 6, kernel_size: 4}
    learner: {name: random}
export:
  alignment:
    augment: [{class_name: RandomBrightness, config: {factor: 0.4, value_range: [0, 1]}}]
    views: 2
    images: 16
    directions: 5
"""


def options(**changes):
    return Options.model_validate({"augment": NOISE, "views": 3, "images": 40} | changes)


@pytest.fixture(scope="module")
def views():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 4, 5, 1), np.uint8)
    return Views.of(as_images(pixels), options(directions=6), (3, 3), seed=7)


MIXING = np.random.default_rng(1).normal(size=(20, 12)).astype(np.float32)


def mixed(batch):
    """Features that noise disturbs more in some directions than in others."""
    return np.reshape(batch, (len(batch), 20)) * np.linspace(0.1, 3, 20, dtype=np.float32) @ MIXING


def test_directions_and_factors_are_those_of_the_covariance_of_the_differences(views):
    seen = []

    def features(batch):
        seen.append(mixed(batch).astype(np.float64))
        return mixed(batch)

    layer, facts = learn_alignment(features, views)
    plain, *others = seen  # all images are one batch
    mean, deviation = plain.mean(axis=0), plain.std(axis=0)
    differences = np.concatenate([(other - plain) / deviation for other in others])
    values, vectors = np.linalg.eigh(differences.T @ differences / len(differences))
    whole = np.mean(differences**2)
    values, vectors = values[::-1][:6], vectors[:, ::-1][:, :6]
    factors = np.sqrt(whole / (values + whole))
    standard = (plain - mean) / deviation
    expected = standard - standard @ vectors * (1 - factors) @ vectors.T
    np.testing.assert_allclose(layer(plain.astype(np.float32)), expected, rtol=1e-3, atol=1e-3)
    after = differences - differences @ vectors * (1 - factors) @ vectors.T
    assert facts["difference_before"] == pytest.approx(whole, abs=1e-3)
    assert facts["difference_after"] == pytest.approx(np.mean(after**2), abs=1e-3)
    assert np.mean(after**2) < 0.8 * whole


def test_the_same_seed_gives_the_same_alignment_and_global_states_stay(
    views, nothing_global_changes
):
    first, second = (learn_alignment(mixed, views)[0] for _ in range(2))
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_views_that_do_not_differ_leave_standardised_features(views):
    still = [{"class_name": "GaussianNoise", "config": {"stddev": 0.0}}]
    same = Views(views.images, views.scaling, options(augment=still))
    layer, facts = learn_alignment(mixed, same)
    made = align(layer, mixed(views.scaling(views.images)))
    np.testing.assert_allclose(made.std(axis=0), 1, rtol=1e-3)
    assert facts["difference_before"] == facts["difference_after"] == 0


def test_a_feature_that_never_responds_stays_finite(views):
    layer, _ = learn_alignment(lambda batch: mixed(batch) * (np.arange(12) > 0), views)
    assert np.isfinite(layer(mixed(views.scaling(views.images))).numpy()).all()


def test_the_layer_survives_a_round_trip_through_a_keras_file(views, tmp_path):
    layer, _ = learn_alignment(mixed, views)
    inputs = keras.Input((12,))
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "aligned.keras")
    again = keras.models.load_model(tmp_path / "aligned.keras")
    features = mixed(views.scaling(views.images))
    np.testing.assert_array_equal(model(features), again(features))
    assert Alignment.from_config(layer.get_config()).rank == layer.rank == 6
    assert not again.trainable_weights


def test_windows_of_images_that_differ_in_size_or_have_missing_pixels():
    random = np.random.default_rng(0)
    pictures = [random.random((size, 300, 2), np.float32) for size in range(6, 26)]
    pictures[3][2, :, 0] = np.nan  # every window of it
    made = Views.of(as_images(pictures), options(), (6, 9))
    assert made.images.shape == (19, 6, 256, 2)
    assert np.isfinite(made.images).all()


def test_too_few_images_are_refused_with_the_number():
    with pytest.raises(RunError, match="at least 8 images of 30x4 px.*there are 0"):
        Views.of(as_images(np.zeros((20, 9, 9, 1), np.uint8)), options(), (30, 4))


def test_too_few_images_are_refused_before_the_training(tmp_path):
    augment = [{"class_name": "RandomFlip", "config": {"mode": "horizontal"}}]
    spec = {"stack": [{"learner": "kmeans"}], "export": {"alignment": {"augment": augment}}}
    images = np.zeros((7, 32, 32, 3), np.uint8)
    with pytest.raises(RunError, match="needs at least 8 images; there are 7. Add images, or"):
        kclr.train(spec, tmp_path / "run", images=images)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("classifier", ["ridge", "logistic", "knn"])
@pytest.mark.parametrize("count", [12, 60])
def test_readouts_leave_the_scale_of_aligned_features(classifier, count):
    """One of 40 features tells the classes; the others are small, which means something."""
    random = np.random.default_rng(3)
    labels = np.arange(count) % 2
    features = 1e-3 * random.normal(size=(count, 40)).astype(np.float32)
    features[:, 0] += labels
    others = 1e-3 * random.normal(size=(50, 40)).astype(np.float32)
    others[:, 0] += np.arange(50) % 2
    score = probe(features, labels, others, np.arange(50) % 2, classifier, standardize=False)
    assert score.accuracy == 1


@pytest.fixture(scope="module")
def aligned_run(tmp_path_factory):
    return kclr.train(parse_spec(SPEC), tmp_path_factory.mktemp("runs") / "aligned", text=SPEC)


def test_embed_of_a_run_is_the_aligned_pooled_vector(aligned_run, photographs):
    saved = tf.saved_model.load(aligned_run.path / "saved_model")
    gray = photographs[:64, :, :, :1]
    plain = tf.saved_model.load(export_run(aligned_run, aligned_run.path.parent / "plain")[1])
    layer, _ = of_layers(aligned_run.layers, Pooling(), views_of_run(aligned_run))
    made = saved.embed(gray).numpy()
    assert layer.rank == 5
    assert np.abs(made - plain.embed(gray).numpy()).mean() > 0.1
    np.testing.assert_allclose(made, layer(plain.embed(gray)), rtol=1e-3, atol=1e-3)
    facts = json.loads((aligned_run.path / "saved_model/assets.extra/kclr.json").read_text())
    assert facts["aligned"] is True


def test_probe_aligns_the_run_and_its_baselines(aligned_run):
    results = probe_run(
        aligned_run, "digits", labels=[5], baselines=["random"], alignment=True, limit=200
    )
    names = {result.features for result in results}
    assert names == {"aligned, aligned", "random, aligned"}


def test_probe_and_export_name_the_key_that_a_spec_lacks(two_layers, capsys):
    from kclr.cli import main

    for command in ("export", "probe"):
        assert main([command, str(two_layers.path), "--alignment"]) == 2
        assert "has no export.alignment" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("alignment: {views: 2}", "export.alignment.augment"),
        ("alignment: {augment: []}", "export.alignment.augment"),
        ("alignment: {augment: [{class_name: RandomHue, config: {factor: 0.1}}]}", "colours"),
        (
            "alignment: {augment: [{class_name: GaussianNoise, config: {stddev: -1}}]}",
            "export.alignment.augment.0.config.stddev: -1",
        ),
    ],
)
def test_wrong_augmentations_are_named_with_their_place(lines, words):
    text = f"data: {{source: photos, channels: 1}}\nstack: [{{}}]\nexport:\n  {lines}\n"
    try:
        found = [str(finding) for finding in source_findings(parse_spec(text))]
    except SpecError as error:
        found = [str(error)]
    assert words in " ".join(found)


def test_a_zoom_that_leaves_a_series_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((9, 99, 1), np.float32))
    zoom = {"class_name": "RandomZoom", "config": {"height_factor": 0.1}}
    spec = {"data": f"series:{tmp_path / 'x.npy'}", "stack": [{}]}
    (finding,) = source_findings(
        kclr.load_spec(spec | {"export": {"alignment": {"augment": [zoom]}}})
    )
    assert "zooms a series off itself" in finding.message
    assert finding.path == ("export", "alignment", "augment", 0, "config", "height_factor")
