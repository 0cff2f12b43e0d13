"""What a person may write in the spec of a transfer experiment: `kclr transfer SPEC`.

Typed, frozen objects with every default, checked as the specs of runs are.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator

from kclr.spec import keras_names
from kclr.spec.findings import draft
from kclr.spec.json_schemas import tidied
from kclr.spec.keras_parts import KerasObject, Optimizer
from kclr.spec.registry import ByName, Part
from kclr.spec.schema import NAME
from kclr.spec.values import Amount
from kclr.spec.wording import shown, to_mend

MOST_LAYERS = 32
# The paper's: a tenth of the rate after two thirds of the steps.
STEPPED_ADAM = {
    "learning_rate": {
        "class_name": "PiecewiseConstantDecay",
        "config": {"boundaries": [0.6667], "values": [0.001, 0.0001]},
    }
}


class ImageLayer(KerasObject):
    """An image layer of Keras that is applied to training images alone.

    All of them together keep the size. Keras' `RandomCrop` draws one place for a batch; where it is
    among the layers, images are augmented one by one, so that each has its own. `RandomTranslation`
    with `interpolation: nearest` and `fill_mode: constant` does the same three times as fast.
    """

    package: ClassVar[str] = "keras.layers"
    example: ClassVar[str] = "RandomFlip"
    names: ClassVar[tuple[str, ...]] = (*keras_names.AUGMENTATIONS, *keras_names.RESIZING)


class Classifier(ByName):
    """A classifier by name, and its options beside the name."""

    model_config = ConfigDict(extra="allow")
    shorthand: ClassVar[str | None] = "name"
    example: ClassVar[str] = "zhao"

    name: str = "zhao"
    """`zhao`, `alexnet`, `vgg`, `resnet`, `applications:NAME` for a model of `keras.applications`,
    or `MODULE:FUNCTION` for a function that builds a Keras model. That module is imported and run,
    from the working directory too, and so only with `kclr transfer --allow-code`."""

    @property
    def options(self) -> dict[str, Any]:
        """What was written beside the name."""
        return dict(self.model_extra or {})


class Supervised(ByName):
    """Another labelled set, for supervised transfer: the classifier is trained on it first."""

    shorthand: ClassVar[str | None] = "data"
    example: ClassVar[str] = "tfds:cifar100"

    data: str
    """Its name: `tfds:NAME`, `folder:PATH`, or `digits`."""
    limit: Annotated[int, Field(ge=2)] | None = None
    """Training images to use, drawn class by class; all when left out."""
    epochs: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Passes over them; those of `train` when left out."""


class TransferTrain(Part):
    """How every classifier is trained."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Passes over the labelled images. The test images are classified after each; the result is the
    accuracy after the last one."""
    min_steps: Annotated[int, Field(ge=0)] = 1000
    """Where few labels make fewer steps in all, an epoch passes over them as often as it takes to
    make so many; never more than with all labels. 0 for the same number of passes everywhere."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 128
    """Images in a batch."""
    optimizer: Optimizer = Field(
        default_factory=lambda: Optimizer(class_name="Adam", config=STEPPED_ADAM)
    )
    """Any optimizer of Keras; in a schedule, counts of steps may be shares of all steps."""
    augment: Annotated[tuple[ImageLayer, ...], Field(strict=False)] = ()
    """Image layers of Keras, applied in order to training images with values in [0, 1]."""
    jit: Literal[True, False, "auto"] = "auto"
    """Compile the step with XLA; `auto` does so on a GPU, for on a CPU it is slower."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Keras' dtype policy. `mixed_bfloat16` is several times as fast on a CPU that has AMX."""


class TransferSpec(Part):
    """An experiment: classifiers trained on labelled images from several starts, and compared."""

    name: Annotated[str, Field(pattern=NAME)] | None = None
    """Its name, and its directory in `transfers/`; the file's name when left out."""
    title: str | None = None
    """What it is, in a line. The protocol (images, epochs, classifier) is added to it."""
    data: str
    """The labelled images: `tfds:NAME`, `folder:PATH` with a folder for each class, or `digits`."""
    limit: Annotated[int, Field(ge=2)] | None = None
    """Training images to use, drawn class by class; all when left out."""
    test_limit: Annotated[int, Field(ge=2)] | None = None
    """Test images to use, drawn class by class; all when left out."""
    classifier: Classifier = Field(default_factory=Classifier)
    """What is trained."""
    pretrained: str | None = None
    """Where learned filters come from: a run's directory, or the spec of a run, which is then
    trained into the experiment's own directory. A path is looked for where the command is run, then
    beside this spec."""
    pretrain_each_repeat: bool = False
    """Where `pretrained` is a spec: train it anew for each repeat, with the repeat's seed, rather
    than once for all. The spread over repeats then includes that of the filters."""
    layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)] | None = None
    """How many of the first convolutions are moved over, in every arm that moves some; when left
    out, all of the run that find a place, or one where there is no run."""
    scale: bool = True
    """Whether moved filters, and the layers above them, are scaled so that activations keep unit
    variance (LSUV, Mishkin and Matas 2016); without it filters stay as they were learned."""
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
    """Amounts of labels: shares of each class (0.01 for one in a hundred), or whole numbers from 2
    on, of each class."""
    repeats: Annotated[int, Field(ge=1, le=1000)] = 3
    """Independent repeats. The labels drawn, the order of images, the augmentation and the weights
    that an arm does not replace differ between repeats, and are the same for all arms of one."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the first repeat; the next ones count on from it."""
    train: TransferTrain = Field(default_factory=TransferTrain)
    """How every classifier is trained."""

    @field_validator("arms")
    @classmethod
    def _each_once(cls, arms):
        for index, name in enumerate(arms):
            if name in arms[:index]:
                raise to_mend(f"{shown(name)} is there twice. Remove one.", index, value=name)
        return arms

    @field_validator("labels")
    @classmethod
    def _amounts(cls, labels):
        for index, amount in enumerate(labels):
            if amount in labels[:index]:
                raise to_mend(f"{shown(amount)} is there twice. Remove one.", index, value=amount)
        return labels


def json_schema() -> dict[str, Any]:
    """The JSON Schema of transfer specs, from the same definitions that check them."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kclr transfer spec",
    } | tidied(TransferSpec.model_json_schema())


def parse_transfer(text, overrides=(), name="spec") -> TransferSpec:
    """Check the text of a transfer spec; `kclr.transfer.checks.load_transfer` says more.

    Args:
        text: YAML.
        overrides: `key.path=value`, each.
        name: of the spec, in messages.

    Raises:
        SpecError: something must be mended; the message lists all of it.
    """
    return draft(text, overrides, name, TransferSpec).finished()
