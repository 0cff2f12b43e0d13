"""Images with the same label are alike, as far as labels may be used."""

import numpy as np
import pytest

from kclr.data.checks import load_checked
from kclr.data.patches import PatchTripletGenerator
from kclr.data.sources import as_images
from kclr.errors import RunError, SpecError
from kclr.spec import parse_spec
from kclr.stack import train


@pytest.fixture(scope="module")
def numbered():
    """Eight images of 12 px whose pixels are their number."""
    return np.stack([np.full((12, 12, 1), n, np.uint8) for n in range(8)])


LABELS = np.array([0, 1, 0, 1, 0, 2, -1, -1])


def pairs(images, **options):
    """The images of both windows in all rows, and the number of each row."""
    alike = {"name": "class"} | options
    generator = PatchTripletGenerator(images, 5, batch_size=4, alike=alike)
    batches = [(np.array(v), np.array(n)) for v, n in generator.views().take(60)]
    views, numbers = (np.concatenate(part) for part in zip(*batches, strict=True))
    return generator, views[:, :, 0, 0, 0], numbers if numbers.ndim == 1 else numbers[:, 0]


def test_another_image_of_the_class_is_alike_and_none_of_it_a_negative(numbered):
    generator, found, numbers = pairs(as_images(numbered, y=LABELS))
    of_class = {(0, 2), (2, 0), (0, 4), (4, 0), (2, 4), (4, 2), (1, 3), (3, 1)}
    assert {*map(tuple, found.tolist())} == of_class | {(5, 5), (6, 6), (7, 7)}
    by_number = {}
    for pair, number in zip(found.tolist(), numbers.tolist(), strict=True):
        by_number.setdefault(number, set()).update(pair)
    assert sorted(map(sorted, by_number.values())) == [[0, 2, 4], [1, 3], [5], [6], [7]]
    for anchor, positive, negative in generator.triplets().take(20):
        of = [np.round(255 * part.numpy()[:, 0, 0, 0]).astype(int) for part in
              (anchor, positive, negative)]  # fmt: skip
        groups = [np.where(LABELS[each] < 0, -1 - each, LABELS[each]) for each in of]
        assert (groups[0] == groups[1]).all()
        assert (groups[0] != groups[2]).all()


def test_images_without_a_label_may_be_left_out(numbered):
    generator, found, _ = pairs(as_images(numbered, y=LABELS), unlabelled="leave_out")
    assert generator.image_count == 5
    assert {*found.ravel().tolist()} == {0, 1, 2, 3, 4}


def test_without_labels_the_cure_is_named(numbered):
    with pytest.raises(RunError, match=r"alike: class needs labels\. Add them: .*labels=1"):
        pairs(as_images(numbered))
    with pytest.raises(SpecError) as error:
        load_checked({"data": "digits", "stack": [{"patches": {"alike": "class"}}]})
    assert "stack.0.patches.alike: needs labels, but digits is used without." in str(error.value)


def test_a_share_of_the_labels_trains_a_layer(tmp_path):
    spec = parse_spec(
        """
        data: {source: digits, labels: 0.1}
        stack:
          - block: {filters: 4, kernel_size: 3}
            patches: {patch_size: 5, alike: class}
            objective: infonce
            train: {steps: 4, batch_size: 16, log_every: 2}
        """
    )
    (layer,) = train(spec, tmp_path / "run", bare=True).layers
    assert layer.facts["labels"]["classes"] == 10
    assert np.isfinite(layer.kernel).all()
