import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from kclr.errors import SpecError
from kclr.spec import registry
from kclr.transfer.classifiers import build_classifier, classifier_names, register_classifier

SMALL = {
    "zhao": {"filters": (8, 12), "dense_units": 16},
    "alexnet": {"filters": 8, "dense_units": 16},
    "vgg": {"filters": 8},
    "resnet": {"depth": 8},
}
RNG = np.random.default_rng(0)


def refused(call):
    with pytest.raises(SpecError) as caught:
        call()
    return str(caught.value)


def of_type(model, *types):
    return [layer for layer in model.layers if isinstance(layer, types)]


def test_every_classifier_of_kclr_is_in_the_list():
    assert set(SMALL) <= set(classifier_names())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(32, 32, 3), (8, 8, 1), (13, 9, 4)])
def test_every_classifier_takes_images_of_any_small_size_and_gives_logits(name, shape):
    keras.utils.set_random_seed(0)
    model = build_classifier(name, shape, 5, **SMALL[name])
    logits = np.asarray(model(RNG.random((6, *shape), np.float32), training=False))
    assert logits.shape == (6, 5)
    assert logits.dtype == np.float32
    assert abs(logits.sum(axis=1) - 1).min() > 1e-3
    assert logits.std(axis=0).min() > 0


@pytest.mark.parametrize("name", SMALL)
def test_every_classifier_has_a_form_for_series(name):
    keras.utils.set_random_seed(0)
    model = build_classifier(name, (1, 50, 2), 5, **SMALL[name])
    kernels = [layer.kernel.shape[:2] for layer in of_type(model, keras.layers.Conv2D)]
    images = build_classifier(name, (32, 32, 2), 5, **SMALL[name])
    sizes = [layer.kernel.shape[1] for layer in of_type(images, keras.layers.Conv2D)]
    assert kernels == [(1, size) for size in sizes]
    # The same as Keras' own layers of series.
    series = RNG.random((6, 50, 2), np.float32)
    first = of_type(model, keras.layers.Conv2D)[0]
    own = keras.layers.Conv1D(
        first.filters, first.kernel_size[1], padding="same", activation=first.activation,
        use_bias=first.use_bias,
    )  # fmt: skip
    own.build((None, 50, 2))
    own.set_weights([first.kernel[0], *first.weights[1:]])
    np.testing.assert_allclose(first(series[:, None])[:, 0], own(series), rtol=1e-4, atol=1e-5)
    logits = np.asarray(model(series[:, None], training=False))
    assert logits.shape == (6, 5)
    assert logits.std(axis=0).min() > 0


def test_models_of_keras_are_refused_for_series():
    words = refused(lambda: build_classifier("applications:VGG16", (1, 50, 2), 5))
    assert words.startswith("applications:VGG16 is for images, not for series. Use alexnet, ")


def test_long_series_may_be_pooled_more():
    model = build_classifier("zhao", (1, 64, 2), 3, **SMALL["zhao"], pool_size=4)
    assert model.get_layer("flatten").output.shape == (None, 4 * 12)


@pytest.mark.parametrize(
    "name",
    [name if name == "zhao" else pytest.param(name, marks=pytest.mark.full) for name in SMALL],
)
def test_a_classifier_learns_digits_and_loads_again_in_safe_mode(name, tmp_path):
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = (digits.images / 16)[:640, ..., None].astype("float32"), digits.target[:640]
    keras.utils.set_random_seed(0)
    model = build_classifier(name, (8, 8, 1), 10, **SMALL[name])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    losses = model.fit(images, labels, batch_size=64, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_allclose(again(images[:3]), model(images[:3], training=False), atol=1e-5)


def test_the_papers_classifier_has_its_two_convolutions_and_two_dense_layers():
    model = build_classifier("zhao", (32, 32, 3), 10)
    kinds = [type(layer).__name__ for layer in model.layers if layer.weights]
    assert kinds == ["Conv2D", "Conv2D", "Dense", "Dense"]
    assert [w.shape for w in model.weights[::2]] == [
        (6, 6, 3, 256),
        (3, 3, 256, 512),
        (8 * 8 * 512, 512),
        (512, 10),
    ]
    assert [pool.pool_size for pool in of_type(model, keras.layers.MaxPooling2D)] == [(2, 2)] * 2
    reduced = build_classifier("zhao", (32, 32, 3), 10, filters=(64, 128))
    assert [c.filters for c in of_type(reduced, keras.layers.Conv2D)] == [64, 128]


@pytest.mark.parametrize(("depth", "parameters"), [(20, 0.27e6), (32, 0.46e6), (44, 0.66e6)])
def test_residual_networks_have_the_size_that_their_paper_gives(depth, parameters):
    # He et al. 2016, table 6. Their shortcuts have no weights, ours the 1x1 convolutions.
    model = build_classifier("resnet", (32, 32, 3), 10, depth=depth)
    assert round(model.count_params(), -4) == pytest.approx(parameters, abs=1e4)
    main = [c for c in of_type(model, keras.layers.Conv2D) if c.kernel_size != (1, 1)]
    assert len(main) + 1 == depth


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_vgg_has_its_papers_convolutions(depth):
    model = build_classifier("vgg", (32, 32, 3), 10, depth=depth, filters=8)
    convolutions = of_type(model, keras.layers.Conv2D)
    assert len(convolutions) + 3 == depth
    own = [c.filters * 8 for c in convolutions]
    if depth in (16, 19):
        application = getattr(keras.applications, f"VGG{depth}")(weights=None, include_top=False)
        assert own == [c.filters for c in of_type(application, keras.layers.Conv2D)]


def test_alexnet_has_five_convolutions_and_three_dense_layers():
    model = build_classifier("alexnet", (32, 32, 3), 10)
    widths = [c.filters for c in of_type(model, keras.layers.Conv2D)]
    assert widths == [64, 192, 384, 256, 256]
    assert len(of_type(model, keras.layers.Dense)) == 3


def test_logits_are_float32_under_mixed_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        for name, options in SMALL.items():
            model = build_classifier(name, (8, 8, 3), 3, **options)
            assert model.outputs[0].dtype == "float32"
    finally:
        keras.config.set_dtype_policy(before)


def first_input(model):
    """What the first convolution is given for images that run from 0 to 1."""
    seen = keras.Model(model.input, of_type(model, keras.layers.Conv2D)[0].input)
    return np.asarray(seen(RNG.random((2, *model.input_shape[1:]), np.float32)))


@pytest.mark.parametrize(
    "name",
    [
        "VGG16",
        "EfficientNetB0",
        "MobileNetV3Small",
        pytest.param("EfficientNetV2B0", marks=pytest.mark.full),
    ],
)
def test_a_keras_application_sees_images_as_they_are_and_gives_logits(name):
    model = build_classifier(f"applications:{name}", (32, 32, 3), 7)
    assert model.output_shape == (None, 7)
    assert model.layers[-1].activation is keras.activations.linear
    seen = first_input(model)
    assert 0 <= seen.min() < 0.01
    assert 0.99 < seen.max() <= 1


def test_options_of_a_keras_application_reach_it():
    narrow, wide = (
        build_classifier("applications:MobileNet", (32, 32, 3), 3, alpha=alpha)
        for alpha in (0.25, 0.5)
    )
    assert narrow.count_params() < wide.count_params()


def test_what_is_no_application_is_named_with_the_nearest():
    def build(name, **options):
        return lambda: build_classifier(name, (32, 32, 3), 3, **options)

    assert "Did you mean 'VGG16'?" in refused(build("applications:vgg16"))
    assert "Did you mean 'ResNet50'?" in refused(build("applications:Resnet-50"))
    assert "'vgg16' is not in keras.applications" in refused(build("applications:vgg16"))
    assert "at least 75x75" in refused(build("applications:InceptionV3"))
    assert "weights='imagenet'" in refused(build("applications:VGG16", weights="imagenet"))
    assert "Did you mean 'pooling'?" in refused(build("applications:VGG16", poling="avg"))
    assert "(None, 3) is needed" in refused(build("applications:VGG16", include_top=False))


def test_unknown_names_and_options_are_answered_with_the_nearest():
    assert "Did you mean 'resnet'?" in refused(lambda: build_classifier("ResNet", (8, 8, 1), 3))
    message = refused(lambda: build_classifier("nothing", (8, 8, 1), 3))
    assert "alexnet" in message
    assert "MODULE:FUNCTION" in message
    wrong = {"depht": 20}
    message = refused(lambda: build_classifier("resnet", (8, 8, 1), 3, **wrong))
    assert message == "resnet has no option 'depht'. Did you mean 'depth'?"
    assert "6n + 2" in refused(lambda: build_classifier("resnet", (8, 8, 1), 3, depth=51))
    assert "11, 13, 16, 19" in refused(lambda: build_classifier("vgg", (8, 8, 1), 3, depth=12))
    assert "height, width, channels" in refused(lambda: build_classifier("vgg", (8, 8), 3))
    assert "two classes" in refused(lambda: build_classifier("vgg", (8, 8, 1), 1))


def test_a_registered_function_is_a_classifier_by_name(monkeypatch):
    monkeypatch.setitem(registry._parts, "classifier", registry.parts("classifier"))

    @register_classifier("mean-only")
    def mean_only(input_shape, classes, units=4):
        return keras.Sequential(
            [
                keras.Input(input_shape),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(units),
                keras.layers.Dense(classes),
            ]
        )

    assert "mean-only" in classifier_names()
    assert build_classifier("mean-only", (8, 8, 1), 3, units=9).layers[1].units == 9
    with pytest.raises(ValueError, match="is already"):
        register_classifier("mean-only")(lambda input_shape, classes: None)
    with pytest.raises(ValueError, match="colon"):
        register_classifier("a:b")


SOURCE = """
import keras

def logits(input_shape, classes, units=8, activation=None):
    image = keras.Input(input_shape)
    maps = keras.layers.Conv2D(units, 3)(image)
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    return keras.Model(image, keras.layers.Dense(classes, activation=activation)(pooled))

def softmax(input_shape, classes):
    return logits(input_shape, classes, activation="softmax")

def softmax_layer(input_shape, classes):
    model = logits(input_shape, classes)
    return keras.Model(model.input, keras.layers.Softmax()(model.output))

class Written(keras.Model):
    def __init__(self, input_shape, classes):
        super().__init__()
        self.pool = keras.layers.GlobalAveragePooling2D()
        self.dense = keras.layers.Dense(classes)

    def call(self, images):
        return self.dense(self.pool(images))

def too_many(input_shape, classes):
    return logits(input_shape, classes + 1)

def two_outputs(input_shape, classes):
    model = logits(input_shape, classes)
    return keras.Model(model.input, [model.output, model.output])

def nothing(input_shape, classes):
    pass

def fails(input_shape, classes):
    raise KeyError("no such width")

def lazily(input_shape, classes):
    import my_other_nets
    return logits(input_shape, classes)

number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A directory to start kclr in, with a module of the user's own."""
    (tmp_path / "my_nets.py").write_text(SOURCE)
    (tmp_path / "my_other_nets.py").write_text("")
    (tmp_path / "my_broken_nets.py").write_text("import a_package_that_is_not_there")
    (tmp_path / "my_half_nets.py").write_text("def logits(:")
    monkeypatch.chdir(tmp_path)
    # As for an installed command, which does not look where it is started.
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    yield lambda name, **options: build_classifier(name, (8, 8, 3), 4, **options)
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


def test_a_function_of_the_users_own_builds_the_classifier(own):
    model = own("my_nets:logits", units=5)
    assert model.layers[1].filters == 5
    assert own("my_nets:Written").built
    assert own("my_nets:lazily").output_shape == (None, 4)


def test_a_softmax_at_the_end_of_the_users_model_is_taken_off(own, tmp_path):
    model = own("my_nets:softmax")
    images = RNG.random((5, 8, 8, 3), np.float32)
    pooled = keras.Model(model.input, model.layers[-1].input)(images)
    kernel, bias = (np.asarray(weight) for weight in model.layers[-1].weights)
    np.testing.assert_allclose(model(images), np.asarray(pooled) @ kernel + bias, atol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(images), model(images), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my_nets:softmax_layer", "returns probabilities. Remove the softmax"),
        ("my_nets:too_many", "has outputs of shape (None, 5); (None, 4) is needed"),
        ("my_nets:two_outputs", "has outputs more than one"),
        ("my_nets:nothing", "returned NoneType, not a Keras model"),
        ("my_nets:fails", "cannot be built: 'no such width'"),
        ("my_nets:logit", "has no function 'logit'. Did you mean 'logits'?"),
        ("my_nets:number", "has no function 'number'"),
        ("my_nest:logits", "module 'my_nest'"),
        ("my_nets.deeper:logits", "module 'my_nets.deeper'"),
        ("my_broken_nets:logits", "cannot be imported: No module named 'a_package_that_is_not"),
        ("my_half_nets:logits", "cannot be imported: invalid syntax"),
    ],
)
def test_what_is_wrong_with_the_users_function_is_said(own, name, words):
    assert words in refused(lambda: own(name))


def test_an_option_that_the_users_function_does_not_have_is_named(own):
    assert "Did you mean 'units'?" in refused(lambda: own("my_nets:logits", unit=3))


def test_names_can_be_checked_without_tensorflow():
    script = (
        "import sys, kclr.transfer.classifiers as c, kclr.transfer.starting\n"
        "print(*c.classifier_names(), 'tensorflow' in sys.modules, 'keras' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert answer.stdout.split()[-2:] == ["False", "False"], answer.stderr
    assert "zhao" in answer.stdout
