"""The figure of a run: what stayed of each group, accuracy against compute, and how training went."""

import math
import re
from collections.abc import Sequence
from itertools import cycle, groupby
from pathlib import Path
from typing import Any

from secateur.graph import Plan
from secateur.record import PrunedWeights, RunRecord, TrainResult
from secateur.report.drawing import can_draw, save_figure
from secateur.report.result import model_titles, score_name
from secateur.report.values import count, share, shortened
from secateur.wording import counted

DENSE, KEPT, ACCENT = "#c9d3cc", "#2f6b4f", "#b5532a"

LOOKS = {
    # From the largest mark to the smallest, so that a point on top of another leaves its rim to be seen.
    "cut": {"marker": "s", "markersize": 12, "color": ACCENT, "markeredgecolor": "white"},
    "dense": {"marker": "D", "markersize": 8.5, "color": "black", "markeredgecolor": "white"},
    "tuned": {"marker": "o", "markersize": 7.5, "color": KEPT, "markeredgecolor": "white"},
}
"""Marks of the measured models, which shape tells apart as well as colour, in the order they are drawn."""

PHASES = {"dense": "black", "finetune": KEPT, "scratch": KEPT}
"""Colours of phases: those of the models that come out of them."""

OTHER_PHASES = (ACCENT, "#3d6ea5", "#8a6fb0", "#b08a2e")
SLANTED, UPRIGHT = 24, 48  # groups with slanted names, and with upright ones; of more only the number is given
NAME_LETTERS = 22  # of a group's name below its bar
LEAST_BARS = 6  # a plan of fewer groups leaves room at the sides rather than widen its bars


def write_figure(path: Path | str, record: RunRecord, plan: Plan) -> bool:
    """Write the figure as PNG, and say whether it was possible: False without matplotlib.

    Raises:
        UsageError: the folder cannot be written.
    """
    if not can_draw():
        return False
    save_figure([path], lambda: _figure(record, plan))
    return True


def legend_below(axes: Any, *, columns: int = 1, handles: Sequence[Any] | None = None) -> None:
    """Put the legend under the axes, where it hides nothing.

    Args:
        axes: of matplotlib.
        columns: of the legend.
        handles: what it names, in this order; None for all that has a label, as it was drawn.
    """
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.15),
        ncols=columns,
        frameon=False,
        fontsize=9,
        borderaxespad=0,
        columnspacing=1.4,
    )


def _figure(record: RunRecord, plan: Plan) -> Any:
    # The bare figure, not pyplot: no window system, no global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.5, 4.9), layout="constrained")
    groups, accuracy, training = figure.subplots(1, 3, width_ratios=(2, 1.15, 1.15))
    if record.weights is not None and plan.is_empty:
        _draw_weights(groups, record.weights)
    else:
        _draw_groups(groups, plan)
    _draw_accuracy(accuracy, record)
    _draw_training(training, record.phases, score_name(record))
    for axes in (groups, accuracy, training):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    for axes in (accuracy, training):
        axes.grid(visible=True, color="#ececec", linewidth=0.6)
    return figure


def _draw_groups(axes: Any, plan: Plan) -> None:
    """Draw what stays of each group; or, where blocks alone go, how much went with each."""
    if plan.drops and not plan.kept:
        _draw_blocks(axes, plan)
        return
    names = list(plan.kept)
    positions = range(len(names))
    axes.bar(positions, [plan.sizes[name] for name in names], color=DENSE, width=0.85, label="before")
    axes.bar(positions, [len(plan.kept[name]) for name in names], color=KEPT, width=0.85, label="kept")
    blocks = f", and {counted(len(plan.drops), 'block')} dropped whole" if plan.drops else ""
    axes.set_title(f"Units per group{blocks}", loc="left")
    axes.set_ylabel("units")
    _name_bars(axes, names, "group")
    # Names below the axes have any length, so this legend stands beside the title.
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=9, borderaxespad=0.2)


def _draw_weights(axes: Any, found: PrunedWeights) -> None:
    """Draw what stays of each layer's weights; shares, because sizes of layers differ by orders of magnitude."""
    names = [layer.name for layer in found.layers]
    positions = range(len(names))
    axes.bar(positions, [100.0] * len(names), color=DENSE, width=0.85, label="zero")
    axes.bar(positions, [100 * layer.density for layer in found.layers], color=KEPT, width=0.85, label="kept")
    axes.set_title("Weights per layer", loc="left")
    axes.set_ylabel("% of the layer's weights")
    _name_bars(axes, names, "layer")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=9, borderaxespad=0.2)


def _draw_blocks(axes: Any, plan: Plan) -> None:
    lost = [
        sum(math.prod(shape) for name, shape in plan.shapes.items() if drop.covers(name)) / 1000 for drop in plan.drops
    ]
    axes.bar(range(len(lost)), lost, color=ACCENT, width=0.85)
    axes.set_title(f"What went with {counted(len(lost), 'dropped block')}", loc="left")
    axes.set_ylabel("thousand parameters and buffer values")
    _name_bars(axes, plan.dropped_blocks, "block")


def _name_bars(axes: Any, names: Sequence[str], what: str) -> None:
    room = max(len(names), LEAST_BARS) / 2
    axes.set_xlim((len(names) - 1) / 2 - room, (len(names) - 1) / 2 + room)
    if len(names) > UPRIGHT:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(names)} {what}s, in the order of the model")
        return
    slanted = {"rotation": 60, "ha": "right", "rotation_mode": "anchor", "fontsize": 7}
    looks = slanted if len(names) <= SLANTED else {"rotation": 90, "fontsize": 6}
    axes.set_xticks(range(len(names)), [shortened(name, NAME_LETTERS) for name in names], **looks)


def _draw_accuracy(axes: Any, record: RunRecord) -> None:
    titles = model_titles(record)
    most, marks = 1, {}
    for key, looks in LOOKS.items():
        value = record.measurements.get(key)
        cost = None if value is None else value.macs if record.weights is None else value.nonzeros
        if value is None or cost is None or value.test is None:
            continue
        most = max(most, cost)
        what = "MACs" if record.weights is None else "non-zeros"
        label = f"{titles[key]}: {share(value.test.score, 1)} at {count(cost)} {what}"
        (marks[key],) = axes.plot([cost / 1e6], [100 * value.test.score], linestyle="none", label=label, **looks)
    axes.set_title("Accuracy and compute" if record.weights is None else "Accuracy and weights", loc="left")
    axes.set(
        xlabel="million MACs per sample" if record.weights is None else "million parameters that are not 0",
        ylabel=f"test {score_name(record)} in %",
        xlim=(0, 1.07 * most / 1e6),
        ylim=(0, 105),
    )
    if marks:
        legend_below(axes, handles=[marks[key] for key in titles if key in marks])


def _draw_training(axes: Any, phases: Sequence[TrainResult], name: str) -> None:
    curves, start = [], 0
    for phase in phases:
        seen = [(start + e.epoch + 1, 100 * e.validation.score) for e in phase.epochs if e.validation]
        curves += [(phase.phase, seen)] if seen else []
        start += len(phase.epochs)
    # Phases that differ in their number alone, one per layer or step, share a colour and a line of the legend.
    kinds = [list(alike) for _, alike in groupby(curves, key=lambda curve: re.sub(r"\d+$", "", curve[0]))]
    others = cycle(OTHER_PHASES)
    for kind in kinds:
        colour = PHASES.get(kind[0][0]) or next(others)
        label = kind[0][0] if len(kind) == 1 else f"{kind[0][0]} … {kind[-1][0]}"
        for _, seen in kind:
            axes.plot(*zip(*seen, strict=True), "o-", markersize=4, color=colour, label=label)
            label = "_"  # in the legend once
    axes.set_title("Training", loc="left")
    axes.set(xlabel="epoch", ylabel=f"validation {name} in %", xlim=(0.5, max(start, 1) + 0.5))
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if not curves:
        text = "accuracy was not measured\nduring training" if start else "nothing was trained"
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=9)
        axes.set_yticks([])
        return
    heights = [height for _, seen in curves for _, height in seen]
    axes.set_ylim(max(-0.5, min(heights) - 5), min(101, max(10, max(heights) + 5)))
    legend_below(axes, columns=2 if len(kinds) > 3 else 1)
