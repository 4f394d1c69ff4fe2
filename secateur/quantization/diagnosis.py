"""Where the rounding hurts: noise at every site, and the network with one operator at a time in integers.

A signal-to-noise ratio is 10 · log10(Σ x² / Σ (x − rounded x)²), in dB; each bit is worth about 6.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from secateur.errors import DataError
from secateur.quantization.calibrating import CalibrationBatch
from secateur.quantization.quantizer import Quantizer
from secateur.quantization.simulation import Simulation


@dataclass(frozen=True)
class SiteNoise:
    """What rounding does at one site.

    Attributes:
        site: its name.
        kind: "activation" or "weight".
        own_db: signal to noise where only this site rounds: what its range and bits cost.
        total_db: signal to noise of the tensor behind it where everything rounds, against the model in float; for a
            weight, the same as ``own_db``.
        clipped: share of the values outside the range, 0 to 1.
        note: what its calibrator had to say, or "".
    """

    site: str
    kind: str
    own_db: float
    total_db: float
    clipped: float
    note: str


@dataclass(frozen=True)
class OperatorEffect:
    """A measure of the network with one operator alone in integers, and with all but this one.

    Attributes:
        operator: its name.
        alone: where it alone runs in integers.
        without: where all the others do.
    """

    operator: str
    alone: float
    without: float


def noise(simulation: Simulation, batches: Iterable[CalibrationBatch]) -> tuple[SiteNoise, ...]:
    """Return what rounding does at every site that rounds, activations in the order of the graph, then weights.

    Args:
        simulation: with ranges set.
        batches: inputs, or (inputs, labels); two passes over each, with all tensors of one batch in memory.

    Raises:
        DataError: there are no images.
    """
    sites = {name: site for name, site in simulation.sites.items() if site.mode == "quantize"}
    activations = {name: site for name, site in sites.items() if name in simulation.placement.activations}
    sums = {name: torch.zeros(5, dtype=torch.float64) for name in activations}
    device = next((entry.device for entry in simulation.module.parameters()), torch.device("cpu"))
    images = 0
    for batch in batches:
        inputs = (batch if isinstance(batch, Tensor) else batch[0]).to(device)
        images += len(inputs)
        with torch.no_grad():
            with simulation.unrounded():
                exact = _outputs(simulation.module, activations, inputs)
            rounded = _outputs(simulation.module, activations, inputs)
            for name, site in activations.items():
                for x, y in zip(exact[name], rounded[name], strict=True):
                    sums[name] += _sums(x, y, site).cpu()
    if not images:
        raise DataError("there are no images to measure noise on; give at least one batch")
    found = [
        SiteNoise(
            name,
            "activation",
            own_db=ratio_db(power, own),
            total_db=ratio_db(power, total),
            clipped=float(outside / count),
            note=simulation.notes.get(name, ""),
        )
        for name, (power, own, total, outside, count) in ((name, entry.tolist()) for name, entry in sums.items())
    ]
    for name, parameter in simulation.placement.weights.items():
        if name in sites:
            weight = simulation.module.get_parameter(parameter).detach()
            power, own, _, outside, count = _sums(weight, weight, sites[name]).tolist()
            ratio = ratio_db(power, own)
            found.append(SiteNoise(name, "weight", ratio, ratio, outside / count, simulation.notes.get(name, "")))
    return tuple(found)


def one_at_a_time(
    simulation: Simulation,
    measure: Callable[[nn.Module], float],
    *,
    operators: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[OperatorEffect, ...]:
    """Measure the network with each operator alone in integers, and with all but that one.

    Args:
        simulation: with ranges set; it rounds afterwards as before.
        measure: of a model, such as ``lambda model: task.evaluate(model).top1``.
        operators: names of those to try; by default those with weights.
        progress: told how many of how many operators are done.
    """
    weighted = [name for name, entry in simulation.operators.items() if entry.weight]
    names = weighted if operators is None else list(operators)
    found = []
    for done, name in enumerate(names, 1):
        with simulation.only([name]):
            alone = float(measure(simulation.module))
        with simulation.all_but([name]):
            without = float(measure(simulation.module))
        found.append(OperatorEffect(name, alone, without))
        if progress is not None:
            progress(done, len(names))
    return tuple(found)


def _outputs(module: fx.GraphModule, sites: dict[str, Quantizer], inputs: Tensor) -> dict[str, list[Tensor]]:
    """Run ``inputs`` and return what every call of every site gave."""
    seen: dict[str, list[Tensor]] = {name: [] for name in sites}
    with _watched(sites, seen):
        module(inputs)
    return seen


@contextmanager
def _watched(sites: dict[str, Quantizer], seen: dict[str, list[Tensor]]) -> Iterator[None]:
    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _inputs, output: seen[name].append(output)

    handles = [site.register_forward_hook(keep(name)) for name, site in sites.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _sums(x: Tensor, behind: Tensor, site: Quantizer) -> Tensor:
    """Return Σ x², Σ (x − rounded x)², Σ (x − behind)², how many values are clipped, and how many there are."""
    affine = site.affine
    own = affine.fake(x)
    low, high = affine.range
    if site.spec.axis is not None and low.dim():
        shape = [1] * x.dim()
        shape[site.spec.axis] = -1
        low, high = low.view(shape), high.view(shape)
    half = affine.step / 2 if site.spec.axis is None else affine.step.view(low.shape) / 2
    outside = ((x < low - half) | (x > high + half)).sum()
    parts = (x.square().sum(dtype=torch.float64), (x - own).double().square().sum())
    return torch.stack(
        [*parts, (x - behind).double().square().sum(), outside.double(), outside.new_tensor(x.numel()).double()]
    )


def ratio_db(power: float, noise_power: float) -> float:
    """Return 10 · log10(power / noise_power), ∞ without noise and −∞ without a signal."""
    if noise_power == 0:
        return math.inf
    return 10 * math.log10(power / noise_power) if power > 0 else -math.inf
