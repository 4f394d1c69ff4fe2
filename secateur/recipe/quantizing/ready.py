"""A model that is ready to be calibrated: everything that can be refused before long work starts is looked at here."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.data import CalibrationSubset, DataSource, calibration_subset
from secateur.errors import DataError, TraceError
from secateur.export import Preprocessing, preprocessing_of
from secateur.export.int8 import check_int8, has_vnni
from secateur.export.int8.openvino_process import require_openvino
from secateur.export.onnx_runtime import require_onnx
from secateur.graph.slots import mode_of
from secateur.quantization import Simulation, simulate
from secateur.recipe.checks import check_outputs
from secateur.recipe.quantizing.settings import Quantize
from secateur.recipe.quantizing.stages import QuietStages, Stages
from secateur.wording import counted

BATCH_SIZE = 128
"""Images at a time, of calibration and evaluation."""

SAMPLES = 2  # of which the model is captured; the batch stays free


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A model, its simulation without ranges, and the images to calibrate on.

    Attributes:
        model: in float, on the device.
        data: where images come from.
        inputs: two of them, (2, C, H, W), on the device.
        settings: how it is brought to integers.
        seed: that calibration images are drawn by.
        simulation: on the device; nothing rounds yet.
        subset: which training images.
        notes: what the user should know, one line each.
    """

    model: nn.Module
    data: DataSource
    inputs: Tensor
    settings: Quantize
    seed: int
    simulation: Simulation
    subset: CalibrationSubset
    notes: tuple[str, ...]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.inputs.device

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes an input."""
        return preprocessing_of(self.data)


def get_ready(
    model: nn.Module,
    data: DataSource,
    settings: Quantize,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    stages: Stages = QuietStages(),  # noqa: B008  (holds nothing)
) -> Ready:
    """Look at everything that could stop the work later, and capture the model.

    The file is written once without calibration and loaded, because an operator without an ONNX form, or one that the
    runtime does not have, shows only there.

    Args:
        model: in float; it is moved to ``device``.
        data: with training images to calibrate on and test images to evaluate on.
        settings: how it is brought to integers.
        seed: of the choice of calibration images.
        device: where it computes.
        stages: told what is being done.

    Raises:
        ExportError: a package is missing, or the model cannot become an INT8 file.
        DataError: a split that is needed is empty, or the images do not fit the model.
        TraceError: the model cannot be captured.
        QuantizationError: it has nothing to bring to integers.
    """
    require_onnx()
    if settings.openvino:
        require_openvino()
    subset, notes = _images(data, settings, seed)
    inputs, _ = next(iter(data.batches("train", batch_size=SAMPLES, indices=subset.indices, limit=1)))
    model = model.to(device)
    _check_forward(model, inputs.to(device), data)
    stages.begins("capturing the model, and writing the INT8 file once on trial")
    # On the CPU, where the file is written and run; the captured graph may go elsewhere to be calibrated.
    on_cpu = model if torch.device(device).type == "cpu" else copy.deepcopy(model).cpu()
    simulation = simulated(on_cpu, inputs, data, settings)
    check_int8(simulation)
    simulation.module.to(device)
    if settings.target == "cpu" and has_vnni() is False:
        notes.append("this processor has no VNNI, where sums of two 8-bit products saturate; use --target cpu-no-vnni")
    return Ready(
        model=model,
        data=data,
        inputs=inputs.to(device),
        settings=settings,
        seed=seed,
        simulation=simulation,
        subset=subset,
        notes=tuple(notes),
    )


def simulated(model: nn.Module, inputs: Tensor, data: DataSource, settings: Quantize) -> Simulation:
    """Return the simulation of a model on the target; see :func:`secateur.quantization.simulate`.

    Raises:
        QuantizationError: it has nothing to bring to integers.
        TraceError: it cannot be captured.
    """
    try:
        return simulate(
            model,
            inputs,
            profile=settings.target,
            weight_bits=settings.weight_bits,
            per_tensor_weights=settings.per_tensor_weights,
        )
    except TraceError as error:
        shape = "×".join(map(str, data.sample_shape))
        raise TraceError(
            f"the model cannot be brought to integers with images of {data.name} ({shape}): {error}"
        ) from error


def _images(data: DataSource, settings: Quantize, seed: int) -> tuple[CalibrationSubset, list[str]]:
    """Return the calibration images, and what is to be said of them."""
    if data.size("train") == 0:
        raise DataError(
            f"there are no calibration images: the train split of {data.name} is empty; give data with some"
        )
    if data.size("test") == 0:
        raise DataError(f"the test split of {data.name} is empty, so that no file can be judged; give data with some")
    if settings.compare and data.size("validation") == 0:
        raise DataError(
            f"--compare picks on the validation split, which is empty in {data.name}; give a larger "
            "--validation-share, or name a calibrator with --calibrate"
        )
    if settings.max_drop is not None and data.size("validation") == 0:
        raise DataError(
            f"max_drop {settings.max_drop:g} is judged on the validation split, which is empty in {data.name}; give a "
            "larger --validation-share, or leave it out"
        )
    notes, count = [], settings.images
    if data.size("train") < count:
        count = data.size("train")
        notes.append(f"{data.name} has {counted(count, 'training image')}, so that all of them calibrate")
    return calibration_subset(data, count, seed=seed), notes


def _check_forward(model: nn.Module, inputs: Tensor, data: DataSource) -> None:
    """Refuse a model that does not take the data's images, or returns what is no prediction."""
    try:
        with torch.no_grad(), mode_of(model, training=False):
            outputs: Any = model(inputs)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        shape = "×".join(map(str, data.sample_shape))
        raise DataError(
            f"the model does not run on images of {data.name}, which are {shape}: {first}; give the data that it was "
            "trained on"
        ) from error
    check_outputs(outputs, len(inputs), data)
