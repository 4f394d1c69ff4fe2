"""One pass over calibration images for all calibrators; where asked for, one of them is picked on validation images."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from secateur.graph.slots import mode_of
from secateur.measure import Divergence
from secateur.quantization import Affine, Simulation
from secateur.recipe.quantizing.ready import BATCH_SIZE, Ready
from secateur.recipe.quantizing.stages import Stages
from secateur.record import CalibratorTrial
from secateur.training import evaluate, evaluate_segmentation, task_of
from secateur.training.segmentation import evaluated_batch_size
from secateur.wording import counted


@dataclass(frozen=True)
class Ranges:
    """What one calibrator made of the histograms.

    Attributes:
        affines: site → its mapping, weights included.
        notes: site → why its range is not what the calibrator's name says.
    """

    affines: Mapping[str, Affine]
    notes: Mapping[str, str]


@dataclass(frozen=True)
class Calibrated:
    """Which ranges the simulation has now.

    Attributes:
        calibrator: whose they are.
        trials: what each calibrator does on the validation split, where they were compared.
        notes: what the user should know, one line each.
    """

    calibrator: str
    trials: tuple[CalibratorTrial, ...]
    notes: tuple[str, ...]


def calibrate(ready: Ready, stages: Stages) -> Calibrated:
    """Give the simulation its ranges: count values in one pass, choose, and round from then on.

    Raises:
        DataError: an image does not fit the model.
        QuantizationError: values are NaN or infinite.
    """
    simulation, count = ready.simulation, len(ready.subset.indices)
    stages.begins(f"calibrating on {counted(count, 'training image')}", images=count)
    simulation.calibrate(calibration_batches(ready), stages.advance)
    if not ready.settings.compare:
        (name,) = ready.settings.calibrators
        simulation.set_ranges(name)
        return Calibrated(name, (), _doubts(ready))
    found = {name: _ranges(simulation, name) for name in ready.settings.calibrators}
    trials = tuple(_tried(ready, found, stages))
    best = min(trials, key=lambda trial: math.inf if math.isnan(trial.divergence_nats) else trial.divergence_nats)
    _take(simulation, found[best.calibrator])
    return Calibrated(best.calibrator, trials, _doubts(ready))


def calibration_batches(ready: Ready, images: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the calibration images with their labels, all or the first so many."""
    return ready.data.batches(
        "train", batch_size=BATCH_SIZE, indices=ready.subset.indices[:images], device=ready.device
    )


def _ranges(simulation: Simulation, calibrator: str) -> Ranges:
    simulation.set_ranges(calibrator)
    affines = {
        name: Affine(entry.step.clone(), entry.zero_point.clone(), entry.spec)
        for name, entry in ((name, site.affine) for name, site in simulation.sites.items())
    }
    return Ranges(affines, dict(simulation.notes))


def _take(simulation: Simulation, ranges: Ranges) -> None:
    for name, site in simulation.sites.items():
        site.set_affine(ranges.affines[name])
    simulation.notes = dict(ranges.notes)


def _tried(ready: Ready, found: Mapping[str, Ranges], stages: Stages) -> Iterator[CalibratorTrial]:
    """Yield what the simulation does on the validation split with each calibrator's ranges."""
    data, divergence = ready.data, Divergence(ready.model)
    segments = task_of(data) == "segmentation"
    measured_by = evaluate_segmentation if segments else evaluate
    size = evaluated_batch_size(BATCH_SIZE, data.sample_shape) if segments else BATCH_SIZE
    with mode_of(ready.model, training=False), mode_of(ready.simulation.module, training=False):
        for name, ranges in found.items():
            _take(ready.simulation, ranges)
            stages.begins(f"comparing calibrators on the validation split: {name}", images=data.size("validation"))
            measured = measured_by(
                divergence.of(ready.simulation.module),
                data.batches("validation", batch_size=size, device=ready.device),
                classes=data.num_classes,
            )
            sites = [site for site in ranges.notes if not site.startswith("inputs.")]
            yield CalibratorTrial(
                calibrator=name, divergence_nats=divergence.mean_nats, validation=measured, fallbacks=len(sites)
            )


def _doubts(ready: Ready) -> tuple[str, ...]:
    """Return what looks wrong with the calibration images."""
    simulation = ready.simulation
    far = [note for name, note in simulation.notes.items() if name.startswith("inputs.") and "unnormalised" in note]
    if far:
        return tuple(far)
    channels = ready.data.sample_shape[0]
    own = ready.data.normalization.for_channels(channels)
    plain = set(own.mean) == {0.0} and set(own.std) == {1.0}
    inputs = [site.histogram for name, site in simulation.sites.items() if name.startswith("inputs.")]
    if channels == 3 and plain and inputs and all(entry.lowest >= 0 and entry.highest <= 1 for entry in inputs):
        return (
            "calibration images lie between 0 and 1 and nothing was subtracted (--normalize none), which looks "
            "unnormalised; prepare them as the model was trained",
        )
    return ()
