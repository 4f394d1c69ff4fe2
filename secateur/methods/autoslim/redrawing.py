"""Random weights in the place of those that a network has, as its layers begin."""

import torch
from torch import nn

from secateur.randomness import derive_seed
from secateur.training.devices import own_random_numbers


def redrawn(model: nn.Module, seed: int) -> list[str]:
    """Give every layer of ``model`` new weights, in place, and return the parameters that kept theirs.

    Each layer draws as its class does (``reset_parameters``); norms begin with scale 1, shift 0 and empty statistics.
    What a network's own code does to its layers when it is built is not repeated, since it cannot be known here.

    Args:
        model: an ordinary module.
        seed: of the draws.
    """
    first = next(model.parameters())
    untouched = dict(model.named_parameters())
    with torch.no_grad(), own_random_numbers(first.device) as generators:
        for path, module in model.named_modules():
            reset = getattr(module, "reset_parameters", None)
            if not callable(reset):
                continue
            for generator in generators:
                generator.manual_seed(derive_seed(seed, "redrawn", path))
            reset()
            own = {id(parameter) for parameter in module.parameters()}
            untouched = {name: parameter for name, parameter in untouched.items() if id(parameter) not in own}
    return list(untouched)
