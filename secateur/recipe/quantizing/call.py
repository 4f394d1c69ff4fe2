"""``quantize``: the five steps as one call, on a model in memory."""

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from secateur.data import DataSource
from secateur.errors import ExportError, UsageError
from secateur.export import export_onnx, save
from secateur.files import write_text
from secateur.measure.latency import Timed
from secateur.randomness import derive_seed
from secateur.recipe.quantizing.calibrating import calibrate
from secateur.recipe.quantizing.folder import FILES, Int8Folder
from secateur.recipe.quantizing.mending import mend
from secateur.recipe.quantizing.ready import BATCH_SIZE, Ready, get_ready
from secateur.recipe.quantizing.settings import Quantize
from secateur.recipe.quantizing.shipping import Files, Shipped, on_cpu, ship, with_timings
from secateur.recipe.quantizing.stages import QuietStages, Stages, Watched
from secateur.record import Measurement, RunRecord, environment, write_record
from secateur.report import int8_markdown
from secateur.training import SupervisedTask, TrainSettings, choose_device, join_processes


@dataclass(frozen=True)
class QuantizeResult:
    """What was left in the folder.

    Attributes:
        folder: with ``model.int8.onnx``, ``simulation.safetensors``, ``report.md`` and ``record.json``.
        record: everything that was measured.
        was_complete: whether the same work was finished before, so that nothing was computed.
    """

    folder: Path
    record: RunRecord
    was_complete: bool = False

    @property
    def file(self) -> Path:
        """The INT8 file."""
        return self.folder / FILES["int8"]


def quantize(
    model: nn.Module,
    data: DataSource,
    out: Path | str,
    *,
    settings: Quantize = Quantize(),  # noqa: B008  (frozen)
    seed: int = 0,
    device: str = "cpu",
    threads: int = 1,
    force: bool = False,
    described: Mapping[str, Any] | None = None,
    command: Sequence[str] = (),
    stages: Stages = QuietStages(),  # noqa: B008  (holds nothing)
) -> QuantizeResult:
    """Bring a trained model to INT8: fold, calibrate in one pass, choose ranges, write the ONNX file, measure the file.

    Args:
        model: trained, in float; its weights stay as they are.
        data: its training images calibrate, its test images judge; a validation split picks, where asked for.
        out: folder of the result; files come there all at once at the end, or not at all.
        settings: how.
        seed: of the choice of calibration images.
        device: where float model and simulation compute; the file runs on the CPU.
        threads: of the latencies.
        force: replace the result of other settings in ``out``.
        described: what is noted of model and data beside the settings; their names by default.
        command: the words that started this, for the record.
        stages: where to show how it goes.

    Returns:
        The folder and what was measured.

    Raises:
        SecateurError: anything wrong with the settings, the model, the data or the folder, before the work starts
            where it can be known; NaN in the activations; a file that does not compute what was simulated.
    """
    if (processes := join_processes().world_size) > 1:
        raise UsageError(f"this runs in one process, but {processes} were started; start it without torchrun")
    noted = described or {"model": {"spec": type(model).__name__}, "data": {"spec": data.name}}
    noted = {**noted, "quantize": json.loads(json.dumps(dataclasses.asdict(settings))), "seed": seed}
    place = Int8Folder(Path(out))
    finished = place.enter(noted, force=force)
    if finished is not None and described is None:
        # Of a model in memory nobody knows whether it is the one of before.
        raise UsageError(f"{place.folder} holds an INT8 file already; choose another folder, or pass force=True")
    if finished is not None:
        return QuantizeResult(place.folder, finished, was_complete=True)
    try:
        ready = get_ready(model, data, settings, seed=seed, device=choose_device(device), stages=stages)
        for note in ready.notes:
            stages.note(note)
        calibrated = calibrate(ready, stages)
        for note in calibrated.notes:
            stages.note(f"warning: {note}")
        with place.staged() as staging, tempfile.TemporaryDirectory(prefix="secateur-") as folder:
            files = Files(staging / FILES["int8"], staging / FILES["simulation"])
            dense_onnx = Path(folder, "dense.onnx")
            dense, notes = _in_float(ready, Path(folder), dense_onnx, stages)
            timed: dict[str, Timed] = {"dense": on_cpu(ready.model)}
            timed |= {"dense_onnx": dense_onnx} if "dense_onnx" in dense else {}
            mended = mend(ready, calibrated, staging, stages)
            shipped = ship(ready, calibrated, files, stages, timed=timed, threads=threads, mended=mended)
            shipped.notes += notes
            record = _record(ready, shipped, dense, noted, tuple(command))
            record = replace(record, files={**record.files, **dict(mended.files)})
            write_text(staging / FILES["report"], int8_markdown(record))
            write_record(staging / FILES["record"], record)
    finally:
        stages.ends()
    return QuantizeResult(place.folder, record)


def _in_float(ready: Ready, folder: Path, onnx: Path, stages: Stages) -> tuple[dict[str, Measurement], tuple[str, ...]]:
    """Evaluate the model in float, and write it as ONNX where it can be: what INT8 has to be faster than."""
    data = ready.data
    stages.begins("evaluating the model in float on the test split", images=data.size("test"))
    task = SupervisedTask(
        Watched(data, stages), settings=TrainSettings(batch_size=BATCH_SIZE), device=str(ready.device)
    )
    test = task.evaluate(ready.model, "test")
    validation = task.evaluate(ready.model) if data.size("validation") else None
    stages.begins("writing the model in float as ONNX, to compare with")
    save(ready.model, folder / "dense.safetensors")
    size_bytes = (folder / "dense.safetensors").stat().st_size
    found = {"dense": Measurement(validation=validation, test=test, size_bytes=size_bytes)}
    try:
        report = export_onnx(on_cpu(ready.model), onnx, ready.inputs.cpu())
    except ExportError as error:
        return found, (f"there is no fp32 file to compare with: {error}",)
    return {**found, "dense_onnx": Measurement(size_bytes=report.size_bytes)}, ()


def _record(
    ready: Ready,
    shipped: Shipped,
    dense: Mapping[str, Measurement],
    noted: Mapping[str, Any],
    command: tuple[str, ...],
) -> RunRecord:
    return RunRecord(
        run_id=f"{derive_seed(json.dumps(noted, sort_keys=True)):016x}",
        command=command,
        environment=environment(ready.device),
        settings=dict(noted),
        seeds={"seed": ready.seed},
        classes=ready.data.num_classes,
        measurements=with_timings(dense, shipped),
        int8=shipped.record,
        files={name: file for name, file in FILES.items() if name != "record"},
        notes=tuple(shipped.notes),
    )
