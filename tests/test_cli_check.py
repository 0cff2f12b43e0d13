"""`kclr check`: all that is wrong at once with exit status 2, or the spec and its sizes."""

import json
import subprocess
import sys

import pytest
import yaml

from kclr.cli import main
from kclr.spec import parse_spec

SPEC = """\
data: photos
stack:
  - block: {filters: 16}
  - block: {filters: 32}
"""


@pytest.fixture
def check(tmp_path, capsys):
    """Runs `kclr check` on a text: exit status, output, and errors without the file's name."""

    def run(text, *arguments):
        path = tmp_path / "my.yaml"
        path.write_text(text)
        status = main(["check", str(path), *arguments])
        out, err = capsys.readouterr()
        return status, out, err.replace(str(path), "my.yaml")

    return run


def test_a_right_spec_is_printed_with_every_default_and_its_sizes(check):
    status, out, err = check(SPEC)
    assert (status, err) == (0, "")
    resolved, _, sizes = out.partition("\nWhat each layer is trained on")
    assert parse_spec(resolved) == parse_spec(SPEC)
    assert yaml.safe_load(resolved)["stack"][1]["block"]["kernel_size"] == 3
    sizes, _, costs = sizes.partition("\n\nWhat training costs, in convolutions alone")
    assert "\n  conv2  " in costs
    assert sizes.splitlines()[1:] == [
        "  layer  crop      patch     patches per crop  map of a patch",
        "  conv1  8x8 px    7x7 px    4                 1x1x16",
        "  conv2  15x15 px  13x13 px  4                 1x1x32",
        "",
        "Output for the smallest of its images:",
        "  layer  input     output    receptive field  jump",
        "  conv1  64x64x3   29x29x16  7x7 px           2 px",
        "  conv2  29x29x16  13x13x32  13x13 px         4 px",
    ]


def test_a_layer_that_sees_single_windows_has_no_patches(check):
    _, out, _ = check(SPEC, "--set", "stack.0={block: {filters: 16}, learner: kmeans}")
    sizes = out.partition("\nWhat each layer is trained on")[2].splitlines()
    assert sizes[2] == "  conv1  -         -         -                 -"
    assert sizes[3].startswith("  conv2  15x15 px")


def test_lines_fit_a_terminal_of_80_columns(check):
    layers = "".join(f"  - {{name: layer-{i}, block: {{filters: 1024}}}}\n" for i in range(3))
    _, out, _ = check(f"data: {{source: photos, tile: null}}\nstack:\n{layers}")
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out


def test_sizes_that_are_not_known_are_said_to_be(check, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"none")
    status, out, _ = check(SPEC, "--set", f"data=folder:{folder}")
    assert status == 0
    assert (
        "The size of the images is not known before they are read; the second table\n"
        "uses 96x96x3 as an example.\n"
    ) in out
    assert out.endswith(f"\nfolder:{folder}: 1 picture (1 .png)\n")


def test_json_is_the_resolved_spec_alone(check):
    status, out, _ = check(SPEC, "--json")
    assert status == 0
    assert json.loads(out)["stack"][0]["name"] == "conv1"


def test_overrides_are_applied_and_checked(check):
    status, out, _ = check(SPEC, "--set", "stack.0.train.epochs=5", "--json")
    assert json.loads(out)["stack"][0]["train"]["epochs"] == 5
    status, _, err = check(SPEC, "--set", "stack.0.train.epochs=five")
    assert status == 2
    assert err == (
        "my.yaml: 1 error\n"
        "  --set, stack.0.train.epochs: 'five' is not a whole number. Use 1 to 2147483647.\n"
    )


def test_wrong_keys_sizes_and_images_are_told_at_once(check):
    status, out, err = check("""\
data: {source: photos, tile: 16}
sed: 3
stack:
  - patches: {patch_size: 4}
  - patches: {crop_size: 20}
  - data: folder:nowhere/at/all
  - data: tfds
""")
    assert (status, out) == (2, "")
    assert err.splitlines() == [
        "my.yaml: 5 errors",
        "  line 2, sed: unknown key. Did you mean 'seed'?",
        "  line 4, stack.0.patches.patch_size: 4 is smaller than the kernel (6). Use at least 7, "
        "or a smaller kernel_size.",
        "  line 5, stack.1.patches.crop_size: 20 needs crops of 45 px, larger than the images "
        "(16x16). Use 5 or less, smaller layers below, or larger images.",
        "  line 6, stack.2.data: nowhere/at/all: folder not found. Check its spelling; a relative "
        "path starts in the directory where kclr was started.",
        "  line 7, stack.3.data: 'tfds' needs an argument. Write tfds:NAME.",
    ]


def test_a_crop_larger_than_the_images_is_found(check):
    status, _, err = check("data: {source: photos, tile: 7}\nstack:\n  - {}\n")
    assert status == 2
    assert err.splitlines()[1:] == [
        "  line 3, stack.0.patches.crop_size: 8 is larger than the images (7x7). Use a smaller "
        "patch_size, or larger images."
    ]


def test_images_no_larger_than_what_a_filter_sees_are_found(check):
    lines = "data: {{source: photos, tile: {}}}\nstack:\n  - learner: kmeans\n"
    status, _, err = check(lines.format(7))
    assert status == 2
    assert err.splitlines()[1:] == [
        "  line 3, stack.0.block: its filters see 7x7 px, but the images (7x7) must be larger. Use "
        "smaller kernels, strides or pools, or larger images."
    ]
    assert check(lines.format(8))[0] == 0


def test_components_of_too_many_numbers_are_found(check):
    status, _, err = check("""\
stack:
  - block: {filters: 900}
  - learner: whiten
    block: {whitening: standardize}
""")
    assert status == 2
    assert "stack.1.learner: the components of windows of 8,100 values take too long" in err


def test_pixels_of_too_many_numbers_are_found(check):
    spec = "data: {{source: photos, channels: {}}}\nstack:\n  - block: {{kernel_size: 60}}\n"
    status, _, err = check(spec.format(3))
    assert status == 2
    assert "stack.0.block.whitening: zca of windows of 10,800 values (60x60x3) takes too" in err
    assert check(spec.format(1))[0] == 0


def test_images_that_shrink_to_nothing_are_found(check):
    status, _, err = check("""\
data: {source: photos, tile: 16}
stack:
  - block: {kernel_size: 3, pool_size: 4}
    patches: {patch_size: 6, crop_size: 7}
  - block: {kernel_size: 1, pool_size: 2, strides: 2}
    patches: {patch_size: 2, stride: 1}
""")
    assert status == 2
    assert "stack.1.patches.patch_size: the patch is too small for the max-pool" in err


def test_a_missing_file_and_broken_yaml_are_told_in_one_line(check, tmp_path, capsys):
    assert main(["check", str(tmp_path / "none.yaml")]) == 2
    assert "file not found" in capsys.readouterr().err
    status, _, err = check("stack: [")
    assert status == 2
    assert err.startswith("my.yaml:1:")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("text", [SPEC, "sed: 3\nstack: [{train: {optimizer: {config: {}}}}]"])
def test_neither_a_right_nor_a_wrong_spec_imports_tensorflow(text, tmp_path):
    (tmp_path / "my.yaml").write_text(text)
    code = (
        "import sys; from kclr.cli import main; "
        f"status = main(['check', {str(tmp_path / 'my.yaml')!r}]); "
        "heavy = {'tensorflow', 'keras', 'matplotlib', 'sklearn', 'scipy', 'rich'}; "
        "sys.exit(50 + len(heavy & set(sys.modules)) if heavy & set(sys.modules) else status)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode in (0, 2), ran.stderr
    assert "Traceback" not in ran.stderr
