"""Where a group's units can be seen: in weights that produce them, scales behind them, or modules that read them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from secateur.criteria.criterion import Criterion
from secateur.errors import PlanError
from secateur.graph import ChannelGraph
from secateur.graph.units import Member, UnitArray

GATES = ("phi", "gate")
"""Names of the parameter φ of a gate, one value per channel; see :mod:`secateur.gates`. A ``gate`` has a ``mask``
beside it, because models of other people have parameters of that name that are none."""

_TORCH_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True, eq=False)
class Site:
    """One place at which all units of one owner are seen.

    Attributes:
        owner: the group, or the block, that is scored.
        parameters: names and dimensions of the parameters that lie side by side here, the main one first.
        units: unit of each index, -1 where the index belongs to another group; every unit has equally many.
        modules: paths of the modules that read the units here, where activations are looked at.
    """

    owner: str
    parameters: tuple[tuple[str, int], ...]
    units: UnitArray
    modules: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of units."""
        return int(self.units.max()) + 1

    @cached_property
    def places(self) -> Tensor | None:
        """The indices of each unit, shape (units, indices of one); None where index and unit are the same."""
        if np.array_equal(self.units, np.arange(self.units.size)):
            return None
        order = np.argsort(self.units, kind="stable")[int((self.units < 0).sum()) :]
        return torch.from_numpy(order.reshape(self.size, -1))


@dataclass(frozen=True)
class Model:
    """A model's parameters and modules by all of their names, checked against a graph where they are used."""

    parameters: dict[str, Tensor]
    modules: dict[str, nn.Module]
    aliases: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, graph: ChannelGraph, model: nn.Module) -> "Model":
        """Look a model up.

        Raises:
            PlanError: it has gates that the graph does not know.
        """
        parameters: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
        aliases = {spec.name: spec.aliases for spec in graph.tensors}
        known = {name for spec in graph.tensors for name in (spec.name, *spec.aliases)}
        found = cls(parameters, dict(model.named_modules(remove_duplicate=False)), aliases)
        for name in parameters:
            if name not in known and found.is_gate(name):
                raise PlanError(f"the model has the gate {name}, but the graph does not; trace this model again")
        return found

    def checked(self, name: str, dim: int, indices: int) -> Tensor:
        """Return a parameter that has ``indices`` channels in dimension ``dim``.

        Raises:
            PlanError: it has not, or is not there.
        """
        found = self.parameters.get(name)
        if found is None or found.dim() <= dim or found.shape[dim] != indices:
            shape = None if found is None else tuple(found.shape)
            raise PlanError(
                f"the graph has {name} with {indices} channels in dimension {dim}, but the model's is {shape}; trace "
                "this model again"
            )
        return found

    def is_scale(self, name: str) -> bool:
        """Say whether a parameter is the scale of a norm."""
        path, _, attribute = name.rpartition(".")
        module = self.modules.get(path)
        if attribute != "weight" or name not in self.parameters:
            return False  # the scale of a frozen norm is a buffer
        named_so = "norm" in type(module).__name__.lower()  # norms of other libraries and of the user
        return isinstance(module, _TORCH_NORMS) or named_so

    def is_gate(self, name: str) -> bool:
        """Say whether a parameter is that of a gate."""
        path, _, attribute = name.rpartition(".")
        if attribute not in GATES or name not in self.parameters or self.parameters[name].dim() != 1:
            return False
        mask = self.modules[path]._buffers.get("mask")
        return attribute == "phi" or (mask is not None and mask.shape == self.parameters[name].shape)

    def readers(self, name: str) -> tuple[str, ...]:
        """Return the paths of the modules that read through a weight and whose inputs can be understood."""
        paths = (alias.rpartition(".")[0].partition(".parametrizations.")[0] for alias in (name, *self.aliases[name]))
        found = ((path, self.modules.get(path)) for path in paths)
        return tuple(path for path, module in found if isinstance(module, _ConvNd | nn.Linear))


def sites_of(criterion: Criterion, model: Model, owner: str, members: Sequence[Member]) -> list[Site]:
    """Return the places at which ``criterion`` sees the units of ``owner``; none where it sees them nowhere.

    Args:
        criterion: says what it needs.
        model: of which the members are.
        owner: the group or block.
        members: dimensions of parameters that belong to it.

    Raises:
        PlanError: the model is not the one that the graph was made from.
    """
    if criterion.needs in ("activations", "activation_gradients"):
        return _readers(model, owner, members)
    scales = [] if criterion.looks_at == "producers" else _scales(criterion, model, owner, members)
    if scales or criterion.looks_at == "scales":
        return scales
    return _producers(criterion, model, owner, members)


def _producers(criterion: Criterion, model: Model, owner: str, members: Sequence[Member]) -> list[Site]:
    """Return weights that produce; where none does (an embedding, a bare parameter), all that carry the units."""
    chosen = [member for member in members if member.role == "produces"]
    if not chosen:
        chosen = [member for member in members if member.parameter in model.parameters]
        return [_site(model, owner, member) for member in chosen]
    with_bias = criterion.needs == "gradients"
    return [_site(model, owner, member, _bias(members, member) if with_bias else None) for member in chosen]


def _scales(criterion: Criterion, model: Model, owner: str, members: Sequence[Member]) -> list[Site]:
    """Return gates where there are any, else norms; a gate has its shift inside and is looked at alone."""
    gates = [member for member in members if model.is_gate(member.parameter)]
    if gates:
        return [_site(model, owner, member) for member in gates]
    norms = [member for member in members if model.is_scale(member.parameter)]
    with_shift = criterion.needs == "gradients"
    return [_site(model, owner, member, _bias(members, member) if with_shift else None) for member in norms]


def _readers(model: Model, owner: str, members: Sequence[Member]) -> list[Site]:
    found = []
    for member in members:
        modules = model.readers(member.parameter) if member.role == "consumes" else ()
        if modules:
            model.checked(member.parameter, member.dim, member.units.size)
            units = np.tile(member.units, _times(model.modules[modules[0]], member.dim))
            found.append(Site(owner, ((member.parameter, member.dim),), units, modules))
    return found


def _times(module: nn.Module, dim: int) -> int:
    """Return how often the channels of a weight's dimension lie side by side in the module's input."""
    return module.groups if isinstance(module, _ConvNd) and dim == 1 else 1


def _site(model: Model, owner: str, member: Member, beside: Member | None = None) -> Site:
    model.checked(member.parameter, member.dim, member.units.size)
    rows = [(member.parameter, member.dim)]
    if beside is not None:
        model.checked(beside.parameter, beside.dim, beside.units.size)
        rows.append((beside.parameter, beside.dim))
    return Site(owner, tuple(rows), member.units)


def _bias(members: Sequence[Member], weight: Member) -> Member | None:
    """Return the bias of the layer that ``weight`` belongs to."""
    name = weight.parameter.removesuffix("weight") + "bias"
    for member in members:
        if member.parameter == name and np.array_equal(member.units, weight.units):
            return member
    return None
