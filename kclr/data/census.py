"""Which files below a folder are pictures or sounds, which are ignored; warnings about both."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kclr.data import image_files, medical_files
from kclr.spec.wording import printable

# Pictures in formats that are not read: a folder may hold nothing else, and seem nearly empty.
_OTHER_PICTURES = frozenset(
    """
    .3fr .ai .arw .bpg .cr2 .cr3 .crw .czi .dcm .dds .dicom .djvu .dng .ecw .emf .eps .erf .exr .fit
    .fits .fts .hdr .heic .heics .heif .hif .icns .iiq .img .jls .jng .jp3 .jxl .jxr .kdc .lsm
    .mha .mhd .mng .mrxs .nd2 .ndpi .nef .nii .nii.gz .nrrd .nrw .oib .oif .orf .pef .pfm .pic
    .psb .psd .ptif .raf .raw .rw2 .scn .sid .sr2 .srf .srw .svg .svgz .svs .vsi .wdp .wmf .x3f
    .xcf
    """.split()  # noqa: SIM905
)
SOUNDS = frozenset(
    ".wav .wave .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .snd .caf .w64 .rf64".split()  # noqa: SIM905
)
# What lies beside pictures; not worth opening to see whether it is one.
_NO_PICTURES = frozenset(
    """
    .7z .avi .bak .bin .bz2 .c .cfg .cfm .conf .cpp .css .csv .dat .db .doc .docx .ds_store .gz
    .h .h5 .hdf5 .htm .html .ico .ini .ipynb .js .json .jsonl .keras .lnk .log .mat .md .md5
    .mkv .mov .mp3 .mp4 .mpg .npy .npz .parquet .pb .pdf .pickle .pkl .pt .pth .py .pyc .rar
    .rst .rtf .sh .sha256 .sqlite .tar .tfrecord .tgz .tmp .toml .tsv .txt .url .wav .webm .xls
    .xlsx .xml .xmp .xz .yaml .yml .zip
    """.split()  # noqa: SIM905
)
_HIDDEN, _BARE, _NOT_FILES = "hidden", "without ending", "not a regular file"
_LONGEST_ENDING = 10
_NAMED = 3  # places that a message names
_SPECIAL = ("/proc", "/sys", "/dev")  # reading there may never end, or do something


@dataclass
class Census:
    """The files found below a folder.

    Attributes:
        sounds: whether files of sound are looked for, and not pictures.
        used: number of pictures by ending in lower case, as ".png", or "without ending".
        left_out: number of other files by ending, with "hidden" and "not a regular file".
        closed: folders whose files cannot be listed.
        several: how many of the first files have several pages, of which only the first is used.
    """

    sounds: bool = False
    used: Counter = field(default_factory=Counter)
    left_out: Counter = field(default_factory=Counter)
    closed: list[str] = field(default_factory=list)
    several: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values: {"used": {".png": 5}, "left_out": {".txt": 1}, "closed": []}."""
        return {
            "used": dict(self.used.most_common()),
            "left_out": dict(self.left_out.most_common()),
            "closed": self.closed,
        }

    def __str__(self):
        """In a line: `35 pictures (30 .tif, 5 .png); left out: 2 .txt`."""
        count = self.used.total()
        text = f"{count} {'sound file' if self.sounds else 'picture'}{'s' * (count != 1)}"
        text += f" ({_counted(self.used)})" if count else ""
        if self.left_out:
            text += f"; left out: {_counted(self.left_out)}"
        if self.closed:
            text += f"; folders that cannot be listed: {len(self.closed)}"
        return text

    def warnings(self) -> list[str]:
        """Warnings before a training, each with its cure."""
        found = [] if self.sounds else self._of_formats()
        noun = "sound files" if self.sounds else "pictures"
        if self.several:
            found.append(
                f"files with several pages, of which only the first is used: {self.several}. Use "
                "the option pages: channels or pages: pictures to use all"
            )
        if self.left_out[_NOT_FILES]:
            found.append(
                f"{self.left_out[_NOT_FILES]} left out that are named like {noun} but are "
                "pipes, devices or sockets"
            )
        if self.closed:
            more = f" and {len(self.closed) - _NAMED} more" if len(self.closed) > _NAMED else ""
            found.append(
                f"{', '.join(self.closed[:_NAMED])}{more} cannot be listed, so {noun} in them "
                "are left out. Change the permissions to use them"
            )
        return found

    def _of_formats(self):
        """Warnings about formats that are not read."""
        strange = Counter(
            {
                ending: count
                for ending, count in self.left_out.items()
                if ending not in _NO_PICTURES and ending not in (_HIDDEN, _NOT_FILES)
            }
        )
        found = self.lacking()
        unread = {e: n for e, n in strange.items() if e in _OTHER_PICTURES}
        pictures = Counter({e: n for e, n in unread.items() if not medical_files.lacks(e)})
        if pictures:
            found.append(
                f"{_counted(pictures)} left out: image formats that are not supported. Convert "
                "them to PNG or JPEG to use them"
            )
        elif not unread and strange.total() > self.used.total():
            found.append(
                f"{_counted(strange)} left out, and only {self.used.total()} used: they are not "
                "in a known image format. If they are pictures, convert them to PNG or JPEG"
            )
        return found

    def lacking(self) -> list[str]:
        """For files that are left out because a package is not installed: how to install it."""
        found = ((ending, medical_files.lacks(ending)) for ending in self.left_out)
        return [
            f"{self.left_out[ending]} {ending} left out: {words}"
            for ending, words in found
            if words
        ]


def _counted(counts):
    """`30 .tif, 5 .png`, the most frequent first."""
    common = counts.most_common(6)
    rest = counts.total() - sum(count for _, count in common)
    named = [f"{count} {ending}" for ending, count in common]
    return ", ".join([*named, f"{rest} others"] if rest else named)


def files(root, census: Census) -> Iterator[str]:
    """Paths of all pictures below a folder, hidden ones left out; or of all sounds.

    Links are followed, but each folder is entered only once. A regular file is a picture if it has
    a picture's ending, or an unknown ending or none and starts like a picture. A sound is told by
    its ending alone.

    Args:
        root: the folder.
        census: counts every file.
    """
    special = _special(root)
    seen = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen or status.st_dev in special:
                continue
            with os.scandir(folder) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError:
            census.closed.append(printable(os.path.relpath(folder, root)))
            continue
        seen.add((status.st_dev, status.st_ino))
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                census.left_out[_HIDDEN] += 1
            elif _is_folder(entry):
                folders.append(entry.path)
            elif _is_used(entry, census):
                yield entry.path
        waiting += reversed(folders)


def _is_used(entry, census):
    """Whether a file is used, by its name or its first bytes; it is counted in any case."""
    ending = _ending(entry.name)
    called = ending in (SOUNDS if census.sounds else image_files.EXTENSIONS)
    called = called and not medical_files.lacks(ending)
    try:
        status = entry.stat()
    except OSError:  # a dangling link: it is counted when it cannot be read
        census.used[ending] += called
        return called
    if not stat.S_ISREG(status.st_mode):
        census.left_out[_NOT_FILES] += called
        return False
    known = census.sounds or called or ending in _NO_PICTURES or ending in _OTHER_PICTURES
    if called or (not known and status.st_size and image_files.is_picture(entry.path)):
        census.used[ending] += 1
        return True
    census.left_out[ending] += 1
    return False


def _ending(name):
    if name.lower().endswith(".nii.gz"):
        return ".nii.gz"
    ending = os.path.splitext(name)[1].lower()
    plain = ending[1:].replace("_", "").isalnum() and len(ending) <= _LONGEST_ENDING
    return ending if plain and ending.isascii() else _BARE


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def _special(root):
    """Devices of file systems without user files, unless `root` itself is on one."""
    found: set[int] = set()
    for place in (*_SPECIAL, root):
        try:
            device = os.stat(place).st_dev
        except OSError:
            continue
        found = found - {device} if place == root else found | {device}
    return found
