"""A table of one's own says what is alike: as files, as arrays, and with its errors."""

import numpy as np
import pytest
from PIL import Image

import kclr
from kclr.data.checks import load_checked
from kclr.data.patches import PatchTripletGenerator
from kclr.errors import RunError, SpecError
from kclr.spec import parse_spec
from kclr.stack import train


@pytest.fixture(scope="module")
def numbered():
    """Eight images of 20 px whose three channels are image, y and x."""
    y, x = np.mgrid[:20, :20]
    return np.stack(
        [np.stack([np.full_like(y, n), y, x], axis=-1).astype(np.uint8) for n in range(8)]
    )


def table(folder, text):
    path = folder / "table.csv"
    path.write_text(text)
    return str(path)


def seen(generator, steps=30):
    """The images of the two windows of all rows, the numbers of the rows, and both corners."""
    batches = [
        (np.array(views), np.array(images)) for views, images in generator.views().take(steps)
    ]
    views = np.concatenate([views for views, _ in batches])[:, :, 0, 0]
    return views[..., 0], np.concatenate([images for _, images in batches]), views[..., 1:]


def test_groups_of_a_table_are_alike_and_share_a_number(numbered, tmp_path):
    path = table(tmp_path, "file,group\nimage 0,anna\nimage 3,anna\nimage 5,bo\n7,bo\nimage 2,cy\n")
    alike = {"name": "given", "groups": path}
    generator = PatchTripletGenerator(numbered, 5, batch_size=4, alike=alike)
    assert generator.image_count == 4
    images, numbers, _ = seen(generator)
    assert {*map(tuple, images.tolist())} == {(0, 3), (3, 0), (5, 7), (7, 5)}
    anna = np.isin(images[:, 0], [0, 3])
    assert len({*numbers[anna].tolist()}) == len({*numbers[~anna].tolist()}) == 1
    for anchor, positive, negative in generator.triplets().take(20):
        of = [np.round(255 * part.numpy()[:, 0, 0, 0]) for part in (anchor, positive, negative)]
        group = [np.isin(each, [0, 3]) for each in of]
        assert (of[0] != of[1]).all()
        assert (group[0] == group[1]).all()
        assert (group[0] != group[2]).all()


def test_pairs_of_a_table_and_the_same_place(numbered, tmp_path):
    path = table(tmp_path, "0,1\n2,3,4\n")
    alike = {"name": "given", "pairs": path, "place": "same"}
    images, _, corners = seen(PatchTripletGenerator(numbered, 5, batch_size=4, alike=alike))
    pairs = {*map(tuple, images.tolist())}
    assert pairs == {(0, 1), (1, 0), (2, 3), (3, 2), (2, 4), (4, 2)}
    np.testing.assert_array_equal(corners[:, 0], corners[:, 1])
    alike |= {"place": "any", "unlisted": "itself"}
    images, _, corners = seen(PatchTripletGenerator(numbered, 5, batch_size=8, alike=alike))
    assert {*map(tuple, images.tolist())} == pairs | {(5, 5), (6, 6), (7, 7)}
    assert (corners[:, 0] != corners[:, 1]).any(axis=-1).mean() > 0.9


@pytest.mark.parametrize("kind", [np.asarray, list])
def test_arrays_of_anchors_and_positives_train_in_a_few_lines(numbered, kind):
    anchors, positives = kind(numbered[:4]), kind(numbered[4:])
    patches = kclr.PatchTripletGenerator(anchors, positives, patch_size=5, batch_size=4)
    images, numbers, _ = seen(patches)
    assert {*map(tuple, images.tolist())} == {(n, n + 4) for n in range(4)}
    np.testing.assert_array_equal(numbers, images[:, 0])
    assert (patches.image_count, patches.steps_per_epoch) == (4, 1)
    model = kclr.TripletModel(kclr.ContrastiveConvBlock(4, 3))
    model.compile("adam", loss=kclr.losses.ContrastiveLoss("infonce"))
    history = model.fit(patches, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_series_and_many_channels_are_paired(tmp_path):
    series = np.arange(6 * 30 * 5, dtype=np.float32).reshape(6, 30, 5)
    images = kclr.data.sources.as_images(series, series=True, scale="none")
    alike = {"name": "given", "groups": table(tmp_path, "0,a\n4,a\n1,b\n2,b\n")}
    generator = PatchTripletGenerator(images, (1, 8), batch_size=4, alike=alike)
    views, _ = next(iter(generator.views()))
    assert views.shape == (4, 2, 1, 8, 5)
    of = np.array(views)[:, :, 0, 0, 0] // 150
    assert {*map(tuple, of.astype(int).tolist())} == {(0, 4), (4, 0), (1, 2), (2, 1)}


def test_wrong_arrays_have_their_words(numbered):
    with pytest.raises(ValueError, match="4 anchors, but 3 positives. Use one positive for each"):
        PatchTripletGenerator(numbered[:4], numbered[:3], patch_size=5)
    with pytest.raises(ValueError, match="patch_size is missing"):
        PatchTripletGenerator(numbered[:4], numbered[4:])
    with pytest.raises(ValueError, match="alike cannot be combined with positives"):
        PatchTripletGenerator(numbered[:4], numbered[4:], patch_size=5, alike="gap")
    with pytest.raises(ValueError, match="anchors are str 'photos', but pairs are arrays"):
        PatchTripletGenerator("photos", numbered[4:], patch_size=5)


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("pairs", "image 0,image 9\n1,12\n", "2 names that arrays does not have (image 9, 12). "
         "Names are such as image 0, or numbers below 8."),
        ("groups", "0,a\n1\n2,,\n", "2 rows without a picture and its group (line 2 or 3). Each "
         "row of groups has a picture and its group, separated by commas."),
        ("groups", "file,group\n", "it has no rows. Each row of groups has a picture and its "
         "group."),
        ("groups", "0,a\n1,b\n", "no two of the images are alike. Use a table that names at least "
         "two pictures that are used."),
        ("pairs", "0,1\n1,2\n", "all images are alike, directly or through others, so that there "
         "are no negatives. Use a table of several groups, or chains: false."),
    ],
)  # fmt: skip
def test_wrong_tables_have_their_words(numbered, tmp_path, key, text, words):
    path = table(tmp_path, text)
    with pytest.raises(RunError) as error:
        PatchTripletGenerator(numbered, 5, alike={"name": "given", key: path})
    assert str(error.value) == f"{path}: {words}"


def test_a_spec_without_a_table_or_with_one_that_is_not_there(tmp_path):
    for inside, words in (
        ("given", "needs a table. Add pairs: FILE.csv, or groups: FILE.csv."),
        ("{name: given, pairs: no.csv}", "no.csv: cannot be read: No such file or directory. It"),
    ):
        with pytest.raises(SpecError) as error:
            load_checked(
                {"stack": [{"patches": {"alike": inside}}]}
                if inside == "given"
                else {"stack": [{"patches": {"alike": {"name": "given", "pairs": "no.csv"}}}]}
            )
        assert words in str(error.value)


@pytest.fixture
def folder(numbered, tmp_path):
    for number, image in enumerate(numbered):
        (tmp_path / "pictures" / f"day{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / f"pictures/day{number % 2}/{number}.png")
    return tmp_path


def test_a_run_names_its_table_by_content_and_follows_it(folder):
    path = table(folder, "file,group\nday0/0.png,a\nday1/1.png,a\n2.png,b\n3.png,b\n")
    text = f"""
    data: folder:{folder / "pictures"}
    stack:
      - block: {{filters: 3, kernel_size: 4}}
        patches: {{patch_size: 6, alike: {{name: given, groups: {path}, place: same}}}}
        objective: infonce
        train: {{steps: 4, batch_size: 4, log_every: 2}}
    """
    spec = parse_spec(text)
    run = train(spec, folder / "run", bare=True)
    assert run.layers[0].facts["made_of"]["layers"][0]["patches"]["alike"]["groups"] != path
    moved = folder / "moved.csv"
    moved.write_text((folder / "table.csv").read_text())
    again = parse_spec(text.replace(path, str(moved)))
    assert (
        train(again, folder / "run", bare=True, resume=True).layers[0].facts == run.layers[0].facts
    )
    moved.write_text("day0/0.png,a\nday1/1.png,a\n")
    with pytest.raises(SpecError, match="alike.groups"):
        train(again, folder / "run", bare=True, resume=True)


def test_names_that_a_folder_lacks_are_found_before_the_training(folder):
    path = table(folder, "2.png,b\nday1/2.png,b\n99,a\n")
    patches = {"patch_size": 8, "alike": {"name": "given", "groups": path}}
    spec = {"data": f"folder:{folder / 'pictures'}", "stack": [{"patches": patches}]}
    words = r"alike\.groups: .*: 2 names that folder:.*pictures does not have \(day1/2\.png, 99\)\."
    with pytest.raises(SpecError, match=words):
        load_checked(spec)
    patches["alike"]["groups"] = table(folder, "2.png,b\nday0/0.png,b\n3.png,a\n1,a\n")
    load_checked(spec)
