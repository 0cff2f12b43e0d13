"""What a layer is trained for: one objective, or a list of several with weights."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from pydantic.fields import FieldInfo

from kclr.spec.registry import Named, Part
from kclr.spec.wording import invalid, shown

HIGHEST = 1e6  # weight


@dataclass(frozen=True)
class Term:
    """An objective in a list.

    Attributes:
        objective: a registered one.
        weight: what its loss is multiplied with.
        name: what its statistics and variables are called by: that of the objective, with a number
            behind it for each further one of that name.
    """

    objective: Any
    weight: float
    name: str = ""

    def called(self, statistic) -> str:
        """One of its statistics among those of others."""
        named = statistic.startswith(f"{self.name}_")
        return statistic if named else f"{self.name}_{statistic}"


class Several:
    """Objectives that are trained together: the weighted sum of their losses.

    Args:
        terms: `Term`s, one or more.
    """

    ceiling: None = None  # see the statistic alike_loss

    def __init__(self, terms):
        met: Counter[str] = Counter()
        found = []
        for term in terms:
            name = term.objective.part_name
            met[name] += 1
            found.append(replace(term, name=name if met[name] == 1 else f"{name}{met[name]}"))
        self.terms = tuple(found)

    def __eq__(self, other):
        return isinstance(other, Several) and self.terms == other.terms

    def __hash__(self):
        return hash(self.terms)

    def __repr__(self):
        return f"Several({list(self.terms)})"

    @property
    def part_name(self) -> str:
        """The names of the objectives."""
        return "_and_".join(term.name for term in self.terms)

    @property
    def statistics(self) -> tuple[str, ...]:
        """Those of each objective with its name before them, and what they are together."""
        own = [t.called(s) for t in self.terms for s in ("loss", *t.objective.statistics)]
        return (*own, "alike_loss") if self._told else tuple(own)

    @property
    def _told(self):
        """Whether the loss of embeddings that are all alike is known of each."""
        return all(
            term.objective.ceiling is not None or "alike_loss" in term.objective.statistics
            for term in self.terms
        )

    @property
    def cures(self) -> tuple[str, ...]:
        """What to try after a collapse."""
        return tuple(dict.fromkeys(cure for t in self.terms for cure in t.objective.cures))

    @property
    def takes_labels(self) -> bool:
        """Whether one of them does."""
        return any(takes(term.objective, "labels") for term in self.terms)

    @property
    def takes_turns(self) -> bool:
        """Whether one of them does."""
        return any(takes(term.objective, "turns") for term in self.terms)

    def plain(self) -> list[dict[str, Any]]:
        """The list as a spec has it."""
        return [
            {"name": term.objective.part_name, "weight": term.weight}
            | term.objective.model_dump(mode="json")
            for term in self.terms
        ]

    @property
    def takes_maps(self) -> bool:
        """Whether one of them compares maps."""
        return any(takes(term.objective, "maps") for term in self.terms)

    def each(self, function) -> "Several":
        """The same list of what a function makes of each objective."""
        return Several([replace(t, objective=function(t.objective)) for t in self.terms])

    def fitted(self, patches) -> "Several":
        """The same for the patches of a layer."""
        return self.each(lambda own: own.fitted(patches) if hasattr(own, "fitted") else own)

    def problem(self, patches) -> str | None:
        """Why the patches of a layer are not those that one of them needs, or None."""
        asked = (t.objective for t in self.terms if hasattr(t.objective, "problem"))
        return next(filter(None, (own.problem(patches) for own in asked)), None)

    def state(self, dimensions, maps=1) -> dict:
        """The variables of all of them, each with the name of its objective before its own."""
        return {
            f"{term.name}_{name}": arguments
            for term in self.terms
            for name, arguments in variables(term.objective, dimensions, maps).items()
        }

    def next_state(self, images, embeddings, state) -> dict:
        """The variables that a training batch changes."""
        return {
            f"{term.name}_{name}": value
            for term in self.terms
            if hasattr(term.objective, "next_state")
            for name, value in term.objective.next_state(
                images, embeddings, _own(term, state)
            ).items()
        }

    def __call__(self, images, embeddings, state=None, maps=None, **of_crops):
        """Loss and statistics of a batch of crops.

        Args:
            images, embeddings: as of each objective.
            state: the values of the variables that `state` names, where there are some.
            maps, of_crops: as of `compare`, for those that take them.

        Returns:
            loss: float scalar, the sum of each loss times its weight. statistics: dict of float
            scalars, see `statistics`; alike_loss is that of all of them together.
        """
        loss: Any = 0.0
        alike: Any = 0.0
        statistics: dict[str, Any] = {}
        for term in self.terms:
            own_state = _own(term, state)
            own, told = compare(term.objective, images, embeddings, own_state, maps, **of_crops)
            loss = loss + term.weight * own
            statistics |= {term.called(name): value for name, value in told.items()}
            statistics[term.called("loss")] = own
            if self._told:
                alike = alike + term.weight * told.get("alike_loss", term.objective.ceiling)
        if self._told:
            from keras import ops

            statistics["alike_loss"] = ops.cast(alike, loss.dtype)
        return loss, statistics


def variables(objective, dimensions=1, maps=1) -> dict:
    """The variables that go with an objective, by name: the arguments of Keras' `add_weight`.

    Args:
        objective: a registered one, or `Several`.
        dimensions: int, of an embedding.
        maps: height, width and filters of a map; where only the names count, 1.
    """
    if isinstance(objective, Several):
        return objective.state(dimensions, maps)
    if not hasattr(objective, "state"):
        return {}
    return objective.state(maps if takes(objective, "maps") else dimensions)


def with_classes(objective, count):
    """An objective, or several, for that many classes of labels."""
    if isinstance(objective, Several):
        return objective.each(lambda own: with_classes(own, count))
    return objective.with_classes(count) if hasattr(objective, "with_classes") else objective


def _own(term, state) -> dict:
    """The values of an objective's variables, by its own names for them."""
    names = variables(term.objective)
    return {name: state[f"{term.name}_{name}"] for name in names if state}


def each_of(objective) -> Iterator[tuple[tuple[int, ...], Any]]:
    """The objectives in one place of a spec, each with the key path from there."""
    if isinstance(objective, Several):
        for index, term in enumerate(objective.terms):
            yield (index,), term.objective
    else:
        yield (), objective


_LACKING = {
    "labels": "labels, but a batch has none. Fit on the generator of images with labels, "
    "as_images(images, y=labels), or pass (patches, targets) with targets of shape (crops, 2): "
    "image and class, -1 for none.",
    "turns": "the turn of each crop, but a batch has none. Fit on PatchTripletGenerator(..., "
    "turns=True).",
}


def takes(objective, what) -> bool:
    """Whether an objective takes "labels", "turns" or "maps"."""
    return getattr(objective, f"takes_{what}", False)


def compare(objective, images, embeddings, state=None, maps=None, **of_crops):
    """An objective's loss and statistics, given what it takes.

    Args:
        objective: a registered one, or `Several`.
        images: int (crops,). embeddings: float (crops, patches, dimensions).
        state: values of its variables by name; None where they are not known.
        maps: float (crops, patches, height, width, filters), or None.
        of_crops: `labels` and `turns`, each int (crops,), or None where they are not known.

    Raises:
        ValueError: it takes something that there is not.
    """
    if isinstance(objective, Several):
        return objective(images, embeddings, state, maps, **of_crops)
    given: dict[str, Any] = {"state": state} if hasattr(objective, "state") else {}
    for what, words in _LACKING.items():
        if takes(objective, what):
            given[what] = of_crops.get(what)
            if given[what] is None:
                raise ValueError(f"{objective.part_name} needs {words}")
    if takes(objective, "maps"):
        if maps is None:
            raise ValueError(
                f"{objective.part_name} compares the maps of a block, not embeddings. Compile a "
                "TripletModel with this loss, and fit it."
            )
        embeddings = maps
    return objective(images, embeddings, **given)


class _Weighted(Named):
    """An objective in a list, which may have a weight besides its options."""

    extra: ClassVar[dict[str, Any]] = {
        "weight": FieldInfo(annotation=float, default=1.0, gt=0, le=HIGHEST)
    }

    def _resolve(self, value):
        if isinstance(value, Term):
            return value
        weight = 1.0
        if isinstance(value, dict):
            value = dict(value)
            weight = value.pop("weight", 1.0)
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or not 0 <= weight <= HIGHEST:
            words = f"{shown(weight)} is not a weight. Use a number above 0, up to {HIGHEST:,.0f}."
            raise invalid(words, "weight", value=weight)
        if weight == 0:
            words = "0 leaves the objective without effect. Remove the objective, or use more."
            raise invalid(words, "weight", value=weight)
        return Term(super()._resolve(value), float(weight))

    def _json_schema(self, handler):
        found = super()._json_schema(handler)
        weight = {
            "description": "What its loss is multiplied with.",
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": HIGHEST,
            "default": 1,
        }
        for branch in found["anyOf"]:
            if branch["type"] == "object":
                branch["properties"]["weight"] = weight
        return found


class ObjectiveOrList(Named):
    """Annotation of a spec field that holds an objective, or a list of several with weights."""

    def __init__(self):
        super().__init__("objective", default="triplet")
        self.item: Named = _Weighted("objective")

    def __get_pydantic_core_schema__(self, source, handler):
        from pydantic_core import core_schema

        items = core_schema.list_schema(
            core_schema.no_info_plain_validator_function(self.item._resolve),
            strict=False,
            min_length=1,
        )
        return core_schema.no_info_wrap_validator_function(
            lambda value, listed: (
                Several(listed(value)) if isinstance(value, (list, tuple)) else self._resolve(value)
            ),
            items,
            serialization=core_schema.plain_serializer_function_ser_schema(self._dump),
        )

    def _resolve(self, value: Any) -> Any:
        return value if isinstance(value, Several) else super()._resolve(value)

    def _dump(self, part: Any) -> Any:
        return part.plain() if isinstance(part, Several) else super()._dump(part)

    def _json_schema(self, handler):
        found = super()._json_schema(handler)
        items = self.item._json_schema(handler)
        found["anyOf"].append({"type": "array", "items": items, "minItems": 1})
        return found


def objective_of(value: Any) -> Part | Several:
    """The objective that a plain value of a spec's `objective` means.

    Raises:
        ValidationError: of pydantic, where it means none.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(Annotated[Any, ObjectiveOrList()]).validate_python(value)
