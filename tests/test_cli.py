"""The command line: exit statuses, words, and what stays on disk."""

import json
import resource
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import yaml
from PIL import Image

from kclr.__main__ import main as whole_program
from kclr.cli import COMMANDS, main
from kclr.data.labels import load_labelled
from kclr.runs.directories import RUN, writing
from tests.processes import Forked

SPEC = """
stack:
  - block: {filters: 4}
    train: {steps: 6, batch_size: 16, log_every: 3, jit: false}
"""


def kclr(*arguments, **options):
    """The exit status, and what was printed to the one and the other stream."""
    process = Forked(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    out, err = process.communicate()
    return process.returncode, out, err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.yaml").write_text(SPEC)
    result = subprocess.run(
        [sys.executable, "-m", "kclr", "train", "tiny.yaml", "--set", "seed=3"],
        capture_output=True, text=True, timeout=300, cwd=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder, result


def test_training_ends_with_where_things_are_and_three_lines_that_work(trained, monkeypatch):
    folder, result = trained
    run = folder / "runs" / "tiny"
    assert result.stderr == ""
    for name in ("layers/01-conv1/filters.png", "saved_model"):
        assert str((run / name).relative_to(folder)) in result.stdout
    found = {}
    monkeypatch.chdir(folder)
    exec("\n".join(result.stdout.splitlines()[-3:]), found)
    found["layer"].build((None, 32, 32, 3))
    assert found["layer"].kernel.shape == (6, 6, 3, 4)


def test_the_run_remembers_what_was_overridden(trained):
    folder, _ = trained
    run = folder / "runs" / "tiny"
    assert (run / "spec.yaml").read_text() == SPEC
    assert yaml.safe_load((run / "resolved.yaml").read_text())["seed"] == 3


def test_what_is_warned_of_is_said_without_lines_of_code(tmp_path, capsys, monkeypatch):
    def judge(options):
        load_labelled(f"folder:{tmp_path}", "train")
        warnings.warn_explicit("of somebody else", UserWarning, "their.py", 7)

    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (8, 8), (0, 0, number)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "cats/film.mp4").write_bytes(b"moving")
    (tmp_path / "cats/raw.dng").write_bytes(b"raw")
    monkeypatch.setitem(COMMANDS, "schema", judge)
    with pytest.warns(UserWarning, match="of somebody else") as theirs:
        assert main(["schema"]) == 0
    assert len(theirs) == 1
    (ours,) = capsys.readouterr().err.splitlines()
    assert ours.startswith(f"folder:{tmp_path}: 1 .dng left out")


def test_training_again_asks_what_to_do(trained, capsys, monkeypatch):
    folder, _ = trained
    monkeypatch.chdir(folder)
    assert main(["train", "tiny.yaml"]) == 1
    assert "--resume" in capsys.readouterr().err


def test_json_lines_can_be_followed_by_a_machine(tmp_path):
    (tmp_path / "tiny.yaml").write_text(SPEC)
    _, out, _ = kclr("train", "tiny.yaml", "--json", "--out", "run", cwd=tmp_path)
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events] == [
        "layer", "images", "started", "row", "row", "learned", "finished",
    ]  # fmt: skip
    assert events[4]["step"] == 6
    assert events[4]["loss"] > 0


def test_show_prints_a_row_for_each_layer(trained, capsys):
    folder, _ = trained
    assert main(["show", str(folder / "runs/tiny")]) == 0
    out = capsys.readouterr().out
    assert "conv1" in out
    assert "6x6x3x4" in out
    assert main(["show", str(folder / "runs/tiny"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"][0]["name"] == "conv1"


def test_export_prints_what_it_wrote_and_leaves_the_run_as_it_was(trained, capsys):
    folder, _ = trained
    before = (folder / "runs/tiny/summary.json").read_text()
    assert main(["export", str(folder / "runs/tiny"), "--layers", "1", "--pool", "mean"]) == 0
    out = capsys.readouterr().out
    assert "saved_model" in out
    assert (folder / "runs/tiny/summary.json").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["train", "missing.yaml"], 2, "missing.yaml: file not found"),
        (["check", "missing.yaml"], 2, "missing.yaml: file not found"),
        (["show", "nothing"], 1, "nothing is not a run"),
        (["export", "nothing"], 1, "nothing is not a run"),
    ],
)
def test_what_is_not_there_is_named_without_a_traceback(
    arguments, status, words, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == status
    assert words in capsys.readouterr().err


def test_every_command_can_be_interrupted_without_a_traceback(capsys, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("kclr.runs.run.load_run", interrupted)
    assert main(["show", "run"]) == 130
    assert capsys.readouterr().err == "\nInterrupted\n"


def test_it_can_be_interrupted_while_it_is_loaded(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("kclr.cli.main", interrupted)
    assert whole_program() == 130
    assert capsys.readouterr().err == ""


def test_a_size_of_litert_images_that_is_none_is_refused(trained, capsys):
    folder, _ = trained
    assert main(["export", str(folder / "runs/tiny"), "--litert", "0"]) == 2
    assert "litert_size: 0 is smaller" in capsys.readouterr().err


def test_amounts_of_labels_that_are_none_are_refused_with_an_example(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["probe", "run", "--labels", "few"])
    assert ended.value.code == 2
    assert (
        "'few' is not a list of shares and numbers. Use for example 0.01" in capsys.readouterr().err
    )


def test_init_writes_a_spec_that_checks_and_never_overwrites(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine.yaml"]) == 0
    assert main(["check", "mine.yaml"]) == 0
    (tmp_path / "mine.yaml").write_text("precious")
    assert main(["init", "mine.yaml"]) == 2
    assert (tmp_path / "mine.yaml").read_text() == "precious"
    assert main(["init", "deep.yaml", "--layers", "3"]) == 0
    capsys.readouterr()
    assert main(["check", "deep.yaml"]) == 0
    assert "name: conv3" in capsys.readouterr().out


def test_an_empty_folder_of_images_is_said_before_tensorflow_is_loaded(tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "spec.yaml").write_text(f"data: folder:{tmp_path / 'pictures'}\n{SPEC}")
    assert main(["train", str(tmp_path / "spec.yaml")]) == 2
    assert "pictures" in capsys.readouterr().err


def test_a_full_disk_is_a_failed_run_that_can_be_resumed(tmp_path):
    (tmp_path / "tiny.yaml").write_text(SPEC)

    arguments = ("train", "tiny.yaml", "--out", "run")
    status, _, err = kclr(*arguments, cwd=tmp_path, file_limit=20_000)
    assert status == 1
    assert "Traceback" not in err
    assert "--resume" in err
    assert kclr(*arguments, "--resume", cwd=tmp_path)[0] == 0


def test_init_on_a_full_disk_leaves_nothing_in_the_way_and_says_what_to_do(tmp_path, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        assert main(["init", str(tmp_path / "my.yaml")]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capsys.readouterr().err == "File too large. Free disk space and try again.\n"
    assert not [*tmp_path.iterdir()]
    assert main(["init", str(tmp_path / "my.yaml")]) == 0


@pytest.mark.parametrize("held", [False, True], ids=["before it began", "in its midst"])
def test_a_mistake_in_a_plug_in_is_a_line_with_the_file_that_has_its_trace(
    tmp_path, capsys, monkeypatch, held
):
    def train(spec, out, **options):
        if held:
            with writing(out, RUN):
                (out / "metrics.jsonl").write_text("{}")
        raise KeyError("of\na plug-in")

    monkeypatch.setattr("kclr.stack.train", train)
    (tmp_path / "tiny.yaml").write_text(SPEC)
    out = tmp_path / "run"
    assert main(["train", str(tmp_path / "tiny.yaml"), "--out", str(out)]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == r"KeyError: 'of\na plug-in'"
    file = second.removeprefix("The traceback is in ").partition(". Finished parts are kept;")[0]
    assert second.endswith(f"--out {out} --resume")
    assert 'raise KeyError("of' in Path(file).read_text()
    assert (Path(file) == out / "error.txt") == held
    assert out.exists() == held


def test_a_search_says_what_it_needs(tmp_path, capsys, monkeypatch):
    (tmp_path / "tiny.yaml").write_text(SPEC)
    with pytest.raises(SystemExit, match="2"):
        main(["search", str(tmp_path / "tiny.yaml"), "--workers", "0"])
    assert "--workers: '0' is not a number of workers. Use 2 or more" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["search", str(tmp_path / "tiny.yaml")]) == 1
    assert "pip install 'kclr[search]'" in capsys.readouterr().err


def test_an_error_of_kclrs_own_is_a_line_and_its_trace_a_file(tmp_path, monkeypatch, capsys):
    def broken(path, overrides):
        raise KeyError("no such\x1bthing")

    monkeypatch.setattr("kclr.data.checks.draft_checked", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("KCLR_DEBUG", "")
    assert main(["check", "my.yaml"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == "kclr failed because of a bug: KeyError: 'no such\\x1bthing'"
    (trace,) = tmp_path.glob("*/*")
    assert second == f"The traceback is in {trace}. Please report it with the spec."
    assert "in broken" in trace.read_text()
    assert main(["check", "my.yaml", "--debug"]) == 1
    assert "in broken" in capsys.readouterr().err
    assert len([*tmp_path.iterdir()]) == 1


def test_debug_shows_where_something_was_refused(monkeypatch, capsys):
    monkeypatch.setenv("KCLR_DEBUG", "")
    assert main(["check", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err == (
        "nowhere.yaml: file not found. `kclr init` writes one to start from.\n"
    )
    assert main(["--debug", "check", "nowhere.yaml"]) == 2
    shown = capsys.readouterr().err
    assert "FileNotFoundError" in shown
    assert shown.endswith("nowhere.yaml: file not found. `kclr init` writes one to start from.\n")


def test_a_ctrl_c_that_tensorflow_reports_as_another_error_is_one(monkeypatch, capsys):
    def command(options):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise SystemError("returned a result with an exception set") from error

    monkeypatch.setitem(COMMANDS, "check", command)
    assert main(["check", "spec.yaml"]) == 130
    assert "Interrupted" in capsys.readouterr().err


def test_a_ctrl_c_in_a_destructor_is_not_lost(monkeypatch, capsys):
    class Dropped:
        def __del__(self):
            raise KeyboardInterrupt

    def command(options):
        dropped = Dropped()
        del dropped
        time.sleep(60)  # which it ends

    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setitem(COMMANDS, "check", command)
    assert main(["check", "spec.yaml"]) == 130
    assert "Traceback" not in capsys.readouterr().err
