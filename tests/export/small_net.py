"""A network with everything that a file has to keep."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur import graph


class Block(nn.Module):
    """Everything that a file has to keep: batch norm counters, non-persistent buffers, tied weights, odd types."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.plain = nn.InstanceNorm2d(channels)
        self.register_buffer("gain", torch.rand(1, channels, 1, 1) + 0.5, persistent=False)
        self.register_buffer("uncut", torch.rand(()), persistent=False)
        self.register_buffer("steps", torch.tensor(7, dtype=torch.int16))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.plain(self.depthwise(self.norm(self.conv(x)))) * self.gain) * self.uncut


class Net(nn.Module):
    """A small network with two names for one weight."""

    def __init__(self, channels: int = 6, classes: int = 5) -> None:
        super().__init__()
        self.block = Block(channels)
        self.twice = nn.Conv2d(channels, channels, 1)
        self.again = nn.Conv2d(channels, channels, 1)
        self.again.weight = self.twice.weight
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(torch.relu(self.twice(self.block(x)))).mean((2, 3)))


def build(seed: int = 0) -> Net:
    """Return the dense net; its constructor, unlike its weights, must not depend on the seed to be loaded into."""
    torch.manual_seed(seed)
    net = Net()
    with torch.no_grad():
        net.block.norm.running_mean.normal_()
        net.block.norm.running_var.uniform_(0.5, 2)
        net.block.uncut.fill_(0.75)
    return net.eval()


@dataclass
class Cut:
    dense: nn.Module
    small: nn.Module
    plan: graph.Plan
    inputs: Tensor
    build: Callable[[int], nn.Module]


def all_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and all buffers by every name they have."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def assert_same_bits(first: nn.Module, second: nn.Module) -> None:
    one, other = all_tensors(first), all_tensors(second)
    assert list(one) == list(other)
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert one[name].shape == other[name].shape, name
        bits = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (one[name], other[name])]
        assert torch.equal(*bits), name
