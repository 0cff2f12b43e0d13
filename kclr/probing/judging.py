"""From frozen features to a figure: for the probe, its callback and experiments alike."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kclr.data.labels import Labelled
from kclr.keras_backend import dtype_policy
from kclr.layers import stacked
from kclr.pooling import Pooling
from kclr.probing.features import features
from kclr.probing.protocol import Score, probe


@dataclass(frozen=True)
class FrozenFeatures:
    """Features of the images to fit a classifier on, and of those to judge it by, made once.

    Attributes:
        fitting, judging: float32 (images, numbers), those of each layer behind those of the layers
            below it.
        fitting_labels, judging_labels: int (images,).
        lengths: how many of the numbers each layer made, from the image upwards.
        seconds: that they took.
        fitting_groups: int (images,), see `kclr.probing.protocol.probe`; None for none.
        standardize: bool, whether kclr's readouts standardise the features; aligned ones have
            their scale already.
    """

    fitting: Any
    fitting_labels: Any
    judging: Any
    judging_labels: Any
    lengths: Sequence[int] = ()
    seconds: float = 0.0
    fitting_groups: Any = None
    standardize: bool = True

    def score(self, classifier="ridge", labels: float | int = 1.0, seed=0, layers=None) -> Score:
        """Fit a classifier and judge it.

        Args:
            classifier, labels, seed: as of `kclr.probing.protocol.probe`, which raises what is
                wrong with them.
            layers: slice of the layers whose features are used; None for all.
        """
        columns = slice(None)
        if layers is not None:
            ends = [0, *itertools.accumulate(self.lengths)]
            chosen = range(len(self.lengths))[layers]
            columns = slice(ends[chosen[0]], ends[chosen[-1] + 1])
        return probe(
            self.fitting[:, columns],
            self.fitting_labels,
            self.judging[:, columns],
            self.judging_labels,
            classifier,
            labels,
            seed,
            self.fitting_groups,
            self.standardize,
        )


def stack_features(
    layers, fitting: Labelled, judging: Labelled, pooling: Pooling, views=None
) -> FrozenFeatures:
    """The features of a stack of trained layers.

    Args:
        layers: from the image upwards, as of `kclr.layers.stacked`.
        fitting, judging: labelled images with as many channels as the first layer sees.
        pooling: of the layers' maps.
        views: `kclr.probing.alignment.Views` to align the features by; None for plain features.

    Raises:
        SpecError: the images are too small for the layers, or the pooling is not for as many.
    """
    counts = [layer.kernel.shape[-1] for layer in layers]
    lengths = pooling.lengths(counts if pooling.all_layers else counts[-1:])
    with dtype_policy(pooling.precision):
        model = pooling.maps(stacked(layers, layers[0].kernel.shape[2]))
    start = time.perf_counter()
    own, others = (features(model, part, pooling) for part in (fitting, judging))
    if views is not None:
        from kclr.probing.alignment import align, of_layers

        layer, _ = of_layers(layers, pooling, views)
        own, others = (align(layer, part) for part in (own, others))
    return FrozenFeatures(
        own,
        fitting.labels,
        others,
        judging.labels,
        lengths,
        time.perf_counter() - start,
        fitting.groups,
        standardize=views is None,
    )
