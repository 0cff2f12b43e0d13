"""What a person may write in a spec: typed, frozen objects with every default.

The JSON Schema that editors use, `docs/spec.md` and every check come from these classes. Sizes are
in pixels of a layer's input: image pixels for the first layer, cells of the feature map above it.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from kclr.spec import keras_names, keras_signatures
from kclr.spec.registry import Named, Part
from kclr.spec.wording import nearest, shown, to_mend

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
REGISTERED = r"^[^>]+>[^>]+$"


def _known(name, names):
    """Keras' spelling of `name`, which may be written in lower case as Keras allows."""
    if ">" in name:
        return name
    spellings = {known.lower(): known for known in names}
    if name.lower() not in spellings:
        raise to_mend(f"{shown(name)} is not known to Keras.{nearest(name, names)}", value=name)
    return spellings[name.lower()]


class KerasObject(Part):
    """An object of Keras in Keras' own serialised form: `Adam`, or its class name and config."""

    class_name: str
    """The class's name, or `package>Name` for a registered class."""
    config: dict[str, Any] = Field(default_factory=dict, validate_default=True)
    """The arguments of its constructor."""

    shorthand: ClassVar[str | None] = "class_name"
    package: ClassVar[str]
    example: ClassVar[str]
    names: ClassVar[tuple[str, ...]] = ()
    filled_in: ClassVar[tuple[str, ...]] = ()  # required by Keras, but not of a spec
    nested: ClassVar[dict[str, type["KerasObject"]]] = {}

    @classmethod
    def arguments(cls, class_name) -> dict[str, bool] | None:
        """The names in the config of a class, with whether each is needed; None where unknown."""
        name = {known.lower(): known for known in cls.names}.get(class_name.lower())
        known = keras_signatures.arguments(cls.package, name) if name else None
        return known and {key: need and key not in cls.filled_in for key, need in known.items()}

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value):
        return {"class_name": value} if isinstance(value, str) else value

    @field_validator("class_name")
    @classmethod
    def _check_name(cls, value):
        return _known(value, cls.names)

    @field_validator("config")
    @classmethod
    def _check_config(cls, config, info: ValidationInfo):
        class_name = info.data.get("class_name", "")
        known = cls.arguments(class_name)
        if known is None:
            return config
        for key in config:
            if key not in known:
                words = f"{class_name} takes no such argument.{nearest(key, known)}"
                raise to_mend(words, key, value=config[key])
        for key, needed in known.items():
            if needed and key not in config:
                raise to_mend(f"{class_name} needs the argument {key!r}. Add it to its config.")
        return config

    @classmethod
    def __get_pydantic_json_schema__(cls, schema, handler):
        described = handler.resolve_ref_schema(
            super().__get_pydantic_json_schema__(schema, handler)
        )
        name = {"anyOf": [{"enum": list(cls.names)}, {"type": "string", "pattern": REGISTERED}]}
        described["properties"]["class_name"] |= name
        described["properties"]["class_name"].pop("type", None)
        for key, nested in cls.nested.items():
            described["properties"]["config"]["properties"] = {
                key: {"anyOf": [{"type": "number", "exclusiveMinimum": 0},
                                handler(nested.__pydantic_core_schema__)]}
            }  # fmt: skip
        return {
            "description": described.pop("description", ""),
            "anyOf": [*name["anyOf"], described],
        }


class Schedule(KerasObject):
    """A learning-rate schedule of Keras.

    Counts of steps (`decay_steps`, `boundaries`, `warmup_steps`, ...) written as a fraction between
    0 and 1 are that share of the layer's steps; a `decay_steps` that is left out is all of them.
    """

    package: ClassVar[str] = "keras.optimizers.schedules"
    example: ClassVar[str] = "CosineDecay"
    names: ClassVar[tuple[str, ...]] = keras_names.SCHEDULES
    filled_in: ClassVar[tuple[str, ...]] = ("decay_steps",)


class _Rate(BaseModel):
    learning_rate: Schedule


class Optimizer(KerasObject):
    """An optimizer of Keras; `config.learning_rate` is a number or a schedule."""

    package: ClassVar[str] = "keras.optimizers"
    example: ClassVar[str] = "Adam"
    names: ClassVar[tuple[str, ...]] = keras_names.OPTIMIZERS
    nested: ClassVar[dict[str, type[KerasObject]]] = {"learning_rate": Schedule}

    @field_validator("config")
    @classmethod
    def _check_rate(cls, config):
        rate = config.get("learning_rate")
        if rate is None:
            return config
        if isinstance(rate, (dict, str)):
            return config | _Rate.model_validate({"learning_rate": rate}).model_dump()
        number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
        if not number or not 0 < rate < float("inf"):
            raise to_mend(
                f"{shown(rate)} is no learning rate. Use a number above 0, or a schedule: its "
                "name, or a mapping with class_name and config.",
                "learning_rate",
                value=rate,
            )
        return config


class Augmentation(KerasObject):
    """A random image layer of Keras that keeps the size of what it is given."""

    package: ClassVar[str] = "keras.layers"
    example: ClassVar[str] = "RandomFlip"
    names: ClassVar[tuple[str, ...]] = keras_names.AUGMENTATIONS


def _whitening(value):
    return {True: "zca", False: "none"}[value] if isinstance(value, bool) else value


class Block(Part):
    """One convolution, a max-pool and an activation."""

    filters: Annotated[int, Field(ge=1, le=65536)] = 64
    """Number of filters."""
    kernel_size: Annotated[int, Field(ge=1, le=64)] = 6
    """Height and width of the kernel. The default is 6 in the first layer, 3 above it."""
    strides: Annotated[int, Field(ge=1, le=64)] = 1
    """Step of the convolution."""
    padding: Literal["valid", "same"] = "valid"
    """What happens at the borders of whole images; in training every window is complete."""
    pool_size: Annotated[int, Field(ge=1, le=64)] = 2
    """Height and width of the max-pool's window; 1 for none."""
    pool_strides: Annotated[int, Field(ge=1, le=64)] | None = None
    """Step of the max-pool; its window's size when left out."""
    activation: Annotated[
        str,
        Field(
            json_schema_extra={
                "anyOf": [{"enum": list(keras_names.ACTIVATIONS)}, {"pattern": REGISTERED}]
            }
        ),
    ] = "relu"
    """An activation of Keras, by name, applied after the max-pool."""
    use_bias: bool = True
    """Whether the convolution learns a bias. Whitening adds one of its own when it is folded in."""
    whitening: Annotated[
        Literal["none", "standardize", "zca"],
        BeforeValidator(
            _whitening, json_schema_input_type=bool | Literal["none", "standardize", "zca"]
        ),
    ] = "zca"
    """How the input is decorrelated while training, folded into kernel and bias afterwards: `zca`
    over whole kernel windows, `standardize` for each channel, or `none`; `true` is `zca`. The
    default is `zca` in the first layer, `standardize` above it."""
    whitening_epsilon: Annotated[float, Field(gt=0, le=10)] = 0.01
    """Regularisation of the whitening, as a share of the mean eigenvalue."""

    @field_validator("activation")
    @classmethod
    def _check_activation(cls, value):
        return _known(value, keras_names.ACTIVATIONS)


class Patches(Part):
    """Which windows of an image belong together: overlapping patches of one random crop."""

    patch_size: Annotated[int, Field(ge=2, le=4096)] | None = None
    """Height and width of a patch; just enough for one pooled cell when left out."""
    crop_size: Annotated[int, Field(ge=2, le=8192)] | None = None
    """Height and width of the crop that the patches are cut from; the patch and one step, or the
    patch and the largest shift, when left out."""
    stride: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Distance of neighbouring patches on a grid over the crop. 1 when left out."""
    max_shift: Annotated[int, Field(ge=1, le=1024)] | None = None
    """In place of `stride`: two patches at random places, at most this far apart on each axis."""
    augment: Annotated[tuple[Augmentation, ...], Field(strict=False)] = ()
    """Random image layers of Keras, applied in order to patches with values in [0, 1]."""
    augment_views: Literal["all", "positive"] = "all"
    """Whether all patches are augmented, or the anchor (each crop's first) stays as it is."""

    @model_validator(mode="after")
    def _one_form(self):
        if self.stride and self.max_shift:
            words = "stands beside `stride`. Give one of the two, and remove the other."
            raise to_mend(words, "max_shift", value=self.max_shift)
        return self


class Train(Part):
    """How long and with what a layer is trained."""

    epochs: Annotated[int, Field(ge=1)] | None = None
    """Passes over the images, one crop of each a pass (see `crops_per_image`)."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Number of batches, in place of `epochs`. 1000 when neither is given."""
    batch_size: Annotated[int, Field(ge=2, le=65536)] = 512
    """Crops in a batch."""
    crops_per_image: Annotated[int, Field(ge=1)] = 1
    """Crops of each image that make an epoch."""
    optimizer: Optimizer = Field(
        default_factory=lambda: Optimizer(class_name="Adam", config={"learning_rate": 0.001})
    )
    """Any optimizer of Keras."""
    jit: Literal[True, False, "auto"] = "auto"
    """Compile the step with XLA; `auto` lets kclr choose what measured faster on this device."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Keras' dtype policy of the training step. Weights and exports are float32 in any case."""
    log_every: Annotated[int, Field(ge=1)] = 50
    """Steps between two lines of the history."""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 20.0
    """Least time between two checkpoints; what an interruption costs at most, and one step."""
    on_collapse: Literal["stop", "warn"] = "stop"
    """What to do when all embeddings become alike."""

    @model_validator(mode="after")
    def _one_length(self):
        if self.epochs and self.steps:
            raise to_mend(
                "stands beside `epochs`. Give one of the two, and remove the other (or set it to "
                "null).",
                "steps",
                value=self.steps,
            )
        return self


Data = Annotated[Any, Named("source", key="source")]


class Layer(Part):
    """One layer of the stack: what it is, what it sees, what it learns from, and for how long."""

    name: Annotated[str, Field(pattern=NAME)] | None = None
    """Its name in the run directory and in Keras; `conv1`, `conv2`, ... when left out."""
    block: Block = Field(default_factory=Block)
    """The convolution, its pooling and activation."""
    patches: Patches = Field(default_factory=Patches)
    """The crops and the patches in them."""
    objective: Annotated[Any, Named("objective", default="triplet")] = Field(
        "triplet", validate_default=True
    )
    """What is learned: the name of an objective, or its `name` and options."""
    train: Train = Field(default_factory=Train)
    """Length, batches, optimizer and speed."""
    data: Data | None = None
    """Images of this layer's own; those of the spec when left out."""


class Export(Part):
    """What a finished run writes beside `model.keras` and `saved_model/`."""

    pool: Literal["mean", "max", "grid", "flatten"] = "grid"
    """How the SavedModel's `embed` signature makes a vector of a feature map."""
    grid_size: Annotated[int, Field(ge=1, le=64)] = 2
    """Cells of the `grid` pooling, on each side."""
    onnx: bool = False
    """Write `model.onnx` (needs `pip install kclr[onnx]`)."""
    litert: bool = False
    """Write `model.tflite`, for images of the size that `litert_size` says."""
    litert_size: Annotated[int, Field(ge=1, le=4096)] = 32
    """Height and width of the LiteRT model's images."""


class Spec(Part):
    """A run of kclr: images without labels, and the layers to learn from them."""

    name: Annotated[str, Field(pattern=NAME)] | None = None
    """The run's name, and its directory in `runs/`; the file's name when left out."""
    data: Data = Field("photos", validate_default=True)
    """Where the images come from: `photos`, `tfds:NAME`, `folder:PATH` or a path; or a mapping with
    the key `source` and the source's options."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of everything random. The same seed gives the same kernels."""
    stack: tuple[Layer, ...] = Field(strict=False, min_length=1, max_length=32)
    """The layers, from the image upwards; each is trained on the frozen output of those below."""
    export: Export = Field(default_factory=Export)
    """What is written at the end."""
    tensorboard: bool = False
    """Also write TensorBoard events (needs `pip install kclr[tensorboard]`)."""

    @field_validator("stack")
    @classmethod
    def _resolve_layers(cls, stack, info: ValidationInfo):
        return tuple(_resolve(layer, position) for position, layer in enumerate(stack))


def json_schema() -> dict[str, Any]:
    """The JSON Schema of specs, from the same definitions that check them."""
    schema = _tidied(Spec.model_json_schema())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kclr spec",
    } | schema


def _tidied(schema):
    """Alike whatever pydantic's release, without titles made of keys, descriptions on one line."""
    if isinstance(schema, list):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {k: _tidied(v) for k, v in schema.items()}
    if isinstance(kept.get("title"), str):
        del kept["title"]
    if kept.get("additionalProperties") is True:
        del kept["additionalProperties"]
    for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if isinstance(kept.get(key), float) and kept[key].is_integer():
            kept[key] = int(kept[key])
    if isinstance(kept.get("description"), str):
        kept["description"] = " ".join(kept["description"].split())
    return kept


def _resolve(layer: Layer, position: int) -> Layer:
    """Fill in the defaults that depend on a layer's place or on its other values."""
    block, patches, train = layer.block, layer.patches, layer.train
    given = block.model_fields_set
    if position > 0:
        upper = {"kernel_size": 3, "whitening": "standardize"}
        block = block.model_copy(update={k: v for k, v in upper.items() if k not in given})
    if block.pool_strides is None:
        block = block.model_copy(update={"pool_strides": block.pool_size})
    one_cell = (block.pool_size - 1) * block.strides + block.kernel_size
    patch_size = patches.patch_size or max(2, one_cell)
    stride = None if patches.max_shift else patches.stride or 1
    crop_size = patches.crop_size or patch_size + (patches.max_shift or stride or 1)
    patches = patches.model_copy(
        update={"patch_size": patch_size, "stride": stride, "crop_size": crop_size}
    )
    if not train.epochs and not train.steps:
        train = train.model_copy(update={"steps": 1000})
    return layer.model_copy(
        update={
            "name": layer.name or f"conv{position + 1}",
            "block": block,
            "patches": patches,
            "train": train,
        }
    )
