"""What came back after a cut without training: which steps, on how many images, and what the model was worth then."""

from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import ConfigDict

from secateur.record.measurements import STRICT, Evaluation
from secateur.wording import counted

CUT, BATCH_NORM = "cut", "batch norm"
"""The first step, in which nothing is restored yet, and the last one."""


@dataclass(frozen=True, kw_only=True)
class RestoreStep:
    """One step of a restoration."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    what: str  # "cut", which is the cut alone, "mean", "least squares", "least squares and mean", or "batch norm"
    images: int = 0  # of the training split that the step looked at
    seconds: float = 0.0  # that the step took, without the evaluation
    validation: Evaluation | None = None  # of the model after the step; None where it was not measured


@dataclass(frozen=True, kw_only=True)
class Restoration:
    """What was restored right after one cut."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    cut: int  # its number, from 1
    steps: tuple[RestoreStep, ...]  # in order; the first is the cut alone
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Layer that reads a cut one → its output's relative squared error before and after it was re-fitted."""
    left: dict[str, str] = field(default_factory=dict)  # layer or group → why it was left as it was

    @property
    def right_after_cut(self) -> Evaluation | None:
        """The validation accuracy before anything was restored."""
        return self.steps[0].validation if self.steps else None

    def in_words(self) -> str:
        """Return one line, such as ``top-1 43.10 % right after the cut, 88.20 % after least squares (512 images)``."""
        found = next((step.validation for step in self.steps if step.validation), None)
        name = "" if found is None else f"{found.score_name} "
        return name + ", ".join(_step_in_words(step) for step in self.steps)


def _step_in_words(step: RestoreStep) -> str:
    score = "not measured" if step.validation is None else f"{100 * step.validation.score:.2f} %"
    if step.what == CUT:
        return f"{score} right after the cut"
    nothing = "there is none" if step.what == BATCH_NORM else "nothing was re-fitted"
    took = f", {step.seconds:.1f} s" if step.seconds else ""  # a model file holds no times
    seen = counted(step.images, "image") + took if step.images else nothing
    return f"{score} after {step.what} ({seen})"
