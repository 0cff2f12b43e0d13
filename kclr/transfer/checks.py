"""Whether what a transfer spec names is there: arms, classifier, images, run. No TensorFlow."""

from pathlib import Path

from kclr.data.checks import load_checked
from kclr.data.sources import source, split_source
from kclr.errors import RunError, SpecError
from kclr.run import load_run
from kclr.spec.findings import read_draft
from kclr.spec.transfer import TransferSpec
from kclr.spec.wording import Finding, nearest, shown
from kclr.transfer.arms import arms
from kclr.transfer.classifiers import classifier_names

LABELLED = ("tfds", "folder", "digits")


def load_transfer(path, overrides=()) -> TransferSpec:
    """Read a transfer spec from a YAML file, with `key.path=value` overrides, and check all of it.

    Returns:
        The spec; `pretrained` as a path that is there.

    Raises:
        SpecError: the file cannot be read, or something in it must be mended; the message lists
            everything at once.
    """
    draft = read_draft(path, overrides, TransferSpec)
    if draft.spec is not None:
        draft.spec = _located(draft.spec, Path(path).parent)
        draft.findings += [f for f in findings(draft.spec) if draft.trusted(*f.path)]
    return draft.finished()


def _located(spec, place):
    """`pretrained` beside the spec, where it is not there as it is written."""
    if spec.pretrained is None or Path(spec.pretrained).exists():
        return spec
    beside = place / spec.pretrained
    return spec.model_copy(update={"pretrained": str(beside)}) if beside.exists() else spec


def findings(spec: TransferSpec) -> list[Finding]:
    """What a spec names and is not there, as far as that is known without opening any images."""
    return [
        *_arms(spec),
        *_classifier(spec.classifier.name),
        *_labelled(spec.data, ("data",)),
        *(_labelled(spec.supervised.data, ("supervised",)) if spec.supervised else ()),
        *_pretrained(spec),
    ]


def _arms(spec):
    known = arms()
    for index, name in enumerate(spec.arms):
        if name not in known:
            yield Finding(("arms", index), f"{shown(name)} is no known arm.{nearest(name, known)}")
            continue
        needs = known[name].needs
        if needs and getattr(spec, needs) is None:
            example = {"pretrained": "a run or its spec", "supervised": "labelled images"}[needs]
            words = f"{shown(name)} needs the key {needs!r}. Add it ({example}), or leave this out."
            yield Finding(("arms", index), words)


def _classifier(name):
    if ":" not in name and name not in classifier_names():
        known = classifier_names()
        forms = [*known, "applications:NAME", "MODULE:FUNCTION"]
        words = f"{shown(name)} is no known classifier.{nearest(name, known, forms)}"
        yield Finding(("classifier",), words)


def _labelled(name, path):
    scheme = split_source(name)[0]
    if scheme not in LABELLED:
        forms = ["tfds:NAME", "folder:PATH", "digits"]
        words = f"{shown(name)} names no labelled images.{nearest(scheme, LABELLED, forms)}"
        yield Finding(path, words)
        return
    problem = None if scheme == "digits" else source(name).problem()
    if problem:
        yield Finding(path, problem)


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
    if problem:
        yield Finding(("pretrained",), problem)
    elif path.is_dir() and spec.pretrain_each_repeat:
        words = "needs the spec of a run in `pretrained`, not a run. Name the spec, or remove this."
        yield Finding(("pretrain_each_repeat",), words)
