"""Latency tables: interpolation by hand, files, what they refuse, and budgets in milliseconds."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cost.synthetic_table import synthetic_table
from torch import nn

from secateur.cost import (
    Budget,
    LatencyTable,
    Milliseconds,
    OperatorTimes,
    allocate,
    parse_amount,
    read_latency_table,
    write_latency_table,
)
from secateur.cost.removing import fewest_that_hold, first_that_holds
from secateur.criteria import score
from secateur.errors import ArtifactError, BudgetError
from secateur.graph import ChannelGraph, trace

OPERATOR = {"path": "a", "weight": "a.weight", "out_sizes": [4], "in_sizes": [1], "ms": [[1.0]]}
WEIGHTS = ("0.weight", "2.weight", "4.weight")


@pytest.fixture(scope="module")
def net() -> tuple[nn.Module, ChannelGraph]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 5, 1)
    )
    return model, trace(model, torch.zeros(2, 3, 8, 8))


def test_times_are_interpolated_between_measured_widths() -> None:
    times = OperatorTimes(path="a", weight="a.weight", out_sizes=(8, 16), in_sizes=(4, 12), ms=((1.0, 3.0), (2.0, 6.0)))
    assert times.alone_ms(8, 4) == 1.0
    assert times.alone_ms(16, 12) == 6.0
    assert times.alone_ms(12, 4) == 1.5
    assert times.alone_ms(12, 8) == pytest.approx((1 + 3 + 2 + 6) / 4)
    # Outside of what was measured nothing is made up.
    assert times.alone_ms(2, 1) == 1.0


def test_a_part_of_a_block_costs_as_much_as_the_block() -> None:
    times = OperatorTimes(
        path="a",
        weight="a.weight",
        out_sizes=(8, 16, 32, 48),
        in_sizes=(3,),
        ms=((1.0,), (2.0,), (4.0,), (6.0,)),
        block=16,
    )
    assert [times.alone_ms(size, 3) for size in (8, 12, 16, 17, 24, 32, 40)] == [1.0, 1.5, 2.0, 4.0, 4.0, 4.0, 6.0]


def test_a_table_adds_up_its_operators(net: tuple[nn.Module, ChannelGraph]) -> None:
    _, graph = net
    table = replace(synthetic_table(graph, WEIGHTS), overhead_ms=0.5, scale=2.0, rest_ms_per_byte=1e-6)
    stored = float(graph.costs.storages.values(graph.costs.forms.sizes(graph.sizes)).sum())
    expected = 0.5 + 2.0 * (1e-6 * stored + (32 * 3 + 48 * 32 + 5 * 48) / 1000)
    assert table.latency_ms(graph, graph.sizes) == pytest.approx(expected)


def test_a_table_tells_the_cut_networks_own_graph_the_same(net: tuple[nn.Module, ChannelGraph]) -> None:
    _, graph = net
    table = replace(synthetic_table(graph, WEIGHTS), rest_ms_per_byte=1e-6)
    plan = graph.plan({"0": range(8), "2": range(20)})
    after = graph.after(plan)
    assert table.latency_ms(after, after.sizes) == pytest.approx(table.latency_ms(graph, graph.kept_sizes(plan)))


def test_a_table_is_the_same_after_writing_and_reading(net: tuple[nn.Module, ChannelGraph], tmp_path: Path) -> None:
    table = synthetic_table(net[1], WEIGHTS)
    write_latency_table(tmp_path / "table.json", table)
    again = read_latency_table(tmp_path / "table.json")
    assert again == table
    assert again.digest == table.digest
    assert replace(table, scale=1.5).digest != table.digest


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format": 2}, "latency table format 2, but this version reads format 1"),
        ({"scale": -1.0}, "negative or not finite"),
        ({"unknown": 1}, "unknown"),
        ({"precision": "fp64"}, "precision"),
        ({"operators": [OPERATOR | {"out_sizes": [8, 4], "ms": [[1.0], [1.0]]}]}, "must be positive and rise"),
        ({"operators": [OPERATOR | {"ms": [[1.0, 2.0]]}]}, "1 rows of 1"),
    ],
)
def test_a_damaged_table_is_refused(
    net: tuple[nn.Module, ChannelGraph], tmp_path: Path, change: dict[str, object], match: str
) -> None:
    path = tmp_path / "table.json"
    write_latency_table(path, synthetic_table(net[1], WEIGHTS))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError, match=match):
        read_latency_table(path)


def test_a_table_of_something_else_is_refused(net: tuple[nn.Module, ChannelGraph]) -> None:
    model, graph = net
    table = synthetic_table(graph, WEIGHTS)
    table.check(graph, input_shape=(3, 8, 8), threads=1)
    other = trace(nn.Conv2d(3, 4, 1), torch.zeros(2, 3, 8, 8))
    with pytest.raises(BudgetError, match=f"{graph.fingerprint}, but this is .*{other.fingerprint}"):
        table.check(other)
    with pytest.raises(BudgetError, match="3×8×8, but these are 3×16×16"):
        table.check(graph, input_shape=(3, 16, 16))
    larger = trace(model, torch.zeros(2, 3, 16, 16))
    with pytest.raises(BudgetError, match=rf"{graph.macs():,} MACs.*{larger.macs():,}"):
        Budget(latency_ms=0.5).with_table(table).limits(larger)
    with pytest.raises(BudgetError, match="1 thread, but the model is to run with 4"):
        table.check(graph, threads=4)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2])
def test_allocate_lands_within_one_step_of_the_limit(net: tuple[nn.Module, ChannelGraph], share: float) -> None:
    model, graph = net
    table = synthetic_table(graph, WEIGHTS, multiple=8, step=8)
    budget = Budget(latency_ms=share).with_table(table)
    plan = allocate(graph, score(graph, model, "l1"), budget)
    kept = graph.kept_sizes(plan)
    limit = budget.limits(graph)["latency_ms"]
    assert all(size % 8 == 0 or size == whole for size, whole in zip(kept, graph.sizes, strict=True))
    assert table.latency_ms(graph, kept) <= limit
    # With one step of 8 units more in some group it would be above.
    more = [
        kept + 8 * (np.arange(len(kept)) == number) for number in range(len(kept)) if kept[number] < graph.sizes[number]
    ]
    assert any(table.latency_ms(graph, np.minimum(one, graph.sizes)) > limit for one in more)


def test_several_limits_hold_at_once(net: tuple[nn.Module, ChannelGraph]) -> None:
    model, graph = net
    budget = Budget(latency_ms=0.9, macs=0.3).with_table(synthetic_table(graph, WEIGHTS))
    plan = allocate(graph, score(graph, model, "l1"), budget)
    assert budget.met_by(graph.after(plan), graph)
    assert graph.macs(plan) <= 0.3 * graph.macs()


def test_latency_that_rises_on_the_way_down_is_not_passed_by(net: tuple[nn.Module, ChannelGraph]) -> None:
    """Kernels want multiples: here every size that is none of 8 takes twice as long, and so does the smallest plan."""
    model, graph = net

    def ms(outputs: int, inputs: int) -> float:
        whole = outputs % 8 == 0 or outputs == 5
        return outputs * inputs / 1000 * (1 if whole else 2)

    table = synthetic_table(graph, WEIGHTS, ms)
    budget = Budget(latency_ms=0.7).with_table(table)
    scores = {name: values for name, values in score(graph, model, "l1").items() if name == "2"}
    plan = allocate(graph, scores, budget)
    # One unit less at a time, the first network that holds: 48 → 32 of the middle layer.
    costs = [table.latency_ms(graph, graph.kept_sizes(graph.plan({"2": range(size)}))) for size in range(48, 0, -1)]
    first = next(size for size, cost in zip(range(48, 0, -1), costs, strict=True) if cost <= 0.7 * costs[0])
    assert graph.kept_sizes(plan)[[group.name for group in graph.groups].index("2")] == first


def test_what_bisection_would_miss() -> None:
    # Holds at 3 and from 8 on: bisection over 0 to 10 lands at 8.
    holds = {3, 8, 9, 10}
    assert fewest_that_hold(10, holds.__contains__) == 8
    assert first_that_holds(10, lambda count: np.asarray([count]), holds.__contains__) == 3
    # And where the deepest cut does not hold it would find none.
    assert fewest_that_hold(10, {3}.__contains__) is None
    assert first_that_holds(10, lambda count: np.asarray([count]), {3}.__contains__) == 3
    assert (
        first_that_holds(10, lambda count: np.asarray([count // 4]), {3}.__contains__) is None
    )  # sizes did not change


def test_a_limit_out_of_reach_is_named(net: tuple[nn.Module, ChannelGraph]) -> None:
    model, graph = net
    budget = Budget(latency_ms=Milliseconds(0.2)).with_table(synthetic_table(graph, WEIGHTS, overhead_ms=0.5))
    with pytest.raises(BudgetError, match=r"cannot reach latency_ms ≤ 0\.2 ms: .* needs 0\.5"):
        allocate(graph, score(graph, model, "l1"), budget)


def test_milliseconds_of_at_most_one_are_no_share(net: tuple[nn.Module, ChannelGraph]) -> None:
    _, graph = net
    table = synthetic_table(graph, WEIGHTS)
    whole = table.latency_ms(graph, graph.sizes)
    assert Budget(latency_ms=0.5).with_table(table).limits(graph)["latency_ms"] == pytest.approx(whole / 2)
    assert Budget(latency_ms=Milliseconds(0.5)).with_table(table).limits(graph) == {"latency_ms": 0.5}
    assert Budget(latency_ms=3).with_table(table).limits(graph) == {"latency_ms": 3.0}
    assert Budget(latency_ms=Milliseconds(0.5)).describe() == "latency_ms ≤ 0.5"


@pytest.mark.parametrize(
    ("text", "amount"), [("0.5x", 0.5), ("50%", 0.5), ("3.2", 3.2), ("3.2ms", 3.2), ("0.4 ms", 0.4)]
)
def test_latencies_as_users_write_them(text: str, amount: float) -> None:
    found = parse_amount("latency_ms", text)
    assert found == amount
    assert isinstance(found, Milliseconds) == text.endswith("ms")


@pytest.mark.parametrize("text", ["2x", "fastms", "-1ms", "0x", "ms"])
def test_latencies_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(BudgetError, match="latency_ms is"):
        parse_amount("latency_ms", text)


def test_a_budget_tells_its_table_in_json(net: tuple[nn.Module, ChannelGraph]) -> None:
    table = synthetic_table(net[1], WEIGHTS)
    assert Budget(macs=0.5).to_json() == {"macs": 0.5}
    timed = Budget(latency_ms=Milliseconds(0.4), macs=7).with_table(table)
    assert timed.to_json() == {"macs": 7, "latency_ms": "0.4ms", "latency_table": table.digest}
    other = timed.with_limits({"latency_ms": 2.0})
    assert other.latency_model is table
    assert other.given() == {"latency_ms": 2.0}
    assert isinstance(table, LatencyTable)
