"""Where rounding to integers hurts, as figures and JSON: noise per site, one operator at a time, ranges.

The histograms with every calibrator's threshold are the figures of Wu et al. 2020, arXiv:2004.09602, §5.1.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from secateur.files import write_text
from secateur.quantization.diagnosis import OperatorEffect, SiteNoise
from secateur.quantization.thresholds import Diagnosis, SiteHistogram
from secateur.report.curves import COLOURS, DENSE, MARKERS, PLAIN
from secateur.report.drawing import can_draw, save_figure
from secateur.report.figure import KEPT
from secateur.report.values import count, shortened

INT8_FILES = {"int8_diagnosis": "int8-diagnosis.json"} | {
    f"int8_{what}_{kind}": f"int8-{what}.{kind}" for what in ("noise", "layers", "ranges") for kind in ("png", "svg")
}
"""What :func:`write_int8_figures` writes, by what it is."""

ROWS = 60  # bars that a figure shows, the worst ones of more
NAME_LETTERS = 30
BINS = 160  # of a drawn histogram; those that were counted are joined
COLUMNS = 2
TOP, STEP = 0.95, 0.055  # of a panel's height: where the first threshold ends, and how much lower each next one


def write_int8_figures(folder: Path | str, diagnosis: Diagnosis) -> dict[str, str]:
    """Write a diagnosis as JSON, and as figures where matplotlib is installed.

    Args:
        folder: where to.
        diagnosis: what was measured; a part that is empty has no figure.

    Returns:
        What was written: keys and names of :data:`INT8_FILES`.

    Raises:
        UsageError: the folder cannot be written.
    """
    folder = Path(folder)
    written = {"int8_diagnosis": INT8_FILES["int8_diagnosis"]}
    write_text(folder / written["int8_diagnosis"], json.dumps(diagnosis.to_json(), allow_nan=False) + "\n")
    if not can_draw():
        return written
    figures: dict[str, Callable[[], Any]] = {}
    if diagnosis.noise:
        figures["noise"] = lambda: noise_figure(diagnosis.noise)
    if diagnosis.effects and diagnosis.reference is not None and diagnosis.integer is not None:
        reference, integer = diagnosis.reference, diagnosis.integer
        figures["layers"] = lambda: layers_figure(diagnosis.effects, reference=reference, integer=integer)
    if diagnosis.histograms:
        figures["ranges"] = lambda: ranges_figure(diagnosis.histograms)
    for what, figure in figures.items():
        keys = [f"int8_{what}_{kind}" for kind in ("png", "svg")]
        save_figure([folder / INT8_FILES[key] for key in keys], figure)
        written |= {key: INT8_FILES[key] for key in keys}
    return written


def noise_figure(noise: Sequence[SiteNoise]) -> Any:
    """Return signal to noise per site as bars: weights on the left, activations on the right, in network order.

    Of an activation the bar is what its own rounding costs, and the mark what all rounding before it left.
    """
    from matplotlib.figure import Figure

    panels = [
        (title, entries)
        for title, kind in (("Weights", "weight"), ("Activations", "activation"))
        if (entries := [entry for entry in noise if entry.kind == kind])
    ]
    rows = max(min(len(entries), ROWS) for _, entries in panels)
    figure = Figure(figsize=(1 + 5.2 * len(panels), 1.6 + 0.19 * rows), layout="constrained")
    largest = max([value for entry in noise for value in (entry.own_db, entry.total_db) if math.isfinite(value)] + [10])
    for axes, (title, entries) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        shown = _worst(entries, lambda entry: entry.total_db)
        heights = range(len(shown))
        own = [min(max(entry.own_db, 0), 1.06 * largest) for entry in shown]
        axes.barh(heights, own, height=0.72, color=KEPT, label="this site alone rounds")
        for height, entry in zip(heights, shown, strict=True):
            if math.isinf(entry.own_db) and entry.own_db > 0:
                axes.text(1.05 * largest, height, "exact", va="center", ha="right", fontsize=7, color="white")
        if any(entry.total_db != entry.own_db for entry in shown):
            total = [min(max(entry.total_db, 0), 1.06 * largest) for entry in shown]
            axes.plot(total, heights, "o", color=COLOURS[1], markersize=3.5, label="everything rounds")
            handles, labels = axes.get_legend_handles_labels()
            place = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderaxespad": 0}
            axes.legend(handles[::-1], labels[::-1], fontsize=8, frameon=False, ncols=2, **place)
        _rows(axes, [entry.site for entry in shown])
        axes.set_xlim(0, 1.08 * largest)
        axes.set_xlabel("signal to noise, dB (higher is better)")
        missing = len(entries) - len(shown)
        heading = f"{title}: the {len(shown)} worst of {len(entries)}" if missing else title
        axes.set_title(heading, loc="left", fontsize=11, pad=20)
    return figure


def layers_figure(effects: Sequence[OperatorEffect], *, reference: float, integer: float) -> Any:
    """Return what each operator costs: alone in integers against float, and alone in float against all in integers.

    Args:
        effects: measured as shares, better if higher.
        reference: of the network in float.
        integer: of the network in integers.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    shown = _worst(effects, lambda entry: entry.alone)
    figure = Figure(figsize=(11.4, 1.6 + 0.19 * len(shown)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    parts = (
        ("Alone in integers", f"points against float ({100 * reference:.2f} %)", [e.alone - reference for e in shown]),
        (
            "Alone in float",
            f"points against all in integers ({100 * integer:.2f} %)",
            [e.without - integer for e in shown],
        ),
    )
    names = [entry.operator for entry in shown]
    for axes, (title, label, shares) in zip(panels, parts, strict=True):
        points = [100 * value for value in shares]
        colours = [COLOURS[1] if value < 0 else COLOURS[0] for value in points]
        axes.barh(range(len(points)), points, height=0.72, color=colours)
        axes.axvline(0, color=DENSE, linewidth=0.9)
        reach = 1.08 * max(*(abs(value) for value in points), 0.1)
        axes.set_xlim(-reach if min(points) < 0 else -0.04 * reach, reach if max(points) > 0 else 0.04 * reach)
        axes.set_xlabel(label)
        axes.set_title(title, loc="left", fontsize=11)
        _rows(axes, names)
    panels[1].tick_params(labelleft=False)
    keys = [Patch(facecolor=COLOURS[1], label="loses accuracy"), Patch(facecolor=COLOURS[0], label="gains accuracy")]
    place = {"loc": "lower right", "bbox_to_anchor": (1, 1.0), "borderaxespad": 0.2}
    panels[1].legend(handles=keys, fontsize=8, frameon=False, ncols=2, **place)
    if len(shown) < len(effects):
        figure.suptitle(f"The {len(shown)} most sensitive of {len(effects)} operators", fontsize=10)
    return figure


def ranges_figure(sites: Sequence[SiteHistogram]) -> Any:
    """Return what was counted at each site, with the threshold of each calibrator; shaded: what is not clipped."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    columns = min(COLUMNS, len(sites))
    rows = -(-len(sites) // columns)
    figure = Figure(figsize=(0.6 + 5.6 * columns, 1.2 + 2.5 * rows), layout="constrained")
    names = list(dict.fromkeys(name for entry in sites for name in entry.thresholds))
    looks: dict[str, dict[str, Any]] = {
        name: {
            "color": COLOURS[place % len(COLOURS)],
            "marker": MARKERS[place % len(MARKERS)],
            "markerfacecolor": COLOURS[place % len(COLOURS)] if place < len(COLOURS) else "white",
            "markersize": 4.5,
        }
        for place, name in enumerate(names)
    }
    for number, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if number >= len(sites):
            axes.set_axis_off()
            continue
        _ranges_panel(axes, sites[number], looks)
        if number % columns == 0:
            axes.set_ylabel("values per bin (logarithmic)")
    keys: list[Any] = [Line2D([], [], linewidth=1.2, label=name, **looks[name]) for name in names]
    keys.append(Patch(facecolor="#e8f0ea", label="range in use"))
    figure.legend(handles=keys, fontsize=8, frameon=False, loc="outside lower center", ncols=5)
    return figure


def _ranges_panel(axes: Any, entry: SiteHistogram, looks: dict[str, dict[str, Any]]) -> None:
    counts, edges = drawn(entry)
    axes.axvspan(*(np.clip(entry.chosen, edges[0], edges[-1])), color="#e8f0ea", zorder=0)
    axes.stairs(counts, edges, fill=True, color=PLAIN, baseline=0.5)
    axes.set_yscale("log")
    axes.set_ylim(0.5, 3 * max(1, *counts))
    for place, name in enumerate(looks):
        # Each ends at a height of its own, so that those at the same value are all seen.
        height = TOP - STEP * place
        for end in entry.thresholds.get(name, ()):
            if end != 0:
                ends = {"transform": axes.get_xaxis_transform(), "linewidth": 1, "markevery": [1]}
                axes.plot((end, end), (0, height), **ends, **looks[name])
    margin = 0.02 * (edges[-1] - edges[0])
    axes.set_xlim(edges[0] - margin, edges[-1] + margin)
    total = count(entry.histogram.count)
    axes.set_title(f"{shortened(entry.site, NAME_LETTERS)}: {total} values", loc="left", fontsize=9)
    _plain(axes)


def drawn(entry: SiteHistogram) -> tuple[list[int], list[float]]:
    """Return counts and edges of the bins that are drawn: those that were counted, joined to so many at most.

    Zero is always an edge; bins beyond the lowest and the highest value are left out.
    """
    found = entry.histogram
    low, high = (int(max(0.0, reach) / found.width) + 1 for reach in (-found.lowest, found.highest))
    low = low if found.lowest < 0 else 0
    joined = math.ceil((low + high) / BINS)
    below, above = _joined(found.below[:low], joined)[::-1], _joined(found.above[:high], joined)
    width = joined * found.width
    return below + above, [(place - len(below)) * width for place in range(len(below) + len(above) + 1)]


def _joined(counts: Any, by: int) -> list[int]:
    padded = np.zeros(math.ceil(len(counts) / by) * by, dtype=np.int64)
    padded[: len(counts)] = counts
    sums: list[int] = padded.reshape(-1, by).sum(1).tolist()
    return sums


def _worst(entries: Sequence[Any], measure: Callable[[Any], float]) -> list[Any]:
    """Return the entries of lowest measure, as many as are shown, in their order."""
    worst = {id(entry) for entry in sorted(entries, key=measure)[:ROWS]}
    return [entry for entry in entries if id(entry) in worst]


def _rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [shortened(name, NAME_LETTERS) for name in names], fontsize=7)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first one on top
    _plain(axes)
    axes.grid(visible=False, axis="y")


def _plain(axes: Any) -> None:
    axes.grid(visible=True, color="#ececec", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
