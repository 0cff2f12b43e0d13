"""Keras objects in a spec, in Keras' own form: optimizers, schedules, augmentations."""

import importlib.metadata
from functools import cache
from typing import Any, ClassVar

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from kclr.spec import keras_names
from kclr.spec.keras_arguments import ARGUMENTS, VERSION
from kclr.spec.keras_values import KINDS
from kclr.spec.registry import ByName
from kclr.spec.wording import invalid, mistake, nearest, shown, together

REGISTERED = r"^[^>]+>[^>]+$"


def known_to_keras(name, names):
    """Keras' spelling of `name`, which may be in lower case, as in Keras."""
    if ">" in name:
        return name
    refused = {known.lower(): known for known in keras_names.REFUSED}.get(name.lower())
    if refused:
        raise invalid(f"{refused} {keras_names.REFUSED[refused]}", value=name)
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
        return _kinds(ARGUMENTS[cls.package][name]) if name else None

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
    names: ClassVar[tuple[str, ...]] = keras_names.SCHEDULES
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
    names: ClassVar[tuple[str, ...]] = keras_names.OPTIMIZERS
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
    """A random Keras image layer that keeps the size of its input."""

    package: ClassVar[str] = "keras.layers"
    example: ClassVar[str] = "RandomFlip"
    names: ClassVar[tuple[str, ...]] = keras_names.AUGMENTATIONS
