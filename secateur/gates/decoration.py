"""Put gates into a model, and take them out again without changing what it computes."""

from collections.abc import Iterator
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secateur.errors import PlanError, UsageError
from secateur.gates.gates import Gate, Gates
from secateur.gates.layer import GATE, GatedConv, output_dim
from secateur.gates.norm import Clamped, ClampedShifts, GatedNorm, Init
from secateur.graph import ChannelGraph
from secateur.names import unknown_name

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def decorate(
    model: nn.Module,
    graph: ChannelGraph,
    *,
    init: Init = "take-over",
    clamped: Clamped = "drop",
    allow_approximate: bool = False,
) -> Gates:
    """Put a gate on every channel of ``model`` that can be cut, in place.

    A norm whose channels can be cut is replaced by a :class:`GatedNorm`. A convolution or linear layer that produces
    such channels, and none that a norm in its group carries, gets a :class:`GatedConv` behind it. The graph of the
    decorated model has groups of the same names and sizes, with the gates among their members.

    A gate in a norm holds what is read through that norm: where channels are also read past it, the gate scores and
    masks only its part, while a plan cuts them everywhere.

    Args:
        model: changed in place; :func:`melt` undoes it.
        graph: made from it.
        init: ``take-over`` puts γ of a norm into the gate and β inside it, and changes nothing but clamped constants;
            gates behind other layers start at 1. ``one`` starts all gates at 1 beside γ and β and changes nothing. A
            number starts all of them there, and what the model computes is scaled: for training from scratch.
        clamped: what happens to a constant β with |β/γ| > 10 at the take-over: see :class:`GatedNorm`.
        allow_approximate: also put gates where cutting is not the same as zeroing.

    Raises:
        UsageError: ``init`` is nothing of this, the model has gates already, or a norm without a scale would cancel
            a gate before it.
        PlanError: the graph is not that of the model.
    """
    if isinstance(init, str) and init not in ("take-over", "one"):
        raise UsageError(unknown_name("start of the gates", init, ("take-over", "one")) + ", or give a number")
    if clamped not in get_args(Clamped):
        raise UsageError(unknown_name("setting of clamped", clamped, get_args(Clamped)))
    site = _Site(model, graph, allow_approximate=allow_approximate)
    norms = dict(site.norms())
    layers = dict(site.layers())
    site.refuse_norms_without_scale(bool(layers))
    gates: dict[str, Gate] = {}
    found: dict[str, ClampedShifts] = {}
    places = list(model.named_modules())
    for path, module in places:
        if path in norms:
            gated = GatedNorm(module, init=init, clamped=clamped)
            _replace(model, module, gated)
            gates[path] = Gate(f"{path}.gate", path, norms[path])
            if gated.clamped.channels:
                found[path] = gated.clamped
        elif path in layers:
            GatedConv(module, init=1.0 if isinstance(init, str) else init).attach(module)
            gates[path] = Gate(f"{path}.{GATE}.gate", path, layers[path])
    return Gates(graph, tuple(gates.values()), dict(site.ungated), found)


def melt(model: nn.Module) -> nn.Module:
    """Take the gates out of ``model`` in place: each goes into the weights of its layer, and nothing else changes.

    The modules are those that were decorated. A masked channel becomes one of zero weights: it computes what the
    masked one did, and a plan cuts it.

    Returns:
        The model.
    """
    for module in list(model.modules()):
        if isinstance(module, GatedNorm):
            _replace(model, module, module.melted())
        gate = module._modules.get(GATE)
        if isinstance(gate, GatedConv):
            gate.melt_into(module)
    return model


class _Site:
    """Where the gates of one model go."""

    def __init__(self, model: nn.Module, graph: ChannelGraph, *, allow_approximate: bool) -> None:
        self.ungated: dict[str, str] = {}
        self._model = model
        self._modules = dict(model.named_modules())
        if any(isinstance(module, GatedNorm | GatedConv) for module in self._modules.values()):
            raise UsageError(f"{type(model).__name__} has gates already; melt it first")
        self._shapes = {name: spec for spec in graph.tensors for name in (spec.name, *spec.aliases)}
        for path, module in self._modules.items():
            for name, tensor in module._parameters.items():
                known = self._shapes.get(f"{path}.{name}" if path else name)
                if tensor is not None and (known is None or known.shape != tuple(tensor.shape)):
                    raise PlanError(
                        f"the graph is not that of this model: {path}.{name} is {tuple(tensor.shape)} in the model "
                        f"but {'absent' if known is None else known.shape} in the graph; trace it again"
                    )
        self._dims = {(dim.parameter, dim.dim): dim for dim in graph.dims}
        count = int(graph.sizes.sum())
        self._open = np.zeros(count + 1, dtype=bool)  # the last entry stands for unit -1
        for group in graph.groups:
            self._open[group.units] = group.cuttable(allow_approximate=allow_approximate)
        self._covered = np.zeros(count + 1, dtype=bool)

    def norms(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Yield the path of each norm that gets a gate, and the units of its channels."""
        for path, module in self._modules.items():
            if not isinstance(module, _NORMS) and "running_mean" not in module._buffers:
                continue
            units = next(
                (units for name in ("weight", "running_mean") if (units := self._of(path, name, 0)) is not None), None
            )
            if units is None or not self._open[units].any():
                continue
            self._covered[units] = True
            weight = module._parameters.get("weight")
            if weight is None:
                self.ungated[path] = "it normalises without a scale of its own to put a gate in"
            elif weight.dim() != 1 or weight.numel() != units.size:
                self.ungated[path] = f"its scale has shape {tuple(weight.shape)}, not one entry per channel"
            elif reason := self._bound(path, module, "weight") or self._bound(path, module, "bias"):
                self.ungated[path] = reason
            else:
                yield path, units

    def layers(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Yield the path of each other layer that gets a gate, and the units of its channels; after :meth:`norms`."""
        for path, module in self._modules.items():
            if not isinstance(module, _LAYERS):
                continue
            units = self._of(path, "weight", output_dim(module))
            if units is None or not self._open[units].any():
                continue
            if self._covered[units[units >= 0]].any():
                continue
            if reason := self._unfit(path, module, units):
                self.ungated[path] = reason
            else:
                yield path, units

    def refuse_norms_without_scale(self, gated: bool) -> None:
        """Refuse gates before norms that leave no trace in the graph and would divide a gate out again."""
        for path, module in self._modules.items():
            bare = isinstance(module, _NORMS) and not module._parameters.get("weight") is not None
            if gated and bare and module._buffers.get("running_mean") is None:
                raise UsageError(
                    f"{path} normalises without a scale or statistics of its own, so it cancels every gate before it; "
                    "build it with affine=True (elementwise_affine=True), which starts at the same function"
                )

    def _of(self, path: str, name: str, dim: int) -> NDArray[np.int64] | None:
        spec = self._shapes.get(f"{path}.{name}" if path else name)
        found = None if spec is None else self._dims.get((spec.name, dim))
        return None if found is None else found.units

    def _unfit(self, path: str, layer: nn.Module, units: NDArray[np.int64]) -> str | None:
        """Return why a gate behind ``layer`` could not be melted into it, or None."""
        if isinstance(layer, nn.modules.conv._ConvTransposeNd) and layer.groups > 1:
            return "it is a transposed convolution in groups"
        weight = layer._parameters.get("weight")
        if weight is None or weight.shape[output_dim(layer)] != units.size:
            return "its weight is computed from other parameters"
        kinds = [kind for kind in type(layer).__mro__ if kind.__module__.startswith("torch.nn.modules.")]
        if type(layer).forward is not kinds[0].forward:  # type: ignore[attr-defined]
            return f"{type(layer).__name__} computes with its weight in a way of its own"
        return self._bound(path, layer, "weight") or self._bound(path, layer, "bias")

    def _bound(self, path: str, module: nn.Module, name: str) -> str | None:
        """Return why ``name`` of ``module`` is not its own alone, or None."""
        if not path:
            return "it is the model itself"
        tensor = module._parameters.get(name)
        if tensor is None:
            return None
        owners = sum(tensor is other for holder in self._modules.values() for other in holder._parameters.values())
        if owners > 1:
            return f"its {name} is shared with another module"
        for parent in self._parents(module):
            torchs_own = type(parent).__module__.startswith("torch.nn.modules.")
            if torchs_own and not isinstance(parent, _CONTAINERS):
                return f"{type(parent).__name__} reads its weights without calling it"
        return None

    def _parents(self, module: nn.Module) -> Iterator[nn.Module]:
        for parent in self._modules.values():
            if any(child is module for child in parent._modules.values()):
                yield parent


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever a module of ``model`` holds ``old`` as a child."""
    for parent in list(model.modules()):
        if parent is new:
            continue
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
