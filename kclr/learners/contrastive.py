"""Contrastive learning: patches of one crop embed close together, patches of other images apart."""

from typing import Annotated, Any, ClassVar

from kclr.health import Learned
from kclr.spec.registry import Named, Part, register


@register("learner", "contrastive")
class Contrastive(Part):
    """The kernel is trained by an objective on patches; see `patches`, `objective` and `train`."""

    start: Annotated[Any, Named("learner", without=("contrastive",))] | None = None
    """Another learner that provides the initial kernel, such as `kmeans`; or a run, such as
    `runs/first`, to train its layer further with a new optimizer. Random by default."""

    contrastive: ClassVar[bool] = True
    whitening_above: ClassVar[str] = "standardize"  # the default above the first layer

    def learn(
        self, layer, sizes, below, images, seed, checkpoint, listener, callbacks=None
    ) -> Learned:
        """Train one layer on the frozen output of those below; see `train_layers`."""
        from kclr.training.fit import train_layers

        return train_layers(
            [layer], sizes, below, images, seed, checkpoint, listener, callbacks=callbacks
        )[0]
