"""Whether what a transfer spec names exists: arms, classifier, images, run. No TensorFlow."""

import os
from pathlib import Path
from typing import Any

from kclr.data.arrays import run_source
from kclr.data.checks import labelled_findings, load_checked, source_findings
from kclr.data.labels import labelled_name
from kclr.data.sources import split_source
from kclr.errors import Finding, RunError, SpecError
from kclr.runs.run import Run, load_run
from kclr.spec.findings import read_draft, refusal
from kclr.spec.registry import parts
from kclr.spec.schema import Spec
from kclr.spec.transfer import TransferSpec
from kclr.spec.wording import nearest, shown
from kclr.transfer.arms import NEEDS, arms
from kclr.transfer.classifiers import classifier_names, of_images_alone


def load_transfer(path, overrides=(), allow_code=False) -> TransferSpec:
    """Read a transfer spec from a YAML file, apply `key.path=value` overrides, and check it.

    Args:
        path: of the file.
        overrides: `key.path=value`, each.
        allow_code: whether the classifier may be `MODULE:FUNCTION`, a module that is then imported
            and run, also from the working directory.

    Returns:
        The spec; `pretrained` as an existing path.

    Raises:
        SpecError: the file cannot be read or has errors; the message lists all of them.
    """
    draft = read_draft(path, overrides, TransferSpec)
    if draft.spec is not None:
        draft.spec = _located(draft.spec, Path(path).parent)
        found = [*findings(draft.spec), *(() if allow_code else code_findings(draft.spec))]
        draft.findings += [finding for finding in found if draft.trusted(*finding.path)]
    return draft.finished()


def _located(spec, place):
    """`pretrained` relative to the spec, if it does not exist as written."""
    if spec.pretrained is None or os.path.exists(spec.pretrained):
        return spec
    beside = place / spec.pretrained
    return spec.model_copy(update={"pretrained": str(beside)}) if os.path.exists(beside) else spec


def findings(spec: TransferSpec) -> list[Finding]:
    """What a spec names but does not exist, as far as that is known without opening images."""
    like, problems = filter_source(spec), [*_pretrained(spec)]
    labelled: list[tuple[Any, tuple]] = [(spec.data, ("data",))]
    labelled += [(spec.supervised.data, ("supervised", "data"))] if spec.supervised else []
    return [
        *_arms(spec),
        *_classifier(spec.classifier.name, spec.data),
        *(finding for data, path in labelled for finding in labelled_findings(data, path, like)),
        *problems,
    ]


def filter_source(spec: TransferSpec) -> Any:
    """The source that the pretrained filters are learned from; None where that is not known."""
    path = Path(spec.pretrained or "")
    try:
        if not spec.pretrained:
            return None
        return run_source(load_run(path)) if path.is_dir() else load_checked(path).sources()[0]
    except (SpecError, RunError, OSError):
        return None


def _arms(spec):
    known = arms()
    for index, name in enumerate(spec.arms):
        if name not in known:
            yield Finding(
                ("arms", index), (f"{shown(name)} is not a known arm.{nearest(name, known)}")
            )
            continue
        needs = known[name].needs
        key = needs and NEEDS[needs]
        if key and getattr(spec, key) is None:
            example = {"pretrained": "a run or its spec", "supervised": "labelled images"}[key]
            words = f"{shown(name)} needs the key {key!r}. Add it ({example}), or remove this arm."
            yield Finding(("arms", index), words)


def _classifier(name, data):
    kind = parts("source").get(split_source(labelled_name(data))[0])
    problem = of_images_alone(name) if getattr(kind, "series", False) else None
    if problem:
        yield Finding(("classifier",), problem)
    if ":" not in name and name not in classifier_names():
        known = classifier_names()
        forms = [*known, "applications:NAME", "MODULE:FUNCTION"]
        words = f"{shown(name)} is not a known classifier.{nearest(name, known, forms)}"
        yield Finding(("classifier",), words)


def code_findings(spec: TransferSpec) -> list[Finding]:
    """A classifier from any Python module, which a spec alone must not run."""
    module, colon, _ = spec.classifier.name.partition(":")
    if not colon or module == "applications":
        return []
    words = (
        f"{shown(spec.classifier.name)} would import and run the Python module {module}. If you "
        "trust it, allow it with --allow-code on the command line, or allow_code=True in Python."
    )
    return [Finding(("classifier",), words)]


def _pretrained(spec):
    if spec.pretrained is None:
        return
    path, problem = Path(spec.pretrained), None
    try:
        if path.is_dir():
            load_run(path)
        elif path.exists():
            load_checked(path)
        else:
            problem = f"{path}: file not found. Use a run's directory, or the spec of a run."
    except (SpecError, RunError) as error:
        problem = str(error)
    except OSError as error:  # a name that is too long, say
        problem = f"{shown(spec.pretrained)}: cannot be read: {error.strerror}."
    if problem:
        yield Finding(("pretrained",), problem)
        return
    if path.is_dir() and spec.pretrain_each_repeat:
        words = "needs the spec of a run in `pretrained`, not a run. Use the spec, or remove this."
        yield Finding(("pretrain_each_repeat",), words)
    known = arms()
    for index, name in enumerate(spec.arms):
        if name in known and known[name].needs == "end-to-end":
            problem = _end_to_end_problem(path)
            if problem:
                words = f"{shown(name)} has nothing to compare with: {problem}"
                yield Finding(("arms", index), words)
            return  # said once


def pretrained_spec(path: Path) -> Spec:
    """The spec that `pretrained` names, or that of the run that it names.

    Raises:
        SpecError, RunError: it cannot be read.
    """
    if not path.is_dir():
        return load_checked(path)
    own = Run(path).spec()
    found = source_findings(own)
    if found:
        raise refusal(str(path / "resolved.yaml"), found)
    return own


def _end_to_end_problem(path):
    """Why a run or its spec cannot be trained end to end for comparison, or None if it can."""
    try:
        own = pretrained_spec(path)
    except (SpecError, RunError) as error:
        return str(error)
    if own.train.end_to_end:
        return f"{path} is itself trained end to end. Use one that is trained layer by layer."
    if not any(first < last for first, last in own.joined()):
        return (
            f"{path} does not have two contrastive layers on top of each other, so training it "
            "end to end is the same. Use a deeper stack, or remove the end-to-end arms."
        )
    if path.is_dir() and len(load_run(path).layers) < len(own.stack):
        return f"{path} is not finished. Finish it with `kclr train ... --resume` first."
    return None
