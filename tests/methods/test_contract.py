"""Laws that every method obeys."""

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from quick import QUICK, SETTINGS, budget_for
from torch import nn

from secateur.cost import Budget, MinimumWarning, size_bytes
from secateur.data import load_data
from secateur.errors import BudgetError, TrainingError, UsageError
from secateur.export import save
from secateur.graph import trace
from secateur.methods import METHODS, Magnitude
from secateur.models import build_model
from secateur.record import Evaluation, TrainResult
from secateur.sparse import nonzeros
from secateur.training import Store, SupervisedTask


@pytest.fixture(scope="module")
def task() -> SupervisedTask:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return SupervisedTask(load_data("digits"), settings=SETTINGS, seed=1, device="cpu")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model("digits-resnet")


@pytest.mark.parametrize("name", METHODS)
def test_compress_meets_the_budget_and_spares_its_input(
    name: str, task: SupervisedTask, model: nn.Module, tmp_path: Path
) -> None:
    before = copy.deepcopy(model.state_dict())
    budget = budget_for(name, 0.5)
    result = METHODS[name](**QUICK[name]).compress(model, task, budget, store=Store(tmp_path))
    assert type(result.model) is type(model)
    if METHODS[name].reduces == "channels":
        assert budget.met_by(trace(result.model, task.example_inputs), trace(model, task.example_inputs))
        assert result.record.proof is not None
        assert result.record.proof.passed
    else:
        assert result.masks is not None
        assert nonzeros(result.model, result.masks) <= 0.5 * nonzeros(model)
        for entry, mask in result.masks.items():
            assert not bool(result.model.get_parameter(entry)[~mask].any())
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


@pytest.mark.parametrize("name", METHODS)
def test_a_second_run_over_the_same_store_gives_the_same(
    name: str, task: SupervisedTask, model: nn.Module, tmp_path: Path
) -> None:
    method = METHODS[name](**QUICK[name])
    budget = budget_for(name, 0.5)
    first = method.compress(model, task, budget, store=Store(tmp_path))
    again = method.compress(model, task, budget, store=Store(tmp_path))
    fresh = method.compress(model, task, budget, store=Store.temporary())
    assert first.plan == again.plan == fresh.plan
    assert first.masks == again.masks == fresh.masks
    state = dict(first.model.state_dict())
    torch.testing.assert_close(dict(again.model.state_dict()), state, rtol=0, atol=0)
    torch.testing.assert_close(dict(fresh.model.state_dict()), state, rtol=0, atol=0)


def test_steps_compose_to_one_plan_of_the_original(task: SupervisedTask, model: nn.Module) -> None:
    result = Magnitude(steps=3, step_epochs=0, finetune_epochs=0).compress(
        model, task, Budget(macs=0.4), store=Store.temporary()
    )
    graph = trace(model, task.example_inputs)
    assert graph.macs(result.plan) <= 0.4 * graph.macs()
    assert trace(result.model, task.example_inputs).macs() == graph.macs(result.plan)


@pytest.mark.parametrize("name", METHODS)
def test_a_store_of_another_job_is_refused(name: str, task: SupervisedTask, model: nn.Module, tmp_path: Path) -> None:
    method = METHODS[name](**QUICK[name])
    method.compress(model, task, budget_for(name, 0.8), store=Store(tmp_path))
    with pytest.raises(TrainingError, match=r"belongs to another run: .* decided for budget = "):
        method.compress(model, task, budget_for(name, 0.3), store=Store(tmp_path))


@pytest.mark.parametrize("name", METHODS)
def test_a_store_of_other_weights_is_refused(name: str, task: SupervisedTask, model: nn.Module, tmp_path: Path) -> None:
    method = METHODS[name](**QUICK[name])
    method.compress(model, task, budget_for(name, 0.5), store=Store(tmp_path))
    torch.manual_seed(1)
    with pytest.raises(TrainingError, match=r"belongs to another run: (plan-1|goal) was decided for weights = "):
        method.compress(build_model("digits-resnet"), task, budget_for(name, 0.5), store=Store(tmp_path))


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if hasattr(kind, "residual")])
def test_residual_streams_are_spared_and_a_note_says_where_they_could_not_be(
    name: str, task: SupervisedTask, model: nn.Module
) -> None:
    graph = trace(model, task.example_inputs)
    for share, spared in ((0.6, True), (0.05, False)):
        method = METHODS[name](**{**QUICK[name], "finetune_epochs": 0})
        result = method.compress(model, task, Budget(macs=share), store=Store.temporary())
        assert any(graph.group(group).is_stream for group in result.plan.kept) is not spared
        assert any("residual streams are cut too" in note for note in result.record.notes) is not spared


def test_minima_hold_over_all_steps_together(task: SupervisedTask, model: nn.Module) -> None:
    graph = trace(model, task.example_inputs)
    method = Magnitude(steps=4, step_epochs=0, finetune_epochs=0, min_share=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MinimumWarning)
        plan = method.compress(model, task, Budget(macs=0.4), store=Store.temporary()).plan
    assert all(len(kept) >= 0.5 * graph.group(group).size for group, kept in plan.kept.items())


def test_a_budget_of_bytes_holds_for_the_file_after_several_steps(tmp_path: Path) -> None:
    task = _OneLayerTask()
    wide = nn.Sequential(nn.Conv2d(3, 600, 1), nn.Conv2d(600, 600, 3, groups=600), nn.Flatten(), nn.Linear(600, 2))
    graph = trace(wide, task.example_inputs)
    method = Magnitude(steps=4, step_epochs=0, finetune_epochs=0)
    result = method.compress(wide, task, Budget(size_bytes=0.4), store=Store.temporary())
    save(result.model, tmp_path / "small.safetensors", plan=result.plan)
    assert (tmp_path / "small.safetensors").stat().st_size <= 0.4 * size_bytes(graph, graph.sizes)


class _OneLayerTask:
    """A user's own task that needs no data: what a method without training asks for."""

    example_inputs = torch.randn(2, 3, 3, 3)

    def train(self, model: nn.Module, **settings: object) -> TrainResult:
        raise AssertionError("nothing is trained here")

    def evaluate(self, model: nn.Module, split: str = "validation") -> Evaluation:
        return Evaluation(loss=1.0, top1=0.5, top5=1.0, samples=2)

    def batches(self, n: int, split: str = "train") -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter(())

    def loss(self, model: nn.Module, batch: object) -> torch.Tensor:
        return torch.zeros(())


def test_a_budget_already_held_is_refused(task: SupervisedTask, model: nn.Module) -> None:
    with pytest.raises(BudgetError, match="nothing to cut"):
        Magnitude().compress(model, task, Budget(macs=1.0), store=Store.temporary())


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'l1'"):
        Magnitude(criterion="l11")
    with pytest.raises(UsageError, match="steps is 0"):
        Magnitude(steps=0)
    with pytest.raises(UsageError, match="finetune_epochs is -1"):
        Magnitude(finetune_epochs=-1)
