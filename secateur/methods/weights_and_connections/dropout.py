"""Dropout for a network with fewer connections: D_r = D_o · √(C_r / C_o)."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from secateur.graph import inputs
from secateur.graph.slots import mode_of
from secateur.sparse import Masks, prunable_weights
from secateur.sparse.prunable import layer_of


def weights_before_dropout(model: nn.Module, example_inputs: Tensor) -> dict[str, str]:
    """Return for each dropout module the weight that makes what it drops: of the layer that ran last before it.

    Dropout that runs before any layer belongs to the first one. Modules with a rate of 0 are left out.

    Args:
        model: it is run once, in eval mode.
        example_inputs: that it takes.
    """
    order: list[tuple[str, str]] = []
    handles = []
    for name in prunable_weights(model):
        handles.append(layer_of(model, name).register_forward_hook(_noting(order, "weight", name)))
    for path, module in model.named_modules():
        if isinstance(module, _DropoutNd) and module.p > 0:
            handles.append(module.register_forward_hook(_noting(order, "dropout", path)))
    try:
        with mode_of(model, training=False):
            inputs.run(model, inputs.as_call(example_inputs))
    finally:
        for handle in handles:
            handle.remove()
    found: dict[str, str] = {}
    first = next((name for kind, name in order if kind == "weight"), None)
    last = first
    for kind, name in order:
        if kind == "weight":
            last = name
        elif last is not None:
            found.setdefault(name, last)
    return found


def rescaled_rates(model: nn.Module, masks: Masks, makers: Mapping[str, str]) -> dict[str, float]:
    """Return the rate of each dropout module for retraining under ``masks``.

    Source: Han et al. 2015, arXiv:1506.02626, Eq. 2: neurons go with the square root of their connections.

    Args:
        model: whose rates are those of the dense training.
        masks: of the surviving connections; a weight without a mask has all of its own.
        makers: module → weight, from :func:`weights_before_dropout`.
    """
    modules = dict(model.named_modules())
    return {
        path: float(getattr(modules[path], "p")) * math.sqrt(masks.density(name) if name in masks else 1.0)  # noqa: B009
        for path, name in makers.items()
    }


@contextlib.contextmanager
def dropout_at(model: nn.Module, rates: Mapping[str, float]) -> Iterator[None]:
    """Give dropout modules other rates inside the block."""
    modules = dict(model.named_modules())
    before = {path: getattr(modules[path], "p") for path in rates}  # noqa: B009
    try:
        for path, rate in rates.items():
            modules[path].p = rate
        yield
    finally:
        for path, rate in before.items():
            modules[path].p = rate


def _noting(order: list[tuple[str, str]], kind: str, name: str) -> Callable[..., None]:
    def note(*_: object) -> None:
        order.append((kind, name))

    return note
