"""What a step draws, as functions of its number: images, positions, and windows.

All of it is vectorised over a batch, and nothing has a state, so a pipeline starts at any step. The
spec's checks import this file too, so TensorFlow is imported where it is used.
"""

_TURNED, _LABELLED = 1 << 40, 1 << 41  # for random numbers of another seed


def uniform(seed, step, stream, shape):
    """Random numbers in [0, 1) that depend on nothing but seed, step and stream.

    Args:
        seed: int in [0, 2^63).
        step: int64 scalar.
        stream: 0, 1, or 2 for a third time, to draw apart in a step.
        shape: shape of the result.

    Returns:
        float32 of that shape.
    """
    import tensorflow as tf

    # The first two are as they always were, so that runs can be repeated.
    step = 2 * step + stream if stream < 2 else -step - 1
    key = tf.stack([tf.constant(seed, tf.int64), step])
    # The default generator may be another one on another device.
    return tf.random.stateless_uniform(shape, key, dtype=tf.float32, alg="philox")


def below(random, bound):
    """Whole numbers from 0 up to, not including, `bound`, from uniform numbers in [0, 1).

    Args:
        random: float32.
        bound: int32 of a shape that broadcasts, 1 or more.

    Returns:
        int32.
    """
    import tensorflow as tf

    bound = tf.convert_to_tensor(bound, tf.int32)
    # The product can be rounded up to the bound itself.
    drawn = tf.cast(random * tf.cast(bound, tf.float32), tf.int32)
    return tf.minimum(drawn, bound - 1)


def select_images(seed, step, chunk, batch_size, count):
    """The images of a step: the next `batch_size` of an endless row of permutations of them all.

    Where there are more images than a batch has, each permutation is cut to whole batches, so that
    all images of a batch are different. Any place of a permutation can be asked for by itself.

    Args:
        seed: int in [0, 2^63).
        step: int64 scalar, counted within the chunk.
        chunk: int64 scalar, which makes the permutations of each chunk different ones.
        batch_size: int.
        count: int64 scalar, images to choose from.

    Returns:
        int64 (batch_size,), each from 0 to count - 1.
    """
    import tensorflow as tf

    used = tf.where(count >= batch_size, count // batch_size * batch_size, count)
    place = step * batch_size + tf.range(batch_size, dtype=tf.int64)
    same = tf.zeros_like(place)
    seeds = tf.stack([same + seed, place // used, same + chunk], axis=1)
    return tf.raw_ops.RandomIndexShuffle(
        index=place % used, seed=seeds, max_index=count - 1, rounds=4
    )


def other_images(images, random):
    """For each crop of a batch, the place of a crop of another image, each as likely as the next.

    Args:
        images: int64 (batch,), the crops' images; at least two different ones.
        random: float32 (batch,), uniform in [0, 1).

    Returns:
        int32 (batch,), places in the batch.
    """
    import tensorflow as tf

    order = tf.argsort(images, stable=True)
    in_order = tf.gather(images, order)
    first = tf.searchsorted(in_order, images, side="left")
    own = tf.searchsorted(in_order, images, side="right") - first
    drawn = below(random, tf.size(images) - own)
    return tf.gather(order, tf.where(drawn < first, drawn, drawn + own))


def gather_windows(pixels, corners, widths, size):
    """Cut a window out of each of many images.

    Args:
        pixels: (pixels, channels) of any type, all images row by row, one behind the other.
        corners: int32 or int64 (windows,), where in `pixels` a window's first pixel is.
        widths: same type (windows,), of the windows' images, px.
        size: (height, width) of the windows, px.

    Returns:
        (windows, height, width, channels), of the same type.
    """
    import tensorflow as tf

    down, right = (tf.range(side, dtype=corners.dtype) for side in size)
    rows = corners[:, None] + widths[:, None] * down
    return tf.gather(pixels, rows[:, :, None] + right)


def neighbours(windows, stride):
    """All ordered pairs of windows of a grid that lie next to each other, diagonally too.

    Args:
        windows: int (windows, 2), y and x of the corners.
        stride: (y, x), px between neighbouring windows.

    Returns:
        int32 (pairs, 2), numbers of windows.
    """
    import numpy as np

    apart = (np.abs(windows[:, None] - windows[None]) // np.asarray(stride)).max(axis=-1)
    return np.argwhere(apart == 1).astype(np.int32)


def shifted_pairs(random, patch_size, crop_size, max_shift):
    """Two windows of each crop that lie up to `max_shift` px apart on each axis, not in one place.

    All shifts are as likely, and so are all places of the pair in the crop.

    Args:
        random: float32 (3, crops), uniform in [0, 1).
        patch_size, crop_size, max_shift: (height, width), px.

    Returns:
        int32 (2, crops, 2): corners (y, x) of anchors and of positives.
    """
    import tensorflow as tf

    rows, columns = (2 * side + 1 for side in max_shift)
    number = below(random[0], rows * columns - 1)
    number += tf.cast(number >= rows * columns // 2, tf.int32)  # the middle is no shift at all
    shift = tf.stack([number // columns, number % columns], axis=-1) - tf.constant(max_shift)
    room = tf.constant(crop_size) - tf.constant(patch_size) - tf.abs(shift) + 1
    place = below(tf.transpose(random[1:]), room)
    return tf.stack([place + tf.maximum(-shift, 0), place + tf.maximum(shift, 0)])


def quarter_turns(seed, step, batch_size):
    """How many quarter turns each crop of a step is turned by: int32 (batch_size,), 0 to 3."""
    return below(uniform(seed ^ _TURNED, step, 0, (batch_size,)), 4)


def turned(pictures, turns):
    """Pictures after some quarter turns to the left, as by `numpy.rot90`.

    Args:
        pictures: (crops, ..., side, side, channels).
        turns: int32 (crops,), 0 to 3.

    Returns:
        of the same shape.
    """
    import tensorflow as tf

    axes = [*range(pictures.shape.rank)]
    axes[-3], axes[-2] = axes[-2], axes[-3]
    turns = tf.reshape(turns, [-1] + [1] * (len(axes) - 1))
    made = tf.where(turns % 2 == 1, tf.transpose(pictures, axes), pictures)
    made = tf.where((turns == 1) | (turns == 2), tf.reverse(made, [len(axes) - 3]), made)
    return tf.where(turns >= 2, tf.reverse(made, [len(axes) - 2]), made)


def with_labelled(rows, labels, drawn, seed, step, chunk):
    """The rows of a step, the first of them replaced by as many with a label, behind the others.

    Args:
        rows: int64 (batch,). labels: int32 (all rows,), -1 for none.
        drawn: int, how many have a label; the rows stay if there is none to draw.
        seed, step, chunk: as of `select_images`.

    Returns:
        int64 (batch,).
    """
    import tensorflow as tf

    known = tf.where(labels >= 0)[:, 0]
    count = tf.size(known, tf.int64)
    chosen = select_images(seed ^ _LABELLED, step, chunk, drawn, tf.maximum(count, 1))
    # One more, so that there is something to look up.
    found = tf.where(count > 0, tf.gather(tf.concat([known, [0]], 0), chosen), rows[:drawn])
    return tf.concat([rows[drawn:], found], 0)
