"""Any criterion, iteratively to a budget: laws, and scores per multiply-add worked by hand."""

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur.cost import Budget, MinimumWarning
from secateur.criteria import CRITERIA
from secateur.data import load_data
from secateur.errors import BudgetError, TrainingError, UsageError
from secateur.graph import ChannelGraph, trace
from secateur.methods import Magnitude
from secateur.methods.global_pruning import GlobalPruning
from secateur.methods.global_pruning.cost_aware import macs_saved, score_per_mac
from secateur.methods.stepping import even_budgets, shrinking_budgets
from secateur.models import build_model
from secateur.record import Evaluation, TrainResult
from secateur.training import Store, SupervisedTask, TrainSettings
from secateur.training.store import Phase

SETTINGS = TrainSettings(batch_size=256, learning_rate=0.01, schedule="constant")


@pytest.fixture(scope="module")
def task() -> SupervisedTask:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return SupervisedTask(load_data("digits"), settings=SETTINGS, seed=1, device="cpu")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model("digits-resnet")


class Counting:
    """A user's own task around another one, that counts how often it is asked for batches to score on."""

    def __init__(self, task: SupervisedTask) -> None:
        self._task, self.asked = task, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._task, name)

    def in_phase(self, phase: Phase) -> object:
        return self._task.in_phase(phase)

    def batches(self, n: int, split: str = "train") -> Iterator[tuple[Tensor, Tensor]]:
        self.asked += 1
        return self._task.batches(n, split)


class Untrained:
    """A user's own task that trains nothing."""

    example_inputs = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def train(self, model: nn.Module, **asked: object) -> TrainResult:
        raise AssertionError("nothing is trained here")

    def evaluate(self, model: nn.Module, split: str = "validation") -> Evaluation:
        return Evaluation(loss=1.0, top1=0.5, top5=1.0, samples=2)


def chain() -> tuple[nn.Module, ChannelGraph]:
    """Two layers that can be cut: 4 and 8 units, on images of 4 × 4."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    return net, trace(net, torch.zeros(2, 3, 4, 4))


def test_the_multiply_adds_that_a_unit_saves_by_hand() -> None:
    _, graph = chain()
    # 16 positions: a unit of the first layer has 3 weights and is read by 8 filters of 9 weights each; one of the
    # second has 4 · 9 weights and is read by 2.
    assert {name: macs_saved(graph)[name] for name in ("0", "2")} == {"0": 16 * (3 + 8 * 9), "2": 16 * (4 * 9 + 2)}
    narrower = graph.after(graph.plan({"2": [0, 1, 2]}))
    assert macs_saved(narrower)["0"] == 16 * (3 + 3 * 9)


def test_scores_per_multiply_add_by_hand() -> None:
    _, graph = chain()
    scores = {"0": torch.tensor([1.0, 2.0, 3.0, 6.0]), "2": torch.arange(8.0)}
    plain = score_per_mac(graph, scores, normalize=False)
    torch.testing.assert_close(plain["0"], torch.tensor([1.0, 2.0, 3.0, 6.0]) / 1200)
    torch.testing.assert_close(plain["2"], torch.arange(8.0) / 608)
    relative = score_per_mac(graph, scores, normalize=True)
    torch.testing.assert_close(relative["0"], torch.tensor([1.0, 2.0, 3.0, 6.0]) / 3 / 1200)
    torch.testing.assert_close(relative["2"], torch.arange(8.0) / 3.5 / 608)


def test_a_dear_unit_goes_before_a_cheap_one_of_the_same_worth() -> None:
    net, graph = chain()
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight.fill_(1.0)
            layer.weight[0] *= 0.5  # one unit of each layer is worth half of the others
    one_step = {"steps": 1, "finetune_epochs": 0, "residual": "group"}
    budget = Budget(macs=graph.macs() - 1)  # any unit will do
    for per_mac in (True, False):
        plan = GlobalPruning(per_mac=per_mac, **one_step).decide(graph, net, budget)  # type: ignore[arg-type]
        # Normalised, the unit of the first layer is worth 0.5 / 0.875 and that of the second 0.5 / 0.9375, which is
        # less; but it saves 1,200 multiply-adds and the other 608.
        assert plan.kept == ({"0": (1, 2, 3)} if per_mac else {"2": (1, 2, 3, 4, 5, 6, 7)})


@pytest.mark.parametrize("criterion", ["l1", "l2", "random"])
def test_one_step_is_magnitude(criterion: str, task: SupervisedTask, model: nn.Module) -> None:
    budget = Budget(macs=0.5)
    one = GlobalPruning(criterion=criterion, steps=1, finetune_epochs=0).compress(
        model, task, budget, store=Store.temporary()
    )
    other = Magnitude(criterion=criterion, finetune_epochs=0).compress(model, task, budget, store=Store.temporary())
    assert one.plan == other.plan
    graph = trace(model, task.example_inputs)
    assert one.plan == GlobalPruning(criterion=criterion, steps=7).decide(graph, model, budget)


def test_several_steps_with_recovery_are_magnitudes_too(task: SupervisedTask, model: nn.Module) -> None:
    settings = {"steps": 3, "step_epochs": 1, "finetune_epochs": 0}
    one = GlobalPruning(**settings).compress(model, task, Budget(macs=0.5), store=Store.temporary())  # type: ignore[arg-type]
    other = Magnitude(**settings).compress(model, task, Budget(macs=0.5), store=Store.temporary())  # type: ignore[arg-type]
    assert one.plan == other.plan
    torch.testing.assert_close(one.model.state_dict(), other.model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("level", ["block", "both"])
def test_blocks_go_as_with_magnitude(level: str, task: SupervisedTask, model: nn.Module) -> None:
    budget = Budget(macs=0.5)
    found = GlobalPruning(level=level, finetune_epochs=0).compress(model, task, budget, store=Store.temporary())  # type: ignore[arg-type]
    graph = trace(model, task.example_inputs)
    assert found.plan == Magnitude(level=level).decide(graph, model, budget)  # type: ignore[arg-type]
    assert found.plan.drops
    (step,) = found.record.steps
    names = {block.name for block in graph.blocks} if level == "block" else set(graph.by_name)
    assert set(step.kept) <= names
    assert all((step.kept[name] == 0) is (level == "block") for name in found.plan.dropped_blocks if name in step.kept)


def test_the_budget_is_met_and_every_step_recorded(task: SupervisedTask, model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    method = GlobalPruning(criterion="weight_taylor", steps=3, step_epochs=0.5, finetune_epochs=1, score_batches=2)
    result = method.compress(model, task, Budget(macs=0.5), store=Store.temporary())
    graph = trace(model, task.example_inputs)
    assert graph.macs(result.plan) <= 0.5 * graph.macs()
    assert trace(result.model, task.example_inputs).macs() == graph.macs(result.plan)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    record = result.record
    assert record.proof is not None
    assert record.proof.passed
    assert record.trained_between_cuts
    assert [phase.phase for phase in record.phases] == ["recover-1", "recover-2", "finetune"]
    whole = task.data.size("train")
    assert [phase.epochs[0].samples for phase in record.phases] == [round(whole / 2), round(whole / 2), whole]
    assert [step.phase for step in record.steps] == ["dense", "recover-1", "recover-2"]
    assert [step.number for step in record.steps] == [1, 2, 3]
    # What a step saw is what the one before left; the last one left the result.
    sizes = {group.name: group.size for group in graph.groups}
    for step in record.steps:
        assert {name: len(scores) for name, scores in step.scores.items()} == {name: sizes[name] for name in step.kept}
        assert step.removed == sum(sizes[name] - left for name, left in step.kept.items())
        sizes |= step.kept
    assert {name: sizes[name] for name in result.plan.kept} == result.plan.kept_sizes()
    last = record.steps[-1]
    assert (last.macs, last.params) == (graph.macs(result.plan), graph.params(result.plan))
    assert record.after_cut is not None
    assert last.accuracy == record.after_cut.top1
    assert [step.macs for step in record.steps] == sorted((step.macs for step in record.steps), reverse=True)


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_every_criterion_cuts_to_the_budget(criterion: str, task: SupervisedTask, model: nn.Module) -> None:
    method = GlobalPruning(
        criterion=criterion, steps=2, step_epochs=0, finetune_epochs=0, score_batches=1, evaluate_steps=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MinimumWarning)
        result = method.compress(model, task, Budget(macs=0.6), store=Store.temporary())
    graph = trace(model, task.example_inputs)
    assert graph.macs(result.plan) <= 0.6 * graph.macs()
    assert all(step.accuracy is None for step in result.record.steps)


def test_a_finished_run_is_read_from_the_store(task: SupervisedTask, model: nn.Module, tmp_path: Path) -> None:
    method = GlobalPruning(criterion="gate_taylor", steps=3, step_epochs=1, finetune_epochs=1, score_batches=1)
    counting = Counting(task)
    first = method.compress(model, counting, Budget(macs=0.5), store=Store(tmp_path))  # type: ignore[arg-type]
    assert counting.asked == 3
    again = method.compress(model, counting, Budget(macs=0.5), store=Store(tmp_path))  # type: ignore[arg-type]
    assert counting.asked == 3
    assert again.plan == first.plan
    assert again.record.steps == first.record.steps
    torch.testing.assert_close(again.model.state_dict(), first.model.state_dict(), rtol=0, atol=0)
    with pytest.raises(TrainingError, match=r"belongs to another run: plan-1 was decided for score_batches = 1, not 2"):
        GlobalPruning(criterion="gate_taylor", steps=3, score_batches=2).compress(
            model, task, Budget(macs=0.5), store=Store(tmp_path)
        )
    (tmp_path / "data" / "scores-2.safetensors").unlink()
    with pytest.raises(TrainingError, match="not scores-2"):
        method.compress(model, task, Budget(macs=0.5), store=Store(tmp_path))


@pytest.mark.parametrize("seed", range(3))
def test_what_is_gone_stays_gone_in_steps_smaller_than_a_unit(seed: int) -> None:
    net, graph = chain()
    method = GlobalPruning(criterion="random", steps=30, step_epochs=0, finetune_epochs=0, seed=seed)
    result = method.compress(net, Untrained(), Budget(macs=0.3), store=Store.temporary())  # type: ignore[arg-type]
    sizes: dict[str, int] = {}
    for step in result.record.steps:
        assert all(left <= sizes.get(name, left) for name, left in step.kept.items())
        assert step.removed >= 0
        sizes |= step.kept
    assert any(step.removed == 0 for step in result.record.steps)
    assert trace(result.model, Untrained.example_inputs).macs() == graph.macs(result.plan) <= 0.3 * graph.macs()


def test_streams_once_cut_are_not_spared_again(task: SupervisedTask, model: nn.Module) -> None:
    method = GlobalPruning(criterion="random", steps=8, step_epochs=0, finetune_epochs=0, evaluate_steps=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MinimumWarning)
        result = method.compress(model, task, Budget(macs=0.04), store=Store.temporary())
    graph = trace(model, task.example_inputs)
    assert graph.macs(result.plan) <= 0.04 * graph.macs()
    assert any("residual streams are cut too" in note for note in result.record.notes)


def test_minima_rounding_locks_and_streams_hold_over_all_steps(task: SupervisedTask, model: nn.Module) -> None:
    graph = trace(model, task.example_inputs)
    inner = [group.name for group in graph.groups if group.prunable and not group.is_stream]
    method = GlobalPruning(
        steps=4,
        step_epochs=0,
        finetune_epochs=0,
        min_share=0.25,
        round_to=4,
        residual="inner",
        lock=(inner[0],),
        per_mac=True,
    )
    result = method.compress(model, task, Budget(macs=0.6), store=Store.temporary())
    plan = result.plan
    assert sum("were cut to their minimum" in note for note in result.record.notes) == 1  # not once per step
    assert set(plan.kept) <= set(inner[1:])
    assert all(len(kept) % 4 == 0 and len(kept) >= plan.sizes[name] / 4 for name, kept in plan.kept.items())


def test_budgets_on_the_way_by_hand() -> None:
    _, graph = chain()
    whole = graph.macs()
    assert whole == 16 * (12 + 288 + 16)
    assert even_budgets(graph, Budget(macs=0.5), 2) == [Budget(macs=whole * 3 // 4), Budget(macs=whole // 2)]
    shrinking = shrinking_budgets(graph, Budget(macs=0.5), 0.25)
    assert shrinking == [Budget(macs=3792), Budget(macs=2844), Budget(macs=2528)]
    # Of two limits the one reached first waits for the other.
    both = shrinking_budgets(graph, Budget(macs=0.8, params=0.5), 0.25)
    assert [budget.macs for budget in both] == [4044, 4044, 4044]
    assert [budget.params for budget in both] == [int(graph.params() * left) for left in (0.75, 0.5625, 0.5)]
    assert shrinking_budgets(graph, Budget(macs=1.0), 0.25) == [Budget(macs=1.0)]


def test_a_share_per_step_takes_as_many_steps_as_it_needs(task: SupervisedTask, model: nn.Module) -> None:
    method = GlobalPruning(step_share=0.2, step_epochs=0, finetune_epochs=0, evaluate_steps=False)
    result = method.compress(model, task, Budget(macs=0.5), store=Store.temporary())
    graph = trace(model, task.example_inputs)
    assert len(result.record.steps) == 4  # 0.8 · 0.8 · 0.8 is above a half
    for number, step in enumerate(result.record.steps, start=1):
        assert step.macs <= max(0.5, 0.8**number) * graph.macs()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"criterion": "gate_tailor"}, "did you mean 'gate_taylor'"),
        ({"steps": 3, "step_share": 0.1}, r"there are steps \(3\) and a step_share \(0.1\)"),
        ({"step_share": 1.0}, "step_share is 1, but must be above 0 and below 1"),
        ({"level": "both", "step_share": 0.1}, r"step_share \(0.1\) and level is both"),
        ({"level": "both", "steps": 2}, "steps is 2 and level is both"),
        ({"steps": 0}, "steps is 0"),
        ({"per_mac": True, "scope": "local"}, "per_mac is set and scope is local"),
        ({"per_mac": True, "level": "block"}, "per_mac is set and level is block"),
        ({"score_batches": 0}, "score_batches is 0"),
        ({"step_epochs": 1.5}, "step_epochs is 1.5; give whole passes"),
        ({"step_epochs": float("nan")}, "step_epochs is nan"),
        ({"step_epochs": float("inf")}, "step_epochs is inf"),
        ({"finetune_epochs": -1}, "finetune_epochs is -1"),
        ({"residual": "inners"}, "did you mean 'inner'"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        GlobalPruning(**settings)  # type: ignore[arg-type]


def test_a_budget_that_cannot_be_met_is_refused_before_anything_is_trained(
    task: SupervisedTask, model: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match="cannot reach macs"):
        GlobalPruning(min_share=0.9).compress(model, task, Budget(macs=0.1), store=Store(tmp_path / "store"))
    assert not (tmp_path / "store").exists()
    with pytest.raises(BudgetError, match="nothing to cut"):
        GlobalPruning(step_share=0.1).compress(model, task, Budget(macs=1.0), store=Store.temporary())
    with pytest.raises(BudgetError, match="the method global needs a budget"):
        GlobalPruning().compress(model, task, None, store=Store.temporary())
