"""The loss of a supervised batch: labels, smoothing, a teacher, and the extra outputs of some models.

For classification and segmentation alike; what they do differently is a branch in three small functions.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.errors import UsageError
from secateur.training.distillation import distillation_loss
from secateur.training.evaluate import require_logits
from secateur.training.segmentation import (
    pixel_cross_entropy,
    pixel_distillation_loss,
    require_pixel_logits,
    split_outputs,
)
from secateur.training.settings import TrainSettings
from secateur.training.task import Batch, TaskName


@dataclass(frozen=True)
class SupervisedLoss:
    """Maps a model and a batch to a scalar loss."""

    settings: TrainSettings
    device: torch.device
    compute_type: torch.dtype | None = None  # of autocast; None: float32
    teacher: nn.Module | None = None
    labelled: Callable[[Tensor, Tensor], Tensor] | None = None  # of the user, instead of cross entropy
    classes: int = 1  # the model must have at least as many outputs
    task: TaskName = "classification"  # segmentation: labels are masks (N, H, W), and so is the loss per pixel

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
            logits, extra = self._split(model(inputs))
            loss = self._of_labels(logits, labels)
            for output in extra:
                loss = loss + self._extra_weight * self._of_labels(output, labels)
            distillation = self.settings.distillation
            if distillation is not None and self.teacher is not None:
                with torch.no_grad():
                    target, _ = self._split(self.teacher(inputs))
                soft = self._soft(logits.float(), target.float(), labels, distillation.temperature)
                loss = (1 - distillation.weight) * loss + distillation.weight * soft
        return loss

    @property
    def _extra_weight(self) -> float:
        settings = self.settings
        return settings.pixel_auxiliary_weight if self.task == "segmentation" else settings.auxiliary_weight

    def _split(self, outputs: Any) -> tuple[Any, tuple[Any, ...]]:
        """Return (logits, auxiliary logits); what they really are is looked at with the labels."""
        if self.task == "segmentation":
            return split_outputs(outputs)
        if isinstance(outputs, tuple | list) and outputs:
            # GoogLeNet and Inception give auxiliary logits while they train; None where switched off.
            return outputs[0], tuple(output for output in outputs[1:] if output is not None)
        return outputs, ()

    def _of_labels(self, logits: Any, labels: Tensor) -> Tensor:
        if self.labelled is not None:
            return self.labelled(logits, labels)
        smoothing = self.settings.label_smoothing
        if self.task == "segmentation":
            found = require_pixel_logits(logits, labels, self.classes)
            return pixel_cross_entropy(found.float(), labels, label_smoothing=smoothing)
        require_logits(logits, self.classes)
        return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)

    def _soft(self, student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
        if self.task == "segmentation":
            return pixel_distillation_loss(student, teacher, labels, temperature=temperature)
        return distillation_loss(student, teacher, temperature=temperature)
