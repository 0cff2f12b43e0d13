"""Class: another image with the same label is alike."""

from typing import ClassVar, Literal

from kclr.alike import OtherImages
from kclr.alike.given import checked
from kclr.errors import RunError
from kclr.spec.registry import register


@register("alike", "class")
class SameClass(OtherImages):
    """A window of an image, and one of another image of the same class; images of one class are
    never negatives of each other.

    The labels are those that `data.labels` lets a training use: of all images, or of a share.
    """

    unlabelled: Literal["itself", "leave_out"] = "itself"
    """What happens to images without a label: both windows are from the same one, which is a class
    of its own; or no window is cut from them."""

    takes_labels: ClassVar[bool] = True

    def rows(self, buffer, patch, images, seed):
        from kclr.data.relations import of_groups

        if images.labels is None:
            raise RunError(
                f"{images.name}: alike: class needs labels. Add them: {images.cure('labels', 1.0)}"
            )
        groups = images.labels.numbers[buffer.numbers]
        return checked(of_groups(groups, self.unlabelled == "itself"), images.name)
