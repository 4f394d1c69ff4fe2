"""Networks small enough to score by hand, with what they are scored on."""

import torch
from torch import nn

from secateur.graph import ChannelGraph, trace
from secateur.models.cifar_resnet import CifarResNet


class Gate(nn.Module):
    """Multiplies channels by φ."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.phi = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.phi[None, :, None, None]


class TwoChannels(nn.Module):
    """One convolution of two channels, perhaps a norm, perhaps a gate, a ReLU, and the mean of both."""

    def __init__(self, *, norm: bool = True, gate: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=bias)
        self.norm = nn.BatchNorm2d(2) if norm else nn.Identity()
        self.gate = Gate(2) if gate else nn.Identity()
        self.out = nn.Conv2d(2, 1, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.gate(self.norm(self.conv(x))))).mean((1, 2, 3))


def tiny_resnet(seed: int = 0) -> CifarResNet:
    """Eight layers with projections, every norm with its own scales, shifts and statistics."""
    torch.manual_seed(seed)
    model = CifarResNet(8, shortcut="B", num_classes=3, stem_width=4, stage_widths=(4, 6, 8))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def images(batches: int, size: int = 6, *, seed: int = 0, side: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draws = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 3, side, side, generator=draws), torch.randint(3, (size,), generator=draws))
        for _ in range(batches)
    ]


def cross_entropy(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def graph_of(model: nn.Module, channels: int = 3, side: int = 8) -> ChannelGraph:
    return trace(model, torch.zeros(2, channels, side, side))
