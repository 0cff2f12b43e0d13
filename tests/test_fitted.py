"""`kclr init --data`: specs that fit the data that they were written for."""

import numpy as np
import pytest
import yaml
from PIL import Image

from kclr.cli import main
from kclr.data.checks import draft_checked
from kclr.errors import SpecError
from kclr.fitted import Seen, fitted_spec, look


def seen(**changed):
    usual = {
        "name": "digits",
        "count": 5000,
        "least": (32, 32),
        "largest": (32, 32),
        "channels": 3,
        "dtype": "uint8",
        "series": False,
        "span": (0, 255),
    }
    return Seen(**(usual | changed))


def test_options_of_the_data_are_in_the_spec(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.random.default_rng(0).integers(0, 9000, (20, 3, 40, 40), np.uint16))
    data = "{source: array:a.npy, channels_first: true, scale: [0, 9000], memory: 64}"
    assert main(["init", "--data", data]) == 0
    text = (tmp_path / "kclr.yaml").read_text()
    found = yaml.safe_load(text)["data"]
    wanted = {"channels_first": True, "scale": [0, 9000], "memory": 64, "channels": 3}
    assert found == {"source": "array:a.npy"} | wanted
    assert main(["init", "other.yaml", "--data", "{source: array:a.npy, memry: 64}"]) == 2
    assert "array:a.npy: memry: unknown key. Did you mean 'memory'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "layers"),
    [
        ({}, 3),
        ({"least": (28, 28), "channels": 1}, 3),
        ({"least": (24, 40)}, 2),
        ({"least": (16, 16)}, 2),
        ({"least": (12, 12)}, 1),
        ({"least": (7, 7)}, 1),
        ({"least": (64, 64), "channels": 13, "dtype": "uint16", "span": (0, 9000)}, 3),
        ({"least": (64, 64), "channels": 400, "dtype": "float32"}, 3),
        ({"series": True, "least": (1, 200), "channels": 6, "dtype": "float32"}, 3),
        ({"series": True, "least": (1, 60), "channels": 1, "dtype": "float32"}, 2),
        ({"series": True, "least": (1, 16_000), "channels": 1, "dtype": "float32"}, 3),
    ],
)
def test_layers_fit_the_smallest_of_the_data(changed, layers, tmp_path, monkeypatch):
    from kclr.data.source_digits import Digits

    own = seen(**changed)
    monkeypatch.setattr(
        Digits, "image_shape", lambda self: (*own.least, self.channels or own.channels)
    )
    monkeypatch.setattr(Digits, "series", own.series)
    path = tmp_path / "my.yaml"
    path.write_text(fitted_spec(own, path))
    spec = draft_checked(path).finished()
    assert len(spec.stack) == layers
    wanted = own.dtype == "float32" or own.span[1] == 9000
    assert spec.data.scale == ("standard" if wanted else None)
    kinds = {one.class_name for layer in spec.stack for one in layer.patches.augment}
    assert ("RandomColorJitter" in kinds) == (own.channels == 3 and layers > 1)
    assert ("SensorJitter" in kinds) == (own.channels > 3 or own.series)


def test_few_large_images_are_cut_into_tiles():
    spec = yaml.safe_load(fitted_spec(seen(count=20, least=(600, 900), largest=(700, 900))))
    assert spec["data"]["tile"] == 128
    assert "tile" not in yaml.safe_load(fitted_spec(seen(count=20)))["data"]


def test_what_is_too_small_for_a_layer_is_refused():
    with pytest.raises(SpecError, match="images of 6 px are too small for a layer. Use at least 7"):
        fitted_spec(seen(least=(6, 90)))


def test_precision_is_left_to_the_machine_that_trains():
    upper = yaml.safe_load(fitted_spec(seen()))["stack"][1:]
    assert upper
    assert all(layer["train"]["precision"] == "auto" for layer in upper)


def test_data_are_looked_at(tmp_path):
    bands = np.arange(8 * 20 * 24 * 5).reshape(8, 20, 24, 5).astype(np.uint16)
    np.save(tmp_path / "bands.npy", bands)
    found = look(f"array:{tmp_path}/bands.npy")
    assert (found.count, found.least, found.channels, found.dtype) == (8, (20, 24), 5, "uint16")
    assert found.span == (0, bands.max())
    assert not found.labelled
    found = look("digits")
    assert (found.count, found.least, found.channels) == (1797, (32, 32), 1)


def test_gray_pictures_are_seen_to_be_gray(tmp_path):
    for number in range(9):
        Image.new("L", (40, 40), number).save(tmp_path / f"{number}.png")
    assert look(f"folder:{tmp_path}").channels == 1
    spec = yaml.safe_load(fitted_spec(look(f"folder:{tmp_path}")))
    assert spec["data"]["source"] == f"folder:{tmp_path}"  # however long
    assert spec["data"]["channels"] == 1
    drawn = {own["class_name"] for own in spec["stack"][1]["patches"]["augment"]}
    assert drawn == {"RandomBrightness", "RandomContrast", "RandomRotation", "RandomZoom"}
    assert look({"source": f"folder:{tmp_path}", "channels": 3}).channels == 3
    Image.new("RGB", (40, 40), (1, 2, 3)).save(tmp_path / "colour.png")
    assert look(f"folder:{tmp_path}").channels == 3


def test_init_writes_a_spec_for_the_data_that_checks(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine.yaml", "--data", "digits"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("1,797 images of 32x32 px, 1 channel, uint8, values from 0 to 255.\n")
    assert main(["check", "mine.yaml"]) == 0
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["probe"] == "digits"
    assert main(["init", "two.yaml", "--data", "digits", "--layers", "2"]) == 0
    assert len(yaml.safe_load((tmp_path / "two.yaml").read_text())["stack"]) == 2
    assert main(["init", "no.yaml", "--data", "folder:nowhere"]) == 2
    assert not (tmp_path / "no.yaml").exists()


def test_a_few_images_are_not_aligned_for_which_that_needs_more():
    exports = [yaml.safe_load(fitted_spec(seen(count=count)))["export"] for count in (7, 8, None)]
    assert ["alignment" in export for export in exports] == [False, True, True]
