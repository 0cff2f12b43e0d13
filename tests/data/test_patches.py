"""PatchTripletGenerator: patches are windows of the images, and every run sees the same ones."""

import itertools

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from kclr.data.patches import PatchTripletGenerator
from kclr.errors import RunError, SpecError
from tests.processes import Forked


@pytest.fixture(scope="module")
def numbered():
    """40 images of mixed sizes whose three channels are image, y and x."""
    images = []
    for number in range(40):
        height, width = 12 + number % 7, 30 - number % 11
        y, x = np.mgrid[:height, :width]
        images.append(np.stack([np.full_like(y, number), y, x], axis=-1).astype(np.uint8))
    return images


@pytest.fixture(scope="module")
def large_folder(tmp_path_factory):
    """120 pictures of 300 x 300 px whose channels are number, y % 256 and x % 256: 32 MB."""
    folder = tmp_path_factory.mktemp("large")
    y, x = np.mgrid[:300, :300] % 256
    for number in range(120):
        pixels = np.stack([np.full_like(y, number), y, x], axis=-1).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png", compress_level=1)
    return str(folder)


def take(dataset, count):
    return [
        tuple(part.numpy() for part in batch)
        for batch in itertools.islice(iter(dataset), count)
    ]  # fmt: skip


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        for part, twin in zip(batch, other, strict=True):
            np.testing.assert_array_equal(part, twin)


def is_window(patches):
    """Whether uint8 patches (..., size, size, 3) are windows of the fixtures' images."""
    size = patches.shape[-2]
    number, y, x = np.moveaxis(patches.astype(int), -1, 0)
    rows, columns = np.mgrid[:size, :size]
    return (
        (number == number[..., :1, :1]).all()
        and ((y - y[..., :1, :1] - rows) % 256 == 0).all()
        and ((x - x[..., :1, :1] - columns) % 256 == 0).all()
    )


def test_crops_are_windows_of_the_images(numbered):
    generator = PatchTripletGenerator(numbered, 7, crop_size=9, batch_size=16)
    for crops, images in take(generator.crops(), 20):
        assert crops.shape == (16, 9, 9, 3)
        assert crops.dtype == np.uint8
        assert images.dtype == np.int32
        assert is_window(crops)
        np.testing.assert_array_equal(crops[:, 0, 0, 0], images)
        assert len(set(images)) == 16
        for crop, image in zip(crops, images, strict=True):
            y, x = crop[0, 0, 1:]
            np.testing.assert_array_equal(crop, numbered[image][y : y + 9, x : x + 9])


def test_crops_reach_every_place(numbered):
    generator = PatchTripletGenerator(numbered[:2], 7, crop_size=8, batch_size=512)
    crops = np.concatenate([crops for crops, _ in take(generator.crops(), 4)])
    for number in (0, 1):
        corners = crops[crops[:, 0, 0, 0] == number][:, 0, 0, 1:]
        height, width = numbered[number].shape[:2]
        assert len(np.unique(corners, axis=0)) == (height - 7) * (width - 7)


@pytest.mark.parametrize(
    ("size", "crop", "stride", "corners"),
    [
        (7, 8, 1, [[0, 0], [0, 1], [1, 0], [1, 1]]),
        (6, 10, 4, [[0, 0], [0, 4], [4, 0], [4, 4]]),
        (6, 11, 4, [[0, 0], [0, 4], [4, 0], [4, 4]]),
        ((3, 7), (4, 10), (1, 3), [[0, 0], [0, 3], [1, 0], [1, 3]]),
        ((1, 7), None, (1, 3), [[0, 0], [0, 3]]),
    ],
)
def test_views_are_the_windows_of_the_crops(numbered, size, crop, stride, corners):
    generator = PatchTripletGenerator(numbered, size, crop, stride, batch_size=16)
    assert generator.windows.tolist() == corners
    crops, views = take(generator.crops(), 5), take(generator.views(), 5)
    for (whole, images), (patches, same_images) in zip(crops, views, strict=True):
        np.testing.assert_array_equal(images, same_images)
        height, width = generator.patch_size
        for number, (y, x) in enumerate(corners):
            window = whole[:, y : y + height, x : x + width]
            np.testing.assert_array_equal(patches[:, number], window)


def as_bytes(triplet):
    for patches in triplet:
        assert patches.dtype == np.float32
        assert 0 <= patches.min() <= patches.max() <= 1
    return [np.round(patches * 255).astype(np.uint8) for patches in triplet]


@pytest.mark.parametrize("images", [2, 5, 40])
@pytest.mark.parametrize("options", [{"crop_size": 9}, {"max_shift": 2}, {"stride": 3}])
def test_negatives_are_never_of_the_same_image(numbered, images, options):
    generator = PatchTripletGenerator(numbered[:images], 7, batch_size=32, **options)
    for triplet in take(generator.triplets(), 20):
        anchor, positive, negative = as_bytes(triplet)
        assert anchor.shape == positive.shape == negative.shape == (32, 7, 7, 3)
        assert is_window(anchor)
        assert is_window(positive)
        assert is_window(negative)
        np.testing.assert_array_equal(anchor[:, 0, 0, 0], positive[:, 0, 0, 0])
        assert (anchor[:, 0, 0, 0] != negative[:, 0, 0, 0]).all()


@pytest.mark.parametrize(
    ("options", "shifts"),
    [
        ({"crop_size": 8}, {-1, 0, 1}),
        ({"crop_size": 10}, {-1, 0, 1}),
        ({"stride": 3, "crop_size": 11}, {-3, 0, 3}),
        ({"max_shift": 2}, {-2, -1, 0, 1, 2}),
        ({"max_shift": (0, 1)}, ({0}, {-1, 0, 1})),
        ({"patch_size": (1, 7), "stride": (1, 2)}, ({0}, {-2, 0, 2})),
    ],
)
def test_anchor_and_positive_are_neighbours(numbered, options, shifts):
    generator = PatchTripletGenerator(numbered, **({"patch_size": 7, "batch_size": 32} | options))
    shifts = shifts if isinstance(shifts, tuple) else (shifts, shifts)
    apart = []
    for triplet in take(generator.triplets(), 20):
        anchor, positive, _ = as_bytes(triplet)
        apart.append(positive[:, 0, 0, 1:].astype(int) - anchor[:, 0, 0, 1:])
    apart = np.concatenate(apart)
    assert {tuple(shift) for shift in apart} == set(itertools.product(*shifts)) - {(0, 0)}


def test_shifted_views_are_anchor_and_positive_of_the_triplets(numbered):
    generator = PatchTripletGenerator(numbered, 7, max_shift=2, batch_size=32)
    for (patches, _), triplet in zip(
        take(generator.views(), 3), take(generator.triplets(), 3), strict=True
    ):
        anchor, positive, _ = as_bytes(triplet)
        np.testing.assert_array_equal(patches, np.stack([anchor, positive], axis=1))
    with pytest.raises(ValueError, match="no grid of windows"):
        _ = generator.windows


FORMS = ("crops", "views", "triplets")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("images", [5, 40])
def test_pipeline_goes_on_from_any_step(numbered, form, images):
    options = {"patch_size": 7, "batch_size": 16, "seed": 5}
    whole = take(getattr(PatchTripletGenerator(numbered[:images], **options), form)(), 25)
    again = PatchTripletGenerator(numbered[:images], **options)
    for start in (3, 20):
        assert_same(take(getattr(again, form)(start), 5), whole[start : start + 5])


@pytest.mark.parametrize("form", FORMS)
def test_chunked_pipeline_goes_on_from_any_step(large_folder, form):
    # Crops of 128 px cover a tile soon, so that a chunk lasts a few steps only.
    options = {"patch_size": 120, "crop_size": 128, "stride": 8, "batch_size": 8, "memory": 8}
    generator = PatchTripletGenerator(large_folder, **options)
    assert generator.image_count == 120
    assert generator._chunks is not None
    whole = take(getattr(generator, form)(), 24)
    again = PatchTripletGenerator(large_folder, **options)
    for start in (7, 20):
        assert_same(take(getattr(again, form)(start), 4), whole[start : start + 4])


def test_chunked_patches_are_windows_of_many_images(large_folder):
    generator = PatchTripletGenerator(
        large_folder, 120, crop_size=128, stride=8, batch_size=8, memory=8
    )
    seen = set()
    for anchor, positive, negative in map(as_bytes, take(generator.triplets(), 60)):
        for patches in (anchor, positive, negative):
            assert is_window(patches)
        np.testing.assert_array_equal(anchor[:, 0, 0, 0], positive[:, 0, 0, 0])
        assert (anchor[:, 0, 0, 0] != negative[:, 0, 0, 0]).all()
        seen |= set(anchor[:, 0, 0, 0])
    assert len(seen) > 60


def test_two_chunked_pipelines_side_by_side_do_not_disturb_each_other(large_folder):
    options = {"patch_size": 120, "crop_size": 128, "stride": 8, "batch_size": 8, "memory": 8}
    generator = PatchTripletGenerator(large_folder, **options)
    alone = take(generator.crops(), 12)
    both = list(itertools.islice(zip(generator.crops(), generator.crops(4), strict=False), 8))
    assert_same([tuple(part.numpy() for part in pair[0]) for pair in both], alone[:8])
    assert_same([tuple(part.numpy() for part in pair[1]) for pair in both], alone[4:12])


def test_seed_decides(numbered):
    def first(seed):
        return take(PatchTripletGenerator(numbered, 7, batch_size=16, seed=seed).crops(), 1)[0]

    assert not np.array_equal(first(0)[0], first(1)[0])
    np.testing.assert_array_equal(first(1)[0], first(1)[0])
    first(-3), first(1 << 70)


def determined(words):
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    tf.keras.utils.set_random_seed(99)
    images = list(np.load(words[0]).values())
    generator = PatchTripletGenerator(images, 7, batch_size=16)
    np.save(words[1], next(iter(generator.triplets(3)))[2].numpy())


def test_new_process_and_op_determinism_give_the_same_batches(numbered, tmp_path):
    np.savez(tmp_path / "images", *numbered)
    out = tmp_path / "out.npy"
    assert Forked((tmp_path / "images.npz", out), run=determined).wait() == 0
    here = take(PatchTripletGenerator(numbered, 7, batch_size=16).triplets(3), 1)[0]
    np.testing.assert_array_equal(np.load(out), here[2])


def test_epochs_end(numbered):
    generator = PatchTripletGenerator(numbered, 7, batch_size=16, crops_per_image=2)
    assert generator.steps_per_epoch == 5
    assert len(list(generator.triplets(epochs=2))) == 10
    assert len(list(generator.triplets(start=7, epochs=2))) == 3
    assert len(list(generator.triplets(start=12, epochs=2))) == 0
    assert PatchTripletGenerator(numbered[:3], 7, batch_size=16).steps_per_epoch == 1


def test_generator_itself_is_an_endless_row_of_triplets(numbered):
    generator = PatchTripletGenerator(numbered, 7, batch_size=16)
    assert_same(take(generator, 4), take(generator.triplets(), 4))


def test_shapes_are_known_before_the_first_batch(numbered, large_folder):
    for images in (numbered, large_folder):
        generator = PatchTripletGenerator(images, 7, batch_size=16, memory=8)
        assert generator.crops().element_spec[0].shape == (16, 8, 8, 3)
        assert generator.views().element_spec[0].shape == (16, 4, 7, 7, 3)
        assert [spec.shape for spec in generator.triplets().element_spec] == [(16, 7, 7, 3)] * 3


def test_keras_model_fits_on_the_triplets():
    import keras

    generator = PatchTripletGenerator("photos", 7, batch_size=32)
    data = generator.triplets(epochs=1).map(lambda anchor, positive, negative: (anchor, positive))
    model = keras.Sequential([keras.layers.Conv2D(3, 3, padding="same")])
    model.compile("adam", "mse")
    history = model.fit(data, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_photos_fill_a_batch_though_they_are_fewer():
    generator = PatchTripletGenerator("photos", 7)
    assert generator.image_count < 512
    crops, images = take(generator.crops(), 1)[0]
    assert crops.shape == (512, 8, 8, 3)
    assert len(set(images)) == generator.image_count


def test_gray_images_of_one_channel():
    gray = [load_sample_image("china.jpg")[top : top + 20, :30, 0] for top in range(0, 200, 20)]
    generator = PatchTripletGenerator(gray, 7, batch_size=4)
    assert generator.channels == 1
    crops, images = take(generator.crops(), 1)[0]
    windows = np.lib.stride_tricks.sliding_window_view(gray[images[0]], (8, 8)).reshape(-1, 64)
    assert (windows == crops[0].ravel()).all(axis=1).any()


def test_images_smaller_than_the_crop_are_named_and_skipped(tmp_path, numbered):
    for number, image in enumerate(numbered):
        image = image[:5] if number == 7 else image
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    generator = PatchTripletGenerator(str(tmp_path), 7, batch_size=16)
    assert generator.image_count == 39
    assert generator.skipped == [("7.png", "smaller than the crop of 8 px")]
    for crops, _ in take(generator.crops(), 10):
        assert is_window(crops)
        assert 7 not in crops[..., 0]


def test_images_all_smaller_than_the_crop_stop_with_the_cure(numbered):
    with pytest.raises(RunError, match=r"40 of 40 pictures .*(?s:.*)Use a smaller crop_size"):
        PatchTripletGenerator(numbered, 60)


def test_single_image_is_refused_with_the_cure(numbered):
    with pytest.raises(RunError, match=r"1 usable image\. Negatives come from another image"):
        PatchTripletGenerator(numbered[:1], 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 0}, "patch_size is 0. Use 1 or more"),
        ({"patch_size": 7.0}, "patch_size is 7.0. Use a whole number"),
        ({"crop_size": 7}, "crop_size 7 has no room for two patches of 7 px, .* Use at least 8"),
        ({"stride": 7}, "stride 7 allows patches of 7 px that do not overlap.* Use less than 7"),
        ({"max_shift": 9}, "max_shift 9 allows patches"),
        ({"max_shift": 2, "crop_size": 8}, "Use at least 9"),
        ({"batch_size": 1}, "batch_size is 1. Use 2 or more"),
        ({"memory": 0}, "memory is 0. Use 1 or more"),
        ({"crops_per_image": 0}, "crops_per_image is 0"),
        ({"seed": "a"}, "seed is 'a'. Use a whole number"),
        ({"batch_size": True}, "batch_size is True"),
    ],
)
def test_wrong_arguments_are_explained(numbered, options, message):
    with pytest.raises(ValueError, match=message):
        PatchTripletGenerator(numbered, **{"patch_size": 7, **options})


def test_tiles_smaller_than_the_crop_are_explained():
    with pytest.raises(ValueError, match="tiles of 64 px, smaller than the crop of 71 px"):
        PatchTripletGenerator("photos", 70)


def test_wrong_start_is_explained(numbered):
    generator = PatchTripletGenerator(numbered, 7, batch_size=16)
    with pytest.raises(ValueError, match=r"start is -1\. Use 0 or more"):
        generator.crops(start=-1)


def test_missing_source_is_a_spec_error():
    with pytest.raises(SpecError, match="folder not found"):
        PatchTripletGenerator("./not/there", 7)


@pytest.mark.parametrize("form", ["crops", "views"])
@pytest.mark.parametrize(
    "options", [{"stride": 2}, {"max_shift": 2}, {"max_shift": 2, "memory": 8}]
)
def test_parts_of_a_batch_are_the_batch(numbered, large_folder, form, options):
    images = large_folder if "memory" in options else numbered
    patches = PatchTripletGenerator(images, 6, batch_size=12, **options)
    make = getattr(patches, form)
    whole = take(make(5), 4)
    parts = [take(make(5, (index, 3)), 4) for index in range(3)]
    together = [
        tuple(np.concatenate(part) for part in zip(*of_a_step, strict=True))
        for of_a_step in zip(*parts, strict=True)
    ]
    assert_same(together, whole)


def test_a_batch_that_cannot_be_shared_is_refused(numbered):
    patches = PatchTripletGenerator(numbered, 6, batch_size=12)
    with pytest.raises(ValueError, match=r"12 cannot be divided by 5. Use a batch_size"):
        patches.crops(0, (0, 5))


def test_what_is_asked_for_again_is_the_same_data_set_and_only_a_few_are_kept(numbered):
    generator = PatchTripletGenerator(numbered, 7, batch_size=4)
    first = generator.views()
    assert generator.views(0) is first
    assert generator.crops() is not first
    for step in range(1, 20):
        generator.views(step)
    assert len(generator._datasets) == 8
    again = generator.views()
    assert again is not first
    for one, other in zip(first.take(2), again.take(2), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
