"""Gate Decorator as a whole, on digits: what it promises, its options, and the published ResNet-56."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from secateur.cost import Budget
from secateur.data import load_data
from secateur.errors import BudgetError, TrainingError, UsageError
from secateur.gates import GatedConv, GatedNorm, TickScores, decorate
from secateur.graph import masked, trace
from secateur.methods.gate_decorator import GateDecorator
from secateur.methods.gate_decorator.phases import COOLDOWN, FINETUNE, TICK, TOCK, still_in_a_tick
from secateur.methods.gate_decorator.threshold import Rule, floor_of, survivors
from secateur.models import build_model
from secateur.models.weights import load_weights
from secateur.training import Store, SupervisedTask, TrainSettings

FAST = TrainSettings(batch_size=256, learning_rate=0.01, schedule="constant", evaluate_every=0)
QUICK = GateDecorator(
    share=0.1,
    ticks_per_tock=2,
    tick=FAST,
    tick_subset=256,
    tock=FAST,
    tock_epochs=1,
    finetune=FAST,
    finetune_epochs=1,
    cooldown=FAST,
    cooldown_epochs=1,
)


@pytest.fixture(scope="module")
def task() -> SupervisedTask:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return SupervisedTask(load_data("digits"), settings=FAST, seed=1, device="cpu")


@pytest.fixture(scope="module")
def trained(task: SupervisedTask) -> nn.Module:
    torch.manual_seed(0)
    model = build_model("digits-resnet")
    task.train(model, epochs=2, settings=replace(FAST, learning_rate=0.05))
    return model


def test_it_meets_the_budget_with_an_ordinary_network(task: SupervisedTask, trained: nn.Module, tmp_path: Path) -> None:
    before = copy.deepcopy(trained.state_dict())
    told: list[str] = []
    result = QUICK.compress(trained, task, Budget(macs=0.6), store=Store(tmp_path), progress=told.append)
    graph = trace(trained, task.example_inputs)
    assert graph.macs(result.plan) <= 0.6 * graph.macs()
    assert trace(result.model, task.example_inputs).macs() == graph.macs(result.plan)
    assert list(result.model.state_dict()) == list(before)
    assert [type(module) for module in result.model.modules()] == [type(module) for module in trained.modules()]
    torch.testing.assert_close(dict(trained.state_dict()), dict(before), rtol=0, atol=0)
    record = result.record
    assert record.proof is not None
    assert record.proof.passed
    assert record.trained_between_cuts
    ticks = len(record.steps)
    names = [phase.phase for phase in record.phases]
    expected = ["tock-0"]
    for number in range(1, ticks + 1):
        expected += [f"tick-{number}"] + ([f"tock-{number}"] if number % 2 == 0 else [])
    assert names == [*expected, "finetune", "cooldown"]
    assert any("% of macs left" in line for line in told)

    # The record of the steps: each takes up where the one before left.
    assert ticks > 1
    left = {name: graph.group(name).size for name in record.steps[0].scores}
    macs = graph.macs()
    for number, step in enumerate(record.steps, start=1):
        assert (step.number, step.phase) == (number, f"tick-{number}")
        assert {name: len(scores) for name, scores in step.scores.items()} == left
        assert step.removed == sum(left.values()) - sum(step.kept.values()) > 0
        assert step.macs < macs
        assert step.accuracy is not None
        assert 0 <= step.accuracy <= 1
        left, macs = dict(step.kept), step.macs
    assert (macs, record.steps[-1].params) == (graph.macs(result.plan), graph.params(result.plan))

    again = QUICK.compress(trained, task, Budget(macs=0.6), store=Store(tmp_path))
    assert again.plan == result.plan
    assert again.record.steps == record.steps
    torch.testing.assert_close(dict(again.model.state_dict()), dict(result.model.state_dict()), rtol=0, atol=0)
    with pytest.raises(TrainingError, match="decided for budget"):
        QUICK.compress(trained, task, Budget(macs=0.5), store=Store(tmp_path))


def test_the_first_tick_takes_what_its_scores_ask_for(task: SupervisedTask, trained: nn.Module) -> None:
    method = replace(QUICK, tock_first=False, finetune_epochs=0, cooldown_epochs=0, measure_steps=False)
    result = method.compress(trained, task, Budget(macs=0.98), store=Store.temporary())
    step = result.record.steps[0]
    assert step.accuracy is None
    graph = trace(trained, task.example_inputs)
    members = {name: 3 if graph.group(name).is_stream else 1 for name in step.scores}
    best = {name: sorted(scores)[-max(1, len(scores) // 10) :] for name, scores in step.scores.items()}
    listed = sorted(
        score
        for name, scores in step.scores.items()
        for score in sorted(scores)[: -len(best[name])]
        for _ in range(members[name])
    )
    filters = sum(len(scores) * members[name] for name, scores in step.scores.items())
    threshold = listed[int(0.1 * filters)]
    for name, scores in step.scores.items():
        stays = [unit for unit, score in enumerate(scores) if score > threshold or score >= best[name][0]]
        assert step.kept[name] == len(stays)
        assert list(result.plan.kept.get(name, range(len(scores)))) == stays


def test_an_exact_last_tick_takes_no_more_than_the_budget_asks_for(task: SupervisedTask, trained: nn.Module) -> None:
    graph = trace(trained, task.example_inputs)
    quiet = replace(QUICK, finetune_epochs=0, cooldown_epochs=0, measure_steps=False, tock_epochs=0)
    whole, exact = (
        replace(quiet, last_tick=last).compress(trained, task, Budget(macs=0.8), store=Store.temporary()).plan
        for last in ("whole", "exact")
    )
    assert graph.macs(whole) < graph.macs(exact) <= 0.8 * graph.macs()
    assert 0.8 * graph.macs() - graph.macs(exact) < 0.02 * graph.macs()  # no unit costs more
    assert all(set(whole.kept[name]) <= set(kept) for name, kept in exact.kept.items())


def test_a_network_without_norms(task: SupervisedTask) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(108, 24), nn.ReLU(), nn.Linear(24, 10)),
    )
    result = QUICK.compress(model, task, Budget(params=0.5), store=Store.temporary())
    assert sum(p.numel() for p in result.model.parameters()) <= 0.5 * sum(p.numel() for p in model.parameters())
    assert not any(isinstance(module, GatedConv | GatedNorm) for module in result.model.modules())
    assert not any(module._forward_hooks for module in result.model.modules())


def test_convolutions_are_really_still_in_a_tick(task: SupervisedTask, trained: nn.Module) -> None:
    """Neither momentum nor weight decay moves them, though gates, shifts, statistics and the classifier move."""
    model = copy.deepcopy(trained)
    gates = decorate(model, trace(model, task.example_inputs))
    before = copy.deepcopy(model.state_dict())
    still = still_in_a_tick(model, gates, "all-but-convolutions")
    task.train(model, epochs=1, settings=replace(TICK, batch_size=256), frozen=still)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert set(still) == {name for name in before if "conv" in name or "shortcut.0" in name}
    assert not moved & set(still)
    assert {"bn1.gate", "bn1.shift", "bn1.norm.running_mean", "linear.weight"} <= moved
    assert "bn1.mask" not in moved

    gated = {gate.parameter for gate in gates.gates}
    names = {name for name, _ in model.named_parameters()}
    assert names - set(still_in_a_tick(model, gates, "gates")) == gated
    assert names - set(still_in_a_tick(model, gates, "gates-and-classifier")) == gated | {
        "linear.weight",
        "linear.bias",
    }


def test_the_defaults_are_the_published_run() -> None:
    method = GateDecorator()
    assert (method.share, method.ticks_per_tock, method.sparsity, method.min_share) == (0.002, 10, 1e-3, 0.1)
    assert (method.tick_epochs, method.tock_epochs, method.finetune_epochs, method.cooldown_epochs) == (1, 10, 40, 10)
    assert (TICK.learning_rate, TICK.schedule, TICK.batch_size) == (1e-3, "constant", 128)
    assert (TOCK.learning_rate_min, TOCK.learning_rate, TOCK.schedule) == (1e-3, 1e-2, "triangular")
    assert (TICK.momentum, TOCK.momentum, FINETUNE.momentum, COOLDOWN.momentum) == (0.9, 0.9, 0.0, 0.0)
    assert (FINETUNE.batch_size, FINETUNE.schedule, COOLDOWN.learning_rate) == (64, "triangular", 1e-3)


def test_departures_and_losses_are_noted(task: SupervisedTask, trained: nn.Module) -> None:
    model = copy.deepcopy(trained)
    with torch.no_grad():
        model.bn1.weight[:2] = 0.001
        model.bn1.bias[:2] = 1.0
    method = replace(QUICK, combine="mean", tock_epochs=0, finetune_epochs=0, cooldown_epochs=0)
    notes = method.compress(model, task, Budget(macs=0.95), store=Store.temporary()).record.notes
    assert any("combine is mean, where the authors have sum" in note for note in notes)
    assert any(note.startswith("2 of ") and "up to 0.99, are lost" in note for note in notes)
    assert any("cut for good after each Tick" in note for note in notes)


def test_what_cannot_be_met_is_refused_before_any_training(task: SupervisedTask, trained: nn.Module) -> None:
    graph = trace(trained, task.example_inputs)
    for ask in (
        lambda budget: QUICK.decide(graph, trained, budget),
        lambda budget: QUICK.compress(trained, task, budget, store=Store.temporary()),
    ):
        with pytest.raises(BudgetError, match=r"with 0.1 of every layer left \(min_share\) the least is"):
            ask(Budget(macs=0.001))
        with pytest.raises(BudgetError, match="needs a budget"):
            ask(None)
    with pytest.raises(BudgetError, match="there is nothing to cut"):
        QUICK.compress(trained, task, Budget(macs=1.0), store=Store.temporary())
    with pytest.raises(UsageError, match="group to lock"):
        replace(QUICK, lock=("layer9.*",)).decide(graph, trained, Budget(macs=0.5))


def test_decide_meets_the_budget_and_touches_nothing(task: SupervisedTask, trained: nn.Module) -> None:
    graph = trace(trained, task.example_inputs)
    before = copy.deepcopy(trained.state_dict())
    plan = replace(QUICK, lock=("layer1.*", "conv1")).decide(graph, trained, Budget(macs=0.5))
    assert graph.macs(plan) <= 0.5 * graph.macs()
    assert not any(name.startswith("layer1") or name == "conv1" for name in plan.kept)
    assert list(trained.state_dict()) == list(before)
    torch.testing.assert_close(dict(trained.state_dict()), dict(before), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 1.0}, "share is 1"),
        ({"min_share": -0.1}, "min_share is -0.1"),
        ({"sparsity": float("nan")}, "sparsity is nan"),
        ({"ticks_per_tock": 0}, "ticks_per_tock is 0"),
        ({"cooldown_epochs": -1}, "cooldown_epochs is -1"),
        ({"tick_trains": "gate"}, "did you mean 'gates'"),
        ({"combine": "summ"}, "did you mean 'sum'"),
        ({"init": "take_over"}, "did you mean 'take-over'"),
        ({"clamped": "kept"}, "did you mean 'keep'"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GateDecorator(**settings)  # type: ignore[arg-type]


def test_a_gate_that_the_model_bypasses_is_refused(task: SupervisedTask) -> None:
    class Bypassing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.conv2d(x, self.conv.weight, self.conv.bias)
            return self.head(torch.relu(x).mean((2, 3)))

    with pytest.raises(UsageError, match="the gate on conv has no effect"):
        QUICK.compress(Bypassing(), task, Budget(macs=0.5), store=Store.temporary())


def test_settings_go_through_json() -> None:
    adapter = TypeAdapter(GateDecorator)
    changed = replace(QUICK, init=0.5, tick_subset=0.1, lock=("conv1",))
    for method in (GateDecorator(), changed, replace(QUICK, init="one", tick_subset=300, finetune=None)):
        assert adapter.validate_json(adapter.dump_json(method)) == method
    with pytest.raises(ValidationError, match="shares"):
        adapter.validate_python({"shares": 0.1})


SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
WEIGHTS = SHARED / "weights" / "resnet56-cifar10-shortcut-b.safetensors"


@pytest.mark.data
@pytest.mark.skipif(not WEIGHTS.exists(), reason="the weights of the published ResNet-56 are not beside the checkout")
def test_the_published_resnet56() -> None:
    model = build_model("resnet56-b").eval()
    load_weights(model, WEIGHTS)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    graph = trace(model, images)
    before = model(images)
    gates = decorate(model, graph, clamped="keep")
    assert gates.channels == 2_128
    assert sum(entry.channels for entry in gates.clamped.values()) == 32  # |β/γ| > 10
    torch.testing.assert_close(model(images), before, rtol=1e-5, atol=1e-5)

    # Each stage's stream is made by the second convolution of its nine blocks and by the stem or a shortcut.
    streams = {"conv1": "bn1", "layer2.0.conv2": "layer2.0.shortcut.1", "layer3.0.conv2": "layer3.0.shortcut.1"}
    for stage, (name, first) in enumerate(streams.items(), start=1):
        seconds = {f"layer{stage}.{block}.bn2.gate" for block in range(9)}
        assert set(gates.by_group[name]) == seconds | {f"{first}.gate"}
    inner = {f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(9)}
    assert set(gates.by_group) == inner | set(streams)
    assert all(gates.members[name] == 1 for name in inner)

    # The published network with 70 % less, rebuilt with gates: 684 filters go, and the streams stay whole.
    widths = [12, 1, 1, 1, 1, 6, 4, 8, 11, 25, 8, 6, 3, 3, 3, 3, 5, 3, 60, 23, 25, 23, 23, 9, 22, 22, 13]
    kept = {f"layer{1 + place // 9}.{place % 9}.conv1": range(width) for place, width in enumerate(widths)}
    plan = graph.plan(kept)
    assert (graph.params(plan), graph.macs(plan)) == (286_034, 36_868_736)
    assert gates.after(plan).channels == 2_128 - 684
    gates.set_masks(model, plan)
    by_masks = model(images)
    gated = trace(model, images)
    with masked(model, gated.plan(kept)):
        torch.testing.assert_close(model(images), by_masks, rtol=1e-4, atol=1e-5)


@pytest.mark.data_long
@pytest.mark.skipif(not WEIGHTS.exists(), reason="the weights of the published ResNet-56 are not beside the checkout")
def test_the_first_tick_of_the_published_resnet56_takes_the_dead_and_five_more() -> None:
    """On all of CIFAR-10 the authors found 41 dead filters and took 46; on 5,085 images more of them are dead."""
    model = build_model("resnet56-b")
    load_weights(model, WEIGHTS)
    data = load_data(f"parquet:{SHARED / 'cifar10-lossless'}", validation_share=0.0, normalize="cifar10")
    task = SupervisedTask(data, settings=TICK, device="cpu")
    gates = decorate(model, trace(model, task.example_inputs))
    ticking = TickScores(gates)
    task.train(
        model, epochs=1, settings=TICK, frozen=still_in_a_tick(model, gates, "all-but-convolutions"), hooks=[ticking]
    )
    scores = {name: values.numpy() for name, values in ticking.scores().items()}
    floors = {name: floor_of(values.size, 0.1) for name, values in scores.items()}
    stay = survivors(scores, gates.members, floors, Rule(0.002))
    dead = {name: int((values == 0).sum()) for name, values in scores.items()}
    assert not any(dead[name] for name in ("conv1", "layer2.0.conv2", "layer3.0.conv2"))
    assert all(count + floors[name] <= scores[name].size for name, count in dead.items())  # so none is exempt
    assert sum(dead.values()) > 0
    assert sum(int((~marks).sum()) for marks in stay.values()) == sum(dead.values()) + 5
