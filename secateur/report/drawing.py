"""Figures as files: SVG or PNG, the same bytes for the same figure, and only where matplotlib is installed."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from secateur.files import whole_file

DPI = 110


def can_draw() -> bool:
    """Say whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def save_figure(paths: Sequence[Path | str], figure: Callable[[], Any]) -> None:
    """Draw a figure into files, each whole or not at all.

    Args:
        paths: files ending in ``.svg`` or ``.png``.
        figure: makes the figure; called once per file, because drawing changes it.

    Raises:
        UsageError: a file cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    for path in map(Path, paths):
        # Names of clip paths are hashes with a salt, and text is drawn as shapes, so that any viewer shows the same.
        with matplotlib.rc_context({"svg.hashsalt": "secateur", "svg.fonttype": "path"}), whole_file(path) as temporary:
            # Without dates, names and versions equal figures give equal files.
            if path.suffix == ".svg":
                nothing = {"Date": None, "Creator": None}
                FigureCanvasSVG(figure()).print_figure(str(temporary), format="svg", metadata=nothing)
            else:
                FigureCanvasAgg(figure()).print_figure(
                    str(temporary), format="png", dpi=DPI, metadata={"Software": None}
                )
