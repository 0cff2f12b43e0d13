"""What the report shows of a probe: its table."""

from typing import Any

from kclr.report.sections import (
    NOTHING,
    Section,
    classifier_title,
    filters_name,
    mean_and_spread,
)
from kclr.runs.paths import write_csv
from kclr.runs.records import read_probe
from kclr.runs.safe_reading import sha256
from kclr.spec.registry import register


@register("section", "probes")
class Probes(Section):
    """The accuracies of a probe (`kclr.runs.records.Probed`)."""

    order = 90
    template = """\
<p class="note" id="{{ part.anchor }}-probe">Test accuracy on {{ part.data }}, %
{%- if part.repeats > 1 %}, mean ± standard deviation of {{ part.repeats }} repeats{% endif %}.</p>
<div class="scroll" tabindex="0" role="region" aria-label="Accuracies of {{ part.name }}">
<table aria-describedby="{{ part.anchor }}-probe">
<thead><tr><th scope="col">filters</th><th scope="col" class="words">classifier</th>
{% for column in part.columns %}<th scope="col">{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for features, classifier, accuracies in part.lines %}
<tr><th scope="row">{{ features }}</th><td class="words">{{ classifier }}</td>
{% for accuracy in accuracies %}<td>{{ accuracy }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
"""

    def read(self, path):
        return read_probe(path) if path.is_file() and path.suffix == ".json" else None

    def show(self, found, path, name, folder, names):
        summaries = found["summaries"]
        amounts = list(dict.fromkeys((s["labels"], s["label_count"]) for s in summaries))
        cells: dict[tuple[str, str], dict[Any, str]] = {}
        for s in summaries:
            line = cells.setdefault((s["classifier"], s["features"]), {})
            line[s["labels"], s["label_count"]] = mean_and_spread(s["mean"], s["spread"])
        data = ", ".join(dict.fromkeys(s["data"] for s in summaries))
        repeats = max((s["repeats"] for s in summaries), default=0)
        columns = [
            f"{labels:g} per class ({count:,})"
            if labels > 1
            else f"{100 * labels:g} % of labels ({count:,})"
            for labels, count in amounts
        ]
        anchor = names(path.stem)
        write_csv(folder / f"{anchor}-probe.csv", summaries)
        return {
            "name": path.stem,
            "title": f"Probe: {path.stem}",
            "anchor": anchor,
            "data": data,
            "repeats": repeats,
            "columns": columns,
            "lines": [
                (
                    filters_name(features),
                    classifier_title(classifier),
                    [line.get(amount, NOTHING) for amount in amounts],
                )
                for (classifier, features), line in cells.items()
            ],
            "provenance": {"file": str(path), "sha256": sha256(path)},
            "numbers": {"name": path.stem, **found},
        }
