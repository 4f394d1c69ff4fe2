"""A table as plain data, and how it is shown: in a terminal, in a pipe, in Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 200  # columns where nobody says how many there are


@dataclass(frozen=True)
class Grid:
    """A table of texts.

    Attributes:
        title: what it shows.
        headers: one per column.
        rows: one text per column each.
        left: how many columns, from the first, are words and not numbers.
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1

    def to_markdown(self) -> str:
        """Return it as a Markdown table, without its title."""
        marks = ["---" if number < self.left else "---:" for number in range(len(self.headers))]
        lines = [self.headers, marks, *self.rows]
        return "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)

    def to_text(self) -> str:
        """Return it in columns of plain text, without its title."""
        lines = [self.headers, *self.rows]
        widths = [max(len(line[number]) for line in lines) for number in range(len(self.headers))]
        return "\n".join(self._plain_line(line, widths) for line in lines)

    def _plain_line(self, line: Sequence[str], widths: Sequence[int]) -> str:
        cells = [
            cell.ljust(width) if number < self.left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()


def print_grid(grid: Grid, stream: TextIO) -> None:
    """Print a table: drawn in a terminal, in columns of plain text elsewhere."""
    if not stream.isatty():
        print(f"{grid.title}\n\n{grid.to_text()}", file=stream)
        return
    table = Table(title=Text(grid.title), box=SIMPLE_HEAD, title_justify="left", title_style="bold")
    for number, header in enumerate(grid.headers):
        table.add_column(header, justify="left" if number < grid.left else "right", overflow="fold")
    for row in grid.rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(file=stream).print(table)


def print_facts(facts: Sequence[tuple[str, str]], stream: TextIO) -> None:
    """Print labelled lines."""
    width = max((len(label) for label, _ in facts), default=0)
    for label, text in facts:
        print(f"{label.ljust(width)}  {text}", file=stream)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
