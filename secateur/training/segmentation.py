"""A class per pixel: the loss, the evaluation and the checks that differ from those of one class per image.

Masks are int64 of shape (N, H, W), and pixels of the value :data:`IGNORED` count nowhere: not in the loss, not in what
is learnt from a teacher, not in any measure.

Where several processes train together, each takes the mean over the labelled pixels of its own part of a batch, and
these means are weighted by images, much as in torchvision's reference training: gradients are then nearly, not exactly,
those of one process. What is evaluated is exact.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.errors import DataError
from secateur.record import Evaluation
from secateur.returned import described, with_article
from secateur.training.devices import Processes, memory_named, sum_over_processes
from secateur.training.evaluate import eval_mode
from secateur.training.task import Batch

IGNORED = 255
"""The value of pixels without a class: borders of objects in PASCAL VOC, and what pads an image."""

MAIN, AUXILIARY = "out", "aux"
"""Keys under which torchvision's segmentation networks return their logits."""

EVALUATED_PIXELS = 2**21
"""Of one batch where nobody chose its size: 8 images of 512 × 512, whose logits for 21 classes take 176 MB."""


def split_outputs(outputs: object) -> tuple[object, tuple[object, ...]]:
    """Return (main logits, auxiliary logits) of what a network returned: a tensor, or a dict with ``out``."""
    if isinstance(outputs, Mapping) and MAIN in outputs:
        auxiliary = outputs.get(AUXILIARY)
        return outputs[MAIN], () if auxiliary is None else (auxiliary,)
    return outputs, ()


def main_logits(outputs: object, masks: Tensor, classes: int) -> Tensor:
    """Return the logits per pixel, (N, classes or more, H, W), in what a network returned for a batch.

    Raises:
        DataError: there are none, they have another size than the masks, or too few classes.
    """
    return require_pixel_logits(split_outputs(outputs)[0], masks, classes)


def require_pixel_logits(logits: object, masks: Tensor, classes: int) -> Tensor:
    """Return ``logits`` if they have a value per class for every pixel of ``masks``, (N, H, W).

    Raises:
        DataError: they do not.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 4:
        raise DataError(
            f"the data has a class per pixel, so the model must return logits of shape (N, classes, H, W), or a dict "
            f"with them under '{MAIN}', but returned {with_article(described(logits))}; give a segmentation network"
        )
    if len(logits) != len(masks) or logits.shape[2:] != masks.shape[1:]:
        raise DataError(
            f"the model returned logits of shape {tuple(logits.shape)} for masks of shape {tuple(masks.shape)}; let it "
            "end with an interpolation to the size of its input"
        )
    if logits.shape[1] < classes:
        raise DataError(
            f"the model has {logits.shape[1]} outputs per pixel, but the data has {classes} classes; build it with at "
            f"least {classes} outputs (--num-classes {classes}), or choose its own data"
        )
    return logits


def pixel_cross_entropy(logits: Tensor, masks: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross entropy over the labelled pixels of a batch; 0 where there are none.

    Args:
        logits: (N, classes, H, W).
        masks: class indices, int64, (N, H, W), with :data:`IGNORED` where there is none.
        label_smoothing: share of the target that goes to all classes alike, in [0, 1).

    Returns:
        A scalar in nats.
    """
    total = F.cross_entropy(
        logits, masks, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing
    )  # a mean would be NaN over no pixels, which a crop may well have
    return total / (masks != IGNORED).sum().clamp(min=1)


def pixel_distillation_loss(student: Tensor, teacher: Tensor, masks: Tensor, *, temperature: float) -> Tensor:
    """Return T² · KL(softmax(teacher / T) ‖ softmax(student / T)) of each pixel, averaged over the labelled ones.

    Source: Hinton et al. 2015, arXiv:1503.02531, applied to each pixel as to a sample of its own.

    Args:
        student: logits, (N, classes, H, W).
        teacher: logits of the same shape; no gradient flows into them.
        masks: class indices, (N, H, W), of which only :data:`IGNORED` is looked at.
        temperature: T, above 0.

    Returns:
        A scalar in nats.
    """
    soft = F.log_softmax(teacher.detach() / temperature, dim=1)
    predicted = F.log_softmax(student / temperature, dim=1)
    divergence = F.kl_div(predicted, soft, reduction="none", log_target=True).sum(1)  # (N, H, W)
    labelled = masks != IGNORED
    return (divergence * labelled).sum() / labelled.sum().clamp(min=1) * temperature**2


def confusion_of(predicted: Tensor, masks: Tensor, classes: int) -> Tensor:
    """Return how many labelled pixels of each class were taken for which.

    Args:
        predicted: most likely class of each pixel, (N, H, W); it may be one that the data does not have.
        masks: class indices, (N, H, W).
        classes: of the data.

    Returns:
        int64 of shape (classes, classes + 1): rows are true classes, columns predicted ones, and the last column
        holds what was taken for a class that the data does not have.
    """
    labelled = masks != IGNORED
    columns = classes + 1
    places = masks[labelled] * columns + predicted[labelled].clamp(max=classes)
    return torch.bincount(places, minlength=classes * columns).view(classes, columns)


def mean_iou(confusion: Tensor) -> float:
    """Return the mean over classes of intersection / union (Everingham et al. 2010, PASCAL VOC, §4.3).

    Of class c these are the pixels that are c and were taken for c, and those that are c or were taken for c, over the
    whole split at once, not image by image. A class that never occurs, neither in the masks nor among the predictions,
    has no union and is left out of the mean; one that does not occur in the masks but is predicted has an IoU of 0.

    Args:
        confusion: as :func:`confusion_of` returns it, summed over the split.
    """
    counts = confusion.to("cpu", torch.float64)  # exact up to 2**53 pixels
    intersection = counts.diagonal()
    union = counts.sum(1) + counts.sum(0)[: len(counts)] - intersection
    occurs = union > 0
    return float((intersection[occurs] / union[occurs]).mean())


def pixel_accuracy(confusion: Tensor) -> float:
    """Return the share of labelled pixels whose most likely class is right, in [0, 1]; see :func:`mean_iou`."""
    counts = confusion.to("cpu", torch.float64)
    return float(counts.diagonal().sum() / counts.sum())


def evaluate_segmentation(
    model: Callable[[Tensor], object],
    batches: Iterable[Batch],
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = pixel_cross_entropy,
    classes: int,
    processes: Processes = Processes(),  # noqa: B008  (frozen, so that sharing it is harmless)
) -> Evaluation:
    """Return mean IoU, pixel accuracy and mean loss over all labelled pixels of ``batches``.

    One confusion matrix is added up over the whole split and over all processes, in whole numbers, so the measures do
    not depend on how the images are batched.

    Args:
        model: maps inputs (N, C, H, W) to logits (N, classes, H, W), or to a dict with them under ``out``; a module is
            put in eval mode meanwhile.
        batches: inputs and masks (N, H, W).
        loss: maps logits and masks to the mean over the labelled pixels of the batch.
        classes: of the data; the model must have at least as many outputs.
        processes: each evaluates its part; the result is the same on all of them.

    Raises:
        DataError: no pixel has a label, or the outputs are not logits for the masks.
        TrainingError: memory ran out.
    """
    confusion = torch.zeros(classes, classes + 1, dtype=torch.int64)
    losses: list[Tensor] = []
    samples = 0
    device = torch.device("cpu")
    mode = eval_mode(model) if isinstance(model, nn.Module) else contextlib.nullcontext()
    with mode, torch.no_grad():
        for inputs, masks in batches:
            with memory_named(max(1, len(masks))):
                logits = main_logits(model(inputs), masks, classes).float()
                seen = confusion_of(logits.argmax(1), masks, classes)
                labelled = seen.sum()
                mean_of = loss(logits, masks)
            # Where nothing is labelled a loss of the user's own may be NaN.
            losses.append(torch.where(labelled > 0, mean_of * labelled, torch.zeros_like(mean_of)))
            confusion = confusion.to(seen.device) + seen
            device = seen.device
            samples += len(masks)
    total = torch.stack(losses).to("cpu", torch.float64).sum() if losses else torch.zeros((), dtype=torch.float64)
    if processes.world_size > 1:
        confusion = sum_over_processes(confusion, processes)
        sums = sum_over_processes(torch.tensor([float(total), samples], dtype=torch.float64, device=device), processes)
        total, samples = sums[0], round(float(sums[1]))
    labelled_pixels = int(confusion.sum())
    if labelled_pixels == 0:
        what = "the split has no samples" if samples == 0 else f"no pixel of the {samples} masks has a class"
        raise DataError(f"cannot evaluate: {what}")
    return Evaluation(
        loss=float(total) / labelled_pixels,
        samples=samples,
        mean_iou=mean_iou(confusion),
        pixel_accuracy=pixel_accuracy(confusion),
    )


def evaluated_batch_size(asked: int, sample_shape: tuple[int, int, int]) -> int:
    """Return how many images are evaluated at once where ``asked`` is only a default: a logit per pixel takes room."""
    return max(1, min(asked, EVALUATED_PIXELS // (sample_shape[1] * sample_shape[2])))
