"""What all phases of a task share: data, device, processes, teacher, and how to show and save progress."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.record import Environment, Evaluation, environment
from secateur.training.devices import Processes, memory_named
from secateur.training.evaluate import evaluate
from secateur.training.losses import SupervisedLoss
from secateur.training.progress import Progress
from secateur.training.segmentation import evaluate_segmentation, pixel_cross_entropy
from secateur.training.settings import TrainSettings
from secateur.training.task import Batch, DataSource, Split, TaskName, task_of


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """The parts of a supervised task that do not change from phase to phase."""

    data: DataSource
    device: torch.device
    processes: Processes
    teacher: nn.Module | None
    labelled: Callable[[Tensor, Tensor], Tensor] | None  # the user's loss of logits and labels
    progress: Progress
    checkpoint_seconds: float
    checkpoint_steps: int | None
    clock: Callable[[], float]

    @property
    def task(self) -> TaskName:
        """What the data is labelled for."""
        return task_of(self.data)

    def loss(self, settings: TrainSettings, compute_type: torch.dtype | None) -> SupervisedLoss:
        """Return the loss that ``settings`` describe, computed under autocast in ``compute_type``."""
        return SupervisedLoss(
            settings=settings,
            device=self.device,
            compute_type=compute_type,
            teacher=self.teacher,
            labelled=self.labelled,
            classes=self.data.num_classes,
            task=self.task,
        )

    def evaluate(self, model: nn.Module, split: Split, batch_size: int) -> Evaluation:
        """Return how well ``model`` does on ``split``, in float32 whatever training computes in."""
        batches = self.data.batches(
            split,
            batch_size=batch_size,
            device=self.device,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
        )
        with memory_named(batch_size):
            return self._measure(model.to(self.device), batches)

    def _measure(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        classes, processes = self.data.num_classes, self.processes
        if self.task == "segmentation":
            loss = self.labelled or pixel_cross_entropy
            return evaluate_segmentation(model, batches, loss=loss, classes=classes, processes=processes)
        return evaluate(model, batches, loss=self.labelled or F.cross_entropy, classes=classes, processes=processes)

    def environment(self) -> Environment:
        """Return what decides whether a continued run gives the same bits."""
        return environment(self.device, world_size=self.processes.world_size)
