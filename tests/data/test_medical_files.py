"""DICOM and NIfTI, written by pydicom and nibabel."""

import importlib.util

import numpy as np
import pytest

from kclr.data import medical_files
from kclr.data.image_files import PictureFile, decode
from kclr.data.pixels import UnreadableError
from kclr.data.sources import as_images, source
from kclr.errors import RunError, SpecError


@pytest.fixture
def pydicom():
    return pytest.importorskip("pydicom")


@pytest.fixture
def nibabel():
    return pytest.importorskip("nibabel")


def dicom(path, pixels, **tags):
    """Writes (height, width) or (frames, height, width) of whole numbers."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    made = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    made.Rows, made.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        made.NumberOfFrames = len(pixels)
    bits = 8 * pixels.dtype.itemsize
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = bits
    made.HighBit, made.PixelRepresentation = bits - 1, int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(made, name, value)
    made.PixelData = pixels.tobytes()
    made.save_as(str(path))


def numbers(shape, dtype="int16"):
    return np.random.default_rng(0).integers(0, 1000, shape).astype(dtype)


@pytest.mark.parametrize(("ending", "package"), [(".dcm", "pydicom"), (".nii.gz", "nibabel")])
def test_package_that_is_not_installed_is_named(tmp_path, monkeypatch, ending, package):
    (tmp_path / f"a{ending}").write_bytes(b"x")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else real(name)
    )
    words = f"1 {ending} left out: needs {package}, which is not installed: pip install "
    with pytest.raises(SpecError) as error:
        as_images(tmp_path)
    assert f"It holds 1 {ending}. {words}'kclr[medical]'." in str(error.value)
    np.save(tmp_path / "a.npy", numbers((8, 8)))
    (warning,) = as_images(tmp_path).warnings
    assert warning.endswith(f"{words}'kclr[medical]'")


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept", "kept"),
    [
        ("uint16", None, None, "uint16"),
        ("int16", 1, 0, "int16"),
        ("uint8", None, None, "uint8"),
        ("int16", 1, -1024, "float32"),
        ("int16", 0.5, 3, "float32"),
    ],
)
def test_dicom_in_its_own_units(tmp_path, pydicom, dtype, slope, intercept, kept):
    written = numbers((9, 6), dtype)
    tags = {} if slope is None else {"RescaleSlope": slope, "RescaleIntercept": intercept}
    dicom(tmp_path / "a.dcm", written, **tags)
    pixels = decode(tmp_path / "a.dcm")
    header = PictureFile(tmp_path / "a.dcm").header()
    assert (header.height, header.width, header.channels) == (9, 6, 1)
    assert pixels.dtype == header.dtype == kept
    exact = written.astype(float) * (slope or 1) + (intercept or 0)
    np.testing.assert_array_equal(pixels[..., 0], exact)


def test_twelve_bits_of_computed_tomography_are_int16(tmp_path, pydicom):
    written = numbers((9, 6), "uint16")
    dicom(
        tmp_path / "a", written, RescaleSlope=1, RescaleIntercept=-1024, BitsStored=12, HighBit=11
    )
    (image,) = as_images(tmp_path).read()  # without an ending, by its first bytes
    assert image.dtype == "int16"
    np.testing.assert_array_equal(image[..., 0], written.astype(int) - 1024)


def test_frames_are_left_or_channels_or_pictures(tmp_path, pydicom):
    frames = numbers((3, 9, 6), "uint16")
    dicom(tmp_path / "a.dcm", frames)
    np.testing.assert_array_equal(next(as_images(tmp_path).read())[..., 0], frames[0])
    part = source(str(tmp_path), pages="channels")
    assert part.image_shape() == (9, 6, 3)
    np.testing.assert_array_equal(next(part.open().read()), np.moveaxis(frames, 0, -1))
    images = as_images(tmp_path, pages="pictures")
    np.testing.assert_array_equal(np.stack([*images.read()])[..., 0], frames)


def test_broken_dicom_is_named(tmp_path, pydicom):
    dicom(tmp_path / "half.dcm", numbers((40, 40)))
    whole = (tmp_path / "half.dcm").read_bytes()
    (tmp_path / "half.dcm").write_bytes(whole[: len(whole) - 2000])
    with pytest.raises(UnreadableError, match="cut off"):
        decode(tmp_path / "half.dcm")
    dicom(tmp_path / "claim.dcm", numbers((4, 4)), Rows=60000, Columns=60000)
    with pytest.raises(UnreadableError, match="too many pixels"):
        decode(tmp_path / "claim.dcm")
    (tmp_path / "text.dcm").write_text("hello")
    with pytest.raises(UnreadableError):
        decode(tmp_path / "text.dcm")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "int32"])
def test_slices_of_a_volume_are_pictures(tmp_path, nibabel, ending, dtype):
    volume = numbers((9, 6, 4), dtype)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4), dtype=dtype), tmp_path / f"a{ending}")
    part = source(str(tmp_path))
    assert part.image_shape() == (9, 6, 1)
    images = part.open()
    kept = "float32" if dtype == "int32" else dtype
    assert (images.count, images.dtype) == (4, kept)
    read = np.stack([*images.read()])[..., 0]
    assert read.dtype == kept
    np.testing.assert_array_equal(read, np.moveaxis(volume, -1, 0).astype(kept))
    np.testing.assert_array_equal(next(images.read(3))[..., 0], volume[..., 3])


def test_scaled_volume_is_read_in_its_own_units(tmp_path, nibabel):
    image = nibabel.Nifti1Image(numbers((9, 6, 2)) / 7, np.eye(4))
    image.header.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "a.nii")
    stored = nibabel.load(tmp_path / "a.nii").get_fdata()
    images = as_images(tmp_path)
    assert images.dtype == "float32"
    read = np.stack([*images.read()])[..., 0]
    np.testing.assert_allclose(read, np.moveaxis(stored, -1, 0), rtol=1e-5)


def test_packed_volume_is_unpacked_once(tmp_path, nibabel, monkeypatch):
    nibabel.save(nibabel.Nifti1Image(numbers((9, 6, 8)), np.eye(4)), tmp_path / "a.nii.gz")
    unpacked = []
    real = nibabel.arrayproxy.ArrayProxy.__array__

    def watched(self, *args, **kwargs):
        unpacked.append(self)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(nibabel.arrayproxy.ArrayProxy, "__array__", watched)
    assert len(list(as_images(tmp_path).read())) == 8
    assert len(unpacked) == 1


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_broken_volume_is_named(tmp_path, nibabel, ending):
    path = tmp_path / f"a{ending}"
    nibabel.save(nibabel.Nifti1Image(numbers((64, 64, 8)), np.eye(4)), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match="cut off"):
        list(as_images(tmp_path).read())
    path.write_bytes(b"hello")
    with pytest.raises(RunError, match=r"a\.nii.*: broken"):
        list(as_images(tmp_path).read())


def test_packed_volume_larger_than_the_memory_is_not_unpacked(tmp_path, nibabel):
    volume = np.zeros((512, 512, 8), np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(RunError, match=r"unpacked it takes 8 MB, more than memory \(1 MB\)"):
        list(as_images(tmp_path, memory=1).read())
    assert medical_files.lacks(".png") is None
