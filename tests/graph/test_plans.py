"""Plans and graphs: laws of composition, JSON, identity across processes, and what is refused."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cutting import Residual, assert_exact, assert_same_state, images, random_plan
from torch import nn

from secateur.errors import PlanError
from secateur.graph import ChannelGraph, Plan, apply, apply_, masked, narrowed, trace, verify


@pytest.fixture
def model() -> nn.Module:
    return Residual().eval()


@pytest.fixture
def graph(model: nn.Module) -> ChannelGraph:
    return trace(model, images())


class TwoGrouped(nn.Module):
    """A grouped convolution that loses inner channels while it has many, and whole groups once it has few."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.b = nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.grouped(torch.relu(self.a(x)))))


def test_the_graph_after_a_plan_is_the_trace_of_the_cut_model(model: nn.Module, graph: ChannelGraph) -> None:
    for seed in range(4):
        plan = random_plan(graph, 0.5, seed)
        small = apply(model, plan, verify_with=None)
        again = trace(small, images())
        assert graph.after(plan) == again
        assert graph.after(plan).digest() == again.digest()
        assert again.fingerprint == plan.fingerprint_after


def test_the_finer_way_to_cut_a_grouped_convolution_can_flip_with_its_size() -> None:
    # 4 groups of 4 + 4 channels: across groups 8 units, whole groups 4. After cutting all but one inner channel, one
    # channel per group is left and the convolution is depthwise, which is cut group by group.
    model = TwoGrouped().eval()
    graph = trace(model, images())
    assert {group.name: group.size for group in graph.groups if group.prunable} == {"a": 4, "grouped": 4}
    plan = graph.plan({"a": [1], "grouped": [2]})
    small = apply(model, plan, verify_with=images())
    again = trace(small, images())
    assert graph.after(plan) != again
    assert graph.after(plan).macs() == again.macs()
    assert graph.after(plan).params() == again.params()
    assert {group.size for group in again.groups if group.prunable} == {4}
    assert_exact(small, images())


def test_two_cuts_are_one(model: nn.Module, graph: ChannelGraph) -> None:
    first = random_plan(graph, 0.3, 1)
    after = graph.after(first)
    second = random_plan(after, 0.4, 2)
    both = first.then(second)
    twice = apply(apply(model, first, verify_with=None), second, verify_with=None)
    once = apply(model, both, verify_with=images())
    assert_same_state(once, twice.state_dict())
    assert repr(once) == repr(twice)
    assert graph.compose(first, second) == both
    assert both.kept_sizes() == {
        group.name: group.size for group in after.after(second).groups if group.name in both.kept
    }
    assert graph.macs(both) == after.macs(second)


def test_the_same_plan_three_ways(model: nn.Module, graph: ChannelGraph) -> None:
    plan, given = random_plan(graph), images()
    small = apply(model, plan, verify_with=given)
    with torch.no_grad():
        expected = small(given)
        with masked(model, plan):
            torch.testing.assert_close(model(given), expected)
        with narrowed(model, plan):
            torch.testing.assert_close(model(given), expected)


def test_plans_and_graphs_survive_json(graph: ChannelGraph) -> None:
    plan = random_plan(graph)
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert again.digest == plan.digest
    assert hash(again) == hash(plan)
    assert again.removed() == plan.removed()
    read = ChannelGraph.from_json(json.loads(json.dumps(graph.to_json())))
    assert read == graph
    assert read.digest() == graph.digest()
    assert read.macs(again) == graph.macs(plan)
    assert read.plan(plan.kept) == plan


def test_another_process_finds_the_same(graph: ChannelGraph) -> None:
    code = (
        "from cutting import *; import torch; torch.set_num_threads(1); g = trace(Residual().eval(), images());"
        "print(g.fingerprint, g.digest(), random_plan(g).digest)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": f"{Path(__file__).parents[2]}:."},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [graph.fingerprint, graph.digest(), random_plan(graph).digest]


def test_groups_are_listed_by_module_and_members_name_their_role(graph: ChannelGraph) -> None:
    by_name = {group.name: group for group in graph.groups if group.prunable}
    assert {name: group.size for name, group in by_name.items()} == {
        "stem": 8,
        "blocks.0.conv1": 6,
        "blocks.1.conv1": 10,
    }
    stem = {(member.parameter, member.dim): member.role for member in by_name["stem"].members}
    assert stem[("stem.weight", 0)] == "produces"
    assert stem[("blocks.0.conv1.weight", 1)] == "consumes"
    assert stem[("bn.running_var", 0)] == "carries"
    assert stem[("depthwise.weight", 0)] == "carries"
    head = next(member for member in by_name["stem"].members if member.parameter == "head.weight")
    assert head.units.tolist() == np.repeat(np.arange(8), 16).tolist()  # flatten: 16 positions per channel


def test_a_plan_says_what_it_removes(model: nn.Module, graph: ChannelGraph) -> None:
    plan = graph.plan({"blocks.0.conv1": [0, 1, 2, 4, 5]})
    assert plan.removed() == {
        "blocks.0.conv1.weight": {0: [3]},
        "blocks.0.bn1.weight": {0: [3]},
        "blocks.0.bn1.bias": {0: [3]},
        "blocks.0.bn1.running_mean": {0: [3]},
        "blocks.0.bn1.running_var": {0: [3]},
        "blocks.0.conv2.weight": {1: [3]},
    }
    assert plan.kept_sizes() == {"blocks.0.conv1": 5}
    assert "blocks.0.conv1: 5 of 6 units stay" in str(plan)
    # 3×3×8 weights of conv1, two of its batch norm, 3×3×8 of conv2.
    assert graph.params() - graph.params(plan) == 72 + 2 + 72
    assert graph.macs() - graph.macs(plan) == (72 + 72) * 64
    assert graph.plan({}).is_empty
    assert "nothing is cut" in str(graph.plan({}))


def test_a_plan_for_another_model_is_refused(graph: ChannelGraph) -> None:
    plan = random_plan(graph)
    other = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    wider = Residual()
    wider.blocks[0].conv1 = nn.Conv2d(8, 7, 3, padding=1, bias=False)

    class Renamed(Residual):
        pass

    for use in (
        lambda: apply(other, plan, verify_with=None),
        lambda: apply_(other, plan),
        lambda: trace(other, images()).macs(plan),
        lambda: trace(other, images()).after(plan),
        lambda: masked(other, plan).__enter__(),
        lambda: narrowed(other, plan).__enter__(),
        lambda: verify(other, other, plan, images()),
    ):
        with pytest.raises(PlanError, match="the plan was made for"):
            use()
    with pytest.raises(PlanError, match=r"blocks\.0\.conv1\.weight of shape \(6, 8, 3, 3\).* is \(7, 8, 3, 3\)"):
        apply(wider, plan, verify_with=None)
    with pytest.raises(PlanError, match="Renamed"):
        apply(Renamed(), plan, verify_with=None)
    with pytest.raises(PlanError, match="the second plan was made for"):
        plan.then(plan)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"stam": [0]}, "did you mean 'stem'"),
        ({"stem": []}, "keep at least one"),
        ({"stem": [0, 8]}, "units 0 to 7, but the plan keeps unit 8"),
        ({"stem": [-1, 2]}, "keeps unit -1"),
        ({"head": [0]}, "'head' cannot be cut: output of the model"),
        ({"stem": [True, False]}, "must be whole numbers"),
        ({"stem": [0.5]}, "must be whole numbers"),
    ],
)
def test_malformed_requests_are_refused(graph: ChannelGraph, kept: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        graph.plan(kept)


def _without(key: str) -> Any:
    return lambda data: data.pop(key)


def _put(value: Any, *path: str) -> Any:
    def change(data: dict[str, Any]) -> None:
        for step in path[:-1]:
            data = data[step]
        data[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "damage",
    [
        *(_without(key) for key in ("format", "fingerprint", "model_class", "shapes", "kept", "sizes", "removed")),
        *(_without(key) for key in ("attributes", "regrouped", "train_mode")),
        _put("secateur-plan-9", "format"),
        _put("0" * 16, "fingerprint"),
        _put([9], "removed", "stem.weight", "0"),
        _put([3, 1], "removed", "stem.weight", "0"),
        _put([1, 1], "removed", "stem.weight", "0"),
        _put([], "removed", "stem.weight", "0"),
        _put(list(range(8)), "removed", "stem.weight", "0"),
        _put([0.5], "removed", "stem.weight", "0"),
        _put(["a"], "removed", "stem.weight", "0"),
        _put([0], "removed", "stem.weight", "7"),
        _put([0], "removed", "stem.weight", "-1"),
        _put({"0": [1]}, "removed", "nowhere.weight"),
        _put([0, 99], "kept", "stem"),
        _put([], "kept", "stem"),
        _put([3, 2], "kept", "stem"),
        _put("five", "sizes", "stem"),
        _put([["stem"]], "attributes"),
    ],
)
def test_damaged_plans_are_refused(graph: ChannelGraph, damage: Any) -> None:
    data = copy.deepcopy(random_plan(graph).to_json())
    damage(data)
    with pytest.raises(PlanError):
        Plan.from_json(data)


@pytest.mark.parametrize("data", [None, [], "plan", {}, 3])
def test_what_is_no_plan_is_refused(data: Any) -> None:
    with pytest.raises(PlanError, match="expected a plan"):
        Plan.from_json(data)


def test_a_damaged_graph_is_refused(graph: ChannelGraph) -> None:
    data = graph.to_json()
    del data["costs"]
    with pytest.raises(PlanError, match="not a channel graph"):
        ChannelGraph.from_json(data)
