"""The mean classifier of frozen features, and its bound (Arora et al. 2019)."""

import numpy as np

from kclr.probing.memory import blocks, standard
from kclr.spec.registry import register


@register("readout", "mean")
class MeanClassifier:
    """The class whose mean has the largest inner product with the standardised features.

    Nothing is chosen and nothing is solved: a row of the classifier is the mean of its class
    (Arora et al. 2019, section 2), so that it shows what the features alone separate. There
    is no held-out part; two labels of each class are enough.
    """

    title = "class means"

    def fit(self, features, labels):
        """Compute the means.

        Args:
            features: float32 (images, numbers).
            labels: int (images,).
        """
        self._classes, index = np.unique(labels, return_inverse=True)
        every = np.arange(len(labels))
        self._mean, self._deviation = standard(features, every)
        sums = np.zeros((len(self._classes), features.shape[1]))
        for part in blocks(every):
            np.add.at(sums, index[part], self._standardised(features[part]))
        self._means = sums / np.bincount(index)[:, None]
        return self

    def predict(self, features):
        """The classes of images: float32 (images, numbers) to int64 (images,)."""
        found = [
            (self._standardised(features[part]) @ self._means.T).argmax(axis=1)
            for part in blocks(np.arange(len(features)))
        ]
        return self._classes[np.concatenate(found)]

    def _standardised(self, values):
        return (values - self._mean) / self._deviation


def bound(features, labels, most=300, seed=0):
    """The two sides of the bound on the mean classifier's loss (Arora et al. 2019, section 4).

    `supervised <= (unsupervised - tau) / (1 - tau)`, where tau is the chance that two images are of
    one class. Both are the logistic loss `log2(1 + exp(-v))`. It holds for any features: how far
    the sides are apart says how much of the unsupervised loss the classes explain.

    Args:
        features: float (images, numbers), as they are compared: scale them first if need be.
        labels: int (images,), two classes or more.
        most: images that are used, drawn at random; the time grows with its cube.
        seed: int, of that draw.

    Returns:
        supervised: float, the mean classifier's loss over two different classes: of
            `f(x).(mean of own class - mean of the other)`.
        limit: float, the right side, from the unsupervised loss: of `f(x).(f(x+) - f(x-))`, with x
            and x+ of one class and x- of any class.

    Raises:
        ValueError: the labels drawn are of a single class.
    """
    rows = np.random.default_rng(seed).permutation(len(labels))[:most]
    own, labels = np.asarray(features, np.float64)[rows], np.asarray(labels)[rows]
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise ValueError("the labels are of a single class. Use images of two classes or more.")
    share = counts / len(labels)
    of_class = index[None, :] == np.arange(len(classes))[:, None]
    products = own @ own.T
    to_means = products @ (of_class / counts[:, None]).T
    unsupervised = supervised = 0.0
    for row, label in enumerate(index):
        differences = products[row, of_class[label]][:, None] - products[row][None, :]
        unsupervised += np.logaddexp2(0, -differences / np.log(2)).mean() / len(labels)
        losses = np.logaddexp2(0, -(to_means[row, label] - to_means[row]) / np.log(2))
        losses[label] = 0
        supervised += float(share @ losses) / len(labels)
    tau = float(np.sum(share**2))
    return float(supervised / (1 - tau)), float((unsupervised - tau) / (1 - tau))
