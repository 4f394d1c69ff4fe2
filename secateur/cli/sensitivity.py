"""``secateur sensitivity``."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer

from secateur.cli import choices, show
from secateur.cli.options import CommonOptions, DataOptions, ModelOptions, option, spread
from secateur.wording import counted

if TYPE_CHECKING:
    from secateur.measure import ScanProgress
    from secateur.recipe import SensitivityResult


@spread
def sensitivity(
    *,
    model: ModelOptions,
    data: DataOptions,
    criterion: Annotated[
        str, option("Scan", help="what makes a channel matter, by the weights: l1, l2, fpgm, lamp, bn_scale or random")
    ] = "l1",
    shares: Annotated[
        str, option("Scan", metavar="SHARES", help="of a group's units to remove, with commas between")
    ] = "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9",
    group: Annotated[
        list[str] | None,
        option("Scan", metavar="PATTERN", help="only these groups, such as 'layer1.*'; may be repeated"),
    ] = None,
    split: Annotated[
        Literal["validation", "train"], option("Scan", help="which samples decide; the test split may not")
    ] = "validation",
    limit: Annotated[int | None, option("Scan", min=1, help="only so many samples, drawn by seed, for speed")] = None,
    at: Annotated[
        float | None, option("Scan", help="share at which the table compares; without it, the one nearest to 0.5")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="folder of the scan; made if it is not there")] = Path(
        "secateur-sensitivity"
    ),
    force: Annotated[bool, typer.Option("--force", help="start over in the folder of another scan")] = False,
    common: CommonOptions,
) -> None:
    """Show which layers can lose channels: cut each alone, step by step, and evaluate without retraining.

    Flat curves can be cut deeply; steep ones are better left alone, with `secateur prune --skip`. Layers that can only
    be cut together are one group. The folder gets sensitivity.json and the curves as SVG and PNG; the same command
    continues a scan that was stopped.

    Example: `secateur sensitivity --model resnet56-b --weights resnet56.safetensors --data parquet:cifar10
    --shares 0.3,0.6`
    """
    from secateur import recipe

    job = recipe.SensitivityRecipe(
        model=choices.model_choice(model),
        data=choices.data_choice(data),
        criterion=criterion,
        shares=recipe.parse_shares(shares),
        groups=tuple(group or ()),
        split=split,
        limit=limit,
        seed=common.seed,
        machine=choices.machine(common, workers=data.workers),
    )
    compared = recipe.compared_share(job.shares, at)
    result = recipe.measure_sensitivity(
        job, out, force=force, command=show.words(), progress=_progress(quiet=common.quiet)
    )
    if common.as_json:
        show.show_json(result.sensitivity.to_json())
    else:
        _show(result, compared)


def _show(result: "SensitivityResult", share: float) -> None:
    from secateur.report import sensitivity_facts, sensitivity_grid

    if result.was_complete:
        print(f"{result.folder}: this scan was complete already; nothing was measured\n")
    facts = [*sensitivity_facts(result.sensitivity), ("written", str(result.folder / "sensitivity.json"))]
    if result.drawn:
        facts.append(("figure", f"{result.folder / 'sensitivity.png'} and .svg"))
    else:
        facts.append(("no figure", "matplotlib is missing: pip install 'secateur[report]', then run this again"))
    show.show(sensitivity_grid(result.sensitivity, share=share), tuple(facts))


def _progress(*, quiet: bool) -> "ScanProgress":
    from secateur.measure import QuietScan

    if quiet:
        return QuietScan()
    return ScanBar(sys.stderr) if sys.stderr.isatty() else ScanLines(sys.stderr)


class ScanLines:
    """One line per group, for logs and pipes."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock

    def begins(self, *, groups: int, points: int) -> None:
        """Say how much there is to do."""
        self._groups, self._points, self._group, self._new, self._over = groups, points, 0, 0, 0
        self._began = self._clock()
        self._print(
            f"scanning {counted(groups, 'group')} of channels: {counted(points, 'evaluation')}, and one of the dense "
            "model"
        )

    def point(self, *, new: bool) -> None:
        """Count the points that were measured now, for the time that is left."""
        self._new += new

    def group_ends(self, name: str, *, points: int, refused: str | None) -> None:
        """Print the group."""
        self._group += 1
        self._over += points
        left = self._points - self._over
        text = f"group {self._group} of {self._groups}, {name}: " + (
            "done" if refused is None else f"left out, {refused}"
        )
        if left and self._new:
            text += f"; {_duration((self._clock() - self._began) / self._new * left)} left"
        self._print(text)

    def ends(self) -> None:
        """Show nothing."""

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class ScanBar:
    """A bar over all evaluations with groups done and time left."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bars: Any = None

    def begins(self, *, groups: int, points: int) -> None:
        """Put up the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._group, self._over, self._done, self._groups = 0, 0, 0, groups
        columns = (
            TextColumn("sensitivity"),
            BarColumn(),
            TextColumn("group {task.fields[group]}/{task.fields[groups]}"),
            TimeRemainingColumn(),
        )
        self._bars = Progress(*columns, console=Console(file=self._stream), transient=True)
        self._bar = self._bars.add_task("sensitivity", total=points, group=0, groups=groups)
        self._bars.start()

    def point(self, *, new: bool) -> None:
        """Move the bar."""
        del new  # the bar's own speed tells
        self._done += 1
        self._bars.update(self._bar, completed=self._done)

    def group_ends(self, name: str, *, points: int, refused: str | None) -> None:
        """Count the group; one that was left out stays as a line above the bar."""
        self._group += 1
        self._over += points
        self._done = self._over
        self._bars.update(self._bar, completed=self._done, group=self._group)
        if refused is not None:
            self._bars.console.print(f"{name} is left out: {refused}", highlight=False, markup=False)

    def ends(self) -> None:
        """Take the bar away."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


def _duration(seconds: float) -> str:
    return f"about {round(seconds / 60)} min" if seconds >= 90 else f"about {round(seconds)} s"
