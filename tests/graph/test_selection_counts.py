"""Parameters and multiply-adds that Network Slimming's percentages leave of its networks when scales are random.

Table 1 of Liu et al. 2017 (arXiv:1708.06519) has trained scales, which differ from layer to layer; uniform ones cut the
same share everywhere. So the dense counts are the published ones, and the cut ones are what chance gives: DenseNet-40,
where every channel is selected and counts nearly alike, comes near the table, and the others lose more than there. The
published counts of ResNet-164 lie between chance and scales that are smallest behind the stream.
"""

from dataclasses import dataclass
from statistics import mean, pstdev

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from secateur.graph import ChannelGraph, Plan, trace
from secateur.models import build_model
from secateur.randomness import generator_for

SEEDS = range(5)


def slimmed(graph: ChannelGraph, scales: dict[str, NDArray[np.float64]], share: float) -> Plan:
    """Return the plan of one global percentile over |γ| (§3): selected behind a norm of the stream, else cut.

    A channel stays if its scale is strictly above the one at place ⌊total · share⌋; the largest of a norm always stays.
    """
    values = np.sort(np.concatenate(list(scales.values())))
    threshold = values[int(values.size * share)]
    selection_of = {selection.norm: selection for selection in graph.selections}
    group_of = {
        member.parameter: group for group in graph.groups for member in group.members if member.role == "carries"
    }
    kept, selected = {}, {}
    for norm, values in scales.items():
        stays = np.flatnonzero((values > threshold) | (values == values.max())).tolist()
        if norm in selection_of:
            selected[selection_of[norm].module] = stays
        else:
            kept[group_of[f"{norm}.weight"].name] = stays
    return graph.plan(kept, selected=selected)


def random_scales(model: nn.Module, seed: int) -> dict[str, NDArray[np.float64]]:
    return {
        name: torch.rand(module.num_features, generator=generator_for(seed, name)).double().numpy()
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    }


@dataclass(frozen=True)
class Row:
    """What is left: parameters published (millions), by chance (mean and deviation over seeds), and at the other end.

    At the other end the smallest scales are all in norms of the stream, so that selections bear the cut first.
    """

    published: float
    params: float
    deviation: float
    macs: float
    selected_first: int | None = None


MEASURED = {
    ("vgg19-slimming", 0.7): Row(2.30, 1_798_604, 24_092, 37_487_402),
    ("resnet164-preact", 0.4): Row(1.44, 739_556, 9_291, 105_536_808, 1_474_674),
    ("resnet164-preact", 0.6): Row(1.10, 409_867, 4_763, 56_888_589, 1_361_930),
    ("densenet40", 0.4): Row(0.66, 619_778, 1_646, 159_930_431),
    ("densenet40", 0.7): Row(0.35, 318_841, 1_388, 79_681_244),
}


@pytest.fixture(scope="module")
def traced() -> dict[str, tuple[ChannelGraph, nn.Module]]:
    found = {}
    for name in {name for name, _ in MEASURED}:
        with torch.device("meta"):
            model = build_model(name)
        found[name] = (trace(model, torch.empty(1, 3, 32, 32)), model)
    return found


@pytest.mark.parametrize(("name", "share"), MEASURED)
def test_counts_at_the_published_shares(
    name: str, share: float, traced: dict[str, tuple[ChannelGraph, nn.Module]]
) -> None:
    graph, model = traced[name]
    row = MEASURED[name, share]
    plans = [slimmed(graph, random_scales(model, seed), share) for seed in SEEDS]
    params = [graph.params(plan) for plan in plans]
    assert mean(params) == pytest.approx(row.params, rel=1e-5)
    assert pstdev(params) == pytest.approx(row.deviation, rel=1e-3)
    assert mean(graph.macs(plan) for plan in plans) == pytest.approx(row.macs, rel=1e-5)
    assert graph.after(plans[0]).params() == params[0]
    assert mean(params) < 1e6 * row.published
    if row.selected_first is not None:
        stream = {selection.norm for selection in graph.selections}
        scales = {norm: scale + (norm not in stream) for norm, scale in random_scales(model, 0).items()}
        assert graph.params(slimmed(graph, scales, share)) == row.selected_first
        assert 1e6 * row.published < row.selected_first
