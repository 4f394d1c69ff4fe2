"""What a proof found: one entry per output, a verdict, a sentence."""

from dataclasses import asdict, dataclass
from typing import Any

EXACT = 1e-6
"""Largest max|masked − cut| / max|original − masked| that counts as exact, in float64."""

VISIBLE = 1e-9
"""Smallest max|original − masked| / max|original| from which anything can be told."""


@dataclass(frozen=True, kw_only=True)
class OutputProof:
    """One output tensor under one set of weights.

    Attributes:
        weights: ``model`` (its own) or ``redrawn``.
        mode: ``eval`` or ``train``.
        output: number of the tensor among the model's outputs.
        error: max|masked − cut|.
        effect: max|original − masked|: what the cut changes at all.
        scale: max|original|.
        verdict: ``exact``, ``cannot tell`` (the cut has no visible effect here) or ``different``.
        module: which module returned it, where outputs of modules are compared; empty for the model itself.
    """

    weights: str
    mode: str
    output: int
    error: float
    effect: float
    scale: float
    verdict: str
    module: str = ""

    @property
    def ratio(self) -> float:
        """Return error / effect."""
        if self.effect > 0:
            return self.error / self.effect
        return 0.0 if self.error == 0 else float("inf")


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What :func:`verify` found.

    Attributes:
        outputs: one entry per output tensor, set of weights and mode.
        float32_error: max|masked − cut| / max|masked| in the model's own precision, None if it was not run.
        problem: why the comparison could not be made, None if it could.
        precision: dtype that the proof was worked in.
    """

    outputs: tuple[OutputProof, ...]
    float32_error: float | None = None
    problem: str | None = None
    precision: str = "float64"

    @property
    def passed(self) -> bool:
        """Whether no output differs and at least one output, with redrawn weights, is shown to be exact."""
        if self.problem is not None or any(output.verdict == "different" for output in self.outputs):
            return False
        return any(output.verdict == "exact" and output.weights == "redrawn" for output in self.outputs)

    @property
    def verdict(self) -> str:
        """``exact``, ``different`` or ``cannot tell``."""
        if self.passed:
            return "exact"
        if self.problem is not None or any(output.verdict == "different" for output in self.outputs):
            return "different"
        return "cannot tell"

    @property
    def error(self) -> float:
        """The largest max|masked − cut| / max|original − masked| over the outputs where the cut is visible."""
        visible = [output.ratio for output in self.outputs if output.effect > VISIBLE * output.scale]
        return max(visible, default=float("nan"))

    def sentence(self) -> str:
        """Return the verdict in one sentence."""
        if self.problem is not None:
            return f"the cut is refused: {self.problem}"
        if self.passed:
            ratio = f"max|masked − cut| / max|original − masked| = {self.error:.1e}"
            return f"the cut is exact: {ratio} (limit {EXACT:g}, {self.precision})"
        wrong = [output for output in self.outputs if output.verdict == "different"]
        if wrong:
            worst = max(wrong, key=lambda output: output.ratio)
            return (
                f"the cut is refused: with {worst.weights} weights in {worst.mode} mode output {worst.output} of the "
                f"cut model differs from the masked original by {worst.error:.3e}, where the cut itself changes it by "
                f"{worst.effect:.3e}; lock the groups that reach code which the cut model runs differently"
            )
        if self.precision != "float64":
            return (
                f"the proof cannot tell: the model runs in {self.precision} only, where rounding hides errors below "
                f"the {self.error:.1e} found (limit {EXACT:g}); let its forward run in float64"
            )
        return (
            "the proof cannot tell: the cut changes no output by more than "
            f"{VISIBLE:g} of its size; give example inputs on which the model's outputs depend on all channels"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and dictionaries."""
        return {
            "verdict": self.verdict,
            "passed": self.passed,
            "error": None if self.error != self.error else self.error,
            "float32_error": self.float32_error,
            "problem": self.problem,
            "precision": self.precision,
            "outputs": [asdict(output) for output in self.outputs],
        }
