"""The front of a search for widths: accuracy against cost, and what stayed of each layer, as tables and figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secateur.files import write_text
from secateur.record import FrontPoint, RunRecord, UniformNetwork, WidthSearch, write_width_search
from secateur.report.drawing import can_draw, save_figure
from secateur.report.figure import ACCENT, DENSE, KEPT, NAME_LETTERS, legend_below
from secateur.report.grid import Grid
from secateur.report.values import NOTHING, count, share, shortened

FRONT_FILES = {
    "front": "front.json",
    "front_table": "front.md",
    "front_svg": "front.svg",
    "front_png": "front.png",
    "widths_svg": "widths.svg",
    "widths_png": "widths.png",
}
"""What :func:`write_front` writes, by what it is."""

NAMED = 48  # groups whose names stand below the bars; of more only their numbers


def write_front(folder: Path | str, search: WidthSearch) -> dict[str, str]:
    """Write a search as JSON and as a page with tables and, where matplotlib is installed, both figures.

    Args:
        folder: the run directory.
        search: what was found.

    Returns:
        What was written: keys and names of :data:`FRONT_FILES`.

    Raises:
        UsageError: the folder cannot be written.
    """
    folder, written = Path(folder), ["front_table", "front"]
    if can_draw():
        for what, figure in (("front", front_figure), ("widths", widths_figure)):
            keys = [f"{what}_{kind}" for kind in ("svg", "png")]
            save_figure([folder / FRONT_FILES[key] for key in keys], lambda figure=figure: figure(search))  # type: ignore[misc]
            written += keys
    write_text(folder / FRONT_FILES["front_table"], front_markdown(search, figures=can_draw()))
    write_width_search(folder / FRONT_FILES["front"], search)  # last: with it the search is complete
    return {what: FRONT_FILES[what] for what in FRONT_FILES if what in written}


def front_grid(search: WidthSearch) -> Grid:
    """Return one row per network on the way down, with the uniform network beside it where one was looked at."""
    widest, timed = search.front[0].macs, search.front[0].latency_ms is not None
    rows = []
    for number, point in enumerate(search.front):
        uniform = search.uniform_beside(number)
        rows.append(
            (
                f"{number}{' (chosen)' if number == search.chosen else ''}",
                point.removed or NOTHING,
                count(point.macs),
                share(point.macs / widest, 1),
                *([] if search.default_macs is None else [share(point.macs / search.default_macs, 1)]),
                *([f"{point.latency_ms:.3g}" if point.latency_ms is not None else NOTHING] if timed else []),
                count(point.params),
                share(point.accuracy),
                NOTHING if uniform is None else share(uniform.accuracy),
                NOTHING if uniform is None else f"{uniform.multiplier:.3f}",
            )
        )
    default = () if search.default_macs is None else ("of the default",)
    latency = ("latency ms",) if timed else ()
    costs = ("MACs", "of the widest", *default, *latency, "parameters")
    headers = ("step", "shrank", *costs, "estimate", "uniform", "multiplier")
    title = f"Accuracy against cost, by the super-net's weights on {search.samples:,} validation samples"
    return Grid(title, headers, tuple(rows))


def widths_grid(search: WidthSearch) -> Grid:
    """Return the width of each group in the chosen network beside those it could have."""
    chosen, uniform = search.front[search.chosen], search.uniform_beside(search.chosen)
    rows = []
    for name, size in search.sizes.items():
        published, units = search.default.get(name), chosen.widths[name]
        rows.append(
            (
                name,
                str(size),
                *([str(published) if published else NOTHING] if search.default else []),
                str(units),
                *([share(units / published, 0) if published else NOTHING] if search.default else []),
                NOTHING if uniform is None else str(uniform.widths.get(name, size)),
            )
        )
    default, of_it = (("default",), ("of the default",)) if search.default else ((), ())
    headers = ("group", "widest", *default, "found", *of_it, "uniform")
    return Grid("Widths of the chosen network", headers, tuple(rows))


def front_facts(search: WidthSearch) -> tuple[tuple[str, str], ...]:
    """Return in words what was chosen, and the uniform network beside it."""
    chosen = search.front[search.chosen]
    facts = [("chosen", f"{_costs(chosen)}, estimate {share(chosen.accuracy)}")]
    uniform = search.uniform_beside(search.chosen)
    if uniform is not None:
        trained = "" if uniform.trained is None else f", {share(uniform.trained.score)} when trained"
        facts.append(
            (
                "uniform",
                f"every layer at {uniform.multiplier:.3f} of its width: {_costs(uniform)}, "
                f"estimate {share(uniform.accuracy)}{trained}",
            )
        )
    for one in search.joint:
        point = search.front[one.point]
        trained = "" if one.trained is None else f", {share(one.trained.score)} when trained together"
        facts.append((f"macs {one.budget:g}", f"{_costs(point)}{trained}"))
    return tuple(facts)


def front_markdown(search: WidthSearch, *, figures: bool) -> str:
    """Return the page of a search.

    Args:
        search: what was found.
        figures: whether both figures lie beside the page.
    """
    front, widths = front_grid(search), widths_grid(search)
    parts = [
        "# A search for widths",
        "\n".join(f"* **{label}**: {text}" for label, text in front_facts(search)),
        "Estimates are those of the super-net, without any training of the network itself; they rank networks, and say "
        "little of the accuracy that training gives them. The samples that chose flatter them.",
        *([f"![estimate against multiply-adds]({FRONT_FILES['front_svg']})"] if figures else []),
        f"## {front.title}",
        front.to_markdown(),
        f"## {widths.title}",
        *([f"![width of each group]({FRONT_FILES['widths_svg']})"] if figures else []),
        widths.to_markdown(),
    ]
    return "\n\n".join(parts) + "\n"


def front_section(record: RunRecord) -> list[str]:
    """Return the section of a run's page, nothing where no widths were searched."""
    search = record.width_search
    if search is None:
        return []
    pictures = {"front_png": "estimate against multiply-adds", "widths_png": "width of each group"}
    table = record.files.get("front_table")
    return [
        "## Search for widths",
        "\n".join(f"* **{label}**: {text}" for label, text in front_facts(search)),
        *(f"![{text}]({record.files[what]})" for what, text in pictures.items() if what in record.files),
        widths_grid(search).to_markdown(),
        *([f"All {len(search.front)} networks on the way: [table]({table})."] if table else []),
    ]


def front_figure(search: WidthSearch) -> Any:
    """Return estimate against multiply-adds: of the networks on the way, and of uniform ones."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    axes = figure.subplots()
    axes.plot(*_curve(search.front), color=KEPT, marker=".", markersize=4, linewidth=1.4, label="found, step by step")
    if search.uniform:
        axes.plot(
            *_curve(search.uniform), color=ACCENT, marker="s", markersize=4, linewidth=1, label="one width multiplier"
        )
    if search.default_macs is not None:
        label = f"default width: {search.default_macs / 1e6:.4g}M MACs"
        axes.axvline(search.default_macs / 1e6, color="black", linestyle="--", linewidth=1, label=label)
    chosen = search.front[search.chosen]
    ring: dict[str, Any] = {
        "markersize": 13,
        "markerfacecolor": "none",
        "markeredgecolor": "black",
        "linestyle": "none",
    }
    axes.plot([chosen.macs / 1e6], [100 * chosen.accuracy], "o", label=f"chosen: {chosen.macs / 1e6:.4g}M MACs", **ring)
    axes.set(xlabel="million MACs per sample", ylabel="estimate of the super-net in %")
    axes.set_title("Accuracy against cost, before any training of the networks", loc="left")
    _plain(axes)
    legend_below(axes, columns=2)
    return figure


def widths_figure(search: WidthSearch) -> Any:
    """Return the width of each group of the chosen network, against the default network and the widest."""
    from matplotlib.figure import Figure

    names, chosen = list(search.sizes), search.front[search.chosen]
    figure = Figure(figsize=(max(6.0, min(16.0, 2 + 0.32 * len(names))), 4.8), layout="constrained")
    axes = figure.subplots()
    places = range(len(names))
    axes.bar(places, [search.sizes[name] for name in names], width=0.85, color=DENSE, label="widest")
    axes.bar(places, [chosen.widths[name] for name in names], width=0.55, color=KEPT, label="found")
    line: dict[str, Any] = {"where": "mid", "linewidth": 1.4}
    if search.default:
        axes.step(places, [search.default.get(name, 0) for name in names], color="black", label="default", **line)
    uniform = search.uniform_beside(search.chosen)
    if uniform is not None:
        at = f"uniform, {uniform.multiplier:.2f} of the widest"
        axes.step(places, [uniform.widths.get(name, 0) for name in names], color=ACCENT, label=at, **line)
    axes.set_ylabel("channels")
    axes.set_title("Channels of each group of layers", loc="left")
    if len(names) <= NAMED:
        axes.set_xticks(list(places), [shortened(name, NAME_LETTERS) for name in names], rotation=90, fontsize=7)
    else:
        axes.set_xlabel("group, in the order of the network")
    _plain(axes)
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    return figure


def _curve(points: Sequence[FrontPoint] | Sequence[Any]) -> tuple[list[float], list[float]]:
    return [point.macs / 1e6 for point in points], [100 * point.accuracy for point in points]


def _plain(axes: Any) -> None:
    axes.grid(visible=True, color="#ececec", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _costs(one: FrontPoint | UniformNetwork) -> str:
    latency = "" if one.latency_ms is None else f", {one.latency_ms:.3g} ms by the latency table"
    return f"{count(one.macs)} MACs, {count(one.params)} parameters{latency}"
