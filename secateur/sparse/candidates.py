"""The weights of each layer that may go: groups of them, how important each is, and how many weights each still has."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import torch
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.sparse.granularity import Granularity, Grouping, as_filters, best_of_each, from_filters
from secateur.sparse.masks import Masks
from secateur.sparse.prunable import layer_of, prunable_weights

Importance = Callable[[str, Tensor], Tensor]
"""(name, weight) → importance of each weight, of the same shape, finite and never negative."""


class MaskOptions(TypedDict, total=False):
    """What all ways of making masks have in common.

    Attributes:
        granularity: what goes together, as text or :class:`Granularity`: ``weight`` (default), ``kernel``, ``row``,
            ``column``, ``block(4,1)``, or ``2:4`` and other n:m. Under n:m the pattern comes first; then single weights
            go until the rule is satisfied, so ``by_share(model, 0.5, granularity="2:4")`` is the pattern itself.
        score: a group's importance is the mean of |w| over it (``l1``, default) or its root mean square (``l2``), so
            that groups of different sizes compare; removed weights count as zeros. Or a function of name and weight,
            averaged over the group.
        names: weights to prune; all of :func:`prunable_weights` by default.
        earlier: masks of an earlier round. What they removed stays removed, and weights that they have and ``names``
            lacks keep their masks.
        regrow: what ``earlier`` removed may come back, by the weights' present values.
        at_least: groups of each layer that stay whatever the rule says, the most important ones (1 by default): a layer
            without any passes nothing on.

    Of groups that are equally important, those with the lowest index stay; over several layers, those of the first.
    """

    granularity: str | Granularity
    score: Literal["l1", "l2"] | Importance
    names: Sequence[str]
    earlier: Masks | None
    regrow: bool
    at_least: int


@dataclass(frozen=True, eq=False)
class Candidates:
    """The groups of one layer's weight.

    Attributes:
        name: of the weight.
        layer: that it belongs to.
        weight: a detached copy or view on the CPU, filters × inputs × positions (o, i, k).
        earlier_live: what earlier masks left, shape (o, i, k).
        may_stay: what may stay at all, shape (o, i, k).
        grouping: what goes together.
        scores: importance of each group, shape (groups,).
        counts: weights of each group that may stay, shape (groups,).
        was_live: whether earlier masks left any of each group, shape (groups,).
        shape: of the weight.
    """

    name: str
    layer: nn.Module
    weight: Tensor
    earlier_live: Tensor
    may_stay: Tensor
    grouping: Grouping
    scores: Tensor
    counts: Tensor
    was_live: Tensor
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Weights, removed ones included."""
        return self.weight.numel()

    @property
    def live(self) -> int:
        """Weights that may stay."""
        return int(self.may_stay.sum())

    def mask_of(self, stays: Tensor) -> Tensor:
        """Return the mask, of the weight's shape, under which the chosen groups (groups,) stay."""
        return from_filters(self.grouping.spread(stays) & self.may_stay, self.layer, self.shape)


def candidates_of(model: nn.Module, options: MaskOptions) -> list[Candidates]:
    """Return the groups of every weight that ``options`` name, in the order of the names.

    Raises:
        UsageError: an option is unknown or out of range, or a weight is not finite.
    """
    unknown = set(options) - set(MaskOptions.__annotations__)
    if unknown:
        raise UsageError(
            f"{sorted(unknown)[0]!r} is no option of masks; there are {', '.join(MaskOptions.__annotations__)}"
        )
    granularity = Granularity.parse(options.get("granularity", "weight"))
    score = options.get("score", "l1")
    if not callable(score) and score not in ("l1", "l2"):
        raise UsageError(f"score is {score!r}; choose l1 or l2, or pass a function of name and weight")
    if options.get("at_least", 1) < 0:
        raise UsageError(f"at_least is {options['at_least']}, but must be at least 0")
    earlier, regrow = options.get("earlier"), options.get("regrow", False)
    if earlier is not None:
        earlier.parameters_of(model)
    elif regrow:
        raise UsageError("regrow needs the earlier masks that weights may come back from; pass earlier=…")
    names = tuple(options["names"]) if "names" in options else prunable_weights(model)
    return [_candidates(model, name, granularity, score, earlier, regrow=regrow) for name in names]


def joined(masks: Mapping[str, Tensor], earlier: Masks | None) -> Masks:
    """Return ``masks``, and the earlier ones of weights that these leave out."""
    made = Masks(masks)
    if earlier is None:
        return made
    rest = Masks({name: earlier[name] for name in earlier if name not in masks})
    return rest & made


def _candidates(
    model: nn.Module,
    name: str,
    granularity: Granularity,
    score: Literal["l1", "l2"] | Importance,
    earlier: Masks | None,
    *,
    regrow: bool,
) -> Candidates:
    layer = layer_of(model, name)
    parameter = layer.get_parameter("weight").detach()
    shape = tuple(parameter.shape)
    values = parameter.cpu()
    values = values if values.dtype in (torch.float32, torch.float64) else values.float()
    if not bool(torch.isfinite(values).all()):
        raise UsageError(f"{name} holds numbers that are not finite, which have no importance; train it anew")
    weight = as_filters(values, layer)
    if earlier is not None and name in earlier:
        live = as_filters(earlier[name], layer)
    else:
        live = torch.ones(weight.shape, dtype=torch.bool)
    may_stay = torch.ones_like(live) if regrow else live
    single = granularity.kind in ("weight", "n:m")
    if callable(score):
        given = score(name, parameter).detach().cpu()
        if tuple(given.shape) != shape or not bool(((given >= 0) & given.isfinite()).all()):
            raise UsageError(
                f"the score of {name} has shape {tuple(given.shape)} and should have {shape}, and be finite and never "
                "negative"
            )
        importance = as_filters(given.double(), layer)
    else:
        importance = weight.square() if score == "l2" and not single else weight.abs()
    if granularity.kind == "n:m":
        may_stay = best_of_each(importance, may_stay, granularity.n, granularity.m)
    importance = importance.masked_fill(~may_stay, 0.0)
    conv_groups = int(getattr(layer, "groups", 1))
    grouping = Grouping(granularity, (weight.shape[0], weight.shape[1], weight.shape[2]), conv_groups)
    if single:  # counts of 0 and 1 stay booleans, which take an eighth of the memory
        scores, counts, was_live = importance.flatten(), may_stay.flatten(), live.flatten()
    else:
        scores = grouping.sums(importance) / grouping.sums(torch.ones_like(weight))
        scores = scores.sqrt() if score == "l2" else scores
        counts, was_live = grouping.sums(may_stay).round().long(), grouping.sums(live) > 0
    return Candidates(name, layer, weight, live, may_stay, grouping, scores, counts, was_live, shape)
