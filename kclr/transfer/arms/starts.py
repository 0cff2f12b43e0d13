"""The arms of kclr itself."""

from kclr.transfer.arms import arm, first_convolutions
from kclr.transfer.summary import REFERENCE


@arm(REFERENCE, counts=False)
def random_start(model, start):
    """The classifier as it was built."""


@arm("random frozen")
def random_frozen(model, start):
    """The classifier as it was built, with frozen first convolutions."""
    for layer in first_convolutions(model, start.count):
        layer.trainable = False


@arm("kclr frozen", needs="pretrained")
def kclr_frozen(model, start):
    """The run's filters, frozen."""
    return start.move(model, start.run, freeze=True)


@arm("kclr fine-tuned", needs="pretrained")
def kclr_fine_tuned(model, start):
    """The run's filters, fine-tuned with the rest."""
    return start.move(model, start.run)


@arm("end-to-end frozen", needs="end-to-end")
def end_to_end_frozen(model, start):
    """The filters of the same stack trained end to end, frozen."""
    return start.move(model, start.end_to_end, freeze=True)


@arm("end-to-end fine-tuned", needs="end-to-end")
def end_to_end_fine_tuned(model, start):
    """The filters of the same stack trained end to end, fine-tuned with the rest."""
    return start.move(model, start.end_to_end)


@arm("k-means", needs="pretrained")
def kmeans(model, start):
    """Centroids of whitened patches of the run's images."""
    return start.move(model, start.baseline("kmeans"))


@arm("k-means frozen", needs="pretrained")
def kmeans_frozen(model, start):
    """The same, frozen."""
    return start.move(model, start.baseline("kmeans"), freeze=True)


@arm("whitening (ZCA)", needs="pretrained")
def whitening_zca(model, start):
    """Random ZCA-whitened patches of the run's images."""
    return start.move(model, start.baseline("whitened"))


@arm("whitening (PCA)", needs="pretrained")
def whitening_pca(model, start):
    """Principal components of patches of the run's images, scaled to unit variance."""
    return start.move(model, start.baseline("pca"))


@arm("LSUV", counts=False)
def lsuv_start(model, start):
    """Orthonormal kernels in all layers, scaled to unit variance (Mishkin and Matas 2016)."""
    from kclr.transfer.lsuv import lsuv

    lsuv(model, start.images, orthonormal=True, seed=start.seed, unit=start.unit)


@arm("supervised frozen", needs="supervised")
def supervised_frozen(model, start):
    """Filters of the classifier trained on the other labelled set, frozen."""
    return start.move(model, start.supervised, freeze=True)


@arm("supervised fine-tuned", needs="supervised")
def supervised_fine_tuned(model, start):
    """Filters of the classifier trained on the other labelled set, fine-tuned with the rest."""
    return start.move(model, start.supervised)
