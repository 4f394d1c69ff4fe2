"""Outputs by module: what a network computes before code that decides."""

import json
from typing import Any

import pytest
import torch
from cutting import Residual, images, random_plan
from torch import Tensor, nn

from secateur.errors import TraceError
from secateur.graph import ChannelGraph, Plan, apply, trace, verify


class Decides(nn.Module):
    """A head, called once per scale, and code behind it that sorts, drops and overwrites."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3), nn.Conv2d(8, 2, 1)
        self.never = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.body(torch.relu(self.stem(x))))
        first, second = self.head(x), self.head(x[:, :, ::2, ::2])
        best = first.flatten(1).topk(5).indices
        first.zero_()  # what was returned is written into afterwards
        return best, second.flatten(1).sort().values[:, :3]


@pytest.fixture
def model() -> nn.Module:
    return Decides().eval()


def test_modules_outputs_are_compared_in_the_order_of_calls(model: nn.Module) -> None:
    graph = trace(model, images(), outputs=["head"])
    assert graph.outputs == ("head",)
    assert graph.group("head").locked == "output of the model"
    plan = random_plan(graph)
    assert set(plan.kept) == {"stem", "body"}
    small = apply(model, plan, verify_with=images())
    proof = verify(model, small, plan, images())
    assert proof.verdict == "exact", proof.sentence()
    assert [(o.module, o.output) for o in proof.outputs] == [("head", 0), ("head", 1)] * 2
    assert all(output.scale > 0 for output in proof.outputs)  # seen before they were overwritten
    own = verify(model, small, plan, images(), outputs=[])  # the model's own outputs all the same
    assert {output.module for output in own.outputs} == {""}
    inner = verify(model, small, plan, images(), outputs=["head", "head"])
    assert inner.outputs == proof.outputs


def test_an_inner_module_that_is_named_is_locked() -> None:
    graph = trace(Residual().eval(), images(), outputs=["blocks.0.conv1"])
    assert graph.group("blocks.0.conv1").locked == "output of the model"
    assert graph.group("head").locked == "output of the model"
    assert graph.group("blocks.1.conv1").prunable


def test_a_wrong_cut_shows_at_the_named_modules(model: nn.Module) -> None:
    plan = random_plan(trace(model, images(), outputs=["head"]))
    small = apply(model, plan, verify_with=None)
    small.body.register_forward_hook(lambda module, args, result: result.roll(1, 1))
    assert verify(model, small, plan, images()).verdict == "different"


def test_names_go_with_graph_and_plan(model: nn.Module) -> None:
    graph = trace(model, images(), outputs=["head"])
    plan = random_plan(graph)
    again = ChannelGraph.from_json(json.loads(json.dumps(graph.to_json())))
    assert again == graph
    assert again.outputs == ("head",)
    read = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert read == plan
    assert read.outputs == ("head",)
    second = random_plan(graph.after(plan), seed=1)
    assert plan.then(second).outputs == ("head",)
    plain = trace(model, images())
    assert "outputs" not in plain.to_json()
    assert "outputs" not in random_plan(plain).to_json()


@pytest.mark.parametrize("outputs", ["head", [3], [["head"]]])
def test_a_plan_with_other_than_names_is_refused(model: nn.Module, outputs: Any) -> None:
    from secateur.errors import PlanError

    content = {**random_plan(trace(model, images())).to_json(), "outputs": outputs}
    with pytest.raises(PlanError, match="list of module names"):
        Plan.from_json(content)


@pytest.mark.parametrize(
    ("outputs", "match"),
    [
        (["haed"], "unknown module to take outputs from 'haed'; did you mean 'head'"),
        (["never"], "'never', named in outputs, returned no tensor while the model ran"),
        ("head", r"outputs is the text 'head'; give a list of module names, such as \['head'\]"),
    ],
)
def test_names_that_do_not_do(model: nn.Module, outputs: Any, match: str) -> None:
    with pytest.raises(TraceError, match=match):
        trace(model, images(), outputs=outputs)


def test_a_module_that_returns_only_empty_tensors_proves_nothing() -> None:
    class Empty(Decides):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Any:
            y = self.head(torch.relu(self.body(torch.relu(self.stem(x)))))
            return y, self.last(y[:0])

    model = Empty().eval()
    plan = random_plan(trace(model, images(), outputs=["head", "last"]))
    proof = verify(model, apply(model, plan, verify_with=None), plan, images())
    assert not proof.passed
    assert "nothing is proved of module 'last'" in proof.sentence()
