import subprocess
import sys

import pytest

from kclr.errors import SpecError
from kclr.transfer.checks import load_transfer

LAYER = "data: photos\nstack: [{block: {filters: 4}}]\n"


def complaint(path, text):
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_transfer(path)
    return str(caught.value)


def test_everything_that_is_not_there_is_said_at_once_with_lines(tmp_path):
    message = complaint(
        tmp_path / "my.yaml",
        "data: digist\n"
        "classifier: zaho\n"
        "pretrained: nowhere\n"
        "arms: [random start, kclr frosen, supervised frozen]\n"
        "reapeats: 3\n",
    )
    assert message.splitlines()[1:] == [
        "  line 1, data: 'digist' is not a labelled data set. Did you mean 'digits'?",
        "  line 2, classifier: 'zaho' is not a known classifier. Did you mean 'zhao'?",
        "  line 3, pretrained: nowhere: file not found. Use a run's directory, or the "
        "spec of a run.",
        "  line 4, arms.1: 'kclr frosen' is not a known arm. Did you mean 'kclr frozen'?",
        "  line 4, arms.2: 'supervised frozen' needs the key 'supervised'. Add it (labelled "
        "images), or remove this arm.",
        "  line 5, reapeats: unknown key. Did you mean 'repeats'?",
    ]


def test_what_is_wrong_with_the_pretrained_spec_is_said_too(tmp_path):
    (tmp_path / "layer.yaml").write_text(LAYER.replace("filters", "filtres"))
    message = complaint(tmp_path / "my.yaml", f"data: digits\npretrained: {tmp_path}/layer.yaml")
    assert "line 2, pretrained: " in message
    assert "Did you mean 'filters'?" in message


def test_pretrained_is_found_beside_the_spec(tmp_path):
    (tmp_path / "layer.yaml").write_text(LAYER)
    (tmp_path / "my.yaml").write_text("data: digits\npretrained: layer.yaml")
    assert load_transfer(tmp_path / "my.yaml").pretrained == str(tmp_path / "layer.yaml")


def test_an_end_to_end_arm_needs_two_layers_by_contrast(tmp_path):
    (tmp_path / "layer.yaml").write_text(LAYER)
    text = "data: digits\npretrained: layer.yaml\narms: [random start, end-to-end frozen]"
    message = complaint(tmp_path / "my.yaml", text)
    assert "line 3, arms.1: 'end-to-end frozen' has nothing to compare with: " in message
    assert "not have two contrastive layers" in message
    two = LAYER.replace("]", ", {}]")
    (tmp_path / "layer.yaml").write_text(two)
    assert load_transfer(tmp_path / "my.yaml")
    (tmp_path / "layer.yaml").write_text(two + "train: {end_to_end: true}\n")
    assert "itself trained end to end" in complaint(tmp_path / "my.yaml", text)
    text = text.replace("pretrained: layer.yaml\n", "")
    assert "needs the key 'pretrained'" in complaint(tmp_path / "my.yaml", text)


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    message = complaint(tmp_path / "my.yaml", f"data: digits\npretrained: {tmp_path}/empty")
    assert "is not a run" in message


def test_pictures_that_are_not_there_are_missed_before_anything_is_trained(tmp_path):
    assert "nowhere" in complaint(tmp_path / "my.yaml", f"data: folder:{tmp_path}/nowhere")


def test_the_check_does_not_wait_for_tensorflow(tmp_path):
    (tmp_path / "my.yaml").write_text("data: digits\narms: [random start]")
    ask = (
        "import sys; from kclr.transfer.checks import load_transfer; from kclr.transfer import "
        f"progress, results; load_transfer({str(tmp_path / 'my.yaml')!r}); "
        "print('tensorflow' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
    assert answer.stdout.strip() == "False", answer.stderr


def test_a_strangers_classifier_is_not_imported_unless_that_is_allowed(tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    (tmp_path / "my.yaml").write_text(
        "data: digits\nclassifier: evil:build\narms: [random start]\n"
    )
    monkeypatch.chdir(tmp_path)
    words = (
        "line 2, classifier: 'evil:build' would import and run the Python module evil. If you "
        "trust it, allow it with --allow-code on the command line, or allow_code=True in Python."
    )
    with pytest.raises(SpecError, match=words):
        load_transfer("my.yaml")
    assert load_transfer("my.yaml", allow_code=True).classifier.name == "evil:build"
    assert "evil" not in sys.modules
    assert load_transfer("my.yaml", ["classifier=applications:VGG16"])
