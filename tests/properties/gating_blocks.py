"""Blocks in which activations multiply activations: gates, selective kernels, attention, token mixing."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from plain_blocks import Block, conv_bn, multiple
from torch import Tensor, nn


class SqueezeExcite(Block):
    variants = ("convolution", "linear", "hard")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        super().__init__(width, size)
        self.conv, self.variant, inner = conv_bn(incoming, width), variant, max(2, width // 2)
        if variant == "linear":
            self.reduce, self.expand = nn.Linear(width, inner), nn.Linear(inner, width)
        else:
            self.reduce, self.expand = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        if self.variant == "linear":
            gate = torch.sigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3))))))
            return x * gate[:, :, None, None]
        gate = self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1))))
        return x * (F.hardsigmoid(gate) if self.variant == "hard" else torch.sigmoid(gate))


class ChannelGate(Block):
    """CBAM: a gate per channel of two pools and one shared perceptron, then perhaps one per position."""

    variants = ("channel", "spatial")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        super().__init__(width, size)
        self.conv, inner = conv_bn(incoming, width), max(2, width // 2)
        self.shared = nn.Sequential(nn.Conv2d(width, inner, 1, bias=False), nn.ReLU(), nn.Conv2d(inner, width, 1))
        self.spatial = nn.Conv2d(2, 1, 3, padding=1) if variant == "spatial" else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        pools = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
        x = x * torch.sigmoid(self.shared(pools[0]) + self.shared(pools[1]))
        if self.spatial is not None:
            x = x * torch.sigmoid(self.spatial(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))
        return F.relu(x)


class EfficientChannelAttention(Block):
    """A convolution along the channels themselves."""

    variants = ("eca",)

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        super().__init__(width, size)
        self.conv, self.along = conv_bn(incoming, width), nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.inner = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        gate = self.along(x.mean((2, 3)).unsqueeze(1)).sigmoid()
        return self.inner(x * gate.transpose(1, 2).unsqueeze(-1))


class Selective(Block):
    """Two branches weighted per channel by a softmax over branches: SKNet's stack, ResNeSt's view by radix."""

    variants = ("stacked", "radix")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        super().__init__(width, size)
        inner, self.variant = max(2, width // 2), variant
        if variant == "stacked":
            self.small, self.large = conv_bn(incoming, width, 1), conv_bn(incoming, width, 3)
        else:
            self.both = conv_bn(incoming, 2 * width)
        self.squeeze, self.excite = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, 2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.variant == "stacked":
            branches = torch.stack([F.relu(self.small(x)), F.relu(self.large(x))], dim=1)
        else:
            branches = F.relu(self.both(x))
            branches = branches.view(x.shape[0], 2, branches.shape[1] // 2, x.shape[2], x.shape[3])
        pooled = branches.sum(1).mean((2, 3), keepdim=True)
        weights = self.excite(F.relu(self.squeeze(pooled)))
        weights = weights.view(x.shape[0], 2, weights.shape[1] // 2, 1, 1).softmax(1)
        return (branches * weights).sum(1)


class LayerScale(Block):
    """ConvNeXt's block, with or without its norm; the scale is one number per channel of the stream."""

    variants = ("convnext", "without-norm")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        super().__init__(incoming, size)
        self.depth = nn.Conv2d(incoming, incoming, 3, padding=1, groups=incoming)
        self.norm = nn.LayerNorm(incoming) if variant == "convnext" else nn.Identity()
        self.wide, self.narrow = nn.Linear(incoming, width), nn.Linear(width, incoming)
        self.gamma = nn.Parameter(torch.full((incoming,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.narrow(F.gelu(self.wide(self.norm(self.depth(x).permute(0, 2, 3, 1)))))
        return x + (self.gamma * y).permute(0, 3, 1, 2)


class Gate(Block):
    """Half of the channels gate the other half, or one branch gates another."""

    variants = ("chunk", "glu", "product", "maximum")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        super().__init__(width, size)
        self.variant = variant
        self.a = conv_bn(incoming, 2 * width if variant in ("chunk", "glu") else width)
        self.b = conv_bn(incoming, width, 1) if variant in ("product", "maximum") else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.b is not None:
            return y * torch.sigmoid(self.b(x)) if self.variant == "product" else torch.maximum(y, self.b(x))
        if self.variant == "glu":
            return F.glu(y, dim=1)
        first, second = y.chunk(2, dim=1)
        return first * second


class Attention(Block):
    """Self-attention of two heads over positions, added to the stream."""

    variants = ("fused", "apart", "products", "scaled", "scaled-by-size", "module")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        super().__init__(incoming, size)
        self.variant, self.heads = variant, 2
        inner = multiple(incoming if variant == "module" else width, 4)
        self.enter = nn.Linear(incoming, inner) if variant == "module" else nn.LayerNorm(incoming)
        if variant == "module":
            self.mixed = nn.MultiheadAttention(inner, self.heads, batch_first=True)
        elif variant == "fused":
            self.qkv = nn.Linear(incoming, 3 * inner)
        else:
            self.q, self.k, self.v = (nn.Linear(incoming, inner) for _ in range(3))
        self.leave = nn.Linear(inner, incoming)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.enter(x.flatten(2).transpose(1, 2))
        return x + self.leave(self._attend(tokens)).transpose(1, 2).reshape(x.shape)

    def _attend(self, tokens: Tensor) -> Tensor:
        if self.variant == "module":
            mixed: Tensor = self.mixed(tokens, tokens, tokens, need_weights=False)[0]
            return mixed
        samples, length = tokens.shape[:2]
        if self.variant == "fused":
            q, k, v = self.qkv(tokens).reshape(samples, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        else:
            parts = (layer(tokens) for layer in (self.q, self.k, self.v))
            q, k, v = (part.reshape(samples, length, self.heads, -1).transpose(1, 2) for part in parts)
        if self.variant in ("products", "scaled-by-size"):
            scale = 0.3 if self.variant == "products" else q.shape[-1] ** -0.5
            mixed = (q @ k.transpose(-2, -1) * scale).softmax(-1) @ v
        else:
            scale = 0.3 if self.variant == "scaled" else None
            mixed = F.scaled_dot_product_attention(q, k, v, scale=scale)
        return mixed.transpose(1, 2).reshape(samples, length, -1)


class TokenMlp(Block):
    """Linear layers over positions seen as tokens."""

    variants = ("gelu", "swiglu", "mixer")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        super().__init__(incoming, size)
        inner = size * size if variant == "mixer" else incoming
        made: dict[str, Callable[[], nn.Module]] = {
            "gelu": lambda: nn.Sequential(nn.LayerNorm(incoming), nn.Linear(incoming, width), nn.GELU()),
            "swiglu": lambda: nn.Linear(incoming, 2 * width),
            "mixer": lambda: nn.Sequential(nn.Linear(inner, width), nn.ReLU()),
        }
        self.variant, self.wide, self.narrow = variant, made[variant](), nn.Linear(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        if self.variant == "mixer":
            return x + self.narrow(self.wide(x.flatten(2))).view_as(x)
        y = self.wide(x.flatten(2).mT)
        if self.variant == "swiglu":
            value, gate = y.split(y.shape[-1] // 2, dim=-1)
            y = value * F.silu(gate)
        return x + self.narrow(y).mT.reshape(x.shape)


GATING: dict[str, type[Block]] = {
    "squeeze-excite": SqueezeExcite,
    "channel-gate": ChannelGate,
    "eca": EfficientChannelAttention,
    "selective": Selective,
    "layer-scale": LayerScale,
    "gate": Gate,
    "attention": Attention,
    "token-mlp": TokenMlp,
}
