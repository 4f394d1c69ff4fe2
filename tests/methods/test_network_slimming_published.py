"""Network Slimming as published: training from scratch, the counts of Table 1, the default settings."""

import copy
import itertools
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from test_network_slimming import QUICK, chain, task, traced
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.methods.network_slimming import TRAINING, NetworkSlimming
from secateur.methods.network_slimming.published import departures
from secateur.methods.network_slimming.scales import norm_scales
from secateur.methods.network_slimming.starting import start_anew
from secateur.models import build_model
from secateur.training import Store, SupervisedTask, TrainSettings

__all__ = ["task"]  # the fixture


# Starting from scratch ---------------------------------------------------------------------------------------------


def test_starting_from_scratch_draws_everything_anew_and_sets_scales() -> None:
    model = build_model("digits-resnet")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(7)
    other = copy.deepcopy(model)
    global_state = torch.get_rng_state()
    start_anew(model, seed=1, scale=0.5)
    start_anew(other, seed=1, scale=0.5)
    assert torch.equal(torch.get_rng_state(), global_state)
    torch.testing.assert_close(dict(model.state_dict()), dict(other.state_dict()), rtol=0, atol=0)
    for path, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(0.5).all()
            assert module.bias.eq(0).all()
            assert module.running_mean.eq(0).all()
            assert module.running_var.eq(1).all()
        elif isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.weight[0, 0].numel()
            deviation = (2 / fan_out) ** 0.5
            # The standard deviation of n normal draws scatters by 1/√(2n) of itself.
            assert module.weight.std().item() == pytest.approx(deviation, rel=5 / (2 * module.weight.numel()) ** 0.5), (
                path
            )
    start_anew(other, seed=2, scale=None)
    assert not torch.equal(model.conv1.weight, other.conv1.weight)
    assert other.bn1.weight.eq(1).all()


def test_a_class_that_does_not_say_how_to_draw_it_is_refused_before_any_work(task: SupervisedTask) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.factor

    model = nn.Sequential(*chain(), Scaled()).eval()
    method = NetworkSlimming(ratio=0.5, start="scratch", sparse_epochs=1, finetune_epochs=0, training=QUICK)
    with pytest.raises(UsageError, match=r"Scaled has no reset_parameters\(\) to draw 9.factor anew"):
        method.compress(model, task, None, store=Store.temporary())


# Table 1 -----------------------------------------------------------------------------------------------------------


def test_table_1_vgg19_with_random_scales() -> None:
    """70 % of VGG-19's channels by chance: 1.81M ± 0.03M parameters of 20.04M left; the paper's network has 2.30M."""
    model = build_model("vgg19-slimming").eval()
    graph = traced(model, 32, 3)
    assert graph.params() == 20_035_018  # 20.04M
    sizes = [group.size for group in graph.groups if group.prunable]
    total = sum(sizes)
    assert (len(sizes), total) == (16, 5504)
    counts = []
    for seed in range(6):
        draws = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name in norm_scales(model):
                scale = model.get_parameter(name)
                scale.copy_(torch.rand(scale.shape, generator=draws))
        plan = NetworkSlimming(ratio=0.7).decide(graph, model, None)
        assert sum(plan.kept_sizes().values()) == total - int(total * 0.7) - 1
        counts.append(graph.params(plan))
    # Chance keeps the share q of every layer, so that each 3×3 kernel stays with probability q², and 3 and 2 values of
    # each first kernel and norm with q. A layer's kept number scatters by √(C·q·(1−q)).
    q = 1 - (int(total * 0.7) + 1) / total
    pairs = list(zip([3, *sizes], [*sizes, 10], strict=True))
    expected = 9 * (3 * 64 * q + sum(a * b * q * q for a, b in pairs[1:-1])) + 2 * q * total + 5120 * q + 10
    inner = [9 * q * (before + after) for (before, _), (_, after) in itertools.pairwise(pairs)]
    deviation = sum((slope * slope * c * q * (1 - q)) for slope, c in zip(inner, sizes, strict=True)) ** 0.5
    mean = sum(counts) / len(counts)
    assert abs(mean - expected) < 4 * deviation / len(counts) ** 0.5
    assert max(abs(count - expected) for count in counts) < 4.5 * deviation
    # Trained γ keep more of some layers than of others. If neighbours' shares vary together by a standard deviation s,
    # kernels stay with q² + s²: the published 2.30M asks for s = 0.157, and 0.2 is the most that is allowed for here.
    assert expected < 2.30e6 < graph.params() * (q * q + 0.2**2)


def test_table_1_densenet40_by_channel_selection() -> None:
    model = build_model("densenet40").eval()
    graph = traced(model, 32, 3)
    assert f"{graph.params() / 1e6:.2f}" == "1.02"
    if not getattr(graph, "selections", ()):
        pytest.skip("the graph knows no channel selections")
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in norm_scales(model):
            scale = model.get_parameter(name)
            scale.copy_(torch.rand(scale.shape, generator=draws))
    # Only the reading side of each convolution is cut, so that a share q of all kernels stays: a little below the
    # published 0.66M and 0.35M, whose trained γ keep more where there are more kernels per channel.
    for ratio, published in ((0.4, 0.66e6), (0.7, 0.35e6)):
        plan = NetworkSlimming(ratio=ratio).decide(graph, model, None)
        assert not plan.kept
        left = graph.params(plan)
        assert left == pytest.approx((1 - ratio) * graph.params(), rel=0.05)
        assert left == pytest.approx(published, rel=0.12)


def test_defaults_are_the_papers() -> None:
    method = NetworkSlimming()
    assert (method.penalty, method.sparse_epochs, method.finetune_epochs, method.scale_init) == (1e-4, 160, 160, 0.5)
    assert (TRAINING.batch_size, TRAINING.learning_rate, TRAINING.momentum, TRAINING.nesterov) == (64, 0.1, 0.9, True)
    assert (TRAINING.weight_decay, TRAINING.schedule, TRAINING.milestones) == (1e-4, "step", (0.5, 0.75))
    assert method.finetune is None  # the same schedule again
    assert TRAINING.decay_norms_and_biases  # weight decay also acts on γ


def test_settings_are_read_and_written_as_json() -> None:
    adapter = TypeAdapter(NetworkSlimming)
    method = NetworkSlimming(ratio=0.7, lock=("features.0",), finetune=QUICK, compensation="exact")
    assert adapter.validate_json(adapter.dump_json(method)) == method
    with pytest.raises(ValidationError, match="lambda"):
        adapter.validate_python({"name": "network_slimming", "lambda": 1e-4})
    assert "scale_init" in adapter.json_schema()["properties"]


# Departures --------------------------------------------------------------------------------------------------------

OTHER = TrainSettings(batch_size=64, learning_rate=0.01)
IMAGENET = TrainSettings(batch_size=256, learning_rate=0.001)
SETTINGS_OF_ITS_OWN = "fine-tuning has settings of its own, where the paper repeats those of sparse training"
PUBLISHED = {"ratio": 0.7, "start": "scratch"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, []),
        ({"finetune": TRAINING}, []),
        ({"finetune": IMAGENET, "finetune_epochs": 5}, []),
        ({"finetune": OTHER}, [SETTINGS_OF_ITS_OWN]),
        (
            {"finetune_epochs": 40},
            ["fine-tuning takes 40 epochs, where the paper takes as many as for sparse training, here 160"],
        ),
        (
            {"finetune": OTHER, "finetune_epochs": 5},
            [SETTINGS_OF_ITS_OWN, "fine-tuning takes 5 epochs, where the paper"],
        ),
        ({"finetune_epochs": 0}, ["the cut network is not fine-tuned"]),
        ({"scale_init": 1.0}, ["γ begins at 1, not at 0.5"]),
        ({"start": "weights"}, ["sparse training goes on from given weights"]),
        ({"start": "weights", "sparse_epochs": 0}, ["there was no training with a penalty on γ"]),
        (
            {"start": "weights", "sparse_epochs": 0, "training": OTHER, "finetune_epochs": 40},
            [
                "there was no training with a penalty on γ",
                SETTINGS_OF_ITS_OWN,
                "fine-tuning takes 40 epochs, not 160",
            ],
        ),
    ],
)
def test_what_departs_from_the_paper_is_said(settings: dict[str, Any], expected: list[str]) -> None:
    method = NetworkSlimming(**{**PUBLISHED, **settings})
    found = departures(method, by_budget=False)
    assert len(found) == len(expected)
    for sentence, text in zip(found, expected, strict=True):
        assert sentence.startswith(f"departs from the paper: {text}")
    more = departures(method, by_budget=True)
    assert (len(more), "a budget decides" in more[0]) == (len(found) + 1, True)


def test_a_run_says_that_its_fine_tuning_is_not_the_published_one(task: SupervisedTask) -> None:
    method = NetworkSlimming(ratio=0.5, sparse_epochs=1, finetune_epochs=2, training=QUICK, finetune=OTHER)
    notes = method.compress(nn.Sequential(*chain()), task, None, store=Store.temporary()).record.notes
    assert f"departs from the paper: {SETTINGS_OF_ITS_OWN}" in notes
    assert any("fine-tuning takes 2 epochs" in note and "here 1" in note for note in notes)
