"""Pooling of maps: one vector of every map, whatever its size, in a graph as in numpy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kclr.errors import SpecError
from kclr.pooling import POOLS, MapPooling, Pooling, grid_mean, pool_maps


def adaptive_mean(maps, grid_size):
    """PyTorch's adaptive average pooling, cell by cell, in float64."""
    maps = maps.astype(np.float64)
    _, height, width, _ = maps.shape

    def spans(count, size):
        edges = [(cell * size / count, (cell + 1) * size / count) for cell in range(count)]
        return [slice(int(np.floor(first)), int(np.ceil(last))) for first, last in edges]

    down, right = np.broadcast_to(grid_size, 2)
    rows = [
        np.stack([maps[:, i, j].mean(axis=(1, 2)) for j in spans(right, width)], axis=1)
        for i in spans(down, height)
    ]
    return np.stack(rows, axis=1)


def a_map(batch, height, width, channels, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, height, width, channels)).astype("f")


@pytest.mark.parametrize("grid_size", [1, 2, 3, 5, (1, 4), (3, 2)])
def test_grid_is_the_adaptive_mean_for_every_map_size(grid_size):
    pooled = tf.function(
        lambda maps: grid_mean(maps, grid_size),
        input_signature=[tf.TensorSpec((None, None, None, 4))],
        autograph=False,
    )
    for height in range(1, 8):
        for width in (1, 2, 5, 8):
            maps = a_map(2, height, width, 4, seed=height)
            expected = adaptive_mean(maps, grid_size)
            np.testing.assert_allclose(pooled(maps), expected, atol=1e-6)


def test_grid_cells_are_the_quarters_of_an_even_map():
    maps = a_map(2, 6, 8, 3)
    quarters = [
        block.mean(axis=(1, 2))
        for half in np.array_split(maps, 2, axis=1)
        for block in np.array_split(half, 2, axis=2)
    ]
    np.testing.assert_allclose(pool_maps(maps, "grid", 2), np.hstack(quarters), atol=1e-6)


def test_mean_max_and_flatten_are_those_of_numpy():
    maps = a_map(3, 4, 5, 2)
    np.testing.assert_allclose(pool_maps(maps, "mean"), maps.mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_array_equal(pool_maps(maps, "max"), maps.max(axis=(1, 2)))
    np.testing.assert_array_equal(pool_maps(maps, "flatten"), maps.reshape(3, -1))


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("power", [0.5, 0.3])
def test_a_power_is_that_of_numpy_after_the_pooling(pool, power):
    maps = a_map(3, 4, 5, 2)
    pooled = np.asarray(pool_maps(maps, pool)).astype(np.float64)
    expected = np.sign(pooled) * np.abs(pooled) ** power
    np.testing.assert_allclose(pool_maps(maps, pool, power=power), expected, rtol=1e-5)
    layer = MapPooling.from_config(MapPooling(pool, power=power).get_config())
    np.testing.assert_allclose(layer(maps), expected, rtol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
def test_layer_survives_save_and_reload_and_knows_its_length(pool, tmp_path):
    image = keras.Input((4, 5, 3))
    model = keras.Model(image, MapPooling(pool, 3)(image))
    maps = a_map(2, 4, 5, 3)
    expected = pool_maps(maps, pool, 3)
    assert model.output_shape == (None, expected.shape[1])
    model.save(tmp_path / "pooled.keras")
    loaded = keras.models.load_model(tmp_path / "pooled.keras")
    np.testing.assert_array_equal(loaded(maps), expected)


@pytest.mark.parametrize(("pool", "length"), [("mean", 3), ("grid", 12), ("flatten", None)])
def test_length_for_images_of_any_size_is_known_unless_it_depends_on_them(pool, length):
    image = keras.Input((None, None, 3))
    assert MapPooling(pool)(image).shape == (None, length)


def test_rows_and_columns_of_a_grid_are_kept_in_the_config_and_may_be_those_of_a_layer():
    layer = MapPooling.from_config(MapPooling("grid", [1, 4]).get_config())
    maps = a_map(2, 5, 6, 3)
    assert layer(maps).shape == layer.compute_output_shape(maps.shape) == (2, 12)
    assert MapPooling("grid", [2, 2]).get_config()["grid_size"] == 2
    assert Pooling([2, (1, 4)], all_layers=True).of_each(2) == [(2, 1.0), ((1, 4), 1.0)]
    with pytest.raises(SpecError, match=r"grid: \(1, 65\) is not possible"):
        Pooling([(1, 65)])


@pytest.mark.parametrize(
    "arguments", [{"pool": "median"}, {"grid_size": 0}, {"grid_size": 2.5}, {"power": 0}]
)
def test_layer_names_the_argument_that_is_wrong(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        MapPooling(**arguments)
