"""Copy a model with other tensors in the place of its own."""

import copy
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

_ATOMS = (bool, int, float, complex, str, bytes, type(None), type)
_CONTAINERS = (dict, OrderedDict, list, set)
_REGISTERED = frozenset(name for name, value in vars(nn.Module()).items() if isinstance(value, dict | list | tuple))
_KEEPING = (dict, list, tuple, OrderedDict, Tensor)
_SETSTATES = (nn.Module.__setstate__, nn.modules.conv._ConvNd.__setstate__)


def copy_model(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Return ``copy.deepcopy(model, memo)``, three times faster for ordinary modules.

    Args:
        model: what to copy.
        memo: identity of an object → what stands for it in the copy; parameters and buffers are replaced so, without
            ever being copied.
    """
    known = memo.get(id(model))
    if known is not None:
        found: nn.Module = known
        return found
    if not _is_ordinary(type(model)):
        return copy.deepcopy(model, memo)
    new = type(model).__new__(type(model))
    memo[id(model)] = new
    state = model.__getstate__()  # type: ignore[no-untyped-call]
    new.__setstate__({key: _copied(key, value, memo) for key, value in state.items()})  # type: ignore[no-untyped-call]
    return new


def _copied(key: str, value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind in _CONTAINERS and not value:
        return kind()
    if key == "_modules" and kind in (dict, OrderedDict):
        return kind((name, None if child is None else copy_model(child, memo)) for name, child in value.items())
    for tensor in _kept_tensors(value):
        if tensor.grad_fn is not None:  # kept by a forward that ran with gradients; torch refuses to copy the graph
            memo.setdefault(id(tensor), tensor.detach().clone())
    return copy.deepcopy(value, memo)


def _kept_tensors(value: Any) -> Iterator[Tensor]:
    """Yield a tensor, or the tensors in a dictionary, list or tuple."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        items = value.values() if isinstance(value, dict) else value
        yield from (item for item in items if isinstance(item, Tensor))


def forget_kept(model: nn.Module) -> None:
    """Let modules that keep tensors between calls (a table of attention biases) forget what has the old sizes.

    By convention such modules have a ``train`` of their own, which empties what they keep when training begins, so they
    alone are told that it does, their children not; flags are put back.
    """
    for module in model.modules():
        if type(module).train is nn.Module.train or not any(
            type(value) in _KEEPING and name not in _REGISTERED and any(True for _ in _kept_tensors(value))
            for name, value in vars(module).items()
        ):
            continue
        training, children = module.training, module._modules
        module._modules = {}
        try:
            module.train()
        finally:
            module._modules = children
            module.training = training


def _is_ordinary(kind: type[nn.Module]) -> bool:
    """Whether a class leaves copying to ``object`` and ``nn.Module``."""
    return (
        not hasattr(kind, "__deepcopy__")
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and kind.__getstate__ is nn.Module.__getstate__
        and kind.__setstate__ in _SETSTATES
        and not any(vars(base).get("__slots__") for base in kind.__mro__)
    )
