"""Small networks with norms that have lived, cut by half, and images to fit them on."""

import torch
from torch import Tensor, nn

from secateur.graph import ChannelGraph, Plan, apply, trace
from secateur.models.cifar_resnet import CifarResNet


def lived(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every norm scales, shifts and statistics of its own, those of its inputs."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
                module.momentum = None
        model.train()
        model(torch.randn(64, 3, 8, 8))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1
    return model.eval()


def resnet(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return lived(CifarResNet(8, shortcut="B", num_classes=5, stem_width=6, stage_widths=(6, 8, 10)), seed)


class Joined(nn.Module):
    """A concatenation, a grouped convolution, a layer without any place for a constant, and a flattened end."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
        self.joined = nn.Conv2d(12, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.bare = nn.Conv2d(8, 6, 1, bias=False)
        self.linear = nn.Linear(6 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([torch.relu(self.one(x)), torch.relu(self.two(x))], 1)
        x = torch.relu(self.grouped(torch.relu(self.joined(x))))
        return self.linear(torch.relu(self.bare(x)).flatten(1))


def images(*sizes: int, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    drawn = torch.randn(sum(sizes), 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return [(part, torch.zeros(len(part), dtype=torch.long)) for part in drawn.split(sizes)]


def halved(model: nn.Module, share: float = 0.5) -> tuple[nn.Module, Plan, ChannelGraph]:
    """Keep the first units of every group that can be cut."""
    graph = trace(model, torch.zeros(2, 3, 8, 8))
    kept = {group.name: range(max(1, round(group.size * share))) for group in graph.groups if group.prunable}
    plan = graph.plan(kept)
    return apply(model, plan, verify_with=None).eval(), plan, graph
