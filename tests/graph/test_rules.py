"""A law over the table of rules: every row is element-wise, or has a cut here that is exact, locked or approximate."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cutting import assert_exact, images
from torch import Tensor, nn

from secateur.graph import apply, trace, verify
from secateur.graph.flow import Flow
from secateur.graph.rules import RULES, elementwise, rule_for

WIDTH = 6


class Through(nn.Module):
    """Convolution, the operators under test, whatever comes out, convolution over its channels."""

    def __init__(self, function: Callable[..., Tensor], after: int, inference: bool) -> None:
        super().__init__()
        self.a, self.out = nn.Conv2d(3, WIDTH, 1), nn.Conv2d(after, 2, 1)
        self.vector = nn.Parameter(torch.rand(WIDTH) + 0.5)
        self.square = nn.Parameter(torch.rand(WIDTH, WIDTH))
        self.register_buffer("mean", torch.rand(WIDTH))
        self.register_buffer("var", torch.rand(WIDTH) + 0.5)
        self.function, self.inference = function, inference

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x)) + 0.1
        if self.inference:
            with torch.inference_mode():
                return self.out(self.function(self, x))
        return self.out(self.function(self, x))


def flat(x: Tensor) -> Tensor:
    return x.flatten(2)


def back(x: Tensor, size: int = 8) -> Tensor:
    return x.unflatten(2, (size, -1))


def sampling_grid(x: Tensor, rank: int) -> Tensor:
    return torch.zeros(2, *(1, 4, 4)[3 - rank :], rank, device=x.device, dtype=x.dtype) + 0.2


def norm_call(operator: Any, *, legit: bool = False) -> Callable[..., Tensor]:
    def call(m: Any, x: Tensor) -> Tensor:
        return operator(x, m.vector, m.vector, m.mean, m.var, *(() if legit else (False,)), 0.1, 1e-5)[0]

    return call


aten = torch.ops.aten
Case = tuple[Callable[..., Tensor], int, str]
EXACT = {
    # convolutions and products
    "convolution": lambda m, x: x,
    "mm": lambda m, x: (x.permute(0, 2, 3, 1).flatten(0, 2) @ m.square).view(2, 8, 8, -1).permute(0, 3, 1, 2),
    "bmm": lambda m, x: back(flat(x) @ (flat(x).transpose(1, 2) @ flat(x))),
    "mv": lambda m, x: x * (m.square @ m.vector).view(-1, 1, 1),
    "dot": lambda m, x: x * torch.dot(m.vector, m.vector),
    "vdot": lambda m, x: x * torch.vdot(m.vector, m.vector),
    "_cdist_forward": lambda m, x: x * torch.cdist(flat(x).mT, flat(x).mT, p=1.0)[:, :1, 1:2, None],
    "_euclidean_dist": lambda m, x: x * torch.cdist(flat(x).mT, flat(x).mT)[:, :1, 1:2, None],
    "scaled_dot_product_attention": lambda m, x: back(
        F.scaled_dot_product_attention(flat(x).mT, flat(x).mT, flat(x).mT, scale=0.3).mT),
    "_weight_norm_interface": lambda m, x: x * torch._weight_norm(m.square, m.vector.view(-1, 1))[:, :1].unsqueeze(-1),
    "addmm": lambda m, x: F.linear(x.permute(0, 2, 3, 1).reshape(128, -1), m.square, m.vector)
    .view(2, 8, 8, -1)
    .permute(0, 3, 1, 2),
    "baddbmm": lambda m, x: back(torch.baddbmm(flat(x), flat(x) @ flat(x).transpose(1, 2), flat(x), alpha=0.1)),
    "addmv": lambda m, x: x * torch.addmv(m.vector, m.square, m.vector).view(-1, 1, 1),
    # normalisation per channel
    "native_batch_norm": norm_call(aten.native_batch_norm),
    "_native_batch_norm_legit": norm_call(aten._native_batch_norm_legit),
    "_native_batch_norm_legit_no_training": norm_call(aten._native_batch_norm_legit_no_training, legit=True),
    "_batch_norm_no_update": lambda m, x: aten._batch_norm_no_update(
        x, m.vector, m.vector, m.mean, m.var, 0.1, 1e-5)[0],
    "_softmax": lambda m, x: x.softmax(-1),
    "_log_softmax": lambda m, x: x.log_softmax(2),
    "glu": lambda m, x: F.glu(torch.cat([x, x], 1), 1),
    # views and other movements
    "view": lambda m, x: x.view(2, -1, 64).view(2, -1, 8, 8),
    "_unsafe_view": lambda m, x: aten._unsafe_view(x, [2, x.shape[1], 64]).view(x.shape),
    "_reshape_alias": lambda m, x: aten._reshape_alias(
        x, [2, x.shape[1], 64], [64 * x.shape[1], 64, 1]).view(x.shape),
    "view_copy": lambda m, x: aten.view_copy(x, [2, x.shape[1], 64]).view(x.shape),
    "permute": lambda m, x: x.permute(0, -1, 1, 2).permute(0, 2, 3, 1),
    "transpose": lambda m, x: x.transpose(-3, 3).transpose(dim0=3, dim1=1),
    "t": lambda m, x: x * (m.square.t() @ m.vector).view(-1, 1, 1),
    "squeeze": lambda m, x: aten.squeeze.dims(x.unsqueeze(2).unsqueeze(0), [0, 3]),
    "unsqueeze": lambda m, x: x.unsqueeze(-4).squeeze(-4) + m.vector.unsqueeze(-1).unsqueeze(-1),
    "expand": lambda m, x: x + m.vector.view(1, -1, 1, 1).expand_as(x) + m.vector.view(-1, 1, 1).expand(2, -1, -1, 8),
    "repeat": lambda m, x: x.repeat(1, 1, 2, 1)[:, :, ::2],
    "flip": lambda m, x: x.flip(-3, 2).flip((1,)),
    "constant_pad_nd": lambda m, x: F.pad(x, (1, 0, 0, 1), value=2.0),
    **{
        f"{kind}_pad{n}d": partial(lambda m, x, pads, mode, rank: F.pad(
            x if rank == 2 else x.flatten(2) if rank == 1 else x.unsqueeze(2), pads, mode=mode
        ).flatten(2).unsqueeze(-1), pads=(1,) * (2 * n), mode=mode, rank=n)
        for kind, mode in (("reflection", "reflect"), ("replication", "replicate"))
        for n in (1, 2, 3) if (kind, n) != ("reflection", 3)
    },
    "reflection_pad3d": lambda m, x: F.pad(x.view(2, -1, 2, 4, 8), (1,) * 6, mode="reflect").flatten(2).unsqueeze(-1),
    "pixel_shuffle": lambda m, x: F.pixel_shuffle(torch.stack([x, x, -x, x * 2], 2).flatten(1, 2), 2),
    "channel_shuffle": lambda m, x: F.channel_shuffle(x, 2),
    "im2col": lambda m, x: F.unfold(x, 3).unsqueeze(-1),
    "col2im": lambda m, x: F.fold(F.unfold(x, 3, padding=1), (8, 8), 3, padding=1),
    "_fft_r2c": lambda m, x: torch.fft.rfft(x).abs(),
    "_fft_c2r": lambda m, x: torch.fft.irfft2(torch.fft.rfft2(x) * 2, s=(8, 8)),
    "_fft_c2c": lambda m, x: torch.fft.fft2(x).abs(),
    "view_as_real": lambda m, x: torch.view_as_real(torch.fft.rfft(x)).sum(-1),
    "view_as_complex": lambda m, x: torch.view_as_complex(torch.stack([x, x], -1)).abs(),
    "gather": lambda m, x: x.gather(2, x.argsort(2)),
    "scatter": lambda m, x: torch.zeros_like(x).scatter(2, x.argsort(2), x),
    "scatter_add": lambda m, x: x.scatter_add(2, x.argsort(2), x),
    "scatter_reduce": lambda m, x: x.scatter_reduce(2, x.argsort(2), x, "amax"),
    "index_put": lambda m, x: x.clone().index_put_((torch.tensor([0], device=x.device),), x[1:] * 2),
    "index_add": lambda m, x: x.index_add(2, torch.tensor([0], device=x.device), x[:, :, :1]),
    "index_copy": lambda m, x: x.index_copy(2, torch.tensor([0], device=x.device), x[:, :, 1:2]),
    "index_fill": lambda m, x: x.index_fill(2, torch.tensor([0], device=x.device), 0.5),
    "bucketize": lambda m, x: x * torch.bucketize(x, torch.tensor([0.1, 0.5], device=x.device)),
    "max_unpool2d": lambda m, x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "max_unpool3d": lambda m, x: F.max_unpool3d(
        *F.max_pool3d(x.unsqueeze(2), (1, 2, 2), return_indices=True), (1, 2, 2)).squeeze(2),
    "grid_sampler_2d": lambda m, x: F.grid_sample(x, sampling_grid(x, 2), align_corners=False),
    "grid_sampler_3d": lambda m, x: F.grid_sample(x.unsqueeze(2), sampling_grid(x, 3), align_corners=False).squeeze(2),
    "pixel_unshuffle": lambda m, x: F.pixel_shuffle(F.pixel_unshuffle(x, 2), 2),
    # joining and taking apart
    "cat": lambda m, x: torch.cat([x, x * 2], -1),
    "stack": lambda m, x: torch.stack([x, x * 2], -1).sum(-1),
    "split": lambda m, x: x.split(4, dim=2)[1],
    "split_with_sizes": lambda m, x: x.split([3, 5], -1)[0],
    "unsafe_split": lambda m, x: torch.unsafe_split(x, 4, 2)[1],
    "unsafe_split_with_sizes": lambda m, x: aten.unsafe_split_with_sizes(x, [3, 5], 2)[1],
    "slice": lambda m, x: x[:, :, 1:7:2, -3:],
    "select": lambda m, x: x[..., -1].unsqueeze(-1),
    "unbind": lambda m, x: torch.stack(x.unbind(-1), 2),
    "index_select": lambda m, x: x.index_select(-1, torch.arange(3, device=x.device)),
    "index": lambda m, x: x[:, :, torch.arange(3, device=x.device)],
    "embedding": lambda m, x: x + F.embedding(
        torch.ones(8, dtype=torch.int64, device=x.device), m.square).t().unsqueeze(-1),
    # reductions over space
    "sum": lambda m, x: x * x.sum((-1, 2), keepdim=True) * x.sum(1, keepdim=True),
    "mean": lambda m, x: x * x.mean(-1, keepdim=True),
    "amax": lambda m, x: x * x.amax((2, 3), True),
    "amin": lambda m, x: x * x.amin(-1, True),
    "max": lambda m, x: x.max(-1, keepdim=True)[0] + x.maximum(x),
    "min": lambda m, x: x.min(2)[0].unsqueeze(-1),
    "var": lambda m, x: x.var(-1, unbiased=False, keepdim=True),
    "std": lambda m, x: x.std((2, 3), keepdim=True),
    "var_mean": lambda m, x: sum(torch.var_mean(x, (2, 3), keepdim=True)),
    "std_mean": lambda m, x: sum(torch.std_mean(x, (2, 3), keepdim=True)),
    "prod": lambda m, x: x.prod(-1, keepdim=True),
    "any": lambda m, x: x * (x > 0.5).any(-1, keepdim=True),
    "all": lambda m, x: x * (x > 0.05).all(-1, keepdim=True),
    "argmax": lambda m, x: x * x.argmax(-1, keepdim=True),
    "argmin": lambda m, x: x * x.argmin(2, True),
    "logsumexp": lambda m, x: x.logsumexp((2, 3), keepdim=True),
    "median": lambda m, x: x.median(-1)[0].unsqueeze(-1),
    "linalg_vector_norm": lambda m, x: torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True),
    "nansum": lambda m, x: x * x.nansum((2, 3), keepdim=True) * x.nansum(1, keepdim=True),
    "nanmedian": lambda m, x: x * x.nanmedian(-1, keepdim=True)[0],
    "mode": lambda m, x: x + x.mode(-1, keepdim=True)[0],
    "kthvalue": lambda m, x: x * x.kthvalue(2, dim=-1, keepdim=True)[0],
    "aminmax": lambda m, x: x * torch.aminmax(x, dim=3, keepdim=True)[1],
    "count_nonzero": lambda m, x: x * x.count_nonzero((2, 3))[..., None, None],
    "cummax": lambda m, x: x.cummax(-1)[0],
    "cummin": lambda m, x: x.cummin(2)[0],
    "logcumsumexp": lambda m, x: x.logcumsumexp(-1),
    "norm": lambda m, x: aten.norm.ScalarOpt_dim(x, 2, [2, 3], True),
    "sort": lambda m, x: x.sort(-1, descending=True)[0] + x.sort(stable=True)[0],
    "topk": lambda m, x: x.topk(2)[0] + x.topk(2, -1)[0],
    "cumsum": lambda m, x: x.cumsum(-1),
    "cumprod": lambda m, x: x.cumprod(2),
    # filling and copying
    "copy": lambda m, x: torch.zeros_like(x).copy_(x * 2),
    "_prelu_kernel": lambda m, x: F.prelu(x - 0.5, m.vector),
    "native_dropout": lambda m, x: torch.native_dropout(x, 0.5, False)[0],
    "log_sigmoid_forward": lambda m, x: F.logsigmoid(x),
    **{
        name: partial(lambda m, x, name: x * 2 + getattr(x, name)((1, 1, 8, 8), *([1.0] if name == "new_full" else []))
                      [:, :1, :1, :1].sum(1, keepdim=True).sum() * 0.0, name=name)
        for name in ("new_zeros", "new_ones", "new_full")
    },
    "new_empty": lambda m, x: x.new_empty(()).fill_(2.0) * x,
    "new_empty_strided": lambda m, x: x.new_empty_strided((), ()).fill_(2.0) * x,
    # pooling and resizing
    **{
        f"upsample_nearest{n}d": partial(lambda m, x, n: F.interpolate(
            (flat(x), x, x.unsqueeze(2))[n - 1], scale_factor=2).flatten(2).unsqueeze(-1), n=n) for n in (1, 2, 3)
    },
    **{
        f"_upsample_nearest_exact{n}d": partial(lambda m, x, n: F.interpolate(
            (flat(x), x, x.unsqueeze(2))[n - 1], scale_factor=2, mode="nearest-exact").flatten(2).unsqueeze(-1), n=n)
        for n in (1, 2, 3)
    },
    "upsample_linear1d": lambda m, x: F.interpolate(flat(x), scale_factor=2, mode="linear").unsqueeze(-1),
    "upsample_bilinear2d": lambda m, x: F.interpolate(x, size=(5, 7), mode="bilinear"),
    "upsample_bicubic2d": lambda m, x: F.interpolate(x, size=5, mode="bicubic"),
    "_upsample_bilinear2d_aa": lambda m, x: F.interpolate(x, size=5, mode="bilinear", antialias=True),
    "_upsample_bicubic2d_aa": lambda m, x: F.interpolate(x, size=5, mode="bicubic", antialias=True),
    "upsample_trilinear3d": lambda m, x: F.interpolate(x.unsqueeze(2), scale_factor=2, mode="trilinear").sum(2),
    "avg_pool2d": lambda m, x: F.avg_pool2d(x, 2),
    "_adaptive_avg_pool2d": lambda m, x: F.adaptive_avg_pool2d(x, 3),
    "max_pool2d_with_indices": lambda m, x: F.max_pool2d(x, 3, 2, 1),
    "adaptive_max_pool2d": lambda m, x: F.adaptive_max_pool2d(x, 3),
    "avg_pool3d": lambda m, x: F.avg_pool3d(x.unsqueeze(2), (1, 2, 2))[:, :, 0],
    "_adaptive_avg_pool3d": lambda m, x: F.adaptive_avg_pool3d(x.unsqueeze(2), (1, 3, 2))[:, :, 0],
    "max_pool3d_with_indices": lambda m, x: F.max_pool3d(x.unsqueeze(2), (1, 2, 2))[:, :, 0],
    "adaptive_max_pool3d": lambda m, x: F.adaptive_max_pool3d(x.unsqueeze(2), (1, 3, 2))[:, :, 0],
}  # fmt: skip

# Composite operators: they arrive whole where the model's own code is in inference mode.
WHOLE = {
    "native_channel_shuffle": lambda m, x: torch.native_channel_shuffle(x, 2),
    "argsort": lambda m, x: x * x.argsort(-1, True),
    "reshape": lambda m, x: x.reshape(2, -1, 64).reshape(2, -1, 8, 8),
    "unflatten": lambda m, x: flat(x).unflatten(-1, (8, 8)),
    "chunk": lambda m, x: x.chunk(2, -1)[0],
    "contiguous": lambda m, x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "prelu": lambda m, x: torch.prelu(x - 0.5, m.vector),
    "avg_pool1d": lambda m, x: F.avg_pool1d(flat(x), 2).unsqueeze(-1),
    "adaptive_avg_pool1d": lambda m, x: F.adaptive_avg_pool1d(flat(x), 4).unsqueeze(-1),
    "adaptive_max_pool1d": lambda m, x: F.adaptive_max_pool1d(flat(x), 4).unsqueeze(-1),
    "max_pool1d": lambda m, x: F.max_pool1d(flat(x), 2).unsqueeze(-1),
    "max_pool1d_with_indices": lambda m, x: F.max_pool1d(flat(x), 2, return_indices=True)[0].unsqueeze(-1),
    "adaptive_avg_pool2d": lambda m, x: F.adaptive_avg_pool2d(x, 3),
    "max_pool2d": lambda m, x: F.max_pool2d(x, 2),
    "std": lambda m, x: x.std(-1, True).unsqueeze(-1),
    "var": lambda m, x: x.var(-1).unsqueeze(-1) + x.var(2, True, True),
}
EXACT |= {
    "add": lambda m, x: x + 2 * x,
    "sub": lambda m, x: x - x.sigmoid(),
    "rsub": lambda m, x: torch.rsub(x, x.sigmoid()),
}
APPROXIMATE = {
    "native_layer_norm": lambda m, x: F.layer_norm(x.transpose(1, 3), (x.shape[1],), m.vector).transpose(1, 3),
    "native_group_norm": lambda m, x: F.group_norm(x, 1, m.vector, m.vector),
}
# Kernels of other devices, and one that chooses its windows at random; they share a rule with a row that is tested.
ELSEWHERE = {
    "cudnn_batch_norm": "native_batch_norm",
    "miopen_batch_norm": "native_batch_norm",
    "_batch_norm_with_update": "native_batch_norm",
    "mkldnn_max_pool2d": "max_pool2d",
    "fractional_max_pool2d": "max_pool2d",
    "convolution_overrideable": "convolution",
    "torchvision::roi_pool": "torchvision::roi_align",
}
# Operators of another library, cut in the matrix beside this file (operators/test_space.py).
OF_TORCHVISION = {"torchvision::roi_align"}


def operators_seen(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    seen: set[str] = set()
    original = Flow.see

    def see(self: Any, func: Any, name: str, *rest: Any, **named: Any) -> Any:
        seen.add(name)
        return original(self, func, name, *rest, **named)

    monkeypatch.setattr(Flow, "see", see)
    return seen


def channels_after(function: Callable[..., Tensor]) -> int:
    probe = Through(function, WIDTH, False)
    with torch.no_grad():
        return int(function(probe, torch.rand(2, WIDTH, 8, 8)).shape[1])


@pytest.mark.parametrize("name", EXACT)
def test_a_cut_through_this_operator_is_exact(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = operators_seen(monkeypatch)
    model = Through(EXACT[name], channels_after(EXACT[name]), inference=False)
    graph, _, _ = assert_exact(model, images())
    assert name in seen, seen
    assert not graph.unknown_ops


@pytest.mark.parametrize("name", WHOLE)
def test_a_cut_through_this_whole_operator_is_exact(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = operators_seen(monkeypatch)
    model = Through(WHOLE[name], channels_after(WHOLE[name]), inference=True)
    graph, _, _ = assert_exact(model, images())
    assert not graph.unknown_ops
    assert name in seen


@pytest.mark.parametrize("name", APPROXIMATE)
def test_an_operator_across_channels_is_approximate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = operators_seen(monkeypatch)
    model = Through(APPROXIMATE[name], WIDTH, inference=False).eval()
    graph = trace(model, images())
    assert name in seen
    assert graph.group("a").approximate is not None
    plan = graph.plan({"a": [0, 2, 3]}, allow_approximate=True)
    proof = verify(model, apply(model, plan, verify_with=None), plan, images())
    assert proof.verdict == "approximate", proof.sentence()


def test_every_row_of_the_table_has_a_cut() -> None:
    plain = {name for name, rule in RULES.items() if rule is elementwise.elementwise}
    tested = {*EXACT, *WHOLE, *APPROXIMATE, *ELSEWHERE, *OF_TORCHVISION}
    assert set(RULES) - plain - tested == set()
    assert all(RULES[one] is RULES[other] for one, other in ELSEWHERE.items())
    assert set(ELSEWHERE) <= set(RULES)


ONE = """abs neg exp log sqrt rsqrt square sin cos tanh sigmoid relu relu6 hardtanh hardswish hardsigmoid silu mish
gelu elu selu celu leaky_relu softplus softshrink hardshrink log_sigmoid erf reciprocal sign floor ceil round trunc
frac log1p expm1 exp2 log2 log10 nan_to_num positive clone"""


def test_element_wise_operators_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def chain(m: Any, x: Tensor) -> Tensor:
        total = x * 0
        for name in ONE.split():
            function = getattr(torch, name, None) or getattr(F, name, None) or getattr(F, name.replace("log_s", "logs"))
            total = total + torch.tanh(function(x + 0.5))
        total = torch.where(x > 0.3, total, -x).masked_fill(x > 2, 0.5).clamp(-4, 4)
        total = torch.lerp(total, x, 0.3).addcmul(x, m.vector.view(-1, 1, 1), value=0.1).addcdiv(x, x + 1)
        total = torch.maximum(total, x).minimum(x * 3) ** 2 % 7 + torch.atan2(x, x + 1) - torch.rsub(x, 2)
        total.add_(x).mul_(m.vector[:, None, None]).clamp_(-50, 50)
        total += (x.ge(0.2) & ~x.lt(0.1) | x.eq(3)).to(x.dtype)
        return total.half().float() if x.dtype == torch.float16 else total

    seen = operators_seen(monkeypatch)
    assert_exact(Through(chain, WIDTH, inference=False), images())
    assert len(seen & {name for name, rule in RULES.items() if rule is elementwise.elementwise}) > 50


def test_names_of_operators_are_matched_exactly() -> None:
    assert rule_for(torch.ops.aten.add_.Tensor)[0] == "add"
    assert rule_for(torch.ops.aten._softmax.default)[1] is RULES["_softmax"]
    assert rule_for(torch.ops.aten.native_batch_norm.default)[1] is RULES["native_batch_norm"]
    assert rule_for(torch.ops.aten.renorm.default)[1] is None
