"""Partial quantization: the layers that bear rounding least stay in float, as few as an accuracy needs.

Source: Wu et al. 2020, arXiv:2004.09602, §5.2: layers are ranked by the accuracy with each of them alone in integers,
and left in float from the most sensitive one on until the accuracy is met. Here the number is found by halving, and
then each of them is tried in integers again, the least sensitive first.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from secateur.errors import QuantizationError
from secateur.quantization.calibrating import CalibrationBatch
from secateur.quantization.repairs.layers import collected, layers_of, require_rounding, tensor_of, write
from secateur.quantization.repairs.quality import Judge, Progress, Score
from secateur.quantization.simulation import Simulation
from secateur.wording import counted

_SLACK = 1e-9  # points; a difference of two shares is not exact


@dataclass(frozen=True)
class LayerSensitivity:
    """What one layer costs.

    Attributes:
        operator: its name.
        score: of the network with this layer alone in integers, a share.
        sqnr_db: signal to noise of the network's outputs then.
    """

    operator: str
    score: float
    sqnr_db: float


@dataclass(frozen=True)
class PartialQuantization:
    """Which layers stay in float.

    Attributes:
        layers: those in float, the most sensitive first; none if everything in integers is good enough.
        others: operators without weights that go with them, because nothing in integers feeds them any more.
        reference: score of the float network, a share.
        integer: score with everything in integers.
        reached: score with ``layers`` in float.
        max_drop: what was allowed, in points.
        ranking: all layers, the most sensitive first; empty if none had to be ranked.
        tried: how many networks were measured.
    """

    layers: tuple[str, ...]
    others: tuple[str, ...]
    reference: float
    integer: float
    reached: float
    max_drop: float
    ranking: tuple[LayerSensitivity, ...]
    tried: int

    def in_words(self) -> str:
        """Return one line."""
        lost = max(0.0, 100 * (self.reference - self.reached))
        drop = f"{lost:.2f} points of {self.max_drop:g} allowed are lost"
        if not self.layers:
            return f"everything stays in integers: {drop}"
        return (
            f"{counted(len(self.layers), 'layer stays', 'layers stay')} in float ({', '.join(self.layers)}): {drop}, "
            f"{100 * (self.reference - self.integer):.2f} with everything in integers"
        )


def leave_in_float(
    simulation: Simulation,
    score: Score,
    batches: Iterable[CalibrationBatch],
    *,
    max_drop: float,
    reference: float | None = None,
    images: int | None = None,
    originals: Mapping[str, Tensor] | None = None,
    progress: Progress | None = None,
) -> PartialQuantization:
    """Leave the fewest layers found in float that keep the score within ``max_drop`` of the float network's, in place.

    Args:
        simulation: with ranges set; what was left in float before is not looked at.
        score: of a model, a share, better if higher; on samples that are not the test split.
        batches: images whose outputs decide between layers of the same score.
        max_drop: in percentage points of the score.
        reference: score of the float network; by default that of the simulation without rounding.
        images: take so many of ``batches`` at most.
        originals: name → values of parameters that earlier repairs changed: layers in float get these back.
        progress: told how many networks are measured.

    Returns:
        Which layers are in float now; a file written of the simulation has them so.

    Raises:
        DataError: there are no images.
        QuantizationError: ``max_drop`` is negative, the simulation rounds nowhere, or no layer could stay in integers;
            the simulation is then as before.
    """
    require_rounding(simulation)
    if not max_drop >= 0:
        raise QuantizationError(f"max_drop is {max_drop:g} points; give 0 or more")
    search = _Search(simulation, score, max_drop, originals or {}, progress)
    judge = Judge(simulation, collected(simulation.module, batches, images), score if reference is None else None)
    search.reference = judge.reference if reference is None else reference  # type: ignore[assignment]
    integer = search.measured(())
    ranking: tuple[LayerSensitivity, ...] = ()
    chosen: tuple[str, ...] = ()
    if not search.meets(integer):
        ranking = search.ranked(judge)
        chosen = search.fewest(tuple(entry.operator for entry in ranking), integer)
    others = with_followers(simulation, chosen)[len(chosen) :]
    write(simulation, search.values_of(chosen))
    simulation.float_operators((*chosen, *others))
    simulation.round_()
    return PartialQuantization(
        layers=chosen,
        others=others,
        reference=search.reference,
        integer=integer,
        reached=search.measured(chosen),
        max_drop=max_drop,
        ranking=ranking,
        tried=search.tried,
    )


def with_followers(simulation: Simulation, layers: Sequence[str]) -> tuple[str, ...]:
    """Return ``layers`` and the operators without weights that nothing in integers feeds once these are in float.

    Rounding what such an operator reads would cost accuracy and bring no speed.
    """
    found = dict.fromkeys(layers)
    writer = {entry.writes: name for name, entry in simulation.operators.items() if entry.writes}
    for name, entry in simulation.operators.items():  # in the order of the graph, so once is enough
        feeding = [writer.get(site) for site in entry.reads]
        if not entry.weight and all(entry.reads) and layers and all(one is None or one in found for one in feeding):
            found[name] = None
    return tuple(found)


class _Search:
    def __init__(
        self,
        simulation: Simulation,
        score: Score,
        max_drop: float,
        originals: Mapping[str, Tensor],
        progress: Progress | None,
    ) -> None:
        self.simulation, self.score, self.max_drop, self.originals = simulation, score, max_drop, originals
        self.progress = progress
        self.layers = layers_of(simulation)
        self.reference = 0.0
        self.tried = 0
        self.known: dict[frozenset[str], float] = {}

    def meets(self, score: float) -> bool:
        return 100 * (self.reference - score) <= self.max_drop + _SLACK

    def measured(self, names: Iterable[str]) -> float:
        """Return the score with these layers in float."""
        key = frozenset(names)
        if key not in self.known:
            without = with_followers(self.simulation, tuple(key))
            with self._exchanged(key), self.simulation.all_but(without):
                self.known[key] = float(self.score(self.simulation.module))
            self.tried += 1
        return self.known[key]

    def ranked(self, judge: Judge) -> tuple[LayerSensitivity, ...]:
        """Return the layers, the most sensitive first: by score with each alone in integers, then by noise."""
        found = []
        for done, name in enumerate(self.layers, 1):
            with self._exchanged(set(self.layers) - {name}), self.simulation.only([name]):
                found.append(LayerSensitivity(name, float(self.score(self.simulation.module)), judge.sqnr_db()))
            self.tried += 1
            self._tell("sensitivity of layers", done, len(self.layers))
        return tuple(sorted(found, key=lambda entry: (entry.score, entry.sqnr_db)))

    def fewest(self, ranking: tuple[str, ...], integer: float) -> tuple[str, ...]:
        """Return the layers to leave in float."""
        if not ranking:
            raise QuantizationError(
                f"integers lose {100 * (self.reference - integer):.2f} points of {100 * self.reference:.2f} %, more "
                f"than {self.max_drop:g}, and no operator in integers has weights, so that no layer can be left in "
                "float; allow more points, or choose another calibrator"
            )
        most = len(ranking) - 1  # one layer at least stays in integers
        if most < 1 or not self.meets(self.measured(ranking[:most])):
            best = math.ceil(1e4 * (self.reference - max((*self.known.values(), integer)))) / 100
            raise QuantizationError(
                f"no mixture keeps within {self.max_drop:g} points of {100 * self.reference:.2f} %: all layers in "
                f"integers lose {100 * (self.reference - integer):.2f} points, and all but {ranking[-1]!r} in float "
                f"still {100 * (self.reference - self.measured(ranking[:most])):.2f}; allow {best:.2f} points, choose "
                "another calibrator or repair, or train with rounding"
            )
        low, high = 0, most  # `low` layers are too few, `high` are enough
        while high - low > 1:
            middle = (low + high) // 2
            if self.meets(self.measured(ranking[:middle])):
                high = middle
            else:
                low = middle
            self._tell("layers in float", most - (high - low), most)
        chosen = list(ranking[:high])
        for name in reversed(ranking[:high]):
            fewer = [entry for entry in chosen if entry != name]
            if fewer and self.meets(self.measured(fewer)):
                chosen = fewer
        return tuple(chosen)

    def values_of(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the float values of the parameters of layers, where a repair changed them."""
        read = [part for name in names for part in (self.layers[name].weight, self.layers[name].bias)]
        return {part: self.originals[part] for part in read if part in self.originals}

    @contextlib.contextmanager
    def _exchanged(self, names: Iterable[str]) -> Iterator[None]:
        values = self.values_of(names)
        before = {part: tensor_of(self.simulation, part).detach().clone() for part in values}
        write(self.simulation, values)
        try:
            yield
        finally:
            write(self.simulation, before)

    def _tell(self, what: str, done: int, of: int) -> None:
        if self.progress is not None:
            self.progress(what, done, of)
