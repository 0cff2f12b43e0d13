"""ContrastiveLoss behaves as every Keras loss, and refuses in the words of a spec."""

import copy

import keras
import numpy as np
import pytest

import kclr
from kclr.losses import ContrastiveLoss, share_of_replica
from kclr.objectives.triplet import Triplet


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return np.arange(12) // 2, rng.normal(size=(12, 3, 5)).astype(np.float32)


def test_the_loss_is_that_of_its_objective(batch):
    loss = ContrastiveLoss("triplet", margin=1.5, mining="hardest")
    expected = Triplet(margin=1.5, mining="hardest")(*batch)
    assert loss(*batch) == expected[0]
    assert loss.with_statistics(*batch)[1].keys() == expected[1].keys()
    assert ContrastiveLoss(Triplet(margin=1.5, mining="hardest"))(*batch) == expected[0]


def test_images_may_come_as_a_column_of_any_whole_type(batch):
    images, embeddings = batch
    loss = ContrastiveLoss(mining="hardest")
    expected = loss(images, embeddings)
    for dtype in ("int64", "uint8", "int32"):
        assert loss(images[:, None].astype(dtype), embeddings) == expected


def test_image_numbers_beyond_the_whole_numbers_of_floats_stay_apart(batch):
    """2**24 and 2**24 + 1 are one number in float32."""
    loss = ContrastiveLoss(mining="hardest")
    images = 2**24 + np.arange(12)
    assert loss(images, batch[1]) == loss(np.arange(12), batch[1])


def test_half_precision_embeddings_give_a_float32_loss(batch):
    loss = ContrastiveLoss(mining="all")(batch[0], keras.ops.cast(batch[1], "float16"))
    assert loss.dtype == "float32"
    np.testing.assert_allclose(loss, ContrastiveLoss(mining="all")(*batch), rtol=1e-3)


def test_config_makes_the_round_trip():
    loss = ContrastiveLoss("triplet", margin=0.25, mining="all", distance="cosine", name="mine")
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert isinstance(restored, ContrastiveLoss)
    assert restored.get_config() == loss.get_config()
    assert restored.objective == loss.objective
    assert restored.name == "mine"
    assert ContrastiveLoss.from_config(loss.get_config()).objective == loss.objective
    assert keras.losses.get({"class_name": "kclr>ContrastiveLoss", "config": {"margin": 3.0}})
    assert copy.deepcopy(loss).objective == loss.objective


@pytest.mark.parametrize("jit", [True, False])
def test_a_plain_keras_model_is_compiled_and_fitted_with_it(batch, jit):
    images, patches = batch
    model = keras.Sequential([keras.Input((3, 5)), keras.layers.Dense(4)])
    model.compile("sgd", loss=ContrastiveLoss(mining="hardest", margin=1.0), jit_compile=jit)
    expected = float(ContrastiveLoss(mining="hardest", margin=1.0)(images, model(patches)))
    history = model.fit(patches, images, batch_size=12, epochs=20, verbose=0).history["loss"]
    np.testing.assert_allclose(history[0], expected, rtol=1e-5)
    assert history[-1] < history[0]


@pytest.mark.parametrize(
    ("objective", "options", "words"),
    [
        ("tripet", {}, "'tripet' is not a known objective. Did you mean 'triplet'?"),
        ("triplet", {"margin": -1}, "margin: -1 is out of range. Use more than 0"),
        ("triplet", {"mining": "semihard"}, "'semihard' is not allowed. Did you mean 'semi-hard'?"),
        ("triplet", {"mrgin": 1.0}, "mrgin: unknown key. Did you mean 'margin'?"),
        ("triplet", {"margin": "2"}, "margin: '2' is not a number. Write 2, without quotes."),
        (3, {}, "takes an objective's name and options"),
        (Triplet(), {"margin": 1.0}, "takes an objective's name and options"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_in_the_words_of_a_spec(objective, options, words):
    with pytest.raises(kclr.SpecError) as refusal:
        ContrastiveLoss(objective, **options)
    assert words in str(refusal.value)


def test_all_wrong_options_are_named_at_once():
    with pytest.raises(ValueError, match=r"2 errors(.|\n)*distance(.|\n)*margin"):
        ContrastiveLoss("triplet", margin=0, distance="manhattan")


def test_shapes_that_do_not_belong_together_are_refused(batch):
    images, embeddings = batch
    with pytest.raises(ValueError, match=r"needs embeddings \(crops, patches, dimensions\), not"):
        ContrastiveLoss()(images, embeddings[:, 0])
    with pytest.raises(ValueError, match="11 image numbers do not match 12 crops"):
        ContrastiveLoss()(images[1:], embeddings)
    with pytest.raises(ValueError, match="no sample_weight"):
        ContrastiveLoss()(images, embeddings, sample_weight=np.ones(12))


def test_without_replicas_the_loss_is_whole():
    assert share_of_replica(2.5) == 2.5
