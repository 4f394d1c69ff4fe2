"""Code that escapes the tracer or reads sizes: whatever happens, a wrong cut is never returned."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cutting import images, locked_reasons, prunable, random_plan
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from secateur.errors import VerificationError
from secateur.graph import apply, trace


class Middle(nn.Module):
    """Two convolutions around any code."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)
        self.mask = torch.rand(1, 8, 1, 1)  # a plain tensor, no buffer
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.function(self, torch.relu(self.b(torch.relu(self.a(x))))))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


def sequence(layer: nn.Module) -> nn.Module:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.layer, self.out = nn.Linear(3, 8), layer, nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.layer(torch.relu(self.a(x)))[0])

    return Sequence()


def within(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), layer, nn.ReLU(), nn.Conv2d(8, 2, 1))


TOKENS = torch.randn(2, 5, 3)
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "data": (lambda: Middle(lambda m, x: x.data * 2), images()),
    "numpy": (lambda: Middle(lambda m, x: torch.from_numpy(x.numpy() * 2)), images()),
    "list": (lambda: Middle(lambda m, x: torch.tensor(x.tolist(), dtype=x.dtype)), images()),
    "item": (lambda: Middle(lambda m, x: x * float(x.mean())), images()),
    "plain tensor": (lambda: Middle(lambda m, x: x * m.mask.to(x.dtype)), images()),
    "width in the code": (lambda: Middle(lambda m, x: x * 8 / x.shape[1]), images()),
    "width of a weight": (lambda: Middle(lambda m, x: x / m.b.weight.shape[0]), images()),
    "width of a module": (lambda: Middle(lambda m, x: x / m.b.out_channels), images()),
    "mean by sum": (lambda: Middle(lambda m, x: x * x.sum(1, keepdim=True) / x.shape[1]), images()),
    "weight read as data": (lambda: Middle(lambda m, x: F.conv2d(x, m.b.weight.data)), images()),
    "sum of weights": (lambda: Middle(lambda m, x: x * m.b.weight.sum()), images()),
    "mean of weights": (lambda: Middle(lambda m, x: x * m.b.weight.mean()), images()),
    "largest of weights": (lambda: Middle(lambda m, x: x * m.b.weight.abs().max()), images()),
    "standardised weights": (
        lambda: Middle(lambda m, x: F.conv2d(x, m.b.weight - m.b.weight.mean((1, 2, 3), keepdim=True))),
        images(),
    ),
    "function of its own": (lambda: Middle(lambda m, x: Doubled.apply(x)), images()),
    "vmap": (lambda: Middle(lambda m, x: torch.vmap(lambda y: y * 2)(x)), images()),
    "checkpoint": (
        lambda: Middle(lambda m, x: torch.utils.checkpoint.checkpoint(torch.tanh, x, use_reentrant=False)),
        images(),
    ),
    "channel shuffle": (lambda: Middle(lambda m, x: F.channel_shuffle(x, 2)), images()),
    "circular padding": (lambda: within(nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")), images()),
    "reflected padding": (lambda: within(nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")), images()),
    "response norm": (lambda: within(nn.LocalResponseNorm(3)), images()),
    "RMS norm": (lambda: nn.Sequential(nn.Linear(3, 8), nn.RMSNorm(8), nn.Linear(8, 2)), TOKENS),
    "weight norm": (lambda: within(parametrizations.weight_norm(nn.Conv2d(8, 8, 1))), images()),
    "spectral norm": (lambda: within(parametrizations.spectral_norm(nn.Conv2d(8, 8, 1))), images()),
    "orthogonal": (lambda: within(parametrizations.orthogonal(nn.Conv2d(8, 8, 1))), images()),
    "max out": (lambda: Middle(lambda m, x: x.view(2, 4, 2, 8, 8).amax(2).repeat(1, 2, 1, 1)), images()),
    "rows of channels": (lambda: Middle(lambda m, x: x.view(2, 8, 64).transpose(1, 2).reshape(2, 8, 8, 8)), images()),
    "LSTM": (lambda: sequence(nn.LSTM(8, 8, batch_first=True)), TOKENS),
    "GRU": (lambda: sequence(nn.GRU(8, 8, batch_first=True)), TOKENS),
    "attention": (lambda: sequence(_self_attention()), TOKENS),
    "fold": (lambda: Middle(lambda m, x: F.fold(F.unfold(x, 3, padding=1), (8, 8), 3, padding=1)), images()),
    "grid sample": (
        lambda: Middle(lambda m, x: F.grid_sample(x, torch.zeros(2, 8, 8, 2), align_corners=False)),
        images(),
    ),
    "max unpool": (lambda: Middle(lambda m, x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)), images()),
    "einsum": (lambda: Middle(lambda m, x: torch.einsum("bchw,oc->bohw", x, m.b.weight[:, :, 0, 0])), images()),
    "outer product": (
        lambda: Middle(lambda m, x: x * torch.outer(x[0, :, 0, 0], x[1, :, 0, 0]).sum(1)[:, None, None]),
        images(),
    ),
    "in-place on a slice": (lambda: Middle(lambda m, x: _halved(x)), images()),
    "swapped in place": (lambda: Middle(lambda m, x: x.clone().transpose_(1, 2).transpose_(1, 2)), images()),
}  # fmt: skip


def _halved(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, : x.shape[1] // 2].mul_(0.5)
    x[:, x.shape[1] // 2 :] = x[:, : x.shape[1] // 2] * 3
    return x


def _self_attention() -> nn.Module:
    class SelfAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Any:
            return self.inner(x, x, x)

    return SelfAttention()


@pytest.mark.parametrize("name", MODELS)
def test_each_group_is_locked_exact_or_refused(name: str) -> None:
    build, given = MODELS[name]
    model = build().eval()
    graph = trace(model, given)
    for group in graph.groups:
        if not group.prunable or group.size < 2:
            continue
        plan = graph.plan({group.name: range(0, group.size - 1)})
        with contextlib.suppress(VerificationError):
            small = apply(model, plan, verify_with=given)
            with torch.no_grad():
                assert small(given).shape == model(given).shape
    assert locked_reasons(graph)


MUST_CUT = {
    "circular padding": {"2"},
    "reflected padding": {"0", "2"},
    "function of its own": {"a", "b"},
    "vmap": {"a", "b"},
    "checkpoint": {"a", "b"},
    "sum of weights": {"a"},
    "einsum": {"a"},
    "in-place on a slice": {"a", "b"},
    "data": {"a"},
    "item": {"a"},
}


@pytest.mark.parametrize("name", MUST_CUT)
def test_what_can_be_cut_is_cut(name: str) -> None:
    build, given = MODELS[name]
    model = build().eval()
    graph = trace(model, given)
    assert MUST_CUT[name] <= prunable(graph), locked_reasons(graph)
    plan = graph.plan({group: random_plan(graph).kept[group] for group in MUST_CUT[name]})
    assert apply(model, plan, verify_with=given) is not model
