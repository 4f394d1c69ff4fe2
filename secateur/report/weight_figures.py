"""Pruned weights as figures: how each layer bears it, how weights are spread, where a layer looks at the images.

They are Figures 6, 8 and 4 of Han et al. 2015, arXiv:1506.02626.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from secateur.record import Histogram, LayerHistograms, PrunedWeights, RunRecord, WeightScan
from secateur.report.curves import COLOURS, MARKERS, PLAIN
from secateur.report.drawing import can_draw, save_figure
from secateur.report.figure import DENSE, KEPT
from secateur.report.values import count, share, shortened
from secateur.sparse import Masks

WEIGHT_FILES = {
    f"weights_{what}_{kind}": f"weights-{what}.{kind}"
    for what in ("scans", "histograms", "pattern")
    for kind in ("png", "svg")
}
"""What :func:`write_weight_figures` writes, by what it is."""

CURVES = 10  # layers with a colour and a mark of their own; the others, which bear more, are grey
SHOWN = 6  # layers whose weights are shown, the largest
NAME_LETTERS = 30
COLUMNS, ROWS = 1600, 300  # of the pattern's picture; larger weights are averaged to it


def write_weight_figures(folder: Path | str, record: RunRecord) -> dict[str, str]:
    """Write the figures of a run that pruned weights, where matplotlib is installed.

    Args:
        folder: the run directory, which holds the masks.
        record: what the run measured.

    Returns:
        What was written: keys and names of :data:`WEIGHT_FILES`; of the scans where layers were scanned, of the pattern
        where a pruned linear layer reads the images.

    Raises:
        ArtifactError: the file of the masks is missing or damaged.
        UsageError: the folder cannot be written.
    """
    found, folder = record.weights, Path(folder)
    if found is None or not can_draw():
        return {}
    figures: dict[str, Callable[[], Any]] = {}
    if found.scans:
        figures["scans"] = lambda: scan_figure(first_scans(found))
    if found.histograms:
        figures["histograms"] = lambda: histogram_figure(found.histograms)
    image = found.image_layer
    if image is not None and "masks" in record.files:
        mask = Masks.load(folder / record.files["masks"])[image.layer]
        figures["pattern"] = lambda: pattern_figure(mask, image.shape, name=image.layer)
    written: dict[str, str] = {}
    for what, figure in figures.items():
        keys = [f"weights_{what}_{kind}" for kind in ("png", "svg")]
        save_figure([folder / WEIGHT_FILES[key] for key in keys], figure)
        written |= {key: WEIGHT_FILES[key] for key in keys}
    return written


def first_scans(found: PrunedWeights) -> tuple[WeightScan, ...]:
    """Return the scans of the first round: those of the dense network."""
    first = min(scan.round for scan in found.scans)
    return tuple(scan for scan in found.scans if scan.round == first)


def scan_figure(scans: Sequence[WeightScan]) -> Any:
    """Return validation accuracy lost against the share of one layer's weights that is left; a line per layer."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure = Figure(figsize=(7.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="#222222", linewidth=0.9, linestyle="--")
    ranked = sorted(scans, key=lambda scan: sum(scan.scores) / len(scan.scores) - scan.dense)
    for number, scan in enumerate(ranked):
        left = [100.0, *(100 * (1 - gone) for gone in scan.shares)]
        change = [0.0, *(100 * (score - scan.dense) for score in scan.scores)]
        if number >= CURVES:
            axes.plot(left, change, color=PLAIN, linewidth=1, zorder=1.5)
            continue
        place = number % len(COLOURS)
        axes.plot(
            left,
            change,
            color=COLOURS[place],
            marker=MARKERS[place],
            linestyle="-" if number < len(COLOURS) else ":",
            linewidth=1.5,
            markersize=4,
            label=shortened(scan.layer, NAME_LETTERS),
        )
    if len(ranked) > CURVES:
        axes.plot([], [], color=PLAIN, linewidth=1, label=f"{len(ranked) - CURVES} layers that bear more")
    least = min(100 * (1 - scan.shares[-1]) for scan in scans)
    axes.set_xscale("log")  # what matters happens where little is left
    axes.xaxis.set_major_locator(FixedLocator([100, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(108, 0.92 * least)
    axes.set_xlabel("weights of the layer that are left, % (logarithmic)")
    axes.set_ylabel("validation score against dense, points")
    axes.set_title("Each layer pruned alone, not retrained", loc="left", fontsize=11)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5), title="most sensitive first")
    _plain(axes)
    return figure


def histogram_figure(found: Sequence[LayerHistograms], *, shown: int = SHOWN) -> Any:
    """Return how the weights of the largest layers are spread before pruning and at the end, side by side."""
    from matplotlib.figure import Figure

    largest = sorted(found, key=lambda entry: -sum(entry.dense.counts))[:shown]
    layers = [entry for entry in found if entry in largest]
    figure = Figure(figsize=(8.4, 0.7 + 1.9 * len(layers)), layout="constrained")
    panels = figure.subplots(len(layers), 2, squeeze=False, sharex="row")
    for (before, after), entry in zip(panels, layers, strict=True):
        size, left = sum(entry.dense.counts), sum(entry.left.counts)
        reach = max(entry.dense.reach, entry.left.reach)
        name = shortened(entry.layer, NAME_LETTERS)
        _bins(before, entry.dense, DENSE, f"{name}, dense: {count(size)} weights")
        part = share(left / size, 1) if size else "nothing"
        _bins(after, entry.left, KEPT, f"pruned and retrained: {count(left)} left ({part})")
        before.set_xlim(-1.03 * reach, 1.03 * reach)
        before.set_ylabel("weights per bin")
    for axes in panels[-1]:
        axes.set_xlabel("value of the weight")
    if len(layers) < len(found):
        figure.suptitle(f"The {len(layers)} largest of {len(found)} layers", fontsize=10)
    return figure


def pattern_figure(mask: Tensor, shape: tuple[int, int, int], *, name: str) -> Any:
    """Return where the weights of a layer that reads images are: the whole matrix, and how many per pixel.

    Rows of the matrix are outputs. Its columns are the image's rows one after the other, so that what lies in the
    middle of the image comes back as bands: 28 of them for images of 28 rows, per channel.

    Args:
        mask: bool, (outputs, C · H · W), True where a weight is left.
        shape: C, H and W.
        name: of the weight.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    channels, height, width = shape
    picture, per_pixel = pattern(mask), mask.sum(0).reshape(shape).sum(0)
    colours = LinearSegmentedColormap.from_list("left", ("#ffffff", KEPT))
    figure = Figure(figsize=(12.5, 3.7), layout="constrained")
    matrix, image = figure.subplots(1, 2, width_ratios=(3.2, 1))
    looks = {"cmap": colours, "aspect": "auto", "interpolation": "nearest", "vmin": 0}
    matrix.imshow(picture.numpy(), extent=(0, mask.shape[1], mask.shape[0], 0), **looks)
    bands = f"{channels * height} bands of {width}"
    matrix.set_title(f"{shortened(name, NAME_LETTERS)}: {count(int(mask.sum()))} weights left", loc="left", fontsize=11)
    matrix.set_xlabel(f"input: pixels row by row, {bands}")
    matrix.set_ylabel("output")
    shown = image.imshow(per_pixel.numpy(), cmap=colours, interpolation="nearest", vmin=0)
    image.set_title("Weights left per pixel", loc="left", fontsize=11)
    image.set_xticks([])
    image.set_yticks([])
    figure.colorbar(shown, ax=image, shrink=0.85, ticks=MaxNLocator(integer=True, nbins=5))
    return figure


def pattern(mask: Tensor) -> Tensor:
    """Return the share of weights that are left in each cell of a picture, float32, of the mask's shape if it fits."""
    import torch.nn.functional as F

    rows, columns = min(mask.shape[0], ROWS), min(mask.shape[1], COLUMNS)
    return F.adaptive_avg_pool2d(mask.float()[None, None], (rows, columns))[0, 0]


def _bins(axes: Any, found: Histogram, colour: str, title: str) -> None:
    width = 2 * found.reach / len(found.counts)
    edges = [-found.reach + width * number for number in range(len(found.counts) + 1)]
    axes.stairs(found.counts, edges, fill=True, color=colour)
    axes.stairs(found.counts, edges, color="#555555", linewidth=0.6)
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_ylim(0, 1.08 * max(1, *found.counts))
    axes.ticklabel_format(axis="y", style="plain")
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.grid(visible=True, color="#ececec", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
