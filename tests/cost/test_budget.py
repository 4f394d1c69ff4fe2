"""What a budget means, and how it is refused."""

import pytest
import torch
from torch import nn

from secateur.cost import Budget, parse_amount
from secateur.errors import BudgetError
from secateur.graph import trace


def test_shares_are_of_the_original_and_integers_absolute() -> None:
    graph = trace(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)), torch.zeros(1, 3, 5, 5))
    # 25 positions: 3·8 + 8·4 = 56 multiply-adds each; parameters 32 + 36.
    assert Budget(macs=0.5, params=60).limits(graph) == {"macs": 700.0, "params": 60.0}


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0.5", 0.5),
        ("50%", 0.5),
        ("60M", 60_000_000),
        ("1.5k", 1500),
        ("1_000", 1000),
        ("2G", 2 * 10**9),
        ("1", 1),
        ("1e5", 100_000),
    ],
)
def test_amounts_as_users_write_them(text: str, amount: float) -> None:
    found = parse_amount("macs", text)
    assert found == amount
    assert type(found) is type(amount)


@pytest.mark.parametrize("text", ["", "half", "1.5", "0", "-3", "0.0", "150%", "nan", "5x"])
def test_amounts_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(BudgetError, match=r"macs is"):
        parse_amount("macs", text)


def test_an_empty_budget_is_refused() -> None:
    with pytest.raises(BudgetError, match="give at least one of: macs"):
        Budget()


def test_a_latency_budget_needs_a_table() -> None:
    graph = trace(nn.Conv2d(3, 8, 1), torch.zeros(1, 3, 5, 5))
    with pytest.raises(BudgetError, match="needs a latency table"):
        Budget(latency_ms=0.5).limits(graph)


def test_a_latency_table_is_used() -> None:
    class Table:
        def latency_ms(self, graph: object, kept: object) -> float:
            return float(kept.sum()) / 10  # type: ignore[attr-defined]

    graph = trace(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)), torch.zeros(1, 3, 5, 5))
    assert Budget(latency_ms=0.5).limits(graph, Table()) == {"latency_ms": pytest.approx(0.5 * 1.5)}
