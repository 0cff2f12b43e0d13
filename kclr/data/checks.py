"""Whether a spec's images are there, and large enough for its layers. No TensorFlow needed."""

from kclr.spec.findings import Draft, read_draft
from kclr.spec.schema import Spec
from kclr.spec.sizes import image_findings
from kclr.spec.wording import Finding


def load_checked(path, overrides=()) -> Spec:
    """`kclr.spec.load_spec`, with a look at the images too; all that is wrong in one message.

    Raises:
        SpecError: the file cannot be read, or something in it must be mended.
    """
    draft = read_draft(path, overrides)
    if draft.spec is not None:
        draft.findings += source_findings(draft.spec, draft)
    return draft.finished()


def source_findings(spec: Spec, draft: Draft | None = None) -> list[Finding]:
    """What is wrong with the images of a spec, as far as that is known without reading them.

    Args:
        spec: checked, and with possible sizes.
        draft: where parts of the spec are known to be wrong, so that nothing is said about what
            depends on them.
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
        shape = looked[source]
        if shape and (draft is None or draft.sizes_trusted(index, below=True)):
            findings += image_findings(spec, index, shape[0], shape[1])
    return findings
