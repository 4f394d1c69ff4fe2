"""The pass over calibration images, and what is looked at before and after it."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, fx

from secateur.errors import DataError
from secateur.quantization.histogram import RangeHistogram
from secateur.quantization.quantizer import INT32, BiasQuantizer
from secateur.wording import counted

CalibrationBatch: TypeAlias = "Tensor | tuple[Tensor, ...] | list[Tensor]"
"""Inputs (N, …), or inputs and labels, of which the labels are not looked at."""

_UNNORMALIZED = 16.0  # beyond what any usual normalisation makes of a pixel


def run_images(
    module: fx.GraphModule, batches: Iterable[CalibrationBatch], progress: Callable[[int], None] | None
) -> int:
    """Run batches through a captured model; return how many images there were, over all processes.

    Raises:
        DataError: there is none, or one does not fit the model.
    """
    images = 0
    device = next((entry.device for entry in module.parameters()), torch.device("cpu"))
    with torch.no_grad():
        for batch in batches:
            inputs = batch if isinstance(batch, Tensor) else batch[0]
            _require_fitting(module, inputs)
            module(inputs.to(device))
            images += len(inputs)
            if progress is not None:
                progress(images)
    total = _over_processes(images)
    if total == 0:
        raise DataError("there are no calibration images; give at least one batch of training images")
    return total


def unnormalized(histograms: Mapping[str, RangeHistogram], images: int) -> dict[str, str]:
    """Return a note for inputs of the model that reach further than normalised images do."""
    return {
        name: (
            f"{counted(images, 'image')} reach from {histogram.lowest:g} to {histogram.highest:g}, which looks "
            "unnormalised; prepare them as for evaluation"
        )
        for name, histogram in histograms.items()
        if name.startswith("inputs.") and histogram.reach > _UNNORMALIZED
    }


def fit_bias(site: BiasQuantizer, bias: Tensor) -> None:
    """Widen the steps of weights whose bias would not fit int32: tiny weights beside a large bias."""
    weight = site.weight_site
    least = bias.detach().double().abs() / (site.input_site.step.detach().double() * INT32)
    if weight.step.dim() == 0:
        least = least.max()
    with torch.no_grad():
        # A little more, because the step is rounded to float32.
        weight.step.copy_(torch.maximum(weight.step.double(), least * (1 + 1e-6)))


def _require_fitting(module: fx.GraphModule, inputs: Tensor) -> None:
    first = next(node for node in module.graph.nodes if node.op == "placeholder")
    wanted = first.meta.get("shape")
    if wanted is not None and tuple(inputs.shape[1:]) != tuple(wanted[1:]):
        raise DataError(
            f"calibration images have the shape {tuple(inputs.shape[1:])}, but the model was captured for "
            f"{tuple(wanted[1:])}; prepare them as for evaluation"
        )


def _over_processes(images: int) -> int:
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return images
    device = torch.device("cuda" if torch.distributed.get_backend() == "nccl" else "cpu")
    total = torch.tensor(images, device=device)
    torch.distributed.all_reduce(total)
    return int(total)
