"""The steps of an iterative method as figures: scores, what is kept over time, accuracy against compute."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secateur.record import PruningStep, RunRecord, write_steps
from secateur.report.drawing import can_draw, save_figure
from secateur.report.figure import ACCENT, DENSE, KEPT, LOOKS, OTHER_PHASES, legend_below
from secateur.report.result import model_titles
from secateur.report.step_scores import of_blocks, score_figure, whole_sizes
from secateur.report.values import count, share, shortened

STEP_FILES = {
    "steps": "steps.json",
    "steps_scores_png": "steps-scores.png",
    "steps_scores_svg": "steps-scores.svg",
    "steps_kept_png": "steps-kept.png",
    "steps_kept_svg": "steps-kept.svg",
    "steps_accuracy_png": "steps-accuracy.png",
    "steps_accuracy_svg": "steps-accuracy.svg",
}
"""What :func:`write_pruning_steps` writes, by what it is."""

NAMED_ROWS = 64  # rows with a name of their own; of more every second, third … has one
LONGEST_NAME = 28  # letters
MARKS = ("s", "v", "^", "P")
"""Of the kinds of what came before a step; more kinds share the last. The dense and the final model have others."""


def write_pruning_steps(
    folder: Path | str, steps: Sequence[PruningStep], record: RunRecord | None = None
) -> dict[str, str]:
    """Write what the steps of a run saw and left: the data, and figures of it where matplotlib is installed.

    Args:
        folder: the run directory.
        steps: of the method, in order.
        record: what the run measured: adds the dense and the final model to the curve of accuracy.

    Returns:
        What was written: keys and names of :data:`STEP_FILES`. Nothing without steps; without any measured accuracy
        there is no curve.

    Raises:
        UsageError: the folder cannot be written.
    """
    if not steps:
        return {}
    folder = Path(folder)
    write_steps(folder / STEP_FILES["steps"], steps)
    written = ["steps"]
    if can_draw():
        figures = {"scores": lambda: score_figure(steps), "kept": lambda: kept_figure(steps)}
        if any(step.accuracy is not None for step in steps):
            figures["accuracy"] = lambda: accuracy_figure(steps, record)
        for name, figure in figures.items():
            keys = [f"steps_{name}_{kind}" for kind in ("png", "svg")]
            save_figure([folder / STEP_FILES[key] for key in keys], figure)
            written += keys
    return {key: STEP_FILES[key] for key in written}


def kept_figure(steps: Sequence[PruningStep]) -> Any:
    """Return the share of its units that each layer keeps, or whether each block stays; a column per step."""
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    sizes, blocks = whole_sizes(steps), of_blocks(steps)
    names = list(sizes)
    shares = np.ones((len(names), len(steps) + 1))  # the first column is the dense model
    for row, name in enumerate(names):
        left = sizes[name]
        for column, step in enumerate(steps, start=1):
            left = step.kept.get(name, left)
            shares[row, column] = left / sizes[name]
    left_at_end = np.rint(shares[:, -1] * list(sizes.values())).astype(int)

    height = 1.5 + 0.19 * min(max(len(names), 6), 2 * NAMED_ROWS)
    figure = Figure(figsize=(11, height), layout="constrained")
    axes: Any = figure.subplots()
    colours = LinearSegmentedColormap.from_list("kept", (ACCENT, "#f4efe4", KEPT))
    image = axes.imshow(
        100 * shares,
        aspect="auto",
        interpolation="nearest",
        cmap=colours,
        vmin=0,
        vmax=100,
        extent=(steps[0].number - 1.5, steps[-1].number + 0.5, len(names) - 0.5, -0.5),
    )
    every = -(-len(names) // NAMED_ROWS)
    rows = range(0, len(names), every)
    axes.set_yticks(rows, [shortened(names[row], LONGEST_NAME) for row in rows], fontsize=7)
    right = axes.secondary_yaxis("right")
    if blocks:
        ends = ["stays" if left_at_end[row] else "dropped" for row in rows]
    else:
        ends = [f"{left_at_end[row]} of {sizes[names[row]]}" for row in rows]
    right.set_yticks(rows, ends, fontsize=7)
    for ticks in (axes, right):
        ticks.tick_params(length=0)
    axes.spines[:].set_visible(False)
    right.spines[:].set_visible(False)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.set_xlabel(f"step ({steps[0].number - 1}: before the first cut)")
    what = "Blocks kept" if blocks else "Units kept per layer"
    axes.set_title(f"{what}, in the order of the network; on the right: after the last step", loc="left")
    if not blocks:  # of which all or nothing is kept
        bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 4 / height), aspect=18, pad=0.02)
        bar.set_label("kept in %")
        bar.outline.set_visible(False)
    return figure


def accuracy_figure(steps: Sequence[PruningStep], record: RunRecord | None = None) -> Any:
    """Return validation accuracy against multiply-adds, a point per step right after its cut."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.2, 5.2), layout="constrained")
    axes: Any = figure.subplots()
    seen = [(step.macs / 1e6, 100 * step.accuracy, _kind(step.phase)) for step in steps if step.accuracy is not None]
    axes.plot([x for x, _, _ in seen], [y for _, y, _ in seen], color=DENSE, linewidth=1, zorder=1.5)
    kinds = list(dict.fromkeys(kind for _, _, kind in seen))
    looks_of = list(zip(MARKS, OTHER_PHASES, strict=True))
    for number, kind in enumerate(kinds):
        points = [(x, y) for x, y, other in seen if other == kind]
        mark, colour = looks_of[min(number, len(looks_of) - 1)]
        size = 6 if len(seen) <= 30 else 3.5
        label = f"right after a {'drop' if of_blocks(steps) else 'cut'} (phase before it: {kind})"
        axes.plot(*zip(*points, strict=True), mark, markersize=size, color=colour, label=label)
    widths, heights = [x for x, _, _ in seen], [y for _, y, _ in seen]
    for key, looks in LOOKS.items():
        value = record.measurements.get(key) if record is not None and key != "cut" else None
        if record is None or value is None or value.macs is None or value.validation is None:
            continue
        x, y = value.macs / 1e6, 100 * value.validation.score
        widths, heights = [*widths, x], [*heights, y]
        label = f"{model_titles(record)[key]}: {share(y / 100, 1)} at {count(value.macs)} MACs"
        axes.plot([x], [y], linestyle="none", label=label, **looks)
    room, side = max(1.0, 0.06 * (max(heights) - min(heights))), 0.06 * (max(widths) - min(widths) or max(widths))
    axes.set_ylim(max(-1.0, min(heights) - room), min(102.0, max(heights) + room))
    axes.set_xlim(min(widths) - side, max(widths) + side)
    axes.set(xlabel="million MACs per sample", ylabel="validation accuracy in %")
    axes.set_title("Accuracy against compute, step by step", loc="left")
    axes.grid(visible=True, color="#ececec", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    legend_below(axes, columns=2)
    return figure


def _kind(phase: str) -> str:
    """Return what a phase is, whatever its number: ``tock-3`` and ``tock-4`` are of one kind."""
    return re.sub(r"[-\s]?\d+$", "", phase) or phase
