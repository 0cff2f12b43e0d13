"""Labels in files of arrays: whose they are, which split, which groups, and what is refused."""

import h5py
import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kclr.data.checks import labelled_findings
from kclr.data.labels import load_labelled
from kclr.errors import SpecError
from kclr.probing.protocol import hold_out, probe, validation_rows
from kclr.probing.readouts.ridge import STRENGTHS

COUNT = 40
X = np.arange(COUNT, dtype=np.float32)[:, None, None] * np.ones((1, 9, 2), np.float32)
Y = np.arange(COUNT) // 4 % 3


def save(path, **arrays):
    """Writes arrays in the form that the ending says, and how a spec names the series."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            for name, own in arrays.items():
                text = own.dtype.kind == "U"
                file.create_dataset(name, data=own.astype("S") if text else own)
    else:
        zarr = pytest.importorskip("zarr")
        group = zarr.open_group(str(path), mode="w")
        for name, own in arrays.items():
            sizes = {"shape": own.shape, "chunks": own.shape, "dtype": own.dtype}
            getattr(group, "create_array", group.create_dataset)(name, **sizes)[:] = own
    return f"series:{path}"


def numbers(labelled):
    """Which of the rows these are."""
    return [int(series[0, 0, 0]) for batch in labelled.batches(7) for series in batch]


def splits(name, **options):
    return tuple(load_labelled(name, split, **options) for split in ("train", "test"))


def problem(name):
    """What `kclr check` says, which is what reading says too."""
    (finding,) = labelled_findings(name, ("probe", "data"))
    with pytest.raises(SpecError) as error:
        load_labelled(name, "train")
    assert str(error.value) == finding.message
    return finding.message


@pytest.mark.parametrize("ending", [".npz", ".h5", ".zarr"])
@pytest.mark.parametrize(
    "names", [("x", "y"), ("images", "labels"), ("data", "labels"), ("X", "y"), ("x", "labels")]
)
def test_a_fifth_of_each_class_is_kept_and_each_series_has_its_own_label(tmp_path, names, ending):
    name = save(tmp_path / f"a{ending}", **dict(zip(names, (X, Y), strict=True)))
    train, test = splits(name)
    assert labelled_findings(name, ("data",)) == []
    assert train.images.shape[1:] == (1, 9, 2)
    assert sorted(numbers(train) + numbers(test)) == [*range(COUNT)]
    for part in (train, test):
        np.testing.assert_array_equal(part.labels, Y[numbers(part)])
        assert part.classes == ("0", "1", "2")
    expected = np.round(np.bincount(Y) / 5)
    np.testing.assert_array_equal(np.bincount(test.labels), expected)


@pytest.mark.parametrize("ending", [".npz", ".h5", ".zarr"])
@pytest.mark.parametrize(
    "names",
    [
        "x_train y_train x_test y_test",
        "Xtrain ytrain Xtest ytest",
        "train_images train_labels test_images test_labels",
        "x_train y_train x_val y_val",
    ],
)
def test_an_archive_that_is_divided_stays_as_it_is(tmp_path, names, ending):
    arrays = dict(zip(names.split(), (X[:30], Y[:30, None], X[30:], Y[30:]), strict=True))
    name = save(tmp_path / f"a{ending}", **arrays, classes=np.array(["a", "b", "c", "none"]))
    train, test = splits(f"{name}:{names.split()[0]}")
    assert (numbers(train), numbers(test)) == ([*range(30)], [*range(30, COUNT)])
    assert train.labels.tolist() + test.labels.tolist() == Y.tolist()
    assert train.classes == test.classes == ("a", "b", "c", "none")


def test_labels_may_be_texts(tmp_path):
    words = np.array(["run", "öffnen", "sit"])
    train, test = splits(save(tmp_path / "a.npz", x=X, y=words[Y]))
    assert train.classes == ("run", "sit", "öffnen")
    for part in (train, test):
        assert [part.classes[own] for own in part.labels] == words[Y[numbers(part)]].tolist()
    ordered = splits(save(tmp_path / "b.npz", x=X, y=words[Y], classes=words))[0]
    assert ordered.classes == tuple(words)
    np.testing.assert_array_equal(ordered.labels, Y[numbers(ordered)])


def test_texts_of_any_length_in_hdf5_are_labels(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("deep/x", data=X)
        file.create_dataset("deep/y", data=[f"class {own}" for own in Y])
    train, _ = splits(f"series:{tmp_path / 'a.h5'}:deep/x")
    assert train.classes == ("class 0", "class 1", "class 2")
    np.testing.assert_array_equal(train.labels, Y[numbers(train)])
    with pytest.raises(SpecError, match="it holds texts, not real numbers"):
        load_labelled(f"series:{tmp_path / 'a.h5'}:deep/y", "train")


def test_labels_lie_next_to_a_plain_array(tmp_path):
    np.save(tmp_path / "a.npy", X)
    name = f"series:{tmp_path / 'a.npy'}"
    assert problem(name) == (
        f"{tmp_path / 'a.npy'}: has no labels: {tmp_path / 'a.labels.npy'} does not exist. Save "
        "them there: a whole number or a text for each row, in the same order."
    )
    np.save(tmp_path / "a.labels.npy", Y)
    train, test = splits(name)
    np.testing.assert_array_equal(train.labels, Y[numbers(train)])
    assert train.groups is None
    groups = np.arange(COUNT) // 2
    np.save(tmp_path / "a.groups.npy", groups)
    train, test = splits(name)
    assert not {*groups[numbers(train)]} & {*groups[numbers(test)]}


def test_images_of_arrays_have_labels_too(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.repeat(X[:, None], 9, axis=1).astype(np.uint16), y=Y)
    train, _ = splits(f"array:{tmp_path / 'a.npz'}")
    assert (train.images.shape[1:], train.images.dtype) == ((9, 9, 2), np.uint16)
    np.testing.assert_array_equal(train.labels, Y[numbers(train)])


@pytest.mark.parametrize("key", ["group", "groups"])
def test_no_group_is_in_both_splits(tmp_path, key):
    persons = np.random.default_rng(0).integers(0, 11, COUNT) * 5
    train, test = splits(save(tmp_path / "a.npz", x=X, y=Y, **{key: persons}))
    own, others = (persons[numbers(part)] for part in (train, test))
    assert not {*own} & {*others}
    assert {*train.labels} == {0, 1, 2}
    assert 0.1 < len(test) / COUNT < 0.35
    for part, found in ((train, own), (test, others)):
        pairs = {(a, b) for a, b in zip(part.groups.tolist(), found.tolist(), strict=True)}
        assert len(pairs) == len({*found.tolist()})


def test_probe_holds_whole_groups_out_while_it_trains():
    persons = np.arange(COUNT) // 2 % 10
    held = validation_rows(Y, 0, persons)
    assert not {*persons[held]} & {*persons[~held]}
    assert held.sum() == 8
    assert {*Y[~held]} == {0, 1, 2}
    assert (held != validation_rows(Y, 1, persons)).any()


def test_strength_is_chosen_on_groups_that_were_not_fitted_on():
    persons = np.arange(COUNT) // 2 % 10
    held = hold_out(Y, 0, persons)
    assert not {*persons[held]} & {*persons[~held]}
    # Each person is known by a number of its own, and labels by nothing: no strength helps others.
    random = np.random.default_rng(0)
    features = np.concatenate([np.eye(10)[persons], random.normal(size=(COUNT, 5))], axis=1)
    features = features.astype(np.float32)
    kept, other = np.flatnonzero(~held), np.flatnonzero(held)
    shares = []
    for strength in STRENGTHS:
        own = make_pipeline(StandardScaler(), RidgeClassifier(strength))
        shares.append(own.fit(features[kept], Y[kept]).score(features[other], Y[other]))
    score = probe(features, Y, features, Y, train_groups=persons)
    assert score.strength == STRENGTHS[int(np.argmax(shares))]
    # Of too few labels for that, image by image.
    np.testing.assert_array_equal(hold_out(Y, 0, 0 * Y), hold_out(Y, 0))


def test_groups_of_both_splits_may_be_in_one_array(tmp_path):
    groups = np.arange(COUNT) // 5
    arrays = {"x_train": X[:30], "y_train": Y[:30], "x_test": X[30:], "y_test": Y[30:]}
    train, test = splits(save(tmp_path / "a.npz", **arrays, group=groups))
    assert train.groups.tolist() + test.groups.tolist() == groups.tolist()
    train, test = splits(save(tmp_path / "b.npz", **arrays, group=groups[:30]))
    assert (train.groups.tolist(), test.groups) == (groups[:30].tolist(), None)
    own = {"group_train": groups[:30], "group_test": groups[:10]}
    with pytest.warns(UserWarning, match=r"2 of its 6 groups are in both the training and the"):
        train, test = splits(save(tmp_path / "c.npz", **arrays, **own))
    assert (train.groups.tolist(), test.groups.tolist()) == tuple(g.tolist() for g in own.values())
    words = problem(save(tmp_path / "d.npz", **arrays, group=groups[:7]))
    assert (
        words
        == f"{tmp_path / 'd.npz'}:group: 7 groups for 40 rows. There must be one for each row."
    )


def test_groups_that_hold_a_class_alone_cannot_be_divided(tmp_path):
    words = problem(save(tmp_path / "a.npz", x=X, y=Y, group=Y))
    assert "3 groups cannot be divided so that training has images of every class" in words


def test_a_limit_of_sorted_rows_takes_all_classes_and_always_the_same(tmp_path):
    name = save(tmp_path / "a.npz", x=X, y=np.sort(Y))
    part, again = (load_labelled(name, "train", limit=12) for _ in range(2))
    assert numbers(part) == numbers(again) == sorted(numbers(part))
    assert {*part.labels} == {0, 1, 2}
    np.testing.assert_array_equal(part.labels, np.sort(Y)[numbers(part)])


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": X, "z": Y}, "a.npz: has no labels for its array x (looked for y, labels; it holds "
         "x, z). Add them: a whole number or a text for each row."),
        ({"x": X, "y": Y[:9]}, "a.npz:y: 9 labels for 40 rows. There must be one for each row."),
        ({"x": X, "y": Y / 2}, "a.npz:y: labels are whole numbers or texts, but these are float64. "
         "Save them as whole numbers."),
        ({"x": X, "y": np.eye(3)[Y]}, "a.npz:y: labels are of shape (count,), not (40, 3). One "
         "column for each class is not read: save numpy.argmax(..., axis=1)."),
        ({"x": X, "y": Y + 1, "classes": np.array(["a", "b", "c"])}, "a.npz: its array `classes` "
         "has 3 names, for labels from 0 to 2, but there are also labels 3. Correct either."),
        ({"x": X, "y": Y * 0}, "a.npz: all labels are 0, but at least two classes are needed."),
        ({"x": X, "y": np.array(["a", "b", None])[Y]}, "a.npz:y: it holds Python objects, which "
         "are not read; save it as numbers."),
        ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 1}, "a.npz: classes that only "
         "the test labels have: 3. Add training images of them, or remove these test images."),
    ],
)  # fmt: skip
def test_what_is_wrong_with_labels_is_said_without_reading_the_series(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    assert problem(f"series:{tmp_path / 'a.npz'}") == f"{tmp_path}/{words}"


def test_a_class_of_one_row_cannot_be_divided(tmp_path):
    labels = Y.copy()
    labels[-1] = 7
    assert "class '7' has 1 image, but" in problem(save(tmp_path / "a.npz", x=X, y=labels))
