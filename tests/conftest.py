import os

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture(scope="session")
def photographs():
    """Tiles of two photographs, uint8 (tiles, 32, 32, 3)."""
    from sklearn.datasets import load_sample_images

    tiles = []
    for image in load_sample_images().images:
        tiles += [
            image[y : y + 32, x : x + 32] for y in range(0, 400, 32) for x in range(0, 600, 32)
        ]
    return np.stack(tiles)
