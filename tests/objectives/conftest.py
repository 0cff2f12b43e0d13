"""Embeddings of a photograph's patches, with crops that share an image."""

import numpy as np
import pytest
from sklearn.datasets import load_sample_image
from sklearn.feature_extraction.image import extract_patches_2d


@pytest.fixture(scope="session")
def embeddings():
    """The four patches of 24 crops of a photograph, themselves: float32 (24, 4, 75)."""
    crops = extract_patches_2d(
        load_sample_image("china.jpg"), (6, 6), max_patches=24, random_state=0
    )
    crops = crops.astype(np.float32) / 255
    patches = [crops[:, r : r + 5, c : c + 5] for r in (0, 1) for c in (0, 1)]
    return np.stack(patches, axis=1).reshape(24, 4, -1)


@pytest.fixture(scope="session")
def images():
    """Some crops are of one image."""
    return np.arange(24, dtype=np.int32) * 2 // 3
