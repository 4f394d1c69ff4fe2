"""torchvision's networks with random weights, cut at random: every proof exact, every number that of a counter."""

from functools import cache
from typing import Any

import pytest
import torch
from cutting import count_macs, random_plan
from torch import Tensor, nn

from secateur.graph import ChannelGraph, apply, trace, verify
from secateur.torchvision_shim import import_torchvision

ZOO: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "resnet50": {},
    "mobilenet_v2": {},
    "mobilenet_v3_large": {},
    "vgg16_bn": {},
    "densenet121": {},
    "googlenet": {"init_weights": False, "aux_logits": True},
    "inception_v3": {"init_weights": False},
    "shufflenet_v2_x1_0": {},
    "squeezenet1_0": {},
    "efficientnet_b0": {},
    "regnet_y_400mf": {},
    "resnext50_32x4d": {},
    "mnasnet1_0": {},
    "alexnet": {},
}
SIZES = {"inception_v3": 96}
# With less than half of its channels a grouped convolution may be cut finer the other way round.
FLIPS = {"regnet_y_400mf", "resnext50_32x4d"}
# Chains, sums, concatenations, depthwise and grouped convolutions, shuffles and gates are each cut by both shares; a
# large network that is wired as others are, by one.
ONE_SHARE = {
    "resnet50": 0.7,
    "mobilenet_v3_large": 0.3,
    "vgg16_bn": 0.7,
    "googlenet": 0.3,
    "inception_v3": 0.7,
    "efficientnet_b0": 0.7,
    "mnasnet1_0": 0.3,
    "alexnet": 0.3,
}
CASES = [(name, share) for name in ZOO for share in (0.3, 0.7) if share == ONE_SHARE.get(name, share)]


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = getattr(import_torchvision().models, name)(weights=None, **ZOO[name])
    return model.eval()


def example(name: str) -> Tensor:
    size = SIZES.get(name, 64)
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@cache
def traced(name: str) -> tuple[nn.Module, Tensor, ChannelGraph]:
    traced.cache_clear()  # one model at a time: VGG alone holds half a gigabyte
    model, given = build(name), example(name)
    return model, given, trace(model, given)


@pytest.mark.parametrize(("name", "share"), CASES)
def test_a_random_cut_is_exact_and_costs_what_the_arithmetic_says(name: str, share: float) -> None:
    model, given, graph = traced(name)
    assert not graph.unknown_ops
    assert all(group.approximate is None for group in graph.groups)
    plan = random_plan(graph, share)
    assert set(plan.kept) == {group.name for group in graph.groups if group.prunable and group.size > 1}

    small = apply(model, plan, verify_with=None)
    proof = verify(model, small, plan, given)
    assert proof.verdict == "exact", proof.sentence()
    assert proof.error <= 1e-9

    assert graph.macs() == count_macs(model, given)
    assert graph.macs(plan) == count_macs(small, given)
    assert graph.params(plan) == sum(parameter.numel() for parameter in small.parameters())
    again = trace(small, given)
    assert again.macs() == graph.macs(plan)
    assert again.activation_bytes() == graph.activation_bytes(plan)
    if name not in FLIPS:
        assert graph.after(plan) == again


def test_auxiliary_heads_are_reached_in_training_mode_and_cut_along() -> None:
    model, given, graph = traced("googlenet")
    assert graph.train_mode
    assert graph.unreached == ()
    plan = random_plan(graph, 0.3)
    assert any(cut.parameter.startswith("aux1.conv") and cut.dim == 1 for cut in plan.cuts)
    assert any(cut.parameter.startswith("aux1.fc1") for cut in plan.cuts)
    proof = verify(model, apply(model, plan, verify_with=None), plan, given)
    assert {output.mode for output in proof.outputs} == {"eval", "train"}
    assert sum(output.mode == "train" for output in proof.outputs) == 2 * 3  # two sets of weights, three heads


def test_what_an_input_is_too_small_to_reach_is_listed() -> None:
    model, _, graph = traced("inception_v3")
    assert graph.unreached
    assert all(name.startswith("AuxLogits.") for name in graph.unreached)
    assert trace(model, torch.randn(1, 3, 299, 299)).unreached == ()


def test_shares_that_can_be_cut() -> None:
    # Everything but the classifier's outputs can shrink to one unit.
    assert traced("resnet18")[2].prunable_share_of_macs() > 0.99
    assert traced("densenet121")[2].prunable_share_of_macs() > 0.99
