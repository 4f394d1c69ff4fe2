"""The blocks of published networks: gates, branches chosen by attention, scales, embeddings."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from matrix import Between, prove, reason
from torch import Tensor, nn


def squeeze_excite(m: Any, x: Tensor) -> Tensor:
    return x * m.layers[1](torch.relu(m.layers[0](x.mean((2, 3), True)))).sigmoid()


def split_attention(m: Any, x: Tensor) -> Tensor:
    batch, radix = x.shape[0], 2
    parts = m.layers[0](x).reshape(batch, radix, -1, 8, 8)
    gate = m.layers[2](torch.relu(m.layers[1](parts.sum(1).mean((2, 3), True))))
    gate = gate.view(batch, 1, radix, -1).transpose(1, 2).softmax(1).reshape(batch, -1, 1, 1)
    return (parts * gate.reshape(batch, radix, -1, 1, 1)).sum(1)


def selective_kernel(m: Any, x: Tensor) -> Tensor:
    branches = torch.stack([m.layers[0](x), m.layers[1](x)], 1)
    gate = m.layers[3](torch.relu(m.layers[2](branches.sum(1).mean((2, 3), True))))
    return (branches * gate.view(x.shape[0], 2, -1, 1, 1).softmax(1)).sum(1)


def coordinate_attention(m: Any, x: Tensor) -> Tensor:
    both = torch.cat([x.mean(3, True), x.mean(2, True).transpose(2, 3)], 2)
    rows, columns = torch.relu(m.layers[0](both)).split([8, 8], 2)
    return x * m.layers[1](rows).sigmoid() * m.layers[2](columns.transpose(2, 3)).sigmoid()


def non_local(m: Any, x: Tensor) -> Tensor:
    queries, keys, values = (layer(x).flatten(2) for layer in m.layers[:3])
    weights = (queries.transpose(1, 2) @ keys).softmax(-1)
    return x + m.layers[3]((values @ weights.transpose(1, 2)).unflatten(2, (8, 8)))


def conv(first: int, second: int, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(first, second, settings.pop("kernel_size", 1), **settings)


def with_bias_table() -> nn.Module:
    class Windowed(nn.Module):
        """Attention over space with a relative position bias, looked up by a constant index."""

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.rand(30, 2))
            self.register_buffer("index", torch.randint(30, (64, 64)))
            self.qk, self.v = nn.Conv2d(8, 16, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            q, k = self.qk(x).flatten(2).unflatten(1, (2, -1, 4)).unbind(1)
            bias = self.table[self.index.view(-1)].view(64, 64, -1).permute(2, 0, 1)
            weights = (q.transpose(2, 3) @ k * 0.5 + bias.unsqueeze(0)).softmax(-1)
            v = self.v(x).flatten(2).unflatten(1, (-1, 4))
            return (v @ weights.transpose(2, 3)).flatten(1, 2).unflatten(2, (8, 8))

    return Windowed()


BLOCKS = {
    "squeeze-excite": (squeeze_excite, [conv(8, 4), conv(4, 8)], {"a", "layers.0"}),
    "split attention": (split_attention, [conv(8, 16, groups=2), conv(8, 4), conv(4, 16)], {"layers.1"}),
    "selective kernel": (selective_kernel, [conv(8, 8), conv(8, 8), conv(8, 4), conv(4, 16)], {"a", "layers.2"}),
    "coordinate attention": (coordinate_attention, [conv(8, 4), conv(4, 8), conv(4, 8)], {"a", "layers.0"}),
    "non-local": (non_local, [conv(8, 4), conv(8, 4), conv(8, 4), conv(4, 8)], {"a", "layers.0", "layers.2"}),
    "layer scale": (lambda m, x: x + m.layers[0](x) * m.vector.view(-1, 1, 1), [conv(8, 8)], {"a"}),
    "dropped path": (
        lambda m, x: x + m.layers[0](x) * torch.empty(x.shape[0], 1, 1, 1, device=x.device).fill_(0.5),
        [conv(8, 8)],
        {"a"},
    ),
    "class token": (
        lambda m, x: torch.cat([m.vector.expand(x.shape[0], 1, -1), x.flatten(2).mT], 1).mT[..., :64]
        .unflatten(2, (8, 8)),
        [],
        {"a"},
    ),
    "position embedding": (
        lambda m, x: (x.flatten(2).mT + m.layers[0].weight).mT.unflatten(2, (8, 8)), [nn.Embedding(64, 8)], {"a"},
    ),
    "gate by halves": (lambda m, x: (lambda a, b: a * b.sigmoid())(*m.layers[0](x).chunk(2, 1)), [conv(8, 16)], {"a"}),
    "gated linear unit": (lambda m, x: F.glu(m.layers[0](x), 1), [conv(8, 16)], {"a", "layers.0"}),
    "maxout": (lambda m, x: m.layers[0](x).unflatten(1, (-1, 2)).amax(2), [conv(8, 16)], {"a", "layers.0"}),
    "relative position bias": (lambda m, x: m.layers[0](x), [with_bias_table()], {"a"}),
}  # fmt: skip


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_cut(name: str) -> None:
    function, layers, cut = BLOCKS[name]
    prove(Between(function, *layers), *cut)


def test_a_scalar_scale_stays() -> None:
    class Zero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.inner = nn.Parameter(torch.ones(1)), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.scale * self.inner(x)

    prove(Between(lambda m, x: m.layers[0](x), Zero()), "a")


def test_channels_read_as_a_sequence_are_locked() -> None:
    def efficient(m: Any, x: Tensor) -> Tensor:
        return x * m.layers[0](x.mean((2, 3)).unsqueeze(1)).transpose(1, 2).unsqueeze(-1).sigmoid()

    assert "used as a dimension of space" in reason(Between(efficient, nn.Conv1d(1, 1, 3, padding=1)))


def test_statistics_over_channels_are_approximate() -> None:
    def spatial_gate(m: Any, x: Tensor) -> Tensor:
        return x * m.layers[0](torch.cat([x.mean(1, True), x.amax(1, True)], 1)).sigmoid()

    def response_norm(m: Any, x: Tensor) -> Tensor:
        length = x.norm(p=2, dim=(2, 3), keepdim=True)
        return x + m.vector.view(1, -1, 1, 1) * (x * length / (length.mean(1, True) + 1e-6))

    assert "reduced across channels" in reason(Between(spatial_gate, conv(2, 1)))
    assert "reduced across channels" in reason(Between(response_norm))
