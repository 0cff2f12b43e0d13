import math

import numpy as np
import pytest
from scipy import stats

from kclr.transfer.summary import (
    curves,
    epochs_to_random_best,
    interval,
    mean_and_spread,
    mean_curve,
    summarize,
)


def unit(arm, seed, curve, labels=1.0, seconds=10.0):
    history = [{"epoch": n, "test_accuracy": value} for n, value in enumerate(curve, 1)]
    return {
        "arm": arm,
        "labels": labels,
        "images": 500,
        "seed": seed,
        "accuracy": curve[-1],
        "history": history,
        "seconds": seconds,
    }


RANDOM = [
    unit("random start", 0, [0.30, 0.50, 0.48]),
    unit("random start", 1, [0.34, 0.46, 0.52]),
    unit("random start", 2, [0.32, 0.48, 0.50]),
]
KCLR = [
    unit("kclr fine-tuned", 0, [0.48, 0.55, 0.56], seconds=12.0),
    unit("kclr fine-tuned", 1, [0.50, 0.53, 0.55], seconds=13.0),
    unit("kclr fine-tuned", 2, [0.52, 0.57, 0.61], seconds=14.0),
]


def test_gain_and_its_interval_are_those_of_a_paired_t_test():
    row = summarize(RANDOM + KCLR)[1]
    ours, random = np.array([0.56, 0.55, 0.61]), np.array([0.48, 0.52, 0.50])
    expected = stats.ttest_rel(ours, random).confidence_interval(0.95)
    assert row.gain == pytest.approx(np.mean(ours - random))
    assert (row.gain_low, row.gain_high) == pytest.approx((expected.low, expected.high))


def test_interval_is_the_one_worked_out_by_hand():
    # t of 95 % with 2 degrees of freedom is 4.3027; standard error of 1, 2, 3 is 1 / sqrt(3)
    half = 4.3027 / math.sqrt(3)
    assert interval([1, 2, 3]) == pytest.approx((2, 2 - half, 2 + half), abs=1e-4)


def test_mean_spread_and_seconds_are_over_repeats():
    row = summarize(KCLR)[0]
    values = [0.56, 0.55, 0.61]
    assert row.mean == pytest.approx(np.mean(values))
    assert row.spread == pytest.approx(np.std(values, ddof=1))
    assert (row.repeats, row.images, row.seconds) == (3, 500, 13.0)


def test_random_start_has_no_gain_over_itself():
    row = summarize(RANDOM + KCLR)[0]
    assert (row.arm, row.gain, row.gain_low, row.gain_high) == ("random start", None, None, None)


def test_single_repeat_claims_no_spread_and_no_interval():
    row = summarize([RANDOM[0], KCLR[0]])[1]
    assert row.gain == pytest.approx(0.08)
    assert (row.spread, row.gain_low, row.gain_high) == (None, None, None)


def test_only_repeats_that_both_finished_are_paired():
    row = summarize([RANDOM[1], RANDOM[2], *KCLR[:2]])[1]
    assert (row.repeats, row.gain_low) == (2, None)
    assert row.gain == pytest.approx(0.55 - 0.52)


def test_arm_without_a_random_start_has_no_gain():
    row = summarize(KCLR)[0]
    assert (row.gain, row.epochs_to_random_best) == (None, None)


def test_failed_units_are_passed_over_and_an_arm_that_always_failed_has_no_row():
    failed = {"arm": "LSUV", "labels": 1.0, "seed": 0, "failed": "no reason"}
    again = {"arm": "kclr fine-tuned", "labels": 1.0, "seed": 3, "failed": "no reason"}
    rows = summarize([*RANDOM, failed, *KCLR, again])
    assert [(row.arm, row.repeats) for row in rows] == [("random start", 3), ("kclr fine-tuned", 3)]


def test_rows_stand_by_labels_in_the_order_of_the_units():
    few = [unit("random start", 0, [0.2], 0.01), unit("kclr fine-tuned", 0, [0.3], 0.01)]
    rows = summarize([RANDOM[0], few[0], KCLR[0], few[1]])
    assert [(row.labels, row.arm) for row in rows] == [
        (1.0, "random start"),
        (1.0, "kclr fine-tuned"),
        (0.01, "random start"),
        (0.01, "kclr fine-tuned"),
    ]
    assert rows[3].gain == pytest.approx(0.1)


def test_epochs_are_counted_to_the_random_starts_best_mean():
    # means: random 0.32, 0.48, 0.50; kclr 0.50, 0.55, 0.573
    assert mean_curve(RANDOM) == pytest.approx([0.32, 0.48, 0.50])
    assert epochs_to_random_best(RANDOM, RANDOM) == 3
    assert epochs_to_random_best(KCLR, RANDOM) == 1
    slow = [unit("LSUV", seed, [0.1, 0.2, 0.3]) for seed in range(3)]
    assert epochs_to_random_best(slow, RANDOM) is None


def test_curves_have_a_mean_and_a_spread_for_every_epoch():
    means, spreads = curves(RANDOM)[1.0, "random start"]
    assert means == pytest.approx([0.32, 0.48, 0.50])
    assert spreads == pytest.approx([0.02, 0.02, 0.02])


def test_mean_and_spread_of_one_number():
    assert mean_and_spread([0.5]) == (0.5, None)
