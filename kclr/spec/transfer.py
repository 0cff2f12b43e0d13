"""What the spec of a transfer experiment may contain: `kclr transfer SPEC`.

Typed, frozen objects with every default, checked like the specs of runs.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator

from kclr.spec import keras_parts
from kclr.spec.findings import draft
from kclr.spec.keras_parts import KerasObject, Optimizer
from kclr.spec.registry import ByName, Part
from kclr.spec.schema import NAME, LabelledData, tidied
from kclr.spec.values import Amount
from kclr.spec.wording import invalid, shown

MOST_LAYERS = 32
# The paper's: a tenth of the rate after two thirds of the steps.
STEPPED_ADAM = {
    "learning_rate": {
        "class_name": "PiecewiseConstantDecay",
        "config": {"boundaries": [0.6667], "values": [0.001, 0.0001]},
    }
}


class ImageLayer(KerasObject):
    """A Keras image layer that is applied to training images only.

    Together they must keep the size. Keras' `RandomCrop` draws one position per batch; if it is
    used, images are augmented one by one, so that each has its own position. `RandomTranslation`
    with `interpolation: nearest` and `fill_mode: constant` does the same three times as fast.
    """

    package: ClassVar[str] = "keras.layers"
    example: ClassVar[str] = "RandomFlip"
    names: ClassVar[tuple[str, ...]] = (*keras_parts.Augmentation.names, *keras_parts.RESIZING)


class Classifier(ByName):
    """A classifier: its name and its options."""

    model_config = ConfigDict(extra="allow")
    shorthand: ClassVar[str | None] = "name"
    example: ClassVar[str] = "zhao"

    name: str = "zhao"
    """`zhao`, `alexnet`, `vgg`, `resnet`, `applications:NAME` for a model of `keras.applications`,
    or `MODULE:FUNCTION` for a function that builds a Keras model. That module is imported and run,
    also from the working directory, and therefore needs `kclr transfer --allow-code`. For series
    the first four have one-dimensional forms."""

    @property
    def options(self) -> dict[str, Any]:
        """The options written next to the name."""
        return dict(self.model_extra or {})


class Supervised(ByName):
    """Another labelled set, for supervised transfer: the classifier is trained on it first."""

    shorthand: ClassVar[str | None] = "data"
    example: ClassVar[str] = "tfds:cifar100"

    data: LabelledData
    """Its name or a mapping, as of `data`."""
    limit: Annotated[int, Field(ge=2)] | None = None
    """Number of training images to use, drawn class by class; all by default."""
    epochs: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Passes over them; as in `train` by default."""


class TransferTrain(Part):
    """How every classifier is trained."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Passes over the labelled images. The test images are classified after each; the result is the
    accuracy after the last one."""
    min_steps: Annotated[int, Field(ge=0)] = 1000
    """If few labels would give fewer steps in total, an epoch passes over them as often as needed
    for this many steps; never more than with all labels. 0 for the same number of passes
    everywhere."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 128
    """Images in a batch."""
    optimizer: Optimizer = Field(
        default_factory=lambda: Optimizer(class_name="Adam", config=STEPPED_ADAM)
    )
    """Any Keras optimizer; in a schedule, counts of steps may be shares of all steps."""
    augment: Annotated[tuple[ImageLayer, ...], Field(strict=False)] = ()
    """Keras image layers, applied in order to training images with values in [0, 1]."""
    jit: Literal[True, False, "auto"] = "auto"
    """Compile the step with XLA; `auto` does so on a GPU; on a CPU it is slower."""
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Keras' dtype policy. `mixed_bfloat16` is several times as fast on a CPU with AMX; `auto` is
    that where the processor or the GPU has units for it, and else `float32`. An experiment that is
    resumed keeps the precision in which it was begun."""


class TransferSpec(Part):
    """An experiment: classifiers trained on labelled images from several starts and compared."""

    name: Annotated[str, Field(pattern=NAME)] | None = None
    """Its name, also of its directory in `transfers/`; the file's name by default."""
    title: str | None = None
    """A one-line description. The protocol (images, epochs, classifier) is added to it."""
    data: LabelledData
    """The labelled images: `tfds:NAME`, `folder:PATH` or `audio:PATH` with a folder for each class
    or a `labels.csv`, `array:FILE` or `series:FILE` with labels in the file, or `digits`; or a
    mapping with the key `source` and options that say how they are read, which by default are those
    of the images that the filters are learned from."""
    limit: Annotated[int, Field(ge=2)] | None = None
    """Number of training images to use, drawn class by class; all by default."""
    test_limit: Annotated[int, Field(ge=2)] | None = None
    """Number of test images to use, drawn class by class; all by default."""
    classifier: Classifier = Field(default_factory=Classifier)
    """The model that is trained."""
    pretrained: str | None = None
    """Where learned filters come from: a run's directory, or the spec of a run, which is then
    trained in the experiment's directory. A path is looked up in the working directory, then next
    to this spec."""
    pretrain_each_repeat: bool = False
    """If `pretrained` is a spec: train it for each repeat, with the repeat's seed, instead of once
    for all. The spread over repeats then includes that of the filters."""
    layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)] | None = None
    """How many of the first convolutions are copied, in every arm that copies some; by default as
    many of the run's layers as fit, or one if there is no run."""
    scale: bool = True
    """Whether copied filters, and the layers above them, are scaled so that activations have unit
    variance (LSUV, Mishkin and Matas 2016); otherwise filters stay as learned."""
    supervised: Supervised | None = None
    """Another labelled set, for the arms of supervised transfer."""
    arms: Annotated[tuple[str, ...], Field(strict=False, min_length=1, max_length=100)] = (
        "random start",
        "kclr frozen",
        "kclr fine-tuned",
    )
    """The starts to compare. Gains are over `random start`."""
    labels: Annotated[tuple[Amount, ...], Field(strict=False, min_length=1, max_length=100)] = (
        1.0,
    )
    """Amounts of labels: shares of each class (0.01 for one in a hundred), or whole numbers per
    class, 2 or more."""
    repeats: Annotated[int, Field(ge=1, le=1000)] = 3
    """Number of independent repeats. The labels drawn, the order of images, the augmentation and
    the weights that an arm does not replace differ between repeats, but are the same for all arms
    of a repeat."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the first repeat; each next repeat adds 1."""
    train: TransferTrain = Field(default_factory=TransferTrain)
    """How every classifier is trained."""

    @field_validator("arms")
    @classmethod
    def _each_once(cls, arms):
        for index, name in enumerate(arms):
            if name in arms[:index]:
                raise invalid(f"{shown(name)} is a duplicate. Remove one.", index, value=name)
        return arms

    @field_validator("labels")
    @classmethod
    def _amounts(cls, labels):
        for index, amount in enumerate(labels):
            if amount in labels[:index]:
                raise invalid(f"{shown(amount)} is a duplicate. Remove one.", index, value=amount)
        return labels


def json_schema() -> dict[str, Any]:
    """The JSON Schema of transfer specs, from the definitions that check them."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kclr transfer spec",
    } | tidied(TransferSpec.model_json_schema())


def parse_transfer(text, overrides=(), name="spec") -> TransferSpec:
    """Check the text of a transfer spec; `kclr.transfer.checks.load_transfer` checks more.

    Args:
        text: YAML.
        overrides: `key.path=value`, each.
        name: of the spec, in messages.

    Raises:
        SpecError: the spec has errors; the message lists all of them.
    """
    return draft(text, overrides, name, TransferSpec).finished()
