"""L1-norm filter pruning against the paper's published networks, and its selection worked by hand."""

import copy
import math
import warnings
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur.cost import Budget, MinimumWarning, kept_units
from secateur.data import load_data
from secateur.errors import BudgetError, PlanError, UsageError
from secateur.graph import ChannelGraph, trace
from secateur.methods import L1
from secateur.methods.l1.layers import shortcut_weights
from secateur.models import build_model
from secateur.training import Store, SupervisedTask, TrainSettings

QUICK = TrainSettings(batch_size=256, learning_rate=0.01, schedule="constant")

# Layer numbers of the paper: the stem is 1, the first convolution of block b (from 0) is 2 + 2b.
STAGE = {56: 9, 110: 18}


def skipped(depth: int, *numbers: int) -> tuple[str, ...]:
    blocks = [(number - 2) // 2 for number in numbers]
    return tuple(f"layer{block // STAGE[depth] + 1}.{block % STAGE[depth]}.conv1" for block in blocks)


VGG_A = L1(residual="inner", ratios={f"features.{n}": 0.5 for n in (0, 17, 19, 21, 24, 26, 28)})
RESNET_56_A = L1(residual="inner", ratios={"layer*": 0.1}, skip=skipped(56, 16, 20, 38, 54))
RESNET_56_B = L1(
    residual="inner",
    ratios={"layer1.*": 0.6, "layer2.*": 0.3, "layer3.*": 0.1},
    skip=skipped(56, 16, 18, 20, 34, 38, 54),
)
RESNET_110_A = L1(residual="inner", ratios={"layer1.*": 0.5}, skip=skipped(110, 36))
RESNET_110_B = L1(
    residual="inner", ratios={"layer1.*": 0.5, "layer2.*": 0.4, "layer3.*": 0.3}, skip=skipped(110, 36, 38, 74)
)

# Parameters and multiply-adds, counted exactly; they round to the figures of the paper's Table 1.
GOLDEN = {
    "VGG-16-A": ("vgg16-l1", VGG_A, 5_393_354, 206_279_680),
    "ResNet-56-A": ("resnet56", RESNET_56_A, 773_336, 112_435_840),
    "ResNet-56-B": ("resnet56", RESNET_56_B, 735_712, 90_907_264),
    "ResNet-110-A": ("resnet110", RESNET_110_A, 1_688_522, 212_779_648),
}


@pytest.fixture(scope="module")
def task() -> SupervisedTask:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return SupervisedTask(load_data("digits"), settings=QUICK, seed=1, device="cpu")


def traced(name: str) -> tuple[nn.Module, ChannelGraph]:
    torch.manual_seed(0)
    model = build_model(name).eval()
    return model, trace(model, torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize("row", GOLDEN)
def test_the_papers_networks_come_out_exactly(row: str) -> None:
    name, method, params, macs = GOLDEN[row]
    model, graph = traced(name)
    plan = method.decide(graph, model, None)
    assert (graph.params(plan), graph.macs(plan)) == (params, macs)


def test_resnet_110_b_rounds_to_the_published_figures() -> None:
    model, graph = traced("resnet110")
    plan = RESNET_110_B.decide(graph, model, None)
    # Table 1: 1.55e8 (38.6 % pruned) and 1.16e6 (32.4 %).
    assert f"{graph.macs(plan):.2e}" == "1.55e+08"
    assert 1 - graph.macs(plan) / graph.macs() == pytest.approx(0.386, abs=1e-3)
    assert graph.params(plan) == 1_168_424  # the paper cuts its 1.168 off, or counts a little less
    assert 1 - graph.params(plan) / graph.params() == pytest.approx(0.324, abs=1e-3)


@pytest.mark.parametrize("row", ["ResNet-56-A", "ResNet-56-B"])
def test_rounding_the_removed_filters_instead_of_the_kept_misses_the_published_network(row: str) -> None:
    name, method, params, macs = GOLDEN[row]
    model, graph = traced(name)
    floored = method.decide(graph, model, None).kept_sizes()
    shares = {
        group: next(share for pattern, share in method.ratios.items() if _fits(group, pattern)) for group in floored
    }
    otherwise = graph.plan(
        {
            group: range(graph.group(group).size - math.floor(graph.group(group).size * Fraction(str(share))))
            for group, share in shares.items()
        }
    )
    assert (graph.params(otherwise), graph.macs(otherwise)) != (params, macs)
    assert graph.macs(otherwise) > macs


def _fits(group: str, pattern: str) -> bool:
    return group.startswith(pattern.rstrip("*"))


@pytest.mark.parametrize(
    ("size", "share", "kept"),
    [
        (16, "0.1", 14),
        (64, "0.1", 57),
        (32, "0.3", 22),
        (10, "0.9", 1),
        (10, "0.7", 3),
        (4, "0.9", 1),
        (512, "0.5", 256),
    ],
)
def test_kept_units_by_hand(size: int, share: str, kept: int) -> None:
    assert kept_units(size, Fraction(share)) == kept


def test_kept_units_round_up_to_multiples() -> None:
    assert kept_units(64, Fraction("0.3"), round_to=8) == 48  # 44 would stay
    assert kept_units(20, Fraction("0.1"), round_to=16) == 20
    assert kept_units(16, Fraction("0.99"), round_to=8) == 8
    assert kept_units(64, Fraction("0.99"), min_units=3, round_to=4) == 4


class _Chain(nn.Module):
    """Two convolutions whose weights are written out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 1, bias=False)
        self.second = nn.Conv2d(2, 2, 1, bias=False)
        self.head = nn.Conv2d(2, 1, 1, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
            # Filter 0 is large only through the first input channel, which goes.
            self.second.weight.copy_(torch.tensor([[9.0, 1.0], [1.0, 3.0]]).view(2, 2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.second(self.first(x)).relu())
        return y


@pytest.mark.parametrize(("selection", "stays"), [("independent", 0), ("greedy", 1)])
def test_greedy_selection_leaves_out_what_is_gone(selection: str, stays: int) -> None:
    model = _Chain()
    graph = trace(model, torch.zeros(2, 1, 4, 4))
    before = copy.deepcopy(model.state_dict())
    plan = L1(selection=selection, ratios={"first": 0.5, "second": 0.5}).decide(graph, model, None)  # type: ignore[arg-type]
    assert plan.kept["first"] == (1,)
    assert plan.kept["second"] == (stays,)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


def test_layer_by_layer_without_training_is_the_greedy_selection(task: SupervisedTask) -> None:
    torch.manual_seed(0)
    model = build_model("digits-resnet")
    settings = {"ratios": {"*.conv1": 0.5}, "residual": "inner", "finetune_epochs": 0}
    at_once = L1(**settings, selection="greedy").compress(model, task, None, store=Store.temporary())  # type: ignore[arg-type]
    one_by_one = L1(**settings, strategy="layer-by-layer", layer_epochs=0).compress(  # type: ignore[arg-type]
        model, task, None, store=Store.temporary()
    )
    assert at_once.plan == one_by_one.plan
    assert not one_by_one.record.trained_between_cuts


def test_minima_are_noted_layer_by_layer_too(task: SupervisedTask) -> None:
    torch.manual_seed(0)
    model = build_model("digits-resnet")
    method = L1(residual="inner", strategy="layer-by-layer", layer_epochs=0, finetune_epochs=0)
    graph = trace(model, task.example_inputs)
    inner = {group.name: [0] for group in graph.groups if group.prunable and not group.is_stream}
    share = graph.macs(graph.plan(inner)) / graph.macs() + 1e-6
    notes = method.compress(model, task, Budget(macs=share), store=Store.temporary()).record.notes
    assert any("minimum" in note for note in notes)


def test_layer_by_layer_trains_between_and_continues(task: SupervisedTask, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("digits-resnet")
    method = L1(ratios={"*.conv1": 0.5}, residual="inner", strategy="layer-by-layer", finetune_epochs=1, finetune=QUICK)
    first = method.compress(model, task, None, store=Store(tmp_path))
    layers = list(first.plan.kept)
    assert [phase.phase for phase in first.record.phases] == [
        *(f"layer-{n}" for n in range(1, len(layers))),
        "finetune",
    ]
    assert first.record.trained_between_cuts
    again = method.compress(model, task, None, store=Store(tmp_path))
    torch.testing.assert_close(dict(again.model.state_dict()), dict(first.model.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        (
            "resnet56-b",
            32,
            {"layer2.0.conv2": "layer2.0.shortcut.0.weight", "layer3.0.conv2": "layer3.0.shortcut.0.weight"},
        ),
        ("resnet56", 32, {}),
        ("resnet50", 64, {f"layer{stage}.0.conv3": f"layer{stage}.0.downsample.0.weight" for stage in (1, 2, 3, 4)}),
    ],
)
def test_projection_shortcuts_are_found(name: str, shape: int, expected: Mapping[str, str]) -> None:
    graph = trace(build_model(name).eval(), torch.zeros(2, 3, shape, shape))
    assert shortcut_weights(graph) == expected


def test_squeeze_and_excitation_is_no_shortcut() -> None:
    graph = trace(build_model("torchvision:mobilenet_v3_small").eval(), torch.zeros(2, 3, 64, 64))
    assert any(group.is_stream for group in graph.groups)
    assert shortcut_weights(graph) == {}
    # Expanded channels are gated by a second layer, which multiplies: they are inner layers like any other.
    assert not graph.group("features.4.block.0.0").is_stream
    assert graph.group("features.4.block.3.0").is_stream


def test_the_stream_follows_the_shortcuts_norms() -> None:
    model, graph = traced("resnet56-b")
    with torch.no_grad():
        model.layer3[0].shortcut[0].weight[:32] *= 100.0  # type: ignore[index, union-attr]
        model.layer3[0].conv2.weight[32:] *= 100.0  # type: ignore[index, union-attr]
    by_shortcut = L1(residual="shortcut", ratios={"layer3.0.conv2": 0.5}).decide(graph, model, None)
    assert by_shortcut.kept["layer3.0.conv2"] == tuple(range(32))
    whole = L1(residual="group", ratios={"layer3.0.conv2": 0.5}).decide(graph, model, None)
    assert whole.kept["layer3.0.conv2"] == tuple(range(32, 64))


def test_a_stream_without_a_projection_follows_all_its_layers_and_the_record_says_so(task: SupervisedTask) -> None:
    torch.manual_seed(0)
    model = build_model("digits-resnet")
    graph = trace(model, task.example_inputs)
    led = shortcut_weights(graph)
    streams = [group.name for group in graph.groups if group.is_stream and group.prunable]
    assert "conv1" in streams
    assert "conv1" not in led  # the first stream begins with the stem
    for name in streams:
        method = L1(residual="shortcut", ratios={name: 0.5}, finetune_epochs=0)
        notes = method.compress(model, task, None, store=Store.temporary()).record.notes
        assert any(f"({name})" in note for note in notes) is (name not in led)


def test_inner_leaves_streams_alone_and_says_so() -> None:
    model, graph = traced("resnet56-b")
    plan = L1(residual="inner").decide(graph, model, Budget(macs=0.5))
    assert all(not graph.group(name).is_stream for name in plan.kept)
    with pytest.raises(PlanError, match=r"layer3.0.conv2 is a residual stream .* residual to 'shortcut' or 'group'"):
        L1(residual="inner", ratios={"layer3.0.conv2": 0.5}).decide(graph, model, None)


def test_streams_are_spared_as_long_as_the_budget_can_be_met_without_them() -> None:
    model, graph = traced("resnet56-b")
    half = L1().decide(graph, model, Budget(macs=0.5))
    assert half == L1(residual="inner").decide(graph, model, Budget(macs=0.5))
    with pytest.raises(BudgetError):
        L1(residual="inner").decide(graph, model, Budget(macs=0.02))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MinimumWarning)
        tiny = L1().decide(graph, model, Budget(macs=0.02))
    assert any(graph.group(name).is_stream for name in tiny.kept)
    assert graph.macs(tiny) <= 0.02 * graph.macs()


def test_a_budget_takes_the_same_share_from_every_layer_that_is_not_skipped() -> None:
    model, graph = traced("resnet56-b")
    plan = L1(residual="inner", skip=("layer1.7.conv1",)).decide(graph, model, Budget(macs=0.6))
    assert graph.macs(plan) <= 0.6 * graph.macs()
    assert "layer1.7.conv1" not in plan.kept
    shares = [1 - len(units) / plan.sizes[name] for name, units in plan.kept.items()]
    assert max(shares) - min(shares) <= 1 / 16 + 1e-9


def test_settings_that_cannot_work_are_refused() -> None:
    model, graph = traced("resnet56-b")
    with pytest.raises(UsageError, match="the ratio for 'layer1' is 1"):
        L1(ratios={"layer1": 1.0})
    with pytest.raises(PlanError, match=r"did you mean 'layer1.0.conv1'"):
        L1(ratios={"layer1.0.conv11": 0.5}).decide(graph, model, None)
    with pytest.raises(PlanError, match="layer to skip"):
        L1(skip=("layer9.*",)).decide(graph, model, Budget(macs=0.5))
    with pytest.raises(BudgetError, match="only one of them"):
        L1(ratios={"layer1.*": 0.5}).decide(graph, model, Budget(macs=0.5))
    with pytest.raises(BudgetError, match="how much to cut"):
        L1().decide(graph, model, None)
