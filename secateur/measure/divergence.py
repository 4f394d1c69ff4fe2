"""How far the distribution that a model predicts is from another model's: finer than counting right answers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import DataError


class Divergence:
    """A classifier that answers as one model does, and sums how far that is from what another one predicts.

    The Kullback–Leibler divergence of the answering model's softmax from the reference's, in nats, averaged over
    samples, or over pixels where each has a prediction. A model may be judged by it even on samples that it was
    trained on, of which it knows every answer. The reference runs once: rows of logits are kept for the passes after
    the first, which have to give the same batches.
    """

    def __init__(self, reference: nn.Module) -> None:
        """Compare with ``reference``, which is run in its current mode."""
        self._reference = reference
        self._kept: list[Tensor | None] = []
        self._sum, self._count, self._batch = 0.0, 0, 0

    @property
    def mean_nats(self) -> float:
        """Mean divergence of the last pass.

        Raises:
            DataError: there was no sample.
        """
        if not self._count:
            raise DataError("there are no samples to compare predictions on; give a split with samples")
        return self._sum / self._count

    def of(self, model: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        """Return what answers as ``model`` does; a new pass begins with it."""
        self._sum, self._count, self._batch = 0.0, 0, 0

        def answer(images: Tensor) -> Any:
            found = model(images)
            wanted = self._wanted(images).double().log_softmax(1)
            apart = wanted - _logits(found).double().log_softmax(1)
            # Minus infinity is how a model rules a class out, and 0 · log 0 is 0.
            each = torch.where(wanted.isneginf(), 0.0, wanted.exp() * apart).sum(1)
            self._sum += float(each.sum())
            self._count += each.numel()
            return found

        return answer

    def _wanted(self, images: Tensor) -> Tensor:
        place, self._batch = self._batch, self._batch + 1
        kept = self._kept[place] if place < len(self._kept) else None
        if kept is not None:
            return kept.to(images.device)
        with torch.no_grad():
            logits = _logits(self._reference(images))
        if place == len(self._kept):
            self._kept.append(logits.cpu() if logits.dim() == 2 else None)
        return logits


def _logits(outputs: Any) -> Tensor:
    """Return the logits: the one output, or the one that segmentation networks call ``out``."""
    found = outputs["out"] if isinstance(outputs, dict) and "out" in outputs else outputs
    if not isinstance(found, Tensor) or found.dim() < 2:
        raise DataError("predictions can be compared of models that return logits (N, classes, …) alone")
    return found
