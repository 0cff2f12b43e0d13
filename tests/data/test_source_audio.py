"""Folders of sound files, written by soundfile and by the wave module."""

import importlib.util
import struct
import wave

import numpy as np
import pytest

from kclr.data.sources import as_images, source
from kclr.errors import RunError, SpecError

needs_soundfile = pytest.mark.skipif(
    not importlib.util.find_spec("soundfile"), reason="soundfile is not installed"
)


def tone(length=800, channels=1, rate=8000):
    time = np.arange(length)[:, None] / rate
    return 0.5 * np.sin(2 * np.pi * 220 * (1 + np.arange(channels)) * time)


def write(path, samples, rate=8000):
    """Writes 16 bits without any other package."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())


def test_package_that_is_not_installed_is_named(tmp_path, monkeypatch):
    write(tmp_path / "a.wav", tone())
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "soundfile" else real(name)
    )
    part = source(f"audio:{tmp_path}")
    assert part.problem() == (
        "audio: needs soundfile, which is not installed: pip install 'kclr[audio]'"
    )
    assert part.image_shape() is None
    with pytest.raises(SpecError, match="needs soundfile"):
        part.open()


@needs_soundfile
@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "aiff"])
def test_every_format_is_read(tmp_path, ending):
    import soundfile

    written = tone()
    soundfile.write(tmp_path / f"a.{ending}", written, 8000)
    part = source(f"audio:{tmp_path}")
    assert part.image_shape() == (1, 800, 1)
    images = part.open()
    assert images.series
    (sound,) = images.read()
    assert sound.dtype == images.dtype == "float32"
    assert np.abs(sound[0] - written).max() < (0.1 if ending == "ogg" else 1e-4)


@needs_soundfile
def test_channels_become_their_mean_or_stay(tmp_path):
    written = tone(channels=2)
    write(tmp_path / "a.wav", written)
    (mono,) = as_images(f"audio:{tmp_path}").read()
    assert np.abs(mono[0, :, 0] - written.mean(axis=1)).max() < 1e-4
    part = source(f"audio:{tmp_path}", mono=False)
    assert part.image_shape() == (1, 800, 2)
    (both,) = part.open().read()
    assert np.abs(both[0] - written).max() < 1e-4


@needs_soundfile
def test_different_rates_are_counted_or_brought_to_one(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.wav", tone())
    write(tmp_path / "high.wav", tone(1600, rate=16000), 16000)
    words = (
        r"3 of 8,000 Hz, 1 of 16,000 Hz\. Resample them to one: \{source: audio:.*, rate: 8000\}\."
    )
    with pytest.raises(SpecError, match=words):
        as_images(f"audio:{tmp_path}")
    part = source(f"audio:{tmp_path}", rate=8000)
    assert part.image_shape() == (1, 800, 1)
    sounds = [sound[0, :, 0] for sound in part.open().read()]
    assert {len(sound) for sound in sounds} == {800}
    # Away from the ends, where the filter has nothing to go on.
    middle = tone()[100:-100, 0]
    assert max(np.abs(sound[100:-100] - middle).max() for sound in sounds) < 0.01
    other = as_images(f"audio:{tmp_path}", rate=4000)
    assert other.fingerprint != part.open().fingerprint


@needs_soundfile
def test_other_rate_behind_the_first_files_is_named(tmp_path):
    for number in range(12):
        write(tmp_path / f"{number}.wav", tone())
    images = as_images(f"audio:{tmp_path}")
    write(tmp_path / "5.wav", tone(rate=16000), 16000)
    assert len(list(images.read())) == 11
    assert images.skipped == [("5.wav", "its rate is 16,000 Hz, not 8,000 Hz as of the others")]


@needs_soundfile
def test_long_files_are_cut_into_windows(tmp_path):
    write(tmp_path / "a.wav", tone(850))
    part = source(f"audio:{tmp_path}", tile=[1, 200])
    assert part.image_shape() == (1, 200, 1)
    windows = [*part.open().read()]
    (whole,) = as_images(f"audio:{tmp_path}").read()
    np.testing.assert_array_equal(np.concatenate(windows, axis=1), whole[:, :800])


@needs_soundfile
def test_broken_files_are_named(tmp_path):
    for number in range(20):
        write(tmp_path / f"{number}.wav", tone())
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.mp3").write_text("no sound")
    write(tmp_path / "nothing.wav", tone(0))
    images = as_images(f"audio:{tmp_path}", max_unreadable=0.2)
    assert len(list(images.read())) == 20
    reasons = dict(images.skipped)
    assert reasons.keys() == {"empty.wav", "text.mp3", "nothing.wav"}
    assert reasons["empty.wav"] == "an empty file"
    assert reasons["nothing.wav"] == "it holds no sound"


@needs_soundfile
def test_claim_of_hours_takes_no_memory(tmp_path):
    import soundfile

    path = tmp_path / "a.flac"
    soundfile.write(path, tone(), 8000)
    data = bytearray(path.read_bytes())
    (packed,) = struct.unpack(">Q", data[18:26])  # rate, channels, depth and 36 bits of length
    data[18:26] = struct.pack(">Q", packed >> 36 << 36 | (1 << 36) - 1)
    path.write_bytes(data)
    with pytest.raises(RunError, match="too long: its 68,719,476,735 samples|cut off"):
        list(as_images(f"audio:{tmp_path}").read())


@needs_soundfile
def test_folder_without_sounds_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SpecError, match=r"no sound files in this folder.*1 \.txt\. Add some \(WAV"):
        as_images(f"audio:{tmp_path}")


def test_folder_of_sounds_is_no_folder_of_pictures(tmp_path):
    write(tmp_path / "a.wav", tone())
    with pytest.raises(SpecError, match=r"no pictures .* For sounds write audio:"):
        as_images(tmp_path)
