"""Every row of the golden table of whole networks, counted by the graph's own arithmetic."""

import pytest
import torch

from secateur.cost import profile
from secateur.models import build_model, input_shape

# name: (parameters, multiply-adds); sources: He et al. 2016 and the papers of the networks, counted exactly.
GOLDEN = {
    "lenet-300-100": (266_610, 266_200),
    "lenet5": (431_080, 2_293_000),
    "resnet20": (269_722, 40_551_040),
    "resnet20-b": (272_474, 40_813_184),
    "resnet56": (853_018, 125_485_696),
    "resnet56-b": (855_770, 125_747_840),
    "resnet110": (1_727_962, 252_887_680),
    "resnet110-b": (1_730_714, 253_149_824),
    "vgg16-gd": (14_728_266, 313_201_664),
    "vgg16-l1": (14_982_474, 313_463_808),
    "vgg16-l1-bn": (14_990_922, 313_463_808),
    "vgg16-imagenet": (138_357_544, 15_470_264_320),
    "resnet50-caffe": (25_557_032, 3_857_973_248),
    "resnet50": (25_557_032, 4_089_184_256),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_numbers(name: str) -> None:
    with torch.device("meta"):
        model = build_model(name)
    shape = input_shape(name)
    assert shape is not None
    found = profile(model, torch.empty(2, *shape, device="meta"))
    assert (found.params, found.macs) == GOLDEN[name]


def test_gate_decorators_pruned_resnet56_has_its_published_cost() -> None:
    # Widths of the published checkpoint: inner convolutions only, residual streams whole.
    widths = [12, 1, 1, 1, 1, 6, 4, 8, 11, 25, 8, 6, 3, 3, 3, 3, 5, 3, 60, 23, 25, 23, 23, 9, 22, 22, 13]
    from secateur.graph import trace

    graph = trace(build_model("resnet56-b"), torch.zeros(1, 3, 32, 32))
    inner = [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(9)]
    plan = graph.plan({name: range(width) for name, width in zip(inner, widths, strict=True)})
    assert (graph.params(plan), graph.macs(plan)) == (286_034, 36_868_736)


def test_batch_does_not_matter() -> None:
    model = build_model("resnet20")
    one, four = (profile(model, torch.zeros(batch, 3, 32, 32)) for batch in (1, 4))
    assert one == four
