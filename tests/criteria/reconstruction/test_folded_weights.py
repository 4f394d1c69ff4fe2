"""Factors and constants put into weights do what they do to the activations; which norm stands right behind a layer."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.criteria.reconstruction import NormsBehind, add_constant, fold
from secateur.errors import UsageError

LAYERS = {
    "strided": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 7, 7)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, bias=False), (2, 4, 7, 7)),
    "reflected": (nn.Conv1d(4, 2, 3, padding=1, padding_mode="reflect"), (2, 4, 7)),
    "linear": (nn.Linear(4, 3), (2, 5, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_folded_weights_scale_what_the_layer_reads(name: str) -> None:
    layer, shape = LAYERS[name]
    layer, reads = copy.deepcopy(layer).double(), torch.randn(shape, dtype=torch.float64)
    axis = -1 if isinstance(layer, nn.Linear) else 1
    units, weights = np.array([1, 0, -1, 1]), torch.tensor([-0.5, 3.0], dtype=torch.float64)
    factors = torch.tensor([3.0, -0.5, 1.0, 3.0], dtype=torch.float64)
    with torch.no_grad():
        expected = layer((reads.movedim(axis, -1) * factors).movedim(-1, axis))
        fold(layer, units, weights)
        torch.testing.assert_close(layer(reads), expected)


def test_weights_of_some_units_leave_the_others_alone() -> None:
    layer = nn.Linear(3, 1, bias=False)
    before = layer.weight.detach().clone()
    fold(layer, np.arange(3), torch.tensor([2.0]), kept=[1])
    torch.testing.assert_close(layer.weight.detach(), before * torch.tensor([1.0, 2.0, 1.0]))


def test_a_constant_goes_to_the_bias_or_lowers_the_running_mean_behind() -> None:
    constant, reads = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.randn(3, 4, 5, 5)
    for bias in (True, False):
        layer, norm = nn.Conv2d(4, 2, 3, bias=bias), nn.BatchNorm2d(2).eval()
        with torch.no_grad():
            expected = norm(layer(reads) + constant.float()[:, None, None])
            assert add_constant(layer, constant, norm)
            torch.testing.assert_close(norm(layer(reads)), expected)
            assert bool(norm.running_mean.any()) is not bias
    assert not add_constant(nn.Conv2d(4, 2, 3, bias=False), constant)


class Behind(nn.Module):
    """Norms right behind a layer, behind an in-place ReLU, behind two layers, and a layer without any."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three, self.four, self.five = (nn.Conv2d(2, 2, 1) for _ in range(5))
        self.right, self.late, self.shared = (nn.BatchNorm2d(2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.right(self.one(x))
        x = self.late(self.two(x).relu_())
        x = self.shared(self.three(x)) + self.shared(self.four(x))
        return self.five(x)


def test_a_norm_counts_only_right_behind_one_layer() -> None:
    model = Behind().eval()
    with NormsBehind(model, ["one", "two", "three", "four", "five"]) as norms:
        model(torch.randn(2, 2, 3, 3))
    assert norms.found() == {"one": "right"}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_cannot_be_folded_is_refused() -> None:
    with pytest.raises(UsageError, match="reads 4 channels, but units are given for 3"):
        fold(nn.Conv2d(4, 2, 1), np.arange(3), torch.ones(3))
    with pytest.raises(UsageError, match=r"4 units need a weight, but weights has shape \(3,\)"):
        fold(nn.Conv2d(4, 2, 1), np.arange(4), torch.ones(3))
    with pytest.raises(UsageError, match="not into a ReLU"):
        fold(nn.ReLU(), np.arange(4), torch.ones(4))
