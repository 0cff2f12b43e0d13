"""Whether a spec's images exist and are large enough for its layers, without TensorFlow."""

from kclr.data.labels import labelled_source, labels_problem, option_problems
from kclr.errors import Finding, SpecError
from kclr.spec.checks import (
    augmentation_findings,
    augmentations,
    image_findings,
    least_image,
    whitening_findings,
)
from kclr.spec.findings import Draft, read_draft
from kclr.spec.geometry import output_size
from kclr.spec.schema import Spec
from kclr.spec.values import Size
from kclr.spec.wording import printable


def load_checked(path, overrides=()) -> Spec:
    """`kclr.spec.load_spec`, with a check of the images; one message lists all errors.

    Raises:
        SpecError: the file cannot be read or has errors.
    """
    return draft_checked(path, overrides).finished()


def draft_checked(path, overrides=()) -> Draft:
    """`kclr.spec.findings.read_draft`, with a check of the images.

    Raises:
        SpecError: the file cannot be read, or is not YAML.
    """
    return with_sources(read_draft(path, overrides))


def with_sources(draft: Draft) -> Draft:
    """A draft, with the errors of its images added to its findings."""
    if draft.spec is not None:
        draft.findings += source_findings(draft.spec, draft)
    return draft


def source_findings(spec: Spec, draft: Draft | None = None) -> list[Finding]:
    """The errors of a spec's images that can be found without reading them.

    Args:
        spec: checked, and with possible sizes.
        draft: if parts of the spec are known to be wrong, so that what depends on them is not
            reported.
    """
    findings: list[Finding] = []
    looked: dict = {}
    for index, layer in enumerate(spec.stack):
        path = ("stack", index, "data") if layer.data else ("data",)
        if draft and not (draft.trusted(*path) and draft.trusted("stack", index, "data")):
            continue
        source = layer.data or spec.data
        if source not in looked:
            problem = source.problem()
            findings += [Finding(path, problem)] if problem else []
            looked[source] = None if problem else source.image_shape()
            words = source.bands_problem(looked[source][2]) if looked[source] else None
            findings += [Finding((*path, "bands"), words)] if words else []
        if draft is None or draft.trusted("stack", index, "objective"):
            findings += _training_label_findings(spec, index, path, looked[source] is not None)
        shape = looked[source]
        if shape:
            looks = {"series": source.series, "unit": source.scale in (None, "unit")}
            for augment, place in augmentations(spec, index):
                for finding in augmentation_findings(augment, shape[2], *place, **looks):
                    findings += [finding] if draft is None or draft.trusted(*finding.path) else []
        if shape and (draft is None or draft.sizes_trusted(index, below=True)):
            for finding in image_findings(spec, index, shape[0], shape[1]):
                words = finding.message + source.too_small(least_image(spec, index))
                findings.append(Finding(finding.path, words))
            for finding in whitening_findings(spec, shape[2]) if index == 0 else []:
                findings += [finding] if draft is None or draft.trusted(*finding.path) else []
        if draft is None or draft.trusted("stack", index):
            findings += _learner_findings(spec, index)
        if spec.stack[index].learner.contrastive and (
            draft is None or draft.trusted("stack", index, "patches")
        ):
            findings += [
                Finding(("stack", index, "patches", "alike", key), words)
                for key, words in layer.patches.alike.file_problems(
                    source if looked[source] else None
                )
            ]
    if spec.probe and (draft is None or draft.trusted("probe", "data")):
        found = labelled_findings(spec.probe.data, ("probe", "data"), spec.sources()[0])
        top = len(spec.stack) - 1
        if not found and (draft is None or draft.sizes_trusted(top, below=True)):
            found = _too_small(spec)
        findings += found
    return findings


def _training_label_findings(spec, index, path, usable) -> list[Finding]:
    """Labels that a layer's training lacks, and those of a source that no layer uses.

    Args:
        path: of the source in the spec. usable: whether the source can be opened.
    """
    layer = spec.stack[index]
    source, top = layer.data or spec.data, index in {last for _, last in spec.trainings()}
    own = (*path, "labels")
    if top and layer.train.labelled and not (layer.takes_labels and source.labels is not None):
        where = ("stack", index, "train", "labelled")
        words = "needs data.labels, and an objective that takes them. Add both, or remove it."
        return [Finding(where, words)]
    if source.labels is None:
        if not (top and layer.takes_labels):
            return []
        words = (
            f"needs labels, but {printable(source.spec_name())} is used without. Add them, as in "
            f"{'.'.join(map(str, path))}: {{source: {printable(source.spec_name())}, labels: 0.1}}"
        )
        asks = ("patches", "alike") if layer.patches.alike.takes_labels else ("objective",)
        return [Finding(("stack", index, *asks), words)]
    users = [
        layer
        for layer in (spec.stack[last] for _, last in spec.trainings())
        if (layer.data or spec.data) == source
    ]
    if not any(layer.takes_labels for layer in users):
        words = "no objective of this spec takes labels. Remove it, or use one, such as supcon."
        return [Finding(own, words)] if users[0] is layer else []
    if spec.train.shard == "file":
        return [Finding(own, "labels need train.shard: example. Use that, or remove them.")]
    if users[0] is layer and usable:
        try:
            source.label_count()
        except SpecError as error:
            return [Finding(own, str(error))]
    return []


def _learner_findings(spec, index) -> list[Finding]:
    """Why a layer's learner, or the one that it starts from, cannot use its files."""
    layer, path = spec.stack[index], ("stack", index, "learner")
    channels = spec.stack[index - 1].block.filters if index else None
    findings = []
    for learner, place in (
        (layer.learner, path),
        (getattr(layer.learner, "start", None), (*path, "start")),
    ):
        problem = getattr(learner, "problem", None)
        words = problem(index, layer.block, channels) if problem else None
        findings += [Finding(place, words)] if words else []
    return findings


def labelled_findings(data, path: tuple, like=None) -> list[Finding]:
    """Errors in labelled images (see `kclr.data.labels.load_labelled`).

    Args:
        data: what was written: a name, or the source with its options.
        path: where.
        like: the source that the filters are learned from.
    """
    problem = labels_problem(data)
    if not problem:
        try:
            source = labelled_source(data, like)
            wrong = [Finding((*path, key), words) for key, words in option_problems(source)]
            if wrong:
                return wrong
            problem = source.problem() or source.labels_problem()
        except SpecError as error:
            problem = str(error)
    return [Finding(path, problem)] if problem else []


def _too_small(spec):
    """Images of the probe that are too small for the layers."""
    shape = labelled_source(spec.probe.data, spec.sources()[0]).image_shape()
    if shape is None:
        return []
    size: Size = shape[:2]
    for layer in spec.stack:
        size = output_size(layer.block, size)
        if min(size) < 1:
            words = (
                f"nothing is left of images of {shape[0]}x{shape[1]} px after layer {layer.name}. "
                "Use larger images."
            )
            return [Finding(("probe", "data"), words)]
    return []
