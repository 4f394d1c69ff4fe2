"""The file of a calibrated model: written, run, and measured as whoever gets it would."""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import ArtifactError
from secateur.export import OnnxModel
from secateur.export.int8 import Execution, Int8Report, stored_weights, write_int8
from secateur.measure import compare_predictions, evaluate_artifact, latencies_in_turn
from secateur.measure.latency import Timed
from secateur.recipe.quantizing.calibrating import Calibrated, calibration_batches
from secateur.recipe.quantizing.in_openvino import in_openvino, runs_there
from secateur.recipe.quantizing.mending import Mended
from secateur.recipe.quantizing.ready import BATCH_SIZE, Ready
from secateur.recipe.quantizing.stages import Stages, Watched
from secateur.record import Agreement, Evaluation, FloatOperator, Int8, Latency, Measurement
from secateur.sparse import Masks
from secateur.training import SupervisedTask, TrainSettings
from secateur.training.task import Split
from secateur.wording import counted

PARITY_IMAGES = 256  # calibration images that simulation and file are compared on while it is written
REPEATS, LEAST_REPEATS = 50, 5
TIMED_SECONDS = 20.0  # that the slowest model may take in all, roughly; large batches of large networks repeat less


@dataclass(frozen=True)
class Files:
    """Where the two files go."""

    int8: Path
    simulation: Path


@dataclass(kw_only=True)
class Shipped:
    """What was written and measured.

    Attributes:
        record: how the file was made and how it runs.
        measurements: ``simulated``, ``int8``, and ``openvino`` where it ran.
        timings: by the keys of the models that were timed: of one sample, and of a batch.
        notes: what the user should know, one line each.
    """

    record: Int8
    measurements: dict[str, Measurement]
    timings: dict[str, tuple[Latency, Latency]]
    notes: list[str] = field(default_factory=list)


def ship(
    ready: Ready,
    calibrated: Calibrated,
    files: Files,
    stages: Stages,
    *,
    timed: Mapping[str, Timed],
    threads: int,
    masks: Masks | None = None,
    mended: Mended = Mended(),  # noqa: B008  (frozen)
) -> Shipped:
    """Write the INT8 file and the simulation, evaluate both, and time the file in turn with other models.

    Args:
        ready: the model.
        calibrated: which ranges it has.
        files: where to.
        stages: told what is being done.
        timed: other models by name, on the CPU.
        threads: of timing.
        masks: of weights that were pruned; that each of them is 0 in the file is looked at.
        mended: what was repaired before.

    Raises:
        ArtifactError: ONNX Runtime cannot run the file, or a removed weight is not 0 in it.
        ExportError: it does not compute what the simulation computes.
    """
    simulation = ready.simulation
    measured = {
        "simulated": _measured(ready, "the simulation", lambda data, split: _of_simulation(ready, data, split), stages)
    }
    stages.begins("writing the INT8 file")
    simulation.module.cpu()
    parity_images = list(calibration_batches(ready, PARITY_IMAGES))
    report = write_int8(simulation, files.int8, images=parity_images, preprocessing=ready.preprocessing)
    simulation.save(files.simulation)
    removed = None if masks is None else _require_zeros(files.int8, ready, masks)
    file = _measured(
        ready, "the INT8 file", lambda data, split: evaluate_artifact(files.int8, data, split=split), stages
    )
    measured["int8"] = replace(file, size_bytes=report.size_bytes)
    stages.begins("comparing simulation and file on the test split", images=ready.data.size("test"))
    agreement = compare_predictions(
        simulation.module,
        OnnxModel(files.int8, threads=torch.get_num_threads()),
        Watched(ready.data, stages),
        batch_size=BATCH_SIZE,
    )
    found = Shipped(
        record=_record(ready, calibrated, mended, report, Agreement(**vars(agreement)), removed),
        measurements=measured,
        timings={},
        notes=[*ready.notes, *calibrated.notes, *report.notes],
    )
    found.timings = _timings({**timed, "int8": files.int8}, ready, threads, stages)
    _in_openvino(ready, files.int8, threads, stages, found)
    return found


def _in_openvino(ready: Ready, path: Path, threads: int, stages: Stages, found: Shipped) -> None:
    """Run the file in OpenVINO too, where that is asked for or it is installed; a crash becomes a note."""
    if ready.settings.openvino is False or not runs_there(ready.data):
        return
    one, batch = _images(ready)
    try:
        there = in_openvino(path, ready.data, (one, batch), threads, stages)
    except ArtifactError as error:
        found.notes.append(str(error))
        return
    found.record = replace(found.record, openvino=there.name)
    found.measurements["openvino"] = replace(there.measurement, size_bytes=found.measurements["int8"].size_bytes)


def _images(ready: Ready) -> tuple[Tensor, Tensor]:
    """Return one image, and a batch of it, on the CPU."""
    one = ready.inputs[:1].cpu()
    return one, one.expand(ready.settings.batch, *one.shape[1:]).contiguous()


def with_timings(measurements: Mapping[str, Measurement], shipped: Shipped) -> dict[str, Measurement]:
    """Return measurements with what was shipped, and the latencies that were taken in turn."""
    found = {**measurements, **shipped.measurements}
    for key, (one, batch) in shipped.timings.items():
        found[key] = replace(found.get(key, Measurement()), latency=one, batch_latency=batch)
    return found


def _measured(ready: Ready, what: str, evaluated: Callable[[Any, Split], Evaluation], stages: Stages) -> Measurement:
    """Return the evaluations on both splits; the validation split may be empty."""
    data = Watched(ready.data, stages)
    stages.begins(f"evaluating {what} on the test split", images=data.size("test"))
    test = evaluated(data, "test")
    if not data.size("validation"):
        return Measurement(test=test)
    stages.begins(f"evaluating {what} on the validation split", images=data.size("validation"))
    return Measurement(test=test, validation=evaluated(data, "validation"))


def _of_simulation(ready: Ready, data: Any, split: Split) -> Evaluation:
    task = SupervisedTask(data, settings=TrainSettings(batch_size=BATCH_SIZE), device=str(ready.device))
    return task.evaluate(ready.simulation.module, split)


def _require_zeros(path: Path, ready: Ready, masks: Masks) -> int:
    """Return how many weights the masks removed, all of which are 0 in the file.

    Raises:
        ArtifactError: one is not.
    """
    stored, removed = stored_weights(path), 0
    for site, parameter in ready.simulation.placement.weights.items():
        if parameter not in masks or site not in stored:
            continue
        gone = ~masks[parameter]
        if bool(stored[site][gone].any()):
            raise ArtifactError(
                f"weights of {parameter} that were pruned are not 0 in {path.name}; keep the model file, and report "
                "this as a bug"
            )
        removed += int(gone.sum())
    return removed


def _record(
    ready: Ready, calibrated: Calibrated, mended: Mended, report: Int8Report, agreement: Agreement, removed: int | None
) -> Int8:
    settings, execution = ready.settings, report.execution
    operators, integers = _counts(execution)
    return Int8(
        target=settings.target,
        weight_bits=settings.weight_bits,
        per_tensor_weights=settings.per_tensor_weights,
        calibrator=calibrated.calibrator,
        picked=settings.compare,
        trials=calibrated.trials,
        seed=ready.seed,
        indices=tuple(ready.subset.indices.tolist()),
        repairs=mended.repairs,
        left_in_float=mended.left_in_float,
        sites=len(ready.simulation.sites),
        site_notes=dict(ready.simulation.notes),
        runtime=execution.runtime,
        operators=operators,
        in_integers=integers,
        in_float=tuple(
            FloatOperator(kind=entry.kind, module=entry.module, reason=entry.reason or "not known")
            for entry in execution.in_float
        ),
        agreement=agreement,
        sqnr_db=report.parity.sqnr_db,
        masked_weights=removed,
    )


def _counts(execution: Execution) -> tuple[dict[str, int], dict[str, int]]:
    operators: dict[str, int] = {}
    integers: dict[str, int] = {}
    for entry in execution.operators:
        operators[entry.kind] = operators.get(entry.kind, 0) + 1
        integers[entry.kind] = integers.get(entry.kind, 0) + (entry.precision == "int8")
    return operators, integers


def _timings(
    timed: Mapping[str, Timed], ready: Ready, threads: int, stages: Stages
) -> dict[str, tuple[Latency, Latency]]:
    """Return the latency of one sample and of a batch of every model, all taken in turn."""
    found = []
    for images in _images(ready):
        repeats = _repeats(timed, images)
        stages.begins(
            f"measuring latency at batch {len(images)}: {repeats} runs each, in turn, {counted(threads, 'thread')}"
        )
        found.append(
            latencies_in_turn(list(timed.values()), images, threads=threads, warmup=min(20, repeats), repeats=repeats)
        )
    return {
        key: (first.to_record(), second.to_record())
        for key, first, second in zip(timed, found[0], found[1], strict=True)
    }


def _repeats(timed: Mapping[str, Timed], images: Tensor) -> int:
    """Return how often to time, by one run of the models of torch, which are the slowest."""
    began = time.perf_counter()
    with torch.inference_mode():
        for model in timed.values():
            if isinstance(model, nn.Module):
                model(images)
    seconds = max(time.perf_counter() - began, 1e-6)
    return max(LEAST_REPEATS, min(REPEATS, int(TIMED_SECONDS / seconds)))


def on_cpu(model: nn.Module) -> nn.Module:
    """Return the model in evaluation mode on the CPU, a copy where it is elsewhere or trains."""
    place = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    if place.type == "cpu" and not any(module.training for module in model.modules()):
        return model
    return copy.deepcopy(model).cpu().eval()
