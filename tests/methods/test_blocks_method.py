"""Whole residual branches: the measured effect of dropping each worked by hand, and laws."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur.cost import Budget
from secateur.data import load_data
from secateur.errors import BudgetError, PlanError, TrainingError, UsageError
from secateur.graph import ChannelGraph, trace
from secateur.methods import Magnitude
from secateur.methods.blocks import Blocks
from secateur.methods.blocks.effect import measured_effects
from secateur.models import build_model
from secateur.record import Evaluation, TrainResult
from secateur.training import Store, SupervisedTask, TrainSettings

SETTINGS = TrainSettings(batch_size=256, learning_rate=0.01, schedule="constant")
RATIOS = {"1": 1.35, "2": 1.3, "3": 0.6}
"""What the output is multiplied by when the block of this name is dropped."""


class Scaling(nn.Module):
    """x + w · x, which multiplies by 1 + w."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.constant_(self.conv.weight, factor - 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.conv(x)
        return y


class Product:
    """Images of ones, and a network that multiplies them by numbers whose product is 1; any other output is a loss."""

    example_inputs = torch.ones(2, 1, 4, 4)

    def __init__(self, ratios: dict[str, float]) -> None:
        stem, head = (nn.Conv2d(1, 1, 1, bias=False) for _ in range(2))
        nn.init.ones_(stem.weight)
        blocks = [Scaling(1 / ratio) for ratio in ratios.values()]
        nn.init.constant_(head.weight, float(torch.tensor(list(ratios.values())).prod()))
        self.model = nn.Sequential(stem, *blocks, head)

    def train(self, model: nn.Module, **asked: object) -> TrainResult:
        raise AssertionError("nothing is trained here")

    def evaluate(self, model: nn.Module, split: str = "validation") -> Evaluation:
        return Evaluation(loss=0.0, top1=0.5, top5=1.0, samples=2)

    def batches(self, n: int, split: str = "train") -> Iterator[tuple[Tensor, Tensor]]:
        # The batches differ in size, so that a mean over batches is not one over samples.
        yield from [(torch.ones(6, 1, 4, 4), torch.ones(6)), (2 * torch.ones(2, 1, 4, 4), torch.ones(2))][:n]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        assert not model.training
        return (model(batch[0]) - batch[0]).abs().mean()


def without(number: int) -> Budget:
    """Return the budget that needs ``number`` of the three blocks to go: five layers of 16 multiply-adds each."""
    return Budget(macs=16 * (5 - number))


@pytest.fixture(scope="module")
def task() -> SupervisedTask:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return SupervisedTask(load_data("digits"), settings=SETTINGS, seed=1, device="cpu")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model("digits-resnet")


def graph_of(task: Product) -> ChannelGraph:
    return trace(task.model, task.example_inputs)


def test_the_effect_of_dropping_each_block_by_hand() -> None:
    task = Product(RATIOS)
    task.model.train()
    effects = measured_effects(graph_of(task), task.model, list(RATIOS), task, 1)  # type: ignore[arg-type]
    assert effects == pytest.approx({"1": 0.35, "2": 0.3, "3": 0.4}, abs=1e-6)
    assert task.model.training
    # Six samples of ones and two of twos: a mean over samples.
    two = measured_effects(graph_of(task), task.model, ["2"], task, 2)  # type: ignore[arg-type]
    assert two["2"] == pytest.approx((6 * 0.3 + 2 * 0.6) / 8, abs=1e-6)


def test_the_block_goes_whose_removal_hurts_least() -> None:
    task = Product(RATIOS)
    result = Blocks(finetune_epochs=0).compress(task.model, task, without(1), store=Store.temporary())  # type: ignore[arg-type]
    assert result.plan.dropped_blocks == ("2",)
    (step,) = result.record.steps
    assert {name: scores[0] for name, scores in step.scores.items()} == pytest.approx(
        {"1": 0.35 * 1.25, "2": 0.3 * 1.25, "3": 0.4 * 1.25}, abs=1e-6
    )
    assert (step.kept, step.macs, step.params, step.phase) == ({"1": 1, "2": 0, "3": 1}, 64, 4, "dense")
    assert (step.level, step.removed) == ("block", 1)


@pytest.mark.parametrize(("measure", "second"), [("each", "3"), ("once", "1")])
def test_after_a_drop_the_others_are_measured_anew(measure: str, second: str) -> None:
    # Without block 2 the output is 1.3; without 1 too it is 1.755, without 3 too it is 0.78, which is nearer to 1.
    task = Product(RATIOS)
    method = Blocks(measure=measure, finetune_epochs=0, score_batches=1)  # type: ignore[arg-type]
    result = method.compress(task.model, task, without(2), store=Store.temporary())  # type: ignore[arg-type]
    assert set(result.plan.dropped_blocks) == {"2", second}
    assert len(result.record.steps) == (2 if measure == "each" else 1)
    if measure == "each":
        last = result.record.steps[-1]
        # Rises over the loss of 0.3 that the first drop left.
        assert {name: scores[0] for name, scores in last.scores.items()} == pytest.approx(
            {"1": 0.755 - 0.3, "3": 0.22 - 0.3}, abs=1e-6
        )
        assert last.kept == {"1": 1, "3": 0}


def test_what_is_left_alone_is_not_dropped() -> None:
    task = Product(RATIOS)
    for measure in ("each", "once"):
        method = Blocks(measure=measure, lock=("2",), finetune_epochs=0)  # type: ignore[arg-type]
        result = method.compress(task.model, task, without(1), store=Store.temporary())  # type: ignore[arg-type]
        assert result.plan.dropped_blocks == ("1",)
    with pytest.raises(PlanError, match="did you mean"):
        Blocks(lock=("4x",)).decide(graph_of(task), task.model, without(1))


def test_the_budget_is_met_with_training_in_between(task: SupervisedTask, model: nn.Module, tmp_path: Path) -> None:
    before = copy.deepcopy(model.state_dict())
    method = Blocks(step_epochs=1, finetune_epochs=1, score_batches=1)
    graph = trace(model, task.example_inputs)
    least = graph.macs(graph.drop_blocks([block.name for block in graph.blocks if block.locked is None]))
    budget = Budget(macs=least)  # all of them have to go
    result = method.compress(model, task, budget, store=Store(tmp_path))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert trace(result.model, task.example_inputs).macs() == graph.macs(result.plan) == least
    assert result.record.proof is not None
    assert result.record.proof.passed
    steps = result.record.steps
    assert len(steps) > 1
    recoveries = [f"recover-{number}" for number in range(1, len(steps))]
    assert [phase.phase for phase in result.record.phases] == [*recoveries, "finetune"]
    assert [step.phase for step in steps] == ["dense", *recoveries]
    assert [len(step.scores) for step in steps] == list(range(len(steps), 0, -1))
    again = method.compress(model, task, budget, store=Store(tmp_path))
    assert (again.plan, again.record.steps) == (result.plan, steps)
    torch.testing.assert_close(again.model.state_dict(), result.model.state_dict(), rtol=0, atol=0)


def test_norms_scored_once_are_magnitudes(task: SupervisedTask, model: nn.Module) -> None:
    method = Blocks(criterion="l1", measure="once", finetune_epochs=0)
    result = method.compress(model, task, Budget(macs=0.7), store=Store.temporary())
    graph = trace(model, task.example_inputs)
    expected = Magnitude(level="block").decide(graph, model, Budget(macs=0.7))
    assert result.plan == expected == method.decide(graph, model, Budget(macs=0.7))


@pytest.mark.parametrize("criterion", ["gate_taylor", "activation_taylor", "bn_scale", "random", "effect"])
def test_any_criterion_drops_blocks(criterion: str, task: SupervisedTask, model: nn.Module) -> None:
    method = Blocks(criterion=criterion, finetune_epochs=0, score_batches=1, evaluate_steps=False)
    result = method.compress(model, task, Budget(macs=0.7), store=Store.temporary())
    graph = trace(model, task.example_inputs)
    assert graph.macs(result.plan) <= 0.7 * graph.macs()
    assert result.plan.drops
    assert not result.plan.kept


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"criterion": "efect"}, "did you mean 'effect'"),
        ({"measure": "onse"}, "did you mean 'once'"),
        ({"measure": "once", "step_epochs": 1}, "step_epochs is 1 and measure is once"),
        ({"score_batches": 0}, "score_batches is 0"),
        ({"step_epochs": 2.5}, "step_epochs is 2.5"),
        ({"finetune_epochs": -1}, "finetune_epochs is -1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Blocks(**settings)  # type: ignore[arg-type]


def test_what_cannot_be_done_is_refused_before_work_starts(tmp_path: Path) -> None:
    task = Product(RATIOS)
    with pytest.raises(BudgetError, match="without all 3 blocks"):
        Blocks().compress(task.model, task, Budget(macs=1), store=Store(tmp_path / "store"))  # type: ignore[arg-type]
    plain = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 1, 1))
    with pytest.raises(BudgetError, match=r"it has no residual blocks; cut channels, with another method"):
        Blocks().compress(plain, task, Budget(macs=0.5), store=Store(tmp_path / "store"))  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="the method blocks needs a budget"):
        Blocks().compress(task.model, task, None, store=Store(tmp_path / "store"))  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="nothing to cut"):
        Blocks().compress(task.model, task, Budget(macs=1.0), store=Store(tmp_path / "store"))  # type: ignore[arg-type]
    assert not (tmp_path / "store").exists()


def test_a_model_without_a_finite_loss_is_refused() -> None:
    task = Product({**RATIOS, "1": float("nan")})
    with pytest.raises(TrainingError, match="the loss of the model is nan before a block is dropped"):
        measured_effects(graph_of(task), task.model, ["2"], task, 1)  # type: ignore[arg-type]
