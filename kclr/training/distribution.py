"""Training on several devices and machines: a TensorFlow strategy, and messages between the workers
of a cluster."""

import contextlib
import io
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kclr.errors import Finding, RunError
from kclr.spec.findings import refusal
from kclr.spec.schema import Spec, Training
from kclr.training.workers import ONLY, task_from_environment

_LOST = (  # what a collective operation raises where another worker has gone
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class Cluster:
    """The processes that train one run together, and the devices of this one.

    Args:
        strategy: of `tf.distribute`; by default the one in scope.
        task: which of the workers this process is.
        gather: bool, whether an objective compares the crops of all replicas.
        by_file: bool, whether each worker reads its own pictures, or its part of every batch.

    Attributes:
        task, gather, by_file: as given.
    """

    def __init__(self, strategy=None, task=ONLY, gather=True, by_file=False):
        self._strategy, self.task, self.gather, self.by_file = strategy, task, gather, by_file

    @property
    def strategy(self) -> tf.distribute.Strategy:
        """That of `tf.distribute`."""
        return self._strategy or tf.distribute.get_strategy()

    @property
    def replicas(self) -> int:
        """Devices of all workers."""
        return self.strategy.num_replicas_in_sync

    @property
    def chief(self) -> bool:
        """Whether this process writes the run directory, and tells of the training."""
        return self.task.index == 0

    @property
    def shared(self) -> dict[str, Any]:
        """How the training is shared, by the keys that a spec has for it, where kernels depend on
        that; empty where they are those of a single device."""
        if self.replicas == 1 or (self.gather and not self.by_file):
            return {}
        return {
            "train.shard": "file" if self.by_file else "example",
            "train.gather": self.gather,
            "devices": self.replicas,
        }

    def total(self, numbers):
        """Sum over all workers.

        Args:
            numbers: int32 or float32, an array or a number; of one shape in all workers, which must
                all call this.

        Returns:
            numpy array.
        """
        numbers = np.asarray(numbers)
        if self.task.workers == 1:
            return numbers
        local = self.replicas // self.task.workers  # devices of each worker

        def of_replica():
            context = tf.distribute.get_replica_context()
            first = tf.cast(context.replica_id_in_sync_group % local == 0, numbers.dtype)
            return context.all_reduce(tf.distribute.ReduceOp.SUM, numbers * first)

        summed = self.strategy.run(of_replica)
        return self.strategy.experimental_local_results(summed)[0].numpy()

    def from_chief(self, arrays=None):
        """The chief's arrays, in every worker; the chief waits until all have asked.

        Args:
            arrays: dict of numpy arrays, of the chief alone.

        Returns:
            The same dict.
        """
        if self.task.workers == 1:
            return arrays
        file = io.BytesIO()
        if self.chief:
            np.savez(file, **(arrays or {}))
        packed = file.getvalue()
        words = np.frombuffer(packed + bytes(-len(packed) % 4), np.int32)
        size = int(self.total(np.int32(len(words))))
        words = self.total(words if self.chief else np.zeros(size, np.int32))
        with np.load(io.BytesIO(words.tobytes()), allow_pickle=False) as told:
            return dict(told)

    def agreed(self, start, total) -> int:
        """The step to start at, which the chief knows.

        Raises:
            RunError: this worker would train for another number of steps than the chief, since its
                images are others.
        """
        told = self.from_chief({"start": np.asarray(start), "total": np.asarray(total)})
        if told["total"] != total:
            raise RunError(
                f"{self.task}: its images give a training of {total} steps, but those of worker 0 "
                f"give {told['total']}. Use the same images on all workers."
            )
        return int(told["start"])

    def align(self, variables):
        """Give variables the values that they have in the chief.

        Args:
            variables: dict of Keras variables by name, of the same names in all workers.
        """
        if self.task.workers == 1:
            return
        told = self.from_chief({name: value_of(v) for name, v in variables.items()})
        if not self.chief:
            for name, variable in variables.items():
                put(variable, told[name])

    def vary_seeds(self, model):
        """Let a built model's random layers, which all replicas have alike, draw differently."""
        first = self.task.index * (self.replicas // self.task.workers)
        for variable in model.variables:
            if is_seed(variable):
                for number, copy in enumerate(_copies(variable), first):
                    copy.assign(copy + tf.cast([number, 0], copy.dtype))

    def fit(self, model, batches, steps, callbacks):
        """`model.fit` for one epoch, on all workers at once.

        With one worker it is Keras' own. With several Keras 3 cannot
        (`MultiWorkerMirroredStrategy`), and the loop is this one.

        Args:
            model: compiled, built Keras model, made in the scope of the strategy.
            batches: function of `share`, (index, count), that returns the data set of that part of
                every batch.
            steps: int.
            callbacks: list of Keras callbacks.
        """
        if self.task.workers == 1:
            model.fit(
                batches((0, 1)).take(steps),
                steps_per_epoch=steps,
                callbacks=callbacks,
                shuffle=False,
                verbose=0,
            )
            return
        listed = keras.callbacks.CallbackList(callbacks, model=model, epochs=1, steps=steps)
        step = _step(model, self.strategy)
        iterator = iter(self._distributed(batches))
        listed.on_train_begin()
        model.reset_metrics()
        listed.on_epoch_begin(0)
        logs: dict = {}
        for index in range(steps):
            listed.on_train_batch_begin(index)
            logs = step(iterator)
            listed.on_train_batch_end(index, logs)
        listed.on_epoch_end(0, logs)
        model.optimizer.finalize_variable_values(model.trainable_weights)
        listed.on_train_end(logs)

    def _distributed(self, batches):
        """The data set of this worker, a part of its own for each of its devices."""
        workers, local = self.task.workers, self.replicas // self.task.workers

        def parts(crops, images):
            return tuple(
                tf.reshape(each, (local, each.shape[0] // local, *each.shape[1:]))
                for each in (crops, images)
            )

        def own(context):
            shared = batches((self.task.index, workers))
            return shared if local == 1 else shared.map(parts).unbatch()

        return self.strategy.distribute_datasets_from_function(own)

    @contextlib.contextmanager
    def watched(self):
        """Say it in our words where another worker has gone away while the block runs.

        Raises:
            RunError: it has.
        """
        try:
            yield
        except _LOST as error:
            if self.task.workers == 1:
                raise
            raise RunError(
                f"{self.task}: another worker has ended or cannot be reached "
                f"({type(error).__name__}). Restart all of them with resume=True (--resume)."
            ) from None


ALONE = Cluster()


def open_cluster(train: Training) -> Cluster:
    """The cluster that a spec's `train` means; waits until all of its workers are there.

    Before TensorFlow has done anything else, where there are several workers.

    Raises:
        RunError: `multi-worker` without a TF_CONFIG, or with one that describes no cluster.
    """
    by_file = train.shard == "file"
    if train.distribute == "mirrored":
        return Cluster(tf.distribute.MirroredStrategy(), ONLY, train.gather, by_file)
    if train.distribute == "multi-worker":
        task = task_from_environment()
        try:
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
        except RuntimeError as error:  # "must be configured at program startup"
            raise RunError(
                f"train.distribute: multi-worker: {error}. Train in a separate process, as `kclr "
                "train` does."
            ) from None
        return Cluster(strategy, task, train.gather, by_file)
    return ALONE


def _step(model, strategy):
    """A training step on all replicas: a function of an iterator that returns mean metrics."""
    names: list[str] = []

    def metrics(batch):
        logs = model.train_step(batch)
        names[:] = logs
        return tf.stack([tf.cast(value, "float32") for value in logs.values()])

    @tf.function
    def step(iterator):
        of_replicas = strategy.run(metrics, args=(next(iterator),))
        means = strategy.reduce(tf.distribute.ReduceOp.MEAN, of_replicas, axis=None)
        return dict(zip(names, tf.unstack(means), strict=True))

    return step


def is_seed(variable) -> bool:
    """Whether a Keras variable is the state of a random layer."""
    return variable.path.endswith("seed_generator_state")


def value_of(variable):
    """A Keras variable's value in this process' first replica: numpy array.

    A metric's variable has another value in each replica; to read it as Keras does would take all
    workers.
    """
    return _copies(variable)[0].numpy()


def put(variable, value):
    """Set a Keras variable to a value in all replicas of this process, as `value_of` reads it."""
    for copy in _copies(variable):
        copy.assign(value)


def _copies(variable):
    """The `tf.Variable`s of this process' replicas that a Keras variable stands for."""
    made_by = getattr(variable.value, "distribute_strategy", None) or tf.distribute.get_strategy()
    return made_by.experimental_local_results(variable.value)


def check_batches(spec: Spec, cluster: Cluster, name: str) -> None:
    """Refuse batches that leave a replica without crops, or with fewer than another.

    Args:
        spec: from `kclr.load_spec`. cluster: that trains it. name: of the spec, in messages.

    Raises:
        SpecError: for some layer they do.
    """
    findings = []
    for _, top in spec.trainings():
        layer, replicas = spec.stack[top], cluster.replicas
        size = layer.train.batch_size
        if layer.learner.contrastive and (size % replicas or size < 2 * replicas):
            fitting = max(2, -(-size // replicas)) * replicas
            words = (
                f"{size} crops cannot be divided evenly among {replicas} replicas. Use {fitting}."
            )
            findings.append(Finding(("stack", top, "train", "batch_size"), words))
    if findings:
        raise refusal(name, findings)
