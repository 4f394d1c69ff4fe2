"""Read the rows of the coverage benchmark: a verdict for each, counts over all, and why a model falls short."""

import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

SLOW_S = 30.0  # Secateur should take no longer, except where the model's own forward does


def verdict_of(row: Mapping[str, Any]) -> str:
    """Return one phrase for one row of one mode."""
    if row["mode"] == "ours":
        return _own_verdict(row)
    if row["mode"] == "timing":
        return (
            f"the peer takes {row['ratio']:.2f} times as long"
            if "ratio" in row
            else f"no ratio: {row.get('error', '?')}"
        )
    return _peer_verdict(row)


def _own_verdict(row: Mapping[str, Any]) -> str:
    if row.get("timeout"):
        return f"timeout in {row['failed_at']}"
    if "attempts" not in row:
        return f"raises in {row.get('failed_at', row['stage'])}: {row.get('error', '?')}"
    attempt = best_attempt(row)
    if "proof" not in attempt:
        error = attempt.get("error", attempt.get("why_not", "?"))
        return f"not cut ({attempt['kind']}): {error}"
    left = attempt["macs_after"] / attempt["macs_before"]
    proof = attempt["proof"]
    return f"{proof['verdict']} ({attempt['kind']}), {left:.1%} of MACs left"


def _peer_verdict(row: Mapping[str, Any]) -> str:
    if row.get("timeout"):
        return f"timeout in {row['failed_at']}"
    if row.get("runs"):
        left = f"{row['macs_after'] / row['macs']:.1%} of MACs left" if row.get("macs_after") else "MACs not counted"
        # A detector gives another number of boxes with every change of its weights.
        same = row["same_output_shapes"] or row["family"] == "detection"
        return f"runs, {left}" + ("" if same else ", other output shapes")
    return f"raises in {row.get('failed_at', row['stage'])}: {row.get('error', '?')}"


def best_attempt(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the attempt that counts: exact at half, else approximate at half, else the largest exact cut."""
    attempts = row["attempts"]
    for attempt in attempts:
        if attempt.get("reached") and is_exact(attempt):
            return attempt
    for attempt in attempts:
        if attempt.get("reached") and "proof" in attempt:
            return attempt
    proved = [attempt for attempt in attempts if is_exact(attempt)]
    return min(proved, key=lambda attempt: attempt["macs_after"]) if proved else attempts[0]


def is_exact(attempt: Mapping[str, Any]) -> bool:
    """Whether the proof of an attempt says exact."""
    return bool(attempt.get("proof", {}).get("verdict") == "exact")


def reaches_half(row: Mapping[str, Any]) -> bool:
    """Whether half of the MACs are gone, exactly."""
    attempt = best_attempt(row) if "attempts" in row else {}
    return bool(attempt.get("reached")) and is_exact(attempt)


def shortfall(row: Mapping[str, Any]) -> str:
    """Return why half is not reached: the error, or the reason that holds most MACs."""
    if row.get("timeout") or "attempts" not in row:
        return verdict_of(row)
    failed = [attempt for attempt in row["attempts"] if "error" in attempt or not is_exact(attempt)]
    for attempt in failed:
        if "proof" in attempt and attempt["proof"]["verdict"] != "exact" and attempt["kind"] != "approximate":
            return f"proof: {attempt['sentence']}"
        if "error" in attempt and "least_macs" in attempt and attempt["kind"] != "approximate":
            return f"{attempt.get('failed_at', attempt['kind'])}: {attempt['error']}"
    reasons = row.get("folded", row)["reasons"]
    if not reasons:
        return "no group is locked, yet half cannot be reached"
    first = reasons[0]
    return (
        f"reachable {row['reachable_share']:.0%}; {first['reason']} "
        f"({first['groups']} group(s), operators with {first['macs_share']:.0%} of the MACs)"
    )


def kind_of(reason: str) -> str:
    """Return a reason or an error without module names and numbers, so that like ones can be counted."""
    return re.sub(r"\[?\b\d+(, \d+)*\b\]?", "N", re.sub(r" in module '[^']*'( \([^)]*\))?", "", reason))


def seconds_of(row: Mapping[str, Any]) -> float:
    """Return what one trace, plan, cut and proof take; all that the process took where it came to no proof."""
    attempt = best_attempt(row) if "attempts" in row else {}
    if "proof" not in attempt:
        return float(row.get("total_s", row["process_s"]))
    folding = 0.0 if attempt["kind"] == "exact" else row.get("fold_s", 0.0)
    return float(row["trace_s"] + folding + sum(attempt[part] for part in ("plan_s", "cut_s", "proof_s")))


def is_slow(row: Mapping[str, Any]) -> bool:
    """Whether Secateur takes too long for the model's own speed."""
    return seconds_of(row) > max(SLOW_S, row.get("eager_s", 0.0))


def combined(found: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one entry per model: name, family and the rows of the modes that were measured."""
    entries: dict[str, dict[str, Any]] = {}
    for (mode, name), row in sorted(found.items()):
        entry = entries.setdefault(name, {"name": name, "family": row["family"]})
        entry[mode] = dict(row)
    return [entries[name] for name in sorted(entries)]


def counts(entries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count over models: what was measured, what runs, what is exact, what fails."""
    mine = [entry["ours"] for entry in entries if "ours" in entry]
    theirs = [entry["peer"] for entry in entries if "peer" in entry]
    return {
        "ours": len(mine),
        "traced": sum("trace_s" in row for row in mine),
        "cut exactly": sum(any(is_exact(a) for a in row.get("attempts", ())) for row in mine),
        "half exactly": sum(reaches_half(row) for row in mine),
        "half with approximate groups": sum(
            not reaches_half(row) and any(a.get("reached") and "proof" in a for a in row.get("attempts", ()))
            for row in mine
        ),
        "raises": sum("trace_s" not in row and not row.get("timeout") for row in mine),
        "timeout": sum(bool(row.get("timeout")) for row in mine),
        "slow": sum(is_slow(row) for row in mine),
        "peer": len(theirs),
        "peer runs": sum(bool(row.get("runs")) for row in theirs),
        "peer cuts": sum(
            bool(row.get("runs")) and (row.get("macs_after") or 0) < (row.get("macs") or 0) for row in theirs
        ),
        "peer raises": sum(not row.get("runs") and not row.get("timeout") for row in theirs),
        "peer timeout": sum(bool(row.get("timeout")) for row in theirs),
    }


def summary(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the counts, and a line for every model that falls short."""
    lines = ["", *(f"{name}: {value}" for name, value in counts(entries).items())]
    ratios = [entry["timing"]["ratio"] for entry in entries if "ratio" in entry.get("timing", {})]
    if ratios:
        lines.append(
            f"peer's seconds by ours, trace and groups: median {statistics.median(ratios):.2f} of {len(ratios)}"
        )
    short = [entry for entry in entries if "ours" in entry and not reaches_half(entry["ours"])]
    if short:
        lines.append("\nhalf of the MACs not reached exactly:")
        lines += [f"  {entry['name']}: {shortfall(entry['ours'])}" for entry in short]
    slow = [entry for entry in entries if "ours" in entry and is_slow(entry["ours"])]
    if slow:
        lines.append(f"\nover {SLOW_S:g} s and over the model's own forward:")
        lines += [f"  {entry['name']}: {seconds_of(entry['ours']):.0f} s" for entry in slow]
    locks = Counter(reason["reason"] for entry in short for reason in entry["ours"].get("reasons", ())[:1])
    if locks:
        lines.append("\nlargest reason, by models:")
        lines += [f"  {count} × {reason}" for reason, count in locks.most_common()]
    errors = Counter(
        kind_of(entry["peer"].get("error", "?"))
        for entry in entries
        if "peer" in entry and not entry["peer"].get("runs")
    )
    if errors:
        lines.append("\nwhat stops the peer, by models:")
        lines += [f"  {count} × {error}" for error, count in errors.most_common()]
    return "\n".join(lines)
