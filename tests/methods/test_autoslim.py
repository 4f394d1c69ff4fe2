"""The method: its phases, what it begins with, the uniform network beside it, training several networks together."""

from pathlib import Path
from typing import Any

import pytest
import torch
from autoslim_networks import tiny_resnet
from cost.synthetic_table import synthetic_table
from quick import SETTINGS
from torch import Tensor, nn

from secateur.cost import Budget
from secateur.data import load_data
from secateur.errors import BudgetError, UsageError
from secateur.graph import apply, trace
from secateur.methods import AutoSlim
from secateur.methods.autoslim import Front
from secateur.methods.autoslim.baseline import uniform_multiplier, uniform_within
from secateur.methods.autoslim.redrawing import redrawn
from secateur.methods.autoslim.samples import SearchBatches
from secateur.models import build_model
from secateur.slimmable import plan_of, width_space
from secateur.training import Store, SupervisedTask, TrainSettings

QUICK: dict[str, Any] = {
    "supernet_epochs": 1,
    "supernet": SETTINGS,
    "steps": 3,
    "search_samples": 64,
    "finetune": SETTINGS,
    "finetune_epochs": 1,
}


@pytest.fixture(scope="module")
def task() -> SupervisedTask:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return SupervisedTask(load_data("digits"), settings=SETTINGS, seed=1, device="cpu")


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, bias=False),
        nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


def test_the_phases_and_the_uniform_network_beside(task: SupervisedTask, tmp_path: Path) -> None:
    model = small()
    done = AutoSlim(**QUICK).compress(model, task, Budget(macs=0.5), store=Store(tmp_path))
    assert [phase.phase for phase in done.record.phases] == ["supernet", "finetune", "uniform"]
    kept = Store(tmp_path).recall("front")
    assert kept is not None
    assert isinstance(kept.values, dict)
    graph = trace(model, task.example_inputs)
    chosen = Front.from_json(kept.values["front"]).configurations[-1]
    assert plan_of(graph, chosen.widths) == done.plan
    assert all(units == tuple(range(len(units))) for units in done.plan.kept.values())
    told = "\n".join(done.record.notes)
    assert f"({chosen.macs:,} MACs)" in told
    multiplier, widths = uniform_multiplier(graph, AutoSlim(**QUICK).space(graph), chosen.macs)
    assert f"the uniform width multiplier {multiplier:.3f}, trained alone for 1 epoch" in told
    assert graph.macs(plan_of(graph, widths)) <= chosen.macs
    assert done.record.after_cut is not None
    assert done.record.trained_between_cuts
    search = done.record.width_search
    assert search is not None
    assert search.front[search.chosen].macs == chosen.macs == search.front[-1].macs
    uniform = search.uniform_beside(search.chosen)
    assert uniform is not None
    assert (uniform.multiplier, uniform.widths) == (multiplier, widths)
    assert uniform.trained is not None
    assert f"{100 * uniform.trained.score:.2f} %" in told
    assert [one.trained is not None for one in search.uniform].count(True) == 1
    assert search.uniform[0].multiplier == 1
    assert search.uniform[0].accuracy == search.front[0].accuracy  # the widest beside itself


def test_a_front_takes_its_milliseconds_from_the_table_at_hand(task: SupervisedTask, tmp_path: Path) -> None:
    """By the first table each weight takes its output channels in milliseconds, by the second twice as many."""
    model, told = small(), []
    graph = trace(model, task.example_inputs)
    weights, shape = ("0.weight", "3.weight"), tuple(task.example_inputs.shape[1:])

    def budget(factor: int, multiple: int) -> Budget:
        made = synthetic_table(
            graph, weights, lambda outputs, _: factor * outputs, multiple=multiple, input_shape=shape
        )
        return Budget(latency_ms=0.5).with_table(made)

    method = AutoSlim(**{**QUICK, "multiple": 4})
    first, second, third = (
        method.search(model, task, one, store=Store(tmp_path), progress=told.append)
        for one in (budget(1, 1), budget(2, 4), Budget(macs=0.9))
    )
    assert [point.latency_ms for point in first.front] == [sum(point.widths.values()) for point in first.front]
    assert first.front[first.chosen].latency_ms == first.front[-1].latency_ms == 16
    assert [point.latency_ms for point in second.front] == [2 * sum(point.widths.values()) for point in first.front]
    assert second.chosen == first.chosen
    assert {point.latency_ms for point in third.front} == {None}
    assert [point.widths for point in third.front] == [point.widths for point in first.front]
    assert sum("step 1:" in line for line in told) == 1  # searched once
    assert all(one.latency_ms == 2 * sum(one.widths.values()) for one in second.uniform)
    assert not any("multiples" in line for line in told)  # those of both tables are among the method's
    method.search(model, task, budget(1, 8), store=Store(tmp_path), progress=told.append)
    assert "note: widths are searched in multiples of 4, but the latency table was measured at multiples of 8" in (
        "\n".join(told)
    )


def test_random_weights_leave_nothing_of_the_supernet_and_the_other_start_does(task: SupervisedTask) -> None:
    def compressed(epochs: int, **settings: Any) -> dict[str, Tensor]:
        still = TrainSettings(batch_size=256, learning_rate=0.0, momentum=0.0, weight_decay=0.0, schedule="constant")
        quick = {**QUICK, "supernet_epochs": epochs, "finetune": still, "uniform": False, "lower": 0.34, **settings}
        method = AutoSlim(**{**quick, "search_samples": 2})
        done = method.compress(small(), task, Budget(macs=0.3), store=Store.temporary())
        return {name: value for name, value in done.model.named_parameters() if value.dim() > 1}

    first, second = compressed(0), compressed(1)
    assert {name: value.shape for name, value in first.items()} == {name: v.shape for name, v in second.items()}
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    onwards = compressed(0, start="supernet")
    torch.testing.assert_close(onwards["0.weight"], small()[0].weight[: len(onwards["0.weight"])], rtol=0, atol=0)
    assert not torch.equal(first["0.weight"], onwards["0.weight"])


def test_networks_of_several_budgets_are_trained_together(task: SupervisedTask, tmp_path: Path) -> None:
    method = AutoSlim(**QUICK, joint=(0.3,))
    done = method.compress(small(), task, Budget(macs=0.6), store=Store(tmp_path))
    assert [phase.phase for phase in done.record.phases] == ["supernet", "joint", "uniform"]
    assert any("trained together with it: the network of" in note for note in done.record.notes)
    search = done.record.width_search
    assert search is not None
    (other,) = search.joint
    assert other.budget == 0.3
    assert other.trained is not None
    assert search.front[other.point].macs <= 0.3 * search.front[0].macs < search.front[other.point - 1].macs
    graph = trace(done.model, task.example_inputs)
    assert graph.macs() == trace(small(), task.example_inputs).macs(done.plan)
    again = method.compress(small(), task, Budget(macs=0.6), store=Store(tmp_path))
    torch.testing.assert_close(dict(again.model.state_dict()), dict(done.model.state_dict()), rtol=0, atol=0)
    assert again.record == done.record


def test_the_uniform_multiplier_by_hand() -> None:
    model = nn.Sequential(nn.Linear(4, 10, bias=False), nn.Linear(10, 20, bias=False), nn.Linear(20, 2, bias=False))
    graph = trace(model, torch.zeros(2, 4))
    space = width_space(graph, multiple=1)
    # 0.55 keeps 6 (of 5.5) and 11: 4·6 + 6·11 + 11·2 = 112; the next count, 12 from 0.575 on, makes 120.
    assert uniform_multiplier(graph, space, 112) == (pytest.approx(0.575, abs=1e-4), {"0": 6, "1": 11})
    assert uniform_multiplier(graph, space, 120)[1] == {"0": 6, "1": 12}
    held = uniform_within(graph, space, Budget(macs=0.5))
    assert held is not None
    assert graph.macs(plan_of(graph, held)) <= 140 < graph.macs(plan_of(graph, {"0": 7, "1": 14}))
    assert uniform_within(graph, space, Budget(macs=0.001)) is None


def test_weights_are_drawn_by_layer_and_seed() -> None:
    one, other, third = small(), small(), small()
    with torch.no_grad():
        other[1].running_mean.fill_(3.0)
    assert redrawn(one, 5) == redrawn(other, 5) == []
    redrawn(third, 6)
    torch.testing.assert_close(dict(one.state_dict()), dict(other.state_dict()), rtol=0, atol=0)
    assert not torch.equal(one[0].weight, third[0].weight)
    bare = nn.Sequential(nn.Linear(2, 2))
    bare.extra = nn.Parameter(torch.ones(2))
    assert redrawn(bare, 0) == ["extra"]


def test_networks_of_ours_begin_anew_as_when_they_are_built() -> None:
    for name in ("resnet20-b", "lenet5", "vgg19-slimming", "densenet40", "mobilenet-v2-cifar", "mlp-500-300"):
        torch.manual_seed(3)
        model, again = build_model(name), build_model(name)
        assert redrawn(again, 7) == []
        for (key, one), other in zip(model.named_parameters(), again.parameters(), strict=True):
            if one.dim() > 1 and one.numel() >= 400:
                assert not torch.equal(one, other)
                assert float(other.detach().std() / one.detach().std()) == pytest.approx(1, abs=0.2), (name, key)
            elif one.dim() == 1 and ".bn" in key:
                torch.testing.assert_close(one, other, rtol=0, atol=0)
    # Half as wide, by He's rule the deviation is √2 times as large: it is that of the narrow network, not of the wide.
    narrow = apply(build_model("resnet20-b"), _halved(), verify_with=None)
    redrawn(narrow, 0)
    weight = narrow.layer3[1].conv2.weight.detach()
    assert float(weight.std()) == pytest.approx((2 / (weight.shape[1] * 9)) ** 0.5, rel=0.05)


def _halved() -> Any:
    graph = trace(build_model("resnet20-b"), torch.zeros(2, 3, 32, 32))
    return plan_of(graph, {"layer3.1.conv1": 32})


def test_batches_of_the_search_are_put_together(task: SupervisedTask) -> None:
    class Counted:
        def __init__(self, sizes: list[int]) -> None:
            self.sizes, self.asked = sizes, 0

        def batches(self, n: int, split: str = "train") -> Any:
            assert split == "validation"
            self.asked += 1
            for number, size in enumerate(self.sizes):
                yield torch.full((size, 1), float(number)), torch.full((size,), number)

    def sizes(given: list[int], batch: int, samples: int | None = None) -> list[int]:
        return [len(images) for images, _ in SearchBatches(Counted(given), batch, samples)()]  # type: ignore[arg-type]

    assert sizes([4, 4, 4, 4], 8) == [8, 8]
    assert sizes([4, 4, 4], 8) == [8, 4]
    assert sizes([4, 4, 3], 8) == [11]  # a rest below half a batch joins the one before
    assert sizes([4, 4, 4], 8, samples=6) == [6]
    assert sizes([3], 8) == [3]
    held = Counted([4, 4])
    batches = SearchBatches(held, 4, None)  # type: ignore[arg-type]
    first, second = list(batches()), list(batches())
    assert held.asked == 1
    assert all(a[0] is b[0] for a, b in zip(first, second, strict=True))


def test_what_cannot_work_is_refused(task: SupervisedTask) -> None:
    for settings, sentence in (
        ({"steps": 0}, "steps is 0"),
        ({"lower": 0.0}, r"lower is 0, but must lie in \(0, 1\]"),
        ({"shortlist": 0}, "shortlist is 0, but must be at least 1"),
        ({"start": "scrach"}, "did you mean 'scratch'"),
        ({"joint": (1.5,)}, r"joint has 1\.5"),
        ({"joint": (0.5,), "start": "supernet"}, "trained together begin with random weights"),
    ):
        with pytest.raises(UsageError, match=sentence):
            AutoSlim(**settings)
    for budget, sentence in (
        (None, "needs a budget"),
        (Budget(macs=0.0001), "cannot be met: with every group at its smallest width"),
        (Budget(macs=1.0), "nothing to cut"),
    ):
        with pytest.raises(BudgetError, match=sentence):
            AutoSlim(**QUICK).compress(small(), task, budget, store=Store.temporary())
    with pytest.raises(UsageError, match="unknown group to lock"):
        AutoSlim(lock=("layr1.*",)).decide(trace(tiny_resnet(), task.example_inputs), tiny_resnet(), Budget(macs=0.5))
    graph = trace(small(), task.example_inputs)
    locked = AutoSlim(lock=("0",)).decide(graph, small(), Budget(macs=0.6))
    assert "0" not in locked.kept
    assert apply(small(), locked, verify_with=None)[0].out_channels == 16
