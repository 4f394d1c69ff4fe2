"""The curves of a sensitivity scan as a figure and as a table: accuracy against the share removed, not retrained."""

import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from secateur.measure import FLAT, GroupSensitivity, Sensitivity, sensitive_groups
from secateur.report.drawing import can_draw, save_figure
from secateur.report.grid import Grid
from secateur.report.values import count, shortened
from secateur.report.values import share as _percent
from secateur.wording import counted

NAMED = 5  # curves of a panel that carry their name, at most; the others are grey
COLUMNS, PANELS = 3, 6  # panels beside one another, and in all
SHOWN = 12  # groups in the table
LABEL_LETTERS = 18  # of a name beside its curve

# Okabe and Ito's colours, which people with any colour vision can tell apart, dark enough on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
MARKERS = ("o", "s", "^", "D", "v")
PLAIN, DENSE = "#b9bfbb", "#222222"


def write_curves(paths: Sequence[Path | str], sensitivity: Sensitivity) -> bool:
    """Write the curves as SVG or PNG, whichever each path ends in, and say whether it was possible.

    One panel per size of group, as Figure 2 of Li et al. 2017 tells stages apart; of more than six sizes neighbours
    share one. The curves that fall most carry their names; groups that several weights produce are dotted. The same
    scan gives the same bytes.

    Args:
        paths: files ending in ``.svg`` or ``.png``.
        sensitivity: what was measured.

    Returns:
        False without matplotlib; nothing is written then.

    Raises:
        UsageError: the folder cannot be written.
    """
    if not can_draw():
        return False
    save_figure(paths, lambda: _figure(sensitivity))
    return True


def _figure(sensitivity: Sensitivity) -> Any:
    # The bare figure, not pyplot: no window system, no global state.
    from matplotlib.figure import Figure

    classes = _by_size(sensitivity)
    columns = min(COLUMNS, len(classes))
    rows = -(-len(classes) // columns)
    figure = Figure(figsize=(1 + 4.4 * columns, 1.1 + 4.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for number, axes in enumerate(panels.flat):
        if number >= len(classes):
            axes.set_axis_off()
            continue
        _panel(axes, sensitivity, classes[number])
        low, high = min(group.size for group in classes[number]), max(group.size for group in classes[number])
        axes.set_title(f"groups of {low if low == high else f'{low} to {high}'} units", fontsize=10)
        axes.tick_params(labelbottom=number + columns >= len(classes), labelleft=number % columns == 0)
    figure.supxlabel("units removed in % of the group, lowest score first", fontsize=10)
    figure.supylabel(f"{sensitivity.dense.score_name} in % on the {sensitivity.split} split", fontsize=10)
    figure.suptitle(_title(sensitivity, classes, letters=68 * columns), fontsize=10)
    return figure


def _by_size(sensitivity: Sensitivity) -> list[list[GroupSensitivity]]:
    """Return the groups of each panel: those of one size, or of neighbouring sizes where there are many."""
    sizes = sorted({group.size for group in sensitivity.groups})
    panels = min(PANELS, len(sizes))
    bounds = [len(sizes) * number // panels for number in range(panels + 1)]
    return [
        [group for group in sensitivity.groups if group.size in sizes[first:end]] for first, end in pairwise(bounds)
    ]


def _title(sensitivity: Sensitivity, classes: Sequence[Sequence[GroupSensitivity]], *, letters: int) -> str:
    model = sensitivity.settings.get("model")
    name = model["spec"] if isinstance(model, dict) and "spec" in model else sensitivity.model_class
    lines = [
        f"Sensitivity of {name}: each group cut alone, not retrained "
        f"(criterion {sensitivity.criterion or 'of the caller'}, {counted(sensitivity.dense.samples, 'sample')})"
    ]
    keys = ["dotted: several layers that can only be cut together"] * any(group.tied for group in sensitivity.groups)
    keys += ["grey: the flatter curves of a panel"] * any(_named(sensitivity, groups)[1] for groups in classes)
    lines.append("; ".join(keys))
    return "\n".join(textwrap.fill(line, letters) for line in lines if line)


def _panel(axes: Any, sensitivity: Sensitivity, groups: list[GroupSensitivity]) -> None:
    dense = 100 * sensitivity.dense.score
    last = 100 * sensitivity.shares[-1]
    axes.plot((0, last), (dense, dense), color=DENSE, linestyle="--", linewidth=1, zorder=1.8)
    axes.text(0.02 * last, dense + 1, f"dense {dense:.1f} %", fontsize=8, color=DENSE, va="bottom")
    named, others = _named(sensitivity, groups)
    for group in others:
        axes.plot(*_curve(group, dense), color=PLAIN, linewidth=1, linestyle=_line(group), zorder=1.5)
    labels = []
    for number, group in enumerate(named):
        colour = COLOURS[number % len(COLOURS)]
        xs, ys = _curve(group, dense)
        axes.plot(xs, ys, color=colour, linewidth=1.6, linestyle=_line(group), marker=MARKERS[number], markersize=4)
        labels.append((ys[-1], group.name, colour))
    for place, (height, name, colour) in zip(_spread([entry[0] for entry in labels]), labels, strict=True):
        axes.annotate(
            shortened(name, LABEL_LETTERS),
            (last, height),
            (1.045 * last, place),
            fontsize=8,
            color=colour,
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2},
            annotation_clip=False,
        )
    axes.set(xlim=(0, 1.45 * last), ylim=(0, 107))
    axes.set_xticks([tick for tick in range(0, 101, 20) if tick <= last + 5])
    axes.grid(visible=True, color="#ececec", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines["bottom"].set_bounds(0, last)  # names stand to its right


def sensitivity_grid(sensitivity: Sensitivity, *, share: float) -> Grid:
    """Return the most sensitive groups, compared at one share of their units.

    Raises:
        UsageError: that share was not measured.
    """
    ranked = sensitive_groups(sensitivity, share=share)
    rows = []
    for entry in ranked[:SHOWN]:
        point = entry.group.at(share)
        rows.append(
            (
                entry.group.name,
                "several layers" if entry.group.tied else "one layer",
                f"{point.kept} of {entry.group.size}",
                _percent(point.evaluation.score, 1),
                _points(-entry.drop),
                _points(-entry.mean_drop),
                _percent(entry.flat_until, 0),
                _percent(point.macs_left, 1),
            )
        )
    more = f", the {SHOWN} steepest of {len(ranked)}" if len(ranked) > SHOWN else ""
    title = f"Sensitivity: each group alone, {_percent(share, 0)} of its units removed, not retrained{more}"
    headers = (
        "group",
        "made by",
        "kept",
        sensitivity.dense.score_name,
        "points",
        "mean points",
        "flat until",
        "MACs left",
    )
    return Grid(title, headers, tuple(rows), left=2)


def sensitivity_facts(sensitivity: Sensitivity) -> tuple[tuple[str, str], ...]:
    """Return what belongs to the table: the dense model, what the columns mean, and which groups have no curve."""
    dense = sensitivity.dense
    facts = [
        (
            "dense",
            f"{dense.score_name} {_percent(dense.score)} on {counted(dense.samples, 'sample')} ({sensitivity.split}), "
            f"{count(sensitivity.macs)} MACs",
        ),
        (
            "columns",
            f"points: change of {dense.score_name} at this share; mean points: over all shares; flat until: share up "
            "to which no more than 1 point is lost",
        ),
    ]
    if sensitivity.left_out:
        names = list(sensitivity.left_out)
        shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        facts.append(("no curve", f"{counted(len(names), 'group')}: {shown}; sensitivity.json says why"))
    facts += [("note", note) for note in sensitivity.notes]
    return tuple(facts)


def _points(change: float) -> str:
    """Return a change of a score in points, without a minus before zero."""
    return f"{round(100 * change, 1) + 0.0:+.1f}"


def _curve(group: GroupSensitivity, dense: float) -> tuple[list[float], list[float]]:
    """Return the shares and the scores, both in percent, beginning with the dense model."""
    xs = [0.0, *(100 * point.share for point in group.points)]
    return xs, [dense, *(100 * point.evaluation.score for point in group.points)]


def _named(
    sensitivity: Sensitivity, groups: Sequence[GroupSensitivity]
) -> tuple[list[GroupSensitivity], list[GroupSensitivity]]:
    """Return the groups whose curves carry names, the steepest first, and the others: those that fall less, or not."""
    ranked = sorted(groups, key=lambda group: sum(point.evaluation.score for point in group.points))
    floor = sensitivity.dense.score - FLAT
    falling = [group for group in ranked if min(point.evaluation.score for point in group.points) < floor]
    named = falling[:NAMED]
    return named, [group for group in ranked if group not in named]


def _line(group: GroupSensitivity) -> Any:
    return (0, (1.2, 1.2)) if group.tied else "-"


def _spread(heights: Sequence[float], gap: float = 5.0, low: float = 3.0, high: float = 102.0) -> list[float]:
    """Return places for labels in the order given: ``gap`` apart, around their heights, inside [low, high]."""
    order = sorted(range(len(heights)), key=lambda number: heights[number])
    blocks: list[list[int]] = []  # labels that stand together, each block around the mean of its heights

    def begin(block: list[int]) -> float:
        length = gap * (len(block) - 1)
        centre = sum(heights[number] for number in block) / len(block)
        return min(max(centre - length / 2, low), high - length)

    for number in order:
        blocks.append([number])
        while len(blocks) > 1 and begin(blocks[-1]) < begin(blocks[-2]) + gap * len(blocks[-2]):
            upper = blocks.pop()
            blocks[-1] += upper
    places = {number: begin(block) + gap * place for block in blocks for place, number in enumerate(block)}
    return [places[number] for number in range(len(heights))]
