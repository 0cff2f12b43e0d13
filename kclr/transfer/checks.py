"""Whether what a transfer spec names is there: arms, classifier, images, run. No TensorFlow."""

import os
from pathlib import Path

from kclr.data.checks import labelled_findings, load_checked, source_findings
from kclr.errors import RunError, SpecError
from kclr.runs.run import Run, load_run
from kclr.spec.findings import describe, read_draft
from kclr.spec.schema import Spec
from kclr.spec.transfer import TransferSpec
from kclr.spec.wording import Finding, nearest, shown
from kclr.transfer.arms import NEEDS, arms
from kclr.transfer.classifiers import classifier_names


def load_transfer(path, overrides=(), allow_code=False) -> TransferSpec:
    """Read a transfer spec from a YAML file, with `key.path=value` overrides, and check all of it.

    Args:
        path: of the file.
        overrides: `key.path=value`, each.
        allow_code: whether the classifier may be `MODULE:FUNCTION`, a module that is then imported
            and run, from the working directory too.

    Returns:
        The spec; `pretrained` as a path that is there.

    Raises:
        SpecError: the file cannot be read, or something in it must be mended; the message lists
            everything at once.
    """
    draft = read_draft(path, overrides, TransferSpec)
    if draft.spec is not None:
        draft.spec = _located(draft.spec, Path(path).parent)
        found = [*findings(draft.spec), *(() if allow_code else code_findings(draft.spec))]
        draft.findings += [finding for finding in found if draft.trusted(*finding.path)]
    return draft.finished()


def _located(spec, place):
    """`pretrained` beside the spec, where it is not there as it is written."""
    if spec.pretrained is None or os.path.exists(spec.pretrained):
        return spec
    beside = place / spec.pretrained
    return spec.model_copy(update={"pretrained": str(beside)}) if os.path.exists(beside) else spec


def findings(spec: TransferSpec) -> list[Finding]:
    """What a spec names and is not there, as far as that is known without opening any images."""
    return [
        *_arms(spec),
        *_classifier(spec.classifier.name),
        *labelled_findings(spec.data, ("data",)),
        *(labelled_findings(spec.supervised.data, ("supervised",)) if spec.supervised else ()),
        *_pretrained(spec),
    ]


def _arms(spec):
    known = arms()
    for index, name in enumerate(spec.arms):
        if name not in known:
            yield Finding(("arms", index), f"{shown(name)} is no known arm.{nearest(name, known)}")
            continue
        needs = known[name].needs
        key = needs and NEEDS[needs]
        if key and getattr(spec, key) is None:
            example = {"pretrained": "a run or its spec", "supervised": "labelled images"}[key]
            words = f"{shown(name)} needs the key {key!r}. Add it ({example}), or leave this out."
            yield Finding(("arms", index), words)


def _classifier(name):
    if ":" not in name and name not in classifier_names():
        known = classifier_names()
        forms = [*known, "applications:NAME", "MODULE:FUNCTION"]
        words = f"{shown(name)} is no known classifier.{nearest(name, known, forms)}"
        yield Finding(("classifier",), words)


def code_findings(spec: TransferSpec) -> list[Finding]:
    """A classifier that is a module of anybody's, which a spec alone may not have run."""
    module, colon, _ = spec.classifier.name.partition(":")
    if not colon or module == "applications":
        return []
    words = (
        f"{shown(spec.classifier.name)} would import and run the Python module {module}. If you "
        "trust it, allow that: --allow-code on the command line, allow_code=True in Python."
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
            problem = (
                f"{path}: no such file or directory. Name a run's directory, or the spec of a run."
            )
    except (SpecError, RunError) as error:
        problem = str(error)
    except OSError as error:  # a name that is too long, say
        problem = f"{shown(spec.pretrained)}: cannot be read: {error.strerror}."
    if problem:
        yield Finding(("pretrained",), problem)
        return
    if path.is_dir() and spec.pretrain_each_repeat:
        words = "needs the spec of a run in `pretrained`, not a run. Name the spec, or remove this."
        yield Finding(("pretrain_each_repeat",), words)
    known = arms()
    for index, name in enumerate(spec.arms):
        if name in known and known[name].needs == "end-to-end":
            problem = _no_twin(path)
            if problem:
                words = f"{shown(name)} has nothing to compare: {problem}"
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
        raise SpecError(describe(str(path / "resolved.yaml"), found))
    return own


def _no_twin(path):
    """Why a run or its spec has no end-to-end twin, or None where it has one."""
    try:
        own = pretrained_spec(path)
    except (SpecError, RunError) as error:
        return str(error)
    if own.train.end_to_end:
        return f"{path} is trained end to end itself. Name one that is trained layer by layer."
    if not any(first < last for first, last in own.joined()):
        return (
            f"{path} has no two layers by contrast one above the other, so training it end to end "
            "is the same. Name a deeper stack, or leave the end-to-end arms out."
        )
    if path.is_dir() and len(load_run(path).layers) < len(own.stack):
        return f"{path} is not finished. Go on with `kclr train ... --resume` first."
    return None
