"""TripletModel: an encoder, an embedding of its map, and an objective, for compile and fit."""

import contextlib
import math
import os
import types
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kclr.data.patches import PatchTripletGenerator
from kclr.keras_backend import compiles
from kclr.layers import SharedPatches
from kclr.losses import ContrastiveLoss, ObjectiveState, share_of_replica
from kclr.pooling import pool_maps
from kclr.scaling import Scaling, network_input
from kclr.spec.objectives import takes, variables
from kclr.spec.values import pair


def effective_rank(embeddings):
    """How many directions a batch of embeddings spreads over.

    The participation ratio of the covariance's eigenvalues, `(sum l)^2 / sum l^2`: the order-2 form
    of the effective rank of Roy and Vetterli (2007), which needs no decomposition and is never
    more than theirs. It is 1 for embeddings on a line, `dimensions` for a round cloud, and 0 where
    all are equal.

    Args:
        embeddings: float (embeddings, dimensions).

    Returns:
        float scalar.
    """
    centred = embeddings - ops.mean(embeddings, axis=0, keepdims=True)
    # The scale cancels out, but its fourth power would leave the range of floats.
    largest = ops.max(ops.abs(centred))
    centred = centred / ops.where(largest > 0, largest, 1.0)
    total = ops.sum(ops.square(centred))
    rows, columns = centred.shape
    if rows is not None and rows < (columns or 0):
        products = ops.matmul(centred, ops.transpose(centred))
    else:
        products = ops.matmul(ops.transpose(centred), centred)
    squares = ops.sum(ops.square(products))
    return ops.square(total) / ops.where(squares > 0, squares, 1.0)


def spread(embeddings):
    """Root mean square distance of embeddings from their mean, per dimension; float scalar."""
    centred = embeddings - ops.mean(embeddings, axis=0, keepdims=True)
    return ops.sqrt(ops.mean(ops.square(centred)))


@keras.saving.register_keras_serializable(package="kclr")
class TripletModel(keras.Model):
    """Trains an encoder to embed patches of one crop close together and patches of other images
    apart.

    Compile and fit it like any Keras model:

        patches = kclr.PatchTripletGenerator("photos", patch_size=7, crop_size=8)
        model = kclr.TripletModel(kclr.ContrastiveConvBlock(64, 6))
        model.compile("adam", loss=kclr.losses.ContrastiveLoss("triplet", margin=2.0))
        model.fit(patches.views(), steps_per_epoch=200)

    Args:
        encoder: Keras layer or model, from a patch (batch, height, width, channels) to a map or a
            vector; or from a crop to the maps of its patches (batch, patches, height, width,
            filters), as `kclr.layers.SharedPatches` is.
        embedding: "flatten", "mean" or "grid", how a map becomes a vector (see
            `kclr.pooling.pool_maps`).
        grid_size: int, cells of "grid" per side; or two, rows and columns.
        head: Keras layer or None, applied to the vector; not part of the encoder.
        augment: Keras layer or None, applied in training to patches with values in [0, 1]; needs
            patches, not crops, as input.
        augment_anchor: bool, whether the first patch of a crop is augmented too.
        scaling: `kclr.scaling.Scaling` (or its plain values) of the images' numbers. By default
            that of the first `PatchTripletGenerator` that the model is fitted on; without one,
            whole numbers are taken as 0 to 255 and scaled to [0, 1], and other types are used as
            they are.

    Input of fit and evaluate: a `PatchTripletGenerator`, or a data set or arrays.
        - `(patches, images)`: (crops, patches, height, width, channels), and int (crops,);
        - `(crops, images)`: (crops, height, width, channels), where the encoder makes the patches;
        - `(anchor, positive, negative)`: three times (triplets, height, width, channels). With
          arrays: `fit((anchor, positive, negative))`. `predict` and call take the same without
          image numbers, and single patches (batch, height, width, channels). They return
          embeddings, float32 (..., dimensions); those of triplets are (triplets, 3, dimensions).

    Metrics: loss; the objective's statistics (for triplets active_share, positive_distance,
    negative_distance, triplet_accuracy), averaged over batches; effective_rank and spread of the
    embeddings of each crop's first patch, which approach 1 and 0 if the embeddings collapse. Custom
    metrics get the image numbers and the embeddings; with ready triplets there are no image
    numbers.

    Raises:
        ValueError: an argument is not valid; in training, the batches are not valid, sample weights
            are given, crops are to be augmented, or the objective does not take ready triplets.
    """

    def __init__(
        self,
        encoder,
        embedding="flatten",
        grid_size=2,
        head=None,
        augment=None,
        augment_anchor=True,
        scaling=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if embedding not in ("flatten", "mean", "grid"):
            raise ValueError(f"embedding must be 'flatten', 'mean' or 'grid'; got {embedding!r}")
        self.encoder, self.embedding, self.head = encoder, embedding, head
        self.grid_size = grid_size
        self.augment, self.augment_anchor = augment, augment_anchor
        self.scaling = Scaling(**scaling) if isinstance(scaling, dict) else scaling
        self.objective_state = ObjectiveState()
        self._statistics: Mapping[str, keras.metrics.Mean] = types.MappingProxyType({})
        self._predicted_rank = None
        self._gives_maps = 0

    def fit(self, x=None, *args, **kwargs):
        """Keras' own; `x` may be a `PatchTripletGenerator`, and `validation_data` another one.

        Its views are trained on, or its crops where the encoder cuts the patches itself, for the
        generator's `steps_per_epoch` where no other number is given.
        """
        validation = kwargs.get("validation_data")
        if isinstance(validation, PatchTripletGenerator):
            kwargs.setdefault("validation_steps", validation.steps_per_epoch)
            kwargs["validation_data"] = self._batches(validation)
        if isinstance(x, PatchTripletGenerator):
            kwargs.setdefault("steps_per_epoch", x.steps_per_epoch)
        return super().fit(self._batches(x), *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        """Keras' own; `x` may be a `PatchTripletGenerator` (see `fit`)."""
        if isinstance(x, PatchTripletGenerator):
            kwargs.setdefault("steps", x.steps_per_epoch)
        return super().evaluate(self._batches(x), *args, **kwargs)

    def _batches(self, x):
        """What Keras takes, in place of what a `TripletModel` takes beyond that.

        Raises:
            ValueError: it is not a form of batches; the message says what to pass.
        """
        if isinstance(x, PatchTripletGenerator):
            if self.scaling is None:
                self.scaling = x.scaling  # and what is exported or saved knows it
            return x.crops() if self._cuts_patches else x.views()
        if x is None or isinstance(x, (str, os.PathLike, dict)):
            given = "nothing" if x is None else f"{type(x).__name__} {str(x)[:60]}"
            raise ValueError(
                f"{given}: these are not batches of patches. Use "
                "kclr.PatchTripletGenerator(images, patch_size), which cuts patches from any "
                "images."
            )
        if hasattr(x, "__next__") and not isinstance(x, types.GeneratorType):
            raise ValueError(
                f"{type(x).__name__}: an iterator of batches. Use the data set instead."
            )
        return x

    @property
    def _cuts_patches(self):
        """Whether the encoder takes crops, and makes the patches itself."""
        shape = getattr(self.encoder, "output_shape", ()) if self.encoder.built else ()
        return isinstance(self.encoder, SharedPatches) or len(shape) == 5

    def build(self, input_shape):
        if isinstance(input_shape, dict):
            raise ValueError(
                f"a batch is a dictionary of {', '.join(map(str, input_shape))}. {_WANTED}"
            )
        patch = tuple(input_shape)
        if isinstance(patch[0], (tuple, list)):  # of ready triplets
            patch = tuple(patch[0])
        if len(patch) == 5:
            patch = (None, *patch[2:])
        if len(patch) == 3:
            raise ValueError(
                f"a batch of shape {patch}: the images are not batched. Batch them, for example "
                "with dataset.batch(256)."
            )
        if not self.encoder.built:
            self.encoder.build(patch)
        if self.head is not None and not self.head.built:
            shape = self.encoder.compute_output_shape(patch)
            self.head.build((None, self._dimensions(shape)))
        self._patch_shape = patch
        self.built = True
        self._hold_state()

    def _hold_state(self):
        """Make the objective's variables, once both are known: the objective and its input."""
        if not (self.built and self.compiled and isinstance(self.loss, ContrastiveLoss)):
            return
        objective, dimensions = self.loss.objective, None
        maps: Any = 1
        if variables(objective):
            shape = self.encoder.compute_output_shape(self._patch_shape)
            dimensions = self._dimensions(shape)
            if self.head is not None:
                dimensions = self.head.compute_output_shape((None, dimensions))[-1]
            if self._compares_maps:
                if len(shape) < 4:
                    raise ValueError(
                        f"{objective.part_name} compares maps, but the encoder returns vectors. "
                        "Use one that returns (batch, height, width, filters)."
                    )
                maps = tuple(shape[-3:])
        self.objective_state.hold(objective, dimensions, maps)

    @property
    def _compares_maps(self):
        """Whether the objective takes maps."""
        return takes(getattr(self.loss, "objective", None), "maps")

    def _dimensions(self, shape):
        if len(shape) == 2 or self.embedding == "mean":
            return shape[-1]
        if self.embedding == "grid":
            return math.prod(pair(self.grid_size)) * shape[-1]
        return shape[-3] * shape[-2] * shape[-1]

    def compile(self, optimizer="rmsprop", loss=None, **kwargs):
        """Keras' own; the loss defaults to the triplet objective with its defaults."""
        loss = ContrastiveLoss() if loss is None else loss
        names = ["effective_rank", "spread"]
        if isinstance(loss, ContrastiveLoss):
            names += loss.objective.statistics
        # Keras adds metrics that it finds in a dictionary to those of an earlier compile.
        self._statistics = types.MappingProxyType(
            {name: keras.metrics.Mean(name=name) for name in names}
        )
        super().compile(optimizer=optimizer, loss=loss, **kwargs)
        if isinstance(loss, ContrastiveLoss):
            self._compare = loss.with_statistics
            if compiles(able=not self.jit_compile and not self.run_eagerly):
                # Or else mining would write its (embeddings, embeddings) to memory many times over.
                self._compare = tf.function(loss.with_statistics, jit_compile=True, autograph=False)
        self._hold_state()

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    @property
    def metrics(self):
        return [*super().metrics, *self._statistics.values()]

    def call(self, inputs, training=None):
        embeddings, maps = self._embedded(inputs, training)
        return (embeddings, maps) if self._gives_maps else embeddings

    def _embedded(self, inputs, training):
        """The embeddings, and the maps that they are of."""
        if isinstance(inputs, (tuple, list)):
            inputs = ops.stack(inputs, axis=1)
        inputs = ops.convert_to_tensor(inputs)
        inputs = network_input(inputs, self.scaling, self.compute_dtype)
        lead: tuple = (-1,)
        if len(inputs.shape) == 5:
            lead = (-1, inputs.shape[1])
            if training and self.augment is not None:
                inputs = self._augmented(inputs)
            inputs = ops.reshape(inputs, (-1, *inputs.shape[2:]))
        elif training and self.augment is not None:
            raise ValueError(
                "crops cannot be augmented, since their patches would get the same augmentation. "
                "Fit on `generator.views()`, and use an encoder of patches."
            )
        maps = self.encoder(inputs, training=training)
        if len(maps.shape) == 5:
            if len(lead) == 2:
                raise ValueError(
                    "the encoder cuts the patches of crops itself, but was given patches or "
                    "triplets. Fit on `generator.crops()`, or on the generator."
                )
            lead = (-1, maps.shape[1])
        if len(maps.shape) >= 4:
            maps = ops.reshape(maps, (-1, *maps.shape[-3:]))
            vectors = pool_maps(maps, self.embedding, self.grid_size)
        else:
            vectors = ops.reshape(maps, (-1, maps.shape[-1]))
        if self.head is not None:
            vectors = self.head(vectors, training=training)
        embeddings = ops.cast(ops.reshape(vectors, (*lead, vectors.shape[-1])), "float32")
        return embeddings, ops.reshape(maps, (*lead, *maps.shape[1:]))

    def _augmented(self, patches):
        first = 0 if self.augment_anchor else 1
        chosen = patches[:, first:]
        flat = ops.reshape(chosen, (-1, *patches.shape[2:]))
        flat = ops.cast(self.augment(flat, training=True), patches.dtype)
        flat = ops.reshape(flat, (-1, patches.shape[1] - first, *patches.shape[2:]))
        return ops.concatenate([patches[:, :first], flat], axis=1) if first else flat

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = self.loss
        y_pred, *maps = y_pred if isinstance(y_pred, tuple) else (y_pred,)
        if self._compares_maps and not maps:  # as Keras asks before a distributed training
            maps = [self._embedded(x, training)[1]]
        if isinstance(loss, ContrastiveLoss) and y is not None and len(y.shape) <= 2:
            y, y_pred, *maps = loss.gathered(y, y_pred, *maps)
        if isinstance(loss, ContrastiveLoss):
            _check_batch(x, y, y_pred, sample_weight)
        anchors = y_pred[:, 0] if len(y_pred.shape) == 3 else y_pred
        self._statistics["effective_rank"].update_state(effective_rank(anchors))
        self._statistics["spread"].update_state(spread(anchors))
        if not isinstance(loss, ContrastiveLoss):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        if y is not None:
            value, statistics = self._compare(y, y_pred, self.objective_state.values(), *maps)
            if training:
                self.objective_state.advance(y, y_pred)
        elif hasattr(loss.objective, "of_triplets"):
            value, statistics = loss.objective.of_triplets(*ops.unstack(y_pred, 3, axis=1))
        else:
            raise ValueError(
                f"the objective {loss.objective.part_name!r} does not take ready triplets. Fit on "
                "`generator.views()` or `generator.crops()`."
            )
        for name, statistic in statistics.items():
            self._statistics[name].update_state(statistic)
        for penalty in self.losses:
            value = value + ops.cast(penalty, value.dtype)
        return share_of_replica(value)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        y_pred = y_pred[0] if isinstance(y_pred, tuple) else y_pred
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def train_step(self, data):
        with self._giving_maps():
            return super().train_step(_unpack(data))

    def test_step(self, data):
        with self._giving_maps():
            return super().test_step(_unpack(data))

    @contextlib.contextmanager
    def _giving_maps(self):
        """Within a step, `call` also returns the maps, for an objective that compares them."""
        # Replicas of tf.distribute take their steps in threads, in between each other.
        self._gives_maps += self._compares_maps
        try:
            yield
        finally:
            self._gives_maps -= self._compares_maps

    def predict(self, x, *args, **kwargs):
        """Keras' own, for patches or crops."""
        if isinstance(x, PatchTripletGenerator):
            raise ValueError(
                "a generator's batches never end. Take as many as you need: "
                "generator.views().take(10)"
            )
        rank = len(getattr(x, "shape", ()))
        if rank != self._predicted_rank:
            # Or else TensorFlow takes crops' patches and single patches as of unknown rank.
            self.predict_function, self._predicted_rank = None, rank
        return super().predict(x, *args, **kwargs)

    def predict_step(self, data):
        return super().predict_step(_unpack(data))

    def get_config(self):
        def packed(part):
            return None if part is None else keras.saving.serialize_keras_object(part)

        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            "encoder": packed(self.encoder),
            "embedding": self.embedding,
            "grid_size": self.grid_size,
            "head": packed(self.head),
            "augment": packed(self.augment),
            "augment_anchor": self.augment_anchor,
            "scaling": self.scaling and self.scaling.as_dict(),
        }

    @classmethod
    def from_config(cls, config):
        parts = {
            part: config[part] and keras.saving.deserialize_keras_object(config[part])
            for part in ("dtype", "encoder", "head", "augment")
        }
        return cls(**(config | parts))


def _check_batch(x, y, y_pred, sample_weight):
    """Refuse a batch that is not of crops' patches or of ready triplets."""
    pictures = y is not None and len(y.shape) > 2
    if sample_weight is not None and pictures:
        # Only under tf.distribute, where Keras looks at a batch before train_step does.
        raise ValueError(
            "tf.distribute takes ready triplets as one input each. Use "
            "`triplets.map(lambda *images: (images,))`, or `generator.views()`."
        )
    if sample_weight is not None:
        raise ValueError("a contrastive loss compares crops and takes no sample_weight")
    if pictures:
        found = f"a batch has two parts, of shapes {tuple(x.shape)} and {tuple(y.shape)}, but "
        raise ValueError(f"{found}the second is not the number of each crop's image. {_WANTED}")
    if len(y_pred.shape) != 3:
        raise ValueError(
            "a batch has single images, but a contrastive loss compares several patches of each "
            f"crop. {_WANTED} For `crops()` the encoder must cut the patches itself, as "
            "kclr.layers.SharedPatches does."
        )
    if y is None and y_pred.shape[1] not in (None, 3):
        raise ValueError(
            f"a batch has {y_pred.shape[1]} patches of each crop, but neither image numbers nor "
            f"ready triplets. {_WANTED}"
        )


_WANTED = (
    "Fit on kclr.PatchTripletGenerator(images, patch_size), which cuts patches from images; or "
    "pass (patches, images) like its `views()`, or ready triplets (anchor, positive, negative)."
)


def _unpack(data):
    """Three images are a triplet here, not Keras' inputs, targets and sample weights."""
    if isinstance(data, (tuple, list)) and len(data) > 3:
        raise ValueError(f"a batch has {len(data)} parts. {_WANTED}")
    three = isinstance(data, (tuple, list)) and len(data) == 3
    if three and len(getattr(data[2], "shape", ())) >= 4:
        return (tuple(data),)
    return data
