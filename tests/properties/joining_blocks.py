"""Blocks with several paths: sums, concatenations, splits, shuffles, skips."""

import torch
import torch.nn.functional as F
from plain_blocks import Block, conv_bn, multiple
from torch import Tensor, nn


class Residual(Block):
    variants = ("identity", "projection", "padded", "pre-activation", "bottleneck", "in-place")
    resizes = True

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        keeps = variant not in ("projection", "padded")
        stride = 2 if size >= 4 and not keeps else 1
        out = incoming if keeps else max(width, incoming) if variant == "padded" else width
        super().__init__(out, size // stride)
        self.variant, self.stride, self.more = variant, stride, out - incoming
        inner = max(2, width // 2) if variant == "bottleneck" else width
        self.shortcut = conv_bn(incoming, out, 1, stride) if variant == "projection" else nn.Identity()
        self.before = nn.BatchNorm2d(incoming) if variant == "pre-activation" else nn.Identity()
        middle = [conv_bn(inner, inner), nn.ReLU()] if variant == "bottleneck" else []
        first = conv_bn(incoming, inner, 1 if variant == "bottleneck" else 3, stride)
        self.body = nn.Sequential(first, nn.ReLU(inplace=variant == "in-place"), *middle, conv_bn(inner, out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(F.relu(self.before(x)) if self.variant == "pre-activation" else x)
        if self.variant == "in-place":
            y += x
            return F.relu_(y)
        if self.variant == "padded":
            front = self.more // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, front, self.more - front))
        x = self.shortcut(x)
        return x + y if self.variant == "pre-activation" else F.relu(x + y)


class Dense(Block):
    """DenseNet: each layer reads all earlier ones."""

    variants = ("list", "cat-by-cat")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        growth = max(2, width // 3)
        super().__init__(incoming + 2 * growth, size)
        self.variant = variant
        self.norms = nn.ModuleList(nn.BatchNorm2d(incoming + i * growth) for i in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(incoming + i * growth, growth, 3, padding=1) for i in range(2))

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            new = conv(F.relu(norm(torch.cat(found, 1) if self.variant == "list" else x)))
            found.append(new)
            x = torch.cat([x, new], 1)
        return torch.cat(found, 1) if self.variant == "list" else x


class Inception(Block):
    variants = ("branches", "shared-stem")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        third = max(2, width // 3)
        stemmed = variant == "shared-stem"
        super().__init__(3 * third, size)
        lead = third if stemmed else incoming
        self.stem = conv_bn(incoming, third, 1) if stemmed else nn.Identity()
        self.one, self.pooled = conv_bn(lead, third, 1), conv_bn(lead, third, 1)
        self.three = nn.Sequential(conv_bn(lead, third, 1), nn.ReLU(), conv_bn(third, third, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        pooled = self.pooled(F.max_pool2d(x, 3, 1, 1))
        return F.relu(torch.cat([self.one(x), self.three(x), pooled], dim=1))


class Split(Block):
    """Part of the channels is worked on, part is passed on."""

    variants = ("shufflenet", "c2f", "ghost", "res2net", "partial")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        width = multiple(width, 4)
        super().__init__(width, size)
        self.variant = variant
        half = width // 2
        self.enter = conv_bn(incoming, half if variant == "ghost" else width, 1)
        if variant == "res2net":
            self.parts = nn.ModuleList(nn.Conv2d(width // 4, width // 4, 3, padding=1) for _ in range(3))
        elif variant == "ghost":
            self.cheap = conv_bn(half, half, 3, groups=half)
        else:
            part = width // 4 if variant == "partial" else half
            self.body = nn.Sequential(conv_bn(part, part), nn.ReLU())
        self.leave = conv_bn(3 * half, width, 1) if variant == "c2f" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.enter(x))
        if self.variant == "ghost":
            return torch.cat([x, self.cheap(x)], 1)
        if self.variant == "res2net":
            first, *others = x.chunk(4, dim=1)
            found = [first]
            for part, conv in zip(others, self.parts, strict=True):
                found.append(F.relu(conv(part + found[-1] if len(found) > 1 else part)))
            return torch.cat(found, 1)
        if self.variant == "partial":
            quarter = x.shape[1] // 4
            return torch.cat([self.body(x[:, :quarter]), x[:, quarter:]], 1)
        kept, worked = x.chunk(2, dim=1)
        if self.variant == "c2f":
            return F.relu(self.leave(torch.cat([kept, worked, self.body(worked)], 1)))
        joined = torch.cat([kept, self.body(worked)], 1)
        return joined.view(x.shape[0], 2, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape)


class Shuffle(Block):
    """Grouped convolutions with a channel shuffle between them."""

    variants = ("view", "module", "three")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        groups = 3 if variant == "three" else 2
        width = multiple(width, 2 * groups)
        super().__init__(width, size)
        self.groups, self.shuffle = groups, nn.ChannelShuffle(2) if variant == "module" else None
        self.enter = nn.Conv2d(incoming, width, 1)
        self.a, self.b = (conv_bn(width, width, 3, groups=groups) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(self.enter(x)))
        if self.shuffle is not None:
            return self.b(self.shuffle(x))
        samples, channels, height, width = x.shape
        x = x.view(samples, self.groups, channels // self.groups, height, width).transpose(1, 2)
        return self.b(x.reshape(samples, channels, height, width))


class Skip(Block):
    """A U-Net of one level: down, work, up, and the skip joined by concatenation or sum."""

    variants = ("concatenated", "added", "transposed")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        super().__init__(width, size)
        self.variant = variant
        inner = incoming if variant == "added" else width
        self.down, self.middle = conv_bn(incoming, inner, 3, 2), conv_bn(inner, inner)
        self.up = nn.ConvTranspose2d(inner, inner, 2, 2) if variant == "transposed" else nn.Upsample(scale_factor=2)
        self.leave = nn.Conv2d(inner if variant == "added" else incoming + inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(F.relu(self.middle(F.relu(self.down(x)))))[:, :, : x.shape[2], : x.shape[3]]
        return F.relu(self.leave(x + y if self.variant == "added" else torch.cat([x, y], dim=1)))


JOINING: dict[str, type[Block]] = {
    "residual": Residual,
    "dense": Dense,
    "inception": Inception,
    "split": Split,
    "shuffle": Shuffle,
    "skip": Skip,
}
