"""Training by contrast, of one layer or several at once: compile and fit of a `TripletModel`."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kclr.data import patches as sampled
from kclr.data.patches import PatchTripletGenerator
from kclr.data.sources import as_images, skipped_words
from kclr.errors import CollapseError
from kclr.events import Listener
from kclr.health import SMALLER_STEPS, Learned, check_input, check_learned, fault, varies
from kclr.keras_backend import compiles, dtype_policy
from kclr.layers import ContrastiveConvBlock, Decorrelation, SharedPatches, stacked
from kclr.layers.fast import several_replicas, usual_convolutions, why_windows
from kclr.losses import ContrastiveLoss
from kclr.model import TripletModel
from kclr.runs.keys import seed_of
from kclr.runs.run import PlainLayer
from kclr.spec.geometry import LayerGeometry, layer_geometry
from kclr.spec.objectives import takes, with_classes
from kclr.spec.schema import Embedding, Layer, Spec
from kclr.spec.values import each_axis, pair
from kclr.spec.wording import any_of
from kclr.training.callbacks import CollapseGuard, KeepMetrics, StepHistory
from kclr.training.checkpoints import TrainingState, restored, state_variables
from kclr.training.distribution import ALONE, Cluster, is_seed, value_of
from kclr.training.keras_objects import keras_augmentation, keras_optimizer
from kclr.training.progress import LayerProgress
from kclr.training.reseeding import Reseed
from kclr.whitening import WindowStatistics, contrast_normalized, idle_filters, standardizing, zca

_TOGETHER = 512  # of them at once, whatever the batch size
_WINDOWS = 1_000_000  # of a layer's input that its whitening is measured on, at most
_MOST_JUDGED = 20  # batches to look at before a layer is taken for dead
_LARGE = 100.0  # the largest number of a kernel that no healthy training comes to


def train_layers(
    layers: Sequence[Layer],
    sizes: LayerGeometry,
    below,
    images,
    seed,
    checkpoint,
    listener: Listener,
    cluster: Cluster = ALONE,
    callbacks: Callable[..., Sequence[Any]] | None = None,
) -> list[Learned]:
    """Train layers on the frozen output of those below, from the topmost one's objective.

    Args:
        layers: of the spec, from the image upwards: one, or several that are trained at once, for
            as many steps as they would have one by one.
        sizes: the geometry of the topmost one. Its patches, embedding, objective and `train` count.
        below: the trained layers below, from the image upwards (see `kclr.layers.stacked`).
        images: source of images (see `kclr.data.sources.as_images`).
        seed: int, of everything random in this training.
        checkpoint: Path of the training state; a file there is gone on from. Of the chief.
        listener: receives progress events.
        cluster: the workers that train together, all of which call this. The chief prepares, tells
            and saves, and its state is everybody's.
        callbacks: function of `layers`, of the `ContrastiveConvBlock` in training for each, and of
            the steps that are done, which returns Keras callbacks to train with. The `seconds` of
            one that has them, as `kclr.callbacks.Probe` does, are not counted as training.

    Returns:
        For each layer a `Learned`. The facts are those of the whole training.

    Raises:
        SpecError: Keras refuses the optimizer's or an augmentation's config; `check_keras_objects`
            finds that before anything is trained.
        CollapseError: the embeddings collapsed.
        RunError: there is nothing to learn from: the input is the same everywhere or not finite.
    """
    keras.utils.set_random_seed(seed)
    top = layers[-1]
    progress = LayerProgress(listener, top.name)
    generator = _patches(top, sizes, images, seed, progress, cluster)
    image_count = generator.image_count
    if cluster.by_file:
        image_count = int(cluster.total(np.int32(image_count)))
    total = sum(_steps(layer.train, image_count) for layer in layers)
    with cluster.strategy.scope(), dtype_policy(top.train.precision):
        training = _Training(layers, sizes, below, generator, total, cluster)
    model = training.model
    saved = restored(model, checkpoint, total, progress.warned) if cluster.chief else None
    if cluster.chief and saved is None:
        training.begin(generator, below, seed, progress)
    start, seconds = (saved.step, saved.seconds) if saved else (0, 0.0)
    start = cluster.agreed(start, total)
    cluster.align(state_variables(model))
    cluster.vary_seeds(model)
    make = generator.crops if training.shared else generator.views

    def batches(share):
        if not cluster.by_file:
            return make(start, share)
        index, workers = share
        return make(start).map(lambda patches, images: (patches, images * workers + index))

    every = top.train.log_every
    history = StepHistory(every, total, progress.row, start, seconds, saved.last if saved else None)
    guard = _guard(top, training, make, progress, start, total, saved, cluster)
    saving = []
    if cluster.chief:
        saving = [TrainingState(checkpoint, history, top.train.checkpoint_seconds, guard)]
    told = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: progress.stepped(start + batch + 1, logs)
    )
    own = [*callbacks(layers, training.blocks, start)] if callbacks else []
    reseed = training.reseed(make, start, seed) if top.train.reseed else []
    progress.started(total, start, top.train.batch_size * sizes.views, top.train.precision)
    with _ended_early(training, generator, make, saving):
        if start < total:
            # What a probe found is in the logs of those behind it.
            all_callbacks = [KeepMetrics(), guard, *reseed, *own, told, history, *saving]
            with usual_convolutions(training.jit):
                cluster.fit(model, batches, total - start, all_callbacks)
    if cluster.by_file and generator.skipped:  # of this worker's part, which nobody else sees
        progress.warned(skipped_words(generator.skipped))
    elsewhere = sum(getattr(callback, "seconds", 0.0) for callback in own)
    training_seconds = history.seconds - seconds - elsewhere
    done = total - start
    if not done:
        done, training_seconds = total, seconds
    a_step = top.train.batch_size * sizes.views
    facts = {
        "steps": total,
        "seconds": round(history.seconds, 3),
        "patches": total * a_step,
        "patches_per_second": round(done * a_step / max(training_seconds, 1e-9), 1),
        "loss": history.last.get("loss"),
        "effective_rank": history.last.get("effective_rank"),
        "skipped_images": len(generator.skipped),
    }
    facts |= {"end_to_end": True} if len(layers) > 1 else {}
    if top.takes_labels and generator.labels:
        facts["labels"] = {"source": generator.images.name, **generator.labels.facts()}
    facts |= {"replicas": cluster.replicas} if cluster.replicas > 1 else {}
    return training.learned(make(), facts)


def follow(spec: Spec, opened, cluster: Cluster) -> None:
    """Train with the chief, which finds alone what takes no steps, until all of it is written.

    Args:
        spec: from `kclr.load_spec`. opened: the images of each of its sources. cluster: of which
            this process is not the chief.
    """
    for first, top in spec.trainings():
        told = cluster.from_chief()
        layer = spec.stack[top]
        if told["finished"] or not layer.learner.contrastive:
            continue
        below = [
            PlainLayer(own.name or "", own.block.arguments(), told[f"kernel{i}"], told[f"bias{i}"])
            for i, own in enumerate(spec.stack[:first])
        ]
        images = opened[layer.data or spec.data]
        sizes, seed = layer_geometry(spec.stack, top), seed_of(spec, top)
        train_layers(
            spec.stack[first : top + 1], sizes, below, images, seed, None, Listener(), cluster
        )
    cluster.from_chief()


def tell_workers(cluster: Cluster, below, finished: bool) -> None:
    """Tell the other workers of the layers below the next ones, and whether these are finished."""
    if cluster.task.workers > 1:
        arrays = {"finished": np.asarray(finished)}
        for index, layer in enumerate(below):
            arrays |= {f"kernel{index}": layer.kernel, f"bias{index}": layer.bias}
        cluster.from_chief(arrays)


def _guard(top, training, make, progress, start, total, saved, cluster):
    """The guard against collapse, with what it had seen when the state was saved."""
    guard = CollapseGuard(
        top.objective.ceiling,
        top.train.log_every,
        action=top.train.on_collapse,
        warn=progress.warned,
        start=start,
        total=total,
        excess=training.excess(make) if cluster.replicas == 1 else None,
    )
    if saved:
        guard.state = saved.guard
    return guard


def _patches(top, sizes, images, seed, progress, cluster):
    """The patches to train on: of all images, or of this worker's part of them."""
    batch_size = top.train.batch_size
    if cluster.by_file:
        images = as_images(images).part(cluster.task.index, cluster.task.workers)
        batch_size //= cluster.task.workers
        seed = int(np.random.SeedSequence([seed, cluster.task.index]).generate_state(1)[0])
    return PatchTripletGenerator(
        images,
        patch_size=sizes.image_patch,
        crop_size=sizes.image_crop if sizes.grid else None,
        stride=sizes.image_stride or 1,
        max_shift=sizes.image_shift,
        alike=sizes.alike,
        batch_size=batch_size,
        crops_per_image=top.train.crops_per_image,
        seed=seed,
        turns=takes(top.objective, "turns"),
        labelled=top.train.labelled,
        tell=progress.decoding,
    )


@contextlib.contextmanager
def _ended_early(training, generator, make, saving):
    """Steps that may be interrupted or fail: saved where they are whole, and with the reason."""
    try:
        with contextlib.ExitStack() as signals:
            for state in saving:
                signals.enter_context(state.interruptible())
            yield
    except KeyboardInterrupt:
        # Between two steps everything agrees; within one the last save is what counts.
        for state in saving:
            if state.whole:
                state.save()
        raise
    except tf.errors.OpError:
        # What went wrong while images were read in the background says more than TensorFlow does.
        if generator.failure is None:
            raise
        raise generator.failure from None
    except CollapseError as error:
        (dead, alike), answers, _ = training.evidence(make())[-1]
        raise CollapseError(
            f"{error} Of {answers.shape[-1]} filters {_named(dead)} dead and {_named(alike)} a "
            "duplicate of another."
        ) from None


def _steps(train, images):
    """The steps that a layer is trained for, by a spec's `train`."""
    per_epoch = max(1, images * train.crops_per_image // train.batch_size)
    return train.steps or (train.epochs or 1) * per_epoch


class _Training:
    """The compiled, built model of a training, and the parts of it that are needed apart.

    Attributes:
        model: TripletModel. blocks: for each layer the ContrastiveConvBlock that is trained,
        without padding, for a patch has no outside that could be padded. shared: whether the model
        takes crops, and shares their convolution. jit: whether XLA compiles the step.
    """

    def __init__(self, layers, sizes, below, generator, total, cluster):
        self._layers, self._total, self._cluster = layers, total, cluster
        self._scaling, channels = generator.scaling, generator.channels
        top = layers[-1]
        self.blocks = [_block(layer, top.train.decorrelation) for layer in layers]
        patches = top.patches
        rest = each_axis(lambda own, step: own % step, patches.stride or 1, top.block.strides)
        self.shared = bool(sizes.grid and not patches.augment and rest == (0, 0))
        able = cluster.replicas == 1 and not patches.augment
        self.jit = jit = compiles(top.train.jit, top.train.precision, able)
        encoder = self.blocks[-1]
        if self.shared:
            encoder = SharedPatches(encoder, patches.patch_size, patches.stride, slices=jit)
        size = sizes.image_crop if self.shared else sizes.image_patch
        image = keras.Input((*size, channels))
        # Whitening is measured on patches of another size than the crops.
        any_size = keras.Input((None, None, channels))
        # Older versions of Keras have no model of an input alone.
        maps, free = image, keras.layers.Identity(dtype="float32")(any_size)
        if below:
            frozen = stacked(below, channels, padding="valid")
            frozen.trainable = False
            maps, free = frozen(maps), frozen(free)
        self._inputs, answers = [keras.Model(any_size, free)], []
        shapes = [maps.shape]
        for block in self.blocks[:-1]:
            maps, free = block(maps), block(free)
            answers.append(maps)
            shapes.append(maps.shape)
            self._inputs.append(keras.Model(any_size, free))
        maps = encoder(maps)
        with usual_convolutions(jit):
            self._convolutions = [*map(_convolution, self.blocks, shapes)]
        self._answers = keras.Model(image, [*answers, maps])
        self.model = TripletModel(
            keras.Model(image, maps),
            embedding=top.embedding.pool,
            grid_size=top.embedding.grid_size,
            head=_head(top.embedding),
            augment=keras_augmentation(patches.augment),
            augment_anchor=patches.augment_views == "all",
            scaling=generator.scaling,
        )
        if top.train.reseed:
            # Of the model, and so in the checkpoint.
            self.model.reseeded = keras.Variable(
                [0] * len(layers), dtype="int32", trainable=False, name="reseeded"
            )
        objective = top.objective
        if generator.labels:
            objective = with_classes(objective, len(generator.labels.classes))
        self.model.compile(
            optimizer=keras_optimizer(top.train.optimizer, total),
            loss=ContrastiveLoss(objective, gather=cluster.gather),
            jit_compile=jit,
        )
        self.model.build((None, *size, channels))
        self.model.optimizer.build(self.model.trainable_variables)

    def begin(self, generator, below, seed, progress):
        """Set the whitening and the kernels to start from, from the image upwards."""
        self._check_input(generator, below)
        below = list(below)
        for index, (layer, block) in enumerate(zip(self._layers, self.blocks, strict=True)):
            if layer.block.whitening != "none":
                block.set_whitening(*_whitening(layer.block, generator, self._inputs[index]))
            if layer.learner.start:
                found = layer.learner.start.learn(
                    layer, None, below, generator.images, [seed, index], None, Listener()
                )
                wrong = fault(found)
                if wrong and wrong[0] != "dead":  # dead filters may come to life, and are looked at
                    check_learned(found, layer, progress.warned)
                block.set_folded(found.kernel, found.bias)
            kernel, bias = (keras.ops.convert_to_numpy(part) for part in block.folded())
            below.append(PlainLayer(layer.name, layer.block.arguments(), kernel, bias))

    def _check_input(self, generator, below):
        """Refuse an input that nothing can be learned from; blank crops call for more of them."""
        windows = np.empty(0)
        for crops, _ in generator.crops().take(-(-sampled.MANY // generator.batch_size)):
            maps = self._inputs[0](self._scaling(crops), training=False).numpy()
            maps = maps.reshape(-1, maps.shape[-1])
            windows = np.concatenate([windows[:1], maps]) if len(windows) else maps
            if not np.isfinite(windows).all() or varies(windows):
                break
        check_input(windows, generator.images.name, below)

    def learned(self, batches, facts) -> list[Learned]:
        """The layers as they are, each with the facts of all and those of its own filters."""
        found = []
        evidence = zip(self.blocks, self.evidence(batches), strict=True)
        for index, (block, ((dead, alike), answers, deviation)) in enumerate(evidence):
            kernel, bias = (keras.ops.convert_to_numpy(part) for part in block.folded())
            own = {"dead_filters": len(dead), "duplicate_filters": len(alike)}
            own["convolution"] = self._convolutions[index]
            if self._layers[-1].train.reseed:
                own["reseeded"] = int(self.model.reseeded[index])
            found.append(Learned(kernel, bias, facts | own, answers, deviation))
        return found

    def excess(self, make):
        """A function that says during training whether filters' responses are far too large.

        Only kernels beyond those of any healthy training are tried on images, so that others cost
        nothing.
        """

        def words():
            if max(np.abs(value_of(block.kernel)).max() for block in self.blocks) < _LARGE:
                return ""
            faults = filter(None, map(fault, self.learned(make(), {})))
            loud = next((said for what, said in faults if what == "loud"), "")
            return loud and f"{loud}. Try {any_of(SMALLER_STEPS)}."

        return words

    def evidence(self, batches):
        """The responses by which layers are checked: to the first batch, and to more if there are
        none.

        Returns:
            for each layer the filters that are dead and those that answer as an earlier one, as
            `kclr.whitening.idle_filters` has them over the first batch; answers, float (windows,
            filters); and the standard deviation of its input.
        """
        found: list[Any] = []
        for crops, _ in batches.take(_MOST_JUDGED):
            answers = self._answers_to(crops)
            if not found:
                idle = [idle_filters(each) for each in answers]
            found = [*map(np.concatenate, zip(found, answers, strict=True))] if found else answers
            if all(not np.isfinite(each).all() or varies(each) for each in answers):
                break
        crops = crops if self.shared else tf.reshape(crops, (-1, *crops.shape[2:]))
        images = self._scaling(crops)
        deviations = [float(np.std(made(images, training=False))) for made in self._inputs]
        return list(zip(idle, found, deviations, strict=True))

    def reseed(self, make, start, seed):
        """The callbacks that restart dead filters; the chief uses the first batch."""
        every = self._layers[-1].train.log_every

        def align(batch, logs):
            if (start + batch + 1) % every == 0:
                self._cluster.align(
                    {
                        name: variable
                        for name, variable in state_variables(self.model).items()
                        if not is_seed(variable)
                    }
                )

        aligning = keras.callbacks.LambdaCallback(on_train_batch_end=align)
        if not self._cluster.chief:
            return [aligning]
        crops, _ = next(iter(make()))
        seeding = Reseed(
            self.blocks,
            lambda: self._answers_to(crops),
            every,
            self._total,
            seed,
            self.model.reseeded,
            start,
        )
        return [seeding, aligning]

    def _answers_to(self, crops):
        """The responses of each layer's filters to a batch: float (windows, filters)."""
        if not self.shared:
            crops = tf.reshape(crops, (-1, *crops.shape[2:]))
        answers = self._answers(self._scaling(crops), training=False)
        answers = answers if isinstance(answers, list) else [answers]
        return [keras.ops.convert_to_numpy(maps).reshape(-1, maps.shape[-1]) for maps in answers]


def _block(layer: Layer, decorrelation):
    block = layer.block
    return ContrastiveConvBlock(
        block.filters,
        block.kernel_size,
        strides=block.strides,
        pool_size=block.pool_size,
        pool_strides=block.pool_strides,
        activation=block.activation,
        use_bias=block.use_bias,
        whitening=block.whitening,
        contrast=block.contrast,
        contrast_epsilon=block.contrast_epsilon,
        batch_norm=block.batch_norm,
        kernel_regularizer=Decorrelation(decorrelation) if decorrelation else None,
        data_format="channels_last",
    )


def _convolution(block, shape):
    """How a block's convolution is computed in training, and why."""
    reason = why_windows(
        shape[1:3], block.kernel.shape, block.strides, block.padding, block.compute_dtype
    )
    return f"one product of matrices: {reason}" if reason else "TensorFlow's"


def _head(embedding: Embedding):
    """What comes between the pooled map and the objective: standardisation and projection head."""
    parts: list[keras.layers.Layer] = []
    if embedding.standardize:
        parts.append(
            keras.layers.BatchNormalization(
                center=False, scale=False, momentum=0.9, synchronized=several_replicas()
            )
        )
    for width in embedding.head:
        if len(parts) and isinstance(parts[-1], keras.layers.Dense):
            parts.append(keras.layers.ReLU())
        parts.append(keras.layers.Dense(width))
    return keras.Sequential(parts) if parts else None


def _whitening(block, generator, below):
    """Mean and transform of the whitening, from the first patches of the training.

    Args:
        block: of the spec.
        generator: of the patches.
        below: Keras model from scaled patches to the block's input.
    """
    channels = below.output_shape[-1]
    kernel, strides = pair(block.kernel_size), pair(block.strides)
    window = kernel[0] * kernel[1] if block.whitening == "zca" else 1
    statistics = WindowStatistics(window * channels, apart=block.whitening != "zca")
    batches = -(-sampled.MANY // generator.batch_size)
    anchors = generator.views().take(batches).map(lambda patches, _: patches[:, 0])
    for patches in anchors.batch(-(-_TOGETHER // generator.batch_size)):
        maps = tf.reshape(patches, (-1, *patches.shape[2:]))
        maps = below(generator.scaling(maps))
        if block.whitening == "zca" or block.contrast == "patch":
            maps = tf.image.extract_patches(
                tf.cast(maps, "float32"),
                [1, *kernel, 1],
                [1, *strides, 1],
                [1, 1, 1, 1],
                "VALID",
            )
        windows = maps.numpy().reshape(-1, maps.shape[-1])
        if block.contrast == "patch":
            windows = contrast_normalized(windows, block.contrast_epsilon)
        statistics.update(windows.reshape(-1, window * channels))
        if window > 1 and statistics.count >= _WINDOWS:
            break
    make = zca if block.whitening == "zca" else standardizing
    return statistics.mean, make(statistics.covariance, block.whitening_epsilon)


def _named(indices):
    some = ", ".join(map(str, indices[:10])) + (", ..." if len(indices) > 10 else "")
    return f"{len(indices)} ({some}) are" if indices else "none are"
