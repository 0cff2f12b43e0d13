"""The embedded photographs."""

import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from kclr.data import image_files
from kclr.data.sources import source


def test_photos_are_tiles_of_the_photographs():
    images = list(source("photos").open().read())
    china = load_sample_image("china.jpg")
    sizes = [(427, 640), (427, 640), (300, 451), (400, 600), (427, 640)]
    assert len(images) == sum((height // 64) * (width // 64) for height, width in sizes)
    assert {image.shape for image in images} == {(64, 64, 3)}
    np.testing.assert_array_equal(images[0], china[:64, :64])
    np.testing.assert_array_equal(images[11], china[64:128, 64:128])


def test_whole_photos_in_gray_on_request():
    photos = source("photos", tile=None, channels=1, limit=2)
    china, flower = photos.open().read()
    assert china.shape == flower.shape == (427, 640, 1)
    weights = np.array([0.299, 0.587, 0.114])
    exact = load_sample_image("china.jpg") @ weights
    assert np.abs(china[..., 0] - exact).max() <= 0.51
    assert photos.image_shape() == (427, 640, 1)


def test_size_of_the_tiles_is_known_beforehand():
    assert source("photos").image_shape() == (64, 64, 3)
    assert source("photos", tile=96, channels=1).image_shape() == (96, 96, 1)


def test_options_change_the_fingerprint():
    options = ({}, {"limit": 3}, {"channels": 1}, {"tile": 32}, {"memory": 3})
    assert len({source("photos", **chosen).open().fingerprint for chosen in options}) == 5
    assert source("photos").open().fingerprint == source("photos", limit=None).open().fingerprint


def test_check_does_not_load_every_reader_of_pil_to_know_the_sizes_of_photographs(monkeypatch):
    monkeypatch.setattr(image_files, "_openers", lambda targa: pytest.fail("all are loaded"))
    assert source("photos").image_shape() == (64, 64, 3)
    assert source("photos", tile=1024).image_shape() == (300, 451, 3)
