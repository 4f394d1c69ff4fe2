"""What a model must be so that a job can work on it: looked at before the work starts."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from secateur.data import DataSource
from secateur.errors import DataError, ModelError, SecateurError
from secateur.graph import ChannelGraph
from secateur.graph.misfit import does_not_run
from secateur.graph.slots import alike, mode_of, preserved, randomness_preserved, stored_tensors, swapped
from secateur.memory import ran_out
from secateur.returned import described, place_of_logits, tensors_within, with_article
from secateur.training import Batch, task_of
from secateur.training.devices import memory_named
from secateur.training.evaluate import require_logits
from secateur.training.segmentation import main_logits

NAMED = 3  # groups in a sentence


def check_outputs(outputs: object, samples: int, data: DataSource) -> None:
    """Refuse what a model returned for a batch if it is not a row of logits per sample, or per pixel of segmentation.

    Raises:
        DataError: with what it returned instead.
    """
    if task_of(data) == "segmentation":
        height, width = data.sample_shape[1:]
        _refuse_not_finite(main_logits(outputs, torch.zeros(samples, height, width), data.num_classes), samples, data)
        return
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != samples:
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else with_article(described(outputs))
        raise DataError(
            f"the model must return logits of shape (N, {data.num_classes}) in eval mode, but for N = {samples} "
            f"returned {found}; {_way_to_logits(outputs, samples, data.num_classes)}"
        )
    require_logits(outputs, data.num_classes)
    _refuse_not_finite(outputs, samples, data)


def _refuse_not_finite(logits: Tensor, samples: int, data: DataSource) -> None:
    # Minus infinity is how a model rules a class out.
    wrong = (logits.isnan() | logits.isposinf()).flatten(1).any(1)
    if bool(wrong.any()):
        raise DataError(
            f"the model returns NaN or infinity for {int(wrong.sum())} of {samples} samples of {data.name} before "
            "anything was cut or trained; look at its weights, at what it divides by, and for NaN in the images"
        )


def check_training(
    model: nn.Module, batch: Batch, data: DataSource, loss: Callable[[nn.Module, Batch], Tensor]
) -> None:
    """Refuse a model that a training step would refuse, or that has nothing to train; it stays as it was.

    Args:
        model: runs on the batch in eval mode.
        batch: training samples, at least two of them.
        data: where they come from.
        loss: of a model and a batch.

    Raises:
        DataError: it does not run in training mode, or returns there what has no loss.
        TrainingError: memory ran out.
    """
    stored = stored_tensors(model)
    with (
        torch.no_grad(),
        memory_named(len(batch[1])),
        preserved(model),
        mode_of(model, training=True),
        randomness_preserved(stored),
        # Batch norm writes into its buffers.
        swapped(stored, lambda entry: alike(entry.tensor, entry.tensor.detach().clone())),
    ):
        try:
            loss(model, batch)
        except SecateurError as error:
            raise DataError(f"in training mode, {error}") from error
        except (Exception, SystemExit) as error:
            if ran_out(error) is not None:
                raise
            raise DataError(
                f"images of {data.name} pass through the model in eval mode, but in training mode "
                f"{does_not_run(model, ((batch[0],), {}), error)}"
            ) from error


def require_prunable(graph: ChannelGraph, method: object = None) -> None:
    """Refuse a model of which nothing can be cut.

    Args:
        graph: of the model.
        method: its settings ``allow_approximate`` and ``level``, where it has them, say what may be cut.

    Raises:
        ModelError: it has no layers to cut, or all of its groups are locked.
    """
    allowed, level = getattr(method, "allow_approximate", False), getattr(method, "level", "channel")
    if level != "block" and any(group.cuttable(allow_approximate=allowed) for group in graph.groups):
        return
    if level != "channel" and any(block.locked is None for block in graph.blocks):
        return
    if not graph.groups:
        raise ModelError(
            f"{graph.model_class} has no convolution and no linear layer, so there is nothing to cut; give a network "
            "that has some"
        )
    if level == "block":
        locked = [f"{block.name} ({block.locked})" for block in graph.blocks]
        found = (
            f"all of its blocks ({len(locked)}) are locked: {', '.join(locked[:NAMED])}" if locked else "it has none"
        )
        raise ModelError(
            f"{graph.model_class} has no residual block that can be dropped: {found}; cut channels, with another "
            "method or level"
        )
    reasons = dict.fromkeys(f"{group.name} ({group.locked or group.approximate})" for group in graph.groups)
    shown = ", ".join(list(reasons)[:NAMED])
    more = f" and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
    raise ModelError(
        f"nothing of {graph.model_class} can be cut, because all of its groups ({len(graph.groups)}) are locked: "
        f"{shown}{more}; `secateur groups` lists them all{_other_ways(graph, method)}"
    )


def _other_ways(graph: ChannelGraph, method: object) -> str:
    """Return what else could be cut, if ``method`` has settings for it that are off."""
    ways = []
    if not getattr(method, "allow_approximate", True) and any(group.locked is None for group in graph.groups):
        ways.append("--allow-approximate, where channels are normalised together")
    if getattr(method, "level", "") == "channel" and any(block.locked is None for block in graph.blocks):
        ways.append("--level block, which drops whole residual blocks")
    return f"; there is {' and '.join(ways)}" if ways else ""


def _way_to_logits(outputs: object, samples: int, classes: int) -> str:
    access = place_of_logits(outputs, samples, classes)
    if access is not None:
        return f"wrap it in a file.py:function whose module returns model(x){access}"
    ranks = {tensor.ndim for _, tensor in tensors_within(outputs)}
    if ranks == {4}:
        return (
            "it gives a value per pixel, and this data has one class per image; give data with masks, such as voc:DIR, "
            "or cut it with `secateur plan` and `secateur apply`, and train it with a task of your own in Python"
        )
    return "give a classifier, or wrap it in a file.py:function whose module returns the logits alone"
