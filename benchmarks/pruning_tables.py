"""Tables of what pruning costs in training and what it leaves: gates, criteria, Tick-Tock."""

from typing import Any

from table_parts import machine, rows_to_markdown


def gates(record: dict[str, Any]) -> str:
    """A training step with gates, scores or a penalty, against one without."""
    rows = [
        [
            row["network"],
            str(row["threads"]),
            row["title"],
            f"{row['step_ms']:.0f}",
            row["against"],
            f"{row['against_step_ms']:.0f}",
            f"{row['ratio']:.3f}",
            "" if row["limit"] is None else f"{row['limit']:.2f}" + ("" if row["met"] else ", missed"),
        ]
        for row in record["rows"]
    ]
    head = ["network", "threads", "step", "ms", "compared with", "ms", "ratio", "limit"]
    load = record["load_average"]
    busy = max(load["before"][0], load["after"][0])
    # What is measured is itself a load of one.
    shared = (
        f" Other work shared the {load['cores']} cores (load up to {busy:.1f}), so milliseconds are not those of a "
        "quiet machine."
        if busy > load["cores"]
        else ""
    )
    note = (
        f"Medians of {record['rounds']} rounds, batch {record['rows'][0]['batch_size']}, no augmentation; "
        f"{machine(record)}.{shared}"
    )
    return f"{rows_to_markdown(head, rows)}\n\n{note}"


def global_pruning(record: dict[str, Any]) -> str:
    """Criteria at two budgets, every pair compared, and what papers say about some."""
    parts = [_accuracies(record, share) for share in record["budgets"]]
    shown = [
        [
            f"{100 * claim['budget']:.0f} %",
            f"{claim['better']} above {claim['worse']}",
            claim["source"],
            _difference(record, claim),
            claim["shows"],
        ]
        for claim in record["claims"]
    ]
    head = ["MACs", "what is said", "by", "points here, 95 % interval", "shows here"]
    for share in record["budgets"]:
        found = [pair for pair in record["pairs"] if pair["budget"] == share]
        best = max((row for row in record["rows"] if row["budget"] == share), key=lambda row: row["mean"])["arm"]
        parts.append(f"{_winner(share, best, found)} {_separated(found)}")
    rates = ", ".join(
        f"{entry['learning_rate']:g}: {100 * entry['validation_top1']:.2f} %" for entry in record["search"]["rates"]
    )
    note = (
        f"{record['what']}; the dense model has {100 * record['dense_test_top1']:.2f} %. Intervals: Student's t over "
        f"{len(record['seeds'])} paired seeds, not corrected for the number of pairs. Learning rate "
        f"{record['learning_rate']:g}, chosen with {record['search']['arm']} on the images that are not reported "
        f"({rates}). {record['samples']:,} test samples; {machine(record)}."
    )
    return "\n\n".join([*parts, rows_to_markdown(head, shown), note])


def slimming_mnist(record: dict[str, Any]) -> str:
    """A perceptron, dense and slimmed, beside the published errors."""
    rows = [
        [
            row["arm"],
            "–".join(map(str, row["hidden"])),
            f"{row['params']:,}",
            ", ".join(f"{100 * value:.2f}" for value in row["test_error"]),
            f"{100 * row['mean']:.2f}"
            + ("" if row["standard_deviation"] is None else f" ± {100 * row['standard_deviation']:.2f}"),
            f"{100 * row['published']:.2f}",
        ]
        for row in record["rows"]
    ]
    seeds = ", ".join(map(str, record["seeds"]))
    head = ["network", "hidden neurons", "parameters", f"test error %, seeds {seeds}", "mean ± sd", "published"]
    search, slim, dense = record["search"], record["chosen"]["slim"], record["chosen"]["dense"]
    note = (
        f"{record['what']}; {record['train_samples']:,} training images. λ = {slim['penalty']:g} and weight decay "
        f"{slim['weight_decay']:g} (dense: {dense['weight_decay']:g}) are the best of {len(search['slim'])} pairs "
        f"(of {len(search['dense'])}) on a validation split; {record['samples']:,} test samples; {machine(record)}."
    )
    return f"{rows_to_markdown(head, rows)}\n\n{note}"


def _accuracies(record: dict[str, Any], share: float) -> str:
    """Return the arms at one budget, the best first."""
    ranked = sorted((row for row in record["rows"] if row["budget"] == share), key=lambda row: -row["mean"])
    rows = [
        [
            row["arm"],
            _range([macs / 1e6 for macs in row["macs"]], ".2f") + "M",
            _range(row["params"], ",.0f"),
            _range(row["cuts"], ".0f"),
            _range([count / 1e3 for count in row["images_trained"]], ".0f"),
            ", ".join(f"{100 * value:.2f}" for value in row["test_top1"]),
            f"{100 * row['mean']:.2f}",
        ]
        for row in ranked
    ]
    head = [
        f"at {100 * share:.0f} % of the MACs",
        "MACs",
        "parameters",
        "cuts",
        "thousand images trained on",
        f"test top-1 %, seeds {', '.join(map(str, record['seeds']))}",
        "mean",
    ]
    return rows_to_markdown(head, rows)


def _winner(share: float, best: str, pairs: list[dict[str, Any]]) -> str:
    """Return which arm has the best mean at one budget, and which it cannot be told apart from."""
    alike = [pair["worse"] for pair in pairs if pair["better"] == best and not pair["separated"]]
    apart = f"it is not separated from {', '.join(alike)}" if alike else "it is separated from all others"
    return f"At {100 * share:.0f} %, {best} has the best mean; {apart}."


def _separated(pairs: list[dict[str, Any]]) -> str:
    """Return which pairs of one budget can be told apart and which cannot, in words."""
    apart = [pair for pair in pairs if pair["separated"]]
    shown = "; ".join(
        f"{pair['better']} above {pair['worse']} by {100 * pair['mean']:.2f} "
        f"[{100 * pair['low']:.2f}, {100 * pair['high']:.2f}]"
        for pair in apart
    )
    together = "; ".join(f"{pair['better']} and {pair['worse']}" for pair in pairs if not pair["separated"])
    return (
        f"Of {len(pairs)} pairs, {len(apart)} are separated{f': {shown}' if shown else ''}. "
        f"{f'Not separated: {together}.' if together else ''}"
    ).strip()


def _difference(record: dict[str, Any], claim: dict[str, Any]) -> str:
    """Return the interval of better minus worse, as the claim has them."""
    for pair in record["pairs"]:
        if pair["budget"] == claim["budget"] and {pair["better"], pair["worse"]} == {claim["better"], claim["worse"]}:
            sign = 1 if pair["better"] == claim["better"] else -1
            low, high = sorted((sign * pair["low"], sign * pair["high"]))
            # A zero is added so that no difference is not printed as -0.00.
            return f"{100 * sign * pair['mean'] + 0.0:+.2f} [{100 * low + 0.0:+.2f}, {100 * high + 0.0:+.2f}]"
    return ""


def _range(values: list[float], form: str) -> str:
    """Return the one value, or the least and the largest."""
    least, largest = (format(pick(values), form) for pick in (min, max))
    return least if least == largest else f"{least}–{largest}"
