"""How much goes: by thresholds, by shares, to a budget of non-zeros; in one round, in several, or while training."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.cost import Budget
from secateur.errors import BudgetError
from secateur.randomness import generator_for
from secateur.sparse import Masks, by_nonzeros, by_share, by_threshold, nonzeros, prunable_weights
from secateur.sparse.making import StdOf
from secateur.sparse.prunable import settings_by_name

Selection = Literal["threshold", "probabilistic"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What goes first, and what goes together.

    Attributes:
        names: of the weights that are pruned.
        granularity: what goes together.
        norm: of a group of weights.
        selection: the smallest, or drawn by magnitude.
        std: whose standard deviation thresholds are multiples of.
        seed: of the draws.
    """

    names: tuple[str, ...]
    granularity: str
    norm: Literal["l1", "l2"]
    selection: Selection
    std: StdOf
    seed: int

    def only(self, name: str) -> "Rule":
        """Return the rule for one weight alone."""
        return replace(self, names=(name,))

    def options(self, earlier: Masks | None) -> dict[str, Any]:
        """Return the options of all ways of making masks."""
        options: dict[str, Any] = {"granularity": self.granularity, "score": self.norm, "names": self.names}
        return options if earlier is None else {**options, "earlier": earlier}


@dataclass(frozen=True, kw_only=True)
class Goal:
    """How much of each weight is to be left.

    Thresholds, shares or a number say it. With shares the number is their limit: where layers keep more than their
    share, because groups stay whole or a share is rounded, the smallest weights of all layers go beyond it.

    Attributes:
        quality: pattern → q of the threshold q·std.
        shares: name → share that goes.
        allowed: parameters that are stored at most, over all layers together.
    """

    quality: Mapping[str, float] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    allowed: int | None = None

    def masks(
        self,
        rule: Rule,
        model: nn.Module,
        earlier: Masks | None,
        *,
        stds: Mapping[str, float],
        draw: int,
        band: float = 0.0,
        regrow: bool = False,
    ) -> Masks:
        """Return the masks.

        Args:
            rule: what goes first.
            model: its weights decide.
            earlier: masks of what is gone.
            stds: standard deviations of the dense weights.
            draw: number of this pruning, so that each draws anew.
            band: half of the dead zone between going and coming back.
            regrow: whether what is gone may come back.

        Raises:
            BudgetError: no masks leave as little as is allowed.
        """
        options = rule.options(earlier)
        if regrow:
            options |= {"regrow": True}
        if self.quality:
            made = by_threshold(
                model, self.quality, of=rule.std, std_of=_dense(rule, stds), band=band if regrow else 0.0, **options
            )
        else:
            if band and earlier is not None:
                options["score"] = _with_band(earlier, band)
            if self.shares:
                made = by_share(model, {name: min(share, 1 - 1e-12) for name, share in self.shares.items()}, **options)
                if self.allowed is not None and nonzeros(model, made) > self.allowed:
                    made = by_nonzeros(model, self.allowed, **{**options, "earlier": made, "regrow": False})
            else:
                assert self.allowed is not None
                made = by_nonzeros(model, self.allowed, **options)
        if rule.selection == "threshold":
            return made
        gone = {name: 1 - made.density(name) for name in rule.names}
        return by_share(model, gone, **{**options, "score": _drawn(rule.seed, draw)})


def weights_to_prune(model: nn.Module, skip: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the weights that may be pruned.

    Raises:
        BudgetError: there are none.
        UsageError: a pattern in ``skip`` matches nothing.
    """
    names = prunable_weights(model, skip)
    if not names:
        raise BudgetError(
            "no weight is left to prune: only those of convolutions and linear layers can be, and all are skipped or "
            "there are none; give fewer patterns in skip"
        )
    return names


def allowed_nonzeros(model: nn.Module, budget: Budget | None, names: tuple[str, ...], granularity: str) -> int | None:
    """Return how many parameters may be stored, or None where there is no budget.

    Raises:
        BudgetError: the budget is in something else, is held already, or cannot be met.
        UsageError: a weight is not finite, where groups of weights go.
    """
    if budget is None:
        return None
    if budget.nonzeros is None or len(budget.given()) > 1:
        raise BudgetError(
            f"the budget is {budget.describe()}, but weights_and_connections prunes single weights and leaves shapes "
            "as they are, so that only stored weights get fewer; give nonzeros alone (--nonzeros 0.1)"
        )
    total = nonzeros(model)
    allowed = budget.nonzeros if isinstance(budget.nonzeros, int) else int(budget.nonzeros * total)
    if allowed >= total:
        raise BudgetError(
            f"the budget is {budget.describe()}, and the model has {total:,} parameters: there is nothing to prune"
        )
    parameters = dict(model.named_parameters(remove_duplicate=False))
    least = total - sum(parameters[name].numel() for name in names) + len(names)
    if allowed < least:
        raise BudgetError(
            f"cannot reach {allowed:,} non-zeros: biases, norms and skipped layers, which are never pruned, and one "
            f"weight of each layer are {least:,}; allow at least as many"
        )
    if granularity != "weight":  # a group of each layer stays whole
        by_nonzeros(model, allowed, granularity=granularity, names=names)
    return allowed


def shares_by_name(model: nn.Module, ratios: Mapping[str, float], names: tuple[str, ...]) -> dict[str, float]:
    """Return the share that goes of each weight, 0 where no pattern fits.

    Raises:
        UsageError: a pattern matches nothing.
    """
    found = settings_by_name(ratios, names, "layer in ratios", model=model)
    return {name: found.get(name, 0.0) for name in names}


def _dense(rule: Rule, stds: Mapping[str, float]) -> Mapping[str, float] | None:
    return stds if rule.std == "dense" else None


def _with_band(earlier: Masks, band: float) -> Any:
    """Return an importance under which a weight that is gone must be larger than one that stays, to take its place."""

    def importance(name: str, weight: Tensor) -> Tensor:
        stays = earlier[name].to(weight.device)
        return weight.abs() * torch.where(stays, 1 + band, 1 - band)

    return importance


def _drawn(seed: int, draw: int) -> Any:
    """Return an importance whose largest entries are a sample without replacement, by |w|.

    Source: Efraimidis and Spirakis 2006: |w| divided by an exponential draw. The paper says of its probabilistic
    variant only that the chance depends on the absolute value (arXiv:1506.02626, §3.5).
    """

    def importance(name: str, weight: Tensor) -> Tensor:
        chances = torch.empty(weight.shape, dtype=torch.float64)
        chances.exponential_(generator=generator_for(seed, "probabilistic", draw, name))
        return weight.detach().cpu().double().abs() / chances.clamp_min(1e-12)

    return importance
