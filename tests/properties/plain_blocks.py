"""Blocks with one path: convolutions of every kind, norms, movements. See `networks.py` for what a block promises."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "hardswish": F.hardswish,
    "leaky": F.leaky_relu,
    "tanh": torch.tanh,
}


def multiple(width: int, of: int) -> int:
    """Return the smallest multiple of ``of`` that is at least ``width``."""
    return -(-width // of) * of


def conv_bn(incoming: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return convolution and batch norm; a kernel of odd size keeps the map's size."""
    return nn.Sequential(
        nn.Conv2d(incoming, out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(out)
    )


class Block(nn.Module):
    """From ``incoming`` channels on ``size`` × ``size`` to ``out`` channels on ``out_size`` × ``out_size``."""

    variants: ClassVar[tuple[str, ...]]
    resizes: ClassVar[bool] = False  # whether a variant may change the size of the map

    def __init__(self, out: int, out_size: int) -> None:
        super().__init__()
        self.out, self.out_size = out, out_size


class Conv(Block):
    variants = tuple(ACTIVATIONS)

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        super().__init__(width, size)
        self.body, self.variant = conv_bn(incoming, width), variant

    def forward(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.variant](self.body(x))


class Bare(Block):
    variants = ("bias", "no-bias", "functional", "channels-last")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        super().__init__(width, size)
        self.conv = None
        if variant == "functional":
            self.kernel = nn.Parameter(torch.randn(width, incoming, 3, 3) / (3 * incoming**0.5))
            self.shift = nn.Parameter(torch.randn(1, width, 1, 1))
        else:
            self.conv = nn.Conv2d(incoming, width, 3, padding=1, bias=variant != "no-bias")
            if variant == "channels-last":
                self.conv.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is None:
            return torch.sigmoid(F.conv2d(x, self.kernel, padding=1) + self.shift)
        return torch.sigmoid(self.conv(x))


class Depthwise(Block):
    variants = ("separable", "multiplier", "inverted")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        super().__init__(width, size)
        inner = 2 * incoming
        self.expand = conv_bn(incoming, inner, 1) if variant == "inverted" else nn.Identity()
        lead = inner if variant == "inverted" else incoming
        many = 2 * lead if variant == "multiplier" else lead
        self.depth, self.point = conv_bn(lead, many, 3, groups=lead), conv_bn(many, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.point(F.relu6(self.depth(F.relu6(self.expand(x)))))


class Grouped(Block):
    """Few groups get narrower inside; many groups go whole; ``stream`` reads what the block is given."""

    variants = ("inside", "whole", "stream")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        width = multiple(width, 4)
        super().__init__(width, size)
        groups = {"inside": 2, "whole": width // 2, "stream": 2}[variant]
        lead = multiple(incoming, 2) if variant == "stream" else width
        self.enter = nn.Identity() if variant == "stream" and lead == incoming else nn.Conv2d(incoming, lead, 1)
        self.grouped = conv_bn(lead, width, 3, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.grouped(F.relu(self.enter(x))))


class Transposed(Block):
    variants = ("plain", "inside", "whole", "depthwise")
    resizes = True

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        width = multiple(width, 4)
        grows = size <= 8
        super().__init__(width, 2 * size if grows else size)
        groups = {"plain": 1, "inside": 2, "whole": width // 2, "depthwise": width}[variant]
        self.enter = nn.Conv2d(incoming, width, 1)
        shape = {"kernel_size": 2, "stride": 2} if grows else {"kernel_size": 3, "padding": 1}
        self.up, self.bn = nn.ConvTranspose2d(width, width, groups=groups, **shape), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.up(F.relu(self.enter(x)))))


class Shaped(Block):
    """Kernels of other shapes; a stride where the map is large enough."""

    variants = ("dilated", "asymmetric", "strided", "reflected")
    resizes = True

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        shrinks = variant == "strided" and size >= 4
        super().__init__(width, size // 2 if shrinks else size)
        layers: dict[str, list[nn.Module]] = {
            "dilated": [nn.Conv2d(incoming, width, 3, padding=2, dilation=2)],
            "asymmetric": [
                nn.Conv2d(incoming, width, (1, 3), padding=(0, 1)),
                nn.Conv2d(width, width, (3, 1), 1, (1, 0)),
            ],
            "strided": [nn.Conv2d(incoming, width, 2, 2) if shrinks else nn.Conv2d(incoming, width, 1)],
            "reflected": [nn.Conv2d(incoming, width, 3, padding=1, padding_mode="reflect")],
        }
        self.layers = nn.Sequential(*layers[variant], nn.ELU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class FrozenBatchNorm(nn.Module):
    """Batch norm of buffers alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("mean", 0.0), ("var", 1.0)):
            self.register_buffer(name, torch.full((width,), value))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.var + 1e-5).rsqrt()
        shift = self.bias - self.mean * scale
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


class Norm(Block):
    variants = ("group", "group-one", "group-each", "instance", "instance-affine", "frozen", "layer")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        width = multiple(width, 4)
        super().__init__(width, size)
        self.conv, self.last = nn.Conv2d(incoming, width, 3, padding=1), variant == "layer"
        made: dict[str, Callable[[], nn.Module]] = {
            "group": lambda: nn.GroupNorm(width // 2, width),
            "group-one": lambda: nn.GroupNorm(1, width),
            "group-each": lambda: nn.GroupNorm(width, width),
            "instance": lambda: nn.InstanceNorm2d(width),
            "instance-affine": lambda: nn.InstanceNorm2d(width, affine=True, track_running_stats=True),
            "frozen": lambda: FrozenBatchNorm(width),
            "layer": lambda: nn.LayerNorm(width),
        }
        self.norm = made[variant]()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.last:
            return F.relu(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return F.relu(self.norm(x))


class Blur(Block):
    """One smoothing filter for all channels, whose groups follow the tensor or whose channels become samples."""

    variants = ("depthwise", "samples")
    resizes = True

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        stride = 2 if size >= 4 else 1
        super().__init__(width, size // stride)
        self.stride, self.samples = stride, variant == "samples"
        self.conv = nn.Conv2d(incoming, width, 1)
        kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
        many = 1 if self.samples else width
        self.register_buffer("kernel", torch.outer(kernel, kernel).repeat(many, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(F.relu(self.conv(x)), (1, 1, 1, 1), mode="replicate")
        if not self.samples:
            return F.conv2d(x, self.kernel, stride=self.stride, groups=x.shape[1])
        y = F.conv2d(x.flatten(0, 1).unsqueeze(1), self.kernel, stride=self.stride)
        return y.view(x.shape[0], x.shape[1], y.shape[2], y.shape[3])


class Pixel(Block):
    variants = ("shuffle", "unshuffle")
    resizes = True

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        if variant == "shuffle":
            super().__init__(width, 2 * size if size <= 8 else size)
            factor = 2 if size <= 8 else 1
            self.layers = nn.Sequential(nn.Conv2d(incoming, width * factor**2, 1), nn.PixelShuffle(factor))
        else:
            factor = 2 if size >= 4 else 1
            narrow = max(1, width // 4)
            super().__init__(narrow * factor**2, size // factor)
            self.layers = nn.Sequential(nn.Conv2d(incoming, narrow, 1), nn.PixelUnshuffle(factor))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x))


class Resize(Block):
    """Pools and upsampling; the channels stay as they are."""

    variants = ("max", "avg", "adaptive", "adaptive-max", "nearest", "bilinear")
    resizes = True

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        grows, shrinks = size <= 8, size >= 4
        out_size = (
            (2 * size if grows else size) if variant in ("nearest", "bilinear") else size // 2 if shrinks else size
        )
        super().__init__(incoming, out_size)
        made: dict[str, Callable[[], nn.Module]] = {
            "max": lambda: nn.MaxPool2d(2) if shrinks else nn.MaxPool2d(3, 1, 1),
            "avg": lambda: nn.AvgPool2d(2) if shrinks else nn.AvgPool2d(3, 1, 1),
            "adaptive": lambda: nn.AdaptiveAvgPool2d(out_size),
            "adaptive-max": lambda: nn.AdaptiveMaxPool2d(out_size),
            "nearest": lambda: nn.Upsample(size=out_size),
            "bilinear": lambda: nn.Upsample(size=out_size, mode="bilinear"),
        }
        self.resize = made[variant]()

    def forward(self, x: Tensor) -> Tensor:
        return self.resize(x)


PLAIN: dict[str, type[Block]] = {
    "conv": Conv,
    "bare": Bare,
    "depthwise": Depthwise,
    "grouped": Grouped,
    "transposed": Transposed,
    "shaped": Shaped,
    "norm": Norm,
    "blur": Blur,
    "pixel": Pixel,
    "resize": Resize,
}
