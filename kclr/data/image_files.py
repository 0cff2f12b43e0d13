"""Picture files to pixels, with PIL: every mode, depth and rotation, and every way to be broken."""

from kclr.data.pixels import UnreadableError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")

# Only these are tried, whatever a file is called: some of PIL's other readers start programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_TURNED = (5, 6, 7, 8)  # values of the EXIF orientation that swap height and width
_ORIENTATION = 0x0112


def decode(path):
    """Decode a picture's first frame, upright, laid on white where it is transparent.

    Returns:
        uint8 (height, width, 1) for gray pictures, else (height, width, 3) in RGB. 16-bit gray is
        scaled to 8 bits.

    Raises:
        UnreadableError: the file is empty, cut off, no picture, far too large, ...
    """
    from PIL import Image, ImageOps

    # PIL raises nearly every kind of exception on a broken file, struct.error to KeyError.
    try:
        with Image.open(path, formats=_FORMATS) as image:
            image.load()
            return _pixels(ImageOps.exif_transpose(image))
    except UnreadableError:
        raise
    except Exception as error:
        raise UnreadableError(_reason(path, error)) from None


def size(path) -> tuple[int, int] | None:
    """Height and width of an upright picture, from its header alone; None where unreadable."""
    from PIL import Image

    try:
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            # PIL decodes all of a PNG to look for EXIF data behind the pixels.
            headed = image.format != "PNG" or "exif" in image.info
            turned = headed and image.getexif().get(_ORIENTATION) in _TURNED
    except Exception:  # as in decode
        return None
    return (width, height) if turned else (height, width)


def _pixels(image):
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I"):
        pixels = np.asarray(image)
        if pixels.dtype != np.uint16:
            pixels = np.clip(pixels, 0, 65535).astype(np.uint16)
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)[..., None]
    transparent = "A" in image.mode.upper().replace("LAB", "") or "transparency" in image.info
    if transparent:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[..., None]
    return np.asarray(image.convert("RGB"))


def _reason(path, error):
    import os

    from PIL import Image, UnidentifiedImageError

    try:
        if os.path.getsize(path) == 0:
            return "an empty file"
    except OSError:
        pass
    if isinstance(error, UnidentifiedImageError):
        return "not a picture of a known format"
    if isinstance(error, Image.DecompressionBombError):
        return "far too many pixels"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, FileNotFoundError):
        return "gone, or a link that leads nowhere"
    if "truncated" in str(error):
        return "cut off"
    return f"broken ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
