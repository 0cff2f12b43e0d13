"""JSON Schemas in the form in which they are written."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from kclr.spec import keras_parts
from kclr.spec.keras_parts import MOST_STEPS, REGISTERED, Augmentation, Optimizer, known_to_keras
from kclr.spec.objectives import ObjectiveOrList, takes
from kclr.spec.registry import ByName, Named, NameOf, Part
from kclr.spec.search import Search
from kclr.spec.values import (
    Amount,
    Cells,
    Powers,
    Sides,
    Size,
    along_series,
    each_axis,
    grid_of_series,
    short,
    with_next,
)
from kclr.spec.wording import invalid


def tidied(schema):
    """The same for every release of pydantic: no generated titles, descriptions on one line."""
    if isinstance(schema, list):
        return [tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {k: tidied(v) for k, v in schema.items()}
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


NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"


CONTRASTIVE = ("patches", "objective", "embedding", "train")  # keys that no other learner takes


TRAINED = ("batch_norm", "use_bias")  # and those of a block


def _whitening(value):
    return {True: "zca", False: "none"}[value] if isinstance(value, bool) else value


class Block(Part):
    """One convolution, a max-pool and an activation."""

    filters: Annotated[int, Field(ge=1, le=65536)] = 64
    """Number of filters."""
    kernel_size: Annotated[Size, Sides(1, 1024)] = 6
    """Height and width of the kernel; of series its length. The default is 6 in the first layer, 3
    above it."""
    strides: Annotated[Size, Sides(1, 1024)] = 1
    """Step of the convolution."""
    padding: Literal["valid", "same"] = "valid"
    """Padding at the borders of whole images; in training every window is complete."""
    pool_size: Annotated[Size, Sides(1, 1024)] = 2
    """Height and width of the max-pool's window; 1 for no pooling."""
    pool_strides: Annotated[Size, Sides(1, 1024)] | None = None
    """Step of the max-pool; the size of its window by default."""
    activation: Annotated[
        str,
        Field(
            json_schema_extra={
                "anyOf": [{"enum": list(keras_parts.ACTIVATIONS)}, {"pattern": REGISTERED}]
            }
        ),
    ] = "relu"
    """A Keras activation, by name, applied after the max-pool."""
    use_bias: bool = True
    """Whether the convolution learns a bias. Whitening adds its own bias when it is folded in."""
    whitening: Annotated[
        Literal["none", "standardize", "zca"],
        BeforeValidator(
            _whitening, json_schema_input_type=bool | Literal["none", "standardize", "zca"]
        ),
    ] = "zca"
    """How the input is decorrelated during training; folded into kernel and bias afterwards: `zca`
    over whole kernel windows, `standardize` for each channel, or `none`; `true` is `zca`. The
    default is `zca` in the first layer and `standardize` above it, except for the learner
    `whiten`."""
    whitening_epsilon: Annotated[float, Field(gt=0, le=10)] = 0.01
    """Regularisation strength of the whitening, as a share of the mean eigenvalue."""
    contrast: Literal["none", "patch"] = "none"
    """`patch`: every kernel window is normalised to mean 0 and variance 1, over its pixels and
    channels, before whitening and kernel (Coates and Ng 2011, section 3.1). A plain convolution
    cannot do that: it is part of the exported models, but initializers, which copy plain kernels,
    omit it. With `padding: same` the zeros of the border are part of the windows there."""
    contrast_epsilon: Annotated[float, Field(gt=0, le=1_000_000)] = 0.00015
    """Regularisation strength of the contrast normalisation: added to a window's variance, in
    squared units of the layer's input. The default is close to that of Coates and Ng, 10 for pixels
    up to 255."""
    batch_norm: bool = False
    """Whether the convolution's output is batch-normalised during training; folded into kernel and
    bias afterwards."""

    def arguments(self) -> dict[str, Any]:
        """Arguments of the layer's `ContrastiveConvBlock` after training."""
        return self.model_dump(exclude={"whitening", "whitening_epsilon", "batch_norm", "use_bias"})

    @field_validator("activation")
    @classmethod
    def _check_activation(cls, value):
        return known_to_keras(value, keras_parts.ACTIVATIONS)


class Patches(Part):
    """Which windows of an image belong together: overlapping patches of one random crop, unless
    `alike` says otherwise."""

    alike: Annotated[Any, Named("alike", default="near")] = Field(
        default="near", validate_default=True
    )
    """What makes windows alike: the name of a notion, or a mapping with `name` and options. All but
    `near` place their windows themselves, and take no `crop_size`, `stride` or `max_shift`."""
    patch_size: Annotated[Size, Sides(2, 65536)] | None = None
    """Height and width of a patch; by default just enough for one pooled cell."""
    crop_size: Annotated[Size, Sides(2, 131072)] | None = None
    """Height and width of the crop that the patches are cut from; by default the patch plus one
    step, or the patch plus the largest shift. If a side of the patch is 1, so is the crop's."""
    stride: Annotated[Size, Sides(1, 1024)] | None = None
    """Distance between neighbouring patches on a grid over the crop. 1 by default."""
    max_shift: Annotated[Size, Sides(1, 1024, least=0)] | None = None
    """Instead of `stride`: two patches at random places, at most this far apart on each axis;
    `[0, 8]` for places in one row."""
    augment: Annotated[tuple[Augmentation, ...], Field(strict=False)] = ()
    """Random Keras image layers, applied in order to patches with values in [0, 1]."""
    augment_views: Literal["all", "positive"] = "all"
    """Whether all patches are augmented, or all but the anchor (the first of each crop)."""

    @model_validator(mode="after")
    def _one_form(self):
        if self.stride and self.max_shift:
            words = "cannot be combined with `stride`. Keep one."
            raise invalid(words, "max_shift", value=self.max_shift)
        for key in ("stride", "max_shift") if self.alike.own_windows else ():
            if getattr(self, key) is not None:
                words = f"is for `alike: near`; {self.alike.part_name} places windows itself."
                raise invalid(f"{words} Remove it.", key, value=getattr(self, key))
        return self

    @model_serializer(mode="wrap")
    def _without_the_default(self, handler):
        dumped = handler(self)
        if dumped.get("alike") == {"name": "near"}:  # so that what was there before has its key
            del dumped["alike"]
        return dumped


class Embedding(Part):
    """How the map of a patch becomes the vector that the objective compares; discarded after
    training."""

    pool: Literal["flatten", "mean", "grid"] = "flatten"
    """The map itself, its mean, or the mean of each cell of a grid."""
    grid_size: Annotated[Size, Sides(1, 64)] = 2
    """Cells of the `grid` pooling, per side: rows and columns."""
    standardize: bool = False
    """Whether each element of the vector is normalised to mean 0 and variance 1 over the batch."""
    head: Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(strict=False)] = ()
    """Widths of a projection head's dense layers, with ReLU between them; no head by default."""


class Train(Part):
    """How a layer is trained: length, batches, optimizer."""

    epochs: Annotated[int, Field(ge=1, le=MOST_STEPS)] | None = None
    """Passes over the images, with one crop of each image per pass (see `crops_per_image`)."""
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] | None = None
    """Number of batches, instead of `epochs`. 1000 if neither is given."""
    batch_size: Annotated[int, Field(ge=2, le=65536)] = 512
    """Crops in a batch."""
    crops_per_image: Annotated[int, Field(ge=1, le=MOST_STEPS)] = 1
    """Crops of each image in an epoch."""
    labelled: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of each batch that is drawn from the images with a label (`data.labels`) alone, each as
    often as any other; by default images come as they are, with or without one."""
    optimizer: Optimizer = Field(
        default_factory=lambda: Optimizer(class_name="Adam", config={"learning_rate": 0.001})
    )
    """Any Keras optimizer."""
    decorrelation: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """Factor of a penalty in the loss: the mean squared cosine between two different filters,
    before whitening is folded in (soft orthogonality, Bansal et al. 2018, "Can we gain more from
    orthogonality regularizations in training deep networks?")."""
    reseed: bool = False
    """Whether filters that never respond are restarted from a random direction every `log_every`
    steps."""
    jit: Literal[True, False, "auto"] = "auto"
    """Compile the step with XLA; with `auto`, kclr chooses what was measured to be faster on this
    kind of device."""
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    """Keras' dtype policy of the training step. Weights and exports are float32 in any case. `auto`
    is `mixed_bfloat16` above a layer of 64 filters or more if the processor (AMX) or the GPU
    (compute capability 8.0) has units for it, and `float32` elsewhere. A run that is resumed keeps
    the precision in which it was begun."""
    log_every: Annotated[int, Field(ge=1, le=MOST_STEPS)] = 50
    """Steps between two rows of the history."""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 20.0
    """Shortest time between two checkpoints, in seconds. An interruption loses at most this time
    plus one step."""
    on_collapse: Literal["stop", "warn"] = "stop"
    """What to do if all embeddings become alike, or if the finished filters' responses are all zero
    or far too large. Values that are not finite always stop the training."""

    @model_serializer(mode="wrap")
    def _without_the_default(self, handler):
        dumped = handler(self)
        if dumped.get("labelled") is None:  # so that what was there before has its key
            dumped.pop("labelled", None)
        return dumped

    @model_validator(mode="after")
    def _one_length(self):
        if self.epochs and self.steps:
            raise invalid(
                "cannot be combined with `epochs`. Keep one (or set the other to null).",
                "steps",
                value=self.steps,
            )
        return self


Data = Annotated[Any, Named("source", key="source")]


class _NamedLabels(Named):
    """Labelled images: a name, which stays a text, or a mapping with their source's options."""

    def options(self, part):
        return [key for key in super().options(part) if key in part.reading]

    def _json_schema(self, handler):
        branches = super()._json_schema(handler)["anyOf"]
        return {"anyOf": [own for own in branches if own["type"] != "array"]}  # labels are of one

    def _resolve(self, value):
        return value if isinstance(value, str) else super()._resolve(value)

    def _dump(self, part):
        if isinstance(part, str):
            return part
        # Options that are not set are those of the images that the filters are learned from.
        return {self.key: part.spec_name()} | part.model_dump(mode="json", exclude_unset=True)


LabelledData = Annotated[Any, _NamedLabels("source", key="source", without=("photos", "video"))]


class Layer(Part):
    """One layer of the stack: its convolution, its patches, what it learns, and how it is
    trained."""

    name: Annotated[str, Field(pattern=NAME)] | None = None
    """Its name in the run directory and in Keras; `conv1`, `conv2`, ... by default."""
    block: Block = Field(default_factory=Block)
    """The convolution, its pooling and activation."""
    learner: Annotated[Any, Named("learner", default="contrastive")] = Field(
        "contrastive", validate_default=True
    )
    """How the kernel is learned: the name of a learner, or a mapping with `name` and options. The
    keys below are only for the learner `contrastive`."""
    patches: Patches = Field(default_factory=Patches)
    """The crops and the patches in them."""
    objective: Annotated[Any, ObjectiveOrList()] = Field("triplet", validate_default=True)
    """What is learned: the name of an objective, or a mapping with `name` and options; or a list of
    several, each with a `weight` besides, 1 by default: their losses are added."""
    embedding: Embedding = Field(default_factory=Embedding)
    """The vectors that the objective compares."""
    train: Train = Field(default_factory=Train)
    """Length, batches, optimizer and speed."""
    data: Data | None = None
    """Images for this layer; those of the spec by default."""

    @property
    def takes_labels(self) -> bool:
        """Whether its training uses labels of its images."""
        return self.learner.contrastive and (
            takes(self.objective, "labels") or self.patches.alike.takes_labels
        )

    @model_validator(mode="after")
    def _only_what_counts(self):
        if self.learner.contrastive:
            return self
        given: list[tuple[str, ...]] = [
            (key,) for key in CONTRASTIVE if key in self.model_fields_set
        ]
        # As they are by default they may stand: the resolved spec of a run has every key.
        own, usual = self.block, Block()
        given += [("block", key) for key in TRAINED if getattr(own, key) != getattr(usual, key)]
        for path in given:
            words = (
                "is only for the learner contrastive, but the learner is "
                f"{self.learner.part_name}. Remove it."
            )
            raise invalid(words, *path, value=getattr(self, path[0]))
        return self

    @model_serializer(mode="wrap")
    def _without_the_rest(self, handler):
        dumped = handler(self)
        if not self.learner.contrastive:
            dumped = {key: value for key, value in dumped.items() if key not in CONTRASTIVE}
        return dumped


class Training(Part):
    """How the layers are trained together."""

    end_to_end: bool = False
    """Train all layers at once: the top layer's `data`, `patches`, `objective`, `embedding` and
    `train` are used, and only the blocks of those below; the number of steps is the same as layer
    by layer. Layers with other learners than `contrastive` are learned as usual, and those above
    them are trained at once."""
    distribute: Literal["none", "mirrored", "multi-worker"] = "none"
    """Train on several devices with TensorFlow's `tf.distribute`: `mirrored` on all GPUs of this
    machine, `multi-worker` on the machines that TF_CONFIG lists; see docs/scale.md. `batch_size` is
    the total over all devices."""
    gather: bool = True
    """Whether each device compares the crops of all devices, so that several devices train like one
    with the whole batch, or only its own part."""
    shard: Literal["example", "file"] = "example"
    """What each worker of `multi-worker` sees: with `data` its part of every batch, the same
    batches as on one machine; with `file` its own images, which no other worker reads."""


class Probe(ByName):
    """An evaluation of the layer in training, while it learns.

    Every `every` steps a simple classifier is fitted on the layer's frozen features of labelled
    images and scored on other images. This does not change what is learned. Only the data set's
    training images are used, a fifth of every class for scoring, or a fifth of the groups.
    """

    shorthand: ClassVar[str | None] = "data"

    data: LabelledData
    """The labelled images: `tfds:NAME`, `folder:PATH` or `audio:PATH` with a folder for each class
    or a `labels.csv`, `array:FILE` or `series:FILE` with labels in the file, or `digits`; or a
    mapping with the key `source` and options that say how they are read, which by default are those
    of the run's images."""
    every: Annotated[int, Field(ge=1, le=MOST_STEPS)] = 200
    """Steps between two probes. There is always one after a layer's last step."""
    limit: Annotated[int, Field(ge=2)] | None = 5000
    """Use only this many images, the first ones (of an array, some drawn at random); null for
    all."""
    labels: Amount = 1.0
    """Number of labels to fit with: a share of each class (0.01 for one in a hundred), or a whole
    number per class, 2 or more."""
    classifier: Annotated[str, NameOf("readout")] = "ridge"
    """Ridge or logistic regression, nearest neighbours, or the means of the classes."""
    grid: Cells = 2
    """Cells per side that feature maps are pooled to; with `all_layers` one number for all layers,
    or a list with one for each layer, from the image upwards. In a list `[rows, columns]` may take
    the place of a number: `[[1, 4]]`."""
    all_layers: bool = False
    """Use the features of all layers up to the one in training, concatenated, or of that layer
    alone."""
    power: Powers = 1.0
    """Exponent that the pooled features are raised to; 0.5 for square roots (power normalisation,
    Perronnin et al. 2010, "Improving the Fisher kernel for large-scale image classification"). With
    `all_layers` one number for all layers, or a list."""
    flips: bool = False
    """Average the features of each image and its mirror image."""
    precision: Literal["auto", "float32", "mixed_bfloat16"] = "float32"
    """Precision of the convolutions that are judged. bfloat16 is faster on CPUs with AMX; `auto` is
    the faster one."""


class Alignment(Part):
    """Directions of `embed` that differ between views of one image are shrunk: a last step without
    labels and without gradients, which helps classifiers with few labels most."""

    augment: Annotated[tuple[Augmentation, ...], Field(strict=False, min_length=1)]
    """Random Keras image layers, applied in order to whole images; they make the views. What they
    change should not matter to a classifier."""
    views: Annotated[int, Field(ge=1, le=100)] = 4
    """Views of each image."""
    images: Annotated[int, Field(ge=8, le=1_000_000)] = 2000
    """Images to make views of; fewer if their features would take more than 256 MB."""
    directions: Annotated[int, Field(ge=1, le=4096)] = 300
    """Number of directions that are shrunk."""


class Export(Part):
    """What a finished run writes besides `model.keras` and `saved_model/`."""

    pool: Literal["mean", "max", "grid", "flatten"] = "grid"
    """How the SavedModel's `embed` signature turns a feature map into a vector."""
    grid_size: Cells = 2
    """Cells of the `grid` pooling, per side; with `all_layers` one number for all layers, or a list
    with one for each layer, from the image upwards. In a list `[rows, columns]` may take the place
    of a number: `[[1, 4]]`."""
    power: Powers = 1.0
    """Exponent that the pooled features are raised to, as in `probe.power`."""
    all_layers: bool = False
    """Whether `embed` returns the concatenated vectors of all layers, or only the top layer's."""
    alignment: Alignment | None = None
    """What is learned about the pooled features at the end. Not done by default."""
    onnx: bool = False
    """Write `model.onnx` (needs `pip install kclr[onnx]`)."""
    litert: bool = False
    """Write `model.tflite`, for images of size `litert_size`."""
    litert_size: Annotated[Size, Sides(1, 4096)] = 32
    """Height and width of the LiteRT model's images."""


class Spec(Part):
    """A kclr run: images without labels, and the layers to learn from them."""

    name: Annotated[str, Field(pattern=NAME)] | None = None
    """The run's name, also of its directory in `runs/`; the file's name by default."""
    data: Data = Field("photos", validate_default=True)
    """Where the images come from: `photos`, `tfds:NAME`, `folder:PATH` or a path; a list of several
    folders, `[folder:PATH, folder:PATH]`; or a mapping with the key `source` and the source's
    options."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Random seed of the run. The same seed gives the same kernels."""
    stack: tuple[Layer, ...] = Field(strict=False, min_length=1, max_length=32)
    """The layers, from the image upwards; each is trained on the frozen output of those below."""
    train: Training = Field(default_factory=Training)
    """Layer by layer, or all at once."""
    probe: Probe | None = None
    """Labelled images to evaluate the layers with while they are trained: the name of a data set,
    or a mapping with `data` and options. No probe by default."""
    export: Export = Field(default_factory=Export)
    """What is written at the end of the run."""
    tensorboard: bool = False
    """Also write TensorBoard events (needs `pip install kclr[tensorboard]`)."""
    search: Search | None = None
    """What `kclr search` tries (needs `pip install kclr[search]`); ignored by `kclr train`."""

    def sources(self) -> list[Any]:
        """What the layers are trained on, each source once."""
        return list(dict.fromkeys(layer.data or self.data for layer in self.stack))

    def joined(self) -> list[tuple[int, int]]:
        """The groups of layers in end-to-end training, from the image upwards: the first and the
        last of contrastive layers on top of each other, and each other layer alone."""
        groups: list[tuple[int, int]] = []
        below = False
        for index, layer in enumerate(self.stack):
            above = layer.learner.contrastive
            first = groups.pop()[0] if below and above else index
            groups.append((first, index))
            below = above
        return groups

    def trainings(self) -> list[tuple[int, int]]:
        """The first and the last of each group of layers trained at once, from the image
        upwards."""
        return self.joined() if self.train.end_to_end else [(i, i) for i in range(len(self.stack))]

    @field_validator("stack")
    @classmethod
    def _resolve_layers(cls, stack, info: ValidationInfo):
        series = getattr(info.data.get("data"), "series", False)
        return tuple(_resolve(layer, position, series) for position, layer in enumerate(stack))

    @field_validator("probe", "export")
    @classmethod
    def _along_series(cls, part, info: ValidationInfo):
        if part is None or not getattr(info.data.get("data"), "series", False):
            return part
        key = "grid" if isinstance(part, Probe) else "grid_size"
        count = len(info.data.get("stack", ())) if part.all_layers else 1
        return part.model_copy(update={key: grid_of_series(getattr(part, key), count)})


def json_schema() -> dict[str, Any]:
    """The JSON Schema of specs, from the definitions that check them."""
    schema = tidied(Spec.model_json_schema())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kclr spec",
    } | schema


_SIZES = (
    "kernel_size", "strides", "pool_size", "pool_strides", "patch_size", "crop_size", "stride",
    "max_shift", "grid_size",
)  # fmt: skip


def _of_series(part):
    """A block, patches or an embedding with sizes along a series."""
    found = {key: getattr(part, key, None) for key in _SIZES}
    sizes = {
        key: along_series(size, 0 if key == "max_shift" else 1)
        for key, size in found.items()
        if size is not None
    }
    return part.model_copy(update=sizes)


def _resolve(layer: Layer, position: int, series: bool) -> Layer:
    """Fill in the defaults that depend on a layer's position or on its other values."""
    block, patches, train = layer.block, layer.patches, layer.train
    given = block.model_fields_set
    if position > 0:
        upper = {"kernel_size": 3, "whitening": layer.learner.whitening_above}
        block = block.model_copy(update={k: v for k, v in upper.items() if k not in given})
    if series:
        block, patches, embedding = map(_of_series, (block, patches, layer.embedding))
        layer = layer.model_copy(update={"embedding": embedding})
    if block.pool_strides is None:
        block = block.model_copy(update={"pool_strides": block.pool_size})
    one_cell = each_axis(
        lambda pool, step, kernel: (pool - 1) * step + kernel,
        *(block.pool_size, block.strides, block.kernel_size),
    )
    least = along_series(2) if series else 2
    patch = patches.patch_size or (least if one_cell == (1, 1) else short(*one_cell))
    alike, stride = patches.alike.fitted(patch), patches.stride
    if alike.own_windows:
        crop = alike.crop(patch)
    elif patches.max_shift:
        crop = each_axis(lambda own, shift: own + shift, patch, patches.max_shift)
    else:
        stride = stride or 1
        crop = with_next(patch, stride)
    patches = patches.model_copy(
        update={
            "alike": alike,
            "patch_size": patch,
            "stride": stride,
            "crop_size": patches.crop_size or short(*crop),
        }
    )
    objective = layer.objective
    if layer.learner.contrastive and hasattr(objective, "fitted"):
        objective = objective.fitted(patches)
    if not train.epochs and not train.steps:
        train = train.model_copy(update={"steps": 1000})
    return layer.model_copy(
        update={
            "name": layer.name or f"conv{position + 1}",
            "block": block,
            "patches": patches,
            "objective": objective,
            "train": train,
        }
    )
