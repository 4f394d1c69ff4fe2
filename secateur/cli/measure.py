"""``secateur measure``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from secateur.cli import choices, show
from secateur.cli.options import CommonOptions, InputOptions, ModelOptions, option, spread

if TYPE_CHECKING:
    from secateur.cost import LatencyTable
    from secateur.measure import TableProgress


@spread
def measure(
    model: ModelOptions,
    inputs: InputOptions,
    common: CommonOptions,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="the table; what is measured so far is beside it, in FILE.partial")
    ] = Path("latency.json"),
    force: Annotated[bool, typer.Option("--force", help="replace the table if it is there")] = False,
    batch: Annotated[int, option("Measuring", min=1, help="samples in one forward pass")] = 1,
    multiple: Annotated[
        int, option("Measuring", min=1, help="of channels, which widths are measured at and later cut to")
    ] = 8,
    rounds: Annotated[int, option("Measuring", min=2, help="of each measurement; the shortest counts")] = 15,
    networks: Annotated[
        int, option("Measuring", min=1, help="whole networks of random widths that the table is fitted to")
    ] = 4,
    held_out: Annotated[int, option("Measuring", min=1, help="further ones that tell how well it predicts")] = 2,
) -> None:
    """Measure how long each layer takes in ONNX Runtime at all widths, for budgets in milliseconds.

    With the table `secateur prune --latency-ms 0.5x --latency-table FILE` cuts to half of the network's latency on this
    machine. Layers are measured as the runtime fuses them, one thread unless --threads says more; then a few whole
    networks are exported and measured in turn with the uncut one. Weights do not matter, so none are needed. It takes
    minutes, most of them for exporting; the same command continues what was stopped. Leave the machine alone meanwhile.

    Example: `secateur measure --model torchvision:resnet18 --out resnet18-latency.json`
    """
    from secateur import measure as measuring
    from secateur import recipe

    recipe.check_target(out, force=force)
    settings = measuring.TableSettings(
        batch_size=batch,
        threads=1 if common.threads is None else common.threads,
        multiple=multiple,
        rounds=rounds,
        networks=networks,
        held_out=held_out,
        seed=common.seed,
    )
    subject = choices.subject(model, inputs, common)
    table = measuring.measure_latency_table(
        subject.model,
        subject.example_inputs,
        out,
        settings=settings,
        graph=subject.trace(),
        progress=_progress(quiet=common.quiet),
    )
    if common.as_json:
        show.show_json(_json(table, out))
        return
    _show(table, out)


def _show(table: "LatencyTable", out: Path) -> None:
    from secateur.report import table_facts, table_grid

    show.show(table_grid(table), (*table_facts(table), ("written", str(out))))


def _json(table: "LatencyTable", out: Path) -> dict[str, Any]:
    return {
        "table": str(out),
        "fingerprint": table.digest,
        "dense_ms": table.dense_ms,
        "worst_error": table.worst_error,
        "drift": table.drift,
        "networks": [vars(one) for one in table.networks],
    }


def _progress(*, quiet: bool) -> "TableProgress":
    from secateur.measure import QuietTable

    if quiet:
        return QuietTable()
    return TableBar(sys.stderr) if sys.stderr.isatty() else TableLines(sys.stderr)


class TableLines:
    """One line per step, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._step = self._steps = 0

    def begins(self, *, steps: int, done: int) -> None:
        """Remember how much there is to do."""
        self._step, self._steps = done, steps

    def step(self, what: str) -> None:
        """Print the step."""
        self._step += 1
        print(f"measuring {self._step} of {self._steps}: {what}", file=self._stream, flush=True)

    def ends(self) -> None:
        """Show nothing."""


class TableBar:
    """A bar over all steps, with what is measured and the time left."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bars: Any = None
        self._begun = False

    def begins(self, *, steps: int, done: int) -> None:
        """Put up the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("latency"), BarColumn(), TextColumn("{task.fields[what]}"), TimeRemainingColumn())
        self._bars = Progress(*columns, console=Console(file=self._stream), transient=True)
        self._bar = self._bars.add_task("latency", total=steps, completed=done, what="")
        self._bars.start()

    def step(self, what: str) -> None:
        """Name the step, and count the one before."""
        self._bars.update(self._bar, advance=int(self._begun), what=what)
        self._begun = True

    def ends(self) -> None:
        """Take the bar away."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
