"""From weights to masks: by a threshold, by a share per layer, by a share of all, or by a budget of non-zeros."""

from collections.abc import Mapping
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from secateur.cost.budget import Amount, Budget
from secateur.errors import BudgetError, UsageError
from secateur.sparse.candidates import Candidates, MaskOptions, candidates_of, joined
from secateur.sparse.masks import Masks
from secateur.sparse.prunable import prunable_weights, settings_by_name
from secateur.sparse.selection import keep_above, remove_lowest

StdOf = Literal["survivors", "dense", "all"]


def weight_stds(model: nn.Module, names: tuple[str, ...] | None = None) -> dict[str, float]:
    """Return the standard deviation of each weight as it is now, to be kept for ``by_threshold(..., std_of=...)``.

    It is that of the population (divided by the number of weights, not by one less), worked in float64.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    chosen = prunable_weights(model) if names is None else names
    return {name: _std(parameters[name].detach()) for name in chosen}


def by_threshold(
    model: nn.Module,
    quality: float | Mapping[str, float],
    *,
    of: StdOf = "survivors",
    std_of: Mapping[str, float] | None = None,
    band: float = 0.0,
    **options: Unpack[MaskOptions],
) -> Masks:
    """Return masks under which stays what lies above q · std of its layer.

    Source: Han et al. 2015, arXiv:1506.02626, §3; the authors do not publish their q.

    Args:
        model: its weights are read, not changed.
        quality: q ≥ 0 for every layer, or by name or pattern of weights or modules; others stay whole.
        of: whose standard deviation: of the weights that ``earlier`` masks left (all, where there are none); of the
            ``dense`` layer before it was first pruned; or of ``all`` weights, removed ones counting as zeros, which
            shrinks the threshold from round to round.
        std_of: the dense standard deviations by name, from :func:`weight_stds`; needed for ``of="dense"`` where there
            are earlier masks.
        band: with ``regrow``, half of the dead zone in shares of the threshold: a weight goes at or below
            (1 − band) · q · std and comes back above (1 + band) · q · std (Guo et al. 2016, arXiv:1608.04493, §3.1).
        options: see :class:`MaskOptions`.

    Raises:
        UsageError: an argument is out of range or names nothing, or weights are not finite.
    """
    if band and not options.get("regrow", False):
        raise UsageError(f"band is {band}, but without regrow no weight comes back; set regrow=True or band=0")
    if not 0 <= band < 1:
        raise UsageError(f"band is {band}, but must be at least 0 and below 1")
    earlier = options.get("earlier")
    masks: dict[str, Tensor] = {}
    layers = candidates_of(model, options)
    chosen = settings_by_name(quality, [layer.name for layer in layers], "layer in quality", model=model)
    for layer in layers:
        q = chosen.get(layer.name)
        if q is None:
            masks[layer.name] = layer.mask_of(layer.counts > 0)
            continue
        if not 0 <= q < float("inf"):
            raise UsageError(f"the quality of {layer.name} is {q}, but must be a finite number of at least 0")
        std = _std_for(layer, of, std_of, pruned=earlier is not None and layer.name in earlier)
        low, high = (1 - band) * q * std, (1 + band) * q * std
        stays = torch.where(layer.was_live, layer.scores > low, layer.scores > high)
        masks[layer.name] = layer.mask_of(keep_above(stays, layer, at_least=options.get("at_least", 1)))
    return joined(masks, earlier)


def by_share(model: nn.Module, shares: float | Mapping[str, float], **options: Unpack[MaskOptions]) -> Masks:
    """Return masks that remove the least important share of each layer.

    What earlier masks removed counts: 0.8 after a round of 0.5 removes another 0.3 of the layer. Where groups of
    weights go, the last one may take a little more than the share.

    Args:
        model: its weights are read, not changed.
        shares: to remove, in [0, 1), for every layer, or by name or pattern; layers that none matches stay whole.
        options: see :class:`MaskOptions`.

    Raises:
        UsageError: an argument is out of range or names nothing, or weights are not finite.
    """
    layers = candidates_of(model, options)
    chosen = settings_by_name(shares, [layer.name for layer in layers], "layer in shares", model=model)
    masks: dict[str, Tensor] = {}
    for layer in layers:
        share = _checked_share(chosen.get(layer.name, 0.0), f"the share of {layer.name}")
        need = round(share * layer.size) - (layer.size - layer.live)
        kept, _ = remove_lowest([layer], need, at_least=options.get("at_least", 1))
        masks[layer.name] = layer.mask_of(kept[0])
    return joined(masks, options.get("earlier"))


def by_global_share(model: nn.Module, share: float, **options: Unpack[MaskOptions]) -> Masks:
    """Return masks that remove the least important share of all prunable weights together, each layer as it falls.

    Args:
        model: its weights are read, not changed.
        share: to remove, in [0, 1); what earlier masks removed counts.
        options: see :class:`MaskOptions`.

    Raises:
        UsageError: an argument is out of range or names nothing, or weights are not finite.
        BudgetError: the share cannot be reached, because every layer keeps some.
    """
    _checked_share(share, "share")
    layers = candidates_of(model, options)
    size = sum(layer.size for layer in layers)
    need = round(share * size) - sum(layer.size - layer.live for layer in layers)
    return _removed(layers, need, options, f"a share of {share:g} of {size:,} weights")


def by_nonzeros(model: nn.Module, budget: Amount | Budget, **options: Unpack[MaskOptions]) -> Masks:
    """Return masks under which the model stores at most so many parameters, the least important weights going first.

    Counted as :class:`secateur.Budget` counts: all parameters, of which those that are never pruned (biases, norms,
    embeddings, skipped layers) are stored whole.

    Args:
        model: its weights are read, not changed.
        budget: an int is a number of parameters, a float in (0, 1] a share of the model's; or a budget in ``nonzeros``.
        options: see :class:`MaskOptions`.

    Raises:
        UsageError: an argument names nothing, or weights are not finite.
        BudgetError: the budget is malformed, is not in ``nonzeros`` alone, or cannot be met.
    """
    given = budget if isinstance(budget, Budget) else Budget(nonzeros=budget)
    if given.nonzeros is None or len(given.given()) > 1:
        raise BudgetError(f"masks can be made for a budget in nonzeros alone, but it is {given.describe()}")
    allowed = given.nonzeros if isinstance(given.nonzeros, int) else int(given.nonzeros * nonzeros(model))
    layers = candidates_of(model, options)
    earlier = options.get("earlier")
    left = nonzeros(model, joined({layer.name: layer.mask_of(layer.counts > 0) for layer in layers}, earlier))
    return _removed(layers, left - allowed, options, f"{allowed:,} non-zeros")


def nonzeros(model: nn.Module, masks: Masks | None = None) -> int:
    """Return how many parameters are stored: what the masks keep of theirs, and all others whole, shared ones once.

    Raises:
        UsageError: the masks do not fit ``model``.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    if masks is None:
        return total
    masks.parameters_of(model)
    return total - masks.size() + masks.kept()


def _removed(layers: list[Candidates], need: int, options: MaskOptions, what: str) -> Masks:
    kept, missing = remove_lowest(layers, need, at_least=options.get("at_least", 1))
    if missing > 0:
        raise BudgetError(
            f"cannot reach {what}: {missing:,} weights too many stay, because every layer keeps at least "
            f"{options.get('at_least', 1)} of its groups and only prunable weights go; allow more, or prune more layers"
        )
    masks = {layer.name: layer.mask_of(chosen) for layer, chosen in zip(layers, kept, strict=True)}
    return joined(masks, options.get("earlier"))


def _std_for(layer: Candidates, of: StdOf, std_of: Mapping[str, float] | None, *, pruned: bool) -> float:
    if of == "survivors":
        return _std(layer.weight[layer.earlier_live])
    if of == "all":
        return _std(layer.weight * layer.earlier_live)
    if of != "dense":
        raise UsageError(f"of is {of!r}; choose survivors, dense or all")
    if std_of is not None and layer.name in std_of:
        return float(std_of[layer.name])
    if pruned or std_of is not None:
        raise UsageError(
            f"the standard deviation of the dense {layer.name} is not known; keep weight_stds(model) from before the "
            "first pruning and pass it as std_of"
        )
    return _std(layer.weight)


def _std(weights: Tensor) -> float:
    values = weights.detach().cpu().double()
    return float(values.std(correction=0)) if values.numel() else 0.0


def _checked_share(share: float, what: str) -> float:
    if not 0 <= share < 1:
        raise UsageError(f"{what} is {share}, but must be at least 0 and below 1: the part of the weights that goes")
    return share
