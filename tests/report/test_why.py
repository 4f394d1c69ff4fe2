"""What holds a model back: reasons told apart from places, gains by hand, long lists shortened with a count."""

import json

import pytest
import torch
from torch import Tensor, nn

from secateur.graph import ChannelGraph, trace
from secateur.report import groups_grid, limits, why_json, why_text
from secateur.report.why import placed


class Odd(nn.Module):
    """Seven layers that an operator without a rule locks, one that a norm across channels does, one free."""

    def __init__(self) -> None:
        super().__init__()
        self.locked = nn.ModuleList(nn.Conv2d(4 if number else 3, 4, 1, bias=False) for number in range(7))
        self.normed = nn.Conv2d(4, 4, 1, bias=False)
        self.norm = nn.LayerNorm(4)
        self.free = nn.Conv2d(4, 8, 1, bias=False)
        self.head = nn.Conv2d(8, 2, 1, bias=False)
        self.unused = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.locked:
            x = layer(x)
            x = x + torch.linalg.matrix_exp(x)
        x = self.norm(self.normed(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(self.free(x))


@pytest.fixture(scope="module")
def graph() -> ChannelGraph:
    return trace(Odd().eval(), torch.randn(1, 3, 2, 2))


@pytest.mark.parametrize(
    ("reason", "parts"),
    [
        ("output of the model", ("output of the model", "", "")),
        ("squeezed away in module 'a.b' (net.py:7)", ("squeezed away", "a.b", "net.py:7")),
        (
            "its size is written in the code of module 'a' (x.py:1)",
            ("its size is written in the code", "a", "x.py:1"),
        ),
        ("its size is written in the code (x.py:12)", ("its size is written in the code", "", "x.py:12")),
        ("one (of two) in a row", ("one (of two) in a row", "", "")),
    ],
)
def test_a_reason_is_told_apart_from_its_place(reason: str, parts: tuple[str, str, str]) -> None:
    assert placed(reason) == parts


def test_gains_by_hand(graph: ChannelGraph) -> None:
    places = 2 * 2
    total = places * (3 * 4 + 6 * 4 * 4 + 4 * 4 + 4 * 8 + 8 * 2)
    assert graph.macs() == total
    found = {limit.reason: limit for limit in limits(graph)}
    # With one unit of the free group left, the last locked group still reads into normed, which is left alone.
    normed = found["normalised across channels"]
    assert normed.approximate
    assert normed.gain == pytest.approx(places * ((4 * 4 - 4 * 1) + (4 * 1 - 1 * 1)) / total)
    assert normed.macs == places * (4 * 4 + 4 * 8)
    output = found["output of the model"]
    assert output.gain == pytest.approx(places * (1 * 2 - 1 * 1) / total)
    unknown = next(limit for reason, limit in found.items() if "has no rule" in reason)
    assert unknown.gain == pytest.approx(places * (3 * 4 + 6 * 16 + 16 - 3 - 6 - 4) / total)
    assert limits(graph)[0] == unknown
    assert limits(graph)[-1] == normed


def test_everything_that_holds_the_model_back_is_said(graph: ChannelGraph) -> None:
    text = why_text(graph)
    words = " ".join(text.split())
    assert "Cannot be cut (9 groups)" in text
    assert "… 3 more of the same reason: locked.4, locked.5, locked.6" in text
    assert "test_why.py:" in text
    assert "Left alone, because a cut would only be approximate (1 group) normalised across channels normed" in words
    assert "Not reached: 2 parameters that no run reads, left as they are unused.weight, unused.bias" in words
    assert "aten.linalg_matrix_exp.default" in text
    assert f"At most {100 * graph.prunable_share_of_macs():.1f} % of 688 MACs can be cut" in text
    assert max(map(len, text.splitlines())) <= 100
    whole = why_text(graph, whole=True)
    assert "more of the same reason" not in whole
    assert all(f"locked.{number}" in whole for number in range(7))


def test_blocks_and_integers_are_left_out_where_only_locks_are_asked_for() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    graph = trace(nn.Sequential(nn.Linear(3, 8), _Mixer(), layer).eval(), torch.randn(1, 4, 3))
    assert "Can be dropped whole (" in why_text(graph)
    assert "Can be dropped whole" not in why_text(graph, locked=True)
    assert "Cannot be cut" in why_text(graph, locked=True)


class _Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(x)


def test_the_table_stays_short_and_counts_the_rest(graph: ChannelGraph) -> None:
    grid = groups_grid(graph, limit=5)
    assert [row[0] for row in grid.rows[:2]] == ["locked.0", "locked.0#2"]
    assert grid.rows[-1][0] == f"… {len(graph.groups) - 5} more"
    assert (
        len(groups_grid(graph).rows) == len(groups_grid(graph, limit=len(graph.groups) - 1).rows) == len(graph.groups)
    )
    rows = {row[0]: row for row in groups_grid(graph).rows}
    assert rows["free"][1:3] == ("yes", "head")
    assert rows["normed"][1] == "approx."
    assert rows["free"][-1] == f"{100 * (32 + 16) * 4 / graph.macs():.1f} %"


def test_the_report_is_json(graph: ChannelGraph) -> None:
    data = json.loads(json.dumps(why_json(graph)))
    assert data["macs"] == 688
    assert data["share_of_macs"]["head"] == pytest.approx(16 * 4 / 688)
    assert data["limits"][0]["groups"] == [f"locked.{number}" for number in range(7)]
