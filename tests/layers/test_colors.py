"""DropColors: one channel stays, and nothing of the others is left."""

import numpy as np
import pytest

from kclr.layers import DropColors


@pytest.mark.parametrize("shape", [(40, 9, 9, 3), (40, 1, 30, 5), (40, 30, 4)])
def test_one_channel_stays_and_the_others_are_noise_of_its_mean_and_spread(shape):
    images = np.random.default_rng(0).uniform(size=shape).astype(np.float32) ** 2
    made = np.array(DropColors(seed=1)(images, training=True))
    same = (made == images).reshape(len(images), -1, shape[-1])
    assert ((same.mean(axis=1) == 1).sum(axis=1) == 1).all()
    assert len(np.unique(same.all(axis=1).argmax(axis=1))) == shape[-1]
    for image, changed, kept in zip(images, made, same.all(axis=1).argmax(axis=1), strict=True):
        channel = image[..., kept].astype(np.float64)
        others = np.delete(changed, kept, axis=-1).astype(np.float64)
        assert abs(others.mean() - channel.mean()) < 0.01 * channel.std()
        assert 0.005 * channel.std() < others.std() < 0.02 * channel.std()


def test_images_of_one_channel_and_those_outside_of_training_do_not_change():
    images = np.random.default_rng(0).uniform(size=(4, 9, 9, 3)).astype(np.float32)
    np.testing.assert_array_equal(DropColors()(images), images)
    gray = images[..., :1]
    np.testing.assert_array_equal(DropColors()(gray, training=True), gray)


def test_a_share_out_of_range_is_refused():
    with pytest.raises(ValueError, match="use a number from 0 to 1"):
        DropColors(noise=2)
