"""What a search for the smallest model says: of a candidate, of finding none, and how far to trust its numbers."""

import math
from collections.abc import Sequence
from itertools import pairwise

from secateur.methods.trials import Candidate
from secateur.record import Evaluation


def told(candidate: Candidate) -> str:
    """Return what a candidate gave."""
    if candidate.validation is None or candidate.drop_points is None:
        return f"cannot be cut: {candidate.reason}"
    side = "below" if candidate.drop_points >= 0 else "above"
    before = "" if candidate.after_cut is None else f" ({100 * candidate.after_cut.score:.2f} % right after the cut)"
    found = candidate.validation
    return (
        f"{found.score_name} {100 * found.score:.2f} %{before}, {abs(candidate.drop_points):.2f} points {side} the "
        f"dense model: {'near enough' if candidate.within else 'too far'}"
    )


def nothing_found(curve: Sequence[Candidate], amount: str, dense: Evaluation, asked: str) -> str:
    """Return that no candidate is within what was asked for, and how near the best of ``curve`` comes."""
    measured = [candidate for candidate in curve if candidate.drop_points is not None]
    if not measured:
        return f"no share of {amount} that was tried can be cut; at {curve[-1].share:g}: {curve[-1].reason}"
    best = min(measured, key=lambda candidate: candidate.drop_points or 0.0)
    return (
        f"no cut stays within {asked}: the best, at {best.share:g} of {amount}, is {best.drop_points:.2f} points below "
        f"the dense model's validation {dense.score_name} of {100 * dense.score:.2f} %; allow more (--max-drop), or "
        "let candidates recover longer (--recovery-epochs)"
    )


def standard_error_points(dense: Evaluation) -> float:
    """Return the binomial standard error of the top-1 in points, by the rule of succession.

    Counting one more right and one more wrong sample keeps a perfect score from looking certain. 0 for a mean IoU,
    whose error is not known: it is no share of independent samples.
    """
    if dense.top1 is None:
        return 0.0
    share = (dense.top1 * dense.samples + 1) / (dense.samples + 2)
    return 100 * math.sqrt(share * (1 - share) / dense.samples)


def noise_notes(dense: Evaluation, max_drop_points: float, error_points: float) -> list[str]:
    """Return a note where the validation split is too small to tell candidates apart, else none."""
    if error_points <= max_drop_points / 2:
        return []
    return [
        f"the validation split has {dense.samples:,} samples: one standard error of the dense model's top-1 is "
        f"{error_points:.2g} points, which is much for an allowed drop of {max_drop_points:g}; a larger validation "
        f"split would tell candidates apart better"
    ]


def curve_notes(curve: Sequence[Candidate]) -> list[str]:
    """Return notes on what makes the curve doubtful: falls in it, and candidates that were interrupted."""
    measured = [(one.share, one.validation) for one in curve if one.validation is not None]
    falls = [(below, above) for below, above in pairwise(measured) if above[1].score < below[1].score]
    notes = []
    if falls:
        (small, low), (large, high) = max(falls, key=lambda pair: pair[0][1].score - pair[1][1].score)
        notes.append(
            f"accuracy does not rise evenly with the budget, though bisection takes it to: {low.score_name} is "
            f"{100 * low.score:.2f} % at {small:g} but {100 * high.score:.2f} % at {large:g}; a share below the "
            "chosen one may be near enough too"
        )
    if not all(one.bit_for_bit for one in curve):
        notes.append("a candidate was continued after an interruption, not bit for bit as an unbroken search")
    return notes
