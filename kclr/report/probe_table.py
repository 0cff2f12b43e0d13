"""What a probe found, as a table for people."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from kclr.spec.wording import printable

BASELINES = {
    "random": "random (Glorot uniform)",
    "whitened": "random whitened patches",
    "kmeans": "spherical k-means",
    "pca": "principal components",
}
CLASSIFIERS = {"ridge": "ridge", "logistic": "logistic", "knn": "neighbours"}


def probe_table(summaries: Sequence[Any]) -> Table:
    """Test accuracies in percent: a section for each classifier, a row for each kind of features, a
    column for each amount of labels.

    Args:
        summaries: from `kclr.transfer.probe.summaries`.
    """
    columns = list(dict.fromkeys((s.labels, s.label_count) for s in summaries))
    cells = {(s.classifier, s.features, s.labels, s.label_count): s for s in summaries}
    spread = any(summary.spread is not None for summary in summaries)
    names = printable(", ".join(dict.fromkeys(summary.data for summary in summaries)))
    title = f"test accuracy on {names}, %" + (", mean ± standard deviation" if spread else "")
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("filters")
    table.add_column("classifier")
    for labels, count in columns:
        table.add_column(_amount(labels, count), justify="right")
    for classifier in dict.fromkeys(summary.classifier for summary in summaries):
        table.add_section()
        for features in dict.fromkeys(summary.features for summary in summaries):
            found = [cells.get((classifier, features, *column)) for column in columns]
            if any(found):
                shown = CLASSIFIERS.get(classifier, classifier)
                row = (filters_name(features), shown, *map(_accuracy, found))
                table.add_row(*map(printable, row))
    return table


def print_probe(summaries: Sequence[Any]) -> None:
    """Print the table of a probe."""
    Console(markup=False, emoji=False).print(probe_table(summaries), highlight=False)


def filters_name(features: str) -> str:
    """The name of a kind of filters for people, as "spherical k-means, all layers"."""
    name, comma, rest = features.partition(",")
    return BASELINES.get(name, name) + comma + rest


def _amount(labels, count):
    if labels > 1:
        return f"{labels:g} labels\na class"
    share = "all" if labels == 1 else f"{100 * labels:g} % of"
    return f"{share} labels\n({count:,})"


def _accuracy(summary):
    if summary is None:
        return ""
    mean = f"{100 * summary.mean:.1f}"
    return mean if summary.spread is None else f"{mean} ± {100 * summary.spread:.1f}"
