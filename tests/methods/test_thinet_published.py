"""ThiNet's recipes end at the published networks, and their training is told from that of other runs."""

from dataclasses import replace

import pytest
import torch

from secateur.graph import ChannelGraph, Plan, trace
from secateur.methods import ThiNet
from secateur.methods.thinet.layers import in_forward_order
from secateur.methods.thinet.published import FINETUNE, RECOVER, trains_as_published
from secateur.models import build_model, input_shape
from secateur.recipe import read_recipe
from secateur.training import TrainSettings

RESNET_50 = "thinet_resnet50_imagenet"
# (parameters, multiply-adds) counted exactly, and what is published: in millions, and 10⁹ at two per multiply-add.
GOLDEN = {
    ("thinet_vgg16_imagenet", ()): ((131_452_552, 4_791_205_888), (131.44, 9.58)),
    ("thinet_vgg16-gap_imagenet", ()): ((8_322_696, 4_668_084_224), (8.32, 9.34)),
    ("thinet_tiny_imagenet", ()): ((1_325_368, 1_004_578_816), (1.32, 2.01)),
    (RESNET_50, ()): ((16_945_246, 2_440_026_340), (16.94, 4.88)),
    (RESNET_50, ('method.keep={"layer*.conv[12]": 0.5}',)): ((12_381_864, 1_706_426_368), (12.38, 3.41)),
    (RESNET_50, ('method.keep={"layer*.conv[12]": 0.3}',)): ((8_665_318, 1_097_492_539), (8.66, 2.20)),
}


def planned(name: str, *changes: str) -> tuple[ChannelGraph, Plan]:
    recipe = read_recipe(name, changes)
    shape = input_shape(recipe.model.spec)
    assert shape is not None
    torch.manual_seed(0)
    model = build_model(recipe.model.spec).eval()
    graph = trace(model, torch.zeros(2, *shape))
    return graph, recipe.method.decide(graph, model, recipe.budget)


@pytest.mark.parametrize(("name", "changes"), GOLDEN)
def test_the_cut_networks_have_the_published_sizes(name: str, changes: tuple[str, ...]) -> None:
    graph, plan = planned(name, *changes)
    sizes, published = GOLDEN[name, changes]
    assert (graph.params(plan), graph.macs(plan)) == sizes
    # The authors count VGG-16's parameters without biases, and cut off digits or round them.
    assert (sizes[0] / 1e6, 2 * sizes[1] / 1e9) == pytest.approx(published, abs=0.014)


def test_the_widths_of_thinet_tiny_are_those_of_the_authors_definition() -> None:
    graph, plan = planned("thinet_tiny_imagenet")
    widths = [len(plan.kept[name]) for name in in_forward_order(graph, plan.kept)]
    assert widths == [16, 16, 32, 32, 64, 64, 64, 128, 128, 128, 128, 128, 256]


def test_of_resnet_50_only_the_first_two_convolutions_of_a_block_are_cut() -> None:
    graph, plan = planned(RESNET_50)
    order = in_forward_order(graph, plan.kept)
    assert order == [
        f"layer{stage}.{block}.conv{number}"
        for stage, blocks in ((1, 3), (2, 4), (3, 6), (4, 3))
        for block in range(blocks)
        for number in (1, 2)
    ]
    # int(64 · 0.7) and so on, as the authors' code computes them
    assert sorted({len(units) for units in plan.kept.values()}) == [44, 89, 179, 358]


@pytest.mark.parametrize("name", ["thinet_vgg16_imagenet", "thinet_vgg16-gap_imagenet", RESNET_50])
def test_the_recipes_train_as_published_between_the_cuts_and_after_them(name: str) -> None:
    method = read_recipe(name).method
    assert isinstance(method, ThiNet)
    passes = {method.layer_epochs, *method.longer.values()}
    assert trains_as_published(method.recover, passes, method.finetune, method.finetune_epochs)


def test_the_defaults_train_as_published_and_other_settings_do_not() -> None:
    assert trains_as_published(RECOVER, (1, 2), FINETUNE, 12)
    assert not trains_as_published(RECOVER, (1, 2), FINETUNE, 9)
    assert not trains_as_published(RECOVER, (1, 0.5), FINETUNE, 12)
    assert not trains_as_published(None, (1,), FINETUNE, 12)
    assert not trains_as_published(RECOVER, (1,), None, 12)
    assert not trains_as_published(RECOVER, (1,), replace(FINETUNE, milestones=(4, 9)), 12)
    assert not trains_as_published(RECOVER, (1,), TrainSettings(batch_size=64, learning_rate=1e-3), 12)
