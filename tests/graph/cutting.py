"""What the tests of the graph share: random plans, small networks, the proof in one call, independent counters."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.graph import ChannelGraph, Plan, Proof, apply, trace, verify
from secateur.graph import inputs as example_inputs


def random_plan(graph: ChannelGraph, share: float = 0.4, seed: int = 0) -> Plan:
    """Cut ``share`` of the units of every prunable group, at least one and not all, at random."""
    rng = np.random.default_rng(seed)
    kept = {}
    for group in graph.groups:
        if group.prunable and group.size > 1:
            stay = min(group.size - 1, max(1, round(group.size * (1 - share))))
            kept[group.name] = sorted(rng.permutation(group.size)[:stay].tolist())
    return graph.plan(kept)


def cut_and_prove(model: nn.Module, given: Any, share: float = 0.4) -> tuple[ChannelGraph, Plan, nn.Module, Proof]:
    """Trace, cut at random without a proof, then prove."""
    graph = trace(model, given)
    plan = random_plan(graph, share)
    small = apply(model, plan, verify_with=None)
    return graph, plan, small, verify(model, small, plan, given)


def assert_exact(model: nn.Module, given: Any, *, cut: set[str] | None = None) -> tuple[ChannelGraph, Plan, nn.Module]:
    """Prove a random cut exact, and the arithmetic of its costs right; ``cut`` names the groups that lose units."""
    graph, plan, small, proof = cut_and_prove(model.eval(), given)
    assert plan.kept, [(group.name, group.locked or group.approximate) for group in graph.groups]
    assert proof.verdict == "exact", proof.sentence()
    if cut is not None:
        assert set(plan.kept) == cut
    again = trace(small, given)
    assert graph.macs(plan) == again.macs()
    assert graph.params(plan) == again.params() == sum(p.numel() for p in small.parameters())
    assert graph.activation_bytes(plan) == again.activation_bytes()
    assert graph.tensor_bytes(plan) == again.tensor_bytes()
    return graph, plan, small


def locked_reasons(graph: ChannelGraph) -> dict[str, str]:
    """Return group → why it cannot be cut."""
    return {group.name: group.locked for group in graph.groups if group.locked is not None}


def prunable(graph: ChannelGraph) -> set[str]:
    """Return the names of the groups that may be cut."""
    return {group.name for group in graph.groups if group.prunable}


def count_macs(model: nn.Module, given: Any) -> int:
    """Count multiply-adds of convolutions and linear layers per sample with hooks on their modules alone."""
    counted = [0]

    def convolution(module: Any, args: tuple[Tensor, ...], result: Tensor) -> None:
        positions = args[0] if module.transposed else result
        counted[0] += positions[0, 0].numel() * module.weight.numel() * positions.shape[0]

    def linear(module: Any, args: tuple[Tensor, ...], result: Tensor) -> None:
        counted[0] += result.numel() // module.out_features * module.weight.numel()

    handles = []
    for module in model.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            handles.append(module.register_forward_hook(convolution))
        elif isinstance(module, nn.Linear):
            handles.append(module.register_forward_hook(linear))
    call = example_inputs.as_call(given)
    was = model.training
    with torch.no_grad():
        model.eval()(*call[0], **call[1])
    model.train(was)
    for handle in handles:
        handle.remove()
    batch = example_inputs.batch_size_of(call)
    assert counted[0] % batch == 0
    return counted[0] // batch


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a deep copy of everything that a model saves."""
    return copy.deepcopy(model.state_dict())


def assert_same_state(model: nn.Module, before: dict[str, Tensor]) -> None:
    """Compare bit by bit."""
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0, equal_nan=True)


class Block(nn.Module):
    """A residual block with batch norm."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(y)))


class Residual(nn.Module):
    """Stem, two residual blocks, depthwise convolution, squeeze-excite-free head: most rules in few parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(Block(8, 6), Block(8, 10))
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.bn(self.stem(x))))
        x = nn.functional.adaptive_avg_pool2d(torch.relu(self.depthwise(x)), 4)
        return self.head(x.flatten(1))


def images(size: int = 8, channels: int = 3, batch: int = 2) -> Tensor:
    """Return random images."""
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(7))


Builder = Callable[[], nn.Module]
