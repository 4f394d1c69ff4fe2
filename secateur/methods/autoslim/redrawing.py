"""Random weights in the place of those that a network has, as they begin when it is built."""

import torch
from torch import nn

from secateur.randomness import derive_seed
from secateur.training.devices import own_random_numbers


def redrawn(model: nn.Module, seed: int) -> list[str]:
    """Give every layer of ``model`` new weights, in place, and return the parameters that kept theirs.

    Each layer draws as its class does (``reset_parameters``); norms begin with scale 1, shift 0 and empty statistics.
    Then every module that has a method ``initialise``, as the networks of :mod:`secateur.models` do, draws once more as
    it does when it is built, inner modules before those around them. What other networks' own code does to their layers
    is not repeated, since it cannot be known here.

    Args:
        model: an ordinary module.
        seed: of the draws.
    """
    first = next(model.parameters())
    untouched = dict(model.named_parameters())
    with torch.no_grad(), own_random_numbers(first.device) as generators:
        for path, module in reversed(list(model.named_modules())):  # what is inside before what is around it
            for begins in ("reset_parameters", "initialise"):
                draw = getattr(module, begins, None)
                if not callable(draw):
                    continue
                for generator in generators:
                    generator.manual_seed(derive_seed(seed, "redrawn", path, begins))
                draw()
                own = {id(parameter) for parameter in module.parameters()}
                untouched = {name: parameter for name, parameter in untouched.items() if id(parameter) not in own}
    return list(untouched)
