"""Between calibration and file: where rounding hurts is shown, and mended, where that was asked for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from secateur.quantization import Diagnosis, noise, one_at_a_time, repair, site_histograms
from secateur.recipe.quantizing.calibrating import Calibrated, calibration_batches
from secateur.recipe.quantizing.ready import BATCH_SIZE, Ready
from secateur.recipe.quantizing.stages import Stages
from secateur.report import write_int8_figures
from secateur.training import SupervisedTask, TrainSettings

NOISE_BATCHES = 2  # of validation images, or where there are none of calibration images, that noise is measured on


@dataclass(frozen=True)
class Mended:
    """What was found and done.

    Attributes:
        repairs: a line on each, with what it brought.
        left_in_float: operators that stay in float for the sake of accuracy.
        files: of the diagnosis, by what they are.
    """

    repairs: tuple[str, ...] = ()
    left_in_float: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()


def mend(ready: Ready, calibrated: Calibrated, folder: Path, stages: Stages) -> Mended:
    """Diagnose and repair the simulation of a calibrated model, as its settings ask.

    Args:
        ready: the model; its simulation is repaired in place.
        calibrated: whose ranges it has.
        folder: where figures and JSON of a diagnosis go.
        stages: told what is being done.

    Raises:
        QuantizationError: the accuracy asked for cannot be had with a single layer in integers.
        UsageError: the folder cannot be written.
    """
    settings, files = ready.settings, {}
    if settings.diagnose:
        files = write_int8_figures(folder, _diagnosis(ready, stages))
    if not settings.repair and settings.max_drop is None:
        return Mended(files=tuple(files.items()))
    told = _Told(stages)
    found = repair(
        ready.simulation,
        settings.repair,
        lambda: calibration_batches(ready),
        calibrator=calibrated.calibrator,
        score=_score(ready) if ready.data.size("validation") else None,
        max_drop=settings.max_drop,
        seed=ready.seed,
        judged_on=_judging(ready),
        progress=told,
    )
    left = () if found.partial is None else (*found.partial.layers, *found.partial.others)
    return Mended(tuple(step.in_words() for step in found.steps), left, tuple(files.items()))


def _judging(ready: Ready) -> Iterator[tuple[Tensor, Tensor]]:
    """Return images that nothing was fitted to, where there are some."""
    if not ready.data.size("validation"):
        return calibration_batches(ready, NOISE_BATCHES * BATCH_SIZE)
    return ready.data.batches("validation", batch_size=BATCH_SIZE, limit=NOISE_BATCHES, device=ready.device)


def _score(ready: Ready) -> Callable[[nn.Module], float]:
    """Return the measure of a network: its score on the validation split, a share."""
    task = SupervisedTask(ready.data, settings=TrainSettings(batch_size=BATCH_SIZE), device=str(ready.device))
    return lambda model: task.evaluate(model).score


def _diagnosis(ready: Ready, stages: Stages) -> Diagnosis:
    """Measure noise at every site, one layer at a time where there are validation images, and ranges."""
    simulation = ready.simulation
    stages.begins("measuring the noise of every site")
    found = noise(simulation, _judging(ready))
    histograms = site_histograms(simulation)
    if not ready.data.size("validation"):
        return Diagnosis(noise=found, histograms=histograms)
    score = _score(ready)
    told = _Told(stages)
    with simulation.unrounded():
        reference = score(simulation.module)
    return Diagnosis(
        noise=found,
        effects=one_at_a_time(
            simulation, score, progress=lambda done, of: told("one layer at a time in integers", done, of)
        ),
        reference=reference,
        integer=score(simulation.module),
        histograms=histograms,
    )


class _Told:
    """Hands what repairs tell to the stages."""

    def __init__(self, stages: Stages) -> None:
        self._stages, self._what = stages, ""

    def __call__(self, what: str, done: int, of: int) -> None:
        if what != self._what:
            self._what = what
            self._stages.begins(what, images=of)
        self._stages.advance(done)
