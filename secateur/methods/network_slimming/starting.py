"""Training from scratch: new weights for a network that is there, with γ at 0.5."""

import torch
from torch import nn

from secateur.errors import UsageError
from secateur.methods.network_slimming.scales import norm_scales
from secateur.randomness import derive_seed


def check_can_start_anew(model: nn.Module) -> None:
    """Refuse a model with parameters that nobody knows how to draw.

    Raises:
        UsageError: names the first.
    """
    for path, module in model.named_modules():
        own = next(iter(dict(module.named_parameters(recurse=False))), None)
        if own is not None and not callable(getattr(module, "reset_parameters", None)):
            name = f"{path}.{own}" if path else own
            raise UsageError(
                f"start is scratch, but {type(module).__name__} has no reset_parameters() to draw {name} anew; give "
                "start: weights, or add that method to the class"
            )


def start_anew(model: nn.Module, *, seed: int, scale: float | None) -> None:
    """Draw all parameters anew, in place.

    Source: Liu et al. 2017, arXiv:1708.06519, §4.2: He's initialisation (arXiv:1502.01852) and γ = 0.5. Convolutions
    are drawn by fan out as in the paper's code, linear layers by fan in, both with zero biases; anything else by its
    own ``reset_parameters``.

    Args:
        model: stays on its device, but is drawn on the CPU, so that the device does not matter.
        seed: of all draws.
        scale: γ of every norm; None leaves it at what its class draws, which is 1.

    Raises:
        UsageError: a parameter belongs to a class that does not say how to draw it.
    """
    check_can_start_anew(model)
    devices = {parameter.device for parameter in model.parameters()}
    place = next(iter(devices)) if devices else torch.device("cpu")
    model.cpu()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        # The whole after its parts: a class that draws for its submodules has the last word.
        for path, module in reversed(list(model.named_modules())):
            torch.manual_seed(derive_seed(seed, "start anew", path))
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        if scale is not None:
            for name in norm_scales(model):
                nn.init.constant_(model.get_parameter(name), scale)
    model.to(place)
