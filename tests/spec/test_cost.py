"""What a training costs, compared with counting by hand."""

from kclr.report.tables import cost_table
from kclr.spec import parse_spec
from kclr.spec.cost import about, image_flops, step_flops, training_seconds

SPEC = """
data: digits
stack:
  - block: {filters: 4, kernel_size: 3}
    train: {batch_size: 10, steps: 100}
  - block: {filters: 6, kernel_size: [3, 5], pool_size: 1}
    patches: {patch_size: [3, 6], max_shift: 1, augment: [{class_name: RandomFlip}]}
    train: {batch_size: 10, epochs: 2}
"""


def test_operations_of_a_step_are_those_counted_by_hand():
    spec = parse_spec(SPEC)
    # Crops of 5 px, which share a convolution of 3x3 cells: forward, and the kernel's gradient.
    assert step_flops(spec, 0, channels=2) == 10 * 2 * (2 * 3 * 3 * 3 * 3 * 2 * 4)
    # Two patches of 3x6 cells are 8x14 px: 6x12 cells below, and 1x2 cells of 6 filters.
    below, own = 2 * 6 * 12 * 9 * 4, 2 * 1 * 2 * 15 * 4 * 6
    assert step_flops(spec, 1, channels=1) == 10 * 2 * (below + 2 * own)


def test_operations_for_a_whole_image_follow_the_padding():
    spec = parse_spec("stack: [{block: {filters: 4, kernel_size: 3, padding: same, strides: 2}}]")
    assert image_flops(spec, (9, 8, 3)) == 2 * 5 * 4 * 9 * 3 * 4


def test_a_check_shows_the_cost_of_layers_that_take_steps():
    rows = [line.split() for line in cost_table(parse_spec(SPEC), 1e9).splitlines()]
    first, second = [row for row in rows if row[0].startswith("conv")]
    assert first[:6] == ["conv1", "0.0", "GFLOP", "100", "0.0", "TFLOP"]
    assert second[3:] == ["2", "epochs", "-", "-", "float32"]
    assert cost_table(parse_spec("stack: [{learner: kmeans}]"), 1e9) == ""


def test_the_time_of_a_training_follows_its_steps_and_the_machine():
    spec = parse_spec(SPEC)
    work = 100 * step_flops(spec, 0, 1)
    assert training_seconds(spec, 0, 1, speed=1e9, units=False) == work / 1e9 / 0.5
    assert training_seconds(spec, 1, 1, speed=1e9, units=False) is None  # in epochs
    assert [about(s) for s in (12.4, 300, 5 * 3600)] == ["12 s", "5 min", "5.0 h"]
