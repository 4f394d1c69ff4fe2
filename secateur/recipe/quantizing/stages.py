"""Where the work shows how it goes, stage by stage, and data that counts the images it gives."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from torch import Tensor

from secateur.data import DataSource
from secateur.data.source import Split


class Stages(Protocol):
    """What the work tells while it runs."""

    def begins(self, what: str, *, images: int = 0) -> None:
        """A stage begins, which ends the one before; ``images`` is 0 where it does not count them."""

    def advance(self, images: int) -> None:
        """So many images of the stage are done."""

    def note(self, text: str) -> None:
        """Something that the user should know."""

    def ends(self) -> None:
        """The work is over, or was stopped."""


class QuietStages:
    """Shows nothing."""

    def begins(self, what: str, *, images: int = 0) -> None:
        """Show nothing."""

    def advance(self, images: int) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def ends(self) -> None:
        """Show nothing."""


class ToldStages:
    """A line for each stage and note."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """Hand lines to ``tell``."""
        self._tell = tell

    def begins(self, what: str, *, images: int = 0) -> None:
        """Tell what begins."""
        del images
        self._tell(what)

    def advance(self, images: int) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Tell it."""
        self._tell(text)

    def ends(self) -> None:
        """Show nothing."""


class Watched:
    """A data source that tells a stage how many of its images were read."""

    def __init__(self, source: DataSource, stages: Stages) -> None:
        """Give what ``source`` gives."""
        self._source, self._stages = source, stages
        self.name, self.num_classes, self.class_names = source.name, source.num_classes, source.class_names
        self.sample_shape, self.normalization = source.sample_shape, source.normalization
        self.task = getattr(source, "task", "classification")

    def size(self, split: Split) -> int:
        """Return how many samples ``split`` has."""
        return self._source.size(split)

    def batches(self, split: Split, *, batch_size: int, **more: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what :meth:`DataSource.batches` yields."""
        done = 0
        for images, labels in self._source.batches(split, batch_size=batch_size, **more):
            yield images, labels
            done += len(images)
            self._stages.advance(done)
