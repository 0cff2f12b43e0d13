"""Keras objects in a spec, in Keras' own form: optimizers, schedules, augmentations.

First come the names of classes that a spec may use, so that it can be checked without Keras;
`tests/spec/test_keras_names.py` compares them with the installed Keras. A class that another
package registers is written as Keras serialises it, `package>Name`, and is not checked here. Then
the kinds of values that arguments take; `keras_arguments.py` lists the kind of each argument.
"""

import importlib.metadata
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from kclr.spec.keras_arguments import ARGUMENTS, VERSION
from kclr.spec.registry import ByName
from kclr.spec.wording import invalid, mistake, nearest, shown, together

# LossScaleOptimizer and MultiOptimizer wrap another one; Keras adds the first by itself.
OPTIMIZERS = tuple(ARGUMENTS["keras.optimizers"])


SCHEDULES = tuple(ARGUMENTS["keras.optimizers.schedules"])


# Those that change an image's size, so that only several of them together may keep it.
RESIZING = ("RandomCrop", "ZeroPadding2D")


# Those that keep an image's size and mix no two images.
AUGMENTATIONS = tuple(name for name in ARGUMENTS["keras.layers"] if name not in RESIZING)


# kclr's own among the augmentations, with the kinds of their arguments (see `keras_arguments`).
OWN_LAYERS = {
    "DropColors": "noise=share seed=seed? name=text? dtype=float32? trainable=flag",
    "SensorJitter": (
        "gain=factor offset=factor time_drop=strength band_drop=share seed=seed? name=text? "
        "dtype=float32? trainable=flag"
    ),
}


# Augmentations of Keras that cannot be used, and why.
REFUSED = {
    "Equalization": "equalizes all images of a batch together. Use AutoContrast.",
}


# Those that only images of three colours have.
COLOURED = ("RandomColorDegeneration", "RandomHue", "RandomSaturation")


COLOURED_ARGUMENTS = {"RandomColorJitter": ("saturation_factor", "hue_factor")}


# Those that take gray images and such of three colours, and no others.
GRAY_OR_COLOURED = ("AugMix", "RandAugment", "RandomGrayscale")


# Those that are of two dimensions: on a series, an image of height 1, they do nothing, or they mix
# it with what is outside.
OF_IMAGES = (
    "RandomElasticTransform", "RandomErasing", "RandomPerspective", "RandomRotation",
    "RandomSharpness", "RandomShear",
)  # fmt: skip


# Those that XLA does not compile.
NOT_COMPILED = (
    "AugMix", "RandAugment", "RandomElasticTransform", "RandomPerspective", "RandomRotation",
    "RandomShear", "RandomTranslation", "RandomZoom",
)  # fmt: skip


# fmt: off
# Those that keep the shape and need no argument: not `glu`, nor `threshold`.
ACTIVATIONS = (
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish",
    "hard_tanh", "leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6",
    "selu", "sigmoid", "silu", "soft_shrink", "softmax", "softplus", "softsign", "sparse_plus",
    "sparse_sigmoid", "sparsemax", "squareplus", "swish", "tanh", "tanh_shrink",
)


MOST_STEPS = 2**31 - 1  # of which TensorFlow still counts


_LARGEST = 1e30  # that float32 holds with room to compute


_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    Attributes:
        words: what is allowed.
        fits: whether a value other than null is of this kind.
        number: whether a whole number is passed to Keras as a float.
    """

    words: str
    fits: Callable[[Any], bool]
    number: bool = False


def _is_number(value, low=-_LARGEST, high=_LARGEST, above=False, below=False):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return (low < value if above else low <= value) and (value < high if below else value <= high)


def _is_whole(value, low, high=MOST_STEPS):
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _number(words, *range_, **ends):
    return Kind(words, lambda value: _is_number(value, *range_, **ends), number=True)


def _whole(words, low, high=MOST_STEPS):
    return Kind(words, lambda value: _is_whole(value, low, high))


def _is_count(value, least):
    """Whether a value is a number of steps: a whole number, or a share of all steps."""
    if isinstance(value, float):
        return 0 < value <= 1 or value == 0 == least
    return _is_whole(value, least)


def _one_or_pair(words, *range_, **ends):
    def fits(value):
        if isinstance(value, (list, tuple)):
            return len(value) == 2 and all(_is_number(one, *range_, **ends) for one in value)
        return _is_number(value, *range_, **ends)

    return Kind(words, fits)


def _choice(*names):
    *first, last = names
    words = f"{', '.join(first)} or {last}" if first else last
    return Kind(words, lambda value: isinstance(value, str) and value in names)


def _list_of(kind_fits, least=0):
    return lambda value: isinstance(value, (list, tuple)) and len(value) >= least and all(
        map(kind_fits, value)
    )  # fmt: skip


def _is_odd(value):
    return _is_whole(value, 1, 4095) and value % 2 == 1


def _is_fill(value):
    listed = isinstance(value, (list, tuple)) and len(value) == 3
    return all(map(_is_number, value)) if listed else _is_number(value)


_SHARE_OF_STEPS = "or a share of all steps with a decimal point (0.5, 1.0)"


KINDS: dict[str, Kind] = {
    # Numbers.
    "number": _number("a number"),
    "amount": _number("a number, 0 or more", 0),
    "positive": _number("a number above 0", 0, above=True),
    "negative": _number("a number, 0 or less", -_LARGEST, 0),
    "momentum": _number("a number from 0 to below 1", 0, 1, below=True),
    "share": _number("a number from 0 to 1", 0, 1),
    "share_above_0": _number("a number above 0, up to 1", 0, 1, above=True),
    "growth": _number("a number from 1 to 1,000", 1, 1000),
    "rate": _number("a number above 0, up to 1,000,000", 0, 1e6, above=True),
    "rate_or_0": _number("a number from 0 to 1,000,000", 0, 1e6),
    "rates": Kind("a list of numbers from 0 to 1,000,000",
                  _list_of(lambda one: _is_number(one, 0, 1e6), 1), number=True),
    # Counts.
    "steps": Kind(f"a whole number, 1 or more, {_SHARE_OF_STEPS}", lambda v: _is_count(v, 1)),
    "steps_or_0": Kind(f"a whole number, 0 or more, {_SHARE_OF_STEPS}", lambda v: _is_count(v, 0)),
    "boundaries": Kind(f"a list of whole numbers, 1 or more, {_SHARE_OF_STEPS}",
                       _list_of(lambda one: _is_count(one, 1), 1)),
    "count": _whole("a whole number, 1 or more", 1),
    "several": _whole("a whole number, 2 or more", 2),
    "few": _whole("a whole number from 1 to 100", 1, 100),
    "bins": _whole("a whole number from 2 to 65,536", 2, 65536),
    "size": _whole("a whole number from 1 to 8,192", 1, 8192),
    "seed": _whole("a whole number, 0 or more", 0),
    # Factors of augmentations: one number, or the lowest and the highest.
    "factor": _one_or_pair("a number from -1 to 1, or a list of two", -1, 1),
    "strength": _one_or_pair("a number from 0 to 1, or a list of two", 0, 1),
    "zoom": _one_or_pair("a number above -1, up to 1, or a list of two", -1, 1, above=True),
    "turn": _one_or_pair("a number of turns from -1 to 1, or a list of two", -1, 1),
    "bits": _one_or_pair("a number from 1 to 8, or a list of two", 1, 8),
    "odd": Kind("an odd whole number, or a list of two", lambda value: _is_odd(value) or (
        isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_odd, value)))),
    "range": Kind("a list of two numbers, the lower one first", lambda value: isinstance(
        value, (list, tuple)) and len(value) == 2 and all(map(_is_number, value))
        and value[0] < value[1]),
    "fill": Kind("a number", _is_number),
    "fill_or_colour": Kind("a number, or a list of three", _is_fill),
    "padding": Kind(
        "a whole number from 0 to 1,024, a list of two, or a list of two lists of two",
        lambda value: _is_padding(value)),
    # Words.
    "flag": Kind("true or false", lambda value: isinstance(value, bool)),
    "text": Kind("letters, digits, '_', '-' and '.', starting with a letter or a digit",
                 lambda value: isinstance(value, str) and bool(_NAME.fullmatch(value))),
    "texts": Kind("a list of texts", _list_of(lambda one: isinstance(one, str))),
    "flips": _choice("horizontal", "vertical", "horizontal_and_vertical"),
    "interpolation": _choice("nearest", "bilinear"),
    "fill_mode": _choice("constant", "nearest", "reflect", "wrap"),
    "channels_last": _choice("channels_last"),
    "float32": _choice("float32"),
}  # fmt: skip


def _is_padding(value, depth=2):
    if isinstance(value, (list, tuple)):
        return depth > 0 and len(value) == 2 and all(_is_padding(one, depth - 1) for one in value)
    return _is_whole(value, 0, 1024)


REGISTERED = r"^[^>]+>[^>]+$"


def known_to_keras(name, names):
    """Keras' spelling of `name`, which may be in lower case, as in Keras; kclr's own without it."""
    if name.removeprefix("kclr>") in OWN_LAYERS:
        return name.removeprefix("kclr>")
    if ">" in name:
        return name
    refused = {known.lower(): known for known in REFUSED}.get(name.lower())
    if refused:
        raise invalid(f"{refused} {REFUSED[refused]}", value=name)
    spellings = {known.lower(): known for known in names}
    if name.lower() not in spellings:
        raise invalid(f"{shown(name)} is not known to Keras.{nearest(name, names)}", value=name)
    return spellings[name.lower()]


@cache
def _kinds(line) -> dict[str, str]:
    return dict(words.split("=") for words in line.split())


@cache
def _newer_keras() -> bool:
    """Whether the installed Keras is newer than the one in the table of arguments."""
    try:
        installed = importlib.metadata.version("keras").split(".")[:2]
        return [int(part) for part in installed] > [int(part) for part in VERSION.split(".")]
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False


class KerasObject(ByName):
    """A Keras object in its serialised form: `Adam`, or a class name and config."""

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
    def arguments(cls, class_name) -> dict[str, str] | None:
        """The names in the config of a class, each with its kind (see `keras_arguments`); None if
        the class is not from Keras."""
        name = {known.lower(): known for known in cls.names}.get(class_name.lower())
        own = OWN_LAYERS if cls.package == "keras.layers" else {}
        return _kinds((own | ARGUMENTS[cls.package])[name]) if name else None

    @field_validator("class_name")
    @classmethod
    def _check_name(cls, value):
        return known_to_keras(value, cls.names)

    @field_validator("config")
    @classmethod
    def _check_config(cls, config, info: ValidationInfo):
        class_name = info.data.get("class_name", "")
        known = cls.arguments(class_name)
        if known is None:
            return config
        errors = []
        for key, value in config.items():
            refused: str | None = None
            if key in known:
                refused = cls._refused(key, value, known[key])
            elif not _newer_keras():  # which may know more, and is asked before a training starts
                refused = f"unknown argument of {class_name}.{nearest(key, known)}"
            if refused:
                errors.append(mistake(refused, key, value=value))
        unknown = config.keys() - known
        for key, kind in known.items() if not unknown else ():
            if "!" in kind and key not in config and key not in cls.filled_in:
                words = f"{class_name} needs the argument {key!r}. Add it to its config."
                errors.append(mistake(words))
        if errors:
            raise together(errors)
        cls._check_together(class_name, config)
        return config

    @classmethod
    def _refused(cls, key, value, kind) -> str | None:
        """Why a value cannot be the argument `key`, or None if it can."""
        if key in cls.nested and isinstance(value, (dict, str)):
            return None
        if value is None and "?" in kind:
            return None
        takes = KINDS[kind.rstrip("!?")]
        if value is not None and takes.fits(value):
            return None
        null = ", or null" if "?" in kind else ""
        whole = isinstance(value, float) and value.is_integer() and takes.fits(int(value))
        cure = f"Write {int(value)}, without a decimal point, or use" if whole else "Use"
        return f"{shown(value)} is not allowed. {cure} {takes.words}{null}."

    @classmethod
    def _check_together(cls, class_name, config) -> None:
        """Refuse arguments that are valid alone but not together."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema, handler):
        described = handler.resolve_ref_schema(
            super(ByName, cls).__get_pydantic_json_schema__(schema, handler)
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
    """A Keras learning-rate schedule.

    Numbers of steps (`decay_steps`, `warmup_steps`, `boundaries`, ...) with a decimal point are a
    share of all training steps, above 0 and up to 1.0. `decay_steps` defaults to the steps after
    `warmup_steps`.
    """

    package: ClassVar[str] = "keras.optimizers.schedules"
    example: ClassVar[str] = "CosineDecay"
    names: ClassVar[tuple[str, ...]] = SCHEDULES
    filled_in: ClassVar[tuple[str, ...]] = ("decay_steps",)

    @classmethod
    def _check_together(cls, class_name, config):
        bounds, values = config.get("boundaries"), config.get("values")
        if bounds is None or values is None:
            return
        if len(values) != len(bounds) + 1:
            words = (
                f"{len(values)} for {len(bounds)} boundaries. Use {len(bounds) + 1}, one more "
                "than boundaries."
            )
            raise invalid(words, "values", value=values)
        for kind in (int, float):
            own = [bound for bound in bounds if type(bound) is kind]
            if own != sorted(set(own)):
                words = (
                    f"{shown(bounds)} is not increasing. Write the boundaries in order, without "
                    "duplicates."
                )
                raise invalid(words, "boundaries", value=bounds)


_CLIPS = ("clipnorm", "clipvalue", "global_clipnorm")


class _Rate(BaseModel):
    learning_rate: Schedule


class Optimizer(KerasObject):
    """A Keras optimizer; `config.learning_rate` is a number or a schedule."""

    package: ClassVar[str] = "keras.optimizers"
    example: ClassVar[str] = "Adam"
    names: ClassVar[tuple[str, ...]] = OPTIMIZERS
    nested: ClassVar[dict[str, type[KerasObject]]] = {"learning_rate": Schedule}

    @field_validator("config")
    @classmethod
    def _check_rate(cls, config):
        rate = config.get("learning_rate")
        if isinstance(rate, (dict, str)):
            return config | _Rate.model_validate({"learning_rate": rate}).model_dump()
        return config

    @classmethod
    def _refused(cls, key, value, kind):
        words = super()._refused(key, value, kind)
        if words and key == "learning_rate":
            return (
                words[:-1] + ", or a schedule: its name, or a mapping with class_name and config."
            )
        return words

    @classmethod
    def _check_together(cls, class_name, config):
        clips = [
            key
            for key in ("clipnorm", "clipvalue", "global_clipnorm")
            if config.get(key) is not None
        ]
        if len(clips) > 1:
            words = f"cannot be combined with `{clips[0]}`. Keep one."
            raise invalid(words, clips[1], value=config[clips[1]])


class Augmentation(KerasObject):
    """A random Keras image layer that keeps the size of its input.

    Beside Keras' own there is `SensorJitter`, for series and for images of any channels. Its `gain`
    and `offset`, a number from 0 to 1 or the two ends, change each channel by itself; `time_drop`
    is the longest share of the width that is replaced by its mean, and `band_drop` the probability
    that a channel becomes 0. `DropColors` replaces all channels but one, drawn at random, by noise
    with `noise` times the standard deviation of that one.
    """

    package: ClassVar[str] = "keras.layers"
    example: ClassVar[str] = "RandomFlip"
    names: ClassVar[tuple[str, ...]] = (*AUGMENTATIONS, *OWN_LAYERS)
