"""Which operator ties what: named with module and source line, and enough of them to hold every group together."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cutting import random_plan
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.errors import PlanError
from secateur.graph import ChannelGraph, Tie, apply, trace
from secateur.graph.ties import CONSTANTS, Joined
from secateur.torchvision_shim import import_torchvision


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2 * width)
        self.conv2 = nn.Conv2d(2 * width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv2(self.norm(self.conv1(x)).relu())
        return x + branch


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.blocks = nn.Sequential(Block(4), Block(4))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 24)
        self.proj = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(x.shape[0], x.shape[1], 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(x.shape[0], x.shape[1], 8))


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(3, 2, 1)
        self.wide = nn.Conv2d(3, 4, 1)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.pad(self.narrow(x), (0, 0, 0, 0, 1, 1)) + self.wide(x))


IMAGE = (2, 3, 8, 8)


def line_of(text: str) -> str:
    """Return where the only line of this file that ends in ``text`` stands."""
    lines = Path(__file__).read_text().splitlines()
    found = [number for number, line in enumerate(lines, 1) if line.strip() == text]
    assert len(found) == 1
    return f"{Path(__file__).name}:{found[0]}"


def members(graph: ChannelGraph, name: str) -> set[tuple[str, int]]:
    return {(member.parameter, member.dim) for member in graph.group(name).members}


def check_ties(graph: ChannelGraph) -> None:
    """Law: every tie joins something, and the ties of a group join all of its members."""
    for group in graph.groups:
        joined = Joined[tuple[str, int]]()
        all_members = members(graph, group.name)
        for tie in graph.why(group.name).ties:
            assert set(tie.members) <= all_members | {CONSTANTS}, (group.name, tie)
            joins = [joined.join(tie.members[0], other) for other in tie.members[1:]]
            assert any(joins) or len(tie.members) == 1, tie
        first = next(iter(all_members))
        assert all_members <= set(joined.together(first)), (group.name, all_members)


def test_a_residual_stream_is_held_together_by_its_sums() -> None:
    graph = trace(Net().eval(), torch.randn(IMAGE))
    ties = graph.why("stem").ties
    block, head = line_of("return x + branch"), line_of("return self.head(self.blocks(self.stem(x)).mean((2, 3)))")
    assert [tie for tie in ties if tie.operator == "add"] == [
        Tie("stem", "add", "blocks.0", block, (("stem.weight", 0), ("blocks.0.conv2.weight", 0))),
        Tie("stem", "add", "blocks.1", block, (("stem.weight", 0), ("blocks.1.conv2.weight", 0))),
    ]
    assert ties[0] == Tie("stem", "convolution", "stem", head, (("stem.weight", 0), ("stem.bias", 0)))
    inner = graph.why("blocks.1.conv1")
    assert [(tie.operator, tie.module) for tie in inner.ties] == [
        ("batch_norm", "blocks.1.norm"),
        ("convolution", "blocks.1.conv2"),
    ]
    assert inner.ties[0].members[0] == ("blocks.1.conv1.weight", 0)
    assert {name for name, _ in inner.ties[0].members[1:]} == {
        f"blocks.1.norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")
    }


def test_the_account_of_a_group_reads_as_it_is() -> None:
    text = str(trace(Net().eval(), torch.randn(IMAGE)).why("stem"))
    joined = " ".join(text.split())
    assert f"add in blocks.0 ({line_of('return x + branch')}) ties stem.weight out with blocks.0.conv2.weight" in joined
    assert "blocks.1.conv1.weight dim 1 1 slice, consumes" in joined
    assert "It may be cut" in text
    assert max(map(len, text.splitlines())) <= 100
    normed = str(trace(Net().eval(), torch.randn(IMAGE)).why("blocks.0.conv1"))
    assert "blocks.0.norm.{weight, bias, running_mean, running_var}" in " ".join(normed.split())


def test_a_locked_group_says_where() -> None:
    graph = trace(Net().eval(), torch.randn(IMAGE))
    assert "cannot be cut: output of the model" in str(graph.why("head"))
    told = graph.why("stem#2")
    assert "reads the model's input" in str(told)
    assert "No operator ties it" in str(told)
    assert told.ties == ()


def test_a_view_ties_the_channels_of_a_head() -> None:
    graph = trace(Heads().eval(), torch.randn(2, 7, 6))
    ties = [tie for tie in graph.why("qkv").ties if len(tie.members) == 1]
    assert [(tie.operator, tie.members) for tie in ties] == [("view", (("qkv.weight", 0),))]
    assert "several slices to each unit" in " ".join(str(graph.why("qkv")).split())
    assert graph.why("qkv").to_json()["members"][0]["slices_per_unit"] > 1


def test_channels_of_a_pad_are_named_as_what_they_are() -> None:
    graph = trace(Padded().eval(), torch.randn(2, 3, 4, 4))
    check_ties(graph)
    constant = [tie for tie in graph.ties if CONSTANTS in tie.members]
    assert [(tie.operator, tie.module) for tie in constant] == [("add", ""), ("convolution", "last")]
    assert {name for tie in constant for name, _ in tie.members} == {"", "wide.weight", "last.weight"}
    told = graph.why(constant[0].group)
    assert told.group.locked is not None
    assert "ties constant channels with wide.weight out" in " ".join(str(told).split())


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v3_small", "googlenet", "densenet121"])
def test_the_ties_hold_every_group_together(name: str) -> None:
    more = {"init_weights": False} if name == "googlenet" else {}
    model = getattr(import_torchvision().models, name)(weights=None, **more).eval()
    graph = trace(model, torch.randn(2, 3, 64, 64))
    assert len(graph.ties) > len(graph.groups) / 2
    check_ties(graph)


def test_a_cut_leaves_the_ties_as_they_are() -> None:
    model, given = import_torchvision().models.resnet18(weights=None).eval(), torch.randn(2, 3, 64, 64)
    graph = trace(model, given)
    plan = random_plan(graph, 0.5)
    small = apply(model, plan, verify_with=None)
    assert tuple(graph.after(plan).ties) == tuple(trace(small, given).ties)


def test_what_a_dropped_block_tied_stays_tied() -> None:
    model, given = Net().eval(), torch.randn(IMAGE)
    graph = trace(model, given)
    plan = graph.drop_blocks(["blocks.0"])
    after = graph.after(plan)
    check_ties(after)
    assert not any("blocks.0" in name for tie in after.ties for name, _ in tie.members)
    assert {tie.group for tie in after.ties} == {"stem", "blocks.1.conv1", "head"}


def test_ties_are_an_account_and_not_what_graphs_are_compared_by() -> None:
    graph = trace(Net().eval(), torch.randn(IMAGE))
    bare = replace(graph, ties=())
    assert bare == graph
    assert bare.digest() == graph.digest()
    data = json.loads(json.dumps(graph.to_json()))
    assert tuple(ChannelGraph.from_json(data).ties) == tuple(graph.ties)
    del data["ties"]
    assert not ChannelGraph.from_json(data).ties
    assert tuple(pickle.loads(pickle.dumps(graph)).ties) == tuple(graph.ties)


def test_a_wrong_name_is_refused_with_the_nearest() -> None:
    graph = trace(Net().eval(), torch.randn(IMAGE))
    with pytest.raises(PlanError, match=r"unknown group 'blocks.0.conv'; did you mean 'blocks.0.conv1'\?"):
        graph.why("blocks.0.conv")


def test_macs_of_groups_by_hand() -> None:
    graph = trace(Net().eval(), torch.randn(IMAGE))
    places = 6 * 6  # of the stem's output and of everything in the blocks
    stem, first, second, head = 9 * 3 * 4 * places, 9 * 4 * 8 * places, 8 * 4 * places, 4 * 2
    assert graph.macs() == stem + 2 * (first + second) + head
    macs = graph.macs_of_groups()
    assert macs["stem#2"] == stem
    assert macs["blocks.0.conv1"] == first + second
    assert macs["stem"] == graph.macs()
    assert macs["head"] == head
    number = [group.name for group in graph.groups].index
    either = [number("blocks.0.conv1"), number("head")]
    assert graph.costs.macs_of_any(graph.sizes, either) == first + second + head
