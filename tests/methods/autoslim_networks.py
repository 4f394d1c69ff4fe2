"""Tiny networks and samples that the tests of AutoSlim share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.models import build_model
from secateur.training import Batch


def tiny_resnet() -> nn.Module:
    """The residual network of the digits, twice as wide."""
    torch.manual_seed(0)
    return build_model("digits-resnet@2x")


class Dense(nn.Module):
    """Each layer reads all that came before, side by side; norms and activations stand before convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16 + 8 * number) for number in range(3))
        self.layers = nn.ModuleList(nn.Conv2d(16 + 8 * number, 8, 3, padding=1, bias=False) for number in range(3))
        self.act = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm2d(40)
        self.head = nn.Linear(40, 10)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.stem(x)]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            found.append(layer(self.act(norm(torch.cat(found, 1)))))
        return self.head(self.act(self.norm(torch.cat(found, 1))).mean((2, 3)))


class Mobile(nn.Module):
    """Inverted residuals: wide inside, depthwise layers, sums written in place, functions between modules."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(True))
        self.expand = nn.ModuleList(nn.Conv2d(16, 24, 1, bias=False) for _ in range(2))
        self.expand_bn = nn.ModuleList(nn.BatchNorm2d(24) for _ in range(2))
        self.depthwise = nn.ModuleList(nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False) for _ in range(2))
        self.depthwise_bn = nn.ModuleList(nn.BatchNorm2d(24) for _ in range(2))
        self.project = nn.ModuleList(nn.Conv2d(24, 16, 1, bias=False) for _ in range(2))
        self.project_bn = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(2))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for number in range(2):
            y = F.relu6(self.expand_bn[number](self.expand[number](x)), inplace=True)
            y = F.hardswish(self.depthwise_bn[number](self.depthwise[number](y)))
            y = self.project_bn[number](self.project[number](y))
            y += x
            x = y
        return self.head(x.mean((2, 3)))


def dense() -> nn.Module:
    torch.manual_seed(0)
    return Dense()


def mobile() -> nn.Module:
    torch.manual_seed(0)
    return Mobile()


NETWORKS = {"residual": tiny_resnet, "dense": dense, "mobile": mobile}


def batches(count: int = 2, samples: int = 24) -> list[Batch]:
    """Return batches of noise with labels; as good as any where only equality counts."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(samples, 1, 8, 8, generator=generator), torch.randint(10, (samples,), generator=generator))
        for _ in range(count)
    ]
