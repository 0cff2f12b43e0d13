"""The pictures of a finished layer: how it was learned, and what its filters look for."""

import numpy as np

from kclr.data import patches as sampled
from kclr.data.patches import PatchTripletGenerator
from kclr.drawing.curves import curves_png
from kclr.drawing.filters import (
    MOST_MOSAICS,
    filter_order,
    filters_png,
    patches_png,
    patterns,
    top_patches,
)
from kclr.layers import stacked
from kclr.runs.run import TrainedLayer
from kclr.spec.geometry import LayerGeometry, cut_around
from kclr.whitening import input_windows

PATTERN_WINDOWS = 5_000


def draw_layer(trained: TrainedLayer, below, sizes: LayerGeometry, images, seed):
    """Draw a layer's learning curves, and its filters: themselves, or what excites them most.

    Args:
        trained: the layer; its pictures go to its directory.
        below: the layers below, from the image upwards. sizes: the layer's geometry.
        images: of its training, from `kclr.data.sources.as_images`. seed: int, of the run.
    """
    if rows := trained.history():
        curves = trained.directory / "curves.png"
        curves_png(curves, rows, title=f"{trained.name}: training")
    path, kernel = trained.directory / "filters.png", trained.kernel
    look = {"bands": images.bands, "series": images.series}
    if not below:
        random = np.random.default_rng(seed)
        block = trained.facts["block"]
        windows = input_windows([], block, kernel.shape, images, random, PATTERN_WINDOWS)
        title = f"{trained.name}: what each filter looks for (left), and its weights (right)"
        filters_png(path, patterns(kernel, windows), title=title, beside=kernel, **look)
        return
    order = filter_order(kernel)
    size = sizes.receptive_field
    cut = cut_around(size)
    generator = PatchTripletGenerator(images, patch_size=cut, seed=seed)
    encode = stacked([*below, trained], generator.channels, size=cut, padding="valid")
    batches = generator.views().take(-(-sampled.MANY // generator.batch_size))
    shown = order[:MOST_MOSAICS]
    pairs = (
        (patches[:, 0].numpy(), encode.predict_on_batch(generator.scaling(patches[:, 0])))
        for patches, _ in batches
    )
    patches, responses = top_patches(pairs, jump=sizes.jump, start=0, size=size, filters=shown)
    what = "stretches of series" if images.series else "image patches"
    title = f"{trained.name}: the {what} that excite each filter most"
    patches_png(path, patches, responses, title=title, **look)
