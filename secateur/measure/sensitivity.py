"""How accuracy falls when one group alone loses units and nothing is retrained: the scan that says what can be cut."""

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from pydantic import JsonValue
from torch import Tensor, nn

from secateur.cost import kept_units
from secateur.errors import PlanError, SurgeryError, UsageError, VerificationError
from secateur.graph import ChannelGraph, Group, Plan, apply, verify
from secateur.measure.sensitivity_record import GroupSensitivity, Sensitivity, SensitivityPoint
from secateur.measure.sensitivity_store import KnownGroup, ScanStore, order_digest
from secateur.names import unknown_name
from secateur.record import Evaluation
from secateur.training import Store, weights_digest
from secateur.wording import counted

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of a group's units that are removed (Li et al. 2017, Figure 2)."""

Evaluate = Callable[[nn.Module], Evaluation]


class ScanProgress(Protocol):
    """What a scan tells while it runs."""

    def begins(self, *, groups: int, points: int) -> None:
        """``groups`` are scanned, with ``points`` evaluations in all beside the dense one."""

    def point(self, *, new: bool) -> None:
        """One more point is known: measured now, or by an earlier run that this one continues."""

    def group_ends(self, name: str, *, points: int, refused: str | None) -> None:
        """A group is over, with ``points`` points, or left out because it was ``refused``."""

    def ends(self) -> None:
        """The scan is over, or was stopped."""


class QuietScan:
    """Shows nothing."""

    def begins(self, *, groups: int, points: int) -> None:
        """Show nothing."""

    def point(self, *, new: bool) -> None:
        """Show nothing."""

    def group_ends(self, name: str, *, points: int, refused: str | None) -> None:
        """Show nothing."""

    def ends(self) -> None:
        """Show nothing."""


def scan_sensitivity(
    model: nn.Module,
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    evaluate: Evaluate,
    *,
    example_inputs: Tensor,
    shares: Iterable[float] = SHARES,
    groups: Iterable[str] = (),
    criterion: str = "",
    split: str = "validation",
    made_for: Mapping[str, JsonValue] | None = None,
    store: Store | None = None,
    progress: ScanProgress = QuietScan(),  # noqa: B008  (holds nothing)
) -> Sensitivity:
    """Cut each group alone, by each share of its lowest scores, and evaluate without retraining.

    Source: Li et al. 2017, arXiv:1608.08710, §3.1 and Figure 2. Their layers are groups here, so the layers of a
    residual stream, which can only be cut together, are one. Each group's deepest cut is proved first, on copies; a
    group whose proof fails is left out with the reason. A cut model is evaluated, not a masked one: it is the faster
    of the two.

    Args:
        model: the trained network; it stays as it was.
        graph: made from ``model``.
        scores: group → score of each unit, shape (units,); the lowest go first.
        evaluate: averages of a model over the samples that decide; never the test split.
        example_inputs: (2, C, H, W) or so, for the proofs, on the model's device.
        shares: of a group's units to remove, each in (0, 1); floor(units · (1 − share)) stay, at least 1.
        groups: patterns such as ``layer1.*``; without them all groups that can be cut.
        criterion: what the scores are, for the record.
        split: which samples ``evaluate`` reads, for the record.
        made_for: what else decides the result, such as the data; a store begun for something else is refused.
        store: where each measured point is kept at once, so that a killed scan continues; a temporary one by default.
        progress: where to show how it goes.

    Returns:
        One curve per group.

    Raises:
        UsageError: a share out of range, or the store holds another scan.
        PlanError: a pattern that matches no group that can be cut, or scores that do not fit the graph.
        VerificationError: no group can be cut exactly.
        TrainingError: the store is damaged.
    """
    amounts = checked_shares(shares)
    chosen, left_out = groups_to_scan(graph, scores, tuple(groups))
    orders = {group.name: _lowest_first(scores[group.name]) for group in chosen}
    kept = ScanStore(store or Store.temporary())
    begun_for: dict[str, JsonValue] = {
        "criterion": criterion,
        "split": split,
        "shares": list(amounts),
        "groups": [group.name for group in chosen],
        **(made_for or {}),
        "graph": graph.fingerprint,
        "weights": weights_digest(model),
        "order of units": order_digest(orders),
    }
    kept.claim(begun_for)
    sizes = {group.name: list(dict.fromkeys(kept_units(group.size, share) for share in amounts)) for group in chosen}
    progress.begins(groups=len(chosen), points=sum(map(len, sizes.values())))
    try:
        dense = kept.dense(lambda: evaluate(model))
        curves = []
        for group in chosen:
            cut = _Cut(model, graph, group, orders[group.name])
            known = _scan_group(cut, evaluate, sizes[group.name], example_inputs, kept, progress)
            progress.group_ends(group.name, points=len(sizes[group.name]), refused=known.refused)
            if known.refused is not None:
                left_out[group.name] = known.refused
            else:
                curves.append(_curve(cut, known, amounts))
    finally:
        progress.ends()
    if not curves:
        first = chosen[0].name
        raise VerificationError(
            f"none of {counted(len(chosen), 'group')} can be cut exactly; {first!r}: {left_out[first]}"
        )
    return Sensitivity(
        model_class=graph.model_class,
        macs=graph.macs(),
        criterion=criterion,
        split=split,
        shares=amounts,
        dense=dense,
        groups=tuple(curves),
        left_out=left_out,
        made_for=begun_for,
    )


def checked_shares(shares: Iterable[float]) -> tuple[float, ...]:
    """Return the shares in rising order, each once.

    Raises:
        UsageError: there are none, or one is not inside (0, 1).
    """
    amounts = tuple(sorted({float(share) for share in shares}))
    if not amounts:
        raise UsageError("there are no shares to remove; give some, such as 0.1, 0.5 and 0.9")
    for share in amounts:
        if not 0 < share < 1:
            raise UsageError(f"a share to remove is {share:g}, but it must be above 0 and below 1; 0.5 is half")
    return amounts


def groups_to_scan(
    graph: ChannelGraph, scores: Mapping[str, Tensor], patterns: Sequence[str] = ()
) -> tuple[tuple[Group, ...], dict[str, str]]:
    """Return the groups that can be scanned, in the graph's order, and why each of the others cannot.

    Raises:
        PlanError: a pattern matches no group or only such as cannot be cut, there is no group that can be cut, or
            scores are missing or do not fit.
    """
    for pattern in patterns:
        found = [group for group in graph.groups if fnmatch.fnmatchcase(group.name, pattern)]
        if not found:
            can_be = [group.name for group in graph.groups if not _why_not(group)]
            raise PlanError(unknown_name("group", pattern, graph.by_name, rather=can_be))
        if all(_why_not(group) for group in found):
            raise PlanError(
                f"group {found[0].name!r} cannot be cut: {_why_not(found[0])}; `secateur groups` lists those that can"
            )
    named = [
        group
        for group in graph.groups
        if not patterns or any(fnmatch.fnmatchcase(group.name, pattern) for pattern in patterns)
    ]
    chosen = tuple(group for group in named if _why_not(group) is None)
    if not chosen:
        raise PlanError(f"none of the model's {len(graph.groups)} groups can be cut; `secateur groups` says why")
    for group in chosen:
        if group.name not in scores:
            raise PlanError(f"group {group.name!r} has no scores; score this graph's own model")
        shape = tuple(scores[group.name].shape)
        if shape != (group.size,):
            raise PlanError(f"group {group.name!r} has {group.size} units, but its scores have shape {shape}")
    return chosen, {group.name: reason for group in named if (reason := _why_not(group)) is not None}


def _why_not(group: Group) -> str | None:
    return group.locked or group.approximate or ("it has one unit only" if group.size < 2 else None)


@dataclass(frozen=True)
class _Cut:
    """One group, and the order in which its units go."""

    model: nn.Module
    graph: ChannelGraph
    group: Group
    order: list[int]  # lowest score first

    def plan(self, kept: int) -> Plan:
        return self.graph.plan({self.group.name: self.order[self.group.size - kept :]})


def _scan_group(
    cut: _Cut,
    evaluate: Evaluate,
    sizes: Sequence[int],
    example_inputs: Tensor,
    store: ScanStore,
    progress: ScanProgress,
) -> KnownGroup:
    """Prove the deepest cut, then measure each size that the store does not know yet."""
    number = cut.graph.groups.index(cut.group)
    known = store.recall(number) or KnownGroup(group=cut.group.name)
    if known.refused is None and known.proof_error is None:
        known = _proved(cut, known, min(sizes), example_inputs)
        store.keep(number, known)
    if known.refused is not None:
        return known
    for kept in sizes:
        new = kept not in known.evaluations
        if new:
            found = evaluate(apply(cut.model, cut.plan(kept), verify_with=None))
            known = replace(known, evaluations={**known.evaluations, kept: found})
            store.keep(number, known)
        progress.point(new=new)
    return known


def _proved(cut: _Cut, known: KnownGroup, kept: int, example_inputs: Tensor) -> KnownGroup:
    plan = cut.plan(kept)
    try:
        small = apply(cut.model, plan, verify_with=None)
    except SurgeryError as error:
        return replace(known, refused=str(error))
    proof = verify(cut.model, small, plan, example_inputs)
    return replace(known, proof_error=proof.error) if proof.passed else replace(known, refused=proof.sentence())


def _curve(cut: _Cut, known: KnownGroup, shares: Sequence[float]) -> GroupSensitivity:
    total, points = cut.graph.macs(), []
    for share in shares:
        kept = kept_units(cut.group.size, share)
        macs_left = cut.graph.macs(cut.plan(kept)) / total
        points.append(SensitivityPoint(share=share, kept=kept, macs_left=macs_left, evaluation=known.evaluations[kept]))
    assert known.proof_error is not None
    return GroupSensitivity(
        name=cut.group.name,
        size=cut.group.size,
        tied=cut.group.is_stream,
        proof_error=known.proof_error,
        points=tuple(points),
    )


def _lowest_first(scores: Tensor) -> list[int]:
    order: list[int] = np.argsort(scores.detach().double().cpu().numpy(), kind="stable").tolist()
    return order
