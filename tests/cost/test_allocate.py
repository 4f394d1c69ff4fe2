"""The plan holds every limit, and not one unit more is cut than needed."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from secateur.cost import Budget, MinimumWarning, allocate
from secateur.cost.budget import meter
from secateur.criteria import score
from secateur.errors import BudgetError, PlanError, UsageError
from secateur.graph import ChannelGraph, apply, trace
from secateur.models import build_model

INPUTS = torch.zeros(2, 3, 32, 32)


@pytest.fixture(scope="module")
def net() -> tuple[nn.Module, ChannelGraph]:
    torch.manual_seed(0)
    model = build_model("resnet20-b")
    return model, trace(model, INPUTS)


@pytest.mark.parametrize("scope", ["global", "local", "isomorphic"])
@pytest.mark.parametrize("name", ["macs", "params", "size_bytes", "activation_bytes"])
def test_lands_within_one_unit_of_the_limit(net: tuple[nn.Module, ChannelGraph], scope: str, name: str) -> None:
    model, graph = net
    budget = Budget(**{name: 0.6})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MinimumWarning)
        plan = allocate(graph, score(graph, model, "l1"), budget, scope=scope)  # type: ignore[arg-type]
    limit, cost = budget.limits(graph)[name], meter(name, graph)
    assert cost(graph.kept_sizes(plan)) <= limit
    # Giving one unit back to some group must break the limit: the last unit taken was needed.
    kept = graph.kept_sizes(plan)
    more = [kept + (np.arange(kept.size) == number) for number in np.flatnonzero(kept < graph.sizes)]
    assert any(cost(other) > limit for other in more)


def test_the_cut_model_costs_what_the_plan_says(net: tuple[nn.Module, ChannelGraph]) -> None:
    model, graph = net
    plan = allocate(graph, score(graph, model, "l1"), Budget(macs=0.5, params=0.6))
    cut = trace(apply(model, plan, verify_with=None), INPUTS)
    assert cut.macs() == graph.macs(plan) <= graph.macs() // 2
    assert cut.params() == graph.params(plan) <= 0.6 * graph.params()
    assert Budget(macs=0.5, params=0.6).met_by(cut, graph)


def test_several_limits_bind_together(net: tuple[nn.Module, ChannelGraph]) -> None:
    model, graph = net
    scores = score(graph, model, "l1")
    macs, params = (graph.macs() // 2, graph.params() // 4)
    alone = allocate(graph, scores, Budget(macs=macs))
    assert graph.params(alone) > params
    both = allocate(graph, scores, Budget(macs=macs, params=params))
    assert graph.macs(both) <= macs
    assert graph.params(both) <= params


def test_lowest_scores_go_first_within_a_group(net: tuple[nn.Module, ChannelGraph]) -> None:
    model, graph = net
    scores = score(graph, model, "l1")
    plan = allocate(graph, scores, Budget(macs=0.5))
    for name, kept in plan.kept.items():
        gone = sorted(set(range(graph.group(name).size)) - set(kept))
        assert scores[name][gone].max() <= scores[name][list(kept)].min()


def test_local_scope_takes_the_same_share_everywhere(net: tuple[nn.Module, ChannelGraph]) -> None:
    model, graph = net
    plan = allocate(graph, score(graph, model, "l1"), Budget(macs=0.4), scope="local")
    kept = graph.kept_sizes(plan)
    prunable = np.asarray([group.prunable for group in graph.groups])
    shares = kept[prunable] / graph.sizes[prunable]
    assert shares.max() - shares.min() <= 1 / graph.sizes[prunable].min() + 1e-9


def test_isomorphic_scope_takes_the_same_share_of_alike_groups() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Conv2d(16, 16, 3, padding=1) for _ in range(6)])
    with torch.no_grad():
        model[1].weight.mul_(0.01)  # globally this layer would vanish without normalisation
    graph = trace(model, torch.zeros(1, 16, 8, 8))
    plan = allocate(graph, score(graph, model, "l1"), Budget(macs=0.5), scope="isomorphic")
    assert graph.macs(plan) <= graph.macs() // 2
    assert len(plan.kept) == 5


def test_rounding_and_minima_hold(net: tuple[nn.Module, ChannelGraph]) -> None:
    model, graph = net
    scores = score(graph, model, "l1")
    plan = allocate(graph, scores, Budget(macs=0.5), round_to=8)
    assert all(len(kept) % 8 == 0 for kept in plan.kept.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MinimumWarning)
        plan = allocate(graph, scores, Budget(macs=0.5), min_share=0.5)
    assert all(len(kept) >= 0.5 * graph.group(name).size for name, kept in plan.kept.items())
    locked = allocate(graph, scores, Budget(macs=0.7), lock=["layer1.*"])
    assert not any(name.startswith("layer1.") for name in locked.kept)


def test_impossible_budgets_name_the_least(net: tuple[nn.Module, ChannelGraph]) -> None:
    model, graph = net
    scores = score(graph, model, "l1")
    with pytest.raises(BudgetError, match=r"cannot reach macs ≤ 1,000: the smallest plan allowed needs [\d,]+"):
        allocate(graph, scores, Budget(macs=1000))
    # The least it names is possible, and one less is not.
    try:
        allocate(graph, scores, Budget(macs=1000))
    except BudgetError as error:
        least = int(str(error).rsplit(" ", 1)[-1].replace(",", ""))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MinimumWarning)
        assert graph.macs(allocate(graph, scores, Budget(macs=least))) == least
    with pytest.raises(BudgetError):
        allocate(graph, scores, Budget(macs=least - 1))


def test_falling_to_the_minimum_is_warned_about() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1))
    graph = trace(model, torch.zeros(1, 3, 4, 4))
    with pytest.warns(MinimumWarning, match="cut to their minimum"):
        allocate(graph, score(graph, model, "l1"), Budget(macs=0.07))


def test_bad_settings_are_refused(net: tuple[nn.Module, ChannelGraph]) -> None:
    model, graph = net
    scores = score(graph, model, "l1")
    half = Budget(macs=0.5)
    with pytest.raises(UsageError, match=r"min_units is 0"):
        allocate(graph, scores, half, min_units=0)
    with pytest.raises(UsageError, match=r"did you mean 'global'"):
        allocate(graph, scores, half, scope="globl")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=r"did you mean 'layer1.0.conv1'"):
        allocate(graph, scores, half, lock=["layer1.0.conf1"])
    with pytest.raises(PlanError, match=r"scores have shape \(3,\)"):
        allocate(graph, {**scores, "conv1": torch.zeros(3)}, half)
    with pytest.raises(PlanError, match="NaN"):
        allocate(graph, {**scores, "conv1": torch.full_like(scores["conv1"], float("nan"))}, half)


def test_a_budget_already_held_cuts_nothing(net: tuple[nn.Module, ChannelGraph]) -> None:
    model, graph = net
    assert allocate(graph, score(graph, model, "l1"), Budget(macs=1.0)).is_empty


def test_units_that_are_gone_go_first(net: tuple[nn.Module, ChannelGraph]) -> None:
    model, graph = net
    scores = score(graph, model, "l1")
    first = allocate(graph, scores, Budget(macs=0.8))
    marked = {name: values.clone() for name, values in scores.items()}
    for name, kept in first.kept.items():
        gone = sorted(set(range(graph.group(name).size)) - set(kept))
        marked[name][gone] = -torch.inf
    second = allocate(graph, marked, Budget(macs=0.5))
    assert all(set(second.kept.get(name, kept)) <= set(kept) for name, kept in first.kept.items())
    assert all(name in second.kept for name in first.kept)


def test_a_latency_budget_is_met_by_the_table(net: tuple[nn.Module, ChannelGraph]) -> None:
    class Table:
        """A runtime whose time is the number of units."""

        def latency_ms(self, graph: ChannelGraph, kept: np.ndarray) -> float:
            return float(kept.sum()) / 100

    model, graph = net
    plan = allocate(graph, score(graph, model, "l1"), Budget(latency_ms=0.75), table=Table())
    kept, limit = graph.kept_sizes(plan).sum(), 0.75 * graph.sizes.sum()
    assert limit - 1 < kept <= limit
