"""Network Slimming: its penalty, its threshold and its layers, worked by hand and against the published counts."""

import math

import pytest
import torch
from torch import nn

from secateur.cost import Budget, MinimumWarning
from secateur.data import LabelledImages, MemorySource
from secateur.errors import BudgetError, PlanError, UsageError
from secateur.graph import ChannelGraph, trace
from secateur.methods.network_slimming import NetworkSlimming
from secateur.methods.network_slimming.percentile import above_percentile, least_kept, percentile, share_of_each
from secateur.methods.network_slimming.scales import layers_of, norm_scales, scales_in, scores_of
from secateur.methods.network_slimming.sparsity import ScaleSparsity
from secateur.models import build_model
from secateur.training import Store, SupervisedTask, TrainSettings

QUICK = TrainSettings(batch_size=32, learning_rate=0.05, schedule="constant", augment=False)


def chain(*, bias: bool = True) -> nn.Sequential:
    """Two convolutions with batch norm, of 4 and 6 channels, and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=bias),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, bias=bias),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    ).eval()


def traced(model: nn.Module, side: int = 8, channels: int = 1) -> ChannelGraph:
    return trace(model, torch.zeros(2, channels, side, side))


def with_scales(model: nn.Module, *scales: list[float]) -> nn.Module:
    with torch.no_grad():
        for name, values in zip(norm_scales(model), scales, strict=True):
            model.get_parameter(name).copy_(torch.tensor(values))
    return model


@pytest.fixture(scope="module")
def task() -> SupervisedTask:
    """Two classes that differ by their mean, on 8×8 images."""
    draws = torch.Generator().manual_seed(0)

    def images(count: int) -> LabelledImages:
        labels = torch.arange(count) % 2
        pixels = torch.randn(count, 1, 8, 8, generator=draws) * 0.3 + labels[:, None, None, None]
        return LabelledImages(pixels, labels)

    data = MemorySource(name="two blobs", train=images(80), test=images(20), peak=1.0, validation_share=0.2)
    return SupervisedTask(data, settings=QUICK, seed=3, device="cpu")


# The penalty -------------------------------------------------------------------------------------------------------


def test_sub_gradient_by_hand() -> None:
    norm = nn.BatchNorm2d(4)
    model = nn.Sequential(norm)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -2.0, 0.0, 3.0]))
    norm.weight.grad = torch.tensor([1.0, 1.0, 1.0, -1.0])
    norm.bias.grad = torch.tensor([1.0, 2.0, 3.0, 4.0])
    ScaleSparsity(norm_scales(model), 0.25).after_backward(model)
    torch.testing.assert_close(norm.weight.grad, torch.tensor([1.25, 0.75, 1.0, -0.75]))
    torch.testing.assert_close(norm.bias.grad, torch.tensor([1.0, 2.0, 3.0, 4.0]))  # no L1 on β


def test_the_penalty_is_that_of_the_loss_and_spares_what_is_frozen() -> None:
    model, other = chain().train(), chain().train()
    batch = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    model(batch).square().mean().backward()
    model[1].weight.grad = None  # as training leaves it for what is frozen
    ScaleSparsity(norm_scales(model), 0.01).after_backward(model)
    loss = other(batch).square().mean() + 0.01 * sum(other.get_parameter(name).abs().sum() for name in ("4.weight",))
    loss.backward()
    assert model[1].weight.grad is None
    torch.testing.assert_close(model[4].weight.grad, other[4].weight.grad)
    torch.testing.assert_close(model[3].weight.grad, other[3].weight.grad)


def test_every_norm_is_penalised_and_nothing_else() -> None:
    model = build_model("digits-resnet")
    batch_norms = {f"{path}.weight" for path, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert set(norm_scales(model)) == batch_norms
    shared = nn.BatchNorm2d(2)
    assert norm_scales(nn.Sequential(shared, shared, nn.BatchNorm2d(2, affine=False))) == ("0.weight",)


def test_sparse_training_makes_scales_small(task: SupervisedTask) -> None:
    sums = {}
    for penalty in (0.0, 0.05):
        method = NetworkSlimming(ratio=0.4, penalty=penalty, sparse_epochs=4, finetune_epochs=0, training=QUICK)
        steps = method.compress(chain(), task, None, store=Store.temporary()).record.steps
        sums[penalty] = sum(sum(values) for values in steps[0].scores.values())
    # Through the penalty alone, 8 steps of rate 0.05 and momentum 0.9 move a γ by 0.05·0.05·Σ(1 − 0.9ⁿ)/0.1 = 0.0718.
    assert sums[0.0] - sums[0.05] == pytest.approx(10 * 0.0718, rel=0.5)


# The threshold -----------------------------------------------------------------------------------------------------


def test_threshold_is_the_value_at_the_whole_part_of_count_times_ratio() -> None:
    values = torch.tensor([0.9, 0.1, 0.5, 0.3, 0.7])
    assert percentile(values, 0.5) == pytest.approx(0.5)  # 2.5 → position 2
    assert percentile(values, 0.59) == pytest.approx(0.5)  # 2.95 → position 2
    assert percentile(values, 0.6) == pytest.approx(0.7)  # 3.0 → position 3
    assert percentile(values, 0.01) == pytest.approx(0.1)
    with pytest.raises(UsageError, match="no γ to take a percentile of"):
        percentile(torch.zeros(0), 0.5)


def test_kept_is_what_lies_strictly_above() -> None:
    scores = {"a": torch.tensor([0.4, 0.1, 0.9, 0.4]), "b": torch.tensor([0.3, 0.4, 0.8])}
    one = {"a": 1, "b": 1}
    # Sorted: .1 .3 .4 .4 .4 .8 .9; int(7·0.5) = 3 → t = .4, and all that tie with it go.
    assert above_percentile(scores, 0.5, least=one) == {"a": [2], "b": [2]}
    # int(7·0.15) = 1 → t = .3
    assert above_percentile(scores, 0.15, least=one) == {"a": [0, 2, 3], "b": [1, 2]}


def test_at_least_one_channel_of_a_layer_stays() -> None:
    scores = {"low": torch.tensor([0.01, 0.03, 0.02]), "high": torch.tensor([1.0, 2.0, 3.0])}
    assert above_percentile(scores, 0.7, least={"low": 1, "high": 1}) == {"low": [1], "high": [2]}
    assert above_percentile(scores, 0.7, least={"low": 2, "high": 1}) == {"low": [1, 2], "high": [2]}
    assert above_percentile(scores, 0.7, least={"low": 1, "high": 1}, round_to=2) == {"low": [1, 2], "high": [1, 2]}


def test_no_more_than_the_share_of_a_layer_goes() -> None:
    # Table 4: at most half of any layer.
    assert least_kept({"odd": 5, "even": 6, "one": 1}, min_units=1, max_layer_ratio=0.5) == {
        "odd": 3,
        "even": 3,
        "one": 1,
    }
    assert least_kept({"a": 10}, min_units=4, max_layer_ratio=None) == {"a": 4}
    assert least_kept({"a": 10}, min_units=1, max_layer_ratio=0.3) == {"a": 7}


def test_the_same_share_of_every_layer_gives_table_3() -> None:
    draws = torch.Generator().manual_seed(0)
    scores = {"fc1": torch.rand(500, generator=draws), "fc2": 10 * torch.rand(300, generator=draws)}
    kept = share_of_each(scores, 0.8, least={"fc1": 1, "fc2": 1})
    assert {name: len(units) for name, units in kept.items()} == {"fc1": 100, "fc2": 60}
    assert min(scores["fc1"][kept["fc1"]]) >= scores["fc1"].sort().values[400]


def test_decision_by_hand() -> None:
    model = with_scales(chain(), [0.1, -0.9, 0.2, 0.8], [0.5, 0.05, 0.6, -0.4, 0.3, 0.7])
    graph = traced(model)
    plan = NetworkSlimming(ratio=0.5).decide(graph, model, None)
    # |γ| sorted: .05 .1 .2 .3 .4 .5 .6 .7 .8 .9; position 5 → 0.5, which goes itself.
    assert dict(plan.kept) == {"0": (1, 3), "3": (2, 5)}
    each = NetworkSlimming(ratio=0.5, scope="local").decide(graph, model, None)
    assert dict(each.kept) == {"0": (1, 3), "3": (0, 2, 5)}
    spared = NetworkSlimming(ratio=0.5, lock=("0",)).decide(graph, model, None)
    assert dict(spared.kept) == {"3": (2, 5)}  # six values only: position 3 → 0.5


def test_a_layer_of_small_scales_keeps_one_channel_and_a_warning_says_so() -> None:
    model = with_scales(chain(), [0.01, 0.02, 0.03, 0.04], [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    with pytest.warns(MinimumWarning, match=r"1 layer was cut to its minimum: 0;"):
        plan = NetworkSlimming(ratio=0.6).decide(traced(model), model, None)
    assert dict(plan.kept) == {"0": (3,), "3": (3, 4, 5)}


def test_passes_take_half_of_what_is_left_and_half_of_a_layer_at_most() -> None:
    model = with_scales(chain(), [0.01, 0.02, 0.03, 0.04], [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    graph = traced(model)
    once = NetworkSlimming(ratio=0.5, max_layer_ratio=0.5).decide(graph, model, None)
    # Position 5 of 10 is 0.6: the first layer would lose all four and keeps two, the second keeps .7 to 1.
    assert dict(once.kept) == {"0": (2, 3), "3": (2, 3, 4, 5)}
    with pytest.warns(MinimumWarning, match="cut to its minimum: 0"):
        twice = NetworkSlimming(ratio=0.5, max_layer_ratio=0.5, passes=2).decide(graph, model, None)
    # Of .03 .04 .7 .8 .9 1 position 3 is .8: the first layer loses one of two, the second keeps .9 and 1.
    assert dict(twice.kept) == {"0": (3,), "3": (4, 5)}


def test_scales_that_say_nothing_take_the_same_share_of_every_layer() -> None:
    model = chain()  # as it was built: all γ are 1
    assert NetworkSlimming(ratio=0.5).decide(traced(model), model, None).kept_sizes() == {"0": 2, "3": 2}


# Budgets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [Budget(macs=0.5), Budget(params=0.4), Budget(macs=0.7, params=0.5)])
def test_a_budget_takes_the_smallest_scales(budget: Budget) -> None:
    torch.manual_seed(3)
    model = build_model("digits-resnet").eval()
    with torch.no_grad():
        for name in norm_scales(model):
            model.get_parameter(name).uniform_(0, 1)
    graph = traced(model)
    plan = NetworkSlimming(residual="inner").decide(graph, model, budget)
    assert budget.met_by(graph.after(plan), graph)
    scores = scores_of(model, layers_of(graph, scales_in(graph, model), streams=False))
    gone = {
        name: values[[unit for unit in range(len(values)) if unit not in plan.kept.get(name, range(len(values)))]]
        for name, values in scores.items()
    }
    threshold = max(float(values.max()) for values in gone.values() if len(values))
    for name, values in scores.items():
        stays = values[list(plan.kept.get(name, range(len(values))))]
        assert (stays > threshold).all() or len(stays) == 1


def test_what_does_not_say_how_much_goes_is_refused() -> None:
    model = chain()
    graph = traced(model)
    with pytest.raises(BudgetError, match="give ratio, the share of all channels that goes, or a budget"):
        NetworkSlimming().decide(graph, model, None)
    with pytest.raises(BudgetError, match=r"a ratio \(0\.5\) and a budget \(macs ≤ 0\.5 of the original\)"):
        NetworkSlimming(ratio=0.5).decide(graph, model, Budget(macs=0.5))
    with pytest.raises(BudgetError, match=r"max_layer_ratio \(0\.5\) limits what a ratio takes"):
        NetworkSlimming(max_layer_ratio=0.5).decide(graph, model, Budget(macs=0.5))
    with pytest.raises(BudgetError, match="cannot reach macs"):
        NetworkSlimming().decide(graph, model, Budget(macs=10))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"ratio": 1.0}, "ratio is 1; it is the share of channels that goes, above 0 and below 1"),
        ({"max_layer_ratio": 0.0}, "max_layer_ratio is 0; it is the share"),
        ({"penalty": -1.0}, "penalty is -1.0, but must be at least 0"),
        ({"penalty": math.nan}, "penalty is nan, but must be at least 0 and finite"),
        ({"passes": 0}, "passes is 0, but must be at least 1"),
        ({"min_share": 2.0}, r"min_share is 2\.0, but must be a share"),
        ({"start": "scratsh"}, "unknown setting of start 'scratsh'; did you mean 'scratch'"),
        ({"compensation": "exactly"}, "did you mean 'exact'"),
        ({"start": "scratch", "sparse_epochs": 0}, "untrained weights would be cut; give sparse_epochs"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        NetworkSlimming(**settings)  # type: ignore[arg-type]


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    model = chain()
    with pytest.raises(PlanError, match="unknown layer to leave alone 'features'"):
        NetworkSlimming(ratio=0.5, lock=("features",)).decide(traced(model), model, None)
    with pytest.raises(BudgetError, match="no layer of Sequential may be cut that has a batch norm or a gate"):
        NetworkSlimming(ratio=0.5, lock=("*",)).decide(traced(model), model, None)


# Residual streams, several γ of a channel --------------------------------------------------------------------------


def test_streams_are_left_whole_unless_asked_for() -> None:
    torch.manual_seed(1)
    model = build_model("digits-resnet").eval()
    with torch.no_grad():
        for name in norm_scales(model):
            model.get_parameter(name).uniform_(0, 1)
    graph = traced(model)
    spared = NetworkSlimming(ratio=0.5).decide(graph, model, None)
    assert not any(graph.group(name).is_stream for name in spared.kept)
    whole = NetworkSlimming(ratio=0.5, residual="group").decide(graph, model, None)
    assert any(graph.group(name).is_stream for name in whole.kept)


def test_several_scales_of_a_channel_combine() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))
    with_scales(model, [3.0, -1.0], [4.0, 5.0])
    graph = traced(model.eval())
    layers = layers_of(graph, scales_in(graph, model), streams=False)
    for combine, expected in {"mean": [3.5, 3.0], "sum": [7.0, 6.0], "max": [4.0, 5.0]}.items():
        assert scores_of(model, layers, combine)["0"].tolist() == expected  # type: ignore[arg-type]
    torch.testing.assert_close(scores_of(model, layers, "l2")["0"], torch.tensor([5.0, 26.0**0.5], dtype=torch.float64))
