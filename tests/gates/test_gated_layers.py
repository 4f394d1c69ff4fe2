"""Gated layers by hand: the take-over, its limits, and what a gate's gradient is."""

import copy

import pytest
import torch
from torch import Tensor, nn

from secateur.gates import GatedConv, GatedNorm
from secateur.gates.norm import SHIFT_LIMIT


def filled(norm: nn.Module, *, seed: int = 0) -> nn.Module:
    """Give a norm scales of both signs, biases within the limit, and statistics of its own."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        count = norm.weight.numel()
        norm.weight.copy_(
            torch.empty(count).uniform_(0.2, 2.0, generator=draws) * torch.tensor([1.0, -1.0] * count)[:count]
        )
        norm.bias.copy_(torch.empty(count).uniform_(-1.0, 1.0, generator=draws))
        if getattr(norm, "running_mean", None) is not None:
            norm.running_mean.uniform_(-0.5, 0.5, generator=draws)
            norm.running_var.uniform_(0.5, 1.5, generator=draws)
    return norm


NORMS = {
    "batch norm of vectors": (nn.BatchNorm1d(6), (4, 6)),
    "batch norm": (nn.BatchNorm2d(6), (4, 6, 3, 3)),
    "batch norm of volumes": (nn.BatchNorm3d(6), (2, 6, 2, 2, 2)),
    "instance norm": (nn.InstanceNorm2d(6, affine=True), (2, 6, 4, 4)),
    "group norm": (nn.GroupNorm(3, 6), (2, 6, 4, 4)),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NORMS)
def test_there_and_back_changes_nothing(name: str, training: bool) -> None:
    norm, shape = copy.deepcopy(NORMS[name])
    filled(norm).train(training)
    before, parameters = copy.deepcopy(norm), dict(norm.named_parameters())
    images = torch.randn(shape)
    gated = GatedNorm(norm)
    torch.testing.assert_close(gated(images), copy.deepcopy(before)(images), rtol=0, atol=1e-5)
    assert dict(gated.norm.named_parameters()) == {}
    back = gated.melted()
    assert back is norm
    assert list(back._parameters) == list(parameters)
    torch.testing.assert_close(back.weight, before.weight, rtol=0, atol=0)
    torch.testing.assert_close(back.bias, before.bias, rtol=0, atol=1e-5)
    assert back.training is training


def norm_of(scales: list[float], biases: list[float]) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(len(scales)).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(scales))
        norm.bias.copy_(torch.tensor(biases))
    return norm


# Scales of ordinary size, tiny, zero with a bias, negative, and zero without one.
SCALES, BIASES = [2.0, 1e-3, 0.0, -0.5, 0.0], [1.0, 5.0, 3.0, 1.0, 0.0]


def test_the_bias_lies_inside_the_gate_within_the_limit() -> None:
    gated = GatedNorm(norm_of(SCALES, BIASES))
    torch.testing.assert_close(gated.gate.detach(), torch.tensor(SCALES), rtol=0, atol=0)
    assert gated.shift is not None
    torch.testing.assert_close(gated.shift.detach(), torch.tensor([0.5, SHIFT_LIMIT, SHIFT_LIMIT, -2.0, 0.0]))
    assert (gated.clamped.channels, gated.clamped.kept) == (2, False)
    assert gated.clamped.largest == pytest.approx(4.99)  # of 5 in the second channel the gate holds 0.001 · 10
    zeros = gated(torch.zeros(1, 5, 2, 2))[0, :, 0, 0]  # nothing is left of the constants but φ · shift
    torch.testing.assert_close(zeros.detach(), torch.tensor([1.0, 0.01, 0.0, 1.0, 0.0]))


def test_constants_can_be_kept_beside_the_gate() -> None:
    norm, images = norm_of(SCALES, BIASES), torch.randn(2, 5, 2, 2)
    before = norm(images)
    gated = GatedNorm(norm, clamped="keep")
    torch.testing.assert_close(gated(images), before)
    with torch.no_grad():
        gated.mask[1:3] = 0
    assert (gated(images)[:, 1:3] == 0).all()  # a channel that goes takes its constant along
    back = gated.melted()
    torch.testing.assert_close(back.bias.detach(), torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0]))


def test_a_closed_gate_emits_nothing() -> None:
    gated = GatedNorm(filled(nn.BatchNorm2d(4)))
    with torch.no_grad():
        gated.gate[1] = 0.0
        gated.mask[2] = 0.0
    out = gated(torch.randn(3, 4, 2, 2))
    assert (out[:, 1:3] == 0).all()
    assert (out[:, [0, 3]] != 0).any()


def test_gates_beside_a_living_scale() -> None:
    norm, images = filled(nn.BatchNorm2d(4)).eval(), torch.randn(3, 4, 2, 2)
    before = norm(images)
    one = GatedNorm(copy.deepcopy(norm), init="one")
    torch.testing.assert_close(one(images), before)
    half = GatedNorm(norm, init=0.5)
    assert {name for name, _ in half.named_parameters()} == {"gate", "scale", "shift"}
    torch.testing.assert_close(half(images), 0.5 * before)
    torch.testing.assert_close(half.melted()(images), 0.5 * before)


def test_a_gates_score_is_that_of_scale_and_bias_together() -> None:
    norm = filled(nn.BatchNorm2d(4))
    gated = GatedNorm(copy.deepcopy(norm))
    images, wanted = torch.randn(5, 4, 3, 3), torch.randn(5, 4, 3, 3)
    for layer in (norm, gated):
        ((layer(images).relu() - wanted) ** 2).mean().backward()
    by_gate = gated.gate * gated.gate.grad
    by_hand = norm.weight * norm.weight.grad + norm.bias * norm.bias.grad
    torch.testing.assert_close(by_gate, by_hand)


def test_a_layer_with_an_activation_of_its_own_keeps_it_behind_the_gate() -> None:
    class NormAndActivation(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(super().forward(x))

    norm = filled(NormAndActivation(4)).eval()
    images = torch.randn(2, 4, 3, 3)
    before = norm(images)
    torch.testing.assert_close(GatedNorm(norm)(images), before)


LAYERS = {
    "convolution": (nn.Conv2d(3, 4, 3), (2, 3, 5, 5)),
    "convolution in groups": (nn.Conv2d(4, 4, 3, groups=2, bias=False), (2, 4, 5, 5)),
    "convolution of sound": (nn.Conv1d(3, 4, 3), (2, 3, 5)),
    "transposed": (nn.ConvTranspose2d(3, 4, 2), (2, 3, 5, 5)),
    "linear": (nn.Linear(3, 4), (2, 3)),
    "linear on tokens": (nn.Linear(3, 4), (2, 7, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_gate_behind_a_layer(name: str) -> None:
    layer, shape = copy.deepcopy(LAYERS[name])
    images = torch.randn(shape)
    before = layer(images)
    gate = GatedConv(layer)
    gate.attach(layer)
    torch.testing.assert_close(layer(images), before, rtol=0, atol=0)
    phi = torch.tensor([2.0, -1.0, 0.0, 3.0])
    with torch.no_grad():
        gate.gate.copy_(phi)
        gate.mask[3] = 0
    scaled = layer(images)
    channels = -1 if isinstance(layer, nn.Linear) else 1
    wanted = before.movedim(channels, -1) * torch.tensor([2.0, -1.0, 0.0, 0.0])
    torch.testing.assert_close(scaled, wanted.movedim(-1, channels))
    gate.melt_into(layer)
    assert not layer._forward_hooks
    assert not layer._modules
    torch.testing.assert_close(layer(images), scaled)
