"""Partial quantization: the layers that lose the accuracy stay in float, and no more of them than needed."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur.errors import QuantizationError
from secateur.quantization import Simulation, adaround, correct_biases, leave_in_float, simulate
from secateur.quantization.repairs import AdaRoundSettings
from secateur.quantization.repairs.partial import with_followers
from secateur.training import SupervisedTask

Simulated = Callable[..., Simulation]


class Damaged:
    """A score that falls by what each layer costs while it runs in integers: the simulation's own modes decide."""

    def __init__(self, simulation: Simulation, costs: dict[str, float]) -> None:
        self.simulation, self.costs, self.calls = simulation, costs, 0

    def __call__(self, _model: nn.Module) -> float:
        self.calls += 1
        weights = {name: self.simulation.sites[self.simulation.operators[name].weight].mode for name in self.costs}
        return 0.9 - sum(cost for name, cost in self.costs.items() if weights[name] == "quantize")


def test_the_costly_layers_stay_in_float(simulated: Simulated, images: Tensor) -> None:
    simulation = simulated()
    score = Damaged(simulation, {"wide.0": 0.02, "branch.0": 0.01, "head.0": 0.005, "neck.0": 0.001})
    found = leave_in_float(simulation, score, [images], max_drop=0.6)
    assert found.layers == ("wide.0", "branch.0")
    assert (found.reference, found.integer) == (pytest.approx(0.9), pytest.approx(0.864))
    assert found.reached == pytest.approx(0.894)  # 0.6 points exactly
    assert [entry.operator for entry in found.ranking][:4] == ["wide.0", "branch.0", "head.0", "neck.0"]
    # Those that cost the same come by noise.
    assert sorted(entry.sqnr_db for entry in found.ranking[4:]) == [entry.sqnr_db for entry in found.ranking[4:]]
    assert simulation.left_in_float >= {"wide.0.weight", "branch.0.weight"}
    assert simulation.rounds
    assert score.calls == found.tried + 1  # the float network too
    assert "2 layers stay in float (wide.0, branch.0): 0.60 points of 0.6 allowed are lost, 3.60" in found.in_words()

    found = leave_in_float(simulation, score, [images], max_drop=4)
    assert found.layers == found.others == found.ranking == ()
    assert found.tried == 1
    assert simulation.left_in_float == frozenset()
    assert found.in_words().startswith("everything stays in integers: 3.60 points of 4 allowed")


def test_each_layer_is_tried_in_integers_again(simulated: Simulated, images: Tensor) -> None:
    # Alone, "wide.0" looks worst, but "branch.0" and "head.0" together lose all of it.
    simulation = simulated()

    class Pair(Damaged):
        def __call__(self, model: nn.Module) -> float:
            first, second = (self.simulation.sites[f"{name}.weight"].mode for name in ("branch.0", "head.0"))
            return super().__call__(model) - 0.1 * (first == second == "quantize")

    found = leave_in_float(
        simulation, Pair(simulation, {"wide.0": 0.004, "branch.0": 0.002, "head.0": 0.001}), [images], max_drop=0.5
    )
    assert found.layers == ("branch.0",)


def test_what_cannot_be_met_is_one_sentence_and_changes_nothing(simulated: Simulated, images: Tensor) -> None:
    simulation = simulated()
    simulation.float_sites(["head.2.weight"])
    layers = [name for name, entry in simulation.operators.items() if entry.weight]
    score = Damaged(simulation, dict.fromkeys(layers, 0.01))
    with pytest.raises(QuantizationError, match=r"within 0.5 points of 90.00 %.*integers lose 8.00.*still 1.00; allow"):
        leave_in_float(simulation, score, [images], max_drop=0.5)
    assert simulation.left_in_float == {"head.2.weight"}
    with pytest.raises(QuantizationError, match="max_drop is -1 points"):
        leave_in_float(simulation, score, [images], max_drop=-1)
    with pytest.raises(QuantizationError, match="within 0 points of 95"):
        leave_in_float(simulation, score, [images], max_drop=0, reference=0.95)


def test_operators_that_nothing_in_integers_feeds_go_along(simulated: Simulated) -> None:
    simulation = simulated()
    pooled = [name for name in simulation.operators if "avg_pool" in name]
    assert set(with_followers(simulation, ["neck.0"])) == {"neck.0", *pooled}
    assert with_followers(simulation, ["branch.3"]) == ("branch.3",)  # the sum reads the stem's branch too
    assert set(with_followers(simulation, ["branch.3", "wide.0"])) == {"branch.3", "wide.0", "add"}
    everything = [name for name, entry in simulation.operators.items() if entry.weight]
    assert set(with_followers(simulation, everything)) == set(simulation.operators)


def test_layers_in_float_get_back_what_repairs_replaced(simulated: Simulated, images: Tensor) -> None:
    simulation = simulated(weight_bits=3)
    before = copy.deepcopy(simulation.module.state_dict())
    rounded = adaround(simulation, [images], settings=AdaRoundSettings(steps=10))
    corrected = correct_biases(simulation, [images], originals=rounded.originals)
    repaired = copy.deepcopy(simulation.module.state_dict())
    found = leave_in_float(
        simulation,
        Damaged(simulation, {"wide.0": 0.02}),
        [images],
        max_drop=0.5,
        originals={**corrected.originals, **rounded.originals},
    )
    assert found.layers == ("wide.0",)
    for name, value in simulation.module.state_dict().items():
        wanted = before if name.startswith("wide.0.") else repaired
        torch.testing.assert_close(value, wanted[name], rtol=0, atol=0)


def test_the_file_has_these_layers_in_float(
    task: SupervisedTask, model: nn.Module, images: Tensor, others: Tensor, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="runs the file")
    from secateur.export.int8 import write_int8

    broken = copy.deepcopy(model)
    with torch.no_grad():
        # A huge weight on a channel that is always 0: nothing in float, but one step for the whole weight loses it.
        broken.stem[4].weight[3], broken.stem[4].bias[3] = 0, -1
        broken.wide[0].weight[0, 3] = 300
    simulation = simulate(broken, task.example_inputs, per_tensor_weights=True)
    simulation.calibrate([images])
    simulation.set_ranges("max")

    def score(network: nn.Module) -> float:
        return task.evaluate(network).top1

    found = leave_in_float(simulation, score, [images], max_drop=1)
    assert found.layers == ("wide.0",)
    assert found.integer < found.reference - 0.3
    assert score(simulation.module) == found.reached >= found.reference - 0.01
    report = write_int8(simulation, tmp_path / "mixed.onnx", images=[others])
    assert [entry.module for entry in report.execution.in_float if entry.kind == "Conv"] == ["wide.0"]
