"""What commands share when they print: where it goes, and the words that the process was started with."""

import json
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from secateur.recipe import RunResult
    from secateur.report import Grid
    from secateur.training import Progress


STARTED_WITH: ContextVar[tuple[str, ...]] = ContextVar("words of the command line", default=())
"""The words after ``secateur`` of the command that runs."""

RESULTS: ContextVar[TextIO | None] = ContextVar("where JSON goes", default=None)
"""Standard output, where the command leaves it to JSON alone; None: what it is now."""


def words() -> tuple[str, ...]:
    """Return the command line that runs, without ``--force``, so that the same words continue the run."""
    return ("secateur", *(word for word in STARTED_WITH.get() if word != "--force"))


def progress(*, quiet: bool) -> "Progress":
    """Return what shows progress on standard error."""
    from secateur.training import progress_for

    return progress_for(quiet=quiet)


def show_json(value: Any) -> None:
    """Print ``value`` as JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False), file=RESULTS.get())


def show(*parts: "Grid | tuple[tuple[str, str], ...]") -> None:
    """Print tables and labelled lines, with a blank line between."""
    from secateur.report import Grid, print_facts, print_grid

    for number, part in enumerate(parts):
        if number:
            print()
        if isinstance(part, Grid):
            print_grid(part, sys.stdout)
        else:
            print_facts(part, sys.stdout)


def show_result(result: "RunResult", *, as_json: bool) -> None:
    """Print the result of a run."""
    from secateur.report import int8_grid, result_facts, result_grid

    if as_json:
        print(result.folder.joinpath("record.json").read_text(encoding="utf-8"), end="", file=RESULTS.get())
        return
    if result.was_complete:
        print(f"{result.folder}: this run was complete already; nothing was computed\n")
    int8 = [int8_grid(result.record)] if result.record.int8 is not None else []
    show(result_grid(result.record), *int8, result_facts(result.record, result.folder))
