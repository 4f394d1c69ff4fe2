"""Networks without batch norm: a gate behind each layer, whose |φ| is the γ."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from secateur.errors import UsageError
from secateur.gates import decorate, melt
from secateur.graph import ChannelGraph, Group, apply
from secateur.methods.network_slimming.scales import Scale, norm_scales, scales_in
from secateur.wording import counted

GateChoice = Literal["auto", "all", "never"]


@dataclass(frozen=True)
class Subject:
    """A network on its way through one pass.

    Attributes:
        model: what is trained: the network itself, or a copy with gates.
        scales: its γ that scale channels of the graph.
        penalised: names of the parameters that the penalty pulls to zero: all γ, whether they can be cut or not.
        decorated: whether it is a copy with gates.
        gated: paths of the layers that have a gate because no norm follows them.
        bare: groups that could be cut but have neither norm nor gate.
    """

    model: nn.Module
    scales: tuple[Scale, ...]
    penalised: tuple[str, ...]
    decorated: bool = False
    gated: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """Say which layers have no norm, and what becomes of them."""
        if self.gated:
            return [f"layers without a batch norm are gated while they are trained sparsely: {', '.join(self.gated)}"]
        if self.bare:
            return [f"layers without a batch norm are left alone (gates: all cuts them too): {', '.join(self.bare)}"]
        return []

    def plain(self) -> nn.Module:
        """Return the network without gates, which computes the same; it is an ordinary one from then on."""
        return melt(self.model) if self.decorated else self.model


def with_norms(model: nn.Module, graph: ChannelGraph) -> Subject:
    """Return ``model`` as it is, its norms' scales for γ."""
    return Subject(model, tuple(scales_in(graph, model)), norm_scales(model))


def subject_of(
    model: nn.Module,
    graph: ChannelGraph,
    gates: GateChoice,
    groups: Sequence[Group],
    *,
    trained: bool,
    start: float | None,
    allow_approximate: bool = False,
) -> Subject:
    """Return ``model`` with its γ, or a copy with gates where they are needed.

    Args:
        model: stays as it was.
        graph: of ``model``.
        gates: ``auto`` puts gates only into networks where none of ``groups`` has a norm, ``all`` into all that have
            some without one, ``never`` into none.
        groups: that may be cut.
        trained: whether the gates will be trained.
        start: see :func:`with_gates`, like ``allow_approximate``.
        allow_approximate: see there.

    Raises:
        UsageError: gates are needed, and nothing would train them.
    """
    plain = with_norms(model, graph)
    without = [group.name for group in groups if not any(group_has(group, scale) for scale in plain.scales)]
    if gates == "never" or not without or (gates == "auto" and len(without) < len(groups)):
        return replace(plain, bare=tuple(without))
    if not trained:
        more = f" and {counted(len(without) - 1, 'more layer')}" if len(without) > 1 else ""
        raise UsageError(
            f"{without[0]}{more} {'has' if len(without) == 1 else 'have'} no batch norm, and the gates in its place "
            "learn nothing with sparse_epochs 0; give sparse_epochs"
        )
    return with_gates(model, graph, start=start, allow_approximate=allow_approximate)


def group_has(group: Group, scale: Scale) -> bool:
    """Say whether ``scale`` scales a channel of ``group``."""
    return bool(((scale.units >= group.offset) & (scale.units < group.offset + group.size)).any())


def with_gates(
    model: nn.Module, graph: ChannelGraph, *, start: float | None, allow_approximate: bool = False
) -> Subject:
    """Return a copy of ``model`` with a gate on every channel that can be cut.

    Gates of norms take their γ over; those behind other layers begin at 1, which changes nothing, or at ``start``.

    Args:
        model: stays as it was.
        graph: of ``model``.
        start: of the gates behind layers without a norm, for training from scratch; None begins at 1.
        allow_approximate: also for channels that are normalised together.

    Raises:
        UsageError: a norm without a scale of its own would cancel a gate.
    """
    copied = apply(model, graph.plan({}), verify_with=None)
    norms = {scale.module for scale in scales_in(graph, model)}
    gates = decorate(copied, graph, init="take-over", clamped="keep", allow_approximate=allow_approximate)
    gated = tuple(gate.module for gate in gates.gates if gate.module not in norms)
    with torch.no_grad():
        for gate in gates.gates:
            if start is not None and gate.module in gated:
                copied.get_parameter(gate.parameter).fill_(start)
    scales = tuple(Scale(gate.module, gate.parameter, gate.units) for gate in gates.gates)
    # Norms that no gate took over are penalised as they are.
    names = dict.fromkeys([*(scale.parameter for scale in scales), *norm_scales(copied)])
    return Subject(copied, scales, tuple(names), decorated=True, gated=gated)
