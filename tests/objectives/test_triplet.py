"""Distances, miners and the margin loss against float64 numpy and scikit-learn."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import chisquare
from sklearn.metrics import pairwise_distances as sklearn_distances

from kclr.errors import SpecError
from kclr.losses import ContrastiveLoss
from kclr.objectives.triplet import (
    MINERS,
    Triplet,
    hardest_negatives,
    paired_distances,
    pairwise_distances,
    random_negatives,
    semi_hard_negatives,
    triplet_hinge,
    triplet_softplus,
)

DISTANCES = ("euclidean", "cosine")


def distance_twin(first, second, distance):
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if distance == "euclidean":
        return np.linalg.norm(first - second, axis=-1)
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return 1 - (first * second).sum(axis=-1) / lengths


def pairs_of(images, embeddings, distance):
    """For each ordered pair of patches: anchor's index, positive distance; and all distances."""
    crops, views, _ = embeddings.shape
    flat = embeddings.reshape(crops * views, -1).astype(np.float64)
    distances = sklearn_distances(flat, metric=distance)
    of_image = np.repeat(images, views)
    for anchor in range(crops * views):
        crop = anchor // views
        for positive in range(crop * views, (crop + 1) * views):
            if positive != anchor:
                relative = distances[anchor] - distances[anchor, positive]
                yield anchor, distances[anchor, positive], relative, of_image != of_image[anchor]


def twin(objective, images, embeddings):
    """Loss and statistics in float64, one triplet at a time; not for random choices."""
    losses, active, right, positive, negative = [], [], [], [], []
    for _, distance, relative, others in pairs_of(images, embeddings, objective.distance):
        if objective.margin == "soft":
            hinges = np.log1p(np.exp(-relative[others]))
        else:
            hinges = np.maximum(objective.margin - relative[others], 0)
        if objective.mining == "all":
            losses += hinges[hinges > 0].tolist()
            active += (hinges > 0).tolist()
        else:
            losses.append(hinges.max())  # the nearest negative
            active.append(hinges.max() > 0)
        right += (relative[others] > 0).tolist()
        positive.append(distance)
        negative += (relative[others] + distance).tolist()
    return np.mean(losses) if losses else 0.0, {
        "active_share": np.mean(active),
        "positive_distance": np.mean(positive),
        "negative_distance": np.mean(negative),
        "triplet_accuracy": np.mean(right),
    }


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances_are_those_of_scikit_learn(embeddings, distance):
    flat = embeddings.reshape(96, -1)
    expected = sklearn_distances(flat.astype(np.float64), metric=distance)
    np.testing.assert_allclose(pairwise_distances(flat, distance), expected, atol=3e-4)
    first, second = embeddings[:, 0], embeddings[:, 1]
    expected = distance_twin(first, second, distance)
    np.testing.assert_allclose(paired_distances(first, second, distance), expected, atol=1e-6)


def test_a_large_common_part_of_embeddings_costs_no_digits(embeddings):
    flat = embeddings.reshape(96, -1)
    expected = sklearn_distances(flat.astype(np.float64))
    np.testing.assert_allclose(pairwise_distances(flat + 100), expected, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_distances_of_any_size_are_right(embeddings, scale):
    scaled = embeddings.reshape(96, -1) * np.float32(scale)
    expected = sklearn_distances(scaled.astype(np.float64))
    np.testing.assert_allclose(pairwise_distances(scaled), expected, rtol=0.01, atol=1e-3 * scale)
    np.testing.assert_allclose(
        paired_distances(scaled[:-1], scaled[1:]), np.diag(expected, 1), rtol=1e-5
    )


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradients_of_distances_are_finite_differences(embeddings, distance):
    first, second = (tf.constant(embeddings[:3, k], tf.float64) for k in (0, 3))
    for function in (lambda x: paired_distances(x, second, distance),
                     lambda x: pairwise_distances(x, distance)[0, 1:]):  # fmt: skip
        once = tf.function(function, autograph=False)  # traced once for all differences
        theoretical, numerical = tf.test.compute_gradient(once, [first], delta=1e-6)
        np.testing.assert_allclose(theoretical[0], numerical[0], atol=1e-6)


@pytest.mark.parametrize(
    ("distance", "mining", "jit"),
    [
        *((distance, mining, False) for distance in DISTANCES for mining in ("hardest", "all")),
        ("euclidean", "hardest", True),
        pytest.param("euclidean", "all", True, marks=pytest.mark.full),
    ],
)
def test_equal_embeddings_and_embeddings_of_zeros_have_finite_gradients(distance, mining, jit):
    same = np.ones((4, 3, 5), np.float32)
    zeros = np.zeros((4, 3, 5), np.float32)
    mixed = np.concatenate([zeros[:2], same[:2]])
    objective = Triplet(distance=distance, mining=mining, margin=0.5)

    def step(embeddings):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            loss, statistics = objective(tf.range(4), embeddings)
        return loss, statistics, tape.gradient(loss, embeddings)

    if jit:
        step = tf.function(step, jit_compile=True)
    for embeddings in (same, mixed):
        loss, statistics, gradient = step(tf.constant(embeddings))
        for value in (loss, gradient, *statistics.values()):
            assert np.isfinite(value).all(), value


def test_cosine_distance_of_zeros_is_one():
    assert paired_distances(np.zeros(3, np.float32), np.ones(3, np.float32), "cosine") == 1


def test_the_hinge_is_the_formula_of_facenet():
    positive, negative = np.array([0.5, 1.0, 2.0]), np.array([3.0, 1.5, 1.0])
    np.testing.assert_allclose(triplet_hinge(positive, negative, 1.0), [0, 0.5, 2.0])


def test_the_soft_margin_is_the_formula_of_hermans_however_far_apart():
    positive, negative = np.array([0.5, 2.0, 500.0]), np.array([3.0, 1.0, 1.0])
    expected = [np.log1p(np.exp(-2.5)), np.log1p(np.exp(1.0)), 499.0]
    np.testing.assert_allclose(triplet_softplus(positive, negative), expected, rtol=1e-6)


def relative_and_others(images, embeddings):
    rows = list(pairs_of(images, embeddings, "euclidean"))
    return (np.stack([row[k] for row in rows]) for k in (2, 3))


def test_mined_negatives_satisfy_their_definitions(images, embeddings):
    relative, others = relative_and_others(images, embeddings)
    relative = relative.astype(np.float32)
    rows = np.arange(len(relative))
    index, found = (part.numpy() for part in semi_hard_negatives(relative, others, 0.7, seed=3))
    allowed = others & (relative > 0) & (relative < 0.7)
    assert 0 < found.sum() < len(found)
    np.testing.assert_array_equal(found, allowed.any(axis=1))
    assert allowed[rows, index][found].all()
    assert (index[~found] == 0).all()
    index, found = (part.numpy() for part in random_negatives(relative, others, 0.7, seed=3))
    assert found.all()
    assert others[rows, index].all()
    index, found = (part.numpy() for part in hardest_negatives(relative, others, 0.7))
    assert found.all()
    np.testing.assert_array_equal(index, np.where(others, relative, np.inf).argmin(axis=1))


def test_without_images_to_choose_from_nothing_is_found():
    for miner in MINERS.values():
        index, found = miner(np.ones((3, 5), np.float32), np.zeros((3, 5), bool), 2.0)
        assert not found.numpy().any()
        assert (index.numpy() == 0).all()


def test_more_embeddings_than_can_be_numbered_are_refused():
    with pytest.raises(ValueError, match="65537 embeddings are too many.*batch_size"):
        random_negatives(None, tf.zeros((1, 65537), tf.bool), 1.0)


def test_random_choices_are_spread_evenly_over_pairs_and_over_seeds():
    """Each candidate is chosen as often as chance has it, whatever its place."""
    candidates = np.zeros((600, 64), bool)
    candidates[:, 7:57:2] = True
    distances = np.zeros((600, 64), np.float32)
    over_pairs = random_negatives(distances, candidates, 1.0, seed=5)[0].numpy()
    drawn = tf.function(lambda seed: random_negatives(distances[:1], candidates[:1], 1.0, seed)[0])
    over_seeds = np.concatenate([drawn(tf.constant(seed)) for seed in range(600)])
    for chosen in (over_pairs, over_seeds):
        counts = np.bincount(chosen, minlength=64)[7:57:2]
        assert counts.sum() == 600
        assert chisquare(counts).pvalue > 1e-3
    pairs = np.stack([over_pairs[:-1], over_pairs[1:]])
    assert abs(np.corrcoef(pairs)[0, 1]) < 0.15


def test_the_same_seed_chooses_the_same_negatives_and_another_seed_others(images, embeddings):
    relative, others = relative_and_others(images, embeddings)
    first, again, other = (
        semi_hard_negatives(relative, others, 2.0, seed=seed)[0].numpy() for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


@pytest.mark.parametrize(
    ("distance", "mining", "jit"),
    [
        ("euclidean", "hardest", True),
        pytest.param("euclidean", "all", True, marks=pytest.mark.full),
        ("cosine", "hardest", False),
        ("cosine", "all", False),
    ],
)
def test_loss_and_statistics_are_those_of_numpy(images, embeddings, mining, distance, jit):
    objective = Triplet(
        mining=mining, distance=distance, margin=1.0 if distance == "euclidean" else 0.02
    )
    call = tf.function(
        objective, jit_compile=jit,
        input_signature=[tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None, 4, 75))],
    )  # fmt: skip
    for count in (24, 10):
        loss, statistics = call(images[:count], embeddings[:count])
        expected, expected_statistics = twin(objective, images[:count], embeddings[:count])
        np.testing.assert_allclose(loss, expected, rtol=1e-4)
        assert statistics.keys() == expected_statistics.keys() == set(objective.statistics)
        for name, value in statistics.items():
            np.testing.assert_allclose(value, expected_statistics[name], rtol=2e-3, err_msg=name)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("mining", ["hardest", "all"])
def test_loss_and_statistics_with_a_soft_margin_are_those_of_numpy(
    images, embeddings, mining, distance
):
    objective = Triplet(mining=mining, distance=distance, margin="soft")
    loss, statistics = objective(images, embeddings)
    expected, expected_statistics = twin(objective, images, embeddings)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    for name, value in statistics.items():
        np.testing.assert_allclose(value, expected_statistics[name], rtol=2e-3, err_msg=name)
    assert statistics["active_share"] == 1


def test_embeddings_that_are_all_alike_have_the_loss_of_the_ceiling(images):
    same = np.ones((24, 4, 3), np.float32)
    for margin, mining in ((0.7, "all"), ("soft", "all"), ("soft", "hardest"), ("soft", "random")):
        objective = Triplet(margin=margin, mining=mining)
        np.testing.assert_allclose(objective(images, same)[0], objective.ceiling, rtol=1e-6)


def test_a_soft_margin_has_no_inside_to_mine():
    for options in ({}, {"mining": "semi-hard"}):
        with pytest.raises(SpecError, match="mining: semi-hard picks .*Use mining: hardest, all"):
            ContrastiveLoss("triplet", margin="soft", **options)


@pytest.mark.parametrize(
    ("margin", "words"),
    [
        ("sofd", "margin: 'sofd' is not allowed. Did you mean 'soft'?"),
        ("2", "margin: '2' is not a number. Write 2, without quotes."),
        (0, "margin: 0 is out of range. Use more than 0 and at most 1000."),
        (True, "margin: true is not a number. Use more than 0"),
    ],
)
def test_what_is_neither_a_margin_nor_soft_is_refused(margin, words):
    with pytest.raises(SpecError) as refusal:
        ContrastiveLoss("triplet", margin=margin, mining="all")
    assert words in str(refusal.value)


@pytest.mark.parametrize("mining", ["semi-hard", "random"])
def test_a_random_choice_has_a_loss_that_numpy_gets_for_the_same_negatives(
    images, embeddings, mining
):
    """Over many seeds the mean loss is that over all candidates of each pair."""
    objective = Triplet(mining=mining, margin=1.0)
    loss = tf.function(objective, autograph=False)
    losses = [float(loss(tf.constant(images + 97 * k), embeddings)[0]) for k in range(60)]
    means = []
    for _, _, relative, others in pairs_of(images, embeddings, "euclidean"):
        if mining == "semi-hard":
            others = others & (relative > 0) & (relative < 1.0)
        if others.any():
            means.append(np.maximum(1.0 - relative[others], 0).mean())
    assert len(set(losses)) > 50
    error = np.std(losses) / np.sqrt(len(losses))
    assert abs(np.mean(losses) - np.mean(means)) < 5 * error


@pytest.mark.parametrize(
    ("mining", "margin"),
    [
        ("semi-hard", 1.0),
        pytest.param("random", 1.0, marks=pytest.mark.full),
        pytest.param("hardest", 1.0, marks=pytest.mark.full),
        pytest.param("all", 1.0, marks=pytest.mark.full),
        ("all", "soft"),
    ],
)
def test_gradients_are_finite_differences(embeddings, mining, margin):
    objective = Triplet(mining=mining, margin=margin)
    images = tf.range(4)
    # Saturated sky makes equal patches, where the nearest negative is not one of a kind.
    noise = np.random.default_rng(0).normal(size=(4, 3, 5), scale=0.1)
    small = tf.constant(embeddings[:4, :3, ::15] + noise, tf.float64)
    loss = tf.function(lambda x: objective(images, x)[0], autograph=False)
    theoretical, numerical = tf.test.compute_gradient(loss, [small], delta=1e-6)
    assert np.abs(theoretical[0]).max() > 0
    np.testing.assert_allclose(theoretical[0], numerical[0], atol=1e-5)


@pytest.mark.parametrize(
    "mining",
    ["semi-hard", "all", *(pytest.param(m, marks=pytest.mark.full) for m in ("random", "hardest"))],
)
def test_with_and_without_xla_the_numbers_are_the_same(images, embeddings, mining):
    objective = Triplet(mining=mining, margin=1.0)
    values = []
    for call in (objective, tf.function(objective, jit_compile=True)):
        loss, statistics = call(images, embeddings)
        values.append([loss, *statistics.values()])
    np.testing.assert_allclose(*values, rtol=1e-3)


@pytest.mark.parametrize("mining", ["semi-hard", "random", "hardest", "all"])
def test_a_batch_of_one_image_has_no_loss_and_no_nan(embeddings, mining):
    loss, statistics = Triplet(mining=mining)(np.zeros(24, np.int32), embeddings)
    assert loss == 0
    assert statistics["active_share"] == statistics["negative_distance"] == 0
    assert statistics["positive_distance"] > 0


@pytest.mark.parametrize("mining", ["random", "hardest", "all"])
def test_crops_of_one_image_are_never_negatives_of_each_other(mining):
    """Two images, each with all its crops in one place: no negative is nearer than 5."""
    images = np.array([7, 9, 7, 9, 7], np.int64)
    embeddings = np.where(images[:, None, None] == 7, 0.0, 5.0) * np.ones((5, 2, 1))
    loss, statistics = Triplet(mining=mining, margin=6.0)(images, embeddings.astype(np.float32))
    np.testing.assert_allclose(loss, 1.0)
    np.testing.assert_allclose(statistics["negative_distance"], 5.0)


def test_embeddings_in_half_precision_are_compared_in_float32(images, embeddings):
    for dtype in ("float16", "bfloat16"):
        half = tf.cast(embeddings, dtype)
        loss, statistics = Triplet(mining="hardest")(images, half)
        expected = Triplet(mining="hardest")(images, tf.cast(half, "float32"))[0]
        assert loss.dtype == statistics["active_share"].dtype == tf.float32
        assert loss == expected
        assert Triplet().of_triplets(half[:, 0], half[:, 1], half[:, 2])[0].dtype == tf.float32


@pytest.mark.parametrize("margin", [0.3, "soft"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_ready_triplets_have_the_loss_of_numpy(embeddings, distance, margin):
    objective = Triplet(distance=distance, margin=margin, mining="all")
    anchor, positive, negative = embeddings[:, 0], embeddings[:, 1], np.roll(embeddings[:, 2], 1, 0)
    near, far = (distance_twin(anchor, other, distance) for other in (positive, negative))
    hinges = np.maximum(near - far + 0.3, 0) if margin == 0.3 else np.log1p(np.exp(near - far))
    loss, statistics = objective.of_triplets(anchor, positive, negative)
    np.testing.assert_allclose(loss, hinges.mean(), rtol=1e-4)
    for name, expected in {
        "active_share": (hinges > 0).mean(),
        "positive_distance": near.mean(),
        "negative_distance": far.mean(),
        "triplet_accuracy": (far > near).mean(),
    }.items():
        np.testing.assert_allclose(statistics[name], expected, rtol=1e-4)


def test_a_single_patch_of_a_crop_has_no_positive():
    with pytest.raises(ValueError, match="two patches per crop"):
        Triplet()(np.arange(4), np.zeros((4, 1, 3), np.float32))
