"""Masks that change while a network trains, and budgets that are shared out by what layers bear."""

from typing import Any

import pytest
import torch
from test_network_slimming_runs import blobs_task
from torch import Tensor, nn

from secateur.cost import Budget
from secateur.errors import BudgetError, UsageError
from secateur.methods import WeightsAndConnections
from secateur.methods.weights_and_connections import Regrow
from secateur.methods.weights_and_connections.regrowing import Surgery
from secateur.methods.weights_and_connections.sensitivity import Tolerances
from secateur.record import WeightScan
from secateur.sparse import Masks, by_share, nonzeros
from secateur.training import Store, TrainSettings


def scan(layer: str, *points: tuple[float, float], dense: float = 0.9) -> WeightScan:
    shares, scores = zip(*points, strict=True)
    return WeightScan(round=1, layer=layer, shares=shares, scores=scores, losses=(0.0,) * len(shares), dense=dense)


def test_tolerances_by_hand() -> None:
    scans = [scan("a", (0.5, 0.9), (0.8, 0.8)), scan("b", (0.5, 0.6), (0.8, 0.7))]
    found = Tolerances.of(scans, {"a": 100, "b": 100}, {"a": 0.0, "b": 0.0})
    assert found.knots["a"] == ((0.0, 0.0), (0.5, 0.0), (0.8, pytest.approx(0.1)), (1.0, 1.0))
    # More gone never counts as better: b at 0.8 is taken to lose what it lost at 0.5.
    assert found.knots["b"] == ((0.0, 0.0), (0.5, pytest.approx(0.3)), (0.8, pytest.approx(0.3)), (1.0, 1.0))
    assert found.shares(0.0) == {"a": 0.5, "b": 0.0}
    at = found.shares(0.05)
    assert at["a"] == pytest.approx(0.65)
    assert at["b"] == pytest.approx(0.5 / 6)


def test_a_budget_is_met_exactly_where_layers_have_a_range() -> None:
    scans = [scan("a", (0.5, 0.9), (0.8, 0.8)), scan("b", (0.5, 0.6), (0.8, 0.7))]
    found = Tolerances.of(scans, {"a": 100, "b": 100}, {"a": 0.0, "b": 0.0})
    for allowed in (199, 170, 150, 120, 80, 40, 10, 2):
        shares, tolerance = found.to_budget(allowed)
        assert found.left(shares) == allowed
        least, most = found.shares(tolerance, strictly=True), found.shares(tolerance)
        for name, share in shares.items():
            assert least[name] - 1e-9 <= share <= most[name] + 1e-9
    assert found.to_budget(170)[1] == 0.0  # what a can lose for nothing is enough
    with pytest.raises(BudgetError, match="each of 2 layers keeps one"):
        found.to_budget(1)


def line(*values: float) -> nn.Linear:
    model = nn.Linear(len(values), 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([values]))
    return model


def halves(model: nn.Module, masks: Masks, way: float, band: float) -> Masks:
    del way, band
    return by_share(model, 0.5, earlier=masks, regrow=True)


def step(model: nn.Linear, hook: Surgery, optimizer: torch.optim.Optimizer, inputs: Tensor) -> None:
    model.weight.grad = None
    model(inputs).sum().backward()
    hook.after_backward(model)
    optimizer.step()
    hook.after_step(model)


def test_gradients_of_the_masked_network_train_the_weights_beneath_until_they_come_back() -> None:
    model = line(2.0, 1.0)
    hook = Surgery(Masks({"weight": torch.tensor([[True, False]])}), halves, Regrow(epochs=1, every=3), seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    hook.begin(model, optimizer)
    assert model.weight.tolist() == [[2.0, 0.0]]
    inputs = torch.tensor([[0.25, -0.5]])
    seen = []
    for _ in range(3):
        step(model, hook, optimizer, inputs)
        seen.append(model.weight.tolist())
    # Beneath: 2 − 0.25·t and 1 + 0.5·t; after the third step 1.25 and 2.5, and the masks are looked at.
    assert seen == [[[1.75, 0.0]], [[1.5, 0.0]], [[0.0, 2.5]]]
    assert hook.masks["weight"].tolist() == [[False, True]]


def test_a_hook_that_is_saved_and_loaded_goes_on_the_same() -> None:
    settings = Regrow(epochs=2, every=2, decay=0.5)
    inputs = torch.randn(12, 1, 6, generator=torch.Generator().manual_seed(0))

    def run(cut: int | None) -> list[list[float]]:
        model = line(*range(1, 7))
        hook = Surgery(Masks.full(model, ["weight"]), halves, settings, seed=3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        hook.begin(model, optimizer)
        for number in range(12):
            if number == cut:
                state = {name: value.clone() for name, value in hook.state_dict().items()}
                fresh = line(*model.weight.detach().flatten().tolist())
                hook = Surgery(Masks.full(fresh, ["weight"]), halves, settings, seed=3)
                hook.load_state_dict(state)
                model, optimizer = fresh, torch.optim.SGD(fresh.parameters(), lr=0.3)
                hook.begin(model, optimizer)
            step(model, hook, optimizer, inputs[number])
            if number in (5, 11):
                hook.after_epoch(model, number // 6)
        assert torch.equal(model.weight != 0, hook.masks["weight"])
        values: list[list[float]] = model.weight.tolist()
        return values

    assert run(None) == run(3) == run(8)


def test_the_target_is_approached_and_then_holds() -> None:
    settings = Regrow(epochs=10, ramp=0.5)
    ways = [settings.way(epoch) for epoch in range(10)]
    assert ways == sorted(ways)
    assert ways[0] == pytest.approx(1 - 0.8**3)
    assert ways[4:] == [1.0] * 6
    assert Regrow(epochs=10, ramp=0.0).way(0) == 1.0


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 4))


@pytest.mark.parametrize("said", [{"allocation": "global"}, {"quality": {"*": 1.0}}, {"ratios": {"*": 0.8}}, {}])
def test_weights_come_back_and_the_budget_holds(said: dict[str, Any]) -> None:
    task = blobs_task()
    budget = Budget(nonzeros=0.2) if set(said) <= {"allocation"} else None
    side = task.example_inputs.shape[-1]
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Flatten(), nn.Linear(side * side, 24), nn.ReLU(), nn.Linear(24, 4))
    training = TrainSettings(batch_size=8, learning_rate=0.3, schedule="constant", augment=False)
    method = WeightsAndConnections(
        regrow=Regrow(epochs=3, every=1, ramp=0.4, training=training),
        scan_shares=(0.5, 0.9),
        finetune_epochs=1,
        activation_batches=1,
        cut_dead=False,
        **said,
    )
    result = method.compress(dense, task, budget, store=Store.temporary())
    assert result.masks is not None
    if budget is not None:
        assert nonzeros(result.model, result.masks) <= 0.2 * nonzeros(dense)
    at_once = by_share(dense, {name: 1 - result.masks.density(name) for name in result.masks})
    back = sum(int((result.masks[name] & ~at_once[name]).sum()) for name in result.masks)
    assert back > 0, "not one weight that is small at first is there in the end"
    for name, mask in result.masks.items():
        assert not bool(result.model.get_parameter(name)[~mask].any())
    assert [phase.phase for phase in result.record.phases] == ["surgery", "finetune"]
    assert [phase.settings["learning_rate"] for phase in result.record.phases] == [
        0.3,
        0.1 * task.settings.learning_rate,
    ]
    assert any("Dynamic Network Surgery" in note for note in result.record.notes)


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"regrow": Regrow(), "iterations": 2}, "iterations is 2, but with regrow"),
    ({"regrow": Regrow(), "order": "linear_first"}, "order is linear_first, but with regrow"),
    ({"regrow": Regrow(), "selection": "probabilistic"}, "selection is probabilistic, but with regrow"),
])  # fmt: skip
def test_settings_beside_surgery_that_cannot_work_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        WeightsAndConnections(**settings)


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"epochs": 0}, r"regrow\.epochs is 0"),
    ({"band": 1.0}, r"regrow\.band is 1\.0"),
    ({"decay": -1.0}, r"regrow\.decay is -1\.0"),
])  # fmt: skip
def test_settings_of_surgery_out_of_range_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Regrow(**settings)


def test_a_frozen_weight_cannot_have_masks_that_change() -> None:
    model = network()
    model[1].weight.requires_grad_(False)
    hook = Surgery(Masks.full(model, ["1.weight"]), halves, Regrow(), seed=0)
    with pytest.raises(UsageError, match=r"1\.weight is frozen"):
        hook.begin(model, torch.optim.SGD(model.parameters(), lr=0.1))
