"""What a removed channel leaves behind, relu(β), a constant: folded into the layer that reads it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from secateur.criteria.reconstruction import NormsBehind
from secateur.errors import UsageError, VerificationError
from secateur.graph import ChannelGraph, Plan, apply
from secateur.graph.inputs import ExampleInputs, as_call, map_tensors, run, tensors_of
from secateur.methods.network_slimming.scales import Layer
from secateur.wording import counted

Compensation = Literal["none", "exact", "everywhere"]

EXACT = 1e-5  # of the largest output: what rounding the folded constants to float32 may change
CONSTANT = 1e-9  # of its size, in float64: how much a constant may vary over images and pixels

NAMED = 5  # layers in a sentence

_NOWHERE = "it has neither a bias nor a batch norm right behind it"


@dataclass
class Compensated:
    """What was folded.

    Attributes:
        folded: weights of the layers that read removed channels whose constants they now hold.
        bordered: those of them where it is not exact, because zeros are padded around the constant.
        left: weight → why its constants were dropped, as the paper's authors do with all.
        difference: max |network with γ = 0 − cut network| / max |output|, on the example inputs, in eval mode.
    """

    folded: list[str] = field(default_factory=list)
    bordered: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    difference: float = 0.0

    def note(self) -> str:
        """Return it as one sentence."""
        parts = [
            "compensation: the constants that removed channels leave are folded into "
            f"{counted(len(self.folded), 'layer')}"
        ]
        if self.bordered:
            parts.append(f"not exactly in {len(self.bordered)} of them, which pad with zeros ({_named(self.bordered)})")
        if self.left:
            reasons = [f"{name}: {reason}" for name, reason in self.left.items()]
            parts.append(f"dropped before {len(self.left)} ({_named(reasons)})")
        parts.append(f"the largest difference to the network with γ = 0 is {self.difference:.1e} of its output")
        return "; ".join(parts)


def check_compensation(graph: ChannelGraph, model: nn.Module, layers: Sequence[Layer], inputs: ExampleInputs) -> None:
    """Refuse, before any work, a model whose compensation cannot be exact.

    Raises:
        UsageError: a layer that would have to be compensated pads with zeros, or has nowhere to put a constant.
    """
    names = {layer.name for layer in layers}
    readers = dict.fromkeys(
        member.parameter
        for group in graph.groups
        if group.name in names
        for member in group.members
        if member.role == "consumes"
    )
    watched = _Watched(apply(model, graph.plan({}), verify_with=None).eval(), readers)
    watched.run(inputs)
    for name in readers:
        module = _owner(model, name)
        reason = _unfit(module) or ("it pads with zeros" if _pads_with_zeros(module) else None)
        if reason is None and getattr(module, "bias", None) is None and name not in watched.norm_behind:
            reason = _NOWHERE
        if reason is not None:
            raise UsageError(
                f"compensation is exact, but what removed channels leave cannot be folded into {name} exactly, because "
                f"{reason}; give compensation: everywhere, which folds what can be folded, or none, which drops it as "
                "the paper's authors do"
            )


def compensate(
    model: nn.Module, small: nn.Module, graph: ChannelGraph, plan: Plan, layers: Sequence[Layer], inputs: ExampleInputs
) -> Compensated:
    """Fold into ``small``, in place, what the channels that ``plan`` removed would still give with γ = 0.

    With γ = 0 a channel is β everywhere, and behind an activation f(β): a constant that a later layer reads. The
    constants are read off a run of ``model`` with those γ at 0, so that any activation and pooling in between will do.
    A layer without bias passes them on to the running mean of the batch norm right behind it.

    Args:
        model: as it was before the cut.
        small: what ``plan`` leaves of it.
        graph: of ``model``.
        plan: what was cut, in the numbering of ``graph``.
        layers: of ``graph``, where its γ lie.
        inputs: that ``model`` takes.
    """
    silenced = apply(model, graph.plan({}), verify_with=None).double().eval()
    silence(silenced, graph, plan, layers)
    consumed = {dim.parameter for dim in graph.dims if dim.role == "consumes" and dim.dim == 1}
    lost = {cut.parameter: torch.from_numpy(cut.removed) for cut in plan.cuts if cut.dim == 1}
    readers = [name for name in lost if name in consumed]
    watched = _Watched(silenced, readers)
    wanted = watched.run(inputs)
    found = Compensated()
    with torch.no_grad():
        for name in readers:
            module = _owner(silenced, name)
            reason = _unfit(module)
            values = watched.seen.get(name, [])
            if reason is None and len(values) != 1:
                reason = f"it runs {len(values)} times in a forward pass"
            if reason is None:
                constants, varies = _constants(module, values[0], lost[name])
                if varies:
                    reason = "what it reads is not constant"
                elif not constants.any():
                    continue  # behind a closed ReLU there is nothing to fold
                elif not _fold(small, plan, name, module, lost[name], constants, watched.norm_behind.get(name)):
                    reason = _NOWHERE
            if reason is not None:
                found.left[name] = reason
                continue
            found.folded.append(name)
            if _pads_with_zeros(module):
                found.bordered.append(name)
        found.difference = _difference(apply(small, graph.after(plan).plan({}), verify_with=None), inputs, wanted)
    return found


def require_exact(found: Compensated) -> None:
    """Refuse a compensation that was to be exact and is not.

    Raises:
        VerificationError: says what is not.
    """
    if found.left or found.bordered or found.difference > EXACT:
        raise VerificationError(
            f"compensation is exact, but it is not: {found.note()}; give compensation: everywhere, or none"
        )


def silence(model: nn.Module, graph: ChannelGraph, plan: Plan, layers: Sequence[Layer]) -> None:
    """Set the γ of what ``plan`` removes to 0, in place; β stays. Channels without γ lose all that makes them."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    kept = {**plan.kept, **getattr(plan, "selected", {})}
    by_name = {layer.name: layer for layer in layers}
    with torch.no_grad():
        for name, units in kept.items():
            if name in by_name:
                entries = [(parameter, 0, indices) for parameter, indices in by_name[name].scales]
                size = by_name[name].size
            else:
                group = graph.group(name)
                entries, size = [], group.size
                for member in group.members:
                    shape = parameters[member.parameter].shape if member.parameter in parameters else ()
                    if member.role == "produces" or (member.role == "carries" and len(shape) == 1):
                        entries.append((member.parameter, member.dim, member.units))
            goes = np.ones(size + 1, dtype=bool)
            goes[list(units)] = False
            goes[-1] = False  # of indices that belong to no unit
            for parameter, dim, indices in entries:
                tensor = parameters[parameter]
                tensor.index_fill_(dim, torch.from_numpy(np.flatnonzero(goes[indices])).to(tensor.device), 0.0)


class _Watched:
    """A model of ours to run once: what some of its layers read, and which batch norm reads what they give."""

    def __init__(self, model: nn.Module, readers: Iterable[str]) -> None:
        self.model = model
        self.seen: dict[str, list[Tensor]] = {}
        self.norm_behind: dict[str, str] = {}
        self._readers = {name: name.rpartition(".")[0] for name in readers}
        for name in self._readers:
            _owner(model, name).register_forward_hook(partial(self._reads, name))

    def run(self, inputs: ExampleInputs) -> Any:
        """Run the model in its own precision and return its output."""
        dtype = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)
        with NormsBehind(self.model, self._readers.values()) as norms:
            result = run(self.model, as_call(_as(inputs, dtype)))
        behind = norms.found()
        self.norm_behind = {name: behind[path] for name, path in self._readers.items() if path in behind}
        return result

    def _reads(self, name: str, _module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            self.seen.setdefault(name, []).append(args[0].detach().clone())


def _constants(module: nn.Module, values: Tensor, lost: Tensor) -> tuple[Tensor, bool]:
    """Return the constant in each of the ``lost`` inputs, shape (lost,), and whether one of them is none."""
    axis = -1 if isinstance(module, nn.Linear) else 1
    rows = values.movedim(axis, 0)[lost.to(values.device)].flatten(1)
    low, high = rows.min(1).values, rows.max(1).values
    varies = bool((high - low > CONSTANT * (1 + high.abs())).any())
    return (low + high) / 2, varies


def _fold(
    small: nn.Module, plan: Plan, name: str, module: nn.Module, lost: Tensor, constants: Tensor, norm: str | None
) -> bool:
    """Add what ``constants`` give through the weight ``name``; False if there is nowhere to."""
    weight = module.get_parameter("weight")
    shift = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
    rows = next((cut.kept for cut in plan.cuts_of.get(name, ()) if cut.dim == 0), np.arange(weight.shape[0]))
    shift = (shift[:, lost.to(weight.device)] @ constants)[torch.from_numpy(rows).to(weight.device)]
    bias = getattr(_owner(small, name), "bias", None)
    if bias is not None:
        bias.add_(shift)
        return True
    if norm is None:
        return False
    small.get_submodule(norm).get_buffer("running_mean").sub_(shift)
    return True


def _difference(small: nn.Module, inputs: ExampleInputs, wanted: Any) -> float:
    small = small.double().eval()
    given = tensors_of(run(small, as_call(_as(inputs, torch.float64))))
    pairs = list(zip(given, tensors_of(wanted), strict=True))
    scale = max(float(one.abs().max()) for _, one in pairs)
    return max(float((other - one).abs().max()) for other, one in pairs) / max(scale, 1e-30)


def _as(inputs: ExampleInputs, dtype: torch.dtype) -> ExampleInputs:
    made: ExampleInputs = map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, inputs)
    return made


def _owner(model: nn.Module, parameter: str) -> nn.Module:
    return model.get_submodule(parameter.rpartition(".")[0])


def _unfit(module: nn.Module) -> str | None:
    if isinstance(module, nn.Linear):
        return None
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return f"a {type(module).__name__} is neither a convolution nor a linear layer"
    return None if module.groups == 1 else f"its channels are in {module.groups} groups"


def _pads_with_zeros(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) or module.padding_mode != "zeros":
        return False
    if isinstance(module.padding, str):
        return module.padding == "same" and any(size > 1 for size in module.kernel_size)
    return any(size > 0 for size in module.padding)


def _named(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + more
