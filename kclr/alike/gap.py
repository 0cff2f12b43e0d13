"""Gap: windows that lie next to each other without touching (Doersch et al. 2015).

"Unsupervised visual representation learning by context prediction", section 3: a 3x3 grid of
windows with a gap between them, each moved a little, so that neither lines that go on from one
window into the next nor equal distances give the answer away (section 3.1).
"""

from typing import Annotated, ClassVar, Literal

from kclr.alike import Notion
from kclr.spec.registry import register
from kclr.spec.values import Pair, Sides, Size, axes, each_axis, pair, short

_MOST = 9  # windows of the grid
_JITTER = 7 / 96  # of a patch, as Doersch et al. have it


@register("alike", "gap")
class Gap(Notion):
    """A window and its neighbours in a 3x3 grid, which do not touch; the middle one comes first.

    Of series, and along an axis on which patches are 1, there are the one before and the one
    after.
    """

    gap: Annotated[Size, Sides(1, 65536, least=0)] | None = None
    """Distance between the edges of two neighbouring windows; by default half of the patch."""
    jitter: Annotated[Size, Sides(0, 65536, least=0)] | None = None
    """Each window is moved at random by up to this much on each axis; less than half of the gap. By
    default 7/96 of the patch."""
    neighbours: Literal["all", "one"] = "all"
    """Cut the middle window and all of its neighbours, or one of these, drawn at random. The
    objective `position` needs all."""

    smaller: ClassVar[str] = "a smaller patch_size or gap"
    draws: ClassVar[int] = 2 * _MOST + 1

    def fitted(self, patch: Size) -> "Gap":
        gap, jitter = self._sizes(patch)
        return self.model_copy(update={"gap": gap, "jitter": jitter})

    def _sizes(self, patch: Size) -> tuple[Size, Size]:
        """Gap and jitter on the axes along which there are several windows."""
        half = each_axis(lambda side: (side + 1) // 2, patch)
        gap = each_axis(_where_many, half if self.gap is None else self.gap, patch)
        part = each_axis(
            lambda side, own: max(0, min(round(side * _JITTER), (own - 1) // 2)), patch, gap
        )
        jitter = each_axis(_where_many, part if self.jitter is None else self.jitter, patch)
        return short(*gap), short(*jitter)

    def in_pixels(self, jump: Pair) -> "Gap":
        scaled = {
            key: short(*each_axis(lambda own, step: own * step, getattr(self, key) or 0, jump))
            for key in ("gap", "jitter")
        }
        return self.model_copy(update=scaled)

    def problems(self, patch: Size):
        for where, side, gap, jitter in axes(patch, *self._sizes(patch)):
            if side > 1 and not gap:
                yield "gap", f"{where}0 leaves no gap between windows. Use 1 or more."
            elif side > 1 and 2 * jitter >= gap:
                cure = f"Use {(gap - 1) // 2} or less" if gap > 1 else "Use 0"
                yield (
                    "jitter",
                    f"{where}{jitter} can move windows together that are {gap} apart. {cure}, or a "
                    "larger gap.",
                )

    def views(self, patch: Size) -> int:
        return 2 if self.neighbours == "one" else len(self.grid(patch))

    def crop(self, patch: Size) -> Pair:
        return each_axis(
            lambda side, gap, jitter: 3 * side + 2 * gap + 2 * jitter if side > 1 else 1,
            *(patch, *self._sizes(patch)),
        )

    def grid(self, patch: Size):
        """Rows and columns of the windows in the grid, the middle one first: list of pairs."""
        rows, columns = ((0, 1, 2) if side > 1 else (0,) for side in pair(patch))
        cells = [(row, column) for row in rows for column in columns]
        middle = cells[len(cells) // 2]
        return [middle, *(cell for cell in cells if cell != middle)]

    def places(self, random, patch: Size):
        import tensorflow as tf

        from kclr.data.sampling import below

        gap, jitter = self._sizes(patch)
        step = each_axis(lambda side, own: side + own, patch, gap)
        cells = self.grid(patch)
        grid = tf.constant([[row * step[0], column * step[1]] for row, column in cells])
        moved = tf.reshape(random[: 2 * len(cells)], (len(cells), 2, -1))
        room = tf.constant([[2 * far + 1] for far in pair(jitter)])
        places = grid[:, None] + tf.transpose(below(moved, room), (0, 2, 1))
        if self.neighbours == "all":
            return places
        chosen = below(random[-1], len(cells) - 1) + 1
        chosen = tf.gather(tf.transpose(places, (1, 0, 2)), chosen, batch_dims=1)
        return tf.stack([places[0], chosen])


def _where_many(own, side):
    return own if side > 1 else 0
