"""The recipes of gates, slimming, criteria and blocks: published settings, and plans that are possible."""

import functools
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur.graph import ChannelGraph, Plan, trace
from secateur.methods import Blocks, GateDecorator, GlobalPruning, NetworkSlimming
from secateur.models import build_model, input_shape
from secateur.recipe import Recipe, read_recipe, recipe_names, recipe_text
from secateur.training import TrainSettings

CLASSES = {"cifar10": 10, "cifar100": 100, "mnist": 10, "imagenet": 1000, "voc2011": 21}
FAMILIES = {
    "gate_decorator": GateDecorator,
    "network_slimming": NetworkSlimming,
    "global_gate_taylor": GlobalPruning,
    "blocks": Blocks,
}
OURS = [name for name in recipe_names() if name.startswith(tuple(FAMILIES))]

# Table 1 of arXiv:1708.06519: share of channels; test error in %, dense and pruned; parameters in millions, dense and
# pruned; share of them that goes in %; FLOPs, two per multiply-add, dense and pruned.
TABLE_1 = {
    ("vgg19_cifar10", 0.7): (6.34, 6.20, 20.04, 2.30, 88.5, "7.97e8", "3.91e8"),
    ("vgg19_cifar100", 0.5): (26.74, 26.52, 20.08, 5.00, 75.1, "7.97e8", "5.01e8"),
    ("resnet164_cifar10", 0.4): (5.42, 5.08, 1.70, 1.44, 14.9, "4.99e8", "3.81e8"),
    ("resnet164_cifar10", 0.6): (5.42, 5.27, 1.70, 1.10, 35.2, "4.99e8", "2.75e8"),
    ("resnet164_cifar100", 0.4): (23.37, 22.87, 1.73, 1.46, 15.5, "5.00e8", "3.33e8"),
    ("resnet164_cifar100", 0.6): (23.37, 23.91, 1.73, 1.21, 29.7, "5.00e8", "2.47e8"),
    ("densenet40_cifar10", 0.4): (6.11, 5.19, 1.02, 0.66, 35.7, "5.33e8", "3.81e8"),
    ("densenet40_cifar10", 0.7): (6.11, 5.65, 1.02, 0.35, 65.2, "5.33e8", "2.40e8"),
    ("densenet40_cifar100", 0.4): (25.36, 25.28, 1.06, 0.66, 37.5, "5.33e8", "3.71e8"),
    ("densenet40_cifar100", 0.6): (25.36, 25.72, 1.06, 0.46, 54.6, "5.33e8", "2.81e8"),
}
SLIMMED = {name: max(ratio for other, ratio in TABLE_1 if other == name) for name, _ in TABLE_1}


@functools.cache
def traced(spec: str, classes: int, shape: tuple[int, int, int]) -> tuple[nn.Module, ChannelGraph]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(spec, num_classes=classes).eval()
    return model, trace(model, torch.zeros(2, *shape))


def graph_of(recipe: Recipe) -> tuple[nn.Module, ChannelGraph]:
    shape = input_shape(recipe.model.spec)
    assert shape is not None
    # A share of the multiply-adds of a network without linear layers is about the same at any size.
    shape = (3, 64, 64) if recipe.data.spec == "voc2011" else shape
    return traced(recipe.model.spec, CLASSES[recipe.data.spec], shape)


def planned(recipe: Recipe) -> tuple[ChannelGraph, Plan]:
    model, graph = graph_of(recipe)
    return graph, recipe.method.decide(graph, model, recipe.budget)


def test_the_library_has_the_papers_networks_and_short_siblings() -> None:
    assert set(OURS) == {
        *(f"gate_decorator_{net}_{data}" for net in ("resnet56", "vgg16") for data in ("cifar10", "cifar100")),
        *(f"network_slimming_{name}" for name in SLIMMED),
        *("network_slimming_mlp_mnist", "gate_decorator_fcn32s_voc2011"),
        *(f"{name}_resnet50_imagenet" for name in ("gate_decorator", "global_gate_taylor", "blocks")),
        *(f"{name}_resnet20_cifar10-cpu" for name in FAMILIES),
        "gate_decorator_vgg16_cifar10-cpu",
        *(f"network_slimming_{net}_cifar10-cpu" for net in ("vgg19", "resnet164", "densenet40")),
    }
    families = ("l1-", "thinet_", "weights_and_connections_", "autoslim_", "int8_")
    others = {name for name in recipe_names() if name.startswith(families)}
    assert {*OURS, *others} == set(recipe_names())


@pytest.mark.parametrize("name", OURS)
def test_the_plan_is_possible_and_holds_the_budget(name: str) -> None:
    recipe = read_recipe(name)
    family = next(family for family in FAMILIES if name.startswith(family))
    assert isinstance(recipe.method, FAMILIES[family])
    graph, plan = planned(recipe)
    assert not plan.is_empty
    if recipe.budget is None:
        assert graph.params(plan) < graph.params()
        return
    assert recipe.budget.macs is not None
    assert graph.macs(plan) <= recipe.budget.macs * graph.macs()
    assert bool(plan.dropped_blocks) == (family == "blocks")


@pytest.mark.parametrize("name", OURS)
def test_headers_name_sources_and_data_and_recipes_that_there_are(name: str) -> None:
    header = recipe_text(name).partition("\nsecateur: 1\n")[0]
    assert all(line.startswith("#") for line in header.splitlines() if line)
    assert re.search(r"arXiv:\d{4}\.\d{5}", header)
    assert "# Data: " in header
    mentioned = re.findall(rf"(?:{'|'.join(FAMILIES)})_\w+?_(?:cifar100?|mnist|imagenet|voc2011)(?:-cpu)?", header)
    assert set(mentioned) <= set(recipe_names())
    commands = [line.partition(" secateur compress ")[2] for line in header.splitlines()]
    for words in map(shlex.split, filter(None, commands)):
        assert words[0] == name
        changes = [value for flag, value in pairwise(words) if flag == "--set"]
        read_recipe(name, changes, allow_code="--allow-code" in words)
    for change in re.findall(r"--set (method\.\S+=[\w.]*\w)", header):
        read_recipe(name, [change])


PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"


def test_the_page_has_every_recipe_with_its_amounts() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = {row[0].strip("`"): row[1:] for row in (re.split(r"\s*\|\s*", line)[1:-1] for line in lines) if row}
    for name in OURS:
        recipe = read_recipe(name)
        if name not in rows:
            assert any(f"`{name}`" in line for line in lines), name
            continue
        row = " | ".join(rows[name])
        if recipe.budget is not None:
            assert recipe.budget.macs is not None
            assert f"{100 * recipe.budget.macs:g} %" in row
            continue
        assert isinstance(recipe.method, NetworkSlimming)
        assert recipe.method.ratio is not None
        assert f"| {100 * recipe.method.ratio:g} %" in row
    for (network, ratio), (before, after, params, left, *_) in TABLE_1.items():
        row = " | ".join(rows[f"network_slimming_{network}"])
        main = ratio == SLIMMED[network]
        assert f"{before:.2f} → {after:.2f}" in row if main else f"({after:.2f})" in row
        assert f"{params:.2f}M → {left:.2f}M" in row if main else f"({left:.2f}M)" in row


# Gate Decorator ----------------------------------------------------------------------------------------------------


def trained(settings: TrainSettings | None) -> tuple[object, ...]:
    assert settings is not None
    assert (settings.optimizer, settings.nesterov, settings.augment) == ("sgd", False, True)
    rates = (settings.learning_rate_min, settings.learning_rate)
    return settings.schedule, rates, settings.batch_size, settings.momentum, settings.weight_decay


@pytest.mark.parametrize("name", [name for name in OURS if re.fullmatch(r"gate_decorator_\w+_cifar100?", name)])
def test_gate_decorator_trains_as_its_authors(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.train_epochs == 160
    assert trained(recipe.train) == ("step", (0, 0.1), 128, 0.9, 5e-4)
    assert (recipe.train.milestones, recipe.train.gamma) == ((80, 120), 0.1)
    method = recipe.method
    assert isinstance(method, GateDecorator)
    vgg = "vgg16" in name
    assert method.share == (0.005 if vgg else 0.002)
    assert (method.sparsity, method.ticks_per_tock, method.tick_epochs, method.tock_epochs) == (1e-3, 10, 1, 10)
    assert trained(method.tick) == ("constant", (0, 1e-3), 128, 0.9, 5e-4)
    assert trained(method.tock) == ("triangular", (1e-3, 1e-2), 128, 0.9, 5e-4)
    assert trained(method.finetune) == ("triangular", (1e-3, 1e-2), 64, 0, 5e-4)
    assert (method.finetune_epochs, method.cooldown_epochs) == (40, 0 if vgg else 10)
    assert trained(method.cooldown) == ("constant", (0, 1e-3), 64, 0, 5e-4)
    assert (method.tick_subset, method.tick_trains, method.tick_sparsity) == (None, "all-but-convolutions", False)
    assert (method.combine, method.replicate, method.free_dead, method.min_share) == ("sum", True, True, 0.1)
    assert (method.tock_first, method.last_tick, method.init, method.clamped) == (True, "whole", "take-over", "drop")


def test_the_budget_of_resnet_56_is_the_published_network() -> None:
    recipe = read_recipe("gate_decorator_resnet56_cifar10")
    _, graph = graph_of(recipe)
    assert (graph.macs(), graph.params()) == (125_747_840, 855_770)
    stages = (
        (12, 1, 1, 1, 1, 6, 4, 8, 11),
        (25, 8, 6, 3, 3, 3, 3, 5, 3),
        (60, 23, 25, 23, 23, 9, 22, 22, 13),
    )
    widths = {
        f"layer{stage}.{block}.conv1": range(width)
        for stage, blocks in enumerate(stages, start=1)
        for block, width in enumerate(blocks)
    }
    plan = graph.plan(widths)
    assert (graph.macs(plan), graph.params(plan)) == (36_868_736, 286_034)
    assert_is_the_budget(recipe, graph, plan)
    assert all(number in recipe_text("gate_decorator_resnet56_cifar10") for number in ("92.93 %", "93.15 %"))


def test_the_budget_of_vgg_16_is_the_published_network() -> None:
    recipe = read_recipe("gate_decorator_vgg16_cifar10")
    _, graph = graph_of(recipe)
    assert (graph.macs(), graph.params()) == (313_201_664, 14_728_266)
    convolutions = [group.name for group in graph.groups if group.prunable and group.name.startswith("features.")]
    widths = (17, 46, 57, 71, 73, 60, 32, *[51] * 6)
    plan = graph.plan({name: range(width) for name, width in zip(convolutions, widths, strict=True)})
    assert (graph.macs(plan), graph.params(plan)) == (30_922_026, 305_104)
    assert round(100 * graph.params(plan) / graph.params(), 2) == 2.07
    assert_is_the_budget(recipe, graph, plan)
    assert all(number in recipe_text("gate_decorator_vgg16_cifar10") for number in ("92.07 %", "93.79 %", "2.07 %"))


def assert_is_the_budget(recipe: Recipe, graph: ChannelGraph, plan: Plan) -> None:
    """Check that the budget is ``plan``'s cost, rounded up to a ten-thousandth."""
    assert recipe.budget is not None
    assert recipe.budget.macs is not None
    share = graph.macs(plan) / graph.macs()
    assert share <= recipe.budget.macs < share + 1e-4
    text = recipe_text(next(name for name in OURS if read_recipe(name) == recipe))
    assert all(f"{number:,}" in text for number in (graph.macs(plan), graph.params(plan), graph.macs(), graph.params()))


def test_what_was_never_published_says_so() -> None:
    for name in OURS:
        if name.endswith("-cpu"):
            assert re.search(r"not\s+comparable|may not|Nothing is published", without_marks(name)), name
        elif name.startswith("gate_decorator") and not name.endswith("_cifar10"):
            assert re.search(r"\b[Oo]urs\b", without_marks(name)), name


def without_marks(name: str) -> str:
    return re.sub(r"\s+#\s+", " ", recipe_text(name))


# Network Slimming --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SLIMMED)
def test_network_slimming_on_cifar_trains_as_published(name: str) -> None:
    recipe = read_recipe(f"network_slimming_{name}")
    method = recipe.method
    assert isinstance(method, NetworkSlimming)
    assert (method.start, method.scale_init, method.passes, method.scope) == ("scratch", 0.5, 1, "global")
    assert method.penalty == (1e-4 if "vgg" in name else 1e-5)
    assert method.ratio == SLIMMED[name]
    assert (recipe.train_epochs, method.sparse_epochs, method.finetune_epochs) == (160, 160, 160)
    assert method.finetune is None  # as in the sparse training
    assert method.training == recipe.train
    published = TrainSettings(
        batch_size=64,
        learning_rate=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4,
        schedule="step",
        milestones=(0.5, 0.75),
        gamma=0.1,
    )
    assert method.training == published


@pytest.mark.parametrize(("name", "ratio"), TABLE_1)
def test_the_rows_of_table_1_stand_in_the_headers(name: str, ratio: float) -> None:
    recipe = read_recipe(f"network_slimming_{name}", [f"method.ratio={ratio}"])
    before, after, params, left, gone, flops, flops_left = TABLE_1[name, ratio]
    text = without_marks(f"network_slimming_{name}")
    _, graph = graph_of(recipe)
    assert f"{graph.params() / 1e6:.2f}" == f"{params:.2f}"
    assert 2 * graph.macs() == pytest.approx(float(flops), rel=0.01)
    assert f"{before:.2f} % dense" in text
    assert f"parameters {params:.2f}M to " in text
    assert f"FLOPs {flops} to " in text
    at = text.index("At 40 %") if ratio != SLIMMED[name] else 0
    for number in (f"{after:.2f} %", f"{left:.2f}M (−{gone} %)", flops_left):
        assert number in text[at:]
    _, plan = planned(recipe)
    assert graph.params(plan) < graph.params()


def test_network_slimming_on_mnist_trains_as_published() -> None:
    recipe = read_recipe("network_slimming_mlp_mnist")
    method = recipe.method
    assert isinstance(method, NetworkSlimming)
    assert (method.start, method.scale_init, method.scope, method.ratio) == ("scratch", 0.5, "local", 0.8)
    assert (recipe.train_epochs, method.sparse_epochs, method.finetune_epochs) == (30, 30, 30)
    assert method.finetune is None
    settings = recipe.train
    assert method.training == settings
    assert (settings.batch_size, settings.learning_rate, settings.nesterov, settings.momentum) == (256, 0.1, True, 0.9)
    assert (settings.schedule, settings.milestones, settings.gamma) == ("step", (10, 20), 0.1)  # thirds of 30 epochs
    graph, plan = planned(recipe)
    assert list(plan.kept_sizes().values()) == [100, 60]
    assert (graph.params(), graph.params(plan)) == (545_810, 85_170)
    assert round(100 * (1 - 85_170 / 545_810), 1) == 84.4
    text = recipe_text("network_slimming_mlp_mnist")
    assert all(number in text for number in ("1.43 %", "1.49 %", "84.4 %", "85,170", "545,810"))
