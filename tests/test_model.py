"""TripletModel under Keras' compile, fit, evaluate and predict, with every form of input."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_sample_image
from sklearn.feature_extraction.image import extract_patches_2d

from kclr.data.patches import PatchTripletGenerator
from kclr.layers import ContrastiveConvBlock, SharedPatches
from kclr.losses import ContrastiveLoss
from kclr.model import TripletModel, effective_rank, spread
from kclr.objectives.triplet import Triplet

CROPS = extract_patches_2d(load_sample_image("flower.jpg"), (8, 8), max_patches=64, random_state=0)
PATCHES = np.stack(
    [CROPS[:, r : r + 7, c : c + 7] for r in (0, 1) for c in (0, 1)], axis=1
)  # uint8 (64, 4, 7, 7, 3)
IMAGES = np.arange(64, dtype=np.int32)
ONE = PATCHES[:, 0]
TRIPLETS = PATCHES[:, 0], PATCHES[:, 1], np.roll(PATCHES[:, 2], 1, axis=0)
STATISTICS = set(Triplet.statistics) | {"effective_rank", "spread", "loss"}


def block(**arguments):
    arguments.setdefault("kernel_initializer", keras.initializers.GlorotUniform(seed=0))
    return ContrastiveConvBlock(8, 6, **arguments)


def compiled(encoder=None, loss=None, optimizer="adam", jit_compile=False, **options):
    names = ("metrics", "run_eagerly", "steps_per_execution")
    compiling = {name: options.pop(name) for name in names if name in options}
    model = TripletModel(encoder or block(), **options)
    model.compile(
        optimizer, loss=loss or ContrastiveLoss(mining="hardest"), jit_compile=jit_compile,
        **compiling,
    )  # fmt: skip
    return model


def eager(*arguments, **options):
    """For few steps: tracing takes longer than they do."""
    return compiled(*arguments, run_eagerly=True, **options)


def dataset(*arrays, batch=16):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(batch)


def shared():
    return SharedPatches(block(), 7, 1)


INPUTS = {
    "patches": (lambda: None, (PATCHES, IMAGES)),
    "crops": (shared, (CROPS, IMAGES)),
    "triplets": (lambda: None, (TRIPLETS,)),
}


@pytest.mark.parametrize(
    "form",
    [
        pytest.param("patches", marks=pytest.mark.full),
        "crops",
        pytest.param("triplets", marks=pytest.mark.full),
    ],
)
def test_every_form_of_input_trains_from_arrays_and_from_a_dataset(form):
    make, arrays = INPUTS[form]
    results = []
    for as_dataset in (False, True):
        model = compiled(make(), run_eagerly=not as_dataset)
        if as_dataset:
            parts = arrays[0] if form == "triplets" else arrays
            fitted = model.fit(dataset(*parts), epochs=2, verbose=0)
            evaluated = model.evaluate(dataset(*parts), verbose=0, return_dict=True)
            predicted = model.predict(dataset(*parts), verbose=0)
        else:
            options = {"batch_size": 16, "verbose": 0}
            fitted = model.fit(*arrays, epochs=2, shuffle=False, **options)
            predicted = model.predict(arrays[0], **options)
        assert fitted.history.keys() == STATISTICS
        results.append((fitted.history["loss"], predicted))
    assert evaluated.keys() == STATISTICS
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-4)
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-4)
    assert results[0][1].shape == (64, 3 if form == "triplets" else 4, 8)
    assert results[0][0][1] < results[0][0][0]


def test_crops_and_their_cut_patches_are_one_training():
    losses = [
        eager(encoder).fit(x, IMAGES, batch_size=32, epochs=2, shuffle=False, verbose=0)
        for encoder, x in ((shared(), CROPS), (block(), PATCHES))
    ]
    for name in STATISTICS:
        np.testing.assert_allclose(*(loss.history[name] for loss in losses), rtol=1e-3)


def test_single_patches_and_patches_of_crops_embed_alike():
    model = compiled()
    together = model.predict(PATCHES, verbose=0)
    np.testing.assert_allclose(model.predict(PATCHES[:, 1], verbose=0), together[:, 1], atol=1e-6)
    as_floats = model(PATCHES.astype(np.float32) / 255).numpy()
    np.testing.assert_allclose(as_floats, together, atol=1e-5)


def test_metrics_are_those_of_numpy_on_the_embeddings():
    model = eager(loss=ContrastiveLoss(mining="hardest", margin=1.0))
    result = model.evaluate(PATCHES, IMAGES, batch_size=64, verbose=0, return_dict=True)
    embeddings = model.predict(PATCHES, verbose=0).astype(np.float64)
    loss, statistics = Triplet(mining="hardest", margin=1.0)(IMAGES, embeddings)
    np.testing.assert_allclose(result["loss"], loss, rtol=1e-4)
    for name, value in statistics.items():
        np.testing.assert_allclose(result[name], value, rtol=1e-3)
    anchors = embeddings[:, 0]
    values = np.linalg.eigvalsh(np.cov(anchors, rowvar=False, bias=True))
    np.testing.assert_allclose(
        result["effective_rank"], values.sum() ** 2 / (values**2).sum(), rtol=1e-4
    )
    np.testing.assert_allclose(
        result["spread"], np.sqrt(((anchors - anchors.mean(axis=0)) ** 2).mean()), rtol=1e-4
    )


@pytest.mark.parametrize("rows", [5, 40])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_effective_rank_is_the_eigenvalues_participation_at_any_scale(rows, scale):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(rows, 12)) * np.linspace(0.1, 3, 12) + 2
    values = np.linalg.eigvalsh(np.cov(embeddings, rowvar=False))
    expected = values.sum() ** 2 / (values**2).sum()
    scaled = tf.constant(embeddings * scale, tf.float32)
    np.testing.assert_allclose(effective_rank(scaled), expected, rtol=1e-4)
    unknown = tf.function(effective_rank, input_signature=[tf.TensorSpec((None, 12))])
    np.testing.assert_allclose(unknown(scaled), expected, rtol=1e-4)


def test_the_effective_rank_names_a_line_a_round_cloud_and_a_point():
    line = np.linspace(-1, 1, 50)[:, None] * np.ones((1, 6))
    np.testing.assert_allclose(effective_rank(tf.constant(line, tf.float32)), 1, rtol=1e-5)
    cloud = np.random.default_rng(0).normal(size=(20000, 6))
    np.testing.assert_allclose(effective_rank(tf.constant(cloud, tf.float32)), 6, rtol=0.01)
    point = tf.ones((50, 6))
    assert effective_rank(point) == spread(point) == 0


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize(
    "policy", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.full)]
)
def test_mixed_precision_trains_and_embeds_in_float32(policy, jit):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = compiled(jit_compile=jit, run_eagerly=not jit)
    finally:
        keras.config.set_dtype_policy(before)
    losses = model.fit(PATCHES, IMAGES, batch_size=32, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}
    assert model(PATCHES).dtype == "float32"
    assert ("LossScale" in type(model.optimizer).__name__) == (policy == "mixed_float16")


def test_jit_eager_and_several_steps_at_once_take_the_same_steps():
    ends = []
    for options in ({"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 3}):
        model = compiled(optimizer="sgd", **options)
        model.fit(dataset(PATCHES, IMAGES), epochs=2, verbose=0)
        ends.append(model.encoder.kernel.numpy())
    for end in ends[1:]:
        np.testing.assert_allclose(end, ends[0], atol=1e-5)


def test_callbacks_and_metrics_of_the_users_own_are_served():
    class OfAnchors(keras.metrics.Mean):
        def update_state(self, images, embeddings, sample_weight=None):
            return super().update_state(embeddings[:, 0] * tf.cast(images[:, None] >= 0, "float32"))

    seen = []
    told = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs))
    model = eager(metrics=[OfAnchors(name="of_anchors")])
    stop = keras.callbacks.EarlyStopping("loss", patience=0, min_delta=1e9)
    history = model.fit(
        PATCHES, IMAGES, validation_data=(PATCHES, IMAGES), epochs=9, verbose=0,
        callbacks=[told, stop],
    ).history  # fmt: skip
    assert len(seen) == 2
    assert {"of_anchors", "val_of_anchors", "val_effective_rank"} <= history.keys()
    expected = model.predict(PATCHES, verbose=0)[:, 0].mean()
    np.testing.assert_allclose(history["val_of_anchors"][-1], expected, rtol=1e-4)


def test_a_second_compile_takes_the_place_of_the_first():
    model = eager()
    model.train_on_batch(PATCHES, IMAGES)
    model.compile("sgd", loss=ContrastiveLoss(margin=0.5), run_eagerly=True)
    assert sorted(model.metrics_names) == sorted(STATISTICS)
    assert model.train_on_batch(PATCHES, IMAGES, return_dict=True)["spread"] > 0


def test_the_default_loss_is_the_triplet_objective():
    model = TripletModel(block())
    model.compile()
    assert model.loss.objective == Triplet()


def test_any_keras_loss_of_images_and_embeddings_trains_too():
    model = TripletModel(block())
    model.compile("adam", run_eagerly=True,
                  loss=lambda images, embeddings: tf.reduce_mean(embeddings**2))  # fmt: skip
    history = model.fit(PATCHES, IMAGES, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert history.keys() == {"loss", "effective_rank", "spread"}


@pytest.mark.parametrize("embedding", ["flatten", "mean"])
def test_maps_become_vectors_and_the_head_is_left_behind(embedding):
    encoder = ContrastiveConvBlock(8, 3, activation=None)
    head = keras.layers.Dense(5)
    model = TripletModel(encoder, embedding=embedding, head=head)
    vectors = model(PATCHES).numpy()
    assert vectors.shape == (64, 4, 5)
    maps = encoder(PATCHES[:, 2].astype(np.float32) / 255).numpy()
    flat = maps.mean(axis=(1, 2)) if embedding == "mean" else maps.reshape(64, -1)
    np.testing.assert_allclose(vectors[:, 2], flat @ head.kernel + head.bias, atol=1e-4)


class Recorded(keras.layers.Layer):
    """Keeps what it was given, and passes it on."""

    def call(self, inputs):
        self.given = inputs
        return inputs


@pytest.mark.parametrize("anchor", [True, False])
def test_augmentation_acts_in_training_alone_and_can_spare_the_anchor(anchor):
    augment = keras.Sequential([keras.layers.Rescaling(0.0, 0.5)])
    encoder = Recorded()
    model = TripletModel(encoder, augment=augment, augment_anchor=anchor)
    model(PATCHES, training=True)
    seen = encoder.given.numpy().reshape(PATCHES.shape)
    assert (seen[:, 1:] == 0.5).all()
    untouched = PATCHES.astype(np.float32)[:, 0] / 255
    np.testing.assert_allclose(seen[:, 0], np.full_like(untouched, 0.5) if anchor else untouched)
    model(PATCHES)
    np.testing.assert_allclose(encoder.given.numpy().reshape(PATCHES.shape)[:, 0], untouched)


def test_keras_own_augmentations_train():
    layers = [
        keras.layers.RandomFlip(seed=1),
        keras.layers.RandomBrightness(0.3, value_range=(0, 1), seed=2),
    ]
    model = eager(augment=keras.Sequential(layers), augment_anchor=False)
    losses = model.fit(PATCHES, IMAGES, batch_size=16, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert model.fit(dataset(*TRIPLETS), verbose=0)


def test_crops_cannot_be_augmented():
    augment = keras.layers.RandomFlip()
    model = eager(shared(), augment=augment)
    with pytest.raises(ValueError, match="crops cannot be augmented.*generator.views"):
        model.fit(CROPS, IMAGES, verbose=0)
    assert np.isfinite(compiled(shared(), augment=augment)(CROPS)).all()


def test_wrong_use_is_refused_with_the_cure():
    with pytest.raises(ValueError, match="embedding must be 'flatten', 'mean' or 'grid'"):
        TripletModel(block(), embedding="max")
    with pytest.raises(ValueError, match="takes no sample_weight"):
        eager().fit(PATCHES, IMAGES, sample_weight=np.ones(64), verbose=0)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ((ONE, IMAGES), r"single images.*PatchTripletGenerator\(images, .*SharedPatches"),
        ((ONE,), "single images"),
        (((ONE, ONE),), "2 patches of each crop, but neither image numbers"),
        ((ONE, ONE), "two parts, of shapes .*not the number of each crop's image"),
        ((dataset(ONE, ONE, ONE, ONE),), "4 parts.*ready triplets"),
        ((dataset(*TRIPLETS).unbatch(),), "are not batched. Batch them"),
        ((dataset({"image": ONE}),), "a dictionary of image. Fit on"),
        (("photos",), r"str photos: these are not batches.*PatchTripletGenerator\(images"),
        ((None,), "nothing: these are not batches"),
        ((iter(dataset(*TRIPLETS)),), "an iterator of batches. Use the data set"),
    ],
)
def test_what_is_no_batch_is_refused_with_what_to_give(batches, message):
    with pytest.raises(ValueError, match=message):
        eager().fit(*batches, verbose=0)


def test_an_encoder_that_cuts_the_patches_is_not_given_patches():
    for batches in ((PATCHES, IMAGES), (dataset(*TRIPLETS),)):
        with pytest.raises(ValueError, match=r"cuts the patches of crops itself.*generator.crops"):
            eager(shared()).fit(*batches, verbose=0)


def test_a_generator_is_fitted_on_evaluated_on_and_ends_with_its_epoch():
    patches = PatchTripletGenerator(CROPS, 7, crop_size=8, batch_size=16)
    for encoder in (block(), shared()):
        model = eager(encoder)
        history = model.fit(patches, epochs=2, validation_data=patches, verbose=0).history
        assert len(history["loss"]) == len(history["val_loss"]) == 2
        assert int(model.optimizer.iterations) == 2 * (len(CROPS) // 16)
        assert np.isfinite(model.evaluate(patches, verbose=0, return_dict=True)["loss"])
    with pytest.raises(ValueError, match=r"never end.*generator.views\(\).take"):
        model.predict(patches)


class Penalty(keras.layers.Layer):
    def call(self, maps):
        self.add_loss(0.5 * keras.ops.sum(maps**2))
        return maps


def test_penalties_of_the_encoder_count():
    plain = eager(block())
    penalised = eager(keras.Sequential([block(), Penalty()]))
    losses = [m.evaluate(PATCHES, IMAGES, batch_size=64, verbose=0)[0] for m in (plain, penalised)]
    flat = plain.predict(PATCHES, verbose=0)
    np.testing.assert_allclose(losses[1] - losses[0], 0.5 * (flat**2).sum(), rtol=0.01)


def test_a_trained_encoder_serves_in_a_classifier():
    model = eager()
    model.fit(PATCHES, IMAGES, verbose=0)
    before = model.encoder.kernel.numpy()
    above = [keras.layers.Flatten(), keras.layers.Dense(2)]
    classifier = keras.Sequential([keras.layers.Rescaling(1 / 255), model.encoder, *above])
    classifier.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    classifier.fit(PATCHES[:, 0], IMAGES % 2, epochs=2, verbose=0)
    assert np.abs(model.encoder.kernel.numpy() - before).max() > 0
