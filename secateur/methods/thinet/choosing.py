"""Which filters of one layer stay, on the model as it is, and what the next layer's inputs are multiplied by."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from secateur.compensation import first_images
from secateur.criteria import score
from secateur.criteria.reconstruction.folding import fold
from secateur.criteria.reconstruction.readers import collect, readers_of
from secateur.criteria.reconstruction.selection import forward_selection, greedy_removal, removal_order
from secateur.criteria.reconstruction.statistics import Statistics
from secateur.criteria.reconstruction.weights import least_squares, relative_error
from secateur.errors import PlanError, TrainingError
from secateur.graph import ChannelGraph, Plan
from secateur.methods.running import MethodRun
from secateur.methods.scoring_data import needs_data
from secateur.methods.step_records import settled
from secateur.methods.thinet.published import LONGEST, PER_CLASS
from secateur.randomness import derive_seed
from secateur.training import Batch, Task
from secateur.training.checkpoint import Entry

Variant = Literal["thinet", "thinet_tpami", "weight_sum", "random", "apoz"]
"""How filters are chosen: by what the next layer gives, or by what the paper compares that with."""

BY_OUTPUT = ("thinet", "thinet_tpami")

_KEPT: TypeAdapter[dict[str, tuple[int, ...]]] = TypeAdapter(dict[str, tuple[int, ...]])

CRITERIA = {"weight_sum": "l1", "random": "random", "apoz": "apoz"}

IMAGES = 512
"""Training images for exact statistics: with the maps of 14 × 14 and 512 filters of VGG-16, 51 million rows."""


@dataclass(frozen=True)
class Rows:
    """Rows are sampled as the authors do: ``per_image`` pairs of a filter and a position of every image."""

    per_image: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """Chooses filters in a run, and keeps what it found in the run's store.

    Attributes:
        run: whose layers are cut.
        variant: how filters are chosen.
        reweight: whether to find weights for the next layers' inputs.
        rows: how rows are sampled; None for statistics over all positions.
        images: training images to look at; None for the usual number.
        seed: of the variant random.
    """

    run: MethodRun
    variant: Variant
    reweight: bool
    rows: Rows | None
    images: int | None
    seed: int

    def decision(self, small: nn.Module, earlier: Plan, number: int, name: str, count: int) -> Plan:
        """Return the plan of all cuts so far and the one that leaves ``count`` filters in the layer ``name``.

        What the choice was made by, and the weights that follow from it, are kept before the plan is, so that a run
        that recalls the plan has them too.
        """
        now = self.run.graph.after(earlier)
        found = self._statistics(now, small, number, name) if self.variant in BY_OUTPUT or self.reweight else {}
        both = joined(found.values()) if found else None
        if both is None or self.variant not in BY_OUTPUT:
            scores = settled(self.run, number, self._scored(now, small, name))
            kept = largest(scores[name], count)
        elif self.variant == "thinet":
            settled(self.run, number, {name: loss_without(both)})
            kept = greedy_removal(both.gram, count)
        else:
            settled(self.run, number, {name: explained_alone(both)})
            kept = forward_selection(both, count)
        for path, one in found.items():
            error = 100 * relative_error(one, kept)
            self.run.tell(f"{name}: what {path} gives is off by {error:.2f} % of its energy")
        kept = self._settled(number, kept, self._fitted(name, found, kept) if self.reweight else {})
        return self.run.graph.plan({**earlier.kept, name: kept})

    def reweigh(self, number: int, name: str, small: nn.Module, plan: Plan) -> None:
        """Multiply what the layers behind ``name`` read by the weights of cut ``number``, in place.

        Raises:
            TrainingError: the store has lost them.
        """
        self.run.trained_between_cuts = True  # from here on the cut model is not the dense one cut
        weights = self._chosen(number).tensors
        for reader in readers_of(self.run.graph.after(plan), small, name):
            fold(small.get_submodule(reader.path), reader.units, weights[reader.path])

    def _fitted(self, name: str, found: Mapping[str, Statistics], kept: Sequence[int]) -> dict[str, Tensor]:
        """Return the weights of each reader."""
        fits = {path: least_squares(one, kept) for path, one in found.items()}
        errors = ", ".join(f"what {path} gives is off by {100 * fit.error:.2f} %" for path, fit in fits.items())
        self.run.tell(f"{name}: with weights {errors}")
        return {path: fit.weights for path, fit in fits.items()}

    def _settled(self, number: int, kept: Sequence[int], weights: Mapping[str, Tensor]) -> tuple[int, ...]:
        """Keep what was chosen, and return it as the store has it: the same in every process of a run."""
        self.run.store.keep(_chosen(number), {"kept": list(kept)}, weights)
        return _KEPT.validate_python(self._chosen(number).values)["kept"]

    def _chosen(self, number: int) -> Entry:
        entry = self.run.store.recall(_chosen(number))
        if entry is None:
            raise TrainingError(
                f"{self.run.store.folder} holds the decision of cut {number} but not {_chosen(number)}, which goes "
                "with it; start over in another folder"
            )
        return entry

    def _statistics(self, graph: ChannelGraph, small: nn.Module, number: int, name: str) -> dict[str, Statistics]:
        return collect(
            small,
            {name: readers_of(graph, small, name)},
            self._images(),
            rows_per_image=None if self.rows is None else self.rows.per_image,
            seed=0 if self.rows is None else derive_seed(self.rows.seed, "rows", number),
        )[name]

    def _scored(self, graph: ChannelGraph, small: nn.Module, name: str) -> Mapping[str, Tensor]:
        criterion = CRITERIA[self.variant]
        batches = self._images() if needs_data(criterion) else None
        return score(graph, small, criterion, batches=batches, only=(name,), seed=self.seed)

    def _images(self) -> Iterator[Batch]:
        usual = IMAGES if self.rows is None else sampled_images(self.run.task)
        return first_images(self.run.task, self.images or usual)


def check_readers(graph: ChannelGraph, model: nn.Module, layers: Iterable[str]) -> None:
    """Refuse a layer whose next layers cannot be looked at.

    Raises:
        PlanError: something reads it that is no plain convolution or linear layer.
    """
    for name in layers:
        try:
            readers_of(graph, model, name)
        except PlanError as error:
            raise PlanError(f"{error}; leave that layer alone (skip, --lock {name!r})") from error


def sampled_images(task: Task) -> int:
    """Return how many images the authors sample rows from: 10 per class, 10,000 where the classes are not known."""
    classes = getattr(getattr(task, "data", None), "num_classes", None)
    return min(LONGEST, PER_CLASS * classes) if isinstance(classes, int) else LONGEST


def joined(found: Iterable[Statistics]) -> Statistics:
    """Return the statistics of several readers as of one with the filters of all, which is what their units give."""
    first, *others = found
    if not others:
        return first
    every = (first, *others)
    return Statistics(
        gram=torch.stack([one.gram for one in every]).sum(0),
        cross=torch.stack([one.cross for one in every]).sum(0),
        energy=sum(one.energy for one in every),
        rows=sum(one.rows for one in every),
        sums=torch.cat([one.sums for one in every]),
        target_sums=torch.cat([one.target_sums for one in every]),
        positions=max(one.positions for one in every),
    )


def loss_without(statistics: Statistics) -> Tensor:
    """Return for each unit what is lost of the output's energy once it and all that go before it are gone.

    Units go in the order of :func:`removal_order`. What is lost may fall where two of them cancel; it is taken as the
    most that was lost up to there, so that those that go first score lowest.

    Returns:
        Shape (units,), float64; 1 where as much is lost as the output has.
    """
    gram, order = statistics.gram, list(removal_order(statistics.gram))
    beside = gram[order][:, order].tril(-1).sum(1)
    lost = (gram.diagonal()[order] + 2 * beside).cumsum(0).cummax(0).values
    scores = torch.empty_like(lost)
    scores[order] = lost.clamp_min(0) / (statistics.energy or 1.0)
    return scores


def explained_alone(statistics: Statistics) -> Tensor:
    """Return what share of the output's energy each unit explains alone, with its best weight: shape (units,), float64.

    It is what forward selection looks at first; later it looks at what is still missing.
    """
    own = statistics.gram.diagonal()
    alone = statistics.cross.square() / torch.where(own > 0, own, 1.0)
    return torch.where(own > 0, alone, 0.0) / (statistics.energy or 1.0)


def largest(scores: Tensor, count: int) -> tuple[int, ...]:
    """Return the ``count`` units of largest score in rising order; of equals, the later ones stay."""
    order = torch.argsort(scores, stable=True)
    return tuple(sorted(order[len(order) - count :].tolist()))


def _chosen(number: int) -> str:
    return f"chosen-{number}"
