"""Gradients averaged over processes in one go, when all backward passes of a step are done."""

import torch
from torch import Tensor, nn

from secateur.training import Processes, sum_over_processes


def average_gradients(model: nn.Module, samples: int, processes: Processes) -> None:
    """Replace each gradient by its mean over all samples of all processes; the same bits on each.

    A parameter that no process has used keeps no gradient, so that an optimiser leaves it alone; where only some have,
    the gradient of the others counts as zero. (A data-parallel wrapper averages during one backward pass and expects it
    to use the same parameters everywhere, which networks of different widths and several passes do not.)

    Args:
        model: the same on every process, with this one's gradients.
        samples: that this process's gradients are means over.
        processes: those that train together.
    """
    if processes.world_size == 1:
        return
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    by_kind: dict[tuple[torch.device, torch.dtype], list[nn.Parameter]] = {}
    for parameter in parameters:
        by_kind.setdefault((parameter.device, parameter.dtype), []).append(parameter)
    device = parameters[0].device
    used = torch.tensor([float(parameter.grad is not None) for parameter in parameters] + [samples], device=device)
    found = sum_over_processes(used, processes).tolist()
    total = found.pop()
    has_gradient = {id(parameter): count > 0 for parameter, count in zip(parameters, found, strict=True)}
    for members in by_kind.values():
        chosen = [parameter for parameter in members if has_gradient[id(parameter)]]
        if not chosen:
            continue
        sums = sum_over_processes(torch.cat([_flat(parameter) for parameter in chosen]) * samples, processes)
        position = 0
        for parameter in chosen:
            part = sums[position : position + parameter.numel()].view(parameter.shape) / total
            position += parameter.numel()
            parameter.grad = torch.empty_like(parameter, requires_grad=False).copy_(part)


def _flat(parameter: nn.Parameter) -> Tensor:
    gradient = parameter.grad
    return parameter.new_zeros(parameter.numel()) if gradient is None else gradient.detach().reshape(-1)
