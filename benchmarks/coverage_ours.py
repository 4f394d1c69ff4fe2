"""What the coverage benchmark measures of Secateur on one model: trace, score, allocate, cut, proof."""

import copy
import inspect
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from coverage_models import Subject, run
from coverage_row import Row, ready, sentence_of, timed
from torch import nn

import secateur
from secateur.errors import BudgetError, SecateurError

SHARE = 0.5  # of the MACs to be left
ROUNDS = 3  # of a trace that is quick enough to repeat
QUICK_S = 5.0  # a trace up to this is repeated
EDGE = 0.05  # where half is out of reach: this part of what can be cut stays, so that no group falls to one unit


def takes(function: Callable[..., Any], **values: Any) -> dict[str, Any]:
    """Return those of ``values`` that ``function`` has parameters for, and that say something."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in values.items() if name in known and value not in ((), None)}


def ours(subject: Subject, row: Row) -> None:
    """Trace, cut to half of the MACs, prove."""
    model, given = ready(subject, row)
    started = time.perf_counter()
    row.stage("trace")
    graph, seconds = timed(lambda: traced(subject, model, given))
    times = [seconds]
    if seconds < QUICK_S:
        times += [timed(lambda: traced(subject, model, given))[1] for _ in range(ROUNDS - 1)]
    row.note(trace_s=statistics.median(times), trace_runs=len(times), **facts_of(graph))
    attempts: list[dict[str, Any]] = []

    def attempt(kind: str, model: nn.Module, graph: secateur.ChannelGraph, approximate: bool) -> bool:
        entry: dict[str, Any] = {"kind": kind}
        attempts.append(entry)
        row.stage(f"cut ({kind})")
        try:
            _cut_and_prove(subject, model, given, graph, entry, row, approximate=approximate)
        except Exception as error:  # the row says so, and the next attempt still runs
            entry["error"] = sentence_of(error)
            entry["failed_at"] = row.data["stage"]
        row.note(attempts=attempts, total_s=time.perf_counter() - started)
        return bool(entry.get("reached"))

    done = attempt("exact", model, graph, approximate=False)
    fold = getattr(secateur, "fold_weight_standardisation", None)
    if not done and fold is not None:
        row.stage("fold")
        try:
            folded, fold_s = timed(lambda: fold(copy.deepcopy(model), given))
            folded_graph, trace_s = timed(lambda: traced(subject, folded, given))
            row.note(fold_s=fold_s + trace_s)
        except SecateurError as error:
            row.note(fold_problem=sentence_of(error))
        else:
            if folded_graph.prunable_share_of_macs() > graph.prunable_share_of_macs():
                model, graph = folded, folded_graph
                row.note(folded=facts_of(graph))
                done = attempt("folded", model, graph, approximate=False)
    if not done and any(group.approximate and not group.locked for group in graph.groups):
        attempt("approximate", model, graph, approximate=True)
    row.note(stage="done", total_s=time.perf_counter() - started)


def traced(subject: Subject, model: nn.Module, given: Any) -> secateur.ChannelGraph:
    return secateur.trace(model, given, **takes(secateur.trace, outputs=subject.outputs))


def facts_of(graph: secateur.ChannelGraph) -> dict[str, Any]:
    """Return what the graph says: groups, what is locked and why, what can be reached."""
    locked: dict[str, dict[str, Any]] = {}
    for numbers, reason in _reasons(graph):
        entry = locked.setdefault(reason, {"reason": reason, "groups": 0, "numbers": []})
        entry["groups"] += 1
        entry["numbers"].append(numbers)
    reasons = []
    for entry in locked.values():
        share = _share_of_operators(graph, set(entry.pop("numbers")))
        reasons.append({**entry, "macs_share": share})
    return {
        "macs": graph.macs(),
        "params": graph.params(),
        "groups": len(graph.groups),
        "locked_groups": sum(group.locked is not None for group in graph.groups),
        "approximate_groups": sum(g.locked is None and g.approximate is not None for g in graph.groups),
        "reasons": sorted(reasons, key=lambda entry: (-entry["macs_share"], entry["reason"])),
        "unknown_ops": dict(graph.unknown_ops),
        "unreached_parameters": len(graph.unreached),
        "reachable_share": graph.prunable_share_of_macs(),
    }


def _reasons(graph: secateur.ChannelGraph) -> Iterator[tuple[int, str]]:
    for number, group in enumerate(graph.groups):
        if group.locked is not None:
            yield number, group.locked
        elif group.approximate is not None:
            yield number, f"approximate: {group.approximate}"


def _share_of_operators(graph: secateur.ChannelGraph, numbers: set[int]) -> float:
    """Return the share of MACs that are spent in operators which carry channels of the given groups."""
    forms = graph.costs.forms
    touched = {int(form) for form, group in zip(forms.form, forms.group, strict=True) if int(group) in numbers}
    spent = graph.costs.macs_by_operator(graph.sizes)
    total = int(spent.sum())
    mine = sum(
        int(macs) for macs, row in zip(spent, graph.costs.compute.factors, strict=True) if touched & set(row.tolist())
    )
    return mine / total if total else 0.0


def _least(graph: secateur.ChannelGraph, *, approximate: bool) -> int:
    """Return the MACs with one unit left in every group that may be cut."""
    sizes = graph.sizes.copy()
    for number, group in enumerate(graph.groups):
        if group.prunable or (approximate and group.locked is None):
            sizes[number] = 1
    return graph.costs.macs(sizes)


def _cut_and_prove(
    subject: Subject,
    model: nn.Module,
    given: Any,
    graph: secateur.ChannelGraph,
    entry: dict[str, Any],
    row: Row,
    *,
    approximate: bool,
) -> None:
    total, least = graph.macs(), _least(graph, approximate=approximate)
    entry.update(macs_before=total, least_macs=least)
    options = takes(secateur.allocate, allow_approximate=approximate or None)
    if approximate and not options:
        entry["error"] = "allocate cannot plan approximate groups in this version"
        return
    row.stage(f"plan ({entry['kind']})")

    def plan_for(macs: float | int) -> secateur.Plan:
        scores = secateur.score(graph, model, "l1")
        return secateur.allocate(graph, scores, secateur.Budget(macs=macs), scope="global", **options)

    try:
        plan, entry["plan_s"] = timed(lambda: plan_for(SHARE))
        entry["reached"] = True
    except BudgetError as error:
        entry.update(reached=False, why_not=str(error))
        if least >= total:
            return
        target = int(least + EDGE * (total - least)) + 1
        plan, entry["plan_s"] = timed(lambda: plan_for(target))
    entry.update(macs_after=graph.macs(plan), params_after=graph.params(plan))
    row.stage(f"cut ({entry['kind']})")
    small, entry["cut_s"] = timed(lambda: secateur.apply(model, plan, verify_with=None))
    row.stage(f"run of the cut model ({entry['kind']})")
    _, entry["small_eager_s"] = timed(lambda: run(small, given))
    entry["runs"] = True
    row.stage(f"proof ({entry['kind']})")
    extra = takes(secateur.verify, outputs=subject.outputs)
    proof, entry["proof_s"] = timed(lambda: secateur.verify(model, small, plan, given, **extra))
    found = proof.to_json()
    outputs = found.pop("outputs")
    entry["proof"] = found
    entry["outputs_compared"] = len(outputs)
    entry["sentence"] = proof.sentence()
