"""Small networks that have between them what INT8 files are made of, and a simulation of each."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.quantization import Simulation, simulate
from secateur.randomness import generator_for

SIZE = 16


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=generator_for(seed, "images"))


def layer(inputs: int, outputs: int, act: nn.Module | None = None, **settings: int) -> nn.Sequential:
    parts = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, **settings), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*parts, *([act] if act is not None else []))


class Residual(nn.Module):
    """A stem with a max pool, a residual block, and a head of two layers behind a flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = layer(3, 16, nn.ReLU())
        self.first, self.second = layer(16, 16, nn.ReLU()), layer(16, 16)
        self.head = nn.Sequential(nn.Linear(16 * 16, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x), 2)
        x = F.relu(self.second(self.first(x)) + x)
        return self.head(F.max_pool2d(x, 2).flatten(1))


class Inverted(nn.Module):
    """ReLU6, a depthwise convolution, a sum without ReLU, an average over all places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = layer(3, 16, nn.ReLU6(), stride=2)
        self.block = nn.Sequential(layer(16, 32, nn.ReLU6()), layer(32, 32, nn.ReLU6(), groups=32), layer(32, 16))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.fc(F.adaptive_avg_pool2d(x + self.block(x), 1).flatten(1))


class Neck(nn.Module):
    """SiLU, two scales, upsampling, concatenations, channels chosen and swapped; two outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = layer(3, 16, nn.SiLU(), stride=2), layer(16, 16, nn.SiLU(), stride=2)
        self.fuse = layer(32, 16, nn.SiLU())
        self.last = nn.ModuleList([nn.Conv2d(16, 5, 1), nn.Conv2d(16, 4, 1)])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.fine(x)
        coarse = F.interpolate(self.coarse(fine), scale_factor=2.0, mode="nearest")
        joined = self.fuse(torch.cat([coarse, fine], 1))
        left, right = joined.chunk(2, 1)
        swapped = torch.cat([right, left], 1)
        return {"boxes": self.last[0](swapped), "classes": self.last[1](F.max_pool2d(swapped, 3, 1, 1))}


class Branches(nn.Module):
    """A concatenation of branches that other convolutions read, twice over, as in GoogLeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.ModuleList([layer(3, 8, nn.ReLU()), layer(3, 8, nn.ReLU())])
        self.two = nn.ModuleList([layer(16, 8, nn.ReLU()), layer(16, 8, nn.ReLU())])
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([branch(x) for branch in self.one], 1)
        x = torch.cat([branch(x) for branch in self.two], 1)
        return self.fc(x.mean((2, 3)))


class Moves(nn.Module):
    """Channels turned into places, zeros around a map, a window chosen, channels shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = layer(3, 32, nn.ReLU(), stride=2), layer(8, 16, nn.ReLU())
        self.third = nn.Conv2d(16, 16, 3, groups=2)
        self.fc = nn.Linear(16 * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(F.pixel_shuffle(self.first(x), 2))[:, :, ::2, ::2]
        x = F.relu(self.third(F.pad(F.channel_shuffle(x, 2), (1, 1, 1, 1))))
        return self.fc(torch.flatten(x, 1))


NETWORKS = {"residual": Residual, "inverted": Inverted, "neck": Neck, "branches": Branches, "moves": Moves}


def lively(model: nn.Module) -> nn.Module:
    """Let batch norm measure random images, so that values neither grow nor vanish."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    model.train()
    with torch.no_grad():
        model(images(64, seed=1))
    return model.eval()


def network(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return lively(NETWORKS[name]())


def simulation(name: str, **settings: object) -> Simulation:
    """Return a simulation with its ranges set."""
    found = simulate(network(name), images(2), **settings)  # type: ignore[arg-type]
    found.calibrate([images(64, seed=2)])
    found.set_ranges("max")
    return found
