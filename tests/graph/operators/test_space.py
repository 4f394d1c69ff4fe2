"""Operators over space, and element by element: resizing, sampling, ordering, transforms, regions."""

import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from matrix import Between, Function, prove, reason
from torch import Tensor, nn

from secateur.torchvision_shim import import_torchvision

SPACE: dict[str, Function] = {
    "area": lambda m, x: F.interpolate(x, 5, mode="area"),
    "antialiased": lambda m, x: F.interpolate(x, 5, mode="bicubic", antialias=True),
    "adaptive": lambda m, x: F.adaptive_avg_pool2d(x, (3, None)) + F.adaptive_max_pool2d(x, (3, 8)),
    "unpooled": lambda m, x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "unpooled in a volume": lambda m, x: F.max_unpool3d(
        *F.max_pool3d(x.unsqueeze(2), (1, 2, 2), return_indices=True), (1, 2, 2)).squeeze(2),
    "sampled": lambda m, x: F.grid_sample(x, F.affine_grid(
        torch.eye(2, 3, device=x.device, dtype=x.dtype).expand(x.shape[0], 2, 3), [x.shape[0], 1, 4, 4],
        align_corners=False), align_corners=False),
    "sampled in a volume": lambda m, x: F.grid_sample(
        x.unsqueeze(2), torch.zeros(2, 1, 4, 4, 3, device=x.device, dtype=x.dtype), align_corners=False).squeeze(2),
    "power pooling": lambda m, x: F.lp_pool2d(x, 2, 2),
    "dropouts": lambda m, x: F.dropout2d(F.alpha_dropout(F.feature_alpha_dropout(x, 0.1), 0.1), 0.5, False),
    "running extremes": lambda m, x: x.cummax(2)[0] + x.cummin(-1)[0] + x.logcumsumexp(2) + x.cumsum(3),
    "order statistics": lambda m, x: x * x.kthvalue(2, dim=-1, keepdim=True)[0] + x.topk(8, -1)[0]
    + x.mode(-1, keepdim=True)[0],
    "counts": lambda m, x: x * x.count_nonzero((2, 3))[..., None, None] + torch.bucketize(
        x, torch.tensor([0.1, 0.5], device=x.device)),
    "sums without nan": lambda m, x: x * x.nansum((2, 3), keepdim=True) + x.nanmean((2, 3), keepdim=True)
    + x.nanmedian(-1, keepdim=True)[0],
    "extremes": lambda m, x: x * torch.aminmax(x, dim=3, keepdim=True)[0],
    "sum over channels without nan": lambda m, x: x * x.nansum(1, keepdim=True),
    "differences": lambda m, x: x.diff(dim=-1) + torch.trapezoid(x, dim=-1).unsqueeze(-1),
    "fourier filter": lambda m, x: torch.fft.irfft2(torch.fft.rfft2(x) * 2, s=(8, 8)),
    "spectrum": lambda m, x: torch.fft.fft2(x).abs() + torch.fft.ifft(x, dim=2).real,
    "spectrum as pairs": lambda m, x: torch.view_as_real(torch.fft.rfft2(x)).sum(-1),
    "pairs as complex numbers": lambda m, x: torch.view_as_complex(torch.stack([x, x * 2], -1)).abs(),
    "global filter": lambda m, x: torch.fft.irfft2(
        torch.fft.rfft2(x) * torch.complex(m.vector, m.vector).view(-1, 1, 1), s=(8, 8)),
    "polar": lambda m, x: torch.polar(x, x).angle() + torch.complex(x, x).imag,
}  # fmt: skip


@pytest.mark.parametrize("name", SPACE)
def test_over_space(name: str) -> None:
    prove(Between(SPACE[name]), "a")


LOCKED: dict[str, tuple[Function, str]] = {
    "transform of channels": (lambda m, x: torch.fft.fft(x, dim=1).abs(), "transformed along channels"),
    "running maximum of channels": (lambda m, x: x.cummax(1)[0], "ordered along channels"),
    "order statistic of channels": (lambda m, x: x * x.kthvalue(2, dim=1, keepdim=True)[0], "reduced across channels"),
}  # fmt: skip


@pytest.mark.parametrize("name", LOCKED)
def test_over_channels(name: str) -> None:
    function, expected = LOCKED[name]
    assert expected in reason(Between(function))


def test_boundaries_stay() -> None:
    model = Between(lambda m, x: x * torch.bucketize(x, m.vector))
    assert "used as boundaries" in reason(model, "vector")


def test_channels_read_as_real_and_imaginary_parts_stay() -> None:
    def paired(m: Any, x: Tensor) -> Tensor:
        return torch.view_as_complex(m.layers[0](x.permute(0, 2, 3, 1)).contiguous()).abs().unsqueeze(1)

    assert "used as real and imaginary part" in reason(Between(paired, nn.Linear(8, 2)), "layers.0")


def test_element_by_element() -> None:
    def chain(m: Any, x: Tensor) -> Tensor:
        total = torch.heaviside(x - 0.5, x) + torch.xlogy(x, x + 1) + torch.hypot(x, x) + torch.copysign(x, x - 1)
        total = total + torch.logaddexp(x, x) + torch.logaddexp2(x, x) + torch.float_power(x, 2).to(x.dtype)
        total = total + torch.special.i0(x) + torch.lgamma(x + 1) + torch.digamma(x + 1) + torch.sinc(x)
        total = total + torch.asinh(x) + torch.acosh(x + 1) + torch.atanh(x.clamp(0, 0.5)) + torch.deg2rad(x)
        total = total + torch.polygamma(1, x + 1) + torch.rad2deg(x) + torch.isclose(x, x) + torch.signbit(x - 1)
        total = total + torch.special.entr(x) + torch.special.erfcx(x) + torch.special.i1e(x) + torch.igamma(x, x)
        total = total + torch.special.ndtri(x.sigmoid()) + torch.special.log_ndtr(x) + torch.special.xlog1py(x, x)
        total = total + torch.isposinf(x) + torch.nextafter(x, x + 1) + torch.bitwise_left_shift(x.int(), 1)
        return total.clamp(torch.zeros_like(x), m.vector.view(-1, 1, 1) * 90)

    prove(Between(chain), "a")


def test_regions_of_interest() -> None:
    import_torchvision()
    if hasattr(torch.ops.torchvision, "roi_align"):
        declared = None
    else:  # torchvision's own kernel in plain torch, under the name of the compiled one
        declared = torch.library.Library("torchvision", "FRAGMENT")
        declared.define(
            "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
            "int sampling_ratio, bool aligned) -> Tensor"
        )
        plain = importlib.import_module("torchvision.ops.roi_align")._roi_align
        declared.impl("roi_align", plain, "CompositeExplicitAutograd")

    def regions(m: Any, x: Tensor) -> Tensor:
        rois = torch.tensor([[0.0, 1, 1, 6, 6], [1.0, 0, 2, 5, 7]], device=x.device, dtype=x.dtype)
        return torch.ops.torchvision.roi_align(x, rois, 1.0, 3, 3, 2, False)

    try:
        prove(Between(regions), "a")
    finally:
        if declared is not None:
            declared._destroy()
