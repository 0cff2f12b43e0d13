"""What is said of a spec's probe and images before anything is trained, and without TensorFlow."""

import subprocess
import sys

import numpy as np
import pytest

from kclr.data.checks import load_checked
from kclr.data.sources import as_images
from kclr.errors import SpecError
from kclr.spec import parse_spec

STACK = "data: photos\nstack: [{block: {filters: 8}}]\n"


def complaint(tmp_path, text):
    (tmp_path / "my.yaml").write_text(STACK + text)
    with pytest.raises(SpecError) as caught:
        load_checked(tmp_path / "my.yaml")
    assert "1 error" in str(caught.value)
    return str(caught.value).splitlines()[1].strip()


def test_a_probe_is_off_unless_asked_for_and_has_defaults():
    assert parse_spec(STACK).probe is None
    probe = parse_spec(STACK + "probe: tfds:cifar10").probe
    assert probe.data == "tfds:cifar10"
    assert (probe.every, probe.limit, probe.labels) == (200, 5000, 1.0)
    assert (probe.classifier, probe.grid) == ("ridge", 2)
    assert parse_spec(STACK, ["probe.every=20", "probe.data=digits"]).probe.every == 20


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "probe.data: "),
        ("{data: digits, every: 0}", "probe.every: 0 is out of range. Use 1 to 2147483647."),
        ("{data: digits, evry: 5}", "probe.evry: unknown key. Did you mean 'every'?"),
        ("{data: digits, labels: 1.5}", "probe.labels: 1.5 is not an amount of labels."),
        ("{data: digits, limit: 1}", "probe.limit: 1 is out of range. Use 2 or more."),
        (
            "{data: digits, grid: two}",
            "probe.grid: 'two' is not possible. Use a whole number, 1 to 64",
        ),
        (
            "{data: digits, classifier: rigde}",
            "probe.classifier: 'rigde' is not allowed. Did you mean 'ridge'?",
        ),
        (
            "{data: digits, classifier: svm}",
            "probe.classifier: 'svm' is not allowed. Choose from knn, logistic, mean, ridge.",
        ),
        ("digist", "probe.data: 'digist' is not a labelled data set. Did you mean 'digits'?"),
        (
            "photos",
            "probe.data: 'photos' is not a labelled data set. Choose from array:FILE, "
            "audio:PATH, digits, folder:PATH, series:FILE, tfds:NAME.",
        ),
    ],
)
def test_what_is_wrong_with_a_probe_is_said_with_its_cure(tmp_path, text, words):
    assert f"line 3, {words}" in complaint(tmp_path, f"probe: {text}")


def test_labelled_images_that_are_missing_are_said(tmp_path):
    assert "nowhere" in complaint(tmp_path, f"probe: folder:{tmp_path}/nowhere")


def test_labelled_images_that_the_layers_leave_nothing_of_are_said(tmp_path):
    (tmp_path / "my.yaml").write_text(
        "stack: [{block: {kernel_size: 33, pool_size: 1}}]\nprobe: digits"
    )
    with pytest.raises(SpecError, match="probe.data: nothing is left of images of 32x32 px"):
        load_checked(tmp_path / "my.yaml")


def test_none_of_it_waits_for_tensorflow(tmp_path):
    (tmp_path / "my.yaml").write_text(STACK + "probe: digits")
    ask = (
        "import sys; from kclr.data.checks import load_checked; load_checked(sys.argv[1]); "
        "assert not {'tensorflow', 'keras', 'sklearn', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", ask, str(tmp_path / "my.yaml")], check=True)


def test_bands_that_the_images_do_not_have_are_said_before_a_training(tmp_path):
    words = "data.bands: [4, 3, 2]: the images have 3 channels. Use numbers from 1 to 3."
    (tmp_path / "my.yaml").write_text("data: {source: photos, bands: [4, 3, 2]}\nstack: [{}]\n")
    with pytest.raises(SpecError) as caught:
        load_checked(tmp_path / "my.yaml")
    assert words in str(caught.value)
    assert "1 error" in str(caught.value)
    with pytest.raises(SpecError) as caught:
        as_images(np.zeros((4, 16, 16, 3), np.uint8), bands=[4, 3, 2])
    assert str(caught.value) == words
    assert as_images(np.zeros((4, 16, 16, 4), np.uint16), bands=[4, 3, 2]).bands == (4, 3, 2)
