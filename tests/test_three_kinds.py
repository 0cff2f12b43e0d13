"""People with data that are no photographs: two commands, a picture, a probe, and their own model.

The pages docs/bands.md, docs/series.md and docs/sound.md, on small data of their kind.
"""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from kclr.cli import main

DOCS = Path(__file__).parents[1] / "docs"
SHORT = [
    "--set=stack.0.block.filters=12",
    "--set=stack.0.learner={name: kmeans, windows: 2000, threshold: 0.5}",
    "--set=stack.1.block.filters=10",
    "--set=stack.1.train.steps=3",
    "--set=stack.1.train.batch_size=32",
    "--set=stack.1.embedding={pool: mean, standardize: true, head: [8]}",
]


def tiff_scenes(place, photographs):
    """Scenes of 13 bands of 16 bits, and two classes of them: bright and dark."""
    import tifffile

    tiles = photographs[:200].reshape(-1, 2, 32, 32, 3).swapaxes(2, 3)
    for number, pair in enumerate(tiles[:24]):
        scene = np.concatenate([pair[0], pair[1]], axis=-1).astype(np.uint16) * 37
        scene = np.concatenate([scene, scene[::-1], scene[..., :1]], axis=-1)
        scene = np.tile(scene, (2, 2, 1))
        for folder in ("scenes", f"labelled/{'bright' if number % 2 else 'dark'}"):
            path = place / folder / f"{number}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            shown = scene // (1 if number % 2 or folder == "scenes" else 4)
            tifffile.imwrite(path, shown, photometric="minisblack", planarconfig="contig")
    return scene.shape


def windows_of_sensors(place, photographs):
    """Windows of six channels, and an archive of labelled ones: fast and slow."""
    random = np.random.default_rng(0)
    time = np.arange(200)[:, None] / 20
    labels = np.arange(80) % 2
    phases = random.uniform(0, 6, (80, 1, 6))
    waves = np.sin(time * (1 + 2 * labels[:, None, None]) + phases) * [1, 5, 9, 0.1, 1, 2] + 40
    waves += random.normal(0, 0.1, waves.shape)
    np.save(place / "windows.npy", waves.astype(np.float32))
    parts = {"x_train": waves[:50], "y_train": labels[:50], "x_test": waves[50:]}
    np.savez(place / "labelled.npz", **parts, y_test=labels[50:])
    return waves.shape[1:]


def recordings(place, photographs):
    """Half a second each of tones and of noise."""
    soundfile = pytest.importorskip("soundfile")
    random = np.random.default_rng(0)
    for number in range(24):
        wave = random.normal(0, 0.2, 8000)
        if number % 2:
            wave = 0.5 * np.sin(np.arange(8000) * (0.1 + 0.01 * number))
        for folder in ("recordings", f"labelled/{'tone' if number % 2 else 'noise'}"):
            path = place / folder / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave, 16000)
    return (None, 1)


def blocks(page, language):
    """The fenced blocks of a page in a language, in order."""
    parts = re.split(r"^```(\w*)\n", page, flags=re.MULTILINE)  # text, fence, block, fence, ...
    found = zip(parts[1::4], parts[2::4], strict=True)
    return [block for fence, block in found if fence == language]


def commands(page):
    """The commands of a page, in order."""
    lines = [line for block in blocks(page, "") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("kclr ")]


@pytest.mark.parametrize(
    ("name", "make", "noun"),
    [
        ("bands", tiff_scenes, "images"),
        ("series", windows_of_sensors, "series"),
        ("sound", recordings, "series"),
    ],
)
def test_two_commands_a_probe_and_a_model(
    name, make, noun, photographs, few_windows, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shape = make(tmp_path, photographs)
    page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    init, train, probe = commands(page)
    assert main(init) == 0
    assert f" {noun} of " in capsys.readouterr().out
    spec = yaml.safe_load((tmp_path / f"{name}.yaml").read_text())
    del spec["stack"][2:]
    spec["export"].update(grid_size=spec["export"]["grid_size"][:2], power=[0.5, 0.5])
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(spec))
    assert main([*train, *SHORT]) == 0
    assert (tmp_path / "runs" / name / "layers" / "01-conv1" / "filters.png").stat().st_size > 5000
    capsys.readouterr()
    assert main([*probe, "--classifiers", "ridge", "--json"]) == 0
    rows = yaml.safe_load(capsys.readouterr().out)["results"]
    assert {row["features"].partition(",")[0] for row in rows} == {name, "random", "kmeans"}
    (code,) = blocks(page, "python")
    code = code.replace("Conv2D(128,", "Conv2D(12,").replace("Conv1D(128,", "Conv1D(12,")
    found: dict = {}
    exec(compile(code, "page", "exec"), found)
    assert found["model"].input_shape == (None, *shape)
    given = np.zeros((2, *(size or 800 for size in shape)), np.float32)
    assert np.isfinite(found["model"](given)).all()
