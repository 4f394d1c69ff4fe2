"""How the scores of each layer are spread at each step: one small panel per layer or block, all on one scale."""

import math
from collections.abc import Sequence
from typing import Any

from secateur.record import PruningStep
from secateur.report.figure import ACCENT, KEPT
from secateur.report.values import shortened

PANELS = 48  # in all; of more layers every second, third … is shown
COLUMNS = 6
FEW, MANY = 12, 50  # steps: with more, bands take the place of bars; marks become smaller
NARROW = 20  # scores within this factor have a linear scale
DECADES = 8  # that the scale shows below the highest score
LONGEST_NAME = 20  # letters in the title of a panel
PALE = "#bcd2c6"


def whole_sizes(steps: Sequence[PruningStep]) -> dict[str, int]:
    """Return the layers that have scores, in order, and how many units each had before its first cut."""
    sizes: dict[str, int] = {}
    for step in steps:
        for name, scores in step.scores.items():
            sizes.setdefault(name, len(scores))
    return sizes


def of_blocks(steps: Sequence[PruningStep]) -> bool:
    """Say whether the steps took whole blocks, which have one score each."""
    return all(step.level == "block" for step in steps)


def score_figure(steps: Sequence[PruningStep]) -> Any:
    """Return the spread of the scores per layer over the steps: extremes, deciles and median, and where was cut."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    sizes = whole_sizes(steps)
    names = list(sizes)[:: -(-len(sizes) // PANELS)]
    # The number of columns that leaves the fewest places empty.
    columns = min(range(COLUMNS, 3, -1), key=lambda wide: -len(names) % wide) if len(names) > COLUMNS else len(names)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(max(6.0, 1 + 2.2 * columns), 1.5 + 1.55 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    low, high, logarithmic = _scale(steps)
    first = panels[0, 0]
    if logarithmic:
        first.set_yscale("log")
    first.set_ylim(low, high)
    first.set_xlim(steps[0].number - 0.7, steps[-1].number + 0.7)
    first.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1, nbins=4 if len(steps) > FEW else 6)
    for number, axes in enumerate(panels.flat):
        if number >= len(names):
            axes.set_axis_off()
            continue
        _panel(axes, steps, names[number], sizes[names[number]], bottom=low if logarithmic else -math.inf)
        # The last panel of a column may stand above an empty place.
        last = number + columns >= len(names)
        axes.tick_params(which="both", labelbottom=last, labelsize=7)
        if last:
            axes.set_xlabel("step", fontsize=8)
    layers = "blocks" if of_blocks(steps) else "layers"
    more = f" ({len(names)} of {len(sizes)} {layers})" if len(names) < len(sizes) else ""
    zeros = "; scores of 0 lie on the lower edge" if logarithmic and _has_zeros(steps) else ""
    went: dict[str, Any] = {"color": ACCENT, "marker": "v", "markersize": 4, "linestyle": "none"}
    if of_blocks(steps):
        title, unit = "Score of each block before each drop", "block"
        keys: list[Any] = [
            Line2D([], [], color="black", label="score"),
            Line2D([], [], label="score of what was dropped", **went),
        ]
    else:
        title, unit = "Scores per layer before each cut", "unit"
        keys = [
            Patch(color=PALE, label="lowest to highest"),
            Patch(color=KEPT, alpha=0.55, label="middle 80 %"),
            Line2D([], [], color="black", linewidth=1.2, label="median"),
            Line2D([], [], label="highest score that was cut", **went),
        ]
    figure.suptitle(f"{title}{more}{zeros}", fontsize=11)
    figure.supylabel(f"score of a {unit}", fontsize=9)
    figure.legend(handles=keys, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _panel(axes: Any, steps: Sequence[PruningStep], name: str, size: int, *, bottom: float) -> None:
    own = [step for step in steps if step.scores.get(name)]
    numbers = [step.number for step in own]
    spreads = [[max(value, bottom) for value in _spread(step.scores[name])] for step in own]
    lowest, tenth, median, ninetieth, highest = map(list, zip(*spreads, strict=True))
    if len(steps) <= FEW:
        axes.vlines(numbers, lowest, highest, color=PALE, linewidth=3)
        axes.vlines(numbers, tenth, ninetieth, color=KEPT, alpha=0.55, linewidth=3)
        axes.plot(numbers, median, "_", color="black", markersize=5)
    else:
        axes.fill_between(numbers, lowest, highest, color=PALE, linewidth=0)
        axes.fill_between(numbers, tenth, ninetieth, color=KEPT, alpha=0.55, linewidth=0)
        axes.plot(numbers, median, color="black", linewidth=0.9)
    cut = [(step.number, max(value, bottom)) for step in own if (value := _highest_cut(step, name)) is not None]
    if cut:
        mark = 4 if len(steps) <= FEW else 3 if len(steps) <= MANY else 2
        axes.plot(*zip(*cut, strict=True), "v", color=ACCENT, markersize=mark, markeredgewidth=0, clip_on=False)
    left = own[-1].kept.get(name, size)
    change = f"{size}→{left}" if not of_blocks(steps) else "stays" if left else "dropped"
    axes.set_title(f"{shortened(name, LONGEST_NAME)}  {change}", fontsize=7, pad=3)
    axes.grid(visible=True, axis="y", color="#ececec", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _spread(scores: Sequence[float]) -> tuple[float, float, float, float, float]:
    """Return the lowest, the first decile, the median, the last decile and the highest score."""
    ordered = sorted(scores)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        below = math.floor(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    return at(0.0), at(0.1), at(0.5), at(0.9), at(1.0)


def _highest_cut(step: PruningStep, name: str) -> float | None:
    """Return the highest score among as many of the lowest as the step took from a layer; None if it took none."""
    scores = sorted(step.scores[name])
    gone = len(scores) - step.kept.get(name, len(scores))
    return scores[gone - 1] if gone > 0 else None


def _scale(steps: Sequence[PruningStep]) -> tuple[float, float, bool]:
    """Return the limits of the scale, and whether it is logarithmic: unless scores are near together or negative."""
    values = [value for step in steps for scores in step.scores.values() for value in scores if math.isfinite(value)]
    lowest, highest = min(values, default=0.0), max(values, default=1.0)
    positive = [value for value in values if value > 0]
    if lowest < 0 or not positive:
        room = 0.05 * (highest - lowest) or 1.0
        return lowest - room, highest + room, False
    if highest < NARROW * lowest:
        return 0.0, 1.1 * highest, False
    floor = max(min(positive), highest * 10.0**-DECADES)
    return floor / 1.6, highest * 1.6, True


def _has_zeros(steps: Sequence[PruningStep]) -> bool:
    return any(value == 0 for step in steps for scores in step.scores.values() for value in scores)
