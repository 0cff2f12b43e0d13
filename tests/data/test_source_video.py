"""Videos: their frames in order, their errors, and moments of them, end to end."""

import importlib.util

import numpy as np
import pytest

from kclr.data.patches import PatchTripletGenerator
from kclr.data.sources import as_images, source
from kclr.errors import SpecError
from tests.alike.test_moments import MOMENTS, film, trains_by_moments

needs_av = pytest.mark.skipif(not importlib.util.find_spec("av"), reason="av is not installed")


def written(path, frames):
    """A video of frames, uint8 (frames, height, width, 3)."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for picture in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def test_without_the_package_the_cure_is_named(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "av" else real(name)
    )
    assert source("video:there").problem() == (
        "video: needs av, which is not installed: pip install 'kclr[video]'"
    )


@needs_av
def test_frames_are_those_of_the_film_in_order(tmp_path):
    frames = film(0)[0]
    path = written(tmp_path / "one.mp4", frames)
    images = as_images(f"video:{path}")
    read = np.stack([*images.read()])
    assert read.shape == frames.shape
    assert np.abs(read.astype(int) - frames).mean() < 12  # what compression changes
    some = as_images(f"video:{path}", every=3, frames=2)
    np.testing.assert_array_equal(np.stack([*some.read()]), read[[0, 3]])
    np.testing.assert_array_equal(next(images.read(5)), read[5])
    assert source(f"video:{path}").image_shape() == (48, 48, 3)
    assert some.fingerprint != images.fingerprint


@needs_av
def test_what_is_no_video_has_its_words(tmp_path):
    written(tmp_path / "films/good.mp4", film(0)[0])
    (tmp_path / "films/bad.mp4").write_bytes(b"no film at all" * 99)
    images = as_images(f"video:{tmp_path / 'films'}", max_unreadable=0.2)
    assert len([*images.read()]) == 8
    ((name, reason),) = images.skipped
    assert name == "bad.mp4/999999"
    assert reason == "cannot be decoded further (Invalid data found when processing input)"
    with pytest.raises(SpecError, match=r"none of its 1 videos can be decoded\. Convert them"):
        as_images(f"video:{tmp_path / 'films/bad.mp4'}")
    with pytest.raises(SpecError, match="no such file or folder"):
        as_images(f"video:{tmp_path / 'nothing'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match="no videos in this folder or below it"):
        as_images(f"video:{tmp_path / 'empty'}")


@needs_av
def test_a_photograph_under_a_moving_camera_trains_by_moments(tmp_path):
    for number in range(2):
        written(tmp_path / f"films/{number}.mp4", film(number)[0])
    rows = PatchTripletGenerator(f"video:{tmp_path / 'films'}", 8, alike=MOMENTS).rows
    assert {*rows.numbers.tolist()} == {0, 1}
    np.testing.assert_array_equal(rows.others - rows.images, 4)
    trains_by_moments(f"video:{tmp_path / 'films'}", tmp_path / "run")
