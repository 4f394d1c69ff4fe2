"""Sabotage: a correct plan, then a wrong cut. ``verify`` must refuse each, and pass the untouched control."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cutting import images, random_plan
from torch import Tensor, nn

from secateur.errors import VerificationError
from secateur.graph import Plan, Proof, apply, trace, verify
from secateur.graph.plan import DimensionCut


class Victim(nn.Module):
    """One of everything that can be cut wrongly."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.b, self.c = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.register_buffer("scale", torch.rand(1, 6, 1, 1) + 0.5)
        self.layer_scale = nn.Parameter(1e-8 * torch.rand(1, 6, 1, 1))
        self.d, self.e = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.e.weight = self.d.weight
        self.aux, self.fc = nn.Linear(8, 3), nn.Linear(6 * 16, 4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.bn(self.a(x)))
        aux = x.mean((2, 3))
        x = self.depthwise(x)
        y = torch.relu(self.b(x)) + torch.relu(self.c(x)) * self.scale
        y = y + self.layer_scale * torch.tanh(self.e(torch.relu(self.d(y))))
        result = self.fc(self.drop(F.adaptive_avg_pool2d(y, 4)).flatten(1))
        return (result, self.aux(aux)) if self.training else result


@pytest.fixture(scope="module")
def victim() -> tuple[nn.Module, Plan, Tensor]:
    torch.manual_seed(3)
    model = Victim()
    with torch.no_grad():
        model.train()(images(batch=8))
        for vector in (model.bn.weight, model.bn.bias):
            vector.add_(torch.randn(8) * 0.2)
    model.eval()
    graph = trace(model, images())
    plan = graph.plan({"a": [0, 2, 3, 5, 6], "b": [1, 2, 4, 5]})
    return model, plan, images()


def proof_of(victim: tuple[nn.Module, Plan, Tensor], change: Callable[[nn.Module], object]) -> Proof:
    model, plan, given = victim
    small = apply(model, plan, verify_with=None)
    change(small)
    return verify(model, small, plan, given)


def _wrong_index(name: str, dim: int) -> Callable[[Plan], Plan]:
    """Remove the neighbours of the right indices from one dimension of one tensor."""

    def change(plan: Plan) -> Plan:
        cuts = []
        for cut in plan.cuts:
            if (cut.parameter, cut.dim) == (name, dim):
                cut = DimensionCut(cut.parameter, cut.dim, cut.size, np.sort((cut.removed + 1) % cut.size))
            cuts.append(cut)
        assert cuts != list(plan.cuts)
        return replace(plan, cuts=tuple(cuts))

    return change


WRONG_SLICES = [
    ("a.weight", 0),
    ("a.bias", 0),
    ("bn.weight", 0),
    ("bn.bias", 0),
    ("bn.running_mean", 0),
    ("bn.running_var", 0),
    ("depthwise.weight", 0),
    ("b.weight", 1),
    ("b.weight", 0),
    ("c.bias", 0),
    ("scale", 1),
    ("layer_scale", 1),
    ("d.weight", 0),
    ("fc.weight", 1),
    ("aux.weight", 1),
]


@pytest.mark.parametrize(("name", "dim"), WRONG_SLICES)
def test_a_tensor_sliced_at_wrong_indices(victim: tuple[nn.Module, Plan, Tensor], name: str, dim: int) -> None:
    model, plan, given = victim
    wrong = apply(model, _wrong_index(name, dim)(plan), verify_with=None)
    proof = verify(model, wrong, plan, given)
    assert proof.verdict == "different", proof.sentence()
    assert not proof.passed


def _swap(tensor: Tensor, axis: int) -> None:
    with torch.no_grad():
        order = torch.arange(tensor.shape[axis])
        order[[0, 1]] = order[[1, 0]]
        tensor.copy_(tensor.index_select(axis, order))


def _set(module: str, attribute: str, value: Any) -> Callable[[nn.Module], None]:
    return lambda small: setattr(small.get_submodule(module), attribute, value)


def _untie(small: nn.Module) -> None:
    small.e.weight = nn.Parameter(small.d.weight.detach().flip(0))


def _spatial_first(small: nn.Module) -> None:
    """Flatten's order taken for positions outside, channels inside."""
    with torch.no_grad():
        weight = small.fc.weight.view(4, 4, 16).transpose(1, 2).reshape(4, 64)
        small.fc.weight.copy_(weight)


class WithoutRelu(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) - 1e-3


SABOTAGES: dict[str, Callable[[nn.Module], object]] = {
    "a bias zeroed": lambda small: small.b.bias.data.zero_(),
    "one weight changed in the fifth digit": lambda small: small.fc.weight.data[0, 0].mul_(1.0 + 1e-4),
    "dropout rate changed, seen in training mode": _set("drop", "p", 0.1),
    "eps changed": _set("bn", "eps", 1.1e-5),
    "stride changed": _set("b", "stride", (2, 2)),
    "padding changed": _set("b", "padding", (0, 0)),
    "padding and kernel position changed": _set("b", "padding_mode", "reflect"),
    "dilation changed": lambda small: (_set("d", "dilation", (2, 2))(small), _set("d", "padding", (2, 2))(small)),
    "groups not updated": _set("depthwise", "groups", 8),
    "groups lost": _set("depthwise", "groups", 1),
    "units of one member in another order": lambda small: _swap(small.b.weight, 1),
    "units of a producer in another order": lambda small: _swap(small.a.weight, 0),
    "running statistics in another order": lambda small: _swap(small.bn.running_var, 0),
    "scales in another order": lambda small: _swap(small.layer_scale, 1),
    "flatten taken the other way round": _spatial_first,
    "tied weights with different values": _untie,
    "a layer behind a scale of 1e-8 wrong": lambda small: small.d.bias.data.add_(1.0),
    "a layer replaced by nothing": lambda small: setattr(small, "depthwise", nn.Identity()),
    "a constant added": lambda small: setattr(small, "b", WithoutRelu(small.b)),
    "an auxiliary head wrong": lambda small: _swap(small.aux.weight, 1),
    "an auxiliary head without bias": lambda small: small.aux.bias.data.zero_(),
    "a buffer wrong": lambda small: _swap(small.scale, 1),
    "a buffer dropped": lambda small: setattr(small, "scale", torch.ones(1, 4, 1, 1)),
    "a member left out": lambda small: setattr(small, "c", nn.Conv2d(5, 6, 1)),
    "a consumer left out": lambda small: setattr(small, "fc", nn.Linear(96, 4)),
    "statistics of the batch instead of the running ones": lambda small: setattr(
        small, "bn", _without_statistics(small.bn)
    ),
    "a NaN": lambda small: small.fc.bias.data[0].fill_(float("nan")),
    "a layer in training mode by force": lambda small: small.drop.register_forward_hook(
        lambda module, args, result: F.dropout(result, 0.5, training=True)
    ),
}


def _without_statistics(bn: nn.BatchNorm2d) -> nn.Module:
    bn.track_running_stats = False
    bn.running_mean = bn.running_var = None
    return bn


@pytest.mark.parametrize("name", SABOTAGES)
def test_a_sabotaged_model_is_refused(victim: tuple[nn.Module, Plan, Tensor], name: str) -> None:
    proof = proof_of(victim, SABOTAGES[name])
    assert proof.verdict == "different", proof.sentence()
    assert not proof.passed
    assert "refused" in proof.sentence()


CONTROLS: dict[str, Callable[[nn.Module], object]] = {
    "nothing": lambda small: None,
    "momentum of the running statistics": _set("bn", "momentum", 0.7),
    "in training mode": lambda small: small.train(),
    "in double precision": lambda small: small.double(),
    "channels last": lambda small: small.to(memory_format=torch.channels_last),
    "copied": lambda small: copy.deepcopy(small),
    "gradients": lambda small: small(images()).sum().backward(),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_pass(victim: tuple[nn.Module, Plan, Tensor], name: str) -> None:
    proof = proof_of(victim, CONTROLS[name])
    assert proof.verdict == "exact", proof.sentence()
    assert {(output.weights, output.mode) for output in proof.outputs} == {
        (weights, mode) for weights in ("model", "redrawn") for mode in ("eval", "train")
    }


class TinyScale(nn.Module):
    """A branch that the own weights hide: its scale is 1e-12."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.back = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 1)
        self.scale, self.wrong = nn.Parameter(torch.full((1,), 1e-12)), False

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        inner = torch.relu(self.inner(x))
        return (x + self.scale * self.back(inner.flip(1) if self.wrong else inner)).mean((2, 3))


def test_a_wrong_layer_behind_a_tiny_scale_is_seen() -> None:
    model = TinyScale().eval()
    plan = trace(model, images()).plan({"inner": [0, 2, 4]})
    small = apply(model, plan, verify_with=images())
    small.wrong = True  # the structure is wrong: the redrawn weights see it, the own ones do not
    verdicts = {output.weights: output.verdict for output in verify(model, small, plan, images()).outputs}
    assert verdicts == {"model": "cannot tell", "redrawn": "different"}
    small.wrong = False
    _swap(small.back.weight, 1)  # the values are wrong: no output shows it, comparing them does
    proof = verify(model, small, plan, images())
    assert "back.weight of the cut model is not the slice" in str(proof.problem)
    assert verify(model, small, plan, images(), own_weights=False).verdict == "exact"


def test_a_cut_without_any_effect_is_never_passed() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return 0.0 * self.out(self.a(x)) + x[:, :2]

    model = Unused().eval()
    plan = random_plan(trace(model, images()))
    small = apply(model, plan, verify_with=None)
    proof = verify(model, small, plan, images())
    assert proof.verdict == "cannot tell"
    assert not proof.passed
    assert "cannot tell" in proof.sentence()
    with pytest.raises(VerificationError, match="cannot tell"):
        apply(model, plan, verify_with=images())
    assert verify(model, small, trace(model, images()).plan({}), images()).problem is not None


def test_a_member_left_out_of_the_plan(victim: tuple[nn.Module, Plan, Tensor]) -> None:
    model, plan, given = victim
    for left_out in plan.cuts:
        short = replace(plan, cuts=tuple(cut for cut in plan.cuts if cut is not left_out))
        proof = verify(model, apply(model, short, verify_with=None), plan, given)
        assert proof.verdict == "different"
        assert left_out.parameter in str(proof.problem)
        own = verify(model, apply(model, short, verify_with=None), short, given)
        assert own.verdict == "different", (left_out.parameter, own.sentence())
