"""``repair``: several repairs in the order in which they build on one another, each measured for what it brings."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from secateur.errors import QuantizationError
from secateur.names import unknown_name
from secateur.quantization.calibrating import CalibrationBatch
from secateur.quantization.calibrators import Calibrator
from secateur.quantization.repairs.bias_correction import correct_biases
from secateur.quantization.repairs.equalization import equalize
from secateur.quantization.repairs.layers import collected, require_rounding
from secateur.quantization.repairs.learned_rounding import AdaRoundSettings, adaround
from secateur.quantization.repairs.partial import PartialQuantization, leave_in_float
from secateur.quantization.repairs.quality import Judge, Progress, Quality, Score
from secateur.quantization.simulation import Simulation
from secateur.wording import counted

REPAIRS = {
    "equalization": "ranges of weights made equal across layers; helps most with one step for a whole weight",
    "adaround": "each weight rounded up or down so that the layer's output stays near; helps most at 4 bits and fewer",
    "bias-correction": "the mean error of each channel put into its bias; costs one pass over the images",
}
"""Repair → one line on it, in the order in which they run."""


@dataclass(frozen=True)
class RepairStep:
    """What one repair brought.

    Attributes:
        name: one of :data:`REPAIRS`, or "partial".
        before: the simulation before it.
        after: the simulation after it.
        note: what it did.
        skipped: layer → why it left that as it was.
    """

    name: str
    before: Quality
    after: Quality
    note: str
    skipped: dict[str, str]

    def in_words(self) -> str:
        """Return one line."""
        return f"{self.name}: {self.before.in_words()} → {self.after.in_words()} ({self.note})"


@dataclass(frozen=True)
class Repair:
    """What repairs brought.

    Attributes:
        steps: in the order in which they ran.
        reference: score of the float network, a share; None without a measure.
        partial: which layers are in float; None where that was not asked for.
    """

    steps: tuple[RepairStep, ...]
    reference: float | None
    partial: PartialQuantization | None

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a record; a ratio without noise is null."""
        found: dict[str, Any] = _plain(asdict(self))
        return found


def repairs_named(names: Iterable[str]) -> tuple[str, ...]:
    """Return known repairs in the order in which they run.

    Raises:
        QuantizationError: there is none of a name.
    """
    asked = set(names)
    for name in asked:
        if name not in REPAIRS:
            raise QuantizationError(unknown_name("repair", name, tuple(REPAIRS)))
    return tuple(name for name in REPAIRS if name in asked)


def repair(
    simulation: Simulation,
    names: Iterable[str],
    batches: Callable[[], Iterable[CalibrationBatch]],
    *,
    calibrator: str | Calibrator = "max",
    images: int = 256,
    score: Score | None = None,
    max_drop: float | None = None,
    replace_relu6: bool = False,
    settings: AdaRoundSettings | None = None,
    seed: int = 0,
    judged_on: Iterable[CalibrationBatch] | None = None,
    progress: Progress | None = None,
) -> Repair:
    """Repair a simulation in place: equalise, round by learning, correct biases, leave layers in float, as asked.

    Args:
        simulation: with ranges set.
        names: of :data:`REPAIRS`; the order is fixed.
        batches: gives the calibration images anew on every call.
        calibrator: the one that set the ranges; used again after equalisation.
        images: how many of them repairs keep in memory; calibration takes all.
        score: of a model, a share, better if higher; needed with ``max_drop``.
        max_drop: leave so many layers in float that at most so many points of the score are lost.
        replace_relu6: see :func:`equalize`.
        settings: of AdaRound.
        seed: of AdaRound's draws.
        judged_on: images whose outputs tell the signal to noise; by default those that repairs were fitted to, which
            flatters them.
        progress: told how each repair goes.

    Raises:
        DataError: there are no images.
        QuantizationError: a name is unknown, the simulation rounds nowhere, or ``max_drop`` cannot be met; weights are
            repaired then, and no further layer is in float.
    """
    chosen = repairs_named(names)
    require_rounding(simulation)
    if max_drop is not None and score is None:
        raise QuantizationError(f"max_drop {max_drop:g} needs a measure of the network; give score as well")
    inputs = collected(simulation.module, batches(), images)
    judge = Judge(simulation, inputs if judged_on is None else collected(simulation.module, judged_on), score)
    course = _Course(simulation, batches, inputs, calibrator, progress)
    steps: list[RepairStep] = []
    before = judge.quality()
    for name in chosen:
        note, skipped = {
            "equalization": lambda: course.equalized(replace_relu6),
            "adaround": lambda: course.adarounded(replace(settings or AdaRoundSettings(), seed=seed)),
            "bias-correction": course.corrected,
        }[name]()
        after = judge.quality()
        steps.append(RepairStep(name, before, after, note, skipped))
        before = after
    partial = None
    if max_drop is not None and score is not None:
        partial = leave_in_float(
            simulation,
            score,
            inputs,
            max_drop=max_drop,
            reference=judge.reference,
            originals=course.originals,
            progress=progress,
        )
        after = Quality(judge.sqnr_db(), partial.reached)
        steps.append(RepairStep("partial", before, after, partial.in_words(), {}))
    return Repair(tuple(steps), judge.reference, partial)


class _Course:
    """The repairs of one simulation, and what they replaced."""

    def __init__(
        self,
        simulation: Simulation,
        batches: Callable[[], Iterable[CalibrationBatch]],
        inputs: Sequence[Tensor],
        calibrator: str | Calibrator,
        progress: Progress | None,
    ) -> None:
        self.simulation, self.batches, self.inputs = simulation, batches, inputs
        self.calibrator, self.progress = calibrator, progress
        self.originals: dict[str, Tensor] = {}

    def equalized(self, replace_relu6: bool) -> tuple[str, dict[str, str]]:
        found = equalize(self.simulation, replace_relu6=replace_relu6)
        if found.pairs:
            self.simulation.calibrate(self.batches())
            self.simulation.set_ranges(self.calibrator)
        note = f"{counted(len(found.pairs), 'pair')} of layers"
        if found.replaced:
            note += f", {counted(len(found.replaced), 'ReLU6')} made ReLU"
        return note, dict(found.skipped)

    def adarounded(self, settings: AdaRoundSettings) -> tuple[str, dict[str, str]]:
        found = adaround(self.simulation, self.inputs, settings=settings, originals=self.originals, **self._told())
        self.originals = {**found.originals, **self.originals}
        better = [entry for entry in found.layers.values() if entry.moved]
        note = f"{counted(settings.steps, 'step')}, {len(better)} of {counted(len(found.layers), 'layer')} changed"
        return note, dict(found.skipped)

    def corrected(self) -> tuple[str, dict[str, str]]:
        found = correct_biases(self.simulation, self.inputs, originals=self.originals, **self._told())
        self.originals = {**found.originals, **self.originals}
        return counted(len(found.shifts), "layer"), dict(found.skipped)

    def _told(self) -> dict[str, Any]:
        return {"progress": self.progress}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
