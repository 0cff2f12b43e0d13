"""Everything that kclr registers with Keras survives being saved, and loads in safe mode."""

import keras
import numpy as np
import pytest
from keras.src.saving import object_registration

import kclr.initializers
import kclr.layers
import kclr.losses
import kclr.model
from kclr.layers import ContrastiveConvBlock, Decorrelation, DropColors, SensorJitter, SharedPatches
from kclr.layers.fast import FusedBatchNormalization
from kclr.losses import ContrastiveLoss
from kclr.model import TripletModel
from kclr.pooling import MapPooling
from kclr.probing.alignment import Alignment

KERNEL = np.linspace(-1, 1, 3 * 3 * 3 * 4, dtype=np.float32).reshape(3, 3, 3, 4)


def block(**arguments):
    return ContrastiveConvBlock(4, 6, **arguments)


EXAMPLES = {
    "ContrastiveBias": lambda: kclr.initializers.ContrastiveBias((KERNEL, KERNEL[0, 0, 0])),
    "ContrastiveConvBlock": lambda: ContrastiveConvBlock(
        4, (2, 3), strides=(2, 1), padding="same", pool_size=(1, 2), pool_strides=3,
        activation=keras.layers.LeakyReLU(0.3), use_bias=False, whitening="standardize",
        contrast="patch", contrast_epsilon=0.01, batch_norm=True,
        kernel_initializer=keras.initializers.HeNormal(seed=3),
        kernel_regularizer=Decorrelation(0.5), data_format="channels_first",
        name="first", dtype="mixed_bfloat16", trainable=False,
    ),
    "Alignment": lambda: Alignment(7, name="aligned"),
    "ContrastiveKernel": lambda: kclr.initializers.ContrastiveKernel(KERNEL),
    "ContrastiveLoss": lambda: ContrastiveLoss(margin=0.5, mining="all", distance="cosine"),
    "Decorrelation": lambda: Decorrelation(0.25),
    "DropColors": lambda: DropColors(0.05, seed=5, name="dropped"),
    "FusedBatchNormalization": lambda: FusedBatchNormalization(momentum=0.9, name="normed"),
    "MapPooling": lambda: MapPooling("grid", 3, 0.5),
    "SensorJitter": lambda: SensorJitter([0, 0.2], 0.05, 0.1, 0.2, seed=5, name="jitter"),
    "SharedPatches": lambda: SharedPatches(block(), 8, 2, slices=True, name="patches"),
    "TripletModel": lambda: TripletModel(
        block(), embedding="grid", grid_size=3, head=keras.layers.Dense(3), augment_anchor=False,
        augment=keras.layers.RandomBrightness(0.2, value_range=(0, 1)), name="triplets",
        dtype="mixed_bfloat16",
    ),
}  # fmt: skip


def registered():
    named = keras.saving.get_custom_objects() | object_registration.GLOBAL_CUSTOM_OBJECTS
    return sorted(name.removeprefix("kclr>") for name in named if name.startswith("kclr>"))


@pytest.mark.parametrize("name", registered())
def test_the_config_of_every_registered_class_makes_the_round_trip(name):
    assert name in EXAMPLES, "give the new class an example"
    example = EXAMPLES[name]()
    serialised = keras.saving.serialize_keras_object(example)
    restored = keras.saving.deserialize_keras_object(serialised, safe_mode=True)
    assert type(restored) is type(example)
    again = keras.saving.serialize_keras_object(restored)
    assert again == serialised
    assert type(example).from_config(example.get_config()).get_config() == example.get_config()


PATCHES = np.random.default_rng(0).integers(0, 256, (16, 4, 7, 7, 3), dtype=np.uint8)
CROPS = np.random.default_rng(1).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
IMAGES = np.arange(16)


def saved(model, path):
    model.save(path / "model.keras")
    return keras.models.load_model(path / "model.keras", safe_mode=True)


@pytest.mark.parametrize("whitening", ["none", "standardize", "zca"])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_saved_block_answers_as_before(tmp_path, whitening, policy):
    layer = block(whitening=whitening, activation="tanh", dtype=policy)
    image = keras.Input((None, None, 3))
    model = keras.Model(image, layer(image))
    for variable in layer.variables:
        variable.assign(np.random.default_rng(2).normal(size=variable.shape) / 10)
    restored = saved(model, tmp_path)
    images = CROPS.astype(np.float32) / 255
    np.testing.assert_array_equal(restored(images).numpy(), model(images).numpy())
    assert restored.layers[-1].dtype_policy.name == policy


TRAINED = {
    "patches": (lambda: block(whitening="zca"), PATCHES),
    "crops": (lambda: SharedPatches(block(), 7, 1), CROPS),
}


@pytest.mark.parametrize("form", TRAINED)
def test_a_saved_training_goes_on_as_if_it_had_not_been_saved(tmp_path, form):
    make, inputs = TRAINED[form]
    model = TripletModel(make(), head=keras.layers.Dense(5))
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, 100)),
        loss=ContrastiveLoss(margin=0.5, mining="hardest"),
    )
    for _ in range(3):
        model.train_on_batch(inputs, IMAGES)
    restored = saved(model, tmp_path)
    assert restored.loss.objective == model.loss.objective
    assert restored.optimizer.get_config() == model.optimizer.get_config()
    np.testing.assert_array_equal(restored.optimizer.iterations, 3)
    for each in (model, restored):
        each.reset_metrics()  # the loss below is a mean, which not every release of Keras saves
    losses = [
        [m.train_on_batch(inputs, IMAGES, return_dict=True)["loss"] for _ in range(3)]
        for m in (model, restored)
    ]
    assert losses[0] == losses[1]
    for one, other in zip(model.weights, restored.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_that_was_never_compiled_is_saved_too(tmp_path):
    model = TripletModel(block(), augment=keras.layers.RandomFlip(), augment_anchor=False)
    expected = model(PATCHES).numpy()
    restored = saved(model, tmp_path)
    np.testing.assert_array_equal(restored(PATCHES), expected)
    assert not restored.compiled


def test_weights_alone_are_saved_and_loaded(tmp_path):
    one, other = (TripletModel(block(whitening="standardize")) for _ in range(2))
    one(PATCHES), other(PATCHES)
    one.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(one(PATCHES), other(PATCHES))
