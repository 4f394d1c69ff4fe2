"""What methods say of how much is cut."""

import torch
from torch import nn

from secateur.graph import trace
from secateur.methods.cut_words import what_goes
from secateur.models import build_model


def test_what_one_cut_takes_in_the_singular_and_the_plural() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    graph = trace(model, torch.zeros(2, 1, 8, 8))
    assert what_goes(graph.plan({"0": [0, 1]})) == "1 group loses units"
    assert what_goes(graph.plan({"0": [0, 1], "1": [2]})) == "2 groups lose units"
    assert what_goes(graph.plan({})) == "nothing goes"


def test_blocks_that_go_whole() -> None:
    graph = trace(build_model("resnet20"), torch.zeros(2, 3, 32, 32))
    first, second, *_ = [block.name for block in graph.blocks if block.locked is None]
    assert what_goes(graph.plan({}, blocks=[first])) == "1 block dropped whole"
    both = graph.plan({"layer3.2.conv1": range(5)}, blocks=[first, second])
    assert what_goes(both) == "1 group loses units, 2 blocks dropped whole"
