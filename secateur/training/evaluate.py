"""Averages per sample of loss and accuracy over a split."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.errors import DataError
from secateur.record import Evaluation
from secateur.returned import described, with_article
from secateur.training.devices import Processes, memory_named, sum_over_processes
from secateur.training.task import Batch


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in eval mode inside the block and give every module its own flag back afterwards."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training


def evaluate(
    model: Callable[[Tensor], Tensor],
    batches: Iterable[Batch],
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    classes: int = 1,
    processes: Processes = Processes(),  # noqa: B008  (frozen, so that sharing it is harmless)
) -> Evaluation:
    """Return the averages of ``model`` over ``batches``, every sample counting once.

    Args:
        model: maps inputs (N, C, H, W) to logits (N, classes); a module is put in eval mode meanwhile.
        batches: inputs and class indices (N,); sizes may differ.
        loss: maps logits and labels to the mean over the batch.
        classes: the number of classes in the data; the model must have at least as many outputs.
        processes: each evaluates its part; the result is the same on all of them.

    Raises:
        DataError: there are no samples, or the outputs are not (N, classes) logits for the labels given.
        TrainingError: memory ran out.
    """
    sums: list[Tensor] = []
    mode = eval_mode(model) if isinstance(model, nn.Module) else contextlib.nullcontext()
    with mode, torch.no_grad():
        for inputs, labels in batches:
            if len(labels) > 0:
                with memory_named(len(labels)):
                    logits = model(inputs)
                    require_logits(logits, classes)
                    sums.append(_sums(logits.float(), labels, loss))
    # One transfer for the whole split, then double precision, which not every device has.
    total = torch.stack(sums).to("cpu", torch.float64).sum(0) if sums else torch.zeros(4, dtype=torch.float64)
    if processes.world_size > 1:
        device = sums[0].device if sums else torch.device("cpu")
        total = sum_over_processes(total.to(device), processes).cpu()
    mean_of, top1, top5, samples = total.tolist()
    if samples == 0:
        raise DataError("cannot evaluate: the split has no samples")
    return Evaluation(loss=mean_of / samples, top1=top1 / samples, top5=top5 / samples, samples=round(samples))


def require_logits(outputs: object, classes: int) -> None:
    """Refuse outputs that are not one row of logits per sample, with a place for each class.

    Raises:
        DataError: they are not.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        raise DataError(
            f"the model must return logits of shape (N, classes), but returned {with_article(described(outputs))}; "
            "wrap it in a module that returns the logits alone"
        )
    if outputs.shape[1] < classes:
        raise DataError(
            f"the model has {outputs.shape[1]} outputs, but the data has {classes} classes; build it with at least "
            f"{classes} outputs (--num-classes {classes}), or choose its own data"
        )


def _sums(logits: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return (sum of losses, right in one, right in five, samples) as one tensor of the logits' device."""
    likely = logits.topk(min(5, logits.shape[1]), dim=1).indices
    right = likely == labels[:, None]
    count = len(labels)
    return torch.stack([loss(logits, labels) * count, right[:, 0].sum(), right.sum(), logits.new_tensor(count)])
