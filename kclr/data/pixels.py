"""One picture's numbers: any type and number of channels to uint8, and large ones into tiles."""


class UnreadableError(Exception):
    """A picture that cannot be used; the message is the reason, in a few words."""


def to_channels(image, channels):
    """A picture of any number type and channels as uint8 (height, width, channels).

    Args:
        image: (height, width) or (height, width, 1 to 4): gray, gray and alpha, RGB, or RGB and
            alpha. Whole numbers up to 255 (uint16: up to 65535) or floats in [0, 1].
        channels: 1 or 3. Alpha is laid on white; gray of RGB is ITU-R 601 luma.
    """
    import numpy as np

    image = np.asarray(image)
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[-1] not in (1, 2, 3, 4) or 0 in image.shape:
        raise UnreadableError(f"its shape {image.shape} is not (height, width, 1 or 3 channels)")
    image = _to_uint8(image)
    if image.shape[-1] in (2, 4):
        alpha = image[..., -1:].astype(np.uint32)
        image = ((image[..., :-1] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    if image.shape[-1] == 1 and channels == 3:
        return np.repeat(image, 3, axis=-1)
    if image.shape[-1] == 3 and channels == 1:
        # The integer weights of PIL's own conversion to gray.
        luma = image.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32) + 0x8000
        return (luma >> 16).astype(np.uint8)[..., None]
    return image


def _to_uint8(image):
    import numpy as np

    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.dtype == bool:
        return image.astype(np.uint8) * 255
    if image.dtype.kind not in "iuf":
        raise UnreadableError(f"its numbers are of type {image.dtype}")
    low, high = image.min(), image.max()
    if image.dtype.kind == "f":
        if not (low >= 0 and high <= 1):  # so written, NaN is refused too
            raise UnreadableError(f"its values go from {low:g} to {high:g}, not from 0 to 1")
        return (image * 255 + 0.5).astype(np.uint8)
    if low < 0 or high > 255:
        raise UnreadableError(f"its values go from {low} to {high}, not from 0 to 255")
    return image.astype(np.uint8)


def tiles(image, size) -> list:
    """Cut a (height, width, channels) image into tiles of `size` px; what is left over is dropped.

    A side shorter than `size` stays whole. `size` None leaves the image as it is.
    """
    if size is None:
        return [image]
    height, width = (min(size, side) for side in image.shape[:2])
    return [
        image[top : top + height, left : left + width]
        for top in range(0, image.shape[0] - height + 1, height)
        for left in range(0, image.shape[1] - width + 1, width)
    ]
