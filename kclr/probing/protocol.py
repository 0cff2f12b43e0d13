"""The protocol of a probe: which labels are used, and which choose the regularisation strength.

Every figure follows it: the strength is chosen on held-out training labels; the test images are
used once, at the end.
"""

import contextlib
import copy
import inspect
from typing import Any, NamedTuple

import numpy as np

from kclr.data.labels import draw, whole_groups
from kclr.errors import SpecError
from kclr.probing.memory import of_rows
from kclr.spec.registry import parts
from kclr.spec.wording import nearest

# A strength that was chosen with fewer images than this is a matter of luck: with 50 of 500 labels
# of CIFAR-10 it costs two points, and makes the draws differ by four.
HELD_OUT = 1000
HELD_OUT_SHARES = (0.1, 0.5)
VALIDATION_SHARE = 0.2
# So that these are independent of each other and of `draw`, which has 0.
_HOLD_OUT, _VALIDATE = 1, 2


class Score(NamedTuple):
    """What a classifier of frozen features came to.

    Attributes:
        accuracy: share of the judging images that were classified correctly.
        strength: chosen on held-out labels, the classifier's `strength_`; None if it has none.
        label_count: labels that were used, the held-out ones included.
    """

    accuracy: float
    strength: float | None
    label_count: int


def probe(
    train_features,
    train_labels,
    test_features,
    test_labels,
    classifier: Any = "ridge",
    labels: float | int = 1.0,
    seed=0,
    train_groups=None,
    standardize=True,
) -> Score:
    """Fit a classifier on some of the labels and test it.

    Args:
        train_features, test_features: float32 (images, numbers).
        train_labels, test_labels: int (images,).
        classifier: "ridge", "logistic", "knn" or another name registered as a readout (see
            `kclr.probing.readouts`); or an object with `fit` and `predict`, such as a classifier or
            pipeline of scikit-learn. A copy of the object is fitted, on all labels drawn and on
            unscaled features: add a `StandardScaler` if it needs one.
        labels: a share of the training labels, or a number per class (see `draw`).
        seed: int, of the labels drawn and of those that choose the strength; and the
            `random_state` of an object that has none.
        train_groups: int (images,), of which each is either fitted on or held out where the
            strength is chosen, by a classifier whose `fit` takes `groups`; None for none.
        standardize: bool, set as the attribute of that name of a classifier that has one.

    Raises:
        SpecError: the classifier or the amount of labels is not valid, or there are too few labels.
    """
    readout = _unfitted(classifier, seed)
    if hasattr(readout, "standardize") and not standardize:
        readout.standardize = False
    check_enough(train_labels, "the training images")
    rows = draw(train_labels, labels, seed)
    options = {}
    if train_groups is not None and "groups" in inspect.signature(readout.fit).parameters:
        options["groups"] = train_groups[rows]
    readout.fit(of_rows(train_features, rows), train_labels[rows], **options)
    right = np.asarray(readout.predict(test_features)) == test_labels
    strength = getattr(readout, "strength_", None)
    return Score(float(right.mean()), None if strength is None else float(strength), len(rows))


def _unfitted(classifier, seed):
    check_classifier(classifier)
    if isinstance(classifier, str):
        readout = parts("readout")[classifier]()
    elif hasattr(classifier, "get_params"):
        from sklearn.base import clone

        readout = clone(classifier)
    else:
        readout = copy.deepcopy(classifier)
    # What is drawn without a seed would differ from call to call, and disturb numpy's generator.
    if hasattr(readout, "set_params"):
        options = readout.get_params()
        unset = [key for key in options if key.rpartition("__")[2] == "random_state"]
        readout.set_params(**{key: seed for key in unset if options[key] is None})
    elif getattr(readout, "random_state", seed) is None:
        readout.random_state = seed
    return readout


def classifier_name(classifier) -> str:
    """A classifier in results: its registered name, or an object as Python shows it."""
    return classifier if isinstance(classifier, str) else " ".join(repr(classifier).split())[:300]


def check_enough(labels, name):
    """Refuse labels that are too few to fit a classifier and choose its strength.

    Args:
        labels: int (images,), of those that a classifier is fitted on.
        name: of the images, in messages.

    Raises:
        SpecError: they are of a single class, or no class has two images.
    """
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) < 2 or counts.max() < 2:
        classes = "a single class" if len(counts) < 2 else f"{len(counts)} classes"
        raise SpecError(
            f"{name}: {len(labels)} labelled image{'s' * (len(labels) != 1)} of {classes} are too "
            "few. A classifier needs two classes, and two images of one of them to choose its "
            "regularisation strength. Raise the limit, or add images."
        )


def check_classifier(classifier):
    """Refuse what is not a known classifier.

    Raises:
        SpecError: it is neither a name of one nor an object with `fit` and `predict`.
    """
    if isinstance(classifier, str):
        if classifier not in (known := sorted(parts("readout"))):
            raise SpecError(
                f"{classifier!r} is not a known classifier.{nearest(classifier, known)}"
            )
    elif isinstance(classifier, type) or not all(
        callable(getattr(classifier, method, None)) for method in ("fit", "predict")
    ):
        raise SpecError(
            f"{classifier!r} is not a classifier. Use a name, or an object with fit and predict, "
            "such as sklearn.linear_model.RidgeClassifier()."
        )


def hold_out(labels, seed, groups=None):
    """Mark the images that are held out to choose the strength, class by class.

    Args:
        labels: int (images,).
        seed: int.
        groups: int (images,), held out as a whole; None for none.

    Returns:
        bool (images,), true for a tenth of each class; of fewer than 10,000 images, for the share
        that makes 1,000 of them, up to a half. At least one image of two or more is held out. With
        groups it is about a fifth, if the images are of enough groups for that.
    """
    if groups is not None:
        with contextlib.suppress(SpecError):  # a few labels may be of one group alone
            return whole_groups(labels, groups, seed, "labels")
    least, most = HELD_OUT_SHARES
    share = min(most, max(least, HELD_OUT / len(labels)))
    return _share_of_each_class(labels, share, np.random.default_rng([seed, _HOLD_OUT]))


def validation_rows(labels, seed, groups=None, name="images"):
    """Mark the training images that are held out for scoring during training, class by class.

    The scores may influence training decisions; the test images stay unseen.

    Args:
        labels: int (images,).
        seed: int.
        groups: int (images,), held out as a whole; None for none.
        name: of the images, in messages.

    Returns:
        bool (images,), true for a fifth of each class, and for one of those that have two or more;
        for about a fifth where there are groups.

    Raises:
        SpecError: there are too few groups.
    """
    if groups is not None:
        return whole_groups(labels, groups, seed, name)
    random = np.random.default_rng([seed, _VALIDATE])
    return _share_of_each_class(labels, VALIDATION_SHARE, random)


def _share_of_each_class(labels, share, random):
    """Mark a random share of each class; at least one image of two or more, none of one alone."""
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        if len(rows) > 1:
            chosen[rows[: max(1, round(share * len(rows)))]] = True
    return chosen
