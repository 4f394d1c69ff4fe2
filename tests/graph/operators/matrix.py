"""What the matrix of operator families shares: a function between two convolutions, and the two verdicts."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from secateur.graph import ChannelGraph, apply, trace

WIDTH = 8

Function = Callable[[Any, Tensor], Tensor]


class Between(nn.Module):
    """A convolution, the operators under test with the layers they need, and a convolution over what comes out."""

    def __init__(self, function: Function, *layers: nn.Module, width: int = WIDTH) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, width, 1)
        self.layers = nn.ModuleList(layers)
        self.vector = nn.Parameter(torch.rand(width) + 0.5)
        self.square = nn.Parameter(torch.rand(width, width))
        self.register_buffer("order", torch.randperm(width))
        self.register_buffer("kernels", torch.rand(width, 1, 3, 3))
        self.register_buffer("kernel", torch.rand(1, 1, 3, 3))
        self.function = function
        with torch.no_grad():
            after = function(self.eval(), torch.rand(2, width, 8, 8)).shape[1]
        self.out = nn.Conv2d(after, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.function(self, torch.relu(self.a(x)) + 0.1))


def images() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(7))


def prove(model: nn.Module, *cut: str) -> ChannelGraph:
    """Cut a third of the units of every prunable group, prove it exact, and check which groups were cut.

    ``apply`` raises if the cut model does not compute what the masked original computes.
    """
    graph = trace(model.eval(), images())
    kept = {
        group.name: [*range(1, group.size - max(0, group.size // 3 - 1))]
        for group in graph.groups
        if group.prunable and group.size > 1
    }
    assert set(kept) >= set(cut), [(group.name, group.locked or group.approximate) for group in graph.groups]
    plan = graph.plan(kept)
    small = apply(model, plan, verify_with=images())
    assert graph.params(plan) == sum(parameter.numel() for parameter in small.parameters())
    assert graph.macs(plan) == trace(small, images()).macs()
    assert not graph.unknown_ops
    return graph


def reason(model: nn.Module, group: str = "a") -> str:
    """Return why a group is not cut; everything else is still cut and proved."""
    graph = trace(model.eval(), images())
    kept = {other.name: range(other.size - 1) for other in graph.groups if other.prunable and other.size > 1}
    if kept:
        apply(model, graph.plan(kept), verify_with=images())
    found = graph.group(group)
    assert not found.prunable
    return found.locked or found.approximate or ""
