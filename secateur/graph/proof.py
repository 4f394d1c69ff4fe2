"""What a proof found: one entry per output, a verdict, a sentence."""

from dataclasses import asdict, dataclass
from typing import Any

EXACT = 1e-6
"""Largest max|masked − cut| / max|original − masked| that counts as exact, in float64."""

VISIBLE = 1e-9
"""Smallest max|original − masked| / max|original| from which anything can be told."""

NAMED = 3  # groups in a sentence


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
        drift: of an approximate cut: max|zeroed − cut|, where ``zeroed`` is the original with the removed channels
            zeroed and counted in its statistics; in ``error`` and ``effect`` they are not counted. None of an exact
            cut, where both are the same.
        zeroing: of an approximate cut: max|original − zeroed|.
    """

    weights: str
    mode: str
    output: int
    error: float
    effect: float
    scale: float
    verdict: str
    module: str = ""
    drift: float | None = None
    zeroing: float | None = None

    @property
    def ratio(self) -> float:
        """Return error / effect."""
        return _relative(self.error, self.effect)

    @property
    def visible(self) -> bool:
        """Whether the cut changes the output at all, so that something can be told."""
        return self.effect > VISIBLE * self.scale


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What :func:`verify` found.

    Attributes:
        outputs: one entry per output tensor, set of weights and mode.
        float32_error: max|masked − cut| / max|masked| in the model's own precision, None if it was not run.
        problem: why the comparison could not be made, None if it could.
        precision: dtype that the proof was worked in.
        approximate: groups that were cut though a norm or a mean runs across their channels. Then ``error`` is that
            against the original whose statistics are taken over the channels that stay, and ``drift`` tells the rest.
    """

    outputs: tuple[OutputProof, ...]
    float32_error: float | None = None
    problem: str | None = None
    precision: str = "float64"
    approximate: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no output differs and at least one output, with redrawn weights, is shown to be exact.

        Of an approximate cut, with statistics over the channels that stay: how large the drift may be is for users to
        say.
        """
        if self.problem is not None or any(output.verdict == "different" for output in self.outputs):
            return False
        return any(output.verdict == "exact" and output.weights == "redrawn" for output in self.outputs)

    @property
    def verdict(self) -> str:
        """``exact``, ``approximate``, ``different`` or ``cannot tell``."""
        if self.passed:
            return "approximate" if self.approximate else "exact"
        if self.problem is not None or any(output.verdict == "different" for output in self.outputs):
            return "different"
        return "cannot tell"

    @property
    def error(self) -> float:
        """The largest max|masked − cut| / max|original − masked| over the outputs where the cut is visible."""
        return max((output.ratio for output in self.outputs if output.visible), default=float("nan"))

    @property
    def drift(self) -> float | None:
        """The largest max|zeroed − cut| / max|original − zeroed| of an approximate cut, None of an exact one.

        With the model's own weights if they were compared: redrawn ones tell nothing of this model's drift.
        """
        if not self.approximate:
            return None
        return max((_relative(drift, zeroing) for drift, zeroing, _ in self._drifts() if zeroing > 0), default=0.0)

    @property
    def drift_of_output(self) -> float | None:
        """The largest max|zeroed − cut| / max|original| of an approximate cut, None of an exact one."""
        if not self.approximate:
            return None
        return max((_relative(drift, scale) for drift, _, scale in self._drifts() if scale > 0), default=0.0)

    def _drifts(self) -> list[tuple[float, float, float]]:
        """Return (drift, zeroing, scale) of the outputs with own weights, or with redrawn ones where there are none."""
        own = [output for output in self.outputs if output.weights == "model"]
        return [
            (output.drift, output.zeroing, output.scale)
            for output in own or self.outputs
            if output.drift is not None and output.zeroing is not None
        ]

    def sentence(self) -> str:
        """Return the verdict in one sentence."""
        if self.problem is not None:
            return f"the cut is refused: {self.problem}"
        if self.passed:
            ratio = f"max|masked − cut| / max|original − masked| = {self.error:.1e} (limit {EXACT:g}, {self.precision})"
            return (
                f"the cut is approximate: {self._drift_text()}, {ratio}"
                if self.approximate
                else (f"the cut is exact: {ratio}")
            )
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

    def _drift_text(self) -> str:
        more = f" and {len(self.approximate) - NAMED} more" if len(self.approximate) > NAMED else ""
        groups = f"{', '.join(self.approximate[:NAMED])}{more}"
        return (
            f"drift {self.drift:.1e} of the effect and {self.drift_of_output:.1e} of the output, because channels are "
            f"normalised together ({groups}); exact up to these statistics"
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
            **self._drift_json(),
            "outputs": [asdict(output) for output in self.outputs],
        }

    def _drift_json(self) -> dict[str, Any]:
        if not self.approximate:
            return {}
        return {
            "approximate": list(self.approximate),
            "drift": self.drift,
            "drift_of_output": self.drift_of_output,
        }


def _relative(part: float, whole: float) -> float:
    if whole > 0:
        return part / whole
    return 0.0 if part == 0 else float("inf")
