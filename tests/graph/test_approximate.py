"""Cuts of channels that a norm or a mean ties together: proved up to these statistics, and their drift is told."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import export
from secateur.cost import Budget, allocate, size_bytes
from secateur.criteria import score
from secateur.errors import BudgetError, PlanError
from secateur.graph import Plan, Proof, apply, masked, trace, verify


class Block(nn.Module):
    """Depthwise convolution, layer norm over channels, two linear layers and a residual: a block of ConvNeXt."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm, self.wide, self.narrow = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.narrow(F.gelu(self.wide(y))).permute(0, 3, 1, 2)


class Network(nn.Module):
    """A stem, blocks, and a head behind a norm over all channels."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.norm, self.head = nn.GroupNorm(1, width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.stem(x))).mean((2, 3)))


def given() -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture
def plan(model: nn.Module) -> Plan:
    graph = trace(model, given())
    return graph.plan({"stem": [0, 2, 3, 6, 7], "blocks.0.wide": range(9)}, allow_approximate=True)


def test_it_is_proved_up_to_the_statistics_and_tells_the_drift(model: nn.Module, plan: Plan) -> None:
    small = apply(model, plan, verify_with=given())  # is not refused
    proof = verify(model, small, plan, given())
    assert (proof.verdict, proof.passed, proof.approximate) == ("approximate", True, ("stem",))
    assert proof.error < 1e-12
    assert proof.drift is not None
    assert proof.drift > 1e-3
    assert "approximate: drift" in proof.sentence()
    assert "normalised together (stem)" in proof.sentence()
    content = json.loads(json.dumps(proof.to_json()))
    assert (content["verdict"], content["drift"]) == ("approximate", proof.drift)
    assert 0 < content["drift_of_output"] < content["drift"]


def test_the_drift_is_what_masked_shows(model: nn.Module, plan: Plan) -> None:
    model, x = model.double(), given().double()
    small = apply(model, plan, verify_with=None)
    with masked(model, plan):
        zeroed = model(x)
    with masked(model, plan, means="kept"):
        kept = model(x)
    with torch.no_grad():
        original, cut = model(x), small(x)
    torch.testing.assert_close(kept, cut)
    proof = verify(model, small, plan, x)
    assert proof.drift == pytest.approx(float((zeroed - cut).abs().max() / (original - zeroed).abs().max()))
    assert proof.drift_of_output == pytest.approx(float((zeroed - cut).abs().max() / original.abs().max()))


def test_statistics_of_kept_channels_by_hand() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.tensor([[1.0, 2.0, 4.0]]))
    x = torch.tensor([[5.0, 1.0]], dtype=torch.float64)
    plan = trace(model, x).plan({"0": [0, 1]}, allow_approximate=True)
    with masked(model, plan, means="kept"):
        found = model(x)
    # Of 5 and 1 the mean is 3 and the deviation 2, so they become 1 and −1, and 1·1 − 1·2 = −1.
    assert float(found) == pytest.approx(-1.0, abs=1e-5)
    with masked(model, plan):
        found = model(x)
    # Of 5, 1 and 6 the mean is 4 and the deviation √(14/3): (1·1 − 3·2) / √(14/3).
    assert float(found) == pytest.approx(-5 / (14 / 3) ** 0.5, abs=1e-5)


def test_an_exact_plan_of_the_same_network_is_exact_and_has_no_drift(model: nn.Module) -> None:
    plan = trace(model, given()).plan({"blocks.1.wide": range(4)})
    assert plan.approximate == ()
    assert "approximate" not in plan.to_json()
    proof = verify(model, apply(model, plan, verify_with=None), plan, given())
    assert (proof.verdict, proof.drift, proof.drift_of_output) == ("exact", None, None)
    assert "drift" not in proof.to_json()


def test_what_is_wrong_in_an_approximate_cut_is_refused(model: nn.Module, plan: Plan) -> None:
    def changed(change: object) -> Proof:
        small = apply(model, plan, verify_with=None)
        change(small)  # type: ignore[operator]
        return verify(model, small, plan, given(), own_weights=False)

    assert changed(lambda small: None).verdict == "approximate"
    for change in (
        lambda small: setattr(small.norm, "eps", 1e-2),
        lambda small: setattr(small.blocks[0], "norm", nn.Identity()),
        lambda small: small.blocks[0].norm.register_forward_hook(lambda module, args, out: out * 1.001),
        lambda small: small.norm.register_forward_hook(lambda module, args, out: out * float("nan")),
        lambda small: setattr(small.blocks[1].norm, "normalized_shape", (8,)),
    ):
        proof = changed(change)
        assert (proof.passed, proof.verdict) == (False, "different")


def test_a_width_in_the_code_that_statistics_hide_from_nobody_is_refused() -> None:
    class Own(Network):
        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x)
            y = y / (y.norm(dim=1, keepdim=True) / self.stem.weight.shape[0] ** 0.5)
            return self.head(self.norm(y).mean((2, 3)))

    torch.manual_seed(0)
    model = Own().eval()
    plan = trace(model, given(), trial=False).plan({"stem": range(5)}, allow_approximate=True)
    del model.norm  # which would undo any scale
    model.norm = nn.Identity()
    plan = trace(model, given(), trial=False).plan({"stem": range(5)}, allow_approximate=True)
    proof = verify(model, apply(model, plan, verify_with=None), plan, given())
    assert proof.verdict == "different"


def test_plans_compose_and_are_written(model: nn.Module, plan: Plan, tmp_path: Path) -> None:
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    graph = trace(model, given())
    first = graph.plan({"blocks.0.wide": range(9)})
    second = graph.after(first).plan({"stem": [0, 2, 3, 6, 7]}, allow_approximate=True)
    assert first.then(second) == plan == graph.compose(first, second)
    small = apply(model, plan, verify_with=None)
    export.save(small, tmp_path / "small.safetensors", plan=plan)
    assert export.inspect(tmp_path / "small.safetensors").plan == plan
    again = export.load(Network(), tmp_path / "small.safetensors")
    torch.testing.assert_close(again(given()), small(given()), rtol=0, atol=0)


@pytest.mark.parametrize("names", [["blocks.1.wide"], ["stem", "stem"], "stem", ["nothing"], [3]])
def test_a_plan_that_lists_other_groups_is_refused(plan: Plan, names: object) -> None:
    with pytest.raises(PlanError, match="approximate"):
        Plan.from_json({**plan.to_json(), "approximate": names})


def test_allocate_cuts_them_when_asked(model: nn.Module, tmp_path: Path) -> None:
    graph = trace(model, given())
    scores = score(graph, model, "l1")
    assert "stem" in scores
    plain = allocate(graph, scores, Budget(macs=0.7))
    assert plain.approximate == ()
    with pytest.raises(BudgetError, match=r"--allow-approximate\), which opens 1 group"):
        allocate(graph, scores, Budget(macs=0.2))
    plan = allocate(graph, scores, Budget(macs=0.4), allow_approximate=True)
    assert plan.approximate == ("stem",)
    assert graph.macs(plan) <= 0.4 * graph.macs()
    assert graph.prunable_share_of_macs() < 0.8 < graph.prunable_share_of_macs(allow_approximate=True)
    small = apply(model, plan, verify_with=given())
    export.save(small, tmp_path / "small.safetensors", plan=plan)
    assert (tmp_path / "small.safetensors").stat().st_size <= size_bytes(graph, graph.kept_sizes(plan))


def test_a_cut_model_that_was_trained_since_is_proved_by_its_structure(model: nn.Module, plan: Plan) -> None:
    small = apply(model, plan, verify_with=None)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.add_(0.1)
    assert verify(model, small, plan, given()).verdict == "different"
    proof = verify(model, small, plan, given(), own_weights=False)
    assert proof.verdict == "approximate"
    assert np.isfinite(proof.drift or np.nan)
    assert verify(model, small, replace(plan, approximate=()), given(), own_weights=False).verdict == "different"
