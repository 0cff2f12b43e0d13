"""Supervised transfer: a classifier trained on another labelled set, with its first layers as a
run.

The directory has a run's files, so that `kclr.load_run` opens it, and its filters can be shown,
probed, exported and copied like those of any run. It appears whole or not at all.
"""

import math
from typing import Any

import numpy as np
import yaml

from kclr.data.labels import Labelled, labelled_name
from kclr.drawing.filters import filter_order, filters_png
from kclr.errors import RunError
from kclr.keras_backend import dtype_policy
from kclr.runs.directories import RUN, check_ours, mark
from kclr.runs.keys import key_of
from kclr.runs.paths import atomic
from kclr.runs.run import Run, load_run
from kclr.runs.writing import write_summary, writing_layer
from kclr.spec.transfer import TransferSpec
from kclr.transfer.arms import first_convolutions
from kclr.transfer.lsuv import kernel_name
from kclr.transfer.training import arm_seed, fit, new_classifier, steps_per_epoch


def supervised_run(
    spec: TransferSpec, path, training: Labelled, test: Labelled, digest, count, seed, tell, facts
) -> Run:
    """The first convolutions of the spec's classifier, trained on other labelled images.

    Args:
        spec: with `supervised`.
        path: of the run's directory. One that was made of the same is opened; another replaced.
        training, test: the other labelled images, all of one size.
        digest: str, a hash of them.
        count: int, how many convolutions are kept.
        seed: int, of the repeat. The classifier's initial weights differ from those of the arms.
        tell: function that receives short progress messages.
        facts: for `layer.json`, about the images: how raw ones are scaled, and whether they are
            series.

    Raises:
        SpecError: Keras refuses the optimizer or an augmentation.
        RunError: the loss is not finite.
    """
    other: Any = spec.supervised
    name = labelled_name(other.data)
    train = spec.train.model_copy(update={"epochs": other.epochs or spec.train.epochs})
    made_of = {
        "data": other.model_dump(mode="json")["data"],
        "limit": other.limit,
        "classifier": spec.classifier.model_dump(mode="json"),
        "train": train.model_dump(mode="json"),
        "seed": seed,
    }
    key = key_of([made_of, digest, count])
    try:
        found = load_run(path)
        digests: dict[str, str] = {}
        for layer in found.layers:
            layer.check_facts()
            digests |= layer.digests
        same = {layer.facts.get("key") for layer in found.layers} == {key}
        if same and not [*found.changed(digests)]:
            return found
    except RunError:
        pass  # nothing there, or damaged
    check_ours(path, RUN)
    steps = steps_per_epoch(len(training), train, len(training))
    with dtype_policy(train.precision):
        shape, classes = training.images.shape[1:], len(training.classes)
        model = new_classifier(spec.classifier, shape, classes, arm_seed(seed))
        history = fit(
            model,
            (training.images, training.labels),
            (test.images, test.labels),
            train,
            steps,
            arm_seed(seed),
            lambda row: tell(
                f"{name}, seed {seed}: epoch {row['epoch']}/{train.epochs}, test "
                f"{row['test_accuracy']:.1%}"
            ),
            training.scaling,
        )
    about = {
        "key": key,
        "data": name,
        "steps": steps * train.epochs,
        "seconds": round(math.fsum(row["seconds"] for row in history), 3),
        "loss": history[-1]["loss"],
        "test_accuracy": history[-1]["test_accuracy"],
        **facts,
        "end_to_end": True,  # these are facts of the whole classifier's training
    }
    with atomic(path) as temporary:
        mark(temporary, RUN)
        _write(Run(temporary), first_convolutions(model, count), model, about, history, made_of)
    return load_run(path)


def _write(run, convolutions, model, about, history, made_of):
    """Write the files of a run."""
    for index, convolution in enumerate(convolutions):
        name = f"supervised{index + 1}"
        kernel = convolution.kernel.numpy().astype(np.float32)
        kernel = kernel[None] if kernel.ndim == 3 else kernel  # a series has the height 1
        bias = convolution.bias.numpy() if convolution.use_bias else np.zeros(kernel.shape[-1])
        facts = {"name": name, "block": _block(model, convolution), **about}
        with writing_layer(run, index, facts, kernel, bias.astype(np.float32), history) as own:
            path = own.directory / "filters.png"
            filters_png(path, kernel, filter_order(kernel), f"{name}: filters")
    text = yaml.safe_dump(made_of, sort_keys=False)
    run.write_text("spec.yaml", f"# Trained with labels by kclr transfer, from:\n{text}")
    run.write_text("resolved.yaml", text)
    write_summary(run, made_of["seed"])


def _block(model, convolution) -> dict[str, Any]:
    """A convolution of a classifier with the max-pool and the activation that follow it.

    Returns:
        Arguments of `kclr.layers.ContrastiveConvBlock`. Normalisation and other pools, which that
        does not have, are left out.
    """
    import keras

    activation, pool = keras.activations.serialize(convolution.activation), None
    layers = list(model._flatten_layers())  # Keras has no public way to layers within layers
    for layer in layers[layers.index(convolution) + 1 :]:
        if kernel_name(layer):
            break
        pools = (keras.layers.MaxPooling1D, keras.layers.MaxPooling2D)
        if isinstance(layer, pools) and pool is None:
            pool = layer
        elif isinstance(layer, keras.layers.ReLU):
            activation = "relu"
        elif isinstance(layer, keras.layers.Activation):
            activation = keras.activations.serialize(layer.activation)
    sizes = {"kernel_size": convolution.kernel_size, "strides": convolution.strides}
    if pool:
        sizes |= {"pool_size": pool.pool_size, "pool_strides": pool.strides}
    if isinstance(activation, dict):  # a function of somebody's own, which only they can call
        activation = str(activation.get("registered_name") or activation.get("class_name"))
    return {
        "filters": convolution.filters,
        "padding": convolution.padding,
        "pool_size": 1,
        "pool_strides": 1,
        "activation": activation,
    } | {key: _side(size) for key, size in sizes.items()}


def _side(size):
    """A size of a Keras layer as a block has it; one along a series gets the height 1."""
    size = [1, *size] if len(size) == 1 else [*size]
    return size[0] if size[0] == size[1] else size
