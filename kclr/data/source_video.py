"""`video:PATH`: the frames of a video file, or of all below a directory, with PyAV."""

import os
from dataclasses import replace
from itertools import islice
from typing import Annotated, ClassVar

from pydantic import Field

from kclr.data import headers
from kclr.data.fingerprints import digest, of_files
from kclr.data.pixels import UnreadableError
from kclr.data.sources import Source
from kclr.errors import SpecError
from kclr.spec.registry import register
from kclr.spec.wording import printable

ENDINGS = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")


@register("source", "video")
class Video(Source):
    """The frames of a video file, or of all those in a directory and its subfolders: MP4, MOV, MKV,
    WebM, AVI, GIF and more (needs `pip install 'kclr[video]'`). Each film is a sequence of
    `patches.alike: moments`."""

    path: str = Field(exclude=True)
    """A video file, or a directory."""
    every: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Use only every so many frames of a film."""
    frames: Annotated[int, Field(ge=1)] | None = None
    """Use at most so many frames of each film, the first ones; all by default."""

    argument: ClassVar[str | None] = "path"

    def problem(self):
        if lacks := headers.missing("av", "video"):
            return f"{self.part_name}: {lacks}"
        name = printable(self.path)
        if not os.path.exists(os.path.expanduser(self.path)):
            return f"{name}: no such file or folder. Check the path."
        if not self._films():
            kinds = ", ".join(ending[1:] for ending in ENDINGS)
            return f"{name}: no videos in this folder or below it. Add some ({kinds})."
        sizes = map(_size, self._films().values())
        if not any(sizes):
            return (
                f"{name}: none of its {len(self._films())} videos can be decoded. Convert them, as "
                "in ffmpeg -i FILE film.mp4, or check that they are videos."
            )
        return None

    def image_shape(self):
        if self.problem():
            return None
        return self._smallest([*filter(None, map(_size, self._films().values()))])

    def place(self):
        path = os.path.expanduser(self.path)
        return path if os.path.isdir(path) else None

    def open(self):
        problem = self.problem()
        if problem:
            raise SpecError(problem)
        films = self._films()

        def records(start):
            every = (
                (f"{name}/{number:06}", load)
                for name, path in films.items()
                for number, load in self._frames(path)
            )
            return islice(every, start, None)

        def contents(tell):
            found = of_files(os.path.expanduser(self.path), films, tell)
            return replace(found, digest=digest(found.digest, self.every, self.frames))

        return self._images(records, count=None, channels=3, contents=contents)

    def _films(self) -> dict[str, str]:
        """The paths of the videos by name, in order."""
        root = os.path.expanduser(self.path)
        if not os.path.isdir(root):
            return {printable(os.path.basename(root)): root}
        found = [
            os.path.join(folder, name)
            for folder, _, names in os.walk(root)
            for name in names
            if name.lower().endswith(ENDINGS) and not name.startswith(".")
        ]
        return {printable(os.path.relpath(path, root)): path for path in sorted(found)}

    def _frames(self, path):
        """Number and decoding call of each frame that is used, until one cannot be decoded."""
        import av

        try:
            with headers.open_regular(path) as file, av.open(file) as film:
                decoded = islice(film.decode(video=0), 0, None, self.every)
                for number, frame in enumerate(islice(decoded, self.frames)):
                    yield number, lambda frame=frame: frame.to_ndarray(format="rgb24")
        except (av.FFmpegError, OSError, ValueError, IndexError, UnreadableError) as error:
            reason = getattr(error, "strerror", None) or headers.first_line(error)
            words = f"cannot be decoded further ({reason})"

            def broken():
                raise UnreadableError(words)

            yield 999_999, broken


def _size(path):
    """Height and width of a film's frames; None where it cannot be decoded."""
    import av

    try:
        with headers.open_regular(path) as file, av.open(file) as film:
            frame = next(film.decode(video=0))
            return frame.height, frame.width
    except (av.FFmpegError, OSError, ValueError, IndexError, StopIteration, UnreadableError):
        return None
