"""Small modules written by hand, each for one way of writing a network that a tracer can get wrong."""

import torch
import torch.nn.functional as F  # the field's own idiom
from torch import Tensor, nn


class NhwcFlatten(nn.Module):
    """Channels last before the flatten: position-major, not channel-major."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3, stride=2), nn.Linear(6 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).permute(0, 2, 3, 1).flatten(1))


class ViewShuffle(nn.Module):
    """A channel shuffle that reads its sizes from the tensor."""

    def __init__(self, groups: int = 2) -> None:
        super().__init__()
        self.groups = groups
        self.a = nn.Conv2d(3, 12, 1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.b = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        batch, channels, height, width = x.shape
        x = x.view(batch, self.groups, channels // self.groups, height, width).transpose(1, 2).contiguous()
        return self.b(self.depthwise(x.view(batch, channels, height, width)))


class BareParameter(nn.Module):
    """A functional convolution whose weight is no module's."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(7, 3, 3, 3))
        self.scale = nn.Parameter(torch.rand(1, 7, 1, 1))
        self.out = nn.Conv2d(7, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(F.conv2d(x, self.kernel, padding=1) * self.scale))


class Tied(nn.Module):
    """Two convolutions that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.a, self.b = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.b.weight = self.a.weight
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.b(torch.relu(self.a(self.stem(x))))))


class CalledTwice(nn.Module):
    """One module applied twice in a row, which ties its outputs to its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(2):
            x = torch.relu(self.again(x))
        return self.out(x)


class SharedWithFunction(nn.Module):
    """A weight used by its own module and by a functional call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.conv(x).relu(), F.conv2d(x, -self.conv.weight, padding=1).relu()], 1))


class SqueezeExcite(nn.Module):
    """Channels scaled by a gate made of themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.reduce, self.expand = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        gate = torch.sigmoid(self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True)))))
        return self.out(x * gate)


class ChunkGate(nn.Module):
    """Half of the channels gate the other half, once by chunk and once by glu."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 12, 3), nn.Conv2d(6, 8, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.a(x).chunk(2, dim=1)
        return self.out(F.glu(self.b(value * torch.sigmoid(gate)), dim=1))


class PixelShuffle(nn.Module):
    """Sub-pixel upsampling and its inverse."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.up, self.b = nn.Conv2d(3, 20, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(5, 6, 1)
        self.down, self.out = nn.PixelUnshuffle(2), nn.Conv2d(24, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.down(torch.relu(self.b(torch.relu(self.up(self.a(x)))))))


class Transposed(nn.Module):
    """Transposed convolutions: plain, cut across groups, and depthwise."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.plain = nn.Conv2d(3, 6, 3), nn.ConvTranspose2d(6, 8, 2, stride=2)
        self.grouped = nn.ConvTranspose2d(8, 12, 3, groups=2)
        self.depthwise = nn.ConvTranspose2d(12, 12, 2, stride=2, groups=12)
        self.out = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu(self.plain(self.a(x)))))
        return self.out(torch.relu(self.depthwise(x)))


class Grouped(nn.Module):
    """A grouped convolution: ``groups`` decides whether it gets narrower inside or loses whole groups."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.a, self.grouped = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=groups)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.grouped(torch.relu(self.a(x)))))


class Multiplier(nn.Module):
    """A depthwise convolution that makes two channels of each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.wide, self.bn = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 10, 3, groups=5), nn.BatchNorm2d(10)
        self.out = nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.bn(self.wide(self.a(x)))))


class Line(nn.Module):
    """One dimension of space."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.pool = nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.MaxPool1d(2)
        self.b, self.fc = nn.Conv1d(6, 5, 3, groups=1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.b(self.pool(self.bn(self.a(x))))).mean(-1))


class Volume(nn.Module):
    """Three dimensions of space."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.b = nn.Conv3d(2, 6, 3, padding=1), nn.BatchNorm3d(6), nn.Conv3d(6, 4, 1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(torch.relu(self.bn(self.a(x))), 2)
        return self.fc(F.adaptive_avg_pool3d(torch.relu(self.b(x)), 1).flatten(1))


class UNet(nn.Module):
    """Skip connections by concatenation, upsampling, padding."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.down = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.middle, self.up = nn.Conv2d(8, 8, 3, padding=1), nn.Upsample(scale_factor=2, mode="bilinear")
        self.out = nn.Conv2d(14, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.relu(self.a(x))
        x = self.up(torch.relu(self.middle(torch.relu(self.down(skip)))))
        return self.out(torch.cat([skip, F.pad(x, (0, 0, 0, 0))], dim=1))


class OptionA(nn.Module):
    """The parameter-free shortcut of CIFAR ResNets: strided and padded with zero channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv1 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.conv2, self.bn2, self.out = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.out(torch.relu(shortcut + self.bn2(self.conv2(torch.relu(self.conv1(x))))))


class InstanceNorm(nn.Module):
    """Statistics per sample and channel, with and without parameters."""

    def __init__(self, affine: bool) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=affine)
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.norm(self.a(x))))


class Slopes(nn.Module):
    """A parametric ReLU with a slope per channel, and one with a single slope."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.b = nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Conv2d(6, 5, 1)
        self.one, self.out = nn.PReLU(), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.one(self.b(self.act(self.a(x)))))


class Attention(nn.Module):
    """Single-head attention over tokens."""

    def __init__(self, scale: float | None) -> None:
        super().__init__()
        self.scale = scale
        self.embed = nn.Linear(4, 10)
        self.q, self.k, self.v, self.out = (nn.Linear(10, 10) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.embed(x))
        q, k, v = self.q(x), self.k(x), self.v(x)
        return self.out(F.scaled_dot_product_attention(q, k, v, scale=self.scale))


class Mlp(nn.Module):
    """Nothing but linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.GELU(), nn.Linear(10, 8), nn.SiLU())
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layers(x))


class PerChannelFilter(nn.Module):
    """Channels folded into the batch, one filter for all: what a blur pool does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1)
        self.kernel = nn.Parameter(torch.rand(1, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        batch, channels, height, width = x.shape
        x = F.conv2d(x.reshape(batch * channels, 1, height, width), self.kernel, padding=1)
        return self.out(x.reshape(batch, channels, height, width))


class BlurPool(nn.Module):
    """A depthwise convolution whose weight is a buffer and whose groups follow the tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1)
        self.register_buffer("kernel", torch.rand(6, 1, 3, 3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return self.out(F.conv2d(x, self.kernel, stride=2, groups=x.shape[1]))


class Gathered(nn.Module):
    """Sums, maxima over space, stack, repeat, flip, squeeze, expand: movements in one chain."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bias, self.fc = nn.Conv2d(3, 6, 3), nn.Parameter(torch.randn(6)), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x)).flip(1)
        x = torch.stack([x.amax((2, 3)), x.flatten(2).topk(2)[0].sum(-1)], 0).mean(0)
        x = x + self.bias.expand(x.shape[0], -1)
        x = x.unsqueeze(-1).repeat(1, 2, 1).squeeze(-1)
        return self.fc(x.to(torch.float64).to(x.dtype))
