"""The spectral contrastive loss (HaoChen et al. 2021): contrast in closed form.

Its best embeddings are the leading eigenvectors of the graph whose edges join patches of one crop.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from kclr.spec.registry import Part, register


def in_ball(embeddings, radius):
    """Embeddings, float (..., dimensions), those longer than `radius` scaled back to it."""
    from keras import ops

    squares = ops.sum(ops.square(embeddings), axis=-1, keepdims=True)
    outside = squares > radius**2
    return embeddings * ops.where(
        outside, radius * ops.rsqrt(ops.where(outside, squares, 1.0)), 1.0
    )


def positive_products(embeddings):
    """Mean inner product of two patches of a crop, over all pairs of them.

    Args:
        embeddings: float (crops, patches, dimensions), at least two patches.

    Returns:
        float (crops,).
    """
    from keras import ops

    views = embeddings.shape[1]
    of_sum = ops.sum(ops.square(ops.sum(embeddings, axis=1)), axis=-1)
    with_themselves = ops.sum(ops.square(embeddings), axis=(1, 2))
    return (of_sum - with_themselves) / (views * (views - 1))


def negative_squares(images, embeddings):
    """Sum of the squared inner products of patches of different images, over all ordered pairs.

    The sum over all pairs is that of the squares of the moments, (dimensions, dimensions) and not
    (patches, patches); the pairs within a crop are few. So where every crop is of its own image,
    and embeddings have fewer dimensions than there are patches, no pair is computed.

    Args:
        images: int (crops,), the image that each crop is from.
        embeddings: float (crops, patches, dimensions).

    Returns:
        float scalar.
    """
    from keras import ops

    views, dimensions = embeddings.shape[1:]
    fixed = ops.stop_gradient(embeddings)
    flat = ops.reshape(fixed, (-1, dimensions))

    def pair_by_pair():
        of_image = ops.repeat(images, views)
        products = ops.matmul(flat, ops.transpose(flat))
        products = ops.where(of_image[:, None] != of_image[None, :], products, 0.0)
        return ops.reshape(ops.matmul(products, flat), ops.shape(fixed))

    def by_moments():
        moments = ops.matmul(ops.transpose(flat), flat)
        within = ops.matmul(fixed, ops.transpose(fixed, (0, 2, 1)))
        return ops.reshape(ops.matmul(flat, moments), ops.shape(fixed)) - ops.matmul(within, fixed)

    # For each patch z the sum of (z.z-) z-, whose product with z is its part of the sum.
    if flat.shape[0] is not None and flat.shape[0] <= dimensions:
        sums = pair_by_pair()
    else:
        ordered = ops.sort(images)
        sums = ops.cond(ops.any(ordered[1:] == ordered[:-1]), pair_by_pair, by_moments)
    # It is of the fourth degree, so that the gradient is four times what it is with `sums` fixed.
    # (And XLA differentiates no branches within a function that is differentiated from outside.)
    total = ops.sum(embeddings * ops.stop_gradient(sums))
    return 4 * total - 3 * ops.stop_gradient(total)


def prepared(name, embeddings, radius):
    """The embeddings of an objective of inner products, in float32 at least.

    Args:
        name: of the objective.
        embeddings: float (crops, patches, dimensions). radius: float, or None.

    Raises:
        ValueError: there is one patch in a crop.
    """
    from keras import backend, ops

    if embeddings.shape[1] < 2:
        raise ValueError(f"{name} needs at least two patches per crop")
    embeddings = ops.cast(embeddings, backend.result_type(embeddings.dtype, "float32"))
    return in_ball(embeddings, radius) if radius else embeddings


def cures_within(radius):
    """What to try after a collapse of such an objective."""
    return ("embedding.standardize: true", *(() if radius else ("radius: 1",)))


@register("objective", "spectral")
class Spectral(Part):
    """Patches of a crop have a large inner product, patches of other images one near zero."""

    radius: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Longer embeddings are scaled to this length; the authors use the square root of a small
    number. Not limited by default."""

    statistics: ClassVar[tuple[str, ...]] = ("positive_product", "negative_square", "alike_loss")
    ceiling: ClassVar[None] = None  # depends on the embeddings' length: see alike_loss

    @property
    def cures(self) -> tuple[str, ...]:
        """What to try after a collapse."""
        return cures_within(self.radius)

    def __call__(self, images, embeddings):
        """Loss and statistics of a batch of crops.

        Args:
            images: int (crops,), the image that each crop is from.
            embeddings: float (crops, patches, dimensions), at least two patches.

        Returns:
            loss: float scalar, `-2 E[z.z+] + E[(z.z-)^2]` (HaoChen et al. 2021, section 3.2), with
            z+ the other patches of a crop and z- those of other images.
            statistics: dict of float scalars: positive_product and negative_square, the two
            expectations, and alike_loss, the loss of equal embeddings of the same mean square
            length.
        """
        from keras import ops

        embeddings = prepared("spectral", embeddings, self.radius)
        views = embeddings.shape[1]
        images = ops.cast(images, "int32")
        others = ops.cast(images[:, None] != images[None, :], embeddings.dtype)
        pairs = views**2 * ops.sum(others)
        positive = ops.mean(positive_products(embeddings))
        negative = negative_squares(images, embeddings) / ops.maximum(pairs, 1.0)
        square_length = ops.mean(ops.sum(ops.square(embeddings), axis=-1))
        some = ops.cast(pairs > 0, embeddings.dtype)
        return negative - 2 * positive, {
            "positive_product": positive,
            "negative_square": negative,
            "alike_loss": some * ops.square(square_length) - 2 * square_length,
        }
