"""``compare``: results of the file beside those of the simulation, on the same batches."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.errors import DataError, ExportError
from secateur.export.onnx_runtime import OnnxModel
from secateur.graph.slots import mode_of
from secateur.quantization.simulation import Simulation
from secateur.randomness import generator_for

RANDOM_BATCHES = (1, 2, 5)
"""Batch sizes of random inputs, where no images are given."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the file is from the simulation.

    Attributes:
        images: that both were run on; 0 where they were random inputs.
        samples: the same, random ones counted too.
        same_predictions: share of predictions (largest entry along dimension 1 of the first output) that are the same.
        sqnr_db: energy of the simulation's outputs over that of the differences, in dB; infinite where there is none.
        rounding_sqnr_db: the same of the simulation against the model without rounding, on the first batches: what
            INT8 itself costs.
        max_difference: largest difference of an output, in its own unit (logits).
    """

    images: int
    samples: int
    same_predictions: float
    sqnr_db: float
    rounding_sqnr_db: float
    max_difference: float


def compare(
    simulation: Simulation,
    runnable: OnnxModel,
    images: Iterable[Tensor | tuple[Tensor, ...] | list[Tensor]] | None,
) -> Parity:
    """Run both on ``images``, or on random inputs, and compare all outputs.

    Raises:
        ArtifactError: ONNX Runtime cannot run the file.
        DataError: there are no images, or results are not finite.
        ExportError: the outputs have other shapes.
    """
    found = _Sums()
    first, rest = (RANDOM_BATCHES[0], 3) if images is None else (0, 1)
    given = list(_random(simulation)) if images is None else images
    with mode_of(simulation.module, training=False), torch.no_grad():
        for number, batch in enumerate(given):
            tensors = batch if images is None else [batch if isinstance(batch, Tensor) else batch[0]]
            device = next((entry.device for entry in simulation.module.parameters()), torch.device("cpu"))
            moved = [tensor.to(device) for tensor in tensors]
            wanted = _outputs(simulation, moved)
            plain = None
            if number < rest:
                with simulation.unrounded():
                    plain = _outputs(simulation, moved)
            found.add(wanted, list(runnable.run(*tensors)), plain)
    if found.samples == 0:
        raise DataError("there are no images to compare simulation and file on; give at least one batch")
    return found.parity(known=first == 0)


class _Sums:
    def __init__(self) -> None:
        self.signal = self.noise = self.plain = self.rounding = 0.0
        self.largest, self.samples, self.predictions, self.same = 0.0, 0, 0, 0

    def add(self, wanted: list[Tensor], found: list[Tensor], plain: list[Tensor] | None) -> None:
        shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (wanted, found)]
        if shapes[0] != shapes[1]:
            raise ExportError(f"the INT8 file returns shapes {shapes[1]}, but the simulation {shapes[0]}")
        for place, (first, second) in enumerate(zip(wanted, found, strict=True)):
            if not (bool(first.isfinite().all()) and bool(second.isfinite().all())):
                raise DataError("outputs are NaN or infinite; look at the inputs, or at the model's weights")
            difference = first.double() - second.double()
            self.signal += float(first.double().square().sum())
            self.noise += float(difference.square().sum())
            self.largest = max(self.largest, float(difference.abs().max()) if difference.numel() else 0.0)
            if plain is not None:
                self.plain += float(plain[place].double().square().sum())
                self.rounding += float((plain[place].double() - first.double()).square().sum())
        if wanted and wanted[0].dim() >= 2:
            same = wanted[0].argmax(1) == found[0].argmax(1)
            self.same, self.predictions = self.same + int(same.sum()), self.predictions + same.numel()
        self.samples += wanted[0].shape[0] if wanted and wanted[0].dim() else 1

    def parity(self, *, known: bool) -> Parity:
        return Parity(
            images=self.samples if known else 0,
            samples=self.samples,
            same_predictions=self.same / self.predictions if self.predictions else math.nan,
            sqnr_db=_decibels(self.signal, self.noise),
            rounding_sqnr_db=_decibels(self.plain, self.rounding),
            max_difference=self.largest,
        )


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _outputs(simulation: Simulation, tensors: list[Tensor]) -> list[Tensor]:
    layout = getattr(simulation.module.graph._codegen, "pytree_info", None)
    arguments: tuple[object, ...] = tuple(tensors)
    keywords: dict[str, object] = {}
    if layout is not None and layout.in_spec is not None:
        arguments, keywords = pytree.tree_unflatten(tensors, layout.in_spec)
    result = simulation.module(*arguments, **keywords)
    return [leaf.float().cpu() for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def _random(simulation: Simulation) -> Iterator[list[Tensor]]:
    """Yield inputs of random values, normal, as wide as the range of the input's site."""
    placeholders = [node for node in simulation.module.graph.nodes if node.op == "placeholder"]
    sites = simulation.sites
    for number, size in enumerate(RANDOM_BATCHES):
        tensors = []
        for node in placeholders:
            shape = [size if entry is None else entry for entry in node.meta["shape"]]
            generator = generator_for(0, "int8 parity", number, str(node.target), *shape)
            values = torch.randn(shape, generator=generator)
            site = sites.get(f"inputs.{node.target}")
            if site is not None:
                low, high = (float(end) for end in site.affine.range)
                values = values * (high - low) / 6 + (high + low) / 2
            tensors.append(values.to(node.meta["dtype"]))
        yield tensors
