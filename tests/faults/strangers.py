"""Damaged and hostile files: runs, checkpoints, experiments and pictures, and all who read them.

A case damages one or two files of a directory and lets a command or a function read it. Right is
an answer as that of the undamaged directory, or an error in words: never a traceback, a hang, or
memory without end; and filters that are not the saved ones are never taken in silence.
"""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import tempfile
import traceback
import warnings
import zipfile
from pathlib import Path

import numpy as np
from damage import ODD, damage

from kclr.errors import RunError, SpecError

SLOW = 100  # seconds that a reader may take, on a busy machine
RARELY = 40  # a reader that takes seconds gets one in so many cases
PREFIX = "kclr-strangers-"
BOMB = 1 << 31  # bytes that a bomb unpacks to
OFTEN = {"train": 60, "interrupted": 8, "transfer": 8, "search": 6, "pictures": 18}
PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


class Strangers:
    """Cases by their numbers.

    Args:
        ends: a directory with the ends of the works `train`, `transfer` and `search`, and of
            `interrupted`, a training with a checkpoint, or of some of them.
    """

    def __init__(self, ends):
        self._place = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getppid()}-"))
        self._bases = {}
        for name in (name for name in OFTEN if (Path(ends) / name).is_dir()):
            shutil.copytree(Path(ends) / name, self._place / name, symlinks=True)
            self._bases[name] = _files(self._place / name / "out")
        _pictures(self._place / "pictures")
        self._bases["pictures"] = _files(self._place / "pictures")
        os.chdir(self._place)
        warnings.simplefilter("ignore")

    def close(self):
        """Remove what the cases are made from."""
        shutil.rmtree(self._place, ignore_errors=True)

    def case(self, number) -> str | None:
        """What is wrong with how damaged files were read: nothing, or words, or a trace."""
        choice = random.Random(number)
        base = choice.choices(list(self._bases), [OFTEN[name] for name in self._bases])[0]
        files = self._bases[base]
        chosen = {choice.choice(_weighted(files)) for _ in range(choice.choice((1, 1, 1, 2)))}
        kept = {path: path.read_bytes() for path in chosen}
        did, differing = [], False
        try:
            for path in sorted(chosen):
                before = _kernel(path)
                way = hostile(path, choice) if choice.random() < 0.25 else damage(path, choice)
                did.append(f"{path.relative_to(self._place)}: {way}")
                differing |= before is not None and not _alike(before, _kernel(path))
            read = choice.choice(READERS[base])
            if read in RARE and choice.randrange(RARELY):
                read = _show if base in ("train", "interrupted") else _report
            if read in OF_FIRST and not any("/01-" in str(path) for path in chosen):
                differing = False
            wrong = _judged(read, self._place / base, choice, differing)
        finally:
            for path, content in kept.items():
                _put(path, content)
        return f"{wrong}\n{read.__name__.strip('_')} after {'; '.join(did)}" if wrong else None


def _judged(read, place, choice, differing):
    """Let somebody read, and say what is wrong with the answer."""
    said = io.StringIO()

    def late(*_):
        raise TimeoutError(f"still at it after {SLOW} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SLOW)
    status, told = 0, ""
    try:
        with (
            warnings.catch_warnings(record=True) as warned,
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            warnings.simplefilter("always")
            status = read(place, choice) or 0
        told = " ".join(str(own.message) for own in warned)
    except (SpecError, RunError) as error:
        status, told = 1, str(error)
    except SystemExit as end:
        status = end.code
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    words = said.getvalue() + told
    if status not in (0, 1, 2):
        return f"status {status}: {words[-300:]}"
    if "Traceback (most" in words:
        return words[words.index("Traceback") :]
    if "\x1b" in words or "\0" in words:
        return f"a terminal's control characters: {words[:300]!r}"
    if differing and status == 0 and "kernel.npy" not in words:
        return "other filters than the saved ones, and nobody was told"
    return None


def _main(*words):
    from kclr.cli import main

    return main([str(word) for word in words])


def _show(place, choice):
    return _main("show", place / "out", *(["--json"] if choice.random() < 0.5 else []))


def _report(place, choice):
    try:
        return _main("report", place / "out", "--out", "page.html")
    finally:
        Path("page.html").unlink(missing_ok=True)


def _initializer(place, choice):
    import kclr

    kernel = kclr.load_run(place / "out").layers[0].kernel
    shape = tuple(map(int, kernel.shape))
    kclr.initializers.ContrastiveKernel(str(place / "out"))(shape)


def _layers(place, choice):
    import kclr

    run = kclr.load_run(place / "out")
    for layer in run.layers:
        _ = layer.name, layer.block, layer.kernel.shape, layer.bias.shape, layer.history()
    _ = run.summary, run.resolved, repr(run)


def _verify(place, choice):
    from kclr.cli import COMMANDS

    return _main("verify", place / "out") if "verify" in COMMANDS else _show(place, choice)


def _export(place, choice):
    try:
        return _main("export", place / "out", "--out", "exported", "--layers", "1")
    finally:
        shutil.rmtree("exported", ignore_errors=True)


def _resume(place, choice):
    kept = place.with_name("kept")
    shutil.copytree(place, kept, symlinks=True, copy_function=_copy)
    try:
        return _main("train", place / "spec.yaml", "--out", kept / "out", "--resume")
    finally:
        shutil.rmtree(kept, ignore_errors=True)


def _start(place, choice):
    """The filters as the start of a transfer experiment."""
    from kclr.transfer.checks import load_transfer

    spec = Path("transfer.yaml")
    spec.write_text("data: digits\narms: [kclr frozen]\n", encoding="utf-8")
    load_transfer(spec, [f"pretrained={place / 'out'}"])
    _layers(place, choice)


def _training_images(place, choice):
    from kclr.data.sources import as_images, source

    found = source(f"folder:{place}")
    if problem := found.problem():
        raise SpecError(problem)
    found.image_shape()
    images = as_images(found)
    for _, decode in images.records(0):
        with contextlib.suppress(SpecError, _unreadable()):
            decode()


def _unreadable():
    from kclr.data.pixels import UnreadableError

    return UnreadableError


def _check(place, choice):
    spec = Path("check.yaml")
    spec.write_text(f"data: 'folder:{place}'\nstack: [{{}}]\n", encoding="utf-8")
    return _main("check", spec)


READERS = {
    "train": (
        _show, _show, _report, _report, _initializer, _initializer, _layers, _layers, _verify,
        _verify, _start, _export, _resume,
    ),
    "interrupted": (_show, _layers, _verify, _resume, _resume, _resume),
    "transfer": (_report,),
    "search": (_report,),
    "pictures": (_training_images, _training_images, _check),
}  # fmt: skip
OF_FIRST = (_initializer, _export)  # they read the first layer alone
RARE = (_export, _resume)


def hostile(path, choice) -> str:
    """Put something made to harm in a file's place.

    Returns:
        What it is, in words.
    """
    ways = [_brackets, _garbage, _long_line]
    if path.suffix in (".npy", ".npz"):
        ways = [_header, _header, _zip_bomb, _garbage]
    elif path.suffix in (".png", ".jpg", ".webp", ".gif", ".bmp", ".tif"):
        ways = [_vast_picture, _other_format, _garbage]
    elif path.suffix in (".json", ".jsonl"):
        ways = [_brackets, _numbers, _odd, _long_line, _many]
    way = choice.choice(ways)
    way(path, choice)
    return way.__name__.strip("_").replace("_", " ")


def _brackets(path, choice):
    path.write_text(choice.choice("[{") * choice.choice((500, 100_000)), encoding="utf-8")


def _numbers(path, choice):
    digits = choice.choice(("9" * 5000, "1e999", "-1e999", "NaN", "-0", "0x10"))
    path.write_text(f'{{"name": {digits}, "block": {digits}, "layers": [{digits}]}}')


def _odd(path, choice):
    path.write_text(json.dumps(choice.choice(ODD)), encoding="utf-8")


def _many(path, choice):
    path.write_text('{"layers": [' + "{}," * 200_000 + "{}]}", encoding="utf-8")


def _long_line(path, choice):
    path.write_bytes(b"x" * 20_000_000)


def _garbage(path, choice):
    path.write_bytes(choice.randbytes(choice.choice((1, 100, 100_000))))


def _header(path, choice):
    """An array that says it is larger than any memory, or of a kind that is none."""
    shape = choice.choice(("(1000000, 1000000, 3, 8)", "(-1, 5)", "()", "(5, 5, 3, 0)", "(1e9,)"))
    kind = choice.choice(("<f4", "|O", "<f8", "|V9", "<U9", ">i2"))
    words = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    words = words.ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(words).to_bytes(2, "little") + words.encode() + bytes(600)
    if path.suffix == ".npy":
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("step.npy", content)


def _zip_bomb(path, choice):
    """A checkpoint that is a megabyte and unpacks to gigabytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        words = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({BOMB // 4},), }}"
        words = words.ljust(117) + "\n"
        with file.open("0000.npy", "w", force_zip64=True) as inside:
            inside.write(b"\x93NUMPY\x01\x00" + len(words).to_bytes(2, "little") + words.encode())
            block = bytes(1 << 24)
            for _ in range(16):  # and the rest is missing, which costs the harness no time
                inside.write(block)


def _vast_picture(path, choice):
    """A picture of a few kilobytes with very many pixels."""
    import struct
    import zlib

    side = choice.choice((30_000, 9_000, 2**31 - 1))

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    packed = zlib.compress(bytes(10_000_000), 1)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


def _other_format(path, choice):
    from PIL import Image

    kind = choice.choice(("PPM", "ICO", "TGA", "PDF", "EPS", "TIFF"))
    with contextlib.suppress(OSError, ValueError):
        Image.new(choice.choice(("RGB", "L")), (40, 40)).save(path, format=kind)


def _pictures(folder):
    from PIL import Image

    folder.mkdir()
    choice = np.random.default_rng(0)
    for index, kind in enumerate(PICTURES * 2):
        pixels = choice.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).convert("RGB" if index < len(PICTURES) else "L")
        ending = {"JPEG": "jpg", "TIFF": "tif"}.get(kind, kind.lower())
        image.save(folder / f"{index:02d}.{ending}", format=kind)


def _files(folder):
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]


def _weighted(files):
    """Files, those that are read as numbers or words more often than exports and drawings."""
    data = [p for p in files if p.suffix in (".npy", ".npz", ".json", ".jsonl", ".csv", ".yaml")]
    return data * 4 + files


def _kernel(path):
    """The array of a kernel or bias that can be read, else None."""
    if path.name != "kernel.npy" or not path.is_file() or path.stat().st_size > 1 << 20:
        return None
    with contextlib.suppress(Exception):
        return np.load(path, allow_pickle=False)
    return None


def _alike(one, other):
    # What cannot be read any more is refused, which is no wrong number.
    return other is None or (
        one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()
    )


def _put(path, content):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _copy(source, target):
    # A pipe would be waited for; it goes along as what it is.
    if Path(source).is_fifo():
        os.mkfifo(target)
        return target
    return shutil.copy2(source, target)
