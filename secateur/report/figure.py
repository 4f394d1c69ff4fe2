"""The figure of a run: what stayed of each group, accuracy against compute, and how training went."""

import importlib.util
from pathlib import Path
from typing import Any

from secateur.files import whole_file
from secateur.graph import Plan
from secateur.record import RunRecord
from secateur.report.result import MODELS

DENSE, KEPT, ACCENT = "#c9d3cc", "#2f6b4f", "#b5532a"


def write_figure(path: Path | str, record: RunRecord, plan: Plan) -> bool:
    """Write the figure as PNG, and say whether it was possible: False without matplotlib.

    Raises:
        UsageError: the folder cannot be written.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return False
    # The bare figure, not pyplot: no window system, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    groups, accuracy, training = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    _draw_groups(groups, plan)
    _draw_accuracy(accuracy, record)
    _draw_training(training, record)
    with whole_file(path) as temporary:
        # Without the software's name and version equal runs give equal files.
        canvas.print_figure(str(temporary), format="png", dpi=110, metadata={"Software": None})
    return True


def _draw_groups(axes: Any, plan: Plan) -> None:
    names = list(plan.kept)
    positions = range(len(names))
    axes.bar(positions, [plan.sizes[name] for name in names], color=DENSE, width=0.85, label="before")
    axes.bar(positions, [len(plan.kept[name]) for name in names], color=KEPT, width=0.85, label="kept")
    axes.set(title="Units per group", ylabel="units")
    few = len(names) <= 24
    axes.set_xticks(list(positions) if few else [], names if few else [], rotation=60, ha="right", fontsize=7)
    if not few:
        axes.set_xlabel(f"{len(names)} groups, in the order of the model")
    axes.legend(frameon=False)


def _draw_accuracy(axes: Any, record: RunRecord) -> None:
    points = [
        (value.macs, 100 * value.test.top1, MODELS[key])
        for key in ("dense", "cut", "tuned")
        if (value := record.measurements.get(key)) is not None and value.macs is not None and value.test is not None
    ]
    colours = {"dense": "black", "cut": ACCENT, "fine-tuned": KEPT}
    most = max((macs for macs, _, _ in points), default=1)
    for macs, top1, title in points:
        axes.plot([macs / 1e6], [top1], "o", color=colours[title], markersize=8)
        side, offset = ("right", -9) if macs > 0.6 * most else ("left", 9)
        text = f"{title} {top1:.1f} %"
        axes.annotate(text, (macs / 1e6, top1), (offset, 0), textcoords="offset points", ha=side, va="center")
    axes.set(title="Accuracy and compute", xlabel="million MACs per sample", ylabel="test top-1 in %")
    axes.set(xlim=(0, 1.05 * most / 1e6), ylim=(0, 105))


def _draw_training(axes: Any, record: RunRecord) -> None:
    start = 0
    for phase in record.phases:
        seen = [(start + e.epoch + 1, 100 * e.validation.top1) for e in phase.epochs if e.validation]
        if seen:
            axes.plot(*zip(*seen, strict=True), marker=".", label=phase.phase)
        start += len(phase.epochs)
    axes.set(title="Training", xlabel="epoch", ylabel="validation top-1 in %")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if axes.lines:
        axes.legend(frameon=False, fontsize=8)
