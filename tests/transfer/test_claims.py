import numpy as np
import pytest
from scipy import stats

from kclr.transfer.claims import failed, fine_tuning, layer_by_layer, measures
from kclr.transfer.summary import summarize

MINUS = "\N{MINUS SIGN}"


def units(arm, accuracies, labels=1.0):
    return [
        {"arm": arm, "labels": labels, "images": 500, "seed": seed, "accuracy": accuracy}
        | {"seconds": 1.0, "history": [{"epoch": 1, "test_accuracy": accuracy}]}
        for seed, accuracy in enumerate(accuracies)
    ]


RANDOM = units("random start", [0.48, 0.52, 0.50])


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        ([0.58, 0.62, 0.61], "all labels: above, +10.3 points ["),
        ([0.50, 0.51, 0.50], "all labels: no difference shown, +0.3 points ["),
        ([0.38, 0.42, 0.41], f"all labels: below, {MINUS}9.7 points ["),
    ],
)
def test_the_gap_to_the_papers_claim_is_worded_by_its_interval(ours, words):
    (line,) = fine_tuning(summarize(RANDOM + units("kclr fine-tuned", ours)))
    assert line.startswith(words)
    differences = 100 * np.subtract(ours, [0.48, 0.52, 0.50])
    low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    shown = line.replace(MINUS, "-")
    assert shown.endswith(f"[{low:+.1f}, {high:+.1f}]")


def test_one_repeat_shows_nothing_and_a_missing_arm_says_nothing():
    one = RANDOM[:1] + units("kclr fine-tuned", [0.6])
    assert fine_tuning(summarize(one)) == ["all labels: a single pair shows nothing, +12.0 points"]
    assert fine_tuning(summarize(RANDOM)) == []
    assert fine_tuning(summarize(one[1:])) == []


def compared(**changes):
    """Results with two runs of each way."""
    runs = []
    for way, seconds, patches, top in (
        ("layer by layer", (50.0, 60.0), 1000, (0.60, 0.62)),
        ("end to end", (100.0, 120.0), 2000, (0.61, 0.65)),
    ):
        for seed in (0, 1):
            run = {"way": way, "seed": seed, "seconds": seconds[seed], "patches": patches}
            run |= {"top_layer": top[seed], "all_layers": top[seed] + 0.1, "hardware": {"cores": 2}}
            runs.append(run | changes.get(way, {}))
    found = units("kclr fine-tuned", [0.7, 0.72, 0.71]) + RANDOM
    found += units("end-to-end fine-tuned", [0.69, 0.73, 0.71])
    return {"units": found, "end_to_end": {"runs": runs}}


def test_both_ways_stand_side_by_side_with_what_they_took_and_are_worth():
    found = {measure.name: measure for measure in measures(compared())}
    assert list(found) == [
        "seconds of training",
        "patches seen",
        "probe, top layer",
        "probe, all layers",
        "fine-tuned, all labels",
    ]
    seconds = found["seconds of training"]
    assert (seconds.layer_by_layer, seconds.end_to_end, seconds.difference) == (55, 110, 0.5)
    assert seconds.layer_by_layer_spread == pytest.approx(np.std([50, 60], ddof=1))
    assert found["patches seen"].words() == ("patches seen", "1,000", "2,000", "0.50 times")
    tuned, pairs = found["fine-tuned, all labels"], np.array([0.01, -0.01, 0.0])
    interval = stats.ttest_1samp(pairs, 0).confidence_interval(0.95)
    assert tuned.difference == pytest.approx(0)
    assert (tuned.low, tuned.high) == pytest.approx((interval.low, interval.high))
    top = found["probe, top layer"]
    assert top.difference == pytest.approx(-0.02)
    assert top.words()[1:3] == ("61.0 ± 1.4", "63.0 ± 2.8")


def test_the_second_claim_is_answered_in_sentences():
    assert layer_by_layer(measures(compared())) == [
        "Layer by layer is faster: 0.50 times the seconds of end to end.",
        "Fine-tuned, all labels: layer by layer against end to end, no difference shown, "
        f"+0.0 points [{MINUS}2.5, +2.5].",
    ]


def test_seconds_of_different_machines_are_not_compared():
    results = compared(**{"end to end": {"hardware": {"cores": 64}}})
    seconds = measures(results)[0]
    assert (seconds.layer_by_layer, seconds.difference) == (55, None)
    assert not any("faster" in line for line in layer_by_layer(measures(results)))


def test_what_an_older_run_does_not_say_is_not_known():
    patches = measures(compared(**{"layer by layer": {"patches": None}}))[1]
    assert patches.words() == ("patches seen", "not known", "2,000", "")


def test_a_run_that_could_not_be_judged_is_told_with_its_reason():
    results = compared()
    results["end_to_end"]["runs"][2:] = [
        {"way": "end to end", "seed": 0, "failed": "the embeddings collapsed"}
    ]
    assert failed(results) == ["end to end, seed 0: the embeddings collapsed"]
    assert measures(results)[0].words() == ("seconds of training", "55.0 ± 7.1", "not known", "")
    assert measures({"units": []}) == []
