"""A table of labels in a folder: whose label is whose, and all that may be wrong with it."""

import importlib.util
import wave

import numpy as np
import pytest
from PIL import Image

from kclr.data.checks import labelled_findings
from kclr.data.labels import load_labelled
from kclr.errors import SpecError


@pytest.fixture
def folder(tmp_path):
    """Pictures 0.png to 19.png, every other one in a folder, of which each tells its number."""
    (tmp_path / "odd").mkdir()
    for number in range(20):
        Image.new("L", (12, 12), number).save(tmp_path / path(number))
    return tmp_path


def path(number):
    return f"odd/{number}.png" if number % 2 else f"{number}.png"


def table(folder, rows, header="file,label", encoding="utf-8"):
    (folder / "labels.csv").write_text("\n".join([header, *rows]), encoding=encoding)
    return f"folder:{folder}"


def label(number):
    return ("cat", "dog")[number // 3 % 2]


def numbers(labelled):
    return [int(image[0, 0, 0]) for batch in labelled.batches(7) for image in batch]


def problem(name):
    (finding,) = labelled_findings(name, ("data",))
    with pytest.raises(SpecError) as error:
        load_labelled(name, "train")
    assert str(error.value) == finding.message
    return finding.message.partition("labels.csv: ")[2]


def check(part):
    assert [part.classes[own] for own in part.labels] == [label(own) for own in numbers(part)]


@pytest.mark.parametrize("form", ["{},{}", "{};{}", "{}\t{}", '"./{}" , "{}"'])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_each_picture_has_the_label_of_its_row(folder, form, encoding):
    header = form.format("File", "label").replace('"./', '"')
    rows = [form.format(path(number), label(number)) for number in reversed(range(20))]
    name = table(folder, rows, header.replace('"', "").replace(" ", ""), encoding)
    assert labelled_findings(name, ("data",)) == []
    train, test = (load_labelled(name, split) for split in ("train", "test"))
    assert sorted(numbers(train) + numbers(test)) == [*range(20)]
    assert np.bincount(test.labels).tolist() == [2, 2]
    for part in (train, test):
        check(part)


def test_the_table_may_divide_the_pictures(folder):
    parts = ["train", "Test", "val"]
    rows = [f"{path(n)},{label(n)},{parts[n % 3]},more" for n in range(20)]
    name = table(folder, rows, "file,label,split,note")
    train, test = (load_labelled(name, split) for split in ("train", "test"))
    assert sorted(numbers(train)) == [*range(0, 20, 3)]
    assert sorted(numbers(test)) == [*range(1, 20, 3)]
    for part in (train, test):
        check(part)


def test_no_group_is_in_both_splits(folder):
    rows = [f"{path(n)},{label(n)},person {n // 2}" for n in range(20)]
    train, test = (
        load_labelled(table(folder, rows, "file,label,group"), split) for split in ("train", "test")
    )
    own, others = ({n // 2 for n in numbers(part)} for part in (train, test))
    assert not own & others
    assert 2 <= len(test) <= 6
    check(test)
    rows = [f"{row},{('train', 'test')[n % 2]}" for n, row in enumerate(rows)]
    with pytest.warns(UserWarning, match="10 of its 10 groups are in both"):
        load_labelled(table(folder, rows, "file,label,group,split"), "test")


def test_pictures_without_a_row_are_left_out_and_counted(folder):
    name = table(folder, [f"{path(n)},{label(n)}" for n in range(14)])
    with pytest.warns(UserWarning, match=r"6 of the 20 pictures have no label and are left out \("):
        train = load_labelled(name, "train")
    test = load_labelled(name, "test")
    assert sorted(numbers(train) + numbers(test)) == [*range(14)]
    check(train)


def test_all_errors_are_counted_at_once(folder):
    rows = [f"{path(n)},{label(n)},train" for n in range(20)]
    rows += [f"gone/{n}.png,cat,test" for n in range(7)]
    rows += ["0.png,cat,test", "2.png,cat,train", "labels.csv,dog,train"]
    rows[4] = "4.png,,train"
    rows[6] = "6.png,dog,tarin"
    rows[8] = ",dog,test"
    rows[10] = "10.png,dog"
    assert problem(table(folder, rows, "file,label,split")) == (
        "8 rows have a file that is not one of the folder's pictures: gone/0.png, gone/1.png, "
        "gone/2.png, gone/3.png, gone/4.png, .... Write paths from the folder on, or remove these "
        "rows. 2 files have several rows: 0.png, 2.png. Keep one. 1 row has no file: "
        "line 10. Add it, or remove the row. 1 row has no label: line 6 (4.png). Add it, or remove "
        "the row. 1 row has no split: line 12 (10.png). Write train or test. 1 row has an unknown "
        "split: tarin in line 8. Write train or test."
    )


@pytest.mark.parametrize(
    ("header", "rows", "words"),
    [
        ("fiel,label", ["0.png,a"], "it has no column 'file' (its columns: fiel, label). Rename "
         "'fiel' to 'file'."),
        ("picture,class", ["0.png,a"], "it has no column 'file' (its columns: picture, class). "
         "Name it so in the first line. it has no column 'label' (its columns: picture, class). "
         "Name it so in the first line."),
        ("file,label,spilt", ["0.png,a,test"], "unknown column 'spilt'. Did you mean 'split'?"),
        ("file,label,label", ["0.png,a,a"], "it has 2 columns 'label'. Keep one."),
        ("file,label", ["0,a", "odd/1,b"], "2 rows have a file that is not one of the folder's "
         "pictures: 0, odd/1. Write the ending too: 0.png."),
        ("file,label", [], "it has no rows. Add one for each file."),
        ("file,label", ["0.png,a"], "all labels are a, but at least two classes are needed."),
        ("file,label,split", ["0.png,a,train", "2.png,b,train"], "no row has the split test. Add "
         "some, or remove the column split to hold out a fifth of each class."),
        ("file,label,split", ["0.png,a,train", "2.png,b,test"], "classes that only test files "
         "have: b. Add training files of them, or remove these test files."),
        ("file,label", ["0.png,a", "2.png,a", "4.png,b"], "class 'b' has 1 image, but both "
         "training and test need one. Add images of it, or remove the class."),
    ],
)  # fmt: skip
def test_table_that_cannot_be_used_is_refused_with_the_cure(folder, header, rows, words):
    assert problem(table(folder, rows, header)) == words


def test_table_in_another_encoding_is_refused(folder):
    name = table(folder, ["0.png,Löwe"], encoding="latin-1")
    words = problem(name)
    assert "decode byte 0xf6" in words
    assert words.endswith("Save it as CSV in UTF-8.")
    (folder / "labels.csv").write_bytes(b"\0\1\2")
    assert "it has no column 'file'" in problem(name) or "NUL" in problem(name)


@pytest.mark.skipif(not importlib.util.find_spec("soundfile"), reason="soundfile is not installed")
@pytest.mark.parametrize("form", ["table", "classes", "splits"])
def test_sounds_are_labelled_as_pictures_are(tmp_path, form):
    rows = []
    for number in range(20):
        split = ("train", "test")[number % 5 == 0]
        own = {"table": f"{number}", "classes": f"{label(number)}/{number}"}
        name = own.get(form, f"{split}/{label(number)}/{number}") + ".wav"
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(np.full(50 + number, 256 * number, "<i2").tobytes())
        rows.append(f"{name},{label(number)}")
    if form == "table":
        table(tmp_path, rows)
    name = f"audio:{tmp_path}"
    assert labelled_findings(name, ("data",)) == []
    seen = []
    for split in ("train", "test"):
        part = load_labelled(name, split)
        sounds = [sound for batch in part.batches(4) for sound in batch]
        own = [round(float(sound[0, 0, 0]) * 128) for sound in sounds]
        assert [sound.shape for sound in sounds] == [(1, 50 + number, 1) for number in own]
        assert [part.classes[one] for one in part.labels] == [label(number) for number in own]
        seen += own
    assert sorted(seen) == [*range(20)]


def test_folder_of_sounds_without_classes_is_told_what_to_do(tmp_path):
    pytest.importorskip("soundfile")
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(100))
    (finding,) = labelled_findings(f"audio:{tmp_path}", ("data",))
    assert finding.message == (
        f"{tmp_path} has no class folders, but at least two are needed. Put the sound files of "
        f"each class in its own folder: {tmp_path}/cats, {tmp_path}/dogs. Or add a table "
        f"{tmp_path}/labels.csv with the columns file and label."
    )
