"""`audio:PATH`: all sound files below a directory, with soundfile."""

import math
import os
from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import Annotated, Any, ClassVar

from pydantic import Field

from kclr.data import headers
from kclr.data.census import Census
from kclr.data.fingerprints import digest, of_files
from kclr.data.pixels import UnreadableError
from kclr.data.source_folder import Files
from kclr.errors import SpecError
from kclr.spec.registry import register
from kclr.spec.wording import printable

_HEADERS = 200  # files whose rate and length are looked at beforehand


@register("source", "audio")
class Audio(Files):
    """All sound files below a directory and its subfolders, as series of floats: WAV, FLAC, OGG,
    MP3, AIFF and more (needs `pip install 'kclr[audio]'`)."""

    rate: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Sampling rate in Hz to which all files are resampled; by default they must have the same."""
    mono: bool = True
    """Whether the mean of a file's channels is used, as one."""

    series: ClassVar[bool] = True
    reading: ClassVar[tuple[str, ...]] = ("rate", "mono")
    kinds: ClassVar[str] = "WAV, FLAC, OGG, MP3"
    noun: ClassVar[str] = "sound files"
    sounds: ClassVar[bool] = True

    def problem(self):
        try:
            self._look(Census(self.sounds))
        except SpecError as error:
            return str(error)
        return None

    def _look(self, census):
        """Paths by name, and rate, length and channels of the first ones that can be read.

        Raises:
            SpecError: soundfile or the files are missing, or these have different rates.
        """
        lacks = headers.missing("soundfile", "audio")
        problem = f"{self.part_name}: {lacks}" if lacks else super().problem()
        if problem:
            raise SpecError(problem)
        found = dict(islice(self._named(census).items(), self.limit))
        first = [*filter(None, map(_header, islice(found.values(), _HEADERS)))]
        rates = Counter(rate for rate, _, _ in first)
        if not self.rate and len(rates) > 1:
            counted = ", ".join(f"{count} of {rate:,} Hz" for rate, count in rates.most_common(4))
            name = printable(self.spec_name())
            raise SpecError(
                f"{name}: files of different rates: {counted}. Resample them to one: "
                f"{{source: {name}, rate: {rates.most_common(1)[0][0]}}}."
            )
        return found, first

    def read_alike(self):
        try:
            _, found = self._look(Census(self.sounds))
        except SpecError:
            found = []
        return super().read_alike() | {"rate": self.rate or (found[0][0] if found else None)}

    def own_channels(self):
        found = map(_header, islice(self._named(Census(self.sounds)).values(), _HEADERS))
        return self._channels([*filter(None, found)])

    def image_shape(self):
        try:
            _, found = self._look(Census(self.sounds))
        except SpecError:
            return None
        lengths = sorted(self._length(rate, length) for rate, length, _ in found)
        shortest = lengths[int(self.max_unreadable * len(lengths)) :]
        shape = self._smallest([(1, length) for length in shortest])
        return shape and (*shape[:2], self.channels or self._channels(found))

    def open(self):
        census = Census(self.sounds)
        found, first = self._look(census)
        rate = self.rate or (first[0][0] if first else 0)

        def records(start):
            for name, path in islice(found.items(), start, None):
                yield name, _Sound(path, rate, bool(self.rate), self.mono, self.memory)

        return self._images(
            records,
            count=len(found),
            channels=self._channels(first),
            contents=lambda tell: self._contents(found, tell),
            threads=min(8, os.cpu_count() or 1),
            census=census,
            dtype="float32",
        )

    def _contents(self, found, tell):
        contents = of_files(os.path.expanduser(self.path), found, tell)
        return replace(contents, digest=digest(contents.digest, self.rate, self.mono))

    def _length(self, rate, length):
        return math.ceil(length * self.rate / rate) if self.rate else length

    def _channels(self, found):
        counts = Counter(channels for _, _, channels in found)
        return 1 if self.mono or not counts else counts.most_common(1)[0][0]


def _header(path):
    """Rate, length and channels of a sound file; None where unreadable."""
    import soundfile

    try:
        with headers.open_regular(path) as file, soundfile.SoundFile(file) as sound:
            return sound.samplerate, sound.frames, sound.channels
    except (UnreadableError, OSError, RuntimeError, ValueError, TypeError):
        return None


class _Sound:
    """A sound file that is decoded when it is called.

    Args:
        path: the file.
        rate: in Hz; 0 where none of the first files could be read.
        resampled: whether it is brought to that rate, instead of having it.
        mono: whether its channels become one.
        memory: megabytes that it may take.
    """

    def __init__(self, path, rate, resampled, mono, memory):
        self._path, self._rate, self._resampled = path, rate, resampled
        self._mono, self._memory = mono, memory
        self.before_decoding: Any = lambda size: None

    def __call__(self):
        """The sound as float32 (1, length, channels), full scale from -1 to 1.

        Raises:
            UnreadableError: it is broken, empty, too long, or has another rate.
        """
        import numpy as np
        import soundfile

        try:
            with headers.open_regular(self._path) as file:
                if not os.fstat(file.fileno()).st_size:
                    raise UnreadableError("an empty file")
                with soundfile.SoundFile(file) as sound:
                    rate = sound.samplerate
                    self._check(sound)
                    samples = sound.read(dtype="float32", always_2d=True)
        except FileNotFoundError:
            raise UnreadableError("file not found, or a broken link") from None
        except PermissionError:
            raise UnreadableError("no permission to read it") from None
        except (soundfile.SoundFileError, RuntimeError, OSError, ValueError) as error:
            words = getattr(error, "error_string", None) or headers.first_line(error)
            raise UnreadableError(f"broken or cut off ({words.rstrip('.')})") from None
        if self._mono:
            samples = samples.mean(axis=1, keepdims=True, dtype=np.float32)
        if self._rate and rate != self._rate:
            from scipy.signal import resample_poly

            shared = math.gcd(rate, self._rate)
            samples = resample_poly(samples, self._rate // shared, rate // shared, axis=0)
        if not len(samples):
            raise UnreadableError("it holds no sound")
        return np.ascontiguousarray(samples, np.float32)[None]

    def _check(self, sound):
        if self._rate and sound.samplerate != self._rate and not self._resampled:
            raise UnreadableError(
                f"its rate is {sound.samplerate:,} Hz, not {self._rate:,} Hz as of the others"
            )
        wider = max(1.0, self._rate / sound.samplerate)
        size = math.ceil(sound.frames * sound.channels * 4 * wider)
        if size > self._memory << 20:
            raise UnreadableError(
                f"too long: its {sound.frames:,} samples need {-(-size >> 20):,} MB, more than "
                f"memory ({self._memory:,} MB)"
            )
        self.before_decoding(2 * size)
