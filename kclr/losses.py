"""ContrastiveLoss: any registered objective as a Keras loss; ObjectiveState: its variables."""

import keras
import tensorflow as tf
from keras import ops
from pydantic import ValidationError

from kclr.errors import SpecError
from kclr.spec.findings import refusal_apart
from kclr.spec.objectives import Several, compare, objective_of, variables
from kclr.spec.registry import Part, parts
from kclr.spec.wording import nearest


@keras.saving.register_keras_serializable(package="kclr")
class ContrastiveLoss(keras.losses.Loss):
    """A registered objective as a Keras loss.

    Args:
        objective: name of a registered objective, as a spec names it ("triplet"), or the objective
            itself; or a list of several, each of these or a dict with `name`, `weight` and options,
            whose losses times their weights are added.
        name: str, the loss's name; the objective's by default.
        gather: bool, whether each replica of `tf.distribute` compares the crops of all replicas, so
            that several replicas train like one with the whole batch, or only its own.
        **options: of the objective, as in a spec.

    Call: `y_true` is int (crops,), the image of each crop, or int (crops, 2), behind it the class
    of the image, -1 for none, for objectives that take labels, or int (crops, 3), with the quarter
    turns of each crop; `y_pred` is float (crops, patches,
    dimensions), the embeddings of each crop's patches. Patches of a crop belong together, patches
    of other images do not. Computed in float32.

    Raises:
        SpecError: unknown objective, or options that it does not have.

    Example:
        >>> loss = kclr.losses.ContrastiveLoss("triplet", margin=1.0, mining="hardest")
        >>> loss(images, embeddings)
        >>> both = kclr.losses.ContrastiveLoss(["ntxent", {"name": "supcon", "weight": 0.5}])
    """

    def __init__(self, objective="triplet", name=None, gather=True, **options):
        if isinstance(objective, str):
            objective = _objective(objective, options)
        elif isinstance(objective, (list, tuple)) and not options:
            objective = _parsed([*objective])
        elif not isinstance(objective, (Part, Several)) or options:
            raise SpecError(
                "ContrastiveLoss takes an objective's name and options, an objective without "
                "options, or a list of objectives."
            )
        super().__init__(
            name=name or f"{objective.part_name}_loss", reduction="sum", dtype="float32"
        )
        self.objective, self.gather = objective, bool(gather)

    def __call__(self, y_true, y_pred, sample_weight=None):
        # Keras' own would turn image numbers into floats, which hold whole numbers to 2**24 only.
        if sample_weight is not None:
            raise ValueError("a contrastive loss compares crops and takes no sample_weight")
        return share_of_replica(self.call(*self.gathered(y_true, y_pred)))

    def gathered(self, y_true, *of_crops):
        """What a replica compares: with `gather` the crops of all, in the order of the replicas.

        The gradients that come back are the sum of all replicas', so that with `share_of_replica`
        theirs add up to those of the whole batch.

        Args, returns:
            y_true: as of the loss. of_crops: embeddings, and maps if there are any.
        """
        context = tf.distribute.get_replica_context()
        if not self.gather or context is None or context.num_replicas_in_sync == 1:
            return y_true, *of_crops

        def of_all(value):
            crops = value.shape[0] and value.shape[0] * context.num_replicas_in_sync
            return tf.ensure_shape(context.all_gather(value, 0), (crops, *value.shape[1:]))

        return of_all(_targets(y_true)), *map(of_all, map(ops.convert_to_tensor, of_crops))

    def call(self, y_true, y_pred):
        return self.with_statistics(y_true, y_pred)[0]

    def with_statistics(self, y_true, y_pred, state=None, maps=None):
        """The loss and what the objective says of the batch, a dict of scalars.

        `state` holds the values of the objective's variables (`ObjectiveState`), where it has some;
        `maps` the maps of the crops' patches, for objectives that take them.
        """
        images, of_crops = _read(y_true)
        embeddings = ops.cast(y_pred, "float32")
        if len(embeddings.shape) != 3:
            raise ValueError(
                "a contrastive loss needs embeddings (crops, patches, dimensions), not "
                f"{tuple(embeddings.shape)}. A kclr.TripletModel computes them from patches."
            )
        counts = images.shape[0], embeddings.shape[0]
        if None not in counts and counts[0] != counts[1]:
            raise ValueError(
                f"{counts[0]} image numbers do not match {counts[1]} crops. Use one per crop."
            )
        maps = None if maps is None else ops.cast(maps, "float32")
        return compare(self.objective, images, embeddings, state, maps, **of_crops)

    def get_config(self):
        own = {"name": self.name, "gather": self.gather}
        if isinstance(self.objective, Several):
            return {"objective": self.objective.plain()} | own
        named = {"objective": self.objective.part_name} | own
        return {**named, **self.objective.model_dump(mode="json")}


class ObjectiveState(keras.layers.Layer):
    """The variables of an objective that has some: a learned temperature, a queue of negatives, a
    classifier.

    A layer of the model that is trained, so that they are trained, saved and restored with its
    other variables. Empty for most objectives, and before `hold`.
    """

    def __init__(self):
        super().__init__(name="objective_state", dtype="float32")
        self._of: tuple = ()
        self._names: tuple[str, ...] = ()

    def hold(self, objective, dimensions, maps=1):
        """Make the objective's variables; those of the same objective are kept as they are.

        Args:
            objective: a registered objective.
            dimensions: int, of an embedding; None for an objective that has no variables.
            maps: height, width and filters of a map, for objectives that take maps.
        """
        if self._of == (objective, dimensions, maps):
            return
        for name in self._names:
            delattr(self, name)
        wanted = variables(objective, dimensions, maps) if dimensions else {}
        for name, arguments in wanted.items():
            setattr(self, name, self.add_weight(name=name, autocast=False, **arguments))
        self._of, self._names, self.built = (objective, dimensions, maps), tuple(wanted), True

    def values(self):
        """The variables' values by name."""
        return {name: tf.convert_to_tensor(getattr(self, name)) for name in self._names}

    def advance(self, images, embeddings):
        """Change what a training batch changes, as a queue. Args: as of the loss."""
        if self._names and hasattr(self._of[0], "next_state"):
            embeddings = ops.stop_gradient(ops.cast(embeddings, "float32"))
            new = self._of[0].next_state(_read(images)[0], embeddings, self.values())
            for name, value in new.items():
                getattr(self, name).assign(value)


_SAID = ("labels", "turns")  # of each crop, behind the number of its image


def _targets(y_true):
    """The images of crops, int32 (crops,), or more of each: int32 (crops, 2 or 3)."""
    targets = ops.cast(y_true, "int32")
    several = len(targets.shape) == 2 and 1 < targets.shape[1] <= 1 + len(_SAID)
    return targets if several else ops.reshape(targets, (-1,))


def _read(y_true):
    """The image of each crop, int32 (crops,), and what else is said of it, by name."""
    targets = _targets(y_true)
    if len(targets.shape) == 1:
        return targets, {}
    images, *others = ops.unstack(targets, targets.shape[1], axis=1)
    return images, dict(zip(_SAID, others, strict=False))


def share_of_replica(loss):
    """A replica's part of the loss: Keras adds up those of all (`tf.distribute`).

    Args:
        loss: float scalar, the mean over the replica's batch.

    Returns:
        float scalar.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return loss / replicas if replicas > 1 else loss


def _objective(name, options):
    known = parts("objective")
    if name not in known:
        raise SpecError(f"{name!r} is not a known objective.{nearest(name, known)}")
    return _parsed({"name": name, **options})


def _parsed(value):
    """The objective that a spec's plain value means.

    Raises:
        SpecError: it means none.
    """
    try:
        return objective_of(value)
    except ValidationError as error:
        named = value["name"] if isinstance(value, dict) else "list"
        spec, place = {"stack": [{"objective": value}]}, ("stack", 0, "objective")
        raise refusal_apart(error, f"objective {named!r}", spec, place, place) from None
