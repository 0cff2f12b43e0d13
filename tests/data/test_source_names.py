"""How a spec names a source, and how quickly that is understood."""

import subprocess
import sys

import pytest

from kclr.data.sources import as_images, source, split_source
from kclr.errors import SpecError


@pytest.mark.parametrize(
    ("text", "name", "argument"),
    [
        ("photos", "photos", {}),
        ("tfds:cifar100", "tfds", {"name": "cifar100"}),
        ("tfds:cifar10_1/v4:1.1.0", "tfds", {"name": "cifar10_1/v4:1.1.0"}),
        ("folder:pictures", "folder", {"path": "pictures"}),
        ("folder:/a:b", "folder", {"path": "/a:b"}),
        ("./pictures", "folder", {"path": "./pictures"}),
        ("my/pictures", "folder", {"path": "my/pictures"}),
        ("~/pictures", "folder", {"path": "~/pictures"}),
        ("..", "folder", {"path": ".."}),
    ],
)
def test_names_and_paths_lead_to_their_source(text, name, argument):
    assert split_source(text) == (name, argument)


def test_folder_in_the_working_directory_needs_no_slash(tmp_path, monkeypatch):
    (tmp_path / "holiday").mkdir()
    monkeypatch.chdir(tmp_path)
    assert split_source("holiday") == ("folder", {"path": "holiday"})
    assert split_source("holidays") == ("holidays", {})


@pytest.mark.parametrize(
    ("text", "word"), [("foto", "foto"), ("tdfs:cifar100", "tdfs"), ("s3://x/y", "s3")]
)
def test_unknown_words_come_back_for_the_nearest_spelling(text, word):
    assert split_source(text) == (word, {})


def test_unknown_source_names_the_nearest():
    with pytest.raises(SpecError, match=r"'tdfs' is not a known source\. Did you mean 'tfds'"):
        as_images("tdfs:cifar100")


def test_unknown_option_is_named():
    with pytest.raises(SpecError, match="spilt"):
        source("tfds:cifar100", spilt="train")


@pytest.mark.parametrize("text", ["photos", "tfds:cifar100", "folder:some/where"])
def test_source_dumps_under_the_name_it_was_given(text):
    part = source(text, limit=5)
    assert part.spec_name() == text
    dumped = part.model_dump(mode="json")
    assert not {"name", "path"} & dumped.keys()
    _, argument = split_source(part.spec_name())
    assert type(part)(**argument, **dumped) == part


def test_sources_are_described_without_tensorflow():
    code = (
        "import sys; from kclr.data.sources import source; import kclr.data.patches\n"
        "source('photos').image_shape(); source('tfds:nothing_such', data_dir='.').image_shape()\n"
        "source('./nowhere').problem()\n"
        "assert not {'tensorflow', 'keras', 'tensorflow_datasets', 'sklearn'} "
        "& set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
