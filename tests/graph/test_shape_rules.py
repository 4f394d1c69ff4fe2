"""What operators give on meta tensors by shape alone is what their kernels give, shape, dtype and strides."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.graph.shape_rules import attention_on_shapes, result_on_shapes

SEEN: set[str] = set()


class Compared(TorchDispatchMode):
    """Runs every operator by its kernel, on values, and compares what the rule says of the same call."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::").removesuffix("_")
        ruled = result_on_shapes(name, torch.utils._pytree.tree_map_only(Tensor, _on_meta, args))
        result = func(*args, **(kwargs or {}))
        if ruled is not None:
            SEEN.add(name)
            told = ruled[0] if isinstance(ruled, tuple) else ruled
            real = result[0] if isinstance(result, tuple) else result
            assert (told.shape, told.dtype) == (real.shape, real.dtype), name
            assert _strides(told) == _strides(real), name
        return result


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _strides(tensor: Tensor) -> list[int]:
    """Strides of dimensions with more than one element; those of the others are anybody's guess."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


X = torch.rand(2, 6, 5, 4)
LAST = X.contiguous(memory_format=torch.channels_last)
TOKENS = torch.rand(2, 7, 6)

CALLS: dict[str, Callable[[], Any]] = {
    "activations": lambda: [f(X) for f in (F.relu, F.gelu, F.silu, F.hardswish, F.mish, torch.tanh)] + [F.relu(LAST)],
    "scalars": lambda: [X + 1, X * 0.5, 1.0 - X, X / 3, X - 2, torch.arange(4) * 2, torch.arange(4) / 2],
    "scalars_of_strided": lambda: [LAST * 0.5, X.transpose(1, 2) + 1, X[:, ::2] * 2.0, X.expand(3, 2, 6, 5, 4) * 2.0],
    "integers": lambda: [torch.arange(4) / torch.arange(1, 5), torch.arange(4) * torch.arange(4), torch.arange(4) - 1],
    "norm_of_permuted": lambda: [F.batch_norm(TOKENS.transpose(1, 2), torch.zeros(6), torch.ones(6))],
    "permuted_operands": lambda: [X[0].transpose(0, 1) + X[0].transpose(0, 1), X + X[0, 0].t().contiguous().t(),
        torch.rsub(X, X.transpose(2, 3).contiguous().transpose(2, 3)), X * torch.rand(5, 6, 4).transpose(0, 1)],
    "same": lambda: [X + X, X * LAST, LAST + LAST, X.transpose(1, 2) + X.transpose(1, 2)],
    "gates": lambda: [X * torch.rand(2, 6, 1, 1), torch.rand(2, 6, 1, 1) * X, LAST * torch.rand(2, 6, 1, 1)],
    "vectors": lambda: [TOKENS * torch.rand(6), torch.rand(6) + TOKENS, X * torch.rand(6, 1, 1), X - torch.rand(())],
    "vectors_of_strided": lambda: [TOKENS.transpose(1, 2) * torch.rand(7), X[..., ::2] * torch.rand(2)],
    "spread_both_ways": lambda: [torch.rand(2, 1) * torch.rand(1, 3), torch.rand(4, 1, 3) + torch.rand(2, 1)],
    "other_dtypes": lambda: [X.double() * X.double(), X.half() + X.half(), X * torch.rand(6, 1, 1).double()],
    "in_place": lambda: [X.clone().add_(1), X.clone().mul_(torch.rand(6, 1, 1)), F.relu_(X.clone())],
    "cat": lambda: [torch.cat([X, X], 1), torch.cat([X, X[:, :2].contiguous()], -3), torch.cat([LAST, LAST], 1)],
    "cat_of_other": lambda: [torch.cat([X, X.double()], 0), torch.cat([X.transpose(1, 2), X.transpose(1, 2)])],
    "roll": lambda: [torch.roll(X, (1, 2), (2, 3)), torch.roll(LAST, 1, 1), torch.roll(X, 3)],
    "masked_fill": lambda: [X.masked_fill(X > 0.5, 0.0), TOKENS.masked_fill(torch.ones(7, 1) > 0, -1.0)],
    "masked_fill_of_other": lambda: [LAST.masked_fill(LAST > 0.5, 0.0), torch.rand(5, 1).masked_fill(X[0, 0] > 0, 1.0)],
    "norms": lambda: [
        F.batch_norm(X, torch.zeros(6), torch.ones(6)),
        F.batch_norm(LAST, torch.zeros(6), torch.ones(6), torch.ones(6), torch.zeros(6), training=True),
        F.layer_norm(TOKENS, (6,), torch.ones(6), torch.zeros(6)),
    ],
    "means": lambda: [X.mean((2, 3)), X.mean((2, 3), keepdim=True), X.mean(1), X.mean((-1,))],
    "products": lambda: [F.linear(TOKENS, torch.rand(3, 6), torch.rand(3)), TOKENS @ TOKENS.transpose(1, 2)],
    "softmax": lambda: [TOKENS.softmax(-1), X.softmax(1)],
    "convolutions": lambda: [
        F.conv2d(X, torch.rand(4, 6, 3, 3), torch.rand(4), stride=2, padding=1),
        F.conv2d(X, torch.rand(6, 2, 3, 1), groups=3, padding=(1, 0), dilation=(2, 1)),
        F.conv1d(TOKENS, torch.rand(4, 7, 3)),
        F.conv_transpose2d(X, torch.rand(6, 3, 2, 2), stride=2),
    ],
    "interpolation": lambda: [
        F.interpolate(X, (9, 3), mode=mode) for mode in ("bilinear", "nearest")
    ] + [F.interpolate(LAST, (9, 3), mode="bilinear")],
}  # fmt: skip


@pytest.mark.parametrize("calls", CALLS)
def test_a_rule_gives_what_the_kernel_gives(calls: str) -> None:
    with torch.no_grad(), Compared():
        CALLS[calls]()


def test_the_calls_above_reach_the_rules() -> None:
    SEEN.clear()
    with torch.no_grad(), Compared():
        for calls in CALLS.values():
            calls()
    expected = {"add", "mul", "sub", "div", "cat", "roll", "masked_fill", "convolution", "mean", "_softmax", "addmm"}
    assert expected | {"native_layer_norm", "bmm", "relu", "upsample_bilinear2d"} <= SEEN


@pytest.mark.parametrize("settings", [{}, {"is_causal": True}, {"dropout_p": 0.0, "attn_mask": None}, {"scale": 0.3}])
def test_attention_has_the_shape_of_the_queries_and_the_width_of_the_values(settings: dict[str, Any]) -> None:
    query, key, value = torch.rand(2, 3, 5, 4), torch.rand(2, 3, 7, 4), torch.rand(2, 3, 7, 6)
    told = attention_on_shapes(*(tensor.to("meta") for tensor in (query, key, value)), **settings)
    assert told is not None
    assert told.shape == F.scaled_dot_product_attention(query, key, value, **settings).shape


@pytest.mark.parametrize("call", [
    lambda q: attention_on_shapes(q, q, q, torch.ones(5, 5, device="meta")),
    lambda q: attention_on_shapes(q, q, q, attn_mask=torch.ones(5, 5, device="meta")),
    lambda q: attention_on_shapes(q, q[:, :1], q[:, :1], enable_gqa=True),
    lambda q: attention_on_shapes(q, q[..., :3], q),
])  # fmt: skip
def test_attention_that_may_not_fit_is_left_to_the_kernel(call: Callable[[Tensor], Tensor | None]) -> None:
    assert call(torch.empty(2, 3, 5, 4, device="meta")) is None


@pytest.mark.parametrize(("name", "args"), [
    ("mul", (torch.rand(2, 3), torch.rand(2, 4))),
    ("cat", ([torch.rand(2, 3), torch.rand(4, 5)], 0)),
    ("addmm", (torch.rand(3), torch.rand(2, 4), torch.rand(5, 3))),
    ("convolution", (X, torch.rand(4, 5, 3, 3), None, [1], [0], [1], False, [0], 1)),
    ("masked_fill", (torch.rand(2, 3), torch.ones(2, 4) > 0, 0.0)),
])  # fmt: skip
def test_what_does_not_fit_together_is_left_to_the_kernel_which_says_so(name: str, args: Any) -> None:
    assert result_on_shapes(name, torch.utils._pytree.tree_map_only(Tensor, _on_meta, args)) is None
