"""The last step of a recipe: what was cut and fine-tuned is brought to INT8, and the INT8 file is what ships."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from secateur.data import DataSource
from secateur.errors import QuantizationError
from secateur.export import export_onnx
from secateur.measure.latency import Timed
from secateur.methods import Compressed
from secateur.recipe.measuring import Measured
from secateur.recipe.quantizing.calibrating import calibrate
from secateur.recipe.quantizing.mending import mend
from secateur.recipe.quantizing.ready import get_ready
from secateur.recipe.quantizing.shipping import Files, on_cpu, ship, with_timings
from secateur.recipe.quantizing.stages import ToldStages
from secateur.recipe.rundir import RunDirectory
from secateur.recipe.settings import Recipe
from secateur.recipe.subject import Subject


def check_before(recipe: Recipe, subject: Subject, data: DataSource, device: torch.device) -> None:
    """See before any training, on the dense model, that the run can end in INT8 where the recipe asks for it.

    Raises:
        SecateurError: as :func:`get_ready`.
    """
    if recipe.quantize is not None:
        get_ready(subject.model, data, recipe.quantize, seed=recipe.seed, device=device)


def bring_to_int8(
    place: RunDirectory,
    recipe: Recipe,
    subject: Subject,
    data: DataSource,
    device: torch.device,
    compressed: Compressed,
    measured: Measured,
    tell: Callable[[str], None],
) -> None:
    """Write the INT8 file and the simulation into the run directory, and add what they do to ``measured``.

    Args:
        place: the run directory.
        recipe: of the run; nothing is done where it does not ask for INT8.
        subject: the dense model, to compare with.
        data: training images calibrate, validation images pick, test images judge.
        device: where the simulation computes.
        compressed: what was cut and fine-tuned.
        measured: of the run so far; gets the new measurements, and latencies that were all taken in turn.
        tell: told what is being done.

    Raises:
        SecateurError: as :func:`secateur.recipe.quantizing.call.quantize`.
    """
    if recipe.quantize is None:
        return
    stages = ToldStages(tell)
    ready = get_ready(compressed.model, data, recipe.quantize, seed=recipe.seed, device=device, stages=stages)
    calibrated = calibrate(ready, stages)
    dense, small = on_cpu(subject.model), on_cpu(compressed.model)
    with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
        timed: dict[str, Timed] = {"dense": dense, "tuned": small}
        if "onnx" in measured.measurements:  # then the dense model has an ONNX form too
            timed |= {"dense_onnx": Path(folder, "dense.onnx"), "onnx": place.path("onnx")}
            export_onnx(dense, Path(folder, "dense.onnx"), ready.inputs.cpu())
        try:
            mended = mend(ready, calibrated, place.folder, stages)
        except QuantizationError as error:
            # The recipe cannot be changed in this folder any more, and hours of training may lie in it.
            raise QuantizationError(
                f"{error}; the model itself is done: secateur quantize {place.path('model')} takes it with other "
                "settings"
            ) from error
        shipped = ship(
            ready,
            calibrated,
            Files(place.path("int8"), place.path("simulation")),
            stages,
            timed=timed,
            threads=recipe.machine.threads or 1,
            masks=compressed.masks,
            mended=mended,
        )
    tuned = measured.measurements["tuned"]
    for key, value in shipped.measurements.items():
        shipped.measurements[key] = replace(value, macs=tuned.macs, params=tuned.params, nonzeros=tuned.nonzeros)
    measured.measurements = with_timings(measured.measurements, shipped)
    measured.int8 = shipped.record
    measured.files |= dict(mended.files)
    measured.notes += shipped.notes
