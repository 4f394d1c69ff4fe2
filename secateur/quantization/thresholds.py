"""What was counted at sites beside the range that each calibrator would take: all that a figure of them needs."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from secateur.errors import QuantizationError
from secateur.names import unknown_name
from secateur.quantization.calibrators import CALIBRATORS, Calibrator, calibrator_named
from secateur.quantization.diagnosis import OperatorEffect, SiteNoise
from secateur.quantization.histogram import RangeHistogram
from secateur.quantization.simulation import Simulation

Thresholds = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class SiteHistogram:
    """One site: its values, and between which of them integers would lie.

    Attributes:
        site: its name.
        histogram: what was counted.
        thresholds: calibrator → lowest and highest value that is not clipped.
        chosen: the same of the range that the simulation rounds with.
        notes: calibrator → why it fell back on the largest value.
    """

    site: str
    histogram: RangeHistogram
    thresholds: Thresholds
    chosen: tuple[float, float]
    notes: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "site": self.site,
            "histogram": self.histogram.to_json(),
            "thresholds": {name: list(ends) for name, ends in self.thresholds.items()},
            "chosen": list(self.chosen),
            "notes": dict(self.notes),
        }


@dataclass(frozen=True)
class Diagnosis:
    """Where rounding hurts a network.

    Attributes:
        noise: at every site, from :func:`noise`.
        effects: of one operator at a time, from :func:`one_at_a_time`.
        reference: the measure of ``effects`` of the network in float; None without effects.
        integer: the same with everything in integers.
        histograms: of chosen sites, from :func:`site_histograms`.
    """

    noise: tuple[SiteNoise, ...] = ()
    effects: tuple[OperatorEffect, ...] = ()
    reference: float | None = None
    integer: float | None = None
    histograms: tuple[SiteHistogram, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain data; the signal-to-noise ratio of what rounding does not change is null."""
        return {
            "noise": [{name: _finite(value) for name, value in vars(entry).items()} for entry in self.noise],
            "effects": [dict(vars(entry)) for entry in self.effects],
            "reference": self.reference,
            "integer": self.integer,
            "histograms": [entry.to_json() for entry in self.histograms],
        }


def site_histograms(
    simulation: Simulation,
    sites: Iterable[str] | None = None,
    *,
    calibrators: Iterable[str] | None = None,
    most: int = 6,
) -> tuple[SiteHistogram, ...]:
    """Return histograms of activations and what each calibrator makes of them.

    Args:
        simulation: calibrated, with ranges set.
        sites: names of activation sites; by default those where the calibrators differ most.
        calibrators: names; by default all of :data:`CALIBRATORS`.
        most: how many sites, where they are chosen here.

    Raises:
        QuantizationError: there is no such site, or no image was seen.
        UsageError: there is no such calibrator.
    """
    if not simulation.images:
        raise QuantizationError("the simulation saw no images, so that there are no histograms; calibrate it first")
    names = tuple(CALIBRATORS if calibrators is None else calibrators)
    known = simulation.placement.activations
    wanted = known if sites is None else tuple(sites)
    for site in wanted:
        if site not in known:
            raise QuantizationError(unknown_name("site of an activation", site, known))
    if sites is None:
        # Entropy and squared errors cost time; which sites are worth looking at, these say as well.
        quick = {name: calibrator_named(name) for name in ("max", "percentile-99.9")}
        wanted = tuple(sorted(known, key=lambda site: -_disagreement(simulation, site, quick))[:most])
        wanted = tuple(site for site in known if site in wanted)
    chosen = {name: calibrator_named(name) for name in names}
    return tuple(_at(simulation, site, chosen) for site in wanted)


def _at(simulation: Simulation, name: str, calibrators: Mapping[str, Calibrator]) -> SiteHistogram:
    site = simulation.sites[name]
    found = {calibrator: choose(site.histogram, site.spec) for calibrator, choose in calibrators.items()}
    low, high = site.affine.range
    return SiteHistogram(
        site=name,
        histogram=site.histogram,
        thresholds={calibrator: (float(one.range[0]), float(one.range[1])) for calibrator, one in found.items()},
        chosen=(float(low), float(high)),
        notes={calibrator: one.note for calibrator, one in found.items() if one.note},
    )


def _disagreement(simulation: Simulation, name: str, calibrators: Mapping[str, Calibrator]) -> float:
    """Return how many times the narrowest of the ranges goes into the widest."""
    site = simulation.sites[name]
    widths = [
        ends[1] - ends[0] for ends in (choose(site.histogram, site.spec).range for choose in calibrators.values())
    ]
    return max(widths) / min(widths) if min(widths) > 0 else 0.0


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
