"""Put what was fitted into the weights themselves: factors into input channels, constants into a bias or a norm."""

import weakref
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from secateur.errors import UsageError
from secateur.graph.units import UnitArray


def fold(module: nn.Module, units: UnitArray, weights: Tensor, *, kept: Sequence[int] | None = None) -> None:
    """Multiply the input channels of ``module`` by the weights of their units, in place, for all of its filters.

    Source: Luo, Wu, Lin 2017, arXiv:1707.06342, §3.3: w scales what the next layer reads, not the filters that make it,
    so that it may be negative whatever stands between them.

    Args:
        module: a convolution or a linear layer.
        units: unit of each input channel, shape (input channels,); -1 where it is nobody's, which leaves it alone.
        weights: w, one for each unit, or for each of ``kept``.
        kept: the units that ``weights`` are for; None takes all, in order. Others are left alone.

    Raises:
        UsageError: ``module`` has other input channels, or there are not as many weights as units.
    """
    weight = _weight_of(module)
    groups = module.groups if isinstance(module, _ConvNd) else 1
    if units.shape != (weight.shape[1] * groups,):
        raise UsageError(
            f"the layer reads {weight.shape[1] * groups} channels, but units are given for {units.size}; give the unit "
            "of each"
        )
    count = int(units.max(initial=-1)) + 1
    numbers = range(count) if kept is None else kept
    if weights.shape != (len(numbers),):
        raise UsageError(f"{len(numbers)} units need a weight, but weights has shape {tuple(weights.shape)}")
    table = torch.ones(count + 1, dtype=torch.float64)  # the last entry stands for unit -1
    table[torch.as_tensor(list(numbers), dtype=torch.long)] = weights.detach().to("cpu", torch.float64)
    of_channels = table[torch.from_numpy(np.where(units < 0, count, units))]
    factors = of_channels.reshape(groups, weight.shape[1]).repeat_interleave(weight.shape[0] // groups, 0)
    factors = factors.reshape(*factors.shape, *(1,) * (weight.dim() - 2))
    with torch.no_grad():
        weight.copy_((weight.to("cpu", torch.float64) * factors).to(weight.dtype))


def add_constant(module: nn.Module, constant: Tensor, norm: nn.Module | None = None) -> bool:
    """Add a constant to each output filter of ``module``, in place; return False where there is nowhere to put it.

    Args:
        module: with a bias, which takes the constant.
        constant: shape (filters,), in units of the output.
        norm: the batch norm right behind it, if there is one: without a bias its running mean is lowered instead, which
            is the same in eval mode.
    """
    bias = module._parameters.get("bias")
    with torch.no_grad():
        if bias is not None:
            bias.copy_((bias.to("cpu", torch.float64) + constant.to("cpu")).to(bias.dtype))
            return True
        if norm is None:
            return False
        mean = norm.get_buffer("running_mean")
        mean.copy_((mean.to("cpu", torch.float64) - constant.to("cpu")).to(mean.dtype))
        return True


class NormsBehind:
    """Watches forwards for the batch norm that stands right behind a layer: it reads what the layer gives, as it is.

    Use it as a context around one forward::

        with NormsBehind(model, ["conv1"]) as norms:
            model(images)
        norms.found()  # {"conv1": "bn1"}

    A norm counts if it keeps running statistics and reads nothing but what that one layer gives, whatever its class.

    Only norms are watched, not everything that reads. Of a layer that feeds one norm and another branch as well (a
    skip, a second convolution, an output) the norm is found all the same; a constant that goes into its running mean
    then reaches what lies behind the norm, and the other branch sees the layer's output without it. A layer that feeds
    two norms has none, and gets its constant only if it has a bias of its own.
    """

    def __init__(self, model: nn.Module, paths: Iterable[str]) -> None:
        """Prepare to look at the layers at ``paths``."""
        self._model = model
        self._paths = list(paths)
        self._given: list[tuple[weakref.ref[Tensor], int, str]] = []
        self._read: dict[str, set[str | None]] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        """Put up the hooks."""
        for path in self._paths:
            module = self._model.get_submodule(path)
            self._handles.append(module.register_forward_hook(partial(self._gives, path)))
        for path, module in self._model.named_modules():
            if _keeps_mean(module) and path not in self._paths:
                self._handles.append(module.register_forward_pre_hook(partial(self._reads, path), with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def found(self) -> dict[str, str]:
        """Return {path of a layer: path of the norm right behind it}."""
        norms_of: dict[str, list[str]] = {}
        for norm, layers in self._read.items():
            for layer in layers:
                if layer is not None:
                    norms_of.setdefault(layer, []).append(norm)
        return {
            layer: norms[0] for layer, norms in norms_of.items() if len(norms) == 1 and self._read[norms[0]] == {layer}
        }

    def _gives(self, path: str, _module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            self._given.append((weakref.ref(output), output._version, path))

    def _reads(self, path: str, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        data = args[0] if args else kwargs.get("input")
        # Written into in between, as by an in-place ReLU, it is no longer what the layer gave.
        layer = next(
            (
                layer
                for given, version, layer in reversed(self._given)
                if given() is data and isinstance(data, Tensor) and version == data._version
            ),
            None,
        )
        self._read.setdefault(path, set()).add(layer)


def _keeps_mean(module: nn.Module) -> bool:
    """Say whether a module is a norm with a running mean; by name, as frozen ones are not all of torch's class."""
    return "norm" in type(module).__name__.lower() and isinstance(module._buffers.get("running_mean"), Tensor)


def _weight_of(module: nn.Module) -> Tensor:
    weight = module._parameters.get("weight")
    if not isinstance(module, _ConvNd | nn.Linear) or weight is None:
        raise UsageError(
            f"weights can be folded into a convolution or a linear layer, not into a {type(module).__name__}"
        )
    return weight
