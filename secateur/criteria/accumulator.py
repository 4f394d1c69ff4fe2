"""Scores gathered while a model trains, or while it is run to be scored."""

from collections.abc import Collection, Mapping
from typing import Literal, Self, get_args

import torch
from torch import Tensor, distributed, nn

from secateur.criteria.combining import combined
from secateur.criteria.criterion import Combine, Criterion, Scores, combination, found_in
from secateur.criteria.observation import Observation
from secateur.criteria.sites import Model, Site, sites_of
from secateur.criteria.table import CRITERIA
from secateur.criteria.weights import values_from_weights
from secateur.errors import UsageError
from secateur.graph import ChannelGraph, Group
from secateur.names import unknown_name
from secateur.randomness import generator_for
from secateur.training import Batch, Processes
from secateur.wording import counted

Missing = Literal["refuse", "leave"]
"""What happens to groups that a criterion cannot see: they are refused, or left without scores."""

NAMED = 5  # groups in a sentence


class Accumulator:
    """A training hook that scores a model by what its ordinary steps show.

    Enter it around the training, and pass it as a hook::

        with Accumulator(graph, model, "gate_taylor") as taylor:
            task.train(model, epochs=1, hooks=[taylor])
        scores = taylor.scores()

    Gradients are read after each backward pass, as the optimiser is about to see them, so penalties added to the loss
    count too: score with the raw loss. Activations are seen by hooks while it is entered; runs without autograd are
    taken for evaluations and do not count. Steps whose gradients overflowed in half precision do not count. Sums are
    in double precision, the same on every process, and part of each checkpoint. A criterion of weights is computed
    when the scores are asked for.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        model: nn.Module,
        criterion: str | Criterion,
        *,
        combine: Combine | None = None,
        seed: int = 0,
        scored_by: Mapping[str, str] | None = None,
        only: Collection[str] | None = None,
        missing: Missing = "refuse",
    ) -> None:
        """Prepare to score ``model``; see :func:`secateur.score` for the arguments and for what is raised."""
        self._criterion = found_in(CRITERIA, criterion)
        self._combine = combination(self._criterion, combine)
        self._seed = seed
        self._groups = groups_to_score(graph, only)
        self._model = Model.of(graph, model)
        self._root = model
        if missing not in get_args(Missing):
            raise UsageError(unknown_name("setting of missing", missing, get_args(Missing)))
        self._missing = missing
        self._leaders = dict(scored_by or {})
        if self._leaders:
            _check_leaders(graph, self._leaders, self._criterion)
        self.observation = Observation(self._criterion, self._model, model, self._sites())

    def __enter__(self) -> Self:
        """Put up the hooks that are needed."""
        self.observation.watch()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the hooks away."""
        self.observation.unwatch()

    def loss(self, model: nn.Module, batch: Batch, loss: Tensor) -> Tensor:
        """Return ``loss`` unchanged, and learn from its gradient what mixed precision multiplies it by."""
        del model, batch
        if self._criterion.needs_loss and loss.requires_grad:
            loss.register_hook(self.observation.scaled_by)  # type: ignore[no-untyped-call]
        return loss

    def after_backward(self, model: nn.Module) -> None:
        """Add what this mini-batch has shown.

        Raises:
            UsageError: a parameter whose gradient is needed is frozen, or another model was trained.
        """
        del model
        self.observation.end_batch(present_processes())

    def state_dict(self) -> dict[str, Tensor]:
        """Return what was added up so far."""
        return self.observation.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take back what :meth:`state_dict` returned.

        Raises:
            TrainingError: it was saved for another model or criterion.
        """
        self.observation.load_state_dict(state)

    def scores(self) -> Scores:
        """Return {group: scores, shape (units,), float64, on the CPU}; higher means keep.

        Raises:
            UsageError: no mini-batch was seen, modules that read a group never ran, or a score is not a number.
        """
        if self._criterion.slices is None:
            return {
                group.name: torch.rand(
                    group.size, generator=generator_for(self._seed, self._criterion.name, group.name)
                ).double()
                for group in self._groups
            }
        sites = self.observation.sites
        if not self._criterion.needs_data:
            values = values_from_weights(self._criterion, self._model, sites)
            return combined(self._criterion, sites, values, self._combine)
        seen = [
            (site, value) for site, value in zip(sites, self.observation.values(), strict=True) if value is not None
        ]
        self._refuse_missing({site.owner for site, _ in seen}, _UNSEEN[self._criterion.needs])
        return combined(self._criterion, [site for site, _ in seen], [value for _, value in seen], self._combine)

    def _sites(self) -> list[Site]:
        if self._criterion.slices is None:
            return []
        found = [
            site
            for group in self._groups
            for site in sites_of(self._criterion, self._model, group.name, group.members)
            if self._leaders.get(group.name, site.parameters[0][0]) == site.parameters[0][0]
        ]
        self._refuse_missing({site.owner for site in found}, _REASONS[_kind(self._criterion)])
        return found

    def _refuse_missing(self, seen: Collection[str], reason: str) -> None:
        names = [group.name for group in self._groups if group.name not in seen]
        if not names or (self._missing == "leave" and seen):
            return
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        ways = ["take another criterion (--criterion)"]
        if seen:  # some groups can be scored, so leaving the others whole is a way
            left = "leave these whole (missing='leave', or --setting missing=leave of the method global)"
            ways = ["name the others in only=…", left]
        if _kind(self._criterion) == "scales":
            ways.append("put gates there (secateur.gates.decorate, or --method gate_decorator)")
        raise UsageError(
            f"criterion {self._criterion.name!r} cannot score {'' if seen else 'any of '}"
            f"{counted(len(names), 'group')}, because {reason}: {', '.join(names[:NAMED])}{more}; {', or '.join(ways)}"
        )


_REASONS = {
    "scales": "no norm with a scale and no gate stands behind them",
    "readings": "no convolution or linear layer reads them",
    "producers": "no parameter carries them",
}

_UNSEEN = {
    "gradients": "no gradient has reached them",
    "activations": "none of the modules that read them has run",
    "activation_gradients": "none of the modules that read them has run, or no gradient has reached it",
}


def _kind(criterion: Criterion) -> str:
    if criterion.needs in ("activations", "activation_gradients"):
        return "readings"
    return "scales" if criterion.looks_at == "scales" else "producers"


def groups_to_score(graph: ChannelGraph, only: Collection[str] | None) -> list[Group]:
    """Return all groups that are not locked, or those that ``only`` names, in the graph's order.

    Raises:
        PlanError: a name is unknown; the nearest is suggested.
        UsageError: a named group is locked, or ``only`` is a single text.
    """
    if only is None:
        return [group for group in graph.groups if group.locked is None]
    if isinstance(only, str):
        raise UsageError(f"only is the text {only!r}; give a list of names, such as [{only!r}]")
    for name in only:
        locked = graph.group(name).locked
        if locked is not None:
            raise UsageError(f"the group {name!r} is not scored, because it cannot be cut: {locked}")
    return [group for group in graph.groups if group.name in set(only)]


def _check_leaders(graph: ChannelGraph, leaders: Mapping[str, str], criterion: Criterion) -> None:
    if criterion.needs_data or criterion.looks_at != "producers":
        raise UsageError(
            f"scored_by names weights that produce a group, which criterion {criterion.name!r} does not look at; leave "
            "it out, or take a criterion of weights such as 'l1'"
        )
    for name, parameter in leaders.items():
        producers = [member.parameter for member in graph.group(name).members if member.role == "produces"]
        if parameter not in producers:
            raise UsageError(unknown_name(f"weight that produces group {name!r}", parameter, producers))


def present_processes() -> Processes:
    """Return this process among those that are connected already; connects none."""
    if distributed.is_available() and distributed.is_initialized():
        return Processes(distributed.get_rank(), distributed.get_world_size())
    return Processes()
