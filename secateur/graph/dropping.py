"""What stands in the place of a dropped block's modules, and how it gets there."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from secateur.errors import PlanError
from secateur.graph.blocks import Drop


class Skipped(nn.Module):
    """Stands in the place of a dropped residual block: returns its first argument as it is."""

    def forward(self, x: Tensor, *others: object, **more: object) -> Tensor:
        """Return ``x``, of any shape; what else the block was given is not looked at."""
        del others, more
        return x


class Zeros(nn.Module):
    """Stands in the place of a module of a dropped branch: returns zeros."""

    def forward(self, x: Tensor, *others: object, **more: object) -> Tensor:
        """Return new zeros of the shape of ``x``; what else the module was given is not looked at."""
        del others, more
        return torch.zeros_like(x)


def replacements(model: nn.Module, drops: Iterable[Drop]) -> dict[int, nn.Module]:
    """Return what stands in the place of modules of ``model``, by the identity of the module.

    Raises:
        PlanError: ``model`` has no such module.
    """
    found: dict[int, nn.Module] = {}
    drops = tuple(drops)
    if not drops:
        return found
    modules = dict(model.named_modules(remove_duplicate=False))
    for drop in drops:
        for path, kind in drop.replaced:
            if path not in modules:
                raise PlanError(
                    f"the plan drops the block {drop.block!r} by replacing the module {path!r}, which this "
                    f"{type(model).__name__} lacks; make a plan from this model's own graph"
                )
            stand_in: nn.Module = {"skip": Skipped, "zeros": Zeros, "identity": Skipped}[kind]()
            stand_in.training = modules[path].training
            found[id(modules[path])] = stand_in
    return found


def replace_modules(model: nn.Module, stand_ins: dict[int, nn.Module]) -> list[tuple[nn.Module, str, nn.Module]]:
    """Put ``stand_ins`` in the place of modules of ``model``; return (parent, name, module) of what was there."""
    places = [
        (parent, name, child)
        for parent in list(model.modules())
        if id(parent) not in stand_ins
        for name, child in parent._modules.items()
        if child is not None and id(child) in stand_ins
    ]
    for parent, name, child in places:
        parent._modules[name] = stand_ins[id(child)]
    return places


@contextlib.contextmanager
def dropped(model: nn.Module, drops: Iterable[Drop]) -> Iterator[None]:
    """Let ``model`` run without the given blocks inside this context, and put its modules back."""
    stand_ins = replacements(model, drops)
    places = replace_modules(model, stand_ins) if stand_ins else []
    try:
        yield
    finally:
        for parent, name, child in places:
            parent._modules[name] = child
