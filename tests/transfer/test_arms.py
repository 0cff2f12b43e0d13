from types import SimpleNamespace

import keras
import numpy as np
import pytest

from kclr.data.labels import load_labelled
from kclr.spec.registry import _parts
from kclr.transfer.arms import Filters, Start, arm, arms, first_convolutions
from kclr.transfer.classifiers import build_classifier

RNG = np.random.default_rng(0)
IMAGES = load_labelled("digits", "train", channels=3).images[:32]


def layer(name, *shape):
    kernel = RNG.normal(size=shape).astype(np.float32)
    bias = RNG.normal(size=shape[3]).astype(np.float32)
    return SimpleNamespace(name=name, kernel=kernel, bias=bias, block={})


RUN = [layer("edges", 6, 6, 3, 8)]
END_TO_END = [layer("edges", 6, 6, 3, 8)]
OTHERS = {name: [layer(name, 6, 6, 3, 8)] for name in ("kmeans", "whitened", "pca", "supervised")}


def start(**changes):
    values = {
        "images": IMAGES,
        "seed": 0,
        "layers": None,
        "find_run": lambda: SimpleNamespace(layers=RUN),
        "find_end_to_end": lambda: SimpleNamespace(layers=END_TO_END),
        "find_baseline": OTHERS.__getitem__,
        "find_supervised": lambda count: OTHERS["supervised"][:count],
    }
    return Start(**(values | changes))


def classifier():
    keras.utils.set_random_seed(0)
    return build_classifier("zhao", (32, 32, 3), 10, filters=(8, 4), dense_units=6)


def prepared(name, **changes):
    model = classifier()
    arms()[name].prepare(model, start(**changes))
    return model


def alike(kernel, other):
    """Cosine of two kernels as vectors."""
    kernel, other = np.ravel(kernel), np.ravel(other)
    return kernel @ other / np.linalg.norm(kernel) / np.linalg.norm(other)


def test_random_start_leaves_the_classifier_as_it_was_built():
    for left, right in zip(prepared("random start").weights, classifier().weights, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("kclr frozen", RUN),
        ("kclr fine-tuned", RUN),
        ("end-to-end frozen", END_TO_END),
        ("end-to-end fine-tuned", END_TO_END),
        ("k-means", OTHERS["kmeans"]),
        ("k-means frozen", OTHERS["kmeans"]),
        ("whitening (ZCA)", OTHERS["whitened"]),
        ("whitening (PCA)", OTHERS["pca"]),
        ("supervised frozen", OTHERS["supervised"]),
        ("supervised fine-tuned", OTHERS["supervised"]),
    ],
)
def test_filters_that_are_moved_over_are_the_right_ones(name, source):
    model = prepared(name)
    assert alike(model.get_layer("conv1").kernel, source[0].kernel) == pytest.approx(1)
    # Above them are the classifier's own random weights, whose scale alone may change.
    assert alike(model.get_layer("dense1").kernel, classifier().get_layer("dense1").kernel) > 0.9999


@pytest.mark.parametrize("name", sorted(arms()))
def test_frozen_arms_freeze_what_was_moved_over_and_nothing_else(name):
    frozen = [each.name for each in prepared(name).layers if not each.trainable]
    assert frozen == (["conv1"] if "frozen" in name else [])


def test_lsuv_draws_all_layers_anew_and_gives_them_unit_variance():
    model = prepared("LSUV")
    kernel = np.asarray(model.get_layer("dense1").kernel, np.float64)
    products = kernel.T @ kernel
    np.testing.assert_allclose(products, products[0, 0] * np.eye(6), atol=1e-4 * products[0, 0])
    assert np.std(model(IMAGES.astype(np.float32) / 255)) == pytest.approx(1, abs=0.06)
    again = prepared("LSUV", seed=1).get_layer("dense1").kernel
    assert abs(alike(again, kernel)) < 0.9


def test_random_frozen_freezes_as_many_as_the_run_has():
    two = SimpleNamespace(layers=[*RUN, layer("corners", 3, 3, 8, 4)])
    model = prepared("random frozen", find_run=lambda: two)
    assert [each.name for each in model.layers if not each.trainable] == ["conv1", "conv2"]
    model = prepared("random frozen", find_run=None)
    assert [each.name for each in model.layers if not each.trainable] == ["conv1"]


def test_layers_says_how_many_are_moved_over():
    two = SimpleNamespace(layers=[*RUN, layer("corners", 3, 3, 8, 4)])
    own = classifier().get_layer("conv2").kernel
    moved = prepared("kclr fine-tuned", find_run=lambda: two).get_layer("conv2").kernel
    kept = prepared("kclr fine-tuned", find_run=lambda: two, layers=1).get_layer("conv2").kernel
    assert alike(moved, two.layers[1].kernel) == pytest.approx(1, abs=1e-5)
    assert alike(kept, own) == pytest.approx(1, abs=1e-5)


def test_moved_filters_keep_the_scale_that_they_were_learned_with_on_request():
    kernel = np.asarray(prepared("kclr fine-tuned", scale=False).get_layer("conv1").kernel)
    np.testing.assert_allclose(kernel, RUN[0].kernel)
    scaled = np.asarray(prepared("kclr fine-tuned").get_layer("conv1").kernel)
    assert not np.allclose(scaled, kernel)


def test_first_convolutions_pass_over_pointwise_and_depthwise_ones():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 1, name="pointwise"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            keras.Sequential([layers.Conv2D(4, 3, name="inner")]),
            layers.Conv2D(4, 3, name="outer"),
        ]
    )
    assert [each.name for each in first_convolutions(model, 5)] == ["inner", "outer"]


def test_an_arm_is_one_function(monkeypatch):
    monkeypatch.setitem(_parts, "arm", arms())

    @arm("ones", needs="pretrained")
    def ones(model, start):
        model.layers[0].kernel.assign(np.ones(model.layers[0].kernel.shape))

    assert np.all(prepared("ones").layers[0].kernel.numpy() == 1)
    assert arms()["ones"].needs == "pretrained"
    with pytest.raises(ValueError, match="already"):
        arm("ones")(lambda model, start: None)
    with pytest.raises(ValueError, match="choose from pretrained, end-to-end"):
        arm("twos", needs="pretraned")


def test_filters_are_what_initialize_takes_for_a_run():
    assert start().baseline("pca") == Filters(OTHERS["pca"])
