"""Greedy slimming: steps by hand, ties, budgets, what makes it fast changes nothing, continuing."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from autoslim_networks import NETWORKS, batches, tiny_resnet
from torch import Tensor, nn

from secateur.cost import Budget
from secateur.errors import BudgetError, DataError, PlanError, UsageError
from secateur.graph import ChannelGraph, apply, trace
from secateur.graph.units import UnitArray
from secateur.methods.autoslim import Front, Speed, greedy_slimming
from secateur.methods.autoslim.front import Candidate
from secateur.methods.autoslim.race import Race
from secateur.slimmable import batch_statistics, plan_of, width_space

PLAIN = Speed(share_prefixes=False, bounds=False)


class TwoLayers(nn.Module):
    """Logit 0 is the sum of group a, which counts samples of class 0; logit 1 that of group b."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.from_a, self.from_b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
            self.b.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
            self.from_a.weight.copy_(torch.tensor([[1.0, 4.0], [0.0, 0.0]]))
            self.from_b.weight.copy_(torch.tensor([[0.0, 0.0], [2.0, 0.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.from_a(self.a(x)) + self.from_b(self.b(x))


def test_steps_by_hand() -> None:
    # Logits of (u, v): u + 4 v and 2 u. Without a's second unit: u and 2 u. Without b's second unit: as before.
    x = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 0.1], [1.0, 2.0]])
    labels = torch.tensor([0, 1, 1, 0])
    model = TwoLayers()
    graph = trace(model, x)
    space = width_space(graph, steps=2)
    assert dict(space.choices) == {"a": (1, 2), "b": (1, 2)}
    front = greedy_slimming(model, space, [(x, labels)], [Budget(macs=0.5)], graph=graph)
    largest, first, second = front.configurations
    assert (largest.right, largest.samples, largest.removed) == (4, 4, None)  # 5>2, 1<2, 1.4<2, 9>2
    # Without a's unit the answers are all 1: two right. Without b's nothing changes.
    assert first.candidates == (
        Candidate(group="a", units=1, right=2, samples=4),
        Candidate(group="b", units=1, right=4, samples=4),
    )
    assert (first.removed, first.right, dict(first.widths), first.macs) == ("b", 4, {"a": 2, "b": 1}, 12)
    assert (second.removed, second.right, second.accuracy, second.macs) == ("a", 2, 0.5, 8)
    assert front.meeting({"macs": 12.0}) == first
    assert front.picked(Budget(macs=0.75), {"macs": 16.0}) == first


def test_of_equal_candidates_the_first_group_goes() -> None:
    model = TwoLayers()
    x = torch.zeros(4, 2)
    front = greedy_slimming(
        model, width_space(trace(model, x), steps=2), [(x, torch.zeros(4).long())], [Budget(macs=0.8)]
    )
    assert front.configurations[1].removed == "a"


@pytest.mark.parametrize("name", NETWORKS)
def test_what_makes_it_fast_changes_nothing(name: str) -> None:
    model, data = NETWORKS[name](), batches(2, 16)
    before = copy.deepcopy(model.state_dict())
    space = width_space(trace(model, data[0][0][:2]), steps=3)
    budgets = [Budget(macs=0.95), Budget(params=0.75)]
    plain = greedy_slimming(model, space, data, budgets, speed=PLAIN)
    shared = greedy_slimming(model, space, data, budgets, speed=Speed(bounds=False))
    assert shared == plain  # the accuracies of all candidates too
    narrow = greedy_slimming(model, space, data, budgets, speed=Speed(bounds=False, prefix_bytes=60_000))
    assert narrow == plain
    bounded = greedy_slimming(model, space, lambda: iter(data), budgets, speed=Speed(share_prefixes=False))
    assert [(one.widths, one.right) for one in bounded.configurations] == [
        (one.widths, one.right) for one in plain.configurations
    ]
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    assert all("forward" not in vars(module) for module in model.modules())


def test_configurations_are_those_of_the_cut_network() -> None:
    model, data = tiny_resnet(), batches(1)
    graph = trace(model, data[0][0][:2])
    front = greedy_slimming(model, width_space(graph, steps=3), data, [Budget(macs=0.6)], graph=graph)
    last = front.configurations[-1]
    small = apply(model, plan_of(graph, last.widths), verify_with=None).eval()
    with torch.no_grad(), batch_statistics(small):
        found = small(data[0][0]).argmax(1)
    assert int((found == data[0][1]).sum()) == last.right
    after = trace(small, data[0][0][:2])
    assert (after.macs(), after.params(), after.activation_bytes()) == (last.macs, last.params, last.activation_bytes)


def test_resumed_equals_unbroken() -> None:
    model, data = tiny_resnet(), batches()
    space = width_space(trace(model, data[0][0][:2]), steps=3)
    kept: list[str] = []
    unbroken = greedy_slimming(
        model, space, data, [Budget(macs=0.8)], after_step=lambda front: kept.append(json.dumps(front.to_json()))
    )
    assert len(kept) == len(unbroken.configurations) > 2
    for text in (kept[0], kept[2], kept[-1]):
        begun = Front.from_json(json.loads(text))
        assert greedy_slimming(model, space, data, [Budget(macs=0.8)], begun=begun) == unbroken
    further = greedy_slimming(model, space, data, [Budget(macs=0.7)], begun=unbroken)
    assert further.configurations[: len(unbroken.configurations)] == unbroken.configurations
    assert len(further.configurations) > len(unbroken.configurations)


def test_a_shortlist_measures_so_many_and_a_whole_one_is_the_full_search() -> None:
    model, data = tiny_resnet(), batches(1)
    space = width_space(trace(model, data[0][0][:2]), steps=3)
    short = greedy_slimming(model, space, data, [Budget(macs=0.8)], speed=Speed(bounds=False, shortlist=2))
    for one in short.configurations[1:]:
        measured = [candidate for candidate in one.candidates if candidate.samples]
        assert len(measured) == 2
        assert one.right == max(candidate.right for candidate in measured)
    assert all(parameter.requires_grad for parameter in model.parameters())
    many = Speed(bounds=False, shortlist=len(space.choices))
    assert greedy_slimming(model, space, data, [Budget(macs=0.8)], speed=many) == greedy_slimming(
        model, space, data, [Budget(macs=0.8)], speed=PLAIN
    )


class _ByUnits:
    """A latency table: a millisecond for each unit that is left."""

    def latency_ms(self, graph: ChannelGraph, kept: UnitArray) -> float:
        return float(kept.sum())


def test_every_budget_is_held_by_the_first_configuration_that_can() -> None:
    model, data = tiny_resnet(), batches(1)
    graph = trace(model, data[0][0][:2])
    space = width_space(graph, steps=3)
    budgets = [
        Budget(params=0.8),
        Budget(size_bytes=0.8),
        Budget(activation_bytes=0.9),
        Budget(latency_ms=0.85),
        Budget(macs=0.7, params=0.7),
    ]
    front = greedy_slimming(model, space, data, budgets, graph=graph, table=_ByUnits())
    for budget in budgets:
        limits = budget.limits(graph, _ByUnits())
        found = front.meeting(limits)
        assert found is not None
        earlier = front.configurations[: front.configurations.index(found)]
        for name, limit in limits.items():
            assert getattr(found, name) <= limit
        assert all(any(getattr(one, name) > limit for name, limit in limits.items()) for one in earlier)
    brought = greedy_slimming(model, space, data, [Budget(latency_ms=0.85).with_table(_ByUnits())], graph=graph)
    assert brought.configurations == front.configurations[: len(brought.configurations)]
    assert brought.configurations[-1].latency_ms is not None
    smaller = trace(apply(model, plan_of(graph, space.uniform(0.5)), verify_with=None), data[0][0][:2])
    shares = greedy_slimming(model, space, data, [Budget(macs=1.0)], original=smaller)
    assert shares.configurations[-1].macs <= smaller.macs() < shares.configurations[-2].macs


def test_bounds_by_hand() -> None:
    race = Race(10, {"a": 1, "b": 1, "c": 1, "d": 1}, bounds=True)
    for name, right in {"a": 3, "b": 6, "c": 2, "d": 1}.items():
        race.count(name, right, 6)
    race.settle()  # 4 samples are left: a may reach 7, c may only draw with b, which comes before it
    assert race.alive == ["a", "b"]
    assert [one.samples for one in race.candidates()] == [6, 6, 6, 6]
    early = Race(10, {"a": 1, "b": 1}, bounds=True)
    early.count("a", 2, 6)
    early.count("b", 6, 6)
    early.settle()  # a may draw with b, and comes before it
    assert early.alive == ["a", "b"]


def test_what_cannot_be_is_said_before_the_search() -> None:
    model, data = tiny_resnet(), batches(1)
    space = width_space(trace(model, data[0][0][:2]), steps=3)
    with pytest.raises(BudgetError, match="cannot be met: with every group at its smallest width"):
        greedy_slimming(model, space, data, [Budget(macs=0.001)])
    with pytest.raises(BudgetError, match="there is no budget"):
        greedy_slimming(model, space, data, [])
    with pytest.raises(BudgetError, match="needs a latency table"):
        greedy_slimming(model, space, data, [Budget(latency_ms=0.5)])
    with pytest.raises(DataError, match="no validation batches"):
        greedy_slimming(model, space, [], [Budget(macs=0.5)])
    with pytest.raises(PlanError, match="made for a model with fingerprint"):
        greedy_slimming(model, replace(space, fingerprint="other"), data, [Budget(macs=0.5)])
    with pytest.raises(UsageError, match="shortlist is 0"):
        Speed(shortlist=0)
    front = greedy_slimming(model, space, data, [Budget(macs=0.9)])
    with pytest.raises(PlanError, match="the front was searched on a network"):
        greedy_slimming(model, space, data, [Budget(macs=0.5)], begun=replace(front, fingerprint="other"))
    with pytest.raises(BudgetError, match=r"no configuration of the front holds macs ≤ 0\.1"):
        front.picked(Budget(macs=0.1), {"macs": float(front.configurations[0].macs)})
    with pytest.raises(BudgetError, match="knows no latency"):
        front.picked(Budget(latency_ms=3.5), {})
    for broken in ([], {"format": 2}, {**front.to_json(), "more": 1}, {**front.to_json(), "configurations": []}):
        with pytest.raises(PlanError, match="no front of a search"):
            Front.from_json(broken)
