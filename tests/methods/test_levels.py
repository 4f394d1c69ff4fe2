"""Whole blocks and approximate groups through every method: decided, trained, continued, refused where they cannot."""

import warnings
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur.cost import Budget, MinimumWarning, allocate
from secateur.criteria import score, score_blocks
from secateur.data import load_data
from secateur.errors import BudgetError, PlanError, UsageError
from secateur.export import save
from secateur.graph import trace
from secateur.methods import L1, METHODS, Magnitude
from secateur.methods.levels import cost_after, least_cost
from secateur.methods.smallest import easiest_budget, smallest_within
from secateur.models import build_model
from secateur.record import Evaluation, TrainResult
from secateur.training import Store, SupervisedTask, TrainSettings

SETTINGS = TrainSettings(batch_size=256, learning_rate=0.01, schedule="constant")


@pytest.fixture(scope="module")
def task() -> SupervisedTask:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return SupervisedTask(load_data("digits"), settings=SETTINGS, seed=1, device="cpu")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model("resnet20")


IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Normed(nn.Module):
    """All that can be cut stands before a norm over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3), nn.GroupNorm(1, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.stem(x))).mean((2, 3)))


class Untrained:
    """A task that trains nothing and judges by how many parameters there are."""

    example_inputs = IMAGES

    def train(self, model: nn.Module, **asked: object) -> TrainResult:
        return TrainResult(phase=str(asked.get("phase", "")), epochs=())

    def evaluate(self, model: nn.Module, split: str = "validation") -> Evaluation:
        count = sum(parameter.numel() for parameter in model.parameters())
        return Evaluation(loss=0.0, top1=min(1.0, count / 300_000), top5=1.0, samples=1000)


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if "level" in {f.name for f in fields(kind)}])
@pytest.mark.parametrize("level", ["block", "both"])
def test_blocks_go_and_the_budget_holds(name: str, level: str, model: nn.Module) -> None:
    graph = trace(model, IMAGES)
    plan = METHODS[name](level=level, residual="inner").decide(graph, model, Budget(macs=0.5))
    assert plan.drops
    assert bool(plan.kept) is (level == "both")
    assert graph.macs(plan) <= 0.5 * graph.macs()
    scores = score_blocks(graph, model, "l1")
    lowest = sorted(scores, key=scores.__getitem__)[: len(plan.drops)]
    assert sorted(lowest) == list(plan.dropped_blocks)


def test_what_is_left_alone_is_not_dropped(model: nn.Module) -> None:
    graph = trace(model, IMAGES)
    free = Magnitude(level="block").decide(graph, model, Budget(macs=0.6)).dropped_blocks
    for setting in ({"lock": (free[0],)}, {"lock": (f"{free[0]}.conv1",)}):
        assert free[0] not in Magnitude(level="block", **setting).decide(graph, model, Budget(macs=0.6)).dropped_blocks
        skipped = L1(level="both", skip=setting["lock"]).decide(graph, model, Budget(macs=0.6))
        assert free[0] not in skipped.dropped_blocks
        assert f"{free[0]}.conv1" not in skipped.kept or setting["lock"] == (free[0],)
    with pytest.raises(PlanError, match="layer9"):
        L1(level="both", skip=("layer9.0",)).decide(graph, model, Budget(macs=0.6))
    with pytest.raises(PlanError, match=r"layer1\.1"):  # a block is nothing to channels
        L1(skip=("layer1.1",)).decide(graph, model, Budget(macs=0.6))


def test_a_run_over_blocks_is_recorded_continued_and_saved(task: SupervisedTask, tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = build_model("digits-resnet")
    method = Magnitude(level="both", finetune_epochs=1)
    first = method.compress(dense, task, Budget(macs=0.6), store=Store(tmp_path / "store"))
    again = method.compress(dense, task, Budget(macs=0.6), store=Store(tmp_path / "store"))
    assert first.plan == again.plan
    assert first.plan.drops
    torch.testing.assert_close(dict(again.model.state_dict()), dict(first.model.state_dict()), rtol=0, atol=0)
    assert first.record.proof is not None
    assert first.record.proof.verdict == "exact"
    assert any("residual blocks are dropped whole" in note for note in first.record.notes)
    save(first.model, tmp_path / "small.safetensors", plan=first.plan)


@pytest.mark.parametrize("name", ["l1", "magnitude", "global"])  # the others train before they decide, or drop blocks
def test_approximate_groups_are_cut_when_asked(name: str) -> None:
    torch.manual_seed(0)
    dense, task = Normed().eval(), Untrained()
    graph = trace(dense, IMAGES)
    quick = {"finetune_epochs": 0, "residual": "group"}
    with pytest.raises(BudgetError, match="--allow-approximate"):
        METHODS[name](**quick).decide(graph, dense, Budget(macs=0.5))
    method = METHODS[name](allow_approximate=True, **quick)
    result = method.compress(dense, task, Budget(macs=0.5), store=Store.temporary())
    assert result.plan.approximate == ("stem",)
    assert result.record.proof is not None
    assert (result.record.proof.verdict, result.record.proof.passed) == ("approximate", True)
    assert any("cut approximately" in note for note in result.record.notes)


def test_approximate_groups_can_be_cut_in_steps_and_by_ratio() -> None:
    torch.manual_seed(0)
    dense, task = Normed().eval(), Untrained()
    steps = Magnitude(allow_approximate=True, steps=3, step_epochs=0, finetune_epochs=0)
    found = steps.compress(dense, task, Budget(macs=0.4), store=Store.temporary())
    assert found.plan.approximate == ("stem",)
    ratios = L1(allow_approximate=True, ratios={"stem": 0.5}, finetune_epochs=0, strategy="layer-by-layer")
    assert len(ratios.compress(dense, task, None, store=Store.temporary()).plan.kept["stem"]) == 8


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        (Magnitude, {"level": "blocks"}, "did you mean 'block'"),
        (Magnitude, {"level": "both", "steps": 3}, "steps is 3 and level is both"),
        (L1, {"level": "block", "ratios": {"*": 0.5}}, "there are ratios, and level is block"),
        (L1, {"level": "both", "strategy": "layer-by-layer"}, "layers go one by one, and level is both"),
    ],
)
def test_what_does_not_go_together_is_refused(method: type, settings: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        method(**settings)


def test_a_network_without_blocks_is_refused() -> None:
    dense = Normed().eval()
    for level in ("block", "both"):
        with pytest.raises(BudgetError, match=r"it has no residual blocks; cut channels, .*--level channel"):
            Magnitude(level=level).decide(trace(dense, IMAGES), dense, Budget(macs=0.5))


def test_costs_of_plans_with_blocks_are_those_of_what_is_left(model: nn.Module) -> None:
    graph = trace(model, IMAGES)
    plan = Magnitude(level="both").decide(graph, model, Budget(macs=0.4))
    assert cost_after(graph, plan, "macs") == graph.macs(plan) == graph.after(plan).macs()
    assert cost_after(graph, plan, "params") == graph.params(plan)
    everything = graph.plan({}, blocks=[block.name for block in graph.blocks if block.locked is None])
    assert least_cost(graph, Magnitude(level="block"), "macs") == graph.macs(everything)
    both = least_cost(graph, Magnitude(level="both"), "macs")
    assert both < min(graph.macs(everything), least_cost(graph, Magnitude(), "macs"))
    assert easiest_budget(graph, Magnitude(level="block")) == Budget(macs=0.98)


@pytest.mark.parametrize("level", ["block", "both"])
def test_the_smallest_within_an_accuracy_may_drop_blocks(level: str, model: nn.Module) -> None:
    method = Magnitude(level=level, finetune_epochs=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MinimumWarning)
        search = smallest_within(
            method, model, Untrained(), max_drop_points=40, tolerance=0.25, recovery_epochs=0, store=Store.temporary()
        )
    assert search.chosen is not None
    assert search.chosen.reached is not None
    assert search.chosen.reached <= search.chosen.share
    graph = trace(model, IMAGES)
    plan = method.decide(graph, model, search.budget)
    assert plan.drops
    assert search.chosen.macs == graph.macs(plan)


def test_allocate_drops_blocks_where_no_group_is_open(model: nn.Module) -> None:
    graph = trace(model, IMAGES)
    scores = {name: values for name, values in score(graph, model, "l1").items() if name == "fc"}
    plan = allocate(graph, scores, Budget(macs=0.7), blocks=score_blocks(graph, model, "l1"))
    assert not plan.kept
    assert graph.macs(plan) <= 0.7 * graph.macs()
