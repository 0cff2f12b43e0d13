"""Figures outside pyplot: their colours, and how they are written as PNG and as SVG."""

import html
import re
from contextlib import contextmanager

from kclr.runs.paths import atomic

# On light and on dark. The first is the random start's; then those of Okabe and Ito (2008), the
# colour-blind-safe ones, darkened or lightened until a line has a contrast of 3 on either ground.
SERIES = (
    ("#5F5F5F", "#B9B9B9"),
    ("#0072B2", "#62B5F0"),
    ("#D55E00", "#FF9152"),
    ("#00805C", "#2FC79D"),
    ("#A8488A", "#E78FC8"),
    ("#8A6A00", "#DFB53A"),
    ("#2488BD", "#A5DBFF"),
    ("#7A3E1D", "#CDA184"),
)


GRID, AXIS = ("#E6E6E6", "#333A42"), ("#999999", "#77808A")


VARIABLES = {f"--series-{number}": pair for number, pair in enumerate(SERIES)} | {
    "--grid": GRID,
    "--axis": AXIS,
}


@contextmanager
def own_figure(**options):
    """A figure outside pyplot, under matplotlib's defaults instead of the caller's style."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(**options)
        FigureCanvasAgg(figure)
        yield figure


def save(figure, path, transparent=False, description=None):
    """Write a figure as PNG, whole or not at all; the description is kept in the file."""
    if (layout := figure.get_layout_engine()) and figure.axes:
        # As savefig would, which draws everything twice for it.
        layout.execute(figure)
        figure.set_layout_engine("none")
    with atomic(path) as temporary:
        figure.savefig(
            temporary, format="png", dpi=figure.dpi, transparent=transparent,
            metadata={"Software": None, "Description": description},
        )  # fmt: skip


def svg(figure, name, alt):
    """A figure as an `<svg>` element that takes its colours, its font and its width from a page."""
    import io

    import matplotlib

    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "kclr"})
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    box = re.search(r'viewBox="[^"]*"', text)
    inner = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    inner = inner[inner.index(">", inner.index("<svg")) + 1 :]
    inner = re.sub(r"font-family: [^;\"]*(; )?", "", inner)
    place = html.escape(name, quote=True)
    inner = re.sub(r'(\bid="|url\(#|href="#)', lambda found: f"{found[0]}{place}-", inner)
    colours = {pair[0].lower(): variable for variable, pair in VARIABLES.items()}
    inner = re.sub(
        r"#[0-9a-f]{6}\b",
        lambda found: f"var({colours[found[0]]})" if found[0] in colours else found[0],
        inner,
    )
    return (
        f'<svg {box[0] if box else ""} role="img" aria-label="{html.escape(alt, quote=True)}" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink">{inner.strip()}'
    )
