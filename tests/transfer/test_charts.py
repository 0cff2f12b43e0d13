"""Charts of the report's page: the right numbers, readable on light and dark, safe to embed."""

import re
import warnings
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from kclr import report
from kclr.drawing.curves import history_svgs
from kclr.drawing.figure import SERIES
from kclr.transfer import charts
from kclr.transfer.charts import (
    DASHES,
    Style,
    epochs_png,
    epochs_svg,
    labels_png,
    labels_svg,
    styles,
)

ARMS = ["random start", "kclr frozen", "kclr fine-tuned", "k-means fine-tuned"]


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Among older matplotlib and newer pyparsing, say; no user sees those.
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def accuracies(arm, repeats=3, epochs=12):
    """Test accuracy (repeats, epochs) of an arm, as an experiment would find it."""
    random = np.random.default_rng(len(arm))
    rise = 0.4 + 0.03 * len(arm) * (1 - np.exp(-np.arange(epochs) / 4)) / 4
    return rise + random.normal(0, 0.01, (repeats, epochs))


def curve(values):
    spread = [None] * values.shape[1] if len(values) < 2 else list(values.std(axis=0, ddof=1))
    return list(values.mean(axis=0)), spread


def row(arm, labels, mean, spread=0.01):
    return SimpleNamespace(
        arm=arm, labels=labels, images=round(50_000 * labels), mean=mean, spread=spread
    )


def rows(labels=(1.0, 0.01, 0.1)):
    return [
        row(arm, share, 0.7 + 0.1 * np.log10(share) + place / 50)
        for share in labels
        for place, arm in enumerate(ARMS)
    ]


def elements(svg):
    """The elements of an inlined drawing, by way of a strict parser."""
    return list(ElementTree.fromstring(svg).iter())


def coordinates(path):
    return np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", path), np.float64)


def line_of(svg, style):
    """Corners of the line that is drawn in a style: float (points, 2), y downwards."""
    dashed = bool(style.dash_array)
    (found,) = [
        element.get("d")
        for element in elements(svg)
        if f"stroke: {style.variable}" in element.get("style", "")
        and "fill: none" in element.get("style")
        and ("dasharray" in element.get("style")) == dashed
        and "stroke-width: 1.8" in element.get("style")
    ]
    return coordinates(found)


def band_of(svg, style):
    (place,) = [
        number
        for number, element in enumerate(elements(svg))
        if f"fill: {style.variable}; fill-opacity" in element.get("style", "")
    ]
    definitions = {e.get("id"): e.get("d") for e in elements(svg) if e.get("id")}
    use = elements(svg)[place]
    target = use.get("{http://www.w3.org/1999/xlink}href")[1:]
    shift = float(use.get("x")), float(use.get("y"))
    return coordinates(definitions[target]) + np.array(shift)


# styles


def test_frozen_filters_share_the_colour_of_fine_tuned_ones_and_are_dashed():
    look = styles(["random start", "kclr frozen", "kclr fine-tuned", "ZCA start", "random, frozen"])
    assert look["kclr frozen"].series == look["kclr fine-tuned"].series
    assert look["kclr frozen"].dash_array
    assert not look["kclr fine-tuned"].dash_array
    assert look["random start"].series == look["random, frozen"].series == 0
    assert look["ZCA start"].series not in (0, look["kclr frozen"].series)


def test_no_two_arms_look_alike():
    origins = ["random", "kclr", "k-means", "ZCA", "PCA", "LSUV", "supervised", "end-to-end"]
    arms = [f"{origin} {end}" for origin in origins for end in ("frozen", "fine-tuned", "start")]
    assert len(set(styles(arms).values())) == len(arms)
    # More than can be told apart are drawn all the same.
    many = [f"arm {number}" for number in range(100)]
    assert list(styles(many)) == many
    assert styles(["frozen"])["frozen"].series == 1


def contrast(one, other):
    """Of WCAG 2.2: ratio of relative luminances."""

    def luminance(colour):
        parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_computed_as_the_standard_says():
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)


def test_lines_and_words_can_be_read_on_light_and_on_dark():
    page = report.__file__.replace("__init__.py", "page.html")
    with open(page, encoding="utf-8") as file:
        grounds = re.findall(r"--ground: (\S+); --raised: (\S+); (.*)", file.read())
    for theme, (ground, raised, rest) in enumerate(grounds[:2]):
        words = dict(re.findall(r"--(ink|muted|link): (#\w+)", rest))
        assert len(words) == 3
        assert min(contrast(w, g) for w in words.values() for g in (ground, raised)) > 4.5
        assert min(contrast(pair[theme], ground) for pair in SERIES) > 3


# charts


def test_the_line_is_the_mean_and_the_band_one_standard_deviation():
    values = {arm: accuracies(arm) for arm in ARMS}
    look = styles(ARMS)
    svg = epochs_svg("a", {arm: curve(v) for arm, v in values.items()}, look, 0.1)
    drawn = np.concatenate([line_of(svg, look[arm]) for arm in ARMS])
    means = np.concatenate([values[arm].mean(axis=0) for arm in ARMS])
    # One straight map from accuracies to the page serves all lines.
    slope, offset = np.polyfit(means, drawn[:, 1], 1)
    assert slope < 0
    np.testing.assert_allclose(slope * means + offset, drawn[:, 1], atol=0.01)
    arm = "k-means fine-tuned"
    mean, deviation = values[arm].mean(axis=0), values[arm].std(axis=0, ddof=1)
    band = band_of(svg, look[arm])[:, 1]
    expected = slope * np.concatenate([mean - deviation, mean + deviation]) + offset
    for edge in expected:
        assert np.abs(band - edge).min() < 0.01


def test_a_single_repeat_has_no_band():
    values = accuracies("kclr frozen", repeats=1)
    svg = epochs_svg("a", {"kclr frozen": curve(values)}, styles(["kclr frozen"]), 1.0)
    assert "fill-opacity" not in svg
    assert len(line_of(svg, styles(["kclr frozen"])["kclr frozen"])) == values.shape[1]


def test_those_who_do_not_see_a_chart_are_told_its_ends():
    look = styles(["random start", "kclr frozen"])
    curves = {
        "random start": ([0.1, 0.55512], [None, None]),
        "kclr frozen": ([0.2, 0.6], [0.1] * 2),
    }
    root = ElementTree.fromstring(epochs_svg("a", curves, look, 0.01))
    assert root.get("role") == "img"
    assert root.get("aria-label") == (
        "Test accuracy by epoch with 1 % of the labels. After the last epoch: "
        "random start 55.5 %; kclr frozen 60.0 %."
    )
    text = ElementTree.fromstring(labels_svg("b", rows(), styles(ARMS))).get("aria-label")
    assert "kclr frozen: 52.0 % with 1 % of the labels, 62.0 % with 10 % of the labels, " in text
    assert "72.0 % with all labels." in text


def test_labels_stand_at_their_share_with_their_number_of_images():
    look = styles(ARMS)
    svg = labels_svg("a", rows(), look)
    words = [element.text for element in elements(svg) if element.tag.endswith(("text", "tspan"))]
    words = " ".join(word.strip() for word in words if word)
    for part in ("1 %", "500", "10 %", "5,000", "100 %", "50,000"):
        assert part in words
    x, y = line_of(svg, look["kclr fine-tuned"]).T
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.01)  # tenfold is one step
    assert (np.diff(y) < 0).all()


def test_a_drawing_brings_no_colour_font_style_or_id_that_could_clash():
    first = epochs_svg("one", {"kclr start": curve(accuracies("k"))}, styles(["kclr start"]), 1.0)
    second = labels_svg("two", rows(), styles(ARMS))
    names = []
    for svg in (first, second):
        assert not re.findall(r"#[0-9a-fA-F]{6}\b", svg)
        assert "font-family" not in svg
        assert not [e for e in elements(svg) if e.tag.endswith(("style", "script", "metadata"))]
        names += [element.get("id") for element in elements(svg) if element.get("id")]
        for target in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg):
            assert "".join(target) in names
    assert len(set(names)) == len(names)


def test_hostile_names_stay_words():
    arm = '"><script>alert(1)</script> $x_1$ &amp;'
    svg = epochs_svg("a", {arm: curve(accuracies(arm))}, styles([arm]), 1.0)
    assert arm in ElementTree.fromstring(svg).get("aria-label")
    assert not [element for element in elements(svg) if element.tag.endswith("script")]


def test_pictures_have_a_title_and_a_legend_and_open(tmp_path):
    arms = [*ARMS, "$odd_{ name"]
    look = styles(arms)
    curves = {(labels, arm): curve(accuracies(arm)) for labels in (0.1, 1.0) for arm in arms}
    epochs_png(tmp_path / "epochs.png", curves, look, "A $5 protocol of_ CIFAR-10 " * 6)
    labels_png(tmp_path / "labels.png", rows(), look, "title")
    for name in ("epochs.png", "labels.png"):
        with Image.open(tmp_path / name) as picture:
            pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        for style in (look["random start"], look["kclr fine-tuned"]):
            colour = [int(SERIES[style.series][0][i : i + 2], 16) for i in (1, 3, 5)]
            assert (pixels == colour).all(axis=1).sum() > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epochs.png", "labels.png"]


def test_odd_experiments_are_drawn(tmp_path):
    look = styles(["a", "b"])
    epochs_png(tmp_path / "none.png", {}, look, "nothing")
    labels_png(tmp_path / "one.png", [row("a", 1.0, 0.5, None)], look, "one")
    svg = epochs_svg("a", {"a": ([0.5], [None]), "b": ([float("nan")] * 3, [None] * 3)}, look, 0.5)
    assert elements(svg)


def test_drawing_does_not_change_the_callers_style():
    import matplotlib

    plain = labels_svg("a", rows(), styles(ARMS))
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red"}):
        settings = dict(matplotlib.rcParams)
        assert labels_svg("a", rows(), styles(ARMS)) == plain
        assert dict(matplotlib.rcParams) == settings


# learning curves


def test_each_measure_of_a_history_gets_its_panel():
    history = [
        {"step": step, "loss": 1 / step, "positive_distance": 1.0, "negative_distance": 2.0 * step}
        for step in range(1, 30)
    ]
    loss, distances = history_svgs("run", history, "conv<1>")
    label = ElementTree.fromstring(loss).get("aria-label")
    assert label == "conv<1>, loss by step: loss from 1 to 0.0345"
    assert "negative from 2 to 58" in ElementTree.fromstring(distances).get("aria-label")
    drawn = coordinates(
        next(e.get("d") for e in elements(loss) if "var(--series-1)" in e.get("style", ""))
    )
    assert np.corrcoef(drawn[:, 1], [1 / step for step in range(1, 30)])[0, 1] < -0.9999


@pytest.mark.parametrize("history", [[], [{"step": 1.0}], [{"loss": float("nan")}]])
def test_nothing_recorded_is_no_panel(history):
    assert history_svgs("run", history, "conv1") == []


def test_a_history_without_steps_counts_its_rows():
    (panel,) = history_svgs("run", [{"loss": 2.0}, {"loss": 1.0}], "conv1")
    assert "by log row" in panel


def test_a_swatch_in_the_page_has_the_dashes_of_the_line():
    assert Style(1, 0).dash_array == ""
    assert Style(2, 1).dash_array == " ".join(f"{2 * part:g}" for part in DASHES[1])
    assert Style(2, 1).line()["linestyle"] == (0, DASHES[1])


def test_numbers_of_labels_are_not_taken_for_shares():
    assert charts.amount(10) == "10 labels per class"
    assert charts.amount(0.1) == "10 % of the labels"
    assert charts.amount(1.0) == "all labels"
