"""Rows of a batch, by groups and by pairs: who is alike, and who is never a negative."""

import numpy as np
import pytest

from kclr.data.relations import of_groups, of_pairs


def drawn(rows, draws=400):
    """For each row's image all images that it was found alike to, and those that it was not."""
    random = np.random.default_rng(0).uniform(size=(2, draws)).astype(np.float32)
    alike, others = {}, {}
    for row in range(len(rows)):
        same = np.full(draws, row)
        image = int(rows.images[row])
        alike[image] = {*rows.alike_to(same, random[0]).numpy().tolist()}
        others[image] = {int(rows.images[n]) for n in rows.not_alike(same, random[1]).numpy()}
    return alike, others


def test_members_of_a_group_are_alike_and_never_negatives():
    alike, others = drawn(of_groups([5, 2, 5, -1, 2, 5, 9], alone=False))
    assert alike == {0: {2, 5}, 1: {4}, 2: {0, 5}, 4: {1}, 5: {0, 2}}
    assert others == {0: {1, 4}, 1: {0, 2, 5}, 2: {1, 4}, 4: {0, 2, 5}, 5: {1, 4}}


def test_images_without_others_may_be_alike_to_themselves():
    rows = of_groups([5, 2, 5, -1, -1], alone=True)
    alike, others = drawn(rows)
    assert alike == {0: {2}, 1: {1}, 2: {0}, 3: {3}, 4: {4}}
    assert others[3] == {0, 1, 2, 4}
    assert len({*rows.numbers.tolist()}) == 4


def test_pairs_hold_in_both_directions_and_connect_groups():
    alike, others = drawn(of_pairs([0, 1, 4, 4], [1, 2, 3, 4], 6, alone=False))
    assert alike == {0: {1}, 1: {0, 2}, 2: {1}, 3: {4}, 4: {3}}
    assert others == {0: {3, 4}, 1: {3, 4}, 2: {3, 4}, 3: {0, 1, 2}, 4: {0, 1, 2}}


def test_a_graph_without_chains_and_pairs_in_one_direction():
    rows = of_pairs([0, 1, 2], [1, 2, 0], 3, alone=False, chains=False)
    assert rows.numbers.tolist() == [0, 1, 2]
    rows = of_pairs([0, 1], [2, 3], 4, alone=False, both=False)
    alike, others = drawn(rows)
    assert alike == {0: {2}, 1: {3}}
    assert others == {0: {1}, 1: {0}}


@pytest.mark.parametrize("seed", [0, 1])
def test_connected_pairs_are_those_of_scipy(seed):
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    random = np.random.default_rng(seed)
    one, two = random.integers(0, 300, (2, 180))
    rows = of_pairs(one, two, 300, alone=True)
    graph = coo_array((np.ones(180), (one, two)), shape=(300, 300))
    _, expected = connected_components(graph, directed=False)
    same = rows.numbers[:, None] == rows.numbers[None]
    np.testing.assert_array_equal(same, expected[:, None] == expected[None])
