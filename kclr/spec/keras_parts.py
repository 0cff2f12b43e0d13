"""Objects of Keras in a spec, in Keras' own form: optimizers, schedules, augmentations."""

from typing import Any, ClassVar

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from kclr.spec import keras_names, keras_signatures
from kclr.spec.registry import ByName
from kclr.spec.wording import nearest, shown, to_mend

REGISTERED = r"^[^>]+>[^>]+$"


def known_to_keras(name, names):
    """Keras' spelling of `name`, which may be written in lower case as Keras allows."""
    if ">" in name:
        return name
    spellings = {known.lower(): known for known in names}
    if name.lower() not in spellings:
        raise to_mend(f"{shown(name)} is not known to Keras.{nearest(name, names)}", value=name)
    return spellings[name.lower()]


class KerasObject(ByName):
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
