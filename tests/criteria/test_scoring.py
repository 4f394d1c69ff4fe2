"""Scores worked by hand, and where they look."""

import pytest
import torch
from scored_nets import cross_entropy
from torch import nn

from secateur.cost import Budget, allocate
from secateur.criteria import CRITERIA, Criterion, score
from secateur.errors import PlanError, UsageError
from secateur.graph import trace
from secateur.models import build_model


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 1, bias=False)
        self.second = nn.Conv2d(2, 2, 1, bias=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.head((x + self.second(x)).flatten(1))


@pytest.mark.parametrize(
    ("combine", "expected"),
    [("mean", [3.5, 3.5]), ("sum", [7.0, 7.0]), ("max", [5.0, 6.0]), ("l2", [(4 + 25) ** 0.5, (1 + 36) ** 0.5])],
)
def test_members_of_a_group_combine(combine: str, expected: list[float]) -> None:
    model = Residual()
    with torch.no_grad():
        model.first.weight.copy_(torch.tensor([2.0, -1.0]).reshape(2, 1, 1, 1))
        model.second.weight.copy_(torch.tensor([[2.0, -3.0], [6.0, 0.0]]).reshape(2, 2, 1, 1))
    scores = score(trace(model, torch.zeros(1, 1, 2, 2)), model, "l1", combine=combine)  # type: ignore[arg-type]
    torch.testing.assert_close(scores["first"], torch.tensor(expected, dtype=torch.float64))


def test_transposed_convolutions_are_scored_by_their_outputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(3, 5, 2), nn.Conv2d(5, 2, 1))
    scores = score(trace(model, torch.zeros(1, 3, 4, 4)), model, "l1")
    torch.testing.assert_close(scores["0"], model[0].weight.detach().abs().sum((0, 2, 3)).double())


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_scores_every_open_group_of_a_published_network(name: str) -> None:
    model = build_model("resnet20")
    graph = trace(model, torch.zeros(1, 3, 32, 32))
    batches = [(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(4))]
    scores = score(graph, model, name, batches=batches, loss=cross_entropy, seed=3)
    assert {group.name for group in graph.groups if group.prunable} <= set(scores)
    assert all((values >= 0).all() for values in scores.values())
    plan = allocate(graph, scores, Budget(macs=0.7), normalize=not CRITERIA[name].globally_comparable)
    assert graph.macs(plan) <= 0.7 * graph.macs()


def test_random_depends_on_the_seed_alone() -> None:
    model = build_model("resnet20")
    graph = trace(model, torch.zeros(1, 3, 32, 32))
    first, second = (score(graph, model, "random", seed=seed)["conv1"] for seed in (0, 1))
    assert not torch.equal(first, second)


def test_an_own_criterion_is_a_function() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    graph = trace(model, torch.zeros(1, 3, 4, 4))
    scores = score(graph, model, Criterion("largest", lambda slices: slices.abs().amax(1), "own"))
    torch.testing.assert_close(scores["0"], model[0].weight.detach().abs().amax((1, 2, 3)).double())


def test_bad_calls_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    graph = trace(model, torch.zeros(1, 3, 4, 4))
    with pytest.raises(UsageError, match="did you mean 'l1'"):
        score(graph, model, "L1")
    with pytest.raises(UsageError, match="did you mean 'mean'"):
        score(graph, model, "l1", combine="meen")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=r"trace this model again"):
        score(graph, nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 1)), "l1")
    with torch.no_grad():
        model[0].weight[0] = float("nan")
    with pytest.raises(UsageError, match="not finite"):
        score(graph, model, "l1")
