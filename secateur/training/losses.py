"""The loss of a supervised batch: labels, smoothing, a teacher, and the extra outputs of some models."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.errors import UsageError
from secateur.training.distillation import distillation_loss
from secateur.training.evaluate import require_logits
from secateur.training.settings import TrainSettings
from secateur.training.task import Batch


@dataclass(frozen=True)
class SupervisedLoss:
    """Maps a model and a batch to a scalar loss."""

    settings: TrainSettings
    device: torch.device
    compute_type: torch.dtype | None = None  # of autocast; None: float32
    teacher: nn.Module | None = None
    labelled: Callable[[Tensor, Tensor], Tensor] | None = None  # of the user, instead of cross entropy
    classes: int = 1  # the model must have at least as many outputs

    def __post_init__(self) -> None:
        """Refuse combinations that would be ignored silently."""
        if self.settings.distillation is not None and self.teacher is None:
            raise UsageError("distillation is asked for, but the task has no teacher; give SupervisedTask a teacher")
        if self.labelled is not None and self.settings.label_smoothing > 0:
            raise UsageError("label_smoothing has no effect on a loss of your own; set it to 0 or smooth in your loss")

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss over the batch.

        Raises:
            DataError: the labels or outputs do not fit.
        """
        inputs, labels = batch
        context = (
            contextlib.nullcontext()
            if self.compute_type is None
            else torch.autocast(self.device.type, dtype=self.compute_type)
        )
        with context:
            outputs = model(inputs)
            logits: Tensor = outputs
            extra: tuple[Tensor, ...] = ()
            if isinstance(outputs, tuple | list) and outputs:
                # GoogLeNet and Inception give auxiliary logits while they train; None where switched off.
                logits, extra = outputs[0], tuple(output for output in outputs[1:] if output is not None)
            loss = self._of_labels(logits, labels)
            for output in extra:
                loss = loss + self.settings.auxiliary_weight * self._of_labels(output, labels)
            distillation = self.settings.distillation
            if distillation is not None and self.teacher is not None:
                with torch.no_grad():
                    target = self.teacher(inputs)
                soft = distillation_loss(logits.float(), target.float(), temperature=distillation.temperature)
                loss = (1 - distillation.weight) * loss + distillation.weight * soft
        return loss

    def _of_labels(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.labelled is not None:
            return self.labelled(logits, labels)
        require_logits(logits, self.classes)
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.settings.label_smoothing)
