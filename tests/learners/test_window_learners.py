"""Learners without gradients: what each finds in real photographs, and that a stack takes them."""

import numpy as np
import pytest
import yaml
from numpy.lib.stride_tricks import sliding_window_view

from kclr import whitening as windows_room
from kclr.errors import SpecError
from kclr.events import Listener
from kclr.layers import stacked
from kclr.learners._windows import WindowLearner
from kclr.learners.hebbian import competing_update
from kclr.runs.keys import seed_of
from kclr.runs.run import PlainLayer
from kclr.spec import parse_spec
from kclr.spec.registry import parts
from kclr.stack import train

pytestmark = pytest.mark.usefixtures("without_pictures")

NAMES = sorted(name for name, part in parts("learner").items() if issubclass(part, WindowLearner))
SIZE = (4, 9, 3)


def find(name, photographs, filters=20, seed=0, whitening="zca", contrast=None, **options):
    learner = parts("learner")[name].model_validate({"windows": 4000} | options)
    block = {"filters": filters, "kernel_size": SIZE[:2]} | (contrast or {})
    random = np.random.default_rng(seed)
    return learner.find(block, (*SIZE, filters), [], photographs, random, whitening, 0.01)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_filters_and_another_seed_others(name, photographs):
    first, again, other = (find(name, photographs, seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "whitening"),
    [
        (name, whitening)
        if whitening == "zca" or name == "kmeans"
        else pytest.param(name, whitening, marks=pytest.mark.full)
        for name in NAMES
        for whitening in ("zca", "standardize", "none")
    ],
)
def test_the_plain_convolution_gives_the_answers_to_whitened_windows(name, whitening, photographs):
    kernel, bias, answers = find(name, photographs, whitening=whitening, threshold=0.25)
    random = np.random.default_rng(0)
    block = {"filters": 20, "kernel_size": SIZE[:2]}
    made = windows_room.input_windows([], block, (*SIZE, 20), photographs, random, 4000)
    flat = made.reshape(len(made), -1).astype(np.float64)
    plain = flat @ kernel.reshape(-1, 20).astype(np.float64) + bias
    np.testing.assert_allclose(plain[:4000], answers, atol=2e-3 * np.abs(answers).max())


@pytest.mark.parametrize(
    ("name", "whitening"),
    [("patches", "zca"), ("patches", "standardize"), ("patches", "none"), ("kmeans", "zca")],
)
def test_a_block_of_normalised_contrast_gives_the_answers_to_whitened_windows(
    name, whitening, photographs
):
    contrast = {"contrast": "patch", "contrast_epsilon": 0.001}
    kernel, bias, answers = find(name, photographs, whitening=whitening, contrast=contrast)
    random = np.random.default_rng(0)
    block = {"filters": 20, "kernel_size": SIZE[:2]} | contrast
    made = windows_room.input_windows([], block, (*SIZE, 20), photographs, random, 4000)
    layer = PlainLayer("made", block | {"pool_size": 1, "activation": None}, kernel, bias)
    maps = stacked([layer], 3).predict(made, verbose=0).reshape(4000, 20)
    np.testing.assert_allclose(maps, answers, atol=2e-3 * np.abs(answers).max())
    _, _, without = find(name, photographs, whitening=whitening)
    assert not np.allclose(answers, without, atol=0.1 * np.abs(answers).max())


def test_windows_of_normalised_contrast_are_whitened_as_scikit_learn_would(photographs):
    from sklearn.decomposition import PCA

    flat = sliding_window_view(photographs[::4] / 255, SIZE[:2], axis=(1, 2))[:, ::3, ::3]
    flat = flat.transpose(0, 1, 2, 4, 5, 3).astype(np.float32).reshape(-1, *SIZE)
    space = windows_room.Whitened(flat.copy(), "zca", 0.01, contrast_epsilon=0.001)
    exact = flat.reshape(len(flat), -1).astype(np.float64)
    exact -= exact.mean(axis=1, keepdims=True)
    exact /= np.sqrt(exact.var(axis=1, keepdims=True) + 0.001)
    pca = PCA().fit(exact)
    variances = pca.explained_variance_ * (len(flat) - 1) / len(flat)
    scale = np.sqrt(variances + 0.01 * variances.mean())
    expected = pca.transform(exact) / scale @ pca.components_
    np.testing.assert_allclose(space.windows, expected, atol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_threshold_is_part_of_the_bias_and_signs_stand_side_by_side(name, photographs):
    kernel, bias, _ = find(name, photographs, filters=8, both_signs=True)
    np.testing.assert_allclose(kernel[..., 4:], -kernel[..., :4], atol=1e-6)
    np.testing.assert_allclose(bias[4:], -bias[:4], atol=1e-5)
    _, lower, _ = find(name, photographs, filters=8, both_signs=True, threshold=0.5)
    np.testing.assert_allclose(lower, bias - 0.5, atol=1e-5)
    odd, _, _ = find(name, photographs, filters=7, both_signs=True)
    assert odd.shape == (*SIZE, 7)


def test_whitened_windows_are_those_of_scikit_learn(photographs):
    from sklearn.decomposition import PCA

    flat = sliding_window_view(photographs[::4] / 255, SIZE[:2], axis=(1, 2))[:, ::3, ::3]
    flat = flat.transpose(0, 1, 2, 4, 5, 3).astype(np.float32).reshape(-1, *SIZE)
    space = windows_room.Whitened(flat.copy(), "zca", 0.01)
    pca = PCA().fit(flat.reshape(len(flat), -1).astype(np.float64))
    variances = pca.explained_variance_ * (len(flat) - 1) / len(flat)
    scale = np.sqrt(variances + 0.01 * variances.mean())
    expected = pca.transform(flat.reshape(len(flat), -1)) / scale @ pca.components_
    np.testing.assert_allclose(space.windows, expected, atol=2e-3)


def test_zca_filters_answer_to_one_number_each(photographs):
    _, _, answers = find("whiten", photographs, filters=216, basis="zca")
    made = windows_room.input_windows(
        [],
        {"kernel_size": SIZE[:2], "filters": 216},
        (*SIZE, 216),
        photographs,
        np.random.default_rng(0),
        4000,
    )
    whitened = windows_room.Whitened(made, "zca", 0.01).windows
    np.testing.assert_array_equal(answers, np.concatenate([whitened, -whitened], axis=1))


def test_competing_update_is_the_rule_of_the_paper_window_by_window():
    random = np.random.default_rng(0)
    weights, windows = random.normal(size=(7, 5)), random.normal(size=(11, 5))
    expected = np.zeros_like(weights)
    for window in windows:
        answers = [np.sum(np.sign(w) * np.abs(w) ** 2 * window) for w in weights]
        order = np.argsort(answers)
        for unit, gate in ((order[-1], 1.0), (order[-3], -0.4)):
            expected[unit] += gate * (window - answers[unit] * weights[unit])
    update = competing_update(weights, windows, power=3, rank=3, repulsion=0.4)
    np.testing.assert_allclose(update, expected, rtol=1e-10)


def test_hebbian_filters_find_the_directions_that_windows_have():
    random = np.random.default_rng(0)
    planted = windows_room.unit(random.normal(size=(5, 30)))
    windows = planted[random.integers(5, size=4000)] + 0.05 * random.normal(size=(4000, 30))
    found = parts("learner")["hebbian"](epochs=100, repulsion=0.1).directions(
        windows, None, 20, random
    )
    assert (planted @ found).max(axis=1).min() > 0.95
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), 1, rtol=1e-5)


def test_idle_filters_are_the_dead_and_the_later_of_two_alike():
    answers = np.random.default_rng(0).normal(size=(500, 4))
    answers[:, 1] = 3.0
    answers[:, 3] = 2 * answers[:, 0] + 1
    assert windows_room.idle_filters(answers) == ([1], [3])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    text = """
    data: {source: photos, limit: 300}
    stack:
      - block: {filters: 8}
        learner: {name: kmeans, windows: 2000, both_signs: true}
      - block: {filters: 6}
        learner: {name: hebbian, windows: 2000, epochs: 2}
      - block: {filters: 6, batch_norm: true}
        learner: {start: {name: patches, windows: 2000}}
        embedding: {pool: mean, standardize: true, head: [8, 4]}
        train: {steps: 4, batch_size: 16, log_every: 2, jit: false}
    """
    return train(parse_spec(text), tmp_path_factory.mktemp("mixed") / "run")


def test_a_stack_mixes_learners_in_one_run_format(mixed):
    assert [layer.kernel.shape[-1] for layer in mixed.layers] == [8, 6, 6]
    first, second, third = mixed.layers
    assert first.history() == []
    assert second.history() == []
    assert [row["step"] for row in third.history()] == [2, 4]
    assert not (first.directory / "history.csv").exists()
    assert (first.directory / "filters.png").exists()
    assert {"seconds", "dead_filters", "duplicate_filters"} <= first.facts.keys()
    maps = stacked(mixed.layers, 3).predict(np.random.rand(2, 40, 40, 3), verbose=0)
    assert np.isfinite(maps).all()
    assert maps.std() > 0


def test_contrastive_training_starts_from_what_the_named_learner_finds(tmp_path):
    text = """
    data: {source: photos, limit: 300}
    stack:
      - block: {filters: 8, whitening: zca}
        learner: {start: {name: kmeans, windows: 2000}}
        train:
          steps: 1
          jit: false
          batch_size: 16
          optimizer: {class_name: SGD, config: {learning_rate: 1.0e-12}}
    """
    spec = parse_spec(text)
    run = train(spec, tmp_path / "run", bare=True)
    (layer,) = spec.stack
    started = layer.learner.start.learn(
        layer, None, [], layer.data or spec.data, [seed_of(spec, 0), 0], None, Listener()
    )
    np.testing.assert_allclose(run.layers[0].kernel, started.kernel, atol=1e-3)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("learner: kmeans\n    train: {steps: 3}", r"train: is only for the learner contrastive"),
        (
            "learner: kmeans\n    block: {use_bias: false}",
            r"block.use_bias: is only for the learner",
        ),
        ("learner: {name: kmeans, iteration: 3}", "Did you mean 'iterations'"),
        ("learner: {start: contrastive}", "'contrastive' is not a known learner"),
        ("learner: {name: hebbian, rank: 1}", "learner.rank: 1 "),
    ],
)
def test_what_a_learner_does_not_take_is_refused(layer, words):
    with pytest.raises(SpecError, match=words):
        parse_spec(f"stack:\n  - {layer}\n")


def test_windows_too_wide_to_whiten_are_refused_in_a_spec():
    text = "stack: [{block: {filters: 1000}}, {learner: kmeans}]"
    with pytest.raises(SpecError, match=r"zca of windows of 9,000 values \(3x3x1000\)"):
        parse_spec(text, ["stack.1.block.whitening=zca"])
    assert parse_spec(text).stack[1].block.whitening == "standardize"


def test_whitening_above_the_first_layer_is_by_channel_but_for_the_learner_of_that_name():
    for name, below, above in (("random", "zca", "standardize"), ("whiten", "zca", "zca")):
        layers = parse_spec(f"stack: [{{learner: {name}}}, {{learner: {name}}}]").stack
        assert [layer.block.whitening for layer in layers] == [below, above]


def test_plain_layers_are_what_a_stack_takes():
    layer = PlainLayer("a", {"filters": 2, "kernel_size": 1}, np.ones((1, 1, 3, 2)), np.zeros(2))
    assert stacked([layer], 3).output_shape == (None, None, None, 2)


def test_the_resolved_spec_of_such_a_layer_can_be_read_again():
    spec = parse_spec("stack: [{learner: kmeans}, {learner: random}]")
    assert parse_spec(yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)) == spec


def test_nothing_to_train_at_once_is_said():
    with pytest.raises(
        SpecError, match=r"train.end_to_end: there are no two layers of the learner"
    ):
        parse_spec("{train: {end_to_end: true}, stack: [{}, {learner: kmeans}, {}]}")
    assert parse_spec("{train: {end_to_end: true}, stack: [{learner: kmeans}, {}, {}]}")
