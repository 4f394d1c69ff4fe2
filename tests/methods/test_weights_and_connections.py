"""Learning both weights and connections: what goes, what stays still, and what is told of it."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_network_slimming_runs import blobs_task
from torch import Tensor, nn

from secateur.compensation import RestoreSettings
from secateur.cost import Budget
from secateur.cost.energy import inference_energy_pj
from secateur.errors import BudgetError, UsageError, VerificationError
from secateur.graph import trace
from secateur.methods import WeightsAndConnections
from secateur.methods.contract import Compressed
from secateur.methods.smallest import smallest_within
from secateur.methods.weights_and_connections.dropout import (
    dropout_at,
    rescaled_rates,
    weights_before_dropout,
)
from secateur.methods.weights_and_connections.finishing import require_zeros
from secateur.methods.weights_and_connections.measuring import layer_table
from secateur.methods.weights_and_connections.penalty import WeightL1
from secateur.sparse import Masks, by_nonzeros, by_share, nonzeros, weight_stds
from secateur.training import Store, SupervisedTask, TrainSettings

QUICK: dict[str, Any] = {"retrain_epochs": 1, "finetune_epochs": 1, "activation_batches": 1, "scan_shares": (0.5, 0.9)}
HALF = Budget(nonzeros=0.5)


@pytest.fixture(scope="module")
def task() -> SupervisedTask:
    return blobs_task()


def network(classes: int = 4) -> nn.Module:
    """Two convolutions, dropout and two linear layers, for the images of the task."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 20),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(20, classes),
    )


def pruned(
    task: SupervisedTask, store: Store | None = None, budget: Budget | None = HALF, **settings: Any
) -> Compressed:
    method = WeightsAndConnections(**{**QUICK, **settings})
    return method.compress(network(), task, budget, store=store or Store.temporary())


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.named_parameters() if value.ndim > 1}


def test_survivors_keep_their_values_and_nothing_else_is_pruned(task: SupervisedTask) -> None:
    result = pruned(task, finetune_epochs=0, allocation="global", cut_dead=False)
    assert result.masks is not None
    dense = network()
    assert nonzeros(result.model, result.masks) == nonzeros(dense) // 2
    assert result.masks == by_nonzeros(dense, 0.5)
    for name, value in dense.named_parameters():
        mask = result.masks[name] if name in result.masks else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(result.model.get_parameter(name), value * mask), name
    assert set(result.masks) == set(weights(dense))


def test_thresholds_are_q_standard_deviations_of_the_dense_layer(task: SupervisedTask) -> None:
    result = pruned(task, budget=None, quality={"0": 0.5, "7": 1.2}, finetune_epochs=0, cut_dead=False)
    dense = network()
    stds = weight_stds(dense)
    assert result.masks is not None
    for name, q in {"0.weight": 0.5, "7.weight": 1.2}.items():
        assert torch.equal(result.masks[name], dense.get_parameter(name).abs() > q * stds[name])
        (only,) = result.record.weights.rounds  # type: ignore[union-attr]
        assert only.quality[name] > q
    assert result.masks.density("3.weight") == result.masks.density("10.weight") == 1


def test_rounds_remove_the_same_part_each_time_and_retrain_at_a_tenth_of_the_rate(task: SupervisedTask) -> None:
    result = pruned(task, iterations=3, allocation="uniform", budget=Budget(nonzeros=0.2), cut_dead=False)
    found = result.record.weights
    assert found is not None
    dense = network()
    rest = nonzeros(dense) - sum(value.numel() for value in weights(dense).values())
    left = [one.nonzeros - rest for one in found.rounds]
    assert left[-1] + rest <= 0.2 * nonzeros(dense)
    factors = [later / earlier for earlier, later in zip([nonzeros(dense) - rest, *left], left, strict=False)]
    assert max(factors) - min(factors) < 0.05
    assert [phase.phase for phase in result.record.phases] == ["retrain-1", "retrain-2", "finetune"]
    for phase in result.record.phases:
        assert phase.settings["learning_rate"] == pytest.approx(0.1 * task.settings.learning_rate)
    assert all(one.retrained is not None for one in found.rounds)


@pytest.mark.parametrize(("order", "first"), [("linear_first", "linear"), ("convolutions_first", "convolution")])
def test_one_kind_stands_still_while_the_other_is_retrained(
    task: SupervisedTask, order: str, first: str, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    result = pruned(task, store=store, order=order)
    other = {"linear": "convolution", "convolution": "linear"}[first]
    assert [phase.phase for phase in result.record.phases] == [f"finetune-{first}", f"finetune-{other}"]
    dense = network()
    saved = store.phase(f"finetune-{first}").load()
    assert saved is not None
    linear = ("7.weight", "7.bias", "10.weight", "10.bias")
    for name, value in dense.named_parameters():
        still = (name in linear) == (first == "convolution")
        if first == "convolution" and name not in linear:
            continue
        assert torch.equal(saved.weights[name], value.detach()) is still, name
    if first == "linear":
        assert torch.equal(saved.weights["1.running_mean"], torch.zeros(6))


def test_scans_share_a_budget_out_and_leave_the_model_alone(task: SupervisedTask) -> None:
    dense = network()
    task.train(dense, epochs=4)
    before = copy.deepcopy(dense.state_dict())
    method = WeightsAndConnections(**{**QUICK, "finetune_epochs": 0, "cut_dead": False})
    result = method.compress(dense, task, HALF, store=Store.temporary())
    torch.testing.assert_close(dict(dense.state_dict()), dict(before), rtol=0, atol=0)
    found = result.record.weights
    assert found is not None
    assert [scan.layer for scan in found.scans] == list(weights(dense))
    score = task.evaluate(dense).score
    for scan in found.scans:
        assert scan.dense == score
        for share, seen, loss in zip(scan.shares, scan.scores, scan.losses, strict=True):
            alone = copy.deepcopy(dense)
            by_share(alone, {scan.layer: share}, names=(scan.layer,)).apply_(alone)
            measured = task.evaluate(alone)
            assert (measured.score, measured.loss) == (seen, loss)


def test_a_tolerance_alone_decides_without_a_budget(task: SupervisedTask) -> None:
    shares = []
    for points in (1.0, 30.0):
        result = pruned(task, budget=None, tolerance_points=points, finetune_epochs=0, cut_dead=False)
        assert result.masks is not None
        shares.append(1 - result.masks.density())
    assert 0 < shares[0] < shares[1] < 1


def test_the_probabilistic_control_removes_as_many_but_others(task: SupervisedTask) -> None:
    common: dict[str, Any] = {"finetune_epochs": 0, "allocation": "uniform", "cut_dead": False}
    by_size = pruned(task, **common)
    drawn, again, other = (pruned(task, selection="probabilistic", seed=seed, **common) for seed in (1, 1, 2))
    assert by_size.masks is not None
    assert drawn.masks is not None
    for name in by_size.masks:
        assert drawn.masks.kept(name) == by_size.masks.kept(name)
    assert drawn.masks == again.masks
    assert drawn.masks != other.masks
    assert drawn.masks != by_size.masks
    dense = network().get_parameter("7.weight").detach().abs()
    kept = drawn.masks["7.weight"]
    assert dense[kept].mean() > dense[~kept].mean()  # by magnitude all the same


@pytest.mark.parametrize("granularity", ["kernel", "row", "column", "block(2,2)", "2:4"])
def test_groups_go_whole(task: SupervisedTask, granularity: str) -> None:
    result = pruned(task, budget=None, ratios={"*": 0.5}, granularity=granularity, cut_dead=False)
    assert result.masks is not None
    assert result.masks.density() == pytest.approx(0.5, abs=0.1)
    kept = result.masks["3.weight"]
    if granularity == "kernel":
        assert torch.equal(kept.flatten(2).any(2), kept.flatten(2).all(2))
    if granularity == "2:4":
        assert int(kept.reshape(8, -1)[:, :52].reshape(-1, 4).sum(1).max()) <= 2
    assert any("in groups" in note for note in result.record.notes)


def test_dead_units_are_cut_for_good_and_the_network_computes_the_same(task: SupervisedTask) -> None:
    settings: dict[str, Any] = {"budget": None, "ratios": {"*": 0.93}, "finetune_epochs": 1}
    masked, cut = pruned(task, cut_dead=False, **settings), pruned(task, **settings)
    assert masked.plan.is_empty
    assert masked.record.proof is None
    assert not cut.plan.is_empty
    found = cut.record.weights
    assert found is not None
    assert cut.record.proof is not None
    assert cut.record.proof.passed
    assert found.dead_units
    assert found.dead_difference is not None
    assert found.dead_difference <= 1e-6
    images = next(iter(task.batches(1, "validation")))[0]
    with torch.no_grad():
        first, second = masked.model.eval()(images), cut.model.eval()(images)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    small = trace(cut.model, task.example_inputs)
    assert small.params() < trace(masked.model, task.example_inputs).params()
    assert cut.masks is not None
    require_zeros(cut.model, cut.masks)


def test_batch_norm_is_measured_anew_after_each_pruning(task: SupervisedTask) -> None:
    common: dict[str, Any] = {"finetune_epochs": 0, "allocation": "uniform", "cut_dead": False}
    plain = pruned(task, **common)
    normed = pruned(task, restore=RestoreSettings(batch_norm_images=48), **common)
    assert plain.masks == normed.masks
    before, after = (result.model.get_buffer("1.running_mean") for result in (plain, normed))
    assert torch.equal(before, torch.zeros(6))
    assert bool(after.any())


def test_training_before_the_first_pruning_is_that_of_the_dense_network(task: SupervisedTask) -> None:
    common: dict[str, Any] = {"connect_epochs": 2, "finetune_epochs": 0, "allocation": "global", "cut_dead": False}
    plain, penalised = pruned(task, **common), pruned(task, connect_l1=0.01, **common)
    (phase,) = plain.record.phases
    assert phase.phase == "connect"
    assert phase.settings["learning_rate"] == task.settings.learning_rate
    size = [
        sum(float(value.detach().abs().sum()) for value in weights(one.model).values()) for one in (plain, penalised)
    ]
    assert size[1] < size[0]


def test_dropout_falls_with_the_root_of_the_connections() -> None:
    model = network()
    images = torch.zeros(2, 1, 8, 8)
    assert weights_before_dropout(model, images) == {"9": "7.weight"}
    masks = by_share(model, {"7": 0.91})
    rates = rescaled_rates(model, masks, {"9": "7.weight"})
    assert rates["9"] == pytest.approx(0.5 * math.sqrt(masks.density("7.weight")))
    assert rates["9"] == pytest.approx(0.15, abs=0.001)
    dropout = model[9]
    with dropout_at(model, rates):
        assert dropout.p == rates["9"]
    assert dropout.p == 0.5
    first = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 4))
    assert weights_before_dropout(first, images) == {"1": "2.weight"}


def test_the_l1_penalty_adds_its_sign_to_the_gradients_of_weights_alone() -> None:
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, -3.0, 0.0]]))
    model.weight.grad, model.bias.grad = torch.ones(1, 3), torch.ones(1)
    WeightL1(["weight"], 0.5).after_backward(model)
    assert model.weight.grad.tolist() == [[1.5, 0.5, 1.0]]
    assert model.bias.grad.tolist() == [1.0]


def test_the_table_counts_zeros_and_multiply_adds(task: SupervisedTask) -> None:
    model = network()
    with torch.no_grad():
        model[7].bias.fill_(-100.0)  # so that its units give 0 behind the activation
    masks = by_share(model, {"7": 0.5, "0": 0.25})
    masks.apply_(model)
    rows, energies = layer_table(network(), model, masks, task, 2)
    by_name = {row.name: row for row in rows}
    side = task.example_inputs.shape[-1]
    assert by_name["0.weight"].macs == 54 * (side - 2) ** 2
    assert by_name["3.weight"].macs == 8 * 6 * 9 * (side - 4) ** 2
    assert [by_name[name].macs for name in ("7.weight", "10.weight")] == [640, 80]
    assert by_name["7.weight"].kept == 320
    assert by_name["10.weight"].inputs == 0
    assert by_name["7.weight"].outputs == 0
    assert by_name["10.weight"].work == 0
    assert by_name["0.weight"].outputs == by_name["3.weight"].inputs
    assert 0 < by_name["3.weight"].inputs < 1  # type: ignore[operator]
    assert energies is not None
    work = sum(row.macs * row.kept / row.weights * row.inputs for row in rows)  # type: ignore[operator]
    assert energies[1] == pytest.approx(640 * sum(row.kept for row in rows) + 9.6 * work)


def test_the_energy_of_lenet_300_100_by_hand() -> None:
    assert inference_energy_pj(weights=266_200, macs=266_200) == pytest.approx(266_200 * (640 + 5 + 3.7 + 0.9))


def test_a_weight_that_came_back_is_refused() -> None:
    model = network()
    masks = by_share(model, 0.5)
    masks.apply_(model)
    require_zeros(model, masks)
    with torch.no_grad():
        model[7].weight[~masks["7.weight"]] = 1.0
    with pytest.raises(VerificationError, match=r"320 of the weights of 7.weight that its mask removes are not 0"):
        require_zeros(model, masks)


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"iterations": 0}, "iterations is 0, but must be at least 1"),
    ({"ratios": {"fc*": 1.0}}, "from 0 up to but not including 1"),
    ({"ratios": {"a": 0.5}, "quality": {"a": 1.0}}, "only one can say how much goes"),
    ({"quality": {"a": -1.0}}, "it is q of the threshold"),
    ({"scan_shares": (0.9, 0.5)}, "each larger than the last"),
    ({"granularity": "kernels"}, "did you mean 'kernel'"),
    ({"granularity": "2:4", "quality": {"a": 1.0}}, "so many of so many"),
    ({"tolerance_points": 101.0}, "from 0 to 100 percent points"),
    ({"restore": RestoreSettings(compensate="mean")}, "no layer loses inputs"),
    ({"learning_rate_factor": float("nan")}, "learning_rate_factor is nan"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused_in_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        WeightsAndConnections(**settings)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(("budget", "settings", "sentence"), [
    (Budget(macs=0.5), {}, "give nonzeros alone"),
    (Budget(nonzeros=0.5, params=0.5), {}, "give nonzeros alone"),
    (Budget(nonzeros=1.0), {}, "there is nothing to prune"),
    (Budget(nonzeros=40), {}, "cannot reach 40 non-zeros"),
    (None, {}, "nothing says how much goes"),
    (HALF, {"ratios": {"*": 0.5}}, "only one of them can decide"),
    (HALF, {"allocation": "global", "tolerance_points": 1.0}, "allocation is global"),
    (HALF, {"skip": ("*",)}, "no weight is left to prune"),
    (None, {"ratios": {"0": 0.0}}, "every weight stays"),
])  # fmt: skip
def test_amounts_that_cannot_be_are_refused_in_one_sentence(
    task: SupervisedTask, budget: Budget | None, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BudgetError) as refused:
        pruned(task, budget=budget, **settings)
    assert sentence in str(refused.value)


def test_a_pattern_that_fits_nothing_is_refused(task: SupervisedTask) -> None:
    for settings in ({"ratios": {"fc9": 0.5}}, {"quality": {"fc9": 0.5}}):
        with pytest.raises(UsageError, match="fc9"):
            pruned(task, budget=None, **settings)


def test_a_search_for_an_accuracy_is_refused(task: SupervisedTask) -> None:
    with pytest.raises(UsageError, match="trains before it decides"):
        smallest_within(
            WeightsAndConnections(), network(), task, max_drop_points=1, amount="nonzeros", store=Store.temporary()
        )


def test_a_task_that_does_not_say_how_it_trains_is_told_about() -> None:
    class Bare:
        """The task without its settings."""

        def __init__(self, inner: SupervisedTask) -> None:
            self.inner = inner
            self.example_inputs = inner.example_inputs
            self.train, self.evaluate = inner.train, inner.evaluate
            self.batches, self.loss = inner.batches, inner.loss

    method = WeightsAndConnections(**QUICK, allocation="global")
    result = method.compress(network(), Bare(blobs_task()), HALF, store=Store.temporary())  # type: ignore[arg-type]
    assert any("does not say how it trains" in note for note in result.record.notes)
    asked = WeightsAndConnections(**QUICK, allocation="global", finetune=TrainSettings(learning_rate=0.01))
    result = asked.compress(network(), Bare(blobs_task()), HALF, store=Store.temporary())  # type: ignore[arg-type]
    assert not any("does not say how it trains" in note for note in result.record.notes)


def test_other_retraining_may_follow_the_same_masks(task: SupervisedTask, tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = pruned(task, store=store, finetune_epochs=0, cut_dead=False)
    longer = pruned(task, store=store, finetune_epochs=1, cut_dead=False)
    assert first.masks == longer.masks
    assert [phase.phase for phase in longer.record.phases] == ["finetune"]


def test_masks_survive_their_bytes() -> None:
    from secateur.methods.weights_and_connections.regrowing import as_bits, from_bits

    masks = by_share(network(), 0.7)
    assert from_bits(as_bits(masks), masks.shapes) == masks
    assert isinstance(masks, Masks)


@pytest.mark.parametrize("allocation", ["uniform", "scan"])
@pytest.mark.parametrize(("granularity", "allowed"), [("weight", 56), ("kernel", 150)])
def test_a_budget_holds_to_the_weight_where_shares_are_rounded_or_groups_stay_whole(
    task: SupervisedTask, allocation: Any, granularity: str, allowed: int
) -> None:
    result = pruned(
        task,
        budget=Budget(nonzeros=allowed),
        allocation=allocation,
        granularity=granularity,
        cut_dead=False,
        finetune_epochs=0,
    )
    assert result.record.weights is not None
    assert allowed - 9 < result.record.weights.nonzeros <= allowed  # a kernel has nine


@pytest.mark.parametrize("allocation", ["uniform", "scan", "global"])
def test_a_budget_that_groups_cannot_meet_is_refused_before_anything_is_trained(
    task: SupervisedTask, tmp_path: Path, allocation: Any
) -> None:
    with pytest.raises(BudgetError, match="cannot reach 150 non-zeros: 15 weights too many stay"):
        pruned(
            task,
            Store(tmp_path),
            budget=Budget(nonzeros=150),
            allocation=allocation,
            granularity="row",
            connect_epochs=1,
        )
    assert not list(tmp_path.rglob("*.safetensors"))


class Inside(nn.Module):
    """A module that holds layers and has a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Parameter(torch.ones(1))
        self.convolution, self.linear = nn.Conv2d(1, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear((self.scale * torch.relu(self.convolution(x))).mean((2, 3)))
        return result


def test_layers_train_inside_a_module_that_stands_still(task: SupervisedTask) -> None:
    model = nn.Sequential(Inside())
    method = WeightsAndConnections(**QUICK, order="linear_first", ratios={"*": 0.5}, cut_dead=False)
    result = method.compress(model, task, None, store=Store.temporary())
    assert result.masks is not None
    for name in ("0.linear.weight", "0.convolution.weight"):
        kept = result.masks[name]
        assert not torch.equal(result.model.get_parameter(name)[kept], model.get_parameter(name)[kept]), name
