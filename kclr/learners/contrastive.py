"""Contrastive learning of one layer: compile and fit of a `TripletModel`."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from kclr.callbacks import (
    CollapseError,
    CollapseGuard,
    KeepMetrics,
    StepHistory,
    TrainingState,
    restore,
)
from kclr.data.patches import PatchTripletGenerator
from kclr.keras_objects import keras_augmentation, keras_optimizer
from kclr.layers import ContrastiveConvBlock, SharedPatches, stacked
from kclr.learners import Learned
from kclr.losses import ContrastiveLoss
from kclr.model import TripletModel
from kclr.spec.geometry import LayerGeometry
from kclr.spec.schema import Layer
from kclr.whitening import WindowStatistics, standardizing, zca

STATISTICS_CROPS = 20_000


def learn(layer: Layer, sizes: LayerGeometry, below, images, seed, checkpoint, listener) -> Learned:
    """Train one layer on the frozen output of those below.

    Args:
        layer, sizes: of the spec, and its geometry.
        below: the trained layers below, from the image upwards (see `kclr.layers.stacked`).
        images: source of images (see `kclr.data.sources.as_images`).
        seed: int, of everything random in this layer.
        checkpoint: Path of the training state; a file there is gone on from.
        listener: a `Listener`, told how it goes.

    Raises:
        SpecError: Keras refuses the optimizer's or an augmentation's config; `check_keras_objects`
            finds that before anything is trained.
        CollapseError: the embeddings collapsed.
    """
    keras.utils.set_random_seed(seed)
    generator = PatchTripletGenerator(
        images,
        patch_size=sizes.image_patch,
        crop_size=sizes.image_crop if sizes.grid else None,
        stride=sizes.image_stride if sizes.grid else 1,
        max_shift=sizes.image_shift or None,
        batch_size=layer.train.batch_size,
        crops_per_image=layer.train.crops_per_image,
        seed=seed,
    )
    total = layer.train.steps or layer.train.epochs * generator.steps_per_epoch
    with _policy(layer.train.precision):
        training = _Training(layer, sizes, below, generator.channels, total)
    model = training.model
    start, seconds = 0, 0.0
    if checkpoint.exists():
        start, seconds = restore(model, checkpoint)
    elif layer.block.whitening != "none":
        training.block.set_whitening(*_whitening(layer.block, generator, training.below))
    batches = generator.crops(start) if training.shared else generator.views(start)
    history = StepHistory(layer.train.log_every, total, listener.row, start, seconds)
    state = TrainingState(checkpoint, history, layer.train.checkpoint_seconds)
    guard = CollapseGuard(
        layer.objective.ceiling,
        layer.train.log_every,
        action=layer.train.on_collapse,
        warn=listener.warned,
    )
    told = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: listener.stepped(start + batch + 1, logs)
    )
    listener.started(total, start, layer.train.batch_size * sizes.views)
    try:
        model.fit(
            batches.take(total - start),
            steps_per_epoch=total - start,
            callbacks=[KeepMetrics(), told, guard, history, state],
            shuffle=False,
            verbose=0,
        )
    except KeyboardInterrupt:
        # Between two steps everything agrees; within one the last save is what counts.
        if int(model.optimizer.iterations) == history.step:
            state.save()
        raise
    except tf.errors.OpError:
        # What went wrong while images were read in the background says more than TensorFlow does.
        if generator.failure is None:
            raise
        raise generator.failure from None
    except CollapseError as error:
        dead, alike = _idle_filters(training, batches)
        raise CollapseError(
            f"{error} Of {layer.block.filters} filters {_named(dead)} dead and {_named(alike)} "
            "the twin of another."
        ) from None
    dead, alike = _idle_filters(training, batches)
    if generator.skipped:
        listener.warned(_skipped(generator.skipped))
    kernel, bias = (keras.ops.convert_to_numpy(part) for part in training.block.folded())
    patches = (total - start) * layer.train.batch_size * sizes.views
    return Learned(
        kernel=kernel,
        bias=bias,
        facts={
            "steps": total,
            "seconds": round(history.seconds, 3),
            "patches_per_second": round(patches / max(history.seconds - seconds, 1e-9), 1),
            "loss": history.last["loss"],
            "effective_rank": history.last["effective_rank"],
            "dead_filters": len(dead),
            "duplicate_filters": len(alike),
            "skipped_images": len(generator.skipped),
        },
    )


@contextlib.contextmanager
def _policy(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


class _Training:
    """The compiled, built model of a layer's training, and the parts of it that are needed apart.

    Attributes:
        model: TripletModel. block: the ContrastiveConvBlock that it trains, without padding, for a
        patch has no outside that could be padded. below: Keras model from images to the block's
        input, or None. shared: whether the model takes crops, and shares their convolution.
    """

    def __init__(self, layer, sizes, below, channels, total):
        self.layer = layer
        block, patches = layer.block, layer.patches
        self.block = ContrastiveConvBlock(
            block.filters,
            block.kernel_size,
            strides=block.strides,
            pool_size=block.pool_size,
            pool_strides=block.pool_strides,
            activation=block.activation,
            use_bias=block.use_bias,
            whitening=block.whitening,
            data_format="channels_last",
        )
        self.shared = bool(
            sizes.grid and not patches.augment and patches.stride % block.strides == 0
        )
        jit = layer.train.jit
        if jit == "auto":
            # Measured on a CPU: XLA wins in float32, oneDNN wins bfloat16 convolutions. On a GPU
            # Keras offers no XLA together with determinism.
            jit = (
                layer.train.precision == "float32"
                and not patches.augment
                and not tf.config.list_physical_devices("GPU")
            )
        encoder = self.block
        if self.shared:
            encoder = SharedPatches(self.block, patches.patch_size, patches.stride, slices=jit)
        size = sizes.image_crop if self.shared else sizes.image_patch
        image = keras.Input((size, size, channels))
        maps = image
        self.below = None
        if below:
            self.below = stacked(below, channels, padding="valid")
            self.below.trainable = False
            maps = self.below(maps)
        self.model = TripletModel(
            keras.Model(image, encoder(maps)),
            augment=keras_augmentation(patches),
            augment_anchor=patches.augment_views == "all",
        )
        self.model.compile(
            optimizer=keras_optimizer(layer.train.optimizer, total),
            loss=ContrastiveLoss(layer.objective),
            jit_compile=jit,
        )
        self.model.build((None, size, size, channels))
        self.model.optimizer.build(self.model.trainable_variables)


def _whitening(block, generator, below):
    """Mean and transform of the whitening, from the first patches of the training."""
    channels = generator.channels if below is None else below.output_shape[-1]
    window = block.kernel_size**2 if block.whitening == "zca" else 1
    statistics = WindowStatistics(window * channels)
    batches = -(-STATISTICS_CROPS // generator.batch_size)
    for patches, _ in generator.views().take(batches):
        maps = tf.cast(patches[:, 0], "float32") / 255
        if below is not None:
            maps = below(maps)
        if block.whitening == "zca":
            maps = tf.image.extract_patches(
                tf.cast(maps, "float32"),
                [1, block.kernel_size, block.kernel_size, 1],
                [1, block.strides, block.strides, 1],
                [1, 1, 1, 1],
                "VALID",
            )
        statistics.update(maps.numpy())
    make = zca if block.whitening == "zca" else standardizing
    return statistics.mean, make(statistics.covariance, block.whitening_epsilon)


def _idle_filters(training, batches):
    """Filters that never answer, and filters that answer as an earlier one does.

    Returns:
        dead, alike: lists of filter indices, over one batch's patches.
    """
    crops, _ = next(iter(batches))
    embeddings = training.model(crops).numpy()
    answers = embeddings.reshape(-1, training.layer.block.filters).astype(np.float64)
    deviation = answers.std(axis=0)
    dead = np.flatnonzero(deviation <= 1e-6 * max(deviation.max(), 1e-12))
    unit = (answers - answers.mean(axis=0)) / np.maximum(deviation, 1e-12)
    correlation = np.tril(unit.T @ unit / len(unit), k=-1)
    alike = np.setdiff1d(np.flatnonzero((correlation > 0.99).any(axis=1)), dead)
    return dead.tolist(), alike.tolist()


def _skipped(pictures):
    shown = "; ".join(f"{name}: {reason}" for name, reason in pictures[:5])
    more = f"; and {len(pictures) - 5} more" if len(pictures) > 5 else ""
    return f"{len(pictures)} unusable pictures were skipped ({shown}{more})"


def _named(indices):
    some = ", ".join(map(str, indices[:10])) + (", ..." if len(indices) > 10 else "")
    return f"{len(indices)} ({some}) are" if indices else "none are"
