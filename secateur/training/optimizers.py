"""Build a phase's optimiser in the fastest form that is right; save its moments by parameter name."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur.training.settings import TrainSettings

Moments = dict[str, dict[str, Tensor]]  # parameter name → state name → tensor


def build_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return an optimiser over the parameters of ``model`` that require gradients.

    Fused kernels are taken where they are right: on a CPU they make a step of a small network up to ten times
    faster than a loop over its parameters, but they read memory as it lies, so that strides must agree.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = all(map(_can_fuse, trained))
    decayed = [p for p in trained if settings.decay_norms_and_biases or p.ndim > 1]
    undecayed = [p for p in trained if not (settings.decay_norms_and_biases or p.ndim > 1)]
    groups = [
        {"params": members, "weight_decay": decay}
        for members, decay in ((decayed, settings.weight_decay), (undecayed, 0.0))
        if members
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=fused or None)
    sgd = torch.optim.SGD(
        groups,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        fused=fused or None,
    )
    if settings.momentum > 0:
        # The first step would make the buffers. Fused kernels refuse a parameter whose first gradient comes
        # later than the others'; from zeros the first step is the same: 0·μ + gradient.
        for parameter in trained:
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return sgd


def align_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Give gradients that somebody assigned the strides of their parameters, before each step.

    Autograd does so by itself; a hook or a replaced step that assigns ``.grad`` need not, and a fused kernel
    would silently pair the wrong numbers.
    """

    def align(optimizer: torch.optim.Optimizer, _args: object, _kwargs: object) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is not None and gradient.stride() != parameter.stride():
                    parameter.grad = torch.empty_like(parameter).copy_(gradient)

    optimizer.register_step_pre_hook(align)


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> Moments:
    """Return the optimiser's tensors by parameter name; momentum, Adam's moments and step counts."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: {key: value for key, value in state.items() if isinstance(value, Tensor)}
        for parameter, state in optimizer.state.items()
    }


def load_moments(model: nn.Module, optimizer: torch.optim.Optimizer, saved: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Put back what :func:`moments` returned, on each parameter's device and with its strides."""
    for name, parameter in model.named_parameters():
        for key, value in saved.get(name, {}).items():
            if value.shape == parameter.shape:
                place = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
                optimizer.state[parameter][key] = place.copy_(value)
            else:  # step counts; fused kernels want them where the parameter is
                fused = optimizer.defaults.get("fused")
                optimizer.state[parameter][key] = value.to(parameter.device if fused else "cpu")


def _can_fuse(parameter: Tensor) -> bool:
    dense = parameter.is_contiguous() or (
        parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
    )
    return dense and parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda")
