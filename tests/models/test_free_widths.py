"""Networks with a width for every layer: what a list of widths means, and that any of them is cut exactly."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from secateur.errors import ModelError
from secateur.graph import ChannelGraph, apply, trace, verify
from secateur.models import (
    MNasNet,
    MobileNetV1,
    MobileNetV2,
    ResNet50,
    autoslim,
    build_model,
    mnasnet,
    mobilenet_v1,
    mobilenet_v2,
    resnet50,
)
from secateur.models.widths import scaled

CLASSES: dict[str, Callable[..., nn.Module]] = {
    "MobileNet v1": MobileNetV1,
    "MobileNet v2": MobileNetV2,
    "MNasNet": MNasNet,
    "ResNet-50": ResNet50,
}
# No factor gives these; layers that are added share their number.
LISTS: dict[str, list[int]] = {
    "MobileNet v1": [3, 5, 6, 7, 8, 9, 10, 9, 8, 7, 6, 5, 11, 4],
    "MobileNet v2": [4, 4, *(5, 6, 7, 6), *(9, 5) * 3, *(8, 7) * 4, *(6, 7) * 3, *(5, 9) * 3, 7, 3, 20],
    "MNasNet": [4, 4, *(5, 6, 7, 6, 8, 6), *(9, 5) * 3, *(8, 7) * 3, *(6, 7) * 2, *(5, 9) * 4, 7, 3, 20],
    "ResNet-50": [3, 6, *(4, 5) * 3, 7, *(2, 3) * 4, 5, *(3, 2) * 6, 9, *(4, 3) * 3],
}


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def half_of_every_group(graph: ChannelGraph) -> dict[str, list[int]]:
    return {group.name: list(range(0, group.size, 2)) for group in graph.groups if group.prunable and group.size > 1}


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("name", CLASSES)
def test_any_list_of_widths_is_traced_cut_and_proved(name: str, stem: str) -> None:
    torch.manual_seed(0)
    model = CLASSES[name](LISTS[name], stem=stem, num_classes=5, in_channels=2).eval()
    given = torch.randn(2, 2, 32, 32)
    graph = trace(model, given)
    # Free are all layers, but for the two ends of the network.
    assert sum(not group.prunable for group in graph.groups) == 2
    plan = graph.plan(half_of_every_group(graph))
    small = apply(model, plan, verify_with=None)
    proof = verify(model, small, plan, given)
    assert proof.verdict == "exact", proof.sentence()
    assert graph.macs(plan) == trace(small, given).macs()


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_cut_is_the_network_of_the_widths_that_stay(name: str) -> None:
    """The class built with the smaller list is the cut model: same names, shapes and outputs."""
    torch.manual_seed(0)
    model = CLASSES[name](LISTS[name], num_classes=5).eval()
    given = torch.randn(2, 3, 32, 32)
    graph = trace(model, given)
    small = apply(model, graph.plan(half_of_every_group(graph)), verify_with=None)
    again = CLASSES[name]([(width + 1) // 2 for width in LISTS[name]], num_classes=5).eval()
    again.load_state_dict(small.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again(given), small(given))


def test_depthwise_convolutions_are_as_wide_as_what_they_read() -> None:
    for name in ("MobileNet v1", "MobileNet v2", "MNasNet"):
        layers = convolutions(CLASSES[name](LISTS[name]))
        depthwise = [(before, layer) for before, layer in pairwise(layers) if layer.groups > 1]
        assert len(depthwise) == (13 if name == "MobileNet v1" else 17)
        assert all(layer.groups == layer.out_channels == before.out_channels for before, layer in depthwise)


def test_every_width_of_a_list_reaches_its_layer() -> None:
    """With all widths distinct where they may be, the convolutions' outputs are the list."""
    plain = [layer.out_channels for layer in convolutions(MobileNetV1(LISTS["MobileNet v1"])) if layer.groups == 1]
    assert plain == LISTS["MobileNet v1"]
    for name in ("MobileNet v2", "MNasNet"):
        model = CLASSES[name](LISTS[name])
        assert [layer.out_channels for layer in convolutions(model) if layer.groups == 1] == LISTS[name]
    stage = ResNet50(LISTS["ResNet-50"]).layer2[1]
    assert [layer.out_channels for layer in convolutions(stage)] == [2, 3, 7]


@pytest.mark.parametrize("name", CLASSES)
def test_lists_that_do_not_fit_are_refused(name: str) -> None:
    widths, build = LISTS[name], CLASSES[name]
    with pytest.raises(ModelError, match=rf"{len(widths) - 1} widths given; {name} has {len(widths)}: "):
        build(widths[:-1])
    with pytest.raises(ModelError, match="one is 0; each is at least 1"):
        build([*widths[:-1], 0])
    with pytest.raises(ModelError, match="unknown stem 'cifer'; did you mean 'cifar'"):
        build(widths, stem="cifer")


@pytest.mark.parametrize("build", [MobileNetV2, MNasNet])
def test_blocks_that_are_added_must_give_as_many(build: Callable[..., nn.Module]) -> None:
    widths = list(LISTS["MobileNet v2" if build is MobileNetV2 else "MNasNet"])
    widths[5] = 4
    with pytest.raises(ModelError, match=r"blocks of stage 1 of .* give \[6, 4"):
        build(widths)


@pytest.mark.parametrize("name", CLASSES)
def test_the_stem_for_32_by_32_images_leaves_something_to_look_at(name: str) -> None:
    """The last maps, by the average pooling's input: 1×1 where the stem is ImageNet's, more with the other."""
    sides: dict[str, int] = {}
    for stem in ("imagenet", "cifar"):
        with torch.device("meta"):
            model = CLASSES[name](stem=stem).eval()
            x: Any = torch.empty(1, 3, 32, 32)
        with torch.no_grad():
            for layer in model.children():
                if isinstance(layer, nn.AdaptiveAvgPool2d) or any(isinstance(m, nn.Linear) for m in layer.modules()):
                    break
                x = layer(x)
        sides[stem] = x.shape[-1]
    assert sides == {"imagenet": 1, "cifar": 2 if name == "MobileNet v1" else 4}


def test_the_found_networks_lie_within_the_widest_ones() -> None:
    """AutoSlim searched up to 1.5 times the width, and in multiples of 8."""
    for found, widest in (
        (autoslim.MOBILENET_V1, [scaled(width, 1.5, multiple=8) for width in mobilenet_v1.WIDTHS]),
        (autoslim.MOBILENET_V2, mobilenet_v2.scaled_by(1.5)),
        (autoslim.MNASNET, mnasnet.scaled_by(1.5)),
        (autoslim.RESNET50, resnet50.scaled_by(1.5)),
    ):
        for widths in found.values():
            assert all(width % 8 == 0 and width <= most for width, most in zip(widths, widest, strict=True))


@pytest.mark.parametrize("name", ["autoslim-mobilenet-v2-305m-cifar", "autoslim-mnasnet-217m-cifar"])
def test_found_networks_for_small_images_have_the_found_widths(name: str) -> None:
    with torch.device("meta"):
        small, large = build_model(name), build_model(name.removesuffix("-cifar"), num_classes=10)
    shapes = [{key: tuple(value.shape) for key, value in model.state_dict().items()} for model in (small, large)]
    assert shapes[0] == shapes[1]
