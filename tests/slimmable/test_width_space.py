"""Which counts a group may keep, by hand, and the laws of a space of widths."""

import json

import pytest
import torch
from slimmable_networks import photos, tiny_residual
from torch import nn

from secateur.errors import PlanError, UsageError
from secateur.graph import ChannelGraph, apply, trace
from secateur.slimmable import WidthSpace, plan_of, width_space


@pytest.fixture
def graph() -> ChannelGraph:
    return trace(tiny_residual(), photos())


def one_layer(width: int) -> ChannelGraph:
    return trace(nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2)), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("width", "settings", "counts"),
    [
        (96, {}, (8, 16, 32, 40, 48, 56, 64, 80, 88, 96)),  # 9.6, 19.2, 28.8, 38.4, 48, 57.6, 67.2, 76.8, 86.4
        (24, {}, (8, 16, 24)),
        (96, {"steps": 12, "lower": 2 / 12}, (16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96)),
        (20, {}, (8, 16, 20)),  # the whole is always there
        (16, {}, (4, 8, 12, 16)),  # of 8 only two are left: 1.6 … 14.4 to multiples of 4
        (6, {}, (2, 4, 6)),
        (3, {}, (1, 2, 3)),
        (2, {}, (1, 2)),
        (40, {"steps": 4, "lower": 0.5, "multiple": 1}, (20, 30, 40)),
        (40, {"steps": 10, "lower": 0.1, "multiple": 4}, (4, 8, 12, 16, 20, 24, 28, 32, 36, 40)),
    ],
)
def test_counts_by_hand(width: int, settings: dict[str, float], counts: tuple[int, ...]) -> None:
    space = width_space(one_layer(width), **settings)
    assert space.choices == {"0": counts}


def test_a_stream_is_one_group_and_locked_groups_have_no_choice(graph: ChannelGraph) -> None:
    space = width_space(graph)
    assert space.choices == {"stem": (4, 8, 12, 16), "expand": (8, 16, 24)}
    assert graph.group("stem").is_stream
    assert width_space(graph, skip=["stem"]).choices == {"expand": (8, 16, 24)}


def test_ends_middle_and_next_below(graph: ChannelGraph) -> None:
    space = width_space(graph)
    assert space.largest() == {"stem": 16, "expand": 24}
    assert space.smallest() == {"stem": 4, "expand": 8}
    assert space.uniform(0.7) == {"stem": 12, "expand": 16}  # 11.2 and 16.8
    assert space.uniform(0.5) == {"stem": 8, "expand": 8}  # 12 lies between 8 and 16: the smaller
    assert space.below(space.largest(), "expand") == 16
    assert space.below({}, "stem") == 12
    assert space.below(space.smallest(), "stem") is None
    assert space.complete({"expand": 8}) == {"stem": 16, "expand": 8}


def test_draws_are_uniform_and_independent(graph: ChannelGraph) -> None:
    space = width_space(graph)
    generator = torch.Generator().manual_seed(0)
    drawn = [tuple(space.sample(generator).values()) for _ in range(1200)]
    counted = {pair: drawn.count(pair) for pair in set(drawn)}
    assert len(counted) == 12  # 4 × 3, each expected 100 times with a deviation of 9.6
    assert all(60 < number < 140 for number in counted.values())
    again = torch.Generator().manual_seed(0)
    assert [tuple(space.sample(again).values()) for _ in range(5)] == drawn[:5]


def test_the_default_generator_is_used_without_one(graph: ChannelGraph) -> None:
    space = width_space(graph)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        first = [space.sample() for _ in range(4)]
        torch.manual_seed(5)
        assert [space.sample() for _ in range(4)] == first
        assert len({str(widths) for widths in first}) > 1


def test_every_width_is_a_prefix_and_the_cut_is_exact(graph: ChannelGraph) -> None:
    model = tiny_residual()
    space = width_space(graph)
    for widths in (space.smallest(), space.uniform(0.5), space.sample(torch.Generator().manual_seed(2))):
        plan = plan_of(graph, widths)
        assert all(plan.kept[name] == tuple(range(count)) for name, count in widths.items() if name in plan.kept)
        small = apply(model, plan, verify_with=photos())  # proves, or raises
        again = trace(small, photos())
        assert {name: again.group(name).size for name in widths} == widths
        assert graph.macs(plan) == again.macs()
    assert plan_of(graph, space.largest()).is_empty


def test_a_space_comes_back_from_json(graph: ChannelGraph) -> None:
    space = width_space(graph)
    assert WidthSpace.from_json(json.loads(json.dumps(space.to_json()))) == space


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "has format 2, but this version reads 1"),
        ({"choices": {"stem": [4, 4]}}, r"group 'stem' are \[4, 4\], but must be ascending counts from 1 on"),
        ({"choices": {"stem": [0, 4]}}, "must be ascending"),
        ({"choices": {"stem": []}}, "must be ascending"),
        ({"choices": {"stem": [True, 4]}}, "must be ascending"),
        ({"choices": []}, "must be a text and choices lists by group"),
        ({"more": 1}, "must have format, fingerprint and choices, and no more"),
    ],
)
def test_what_is_no_space_is_refused(graph: ChannelGraph, change: dict[str, object], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        WidthSpace.from_json({**width_space(graph).to_json(), **change})


def test_mistakes_are_refused_in_a_sentence(graph: ChannelGraph) -> None:
    space = width_space(graph)
    with pytest.raises(UsageError, match=r"lower is 1\.5, but must lie in \(0, 1\]"):
        width_space(graph, lower=1.5)
    with pytest.raises(UsageError, match="steps is 0 and multiple is 8"):
        width_space(graph, steps=0)
    with pytest.raises(PlanError, match="did you mean 'stem'"):
        width_space(graph, skip=["stam"])
    with pytest.raises(UsageError, match="has widths to choose from: of 4 groups 2 are skipped"):
        width_space(graph, skip=["stem", "expand"])
    with pytest.raises(UsageError, match=r"ratio is 0, but must lie in \(0, 1\]"):
        space.uniform(0)
    with pytest.raises(PlanError, match="group with choices 'expnd'; did you mean 'expand'"):
        space.below({}, "expnd")
    with pytest.raises(PlanError, match="would keep 9 units, but may keep 8, 16, 24"):
        space.complete({"expand": 9})
    with pytest.raises(PlanError, match="'expand' has 24 units, but would keep 25; keep 1 to 24"):
        plan_of(graph, {"expand": 25})
    with pytest.raises(PlanError, match="call width_space on this model's own graph"):
        space.check(one_layer(8))
