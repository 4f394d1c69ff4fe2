"""Networks to capture, with batch norm that does something, and an SQNR to compare outputs by."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.randomness import generator_for
from secateur.torchvision_shim import import_torchvision


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give norms statistics and factors that folding must not lose, and return the model in evaluation mode."""
    generator = generator_for(seed, "norms")
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(0, 0.2, generator=generator)
    return model.eval()


def torchvision_model(name: str) -> nn.Module:
    settings = {"aux_logits": True, "init_weights": False} if name == "inception_v3" else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return lively(getattr(import_torchvision().models, name)(weights=None, num_classes=10, **settings))


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator_for(seed, "images"))


def sqnr_db(exact: Tensor, other: Tensor) -> float:
    return 10 * math.log10(float(exact.square().sum() / (exact - other).square().sum()))


class Neck(nn.Module):
    """A backbone in two scales, upsampling and concatenation, SiLU: the neck of a detector, with two outputs."""

    def __init__(self, act: type[nn.Module] = nn.SiLU) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
            conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(outputs), act())

        self.stem, self.down = block(3, 8, 2), block(8, 16, 2)
        self.lateral, self.fuse = block(16, 8), block(16, 8)
        self.split = block(8, 8)
        self.heads = nn.ModuleList([nn.Conv2d(8, 5, 1), nn.Conv2d(16, 5, 1)])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.stem(x)
        coarse = self.down(fine)
        up = F.interpolate(self.lateral(coarse), scale_factor=2, mode="nearest")
        joined = self.fuse(torch.cat([up, fine], 1))
        first, second = joined.chunk(2, 1)
        joined = torch.cat([first, self.split(joined)[:, :4] + second], 1)
        return {"fine": self.heads[0](joined), "coarse": self.heads[1](coarse)}
