"""Show how training goes: a live bar in a terminal, plain lines in a file, or nothing."""

import sys
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars

from secateur.record import EpochMeasurement
from secateur.wording import counted


class Progress(Protocol):
    """What training tells while it runs. It is called a few times per second at most, never once per step."""

    def phase_begins(self, name: str, *, epochs: int, steps: int, done: int) -> None:
        """A phase of ``steps`` steps in all begins or, where ``done`` steps are over, continues."""

    def advance(self, done: int, *, epoch: int, loss: float, images_per_s: float) -> None:
        """``done`` steps of the phase are over."""

    def epoch_ends(self, measurement: EpochMeasurement) -> None:
        """An epoch is over, and evaluated where that was asked for."""

    def note(self, text: str) -> None:
        """Something that the user should know."""

    def phase_ends(self) -> None:
        """The phase is over, or was stopped."""


class Quiet:
    """Shows nothing."""

    def phase_begins(self, name: str, *, epochs: int, steps: int, done: int) -> None:
        """Show nothing."""

    def advance(self, done: int, *, epoch: int, loss: float, images_per_s: float) -> None:
        """Show nothing."""

    def epoch_ends(self, measurement: EpochMeasurement) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def phase_ends(self) -> None:
        """Show nothing."""


class PlainLines:
    """One line per epoch and note, for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._name = ""
        self._epochs = 0

    def phase_begins(self, name: str, *, epochs: int, steps: int, done: int) -> None:
        """Remember what the lines are about."""
        self._name, self._epochs = name, epochs
        self._print(
            f"{name}: {counted(epochs, 'epoch')}, {counted(steps, 'step')}"
            + (f", {done} of them done before" if done else "")
        )

    def advance(self, done: int, *, epoch: int, loss: float, images_per_s: float) -> None:
        """Show nothing between epochs."""

    def epoch_ends(self, measurement: EpochMeasurement) -> None:
        """Print the epoch."""
        self._print(f"{self._name}: epoch {measurement.epoch + 1}/{self._epochs}  {describe(measurement)}")

    def note(self, text: str) -> None:
        """Print the note."""
        self._print(text)

    def phase_ends(self) -> None:
        """Show nothing."""

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class LiveBar:
    """One bar per phase with epoch, images per second and time left; finished epochs stay above it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._console = Console(file=stream or sys.stderr)
        self._bars: RichBars | None = None
        self._bar = TaskID(0)
        self._epochs = 0

    def phase_begins(self, name: str, *, epochs: int, steps: int, done: int) -> None:
        """Put up the bar."""
        self.phase_ends()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}  {task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        self._epochs = epochs
        self._bars = RichBars(*columns, console=self._console, transient=True)
        self._bar = self._bars.add_task(name, total=steps, completed=done, epoch=1, epochs=epochs, speed="")
        self._bars.start()

    def advance(self, done: int, *, epoch: int, loss: float, images_per_s: float) -> None:
        """Move the bar."""
        if self._bars:
            speed = f"loss {loss:.4f}  {images_per_s:,.0f} images/s"
            self._bars.update(self._bar, completed=done, epoch=epoch + 1, speed=speed)

    def epoch_ends(self, measurement: EpochMeasurement) -> None:
        """Leave one line for the epoch."""
        self._console.print(f"epoch {measurement.epoch + 1}/{self._epochs}  {describe(measurement)}", highlight=False)

    def note(self, text: str) -> None:
        """Leave one line."""
        self._console.print(text, highlight=False, markup=False)

    def phase_ends(self) -> None:
        """Take the bar away."""
        if self._bars:
            self._bars.stop()
            self._bars = None


def progress_for(stream: TextIO | None = None, *, quiet: bool = False) -> Progress:
    """Return what fits the stream: a bar in a terminal, otherwise lines; nothing where ``quiet``.

    Args:
        stream: where to write; standard error by default, because standard output belongs to results.
        quiet: show nothing.
    """
    stream = stream or sys.stderr
    if quiet:
        return Quiet()
    return LiveBar(stream) if stream.isatty() else PlainLines(stream)


def describe(measurement: EpochMeasurement) -> str:
    """Return one epoch as text."""
    speed = f"{measurement.images_per_s:,.0f} images/s"
    text = f"loss {measurement.train_loss:.4f}  lr {measurement.learning_rate:.4g}  {speed}"
    if measurement.validation:
        found = measurement.validation
        text += f"  validation {found.score_name} {100 * found.score:.2f} % loss {found.loss:.4f}"
    return text
