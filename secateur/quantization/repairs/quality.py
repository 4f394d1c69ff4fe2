"""How good a simulation is, before and after a repair."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.quantization.diagnosis import ratio_db
from secateur.quantization.simulation import Simulation

Score = Callable[[nn.Module], float]
"""A measure of a model that is better the higher it is, a share: ``lambda model: task.evaluate(model).top1``."""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many of its parts are done, and of how many."""


@dataclass(frozen=True)
class Quality:
    """How far a rounded network is from the float one.

    Attributes:
        sqnr_db: signal to noise of its outputs, 10 · log10(Σ y² / Σ (y − rounded y)²), over all outputs and images.
        score: what the caller's measure says of it, a share; None without one.
    """

    sqnr_db: float
    score: float | None = None

    def in_words(self) -> str:
        """Return both, such as "31.2 dB, 90.12 %"."""
        return f"{self.sqnr_db:.1f} dB" + ("" if self.score is None else f", {100 * self.score:.2f} %")


class Judge:
    """Compares a simulation, whatever is done to it, with the float network that it was at the beginning."""

    def __init__(self, simulation: Simulation, images: Sequence[Tensor], score: Score | None = None) -> None:
        """Run ``images`` (per batch) without rounding and keep what the network gives."""
        self._simulation, self._images, self._score = simulation, images, score
        with simulation.unrounded():
            self._exact = [self._outputs(x) for x in images]
            self.reference = None if score is None else float(score(simulation.module))

    def quality(self) -> Quality:
        """Return how good the simulation is as it rounds now."""
        score = None if self._score is None else float(self._score(self._simulation.module))
        return Quality(self.sqnr_db(), score)

    def sqnr_db(self) -> float:
        """Return the signal to noise of the outputs alone."""
        power = noise = 0.0
        for x, exact in zip(self._images, self._exact, strict=True):
            for wanted, found in zip(exact, self._outputs(x), strict=True):
                power += float(wanted.double().square().sum())
                noise += float((wanted - found).double().square().sum())
        return ratio_db(power, noise)

    def _outputs(self, x: Tensor) -> list[Tensor]:
        with torch.no_grad():
            leaves = pytree.tree_leaves(self._simulation.module(x))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
