"""Figures of sparsity by level (`sparsity_levels.py`) and of LeNet-300-100's trade-off (`lenet_figures.py`)."""

import itertools
import statistics
from typing import Any

LEVELS = {"weight": ("#0072b2", "o"), "kernel": ("#009e73", "s"), "filter": ("#d55e00", "^"), "layer": ("#cc79a7", "D")}
"""Colours and marks."""

TRADEOFF_ARMS = {
    "l2-retrained": ("L2, retrained", "#0072b2", "-", "o"),
    "l1-retrained": ("L1, retrained", "#d55e00", "-", "s"),
    "l2-iterative": ("L2, iterative", "#009e73", "-", "D"),
    "l2": ("L2, not retrained", "#0072b2", ":", "o"),
    "l1": ("L1, not retrained", "#d55e00", ":", "s"),
}
"""Titles and looks; in the paper's Figure 5 the same five lines."""


def levels_figure(record: dict[str, Any]) -> Any:
    """Return accuracy against the parameters left: a colour per level, dashed in one cut, solid in several."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    drawn = Figure(figsize=(7.2, 4.8), layout="constrained")
    axis = drawn.subplots()
    dense, params = 100 * record["dense_test_top1"], record["dense_params"]
    axis.axhline(dense, color="#222222", linewidth=0.9, linestyle=":")
    axis.text(100, dense + 0.6, f"dense, {dense:.1f} %", fontsize=8, ha="left", va="bottom")
    for level, schedule in itertools.product(LEVELS, ("once", "iterative")):
        found = [
            (100 * statistics.fmean(r["params_left"]) / params, [100 * one for one in r["test_top1"]])
            for r in record["rows"]
            if r["level"] == level and r["schedule"] == schedule and "mean" in r
        ]
        found.sort()
        xs, means = [x for x, _ in found], [statistics.fmean(ys) for _, ys in found]
        low, high = [min(ys) for _, ys in found], [max(ys) for _, ys in found]
        colour = LEVELS[level][0]
        axis.fill_between(xs, low, high, color=colour, alpha=0.12, linewidth=0)
        line = "--" if schedule == "once" else "-"
        full = colour if schedule == "iterative" else "white"
        axis.plot(xs, means, color=colour, marker=LEVELS[level][1], markersize=5, linestyle=line, mfc=full)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator([5, 10, 20, 50, 100]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlim(105, 4.4)  # more zeros to the right
    axis.set_xlabel(f"parameters that are left, % of {params:,} (logarithmic)")
    axis.set_ylabel("test top-1, %")
    axis.grid(color="#ececec", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    levels = [
        Line2D([], [], color=LEVELS[one][0], marker=LEVELS[one][1], markersize=5, label=f"{one}s") for one in LEVELS
    ]
    plain = {"color": "#555555", "marker": "o", "markersize": 5}
    ways = [
        Line2D([], [], linestyle="-", label="several cuts, training between", **plain),
        Line2D([], [], linestyle="--", markerfacecolor="white", label="one cut", **plain),
    ]
    axis.legend(handles=[*levels, *ways], fontsize=8, loc="lower left", frameon=False, handlelength=3)
    return drawn


def tradeoff_figure(record: dict[str, Any]) -> Any:
    """Return accuracy against the share of parameters gone, relative to the dense L2 networks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    dense = 100 * statistics.fmean(record["dense_error"]["l2"])
    axes.axhline(0, color="#222222", linewidth=0.9, linestyle="--")
    for arm, (title, colour, line, marker) in TRADEOFF_ARMS.items():
        rows = [row for row in record["rows"] if row["arm"] == arm]
        xs = [100 * row["share"] for row in rows]
        low, high = ([dense - 100 * pick(row["test_error"]) for row in rows] for pick in (max, min))
        axes.fill_between(xs, low, high, color=colour, alpha=0.12, linewidth=0)
        full = "white" if line == ":" else colour
        means = [dense - 100 * row["mean"] for row in rows]
        axes.plot(
            xs, means, color=colour, linestyle=line, marker=marker, markersize=5, markerfacecolor=full, label=title
        )
    axes.set_ylim(-5, 0.6)  # what is not retrained falls to guessing
    axes.set_xlabel("parameters that are gone, %")
    axes.set_ylabel(f"test accuracy against dense ({100 - dense:.2f} %), points")
    axes.grid(color="#ececec", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False, loc="lower left")
    return figure
