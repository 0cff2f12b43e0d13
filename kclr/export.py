"""A run's layers for other programs: Keras, TensorFlow without kclr, ONNX and LiteRT.

- `model.keras` is for Keras: transfer and fine-tuning, after `import kclr`. Float images in [0, 1].
- `saved_model/` is for TensorFlow alone, where kclr is not installed: scripts, TF-Serving,
  `keras.layers.TFSMLayer(path, call_endpoint="embed", trainable=False)`. It takes uint8 images too.
  Keras 3 cannot fine-tune it, and needs `trainable=False` even to train a head on top of it
  (otherwise "is not a valid scope name"): use `model.keras` for that.
- `model.onnx` and `model.tflite` are for ONNX Runtime and for phones. Float images in [0, 1].

All return the same feature maps, up to float32 rounding.
"""

import contextlib
import json
import logging
import warnings
from typing import Any

import keras
import tensorflow as tf

from kclr.errors import RunError, SpecError
from kclr.keras_backend import dtype_policy
from kclr.layers import ContrastiveConvBlock, scaling_of, smallest_image, stacked
from kclr.layers.fast import usual_convolutions
from kclr.pooling import MapPooling, Pooling, hyphened
from kclr.runs.directories import SAVED_MODEL, check_ours, sharing
from kclr.runs.paths import as_path, atomic
from kclr.runs.run import Run
from kclr.scaling import Scaling
from kclr.spec.values import axes, grid_of_series, pair, short

# What the SavedModel's functions take as it is; numpy turns images / 255 into float64.
IMAGE_DTYPES = ("float32", "uint8", "float16", "bfloat16", "float64")
RAW_DTYPES = (*IMAGE_DTYPES, "uint16", "int16")  # those of a run of other numbers


def stack_model(run_or_layers, layers=None) -> keras.Model:
    """The plain Keras model of a run's layers, for transfer and fine-tuning.

    Args:
        run_or_layers: from `kclr.load_run`, or its `layers`.
        layers: int, only that many, from the image upwards; all by default.

    Returns:
        Functional model from images (batch, height, width, channels), of any size from
        `smallest_image(model)` on, to the top layer's map. It is float32 whatever Keras' dtype
        policy is. `model.get_layer("conv1").output` is the map of a layer below. Of a run of 8-bit
        pictures it takes floats in [0, 1]; of other runs raw numbers, as the run has seen them,
        which its first layer scales. Of a run of series it takes (batch, length, channels), and
        returns (batch, length, filters).

    Raises:
        SpecError: there are fewer layers.
        RunError: the layers' files do not match each other.
    """
    found = run_or_layers.layers if isinstance(run_or_layers, Run) else list(run_or_layers)
    found = found[: _number_of_layers(found, layers)]
    channels = found[0].kernel.shape[2]
    below = channels
    for layer in found:
        kernel, bias, filters = layer.kernel.shape, layer.bias.shape, layer.block["filters"]
        if kernel[2:] != (below, filters) or bias != (filters,):
            raise RunError(
                f"layer {layer.name}: a kernel {kernel} and a bias {bias} do not match {filters} "
                f"filters on {below} channels. Train the layer again, or restore its files."
            )
        below = filters
    facts = found[0].facts if hasattr(found[0], "facts") else {}
    scaling = Scaling(**facts["scaling"]) if facts.get("scaling") else None
    with dtype_policy("float32"):
        return stacked(found, channels, scaling=scaling, series=bool(facts.get("series")))


def _number_of_layers(found, layers):
    if layers is None:
        layers = len(found)
    if isinstance(layers, bool) or not isinstance(layers, int) or not 1 <= layers <= len(found):
        span = "1" if len(found) == 1 else f"1 to {len(found)}"
        raise SpecError(
            f"layers: {layers} cannot be exported, {len(found)} are trained. Use {span}."
        )
    return layers


def write_keras(model, path):
    """Write a `.keras` file; it loads in Keras' safe mode once kclr is imported."""
    with _writing(path) as temporary:
        model.save(temporary)


def write_saved_model(model, path, pooling: Pooling | None = None, alignment=None):
    """Write a SavedModel that TensorFlow runs without kclr.

    The result of `tf.saved_model.load(path)`, which must be kept alive, has these functions, for
    one or more images of any size from `smallest_image(model)` on: uint8 in 0..255, or float32,
    float64, float16 or bfloat16 in [0, 1]. They always compute in float32, and refuse other dtypes
    and channels (ValueError) and smaller images (ValueError or InvalidArgumentError). If the run
    has learned from other numbers than 8-bit ones, they take these raw numbers in any of these
    dtypes, uint16 or int16, and there is a signature for the run's own dtype instead of uint8.

    - `features(images)`, also as `serve`: float32 (batch, height, width, filters), the map.
    - `embed(images)`: float32 (batch, length), the pooled map (see `kclr.pooling.Pooling`), or
        those of all layers, concatenated from the image upwards.

    Called on arrays they are traced again for every image size (about 60 ms). For images of many
    sizes use them in `tf.data.Dataset.map`, or use the named signatures, which have one dtype each:
    `serving_default`, `features` and `embed` take float32 in [0, 1], `features_uint8` and
    `embed_uint8` take uint8. Their input is `image`, their outputs are `features` and `embeddings`.
    A numpy array of another dtype is converted to theirs without being scaled.

    `assets.extra/kclr.json` says what the model is: layers, channels, smallest image, pooling.

    Args:
        model: from `stack_model`.
        path: of the directory.
        pooling: what `embed` returns; by default the mean of each cell of a 2x2 grid.
        alignment: `kclr.probing.alignment.Alignment` of these vectors, or None.

    Raises:
        RunError: `path` is a directory that kclr did not write, or it cannot be written.
    """
    check_ours(path, SAVED_MODEL)
    smallest, channels = smallest_image(model), model.input_shape[-1]
    series = len(model.input_shape) == 3
    smallest_sides = smallest[1:] if series else smallest
    scaling = scaling_of(model)  # of raw numbers, which pictures of 8 bits are not
    own_dtype = scaling.dtype if scaling else "uint8"
    dtypes = RAW_DTYPES if scaling else IMAGE_DTYPES

    pooling = pooling or Pooling()
    both = _with_embeddings(model, pooling, alignment)

    def traced(output):
        part = keras.Model(both.input, both.output[output])
        spec = [_image_spec(model)]
        return tf.function(lambda image: part(image, training=False), spec, autograph=False)

    maps, vectors = traced("features"), traced("embeddings")  # once for all dtypes

    def in_float32(image):
        size = tf.shape(image)[1:-1]
        words = (
            f"images must be at least {smallest[0]} x {smallest[1]} px (height x width); these are"
        )
        if series:
            words = f"series must have at least {smallest[1]} samples; these have"
        # TensorFlow convolves before it checks unless told; an empty map can crash its process.
        with tf.control_dependencies(
            [tf.debugging.Assert(tf.reduce_all(size >= smallest_sides), [words, size])]
        ):
            image = tf.identity(image)
        if image.dtype == tf.uint8 and not scaling:
            # TensorFlow would turn a division by 255 into a product, which rounds twice.
            image = tf.gather([value / 255 for value in range(256)], tf.cast(image, tf.int32))
        return tf.cast(image, tf.float32)

    def features(image):
        return maps(in_float32(image))

    def embed(image):
        return vectors(in_float32(image))

    module = tf.Module(name="stack")
    module.weights = [weight.value for weight in both.weights]
    module.features = module.serve = tf.function(features, autograph=False)
    module.embed = tf.function(embed, autograph=False)
    signatures = {}
    for function, output in ((module.features, "features"), (module.embed, "embeddings")):
        for dtype in dtypes:
            function.get_concrete_function(_image_spec(model, dtype=dtype))
        name = function.python_function.__name__
        for dtype, signature in (("float32", name), (own_dtype, f"{name}_{own_dtype}")):
            signatures[signature] = _signature(function, output, _image_spec(model, dtype=dtype))
    signatures["serving_default"] = signatures["features"]
    facts = {
        "format": 1,
        "layers": [layer.name for layer in model.layers if isinstance(layer, ContrastiveConvBlock)],
        "channels": channels,
        "smallest_image": smallest,
        "filters": model.output_shape[-1],
        "pool": pooling.pool,
        "all_layers": pooling.all_layers,
        "power": pooling.power,
        **({"grid_size": pooling.grid} if pooling.pool == "grid" else {}),
        **({"scaling": scaling.as_dict()} if scaling else {}),
        **({"series": True} if series else {}),
        **({"aligned": True} if alignment is not None else {}),
    }
    with _writing(path) as temporary:
        tf.saved_model.save(module, temporary, signatures=signatures)
        # TensorFlow leaves this directory's name to other libraries.
        (temporary / "assets.extra").mkdir()
        (temporary / "assets.extra" / "kclr.json").write_text(json.dumps(facts, indent=2) + "\n")


def _image_spec(model, size=None, dtype="float32"):
    sides = [None, None] if size is None else [*pair(size)]
    sides = sides[4 - len(model.input_shape) :]  # a series has no height
    return tf.TensorSpec((None, *sides, model.input_shape[-1]), dtype, name="image")


def _signature(function, output, spec):
    return tf.function(
        lambda image: {output: function(image)}, input_signature=[spec], autograph=False
    )


def require_onnx():
    """Fail if the packages that write ONNX are missing.

    Raises:
        RunError: they are.
    """
    try:
        import onnx.checker  # noqa: F401
        import tf2onnx  # noqa: F401
    except ImportError as error:
        raise RunError(f"ONNX cannot be written: {error}. Use: pip install 'kclr[onnx]'") from None


def write_onnx(model, path, pooling: Pooling | None = None, alignment=None):
    """Write an ONNX file with the input `image` and the outputs `features` and `embeddings`.

    Args:
        model: from `stack_model`.
        path: of the file, `.onnx`.
        pooling: of the embeddings; by default the mean of each cell of a 2x2 grid.
        alignment: `kclr.probing.alignment.Alignment` of them, or None.

    Raises:
        RunError: a package is missing.
    """
    require_onnx()
    both = _with_embeddings(model, pooling or Pooling(), alignment)
    with _writing(path) as temporary:
        both.export(
            str(temporary),
            format="onnx",
            verbose=False,
            input_signature=[_image_spec(model)],
        )


def write_litert(model, path, size, pooling: Pooling | None = None, alignment=None):
    """Write a LiteRT file with the input `image` and the outputs `features` and `embeddings`.

    Args:
        model: from `stack_model`.
        path: of the file, `.tflite`.
        size: int, or two, height and width of the images. The batch stays free.
        pooling: of the embeddings; by default the mean of each cell of a 2x2 grid.
        alignment: `kclr.probing.alignment.Alignment` of them, or None.

    Raises:
        SpecError: images of that size are too small.
    """
    _check_litert_size(model, size)
    both = _with_embeddings(model, pooling or Pooling(), alignment)
    module = tf.Module()
    module.weights = [weight.value for weight in both.weights]
    module.serve = tf.function(
        lambda image: both(image, training=False),
        input_signature=[_image_spec(model, size)],
        autograph=False,
    )
    with _writing(path) as temporary, usual_convolutions():
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [module.serve.get_concrete_function()], module
        )
        temporary.write_bytes(converter.convert())


def _with_embeddings(model, pooling, alignment):
    maps = pooling.maps(model).outputs
    vectors = [
        MapPooling(pooling.pool, *options, dtype="float32")(each)
        for each, options in zip(maps, pooling.of_each(len(maps)), strict=True)
    ]
    pooled = keras.layers.Concatenate(dtype="float32")(vectors) if vectors[1:] else vectors[0]
    if alignment is not None:
        pooled = alignment(pooled)
    return keras.Model(model.input, {"features": model.output, "embeddings": pooled})


def _check_litert_size(model, size):
    if len(model.input_shape) == 3:
        size = (1, pair(size)[1])
    for where, side, least in axes(short(*pair(size)), short(*smallest_image(model))):
        if side < least:
            raise SpecError(
                f"litert_size: {where}{side} is smaller than the receptive field of one cell of "
                f"the map. Use {least} or more."
            )


@contextlib.contextmanager
def _writing(path):
    """`atomic`, without the chatter of TensorFlow, and with its errors in our words."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), atomic(path) as temporary:
            warnings.simplefilter("ignore")
            yield temporary
    except (OSError, tf.errors.OpError) as error:
        if isinstance(error, tf.errors.OpError):
            # The name of the operation and of the temporary file stand before the reason.
            words = error.message.splitlines()[0].rpartition("; ")[2]
        else:
            words = error.strerror or error
        raise RunError(
            f"{path}: cannot be written: {words}. Free disk space, or choose another place with "
            "out=... (--out)."
        ) from None
    finally:
        logger.setLevel(level)


def export_run(
    run,
    out=None,
    layers=None,
    pool="grid",
    grid_size=2,
    onnx=False,
    litert=False,
    litert_size=32,
    all_layers=False,
    power=1.0,
    lock=True,
    align=None,
) -> list[Any]:
    """Write `model.keras` and `saved_model/` of a run; on request also `model.onnx` and
    `model.tflite`.

    Args:
        run: from `kclr.load_run`.
        out: the directory. By default one inside the run that is named after the top layer and the
            pooling, such as `exports/02-conv2-grid2`, so that an export replaces only one of the
            same kind, and the files listed in `summary.json` are not changed.
        layers: int, only that many, from the image upwards; all by default.
        pool, grid_size, all_layers, power: how `embed` makes a vector of the maps; see
            `kclr.pooling.Pooling`, where `grid_size` is called `grid`.
        onnx: bool, write `model.onnx` too.
        litert: bool, write `model.tflite` too.
        litert_size: int, or two, height and width of the LiteRT model's images.
        lock: bool, keep other processes from exporting to the same place at the same time; False if
            the caller already has the directory's lock.
        align: function from the exported layers and their pooling to the
            `kclr.probing.alignment.Alignment` of `embed`; None for none.

    Returns:
        The paths that were written.

    Raises:
        SpecError: an option is not possible.
        RunError: `out` holds files of a finished run, another process exports to it, or something
            could not be read or written.
    """
    trained = run.layers
    trained = trained[: _number_of_layers(trained, layers)]
    shown = grid_size
    if run.series:
        grid_size = grid_of_series(grid_size, len(trained) if all_layers else 1)
    pooling = Pooling(grid_size, power, all_layers, pool=pool, grid_argument="grid_size")
    powers = {own for _, own in pooling.of_stack(len(trained))}
    if out is None:
        name = f"{trained[-1].directory.name}-{pool}"
        name += hyphened(shown) if pool == "grid" else ""
        name += "-all-layers" * all_layers
        name += f"-power{hyphened(power)}" if powers != {1} else ""
        name += "-aligned" * (align is not None)
        out = run.path / "exports" / name
    names = ["model.keras", "saved_model", *["model.onnx"] * onnx, *["model.tflite"] * litert]
    out = as_path(out)
    paths = [out / name for name in names]
    _check_free(out, names)
    model = stack_model(trained)
    if onnx:
        require_onnx()
    if litert:
        _check_litert_size(model, litert_size)
    alignment = None if align is None else align(trained, pooling)
    with sharing(out, names, lock):
        for path in paths:
            if path.name == "model.keras":
                write_keras(model, path)
            elif path.name == "saved_model":
                write_saved_model(model, path, pooling, alignment)
            elif path.name == "model.onnx":
                write_onnx(model, path, pooling, alignment)
            else:
                write_litert(model, path, litert_size, pooling, alignment)
    return paths


def _check_free(out, names):
    """Refuse a place whose files a finished run vouches for."""
    out = out.resolve()
    for directory in (out, *out.parents):
        if not (directory / "spec.yaml").is_file():
            continue
        recorded = (Run(directory).summary or {}).get("sha256") or {}
        inside = out.relative_to(directory)
        for name in names:
            target = (inside / name).as_posix()
            if any(path == target or path.startswith(f"{target}/") for path in recorded):
                raise RunError(
                    f"{directory / target} belongs to a finished run, whose summary.json has its "
                    "sha256. Remove out=... (--out), or choose another place."
                )
