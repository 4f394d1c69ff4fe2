"""Whole runs of Network Slimming: passes, gates, selections, compensation, and runs that are killed."""

import copy
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.cost import Budget
from secateur.data import LabelledImages, MemorySource, load_data
from secateur.errors import BudgetError, TrainingError, UsageError
from secateur.graph import trace
from secateur.methods.network_slimming import NetworkSlimming
from secateur.models import build_model
from secateur.models.mlp import MLP
from secateur.training import Store, SupervisedTask, TrainSettings

QUICK = TrainSettings(batch_size=32, learning_rate=0.05, schedule="constant", augment=False)


class Blobs(MemorySource):
    """Two classes that differ by their mean, on 8×8 images; kills the process after so many training batches."""

    def __init__(self, kill_after: int = 0) -> None:
        draws = torch.Generator().manual_seed(0)

        def images(count: int) -> LabelledImages:
            labels = torch.arange(count) % 2
            pixels = torch.randn(count, 1, 8, 8, generator=draws) * 0.3 + labels[:, None, None, None]
            return LabelledImages(pixels, labels)

        super().__init__(name="blobs", train=images(120), test=images(20), peak=1.0, validation_share=0.2)
        self.left = kill_after

    def batches(self, split: Any, **options: Any) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in super().batches(split, **options):
            if split == "train" and "augment" in options:
                self.left -= 1
                if self.left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            yield batch


def blobs_task(kill_after: int = 0) -> SupervisedTask:
    return SupervisedTask(Blobs(kill_after), settings=QUICK, seed=3, device="cpu", checkpoint_steps=2)


def chain(*, padding: int = 0, bias: bool = True, width: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, width, 3, bias=bias),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, width, 3, padding=padding, bias=bias),
        nn.BatchNorm2d(width),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 2),
    )
    with torch.no_grad():
        for tensor in (model[1].weight, model[1].bias, model[5].weight, model[5].bias, model[1].running_mean):
            tensor.uniform_(-1, 1)
    return model.eval()


# Runs --------------------------------------------------------------------------------------------------------------


def test_passes_repeat_training_cutting_and_fine_tuning(tmp_path: Path) -> None:
    model, task = chain(width=16), blobs_task()
    before = copy.deepcopy(model.state_dict())
    method = NetworkSlimming(
        ratio=0.5, max_layer_ratio=0.5, passes=3, sparse_epochs=1, finetune_epochs=2, training=QUICK
    )
    result = method.compress(model, task, None, store=Store(tmp_path))
    phases = [(phase.phase, len(phase.epochs)) for phase in result.record.phases]
    assert phases == [
        *[("sparse-1", 1), ("finetune-1", 2), ("sparse-2", 1), ("finetune-2", 2)],
        *[("sparse-3", 1), ("finetune", 2)],
    ]
    steps = result.record.steps
    assert [step.number for step in steps] == [1, 2, 3]
    widths = {"0": 16, "4": 16}
    for step in steps:
        assert {name: len(values) for name, values in step.scores.items()} == widths
        values = sorted(value for scores in step.scores.values() for value in scores)
        limit = values[int(len(values) * 0.5)]
        expected = {
            name: max(-(-len(scores) // 2), sum(value > limit for value in scores))
            for name, scores in step.scores.items()
        }
        assert step.kept == expected  # at most half of any layer, and by the one threshold
        assert step.removed == sum(widths.values()) - sum(expected.values())
        assert step.accuracy is not None
        widths = step.kept
    graph = trace(model, task.example_inputs)
    assert result.plan.kept_sizes() == widths
    assert (steps[-1].macs, steps[-1].params) == (graph.macs(result.plan), graph.params(result.plan))
    assert result.record.proof is not None
    assert result.record.proof.verdict == "exact"
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    again = method.compress(model, task, None, store=Store(tmp_path))
    assert (again.plan, again.record.steps, again.record.notes) == (result.plan, steps, result.record.notes)
    torch.testing.assert_close(dict(again.model.state_dict()), dict(result.model.state_dict()), rtol=0, atol=0)


def test_a_budget_in_passes_is_met_evenly() -> None:
    model, task = chain(width=16), blobs_task()
    graph = trace(model, task.example_inputs)
    method = NetworkSlimming(passes=2, sparse_epochs=1, finetune_epochs=1, training=QUICK)
    result = method.compress(model, task, Budget(macs=0.4), store=Store.temporary())
    shares = [step.macs / graph.macs() for step in result.record.steps]
    assert 0.6 < shares[0] <= 0.7
    assert 0.3 < shares[1] <= 0.4
    assert any("a budget decides" in note for note in result.record.notes)


def test_fine_tuning_takes_its_own_settings_or_those_of_training() -> None:
    other = TrainSettings(batch_size=16, learning_rate=0.001, augment=False)
    for finetune, expected in ((None, QUICK), (other, other)):
        method = NetworkSlimming(ratio=0.5, sparse_epochs=1, finetune_epochs=1, training=QUICK, finetune=finetune)
        phases = method.compress(chain(), blobs_task(), None, store=Store.temporary()).record.phases
        assert [phase.settings["learning_rate"] for phase in phases] == [QUICK.learning_rate, expected.learning_rate]
        assert phases[1].settings["batch_size"] == expected.batch_size


def test_starting_from_scratch_does_not_depend_on_the_given_weights() -> None:
    method = NetworkSlimming(ratio=0.5, start="scratch", sparse_epochs=2, finetune_epochs=1, training=QUICK, seed=4)
    first = method.compress(chain(), blobs_task(), None, store=Store.temporary())
    other = chain()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    second = method.compress(other, blobs_task(), None, store=Store.temporary())
    assert first.plan.kept == second.plan.kept
    torch.testing.assert_close(dict(first.model.state_dict()), dict(second.model.state_dict()), rtol=0, atol=0)
    assert not any("goes on from given weights" in note for note in first.record.notes)


def test_scales_that_say_nothing_are_refused_when_it_comes_to_the_cut() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2)).eval()
    method = NetworkSlimming(ratio=0.5, sparse_epochs=0, finetune_epochs=0)
    with pytest.raises(BudgetError, match="all γ are 1, so they do not tell which channels matter"):
        method.compress(model, blobs_task(), None, store=Store.temporary())


def test_ties_with_the_threshold_are_noted() -> None:
    model = chain()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.5, 0.5, 0.5, 0.5, 0.5, 0.9, 0.9, 0.9]))
        model[5].weight.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9]))
    method = NetworkSlimming(ratio=0.3, sparse_epochs=0, finetune_epochs=0)
    result = method.compress(model, blobs_task(), None, store=Store.temporary())
    assert result.plan.kept_sizes() == {"0": 3, "4": 4}
    # Sorted: .1 .2 .3 .4 .5×5 …; position int(16·0.3) = 4.
    assert any(note.startswith("5 channels have the very |γ| of the threshold, 0.5,") for note in result.record.notes)


# Gates -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> SupervisedTask:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    settings = TrainSettings(batch_size=64, learning_rate=0.1, augment=False, evaluate_every=0)
    return SupervisedTask(load_data("digits"), settings=settings, seed=1, device="cpu")


def test_a_perceptron_is_gated_trained_cut_and_fine_tuned(digits: SupervisedTask) -> None:
    torch.manual_seed(0)
    dense = MLP(64, (50, 30))
    digits.train(dense, epochs=8)
    method = NetworkSlimming(
        ratio=0.8, scope="local", penalty=1e-3, start="scratch", sparse_epochs=8, finetune_epochs=8, training=None
    )
    result = method.compress(dense, digits, None, store=Store.temporary())
    assert [tuple(parameter.shape) for parameter in result.model.parameters()] == [
        *[(10, 64), (10,), (6, 10), (6,)],
        *[(10, 6), (10,)],
    ]
    assert type(result.model) is MLP
    assert [name for name, _ in result.model.named_modules()] == [name for name, _ in dense.named_modules()]
    assert result.record.proof is not None
    assert result.record.proof.verdict == "exact"
    top1 = digits.evaluate(dense).score, digits.evaluate(result.model).score
    # 10–6 neurons in place of 50–30, 144 samples: above nine tenths of the dense model's accuracy.
    assert top1[0] > 0.9
    assert top1[1] > 0.9 * top1[0]
    assert any("gated while they are trained sparsely: layers.0, layers.2" in note for note in result.record.notes)


def test_gates_need_training(digits: SupervisedTask) -> None:
    method = NetworkSlimming(ratio=0.5, sparse_epochs=0, finetune_epochs=0)
    with pytest.raises(UsageError, match=r"layers\.0 and 1 more layer have no batch norm, .* give sparse_epochs"):
        method.compress(MLP(64, (50, 30)), digits, None, store=Store.temporary())
    with pytest.raises(BudgetError, match="that has a batch norm or a gate"):
        NetworkSlimming(ratio=0.5, gates="never").decide(
            trace(MLP(64, (9,)), torch.zeros(2, 1, 8, 8)), MLP(64, (9,)), None
        )


def test_layers_without_a_norm_beside_some_with_one_are_left_alone_or_gated() -> None:
    torch.manual_seed(0)
    mixed = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 12),
        nn.ReLU(),
        nn.Linear(12, 2),
    ).eval()
    settings: dict[str, Any] = {"ratio": 0.5, "sparse_epochs": 1, "finetune_epochs": 0, "training": QUICK}
    alone = NetworkSlimming(**settings).compress(mixed, blobs_task(), None, store=Store.temporary())
    assert set(alone.plan.kept) == {"0"}
    assert any("left alone (gates: all cuts them too): 4" in note for note in alone.record.notes)
    gated = NetworkSlimming(**settings, gates="all").compress(mixed, blobs_task(), None, store=Store.temporary())
    assert set(gated.record.steps[0].scores) == {"0", "4"}
    assert type(gated.model) is type(mixed)
    assert [name for name, _ in gated.model.named_parameters()] == [name for name, _ in mixed.named_parameters()]


def test_a_store_of_other_settings_is_refused(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"sparse_epochs": 1, "finetune_epochs": 0, "training": QUICK}
    NetworkSlimming(ratio=0.5, **settings).compress(chain(), blobs_task(), None, store=Store(tmp_path))
    with pytest.raises(TrainingError, match=r"plan-1 was decided for ratio = 0\.5, not 0\.4"):
        NetworkSlimming(ratio=0.4, **settings).compress(chain(), blobs_task(), None, store=Store(tmp_path))


def test_it_cuts_to_a_budget_like_every_method(digits: SupervisedTask, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("digits-resnet")
    method = NetworkSlimming(sparse_epochs=1, finetune_epochs=1, training=None)
    result = method.compress(model, digits, Budget(macs=0.5), store=Store(tmp_path))
    inputs = digits.example_inputs
    assert Budget(macs=0.5).met_by(trace(result.model, inputs), trace(model, inputs))
