"""Near: overlapping windows of one crop are alike (Zhao 2020)."""

from typing import ClassVar

from kclr.alike import Notion
from kclr.spec.registry import register


@register("alike", "near")
class Near(Notion):
    """Windows of one crop that overlap: those of a grid with `stride`, or two with `max_shift`."""

    own_windows: ClassVar[bool] = False
