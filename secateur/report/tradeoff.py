"""Accuracy against budget, from the candidates of a search: a figure, a table, and both on a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from secateur.files import write_text
from secateur.record import Evaluation
from secateur.report.drawing import can_draw, save_figure
from secateur.report.figure import ACCENT, DENSE, KEPT, legend_below
from secateur.report.grid import Grid
from secateur.report.values import NOTHING, count, share
from secateur.wording import counted

NAMES = {
    "macs": "MACs",
    "params": "parameters",
    "nonzeros": "stored weights",
    "size_bytes": "bytes of the file",
    "activation_bytes": "bytes of activations",
    "latency_ms": "milliseconds",
}
"""Quantities of a budget, and what they are called."""


class TradeoffPoint(Protocol):
    """One candidate; ``secateur.methods.smallest.Candidate`` is one."""

    @property
    def share(self) -> float:
        """Share of the original's amount that was asked for."""

    @property
    def reached(self) -> float | None:
        """Share that is left; None where nothing could be cut."""

    @property
    def macs(self) -> int | None:
        """Multiply-adds per sample."""

    @property
    def params(self) -> int | None:
        """Parameters."""

    @property
    def after_cut(self) -> Evaluation | None:
        """On the validation split, before any recovery."""

    @property
    def validation(self) -> Evaluation | None:
        """On the validation split, after the recovery."""

    @property
    def drop_points(self) -> float | None:
        """Percentage points of the score below the dense model."""

    @property
    def within(self) -> bool:
        """Whether that is near enough."""

    @property
    def reason(self) -> str | None:
        """Why the budget cannot be met."""


class Tradeoff(Protocol):
    """What is shown; ``secateur.methods.smallest.Search`` is one."""

    @property
    def amount(self) -> str:
        """The quantity that was made small, a name of Budget's."""

    @property
    def max_drop_points(self) -> float:
        """Percentage points of the validation score that may be lost."""

    @property
    def recovery_epochs(self) -> int:
        """Passes over the training data that every candidate got."""

    @property
    def share(self) -> float | None:
        """Of the candidate that was chosen; None where none was near enough."""

    @property
    def dense(self) -> Evaluation:
        """The dense model on the validation split."""

    @property
    def standard_error_points(self) -> float:
        """Of the dense model's score, in percentage points; 0 where nobody knows it."""

    @property
    def curve(self) -> Sequence[TradeoffPoint]:
        """The candidates by rising share."""

    @property
    def notes(self) -> Sequence[str]:
        """Anything else that a reader must know."""


def tradeoff_grid(tradeoff: Tradeoff) -> Grid:
    """Return one row per candidate, the largest first, below the dense model."""
    rows = [("dense", NOTHING, NOTHING, NOTHING, NOTHING, share(tradeoff.dense.score), NOTHING, "")]
    for point in reversed(tradeoff.curve):
        rows.append(
            (
                f"{100 * point.share:.4g} %",
                share(point.reached, 1),
                count(point.macs),
                count(point.params),
                share(point.after_cut.score if point.after_cut else None),
                share(point.validation.score if point.validation else None),
                NOTHING if point.drop_points is None else f"{point.drop_points:.2f}",
                _verdict(point, tradeoff),
            )
        )
    return Grid(
        title=f"Accuracy against {NAMES[tradeoff.amount]}, on {tradeoff.dense.samples:,} validation samples",
        headers=(
            f"{NAMES[tradeoff.amount]} allowed",
            "left",
            "MACs",
            "parameters",
            f"{tradeoff.dense.score_name} after the cut",
            f"after {_epochs(tradeoff)}",
            "points lost",
            f"at most {tradeoff.max_drop_points:g}",
        ),
        rows=tuple(rows),
    )


def tradeoff_markdown(tradeoff: Tradeoff, *, figure: str | None = None) -> str:
    """Return a section for a page: what was chosen, the figure, the table, the notes.

    Args:
        tradeoff: what was measured.
        figure: path of the picture, from the page.
    """
    grid = tradeoff_grid(tradeoff)
    chosen = _chosen(tradeoff)
    name, points = tradeoff.dense.score_name, tradeoff.max_drop_points
    near = f"{name} after {_epochs(tradeoff)} is at most {points:g} points below the dense model's."
    parts = [
        f"## {grid.title}",
        f"No budget was tried whose {near}"
        if chosen is None
        else f"{100 * chosen.share:.4g} % of the {NAMES[tradeoff.amount]} is the smallest budget tried whose {near} "
        "The samples that chose the budget flatter it; the test split took no part.",
        *([f"![validation accuracy against the share left]({figure})"] if figure else []),
        grid.to_markdown(),
        *(["\n".join(f"* {note}" for note in tradeoff.notes)] if tradeoff.notes else []),
    ]
    return "\n\n".join(parts) + "\n"


def write_tradeoff(folder: Path | str, tradeoff: Tradeoff) -> tuple[str, ...]:
    """Write ``tradeoff.md`` and, where matplotlib is installed, ``tradeoff.png`` and ``tradeoff.svg``.

    Args:
        folder: the run directory.
        tradeoff: what was measured.

    Returns:
        The names of the files written.

    Raises:
        UsageError: the folder cannot be written.
    """
    folder = Path(folder)
    figures = ("tradeoff.png", "tradeoff.svg")
    drawn = write_tradeoff_figure([folder / name for name in figures], tradeoff)
    write_text(folder / "tradeoff.md", tradeoff_markdown(tradeoff, figure=figures[0] if drawn else None))
    return ("tradeoff.md", *(figures if drawn else ()))


def write_tradeoff_figure(paths: Sequence[Path | str], tradeoff: Tradeoff) -> bool:
    """Write the figure as SVG or PNG, whichever each path ends in, and say whether it was possible.

    Left, accuracy after the recovery and right after the cut, over all candidates; right, a close-up of what the
    recovery leaves lost, beside the limit. The same search gives the same bytes.

    Returns:
        False without matplotlib, or where nothing could be cut; nothing is written then.

    Raises:
        UsageError: the folder cannot be written.
    """
    if not can_draw() or not any(point.validation for point in tradeoff.curve):
        return False
    save_figure(paths, lambda: _figure(tradeoff))
    return True


def _figure(tradeoff: Tradeoff) -> Any:
    # The bare figure, not pyplot: no window system, no global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.5, 5.1), layout="constrained")
    whole, close = figure.subplots(1, 2)
    _draw_whole(whole, tradeoff)
    _draw_close(close, tradeoff)
    for axes in (whole, close):
        axes.set_xlabel(f"{NAMES[tradeoff.amount]} left, in % of the dense model's")
        axes.grid(visible=True, color="#ececec", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        legend_below(axes, columns=2)
    return figure


def _draw_whole(axes: Any, tradeoff: Tradeoff) -> None:
    name, dense = tradeoff.dense.score_name, 100 * tradeoff.dense.score
    cut = [(_left(point), 100 * point.after_cut.score) for point in tradeoff.curve if point.after_cut]
    tuned = [(_left(point), 100 * point.validation.score) for point in tradeoff.curve if point.validation]
    # The dense model ends both curves: nothing was cut, so there is nothing to recover from.
    xs, ys = zip(*tuned, (100, dense), strict=True)
    axes.plot(xs, ys, color=KEPT, marker="o", markersize=5, linewidth=1.6, label=f"after {_epochs(tradeoff)}")
    if cut and tradeoff.recovery_epochs:
        xs, ys = zip(*cut, (100, dense), strict=True)
        axes.plot(xs, ys, color=ACCENT, marker="s", markersize=4, linewidth=1.2, label="right after the cut")
    axes.plot([100], [dense], "D", color="black", markersize=6, label=f"dense: {dense:.2f} %")
    limit = dense - tradeoff.max_drop_points
    axes.axhline(limit, color="black", linestyle="--", linewidth=1, label=f"limit: {limit:.2f} %")
    refused = [100 * point.share for point in tradeoff.curve if point.reason is not None]
    if refused:
        axes.axvspan(0, max(refused), color=DENSE, alpha=0.5, linewidth=0, label="cannot be cut so far")
    chosen = _chosen(tradeoff)
    if chosen and chosen.validation:
        _ring(axes, _left(chosen), 100 * chosen.validation.score, "chosen")
    axes.set(title="Accuracy against budget", ylabel=f"validation {name} in %", ylim=(0, 105), xlim=(0, 103))


def _draw_close(axes: Any, tradeoff: Tradeoff) -> None:
    limit, error = tradeoff.max_drop_points, tradeoff.standard_error_points
    points = [
        (_left(point), point.drop_points, point.within) for point in tradeoff.curve if point.drop_points is not None
    ]
    beyond = [lost for _, lost, _ in points if lost > limit]
    room = error or 0.4  # points, where no standard error is known
    bottom = max(2 * limit, 2.5 * room, 1.25 * min(beyond, default=0.0))
    top = min(-1.5 * room, *(lost - 0.5 * room for _, lost, _ in points))
    first = min(left for left, lost, _ in points if lost <= bottom)
    if error:
        axes.axhspan(-error, error, color=DENSE, alpha=0.45, linewidth=0, label="dense ± one standard error")
    axes.axhline(0, color="black", linewidth=1)
    axes.axhline(limit, color="black", linestyle="--", linewidth=1, label=f"limit: {limit:g} points")
    xs, ys = zip(*((left, lost) for left, lost, _ in points), (100, 0.0), strict=True)
    axes.plot(xs, ys, color=KEPT, linewidth=1, alpha=0.6)
    for within, marker, colour, label in ((True, "o", KEPT, "near enough"), (False, "X", ACCENT, "too far")):
        some = [(left, lost) for left, lost, is_within in points if is_within is within]
        if some:
            axes.plot(*zip(*some, strict=True), marker, color=colour, markersize=7, label=label)
    axes.plot([100], [0], "D", color="black", markersize=6)
    chosen = _chosen(tradeoff)
    if chosen and chosen.drop_points is not None:
        words = f"chosen: {_left(chosen):.1f} % left, {chosen.drop_points:.2f} points lost"
        _ring(axes, _left(chosen), chosen.drop_points, words)
    margin = 0.06 * (100 - first) + 0.5
    # Upside down, so that better is higher, as on the left.
    label = f"points of {tradeoff.dense.score_name} below the dense model"
    axes.set(title="Close-up at the limit", ylabel=label, ylim=(bottom, top))
    axes.set_xlim(first - margin, 100 + margin)


def _ring(axes: Any, x: float, y: float, label: str) -> None:
    ring = {"markersize": 14, "markerfacecolor": "none", "markeredgecolor": "black", "markeredgewidth": 1.4}
    axes.plot([x], [y], "o", label=label, **ring)


def _chosen(tradeoff: Tradeoff) -> TradeoffPoint | None:
    return next((point for point in tradeoff.curve if point.share == tradeoff.share), None)


def _left(point: TradeoffPoint) -> float:
    return 100 * (point.share if point.reached is None else point.reached)


def _epochs(tradeoff: Tradeoff) -> str:
    return f"{counted(tradeoff.recovery_epochs, 'epoch')} of recovery"


def _verdict(point: TradeoffPoint, tradeoff: Tradeoff) -> str:
    if point.reason is not None:
        return "cannot be cut"
    if point.share == tradeoff.share:
        return "chosen"
    return "near enough" if point.within else "too far"
