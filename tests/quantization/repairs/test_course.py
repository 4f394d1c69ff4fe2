"""Several repairs in order, each measured."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur.errors import QuantizationError, UsageError
from secateur.quantization import REPAIRS, AdaRoundSettings, Simulation, repair, repairs_named
from secateur.training import SupervisedTask

Simulated = Callable[..., Simulation]
QUICK = AdaRoundSettings(steps=60, learning_rate=0.05)


def test_all_of_them_and_what_each_brings(
    task: SupervisedTask, simulated: Simulated, images: Tensor, others: Tensor
) -> None:
    def score(network: nn.Module) -> float:
        return task.evaluate(network).top1

    simulation = simulated(weight_bits=3, per_tensor_weights=True)
    told: set[str] = set()
    found = repair(
        simulation,
        ["bias-correction", "equalization", "adaround"],
        lambda: [images],
        images=96,
        score=score,
        max_drop=1.5,
        settings=QUICK,
        judged_on=[others],
        progress=lambda what, done, of: told.add(what),
    )
    assert [step.name for step in found.steps] == [*REPAIRS, "partial"]
    for before, after in zip(found.steps, found.steps[1:], strict=False):
        assert before.after == after.before
    assert found.steps[-1].after.sqnr_db > found.steps[0].before.sqnr_db + 6
    assert found.reference == found.partial.reference
    assert found.steps[-1].after.score == score(simulation.module) >= found.reference - 0.015
    assert {"AdaRound", "bias correction"} <= told
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["steps"][0]["name"] == "equalization"
    assert written["partial"]["layers"] == list(found.partial.layers)
    assert found.steps[0].in_words().startswith("equalization: ")
    assert "5 pairs of layers" in found.steps[0].note


def test_nothing_but_a_drop(task: SupervisedTask, simulated: Simulated, images: Tensor) -> None:
    simulation = simulated()
    found = repair(simulation, [], lambda: [images], score=lambda model: task.evaluate(model).top1, max_drop=5)
    (step,) = found.steps
    assert step.name == "partial"
    assert found.partial.layers == ()
    assert step.before == step.after


def test_the_file_of_a_repaired_simulation_computes_the_same(
    simulated: Simulated, images: Tensor, others: Tensor, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="runs the file")
    from secateur.export.int8 import write_int8

    simulation = simulated(weight_bits=4)
    repair(simulation, REPAIRS, lambda: [images], settings=AdaRoundSettings(steps=10))
    report = write_int8(simulation, tmp_path / "repaired.onnx", images=[others])
    assert report.parity.sqnr_db > 30
    assert {entry.precision for entry in report.execution.operators if entry.kind == "Conv"} == {"int8"}


def test_repairs_never_leave_the_layers_of_a_partial_simulation(simulated: Simulated, images: Tensor) -> None:
    simulation = simulated(weight_bits=4)
    simulation.float_operators(["wide.0"])
    weight = simulation.module.get_parameter("wide.0.weight").detach().clone()
    repair(simulation, ["adaround", "bias-correction"], lambda: [images], settings=AdaRoundSettings(steps=5))
    torch.testing.assert_close(simulation.module.get_parameter("wide.0.weight").detach(), weight, rtol=0, atol=0)
    assert simulation.left_in_float >= {"wide.0.weight"}


def test_bad_input_is_one_sentence(simulated: Simulated, images: Tensor) -> None:
    simulation = simulated()
    assert repairs_named({"bias-correction", "equalization"}) == ("equalization", "bias-correction")
    with pytest.raises(QuantizationError, match=r"'bias-corection'.*bias-correction"):
        repair(simulation, ["bias-corection"], lambda: [images])
    with pytest.raises(QuantizationError, match="max_drop 1 needs a measure"):
        repair(simulation, [], lambda: [images], max_drop=1)
    with pytest.raises(UsageError, match="batch_size of AdaRound is 0"):
        AdaRoundSettings(batch_size=0)
