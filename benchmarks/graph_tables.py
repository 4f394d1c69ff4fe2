"""The tables of what the channel graph can do: coverage beside the peer, random networks, five networks to ONNX."""

import statistics
from typing import Any

import coverage_summary
from table_parts import machine, rows_to_markdown


def coverage(record: dict[str, Any]) -> str:
    """How many models of each family are traced, cut and proved, beside the peer."""
    entries = record["rows"]
    families = sorted({entry["family"] for entry in entries})
    rows = []
    for family in [*families, "all"]:
        mine = [entry for entry in entries if family in (entry["family"], "all")]
        found = coverage_summary.counts(mine)
        seconds = [coverage_summary.seconds_of(entry["ours"]) for entry in mine if "ours" in entry]
        ratios = [entry["timing"]["ratio"] for entry in mine if "ratio" in entry.get("timing", {})]
        rows.append(
            [
                family,
                str(len(mine)),
                *(f"{found[key]} of {found['ours']}" for key in ("traced", "cut exactly", "half exactly")),
                str(found["half with approximate groups"]),
                f"{statistics.median(seconds):.1f} / {max(seconds):.1f}" if seconds else "",
                f"{found['peer cuts']} of {found['peer']}",
                f"{found['peer raises']} / {found['peer timeout']}",
                f"{statistics.median(ratios):.2f}× of {len(ratios)}" if ratios else "",
            ]
        )
    head = [
        "family",
        "models",
        "traced",
        "cut, proof exact",
        "half of the MACs gone, exact",
        "half only with approximate groups",
        "s in all, median / longest",
        f"{record['peer']}: runs after its cut",
        "raises / not done",
        "its trace + groups by ours",
    ]
    short = [entry for entry in entries if "ours" in entry and not coverage_summary.reaches_half(entry["ours"])]
    reasons = [[f"`{entry['name']}`", coverage_summary.shortfall(entry["ours"]).replace("|", "\\|")] for entry in short]
    slow = [entry["name"] for entry in entries if "ours" in entry and coverage_summary.is_slow(entry["ours"])]
    packages = ", ".join(f"{package} {version}" for package, version in record["packages"].items())
    timed = [entry["timing"] for entry in entries if "ratio" in entry.get("timing", {})]
    note = (
        f"{len(entries)} of {record['models_in_list']} models of the list; random weights, one thread, one process per "
        f"model; the peer had at most {record['limit_s']:g} s for its cut and as long for its graph. Longer than "
        f"{coverage_summary.SLOW_S:g} s and than the model's own forward: {', '.join(slow) or 'none'}. {packages}; "
        f"{machine(record)}."
    )
    parts = [rows_to_markdown(head, rows), note, *_timing(timed)]
    if reasons:
        parts.append(rows_to_markdown(["half not reached exactly", "because"], reasons))
    return "\n\n".join(parts)


def _timing(timed: list[dict[str, Any]]) -> list[str]:
    """Compare the seconds of both graphs on the models that both finish."""
    if len(timed) < 2:
        return []
    mine, theirs = ([entry[key] for entry in timed] for key in ("ours_median_s", "peer_median_s"))
    ratios = sorted(entry["ratio"] for entry in timed)

    def tenth(values: list[float]) -> float:
        return statistics.quantiles(values, n=10, method="inclusive")[8]

    faster = sum(ratio > 1 for ratio in ratios)
    return [
        f"Trace + groups on the {len(timed)} models of which the peer makes its graph within the limit of the timing "
        "run (ours: `secateur.trace` with its trial and its blocks; the peer: `DependencyGraph().build_dependency` and "
        "the list of all groups; in turn, three rounds, inputs of the model's usual size), seconds, median / 90th "
        f"percentile: Secateur {statistics.median(mine):.3f} / {tenth(mine):.3f}, the peer "
        f"{statistics.median(theirs):.3f} / {tenth(theirs):.3f}. The peer's seconds by ours: median "
        f"{statistics.median(ratios):.2f}, from {ratios[0]:.2f} to {ratios[-1]:.1f}, above 1 for {faster}."
    ]


def five_networks(record: dict[str, Any]) -> str:
    """Networks cut to half, loaded in a fresh process, and their ONNX files against torch."""
    rows = []
    for row in record["rows"]:
        if "error" in row:
            rows.append([row["title"], f"failed: {row['error']}".replace("|", "\\|"), *[""] * 7])
            continue
        rows.append(
            [
                row["title"],
                " × ".join(map(str, row["input_shape"])),
                f"{row['macs'] / 1e9:.2f}G → {row['macs_after'] / 1e9:.2f}G ({row['macs_after'] / row['macs']:.1%})",
                f"{row['least_macs'] / row['macs']:.1%}",
                f"{row['params'] / 1e6:.1f}M → {row['params_after'] / 1e6:.1f}M",
                f"{row['proof']['verdict']}, {row['proof']['error']:.0e}",
                "equal" if row["loaded_equal_bit_for_bit"] else "different",
                f"{row['max_difference']:.1e}",
                f"{row['relative_difference']:.1e}",
            ]
        )
    head = [
        "network",
        "input",
        "MACs per image",
        "least possible",
        "parameters",
        "proof",
        "loaded afresh, bits",
        "max abs(torch − ONNX Runtime)",
        "of the largest output",
    ]
    packages = ", ".join(f"{package} {version}" for package, version in record["packages"].items())
    note = (
        f"Random weights, one thread; both differences have to stay below {record['tolerance']:g}. {packages}; "
        f"{machine(record)}."
    )
    return f"{rows_to_markdown(head, rows)}\n\n{note}"


RAREST = 10  # options in the note


def properties(record: dict[str, Any]) -> str:
    """Random networks held to every law."""
    rows = [[law.replace("_", " "), f"{record['networks']:,}", str(failed)] for law, failed in record["laws"].items()]
    rarest = sorted(record["features"].items(), key=lambda item: item[1])[:RAREST]
    seen = sorted(record["operators"].items(), key=lambda item: -item[1]["networks"])
    counts = ", ".join(f"`{name}` {value['networks']}" for name, value in seen)
    without = ", ".join(f"`{name}` {count}" for name, count in record["operators_without_rule"].items()) or "none"
    note = (
        f"{record['networks_cut']:,} networks were cut: {record['groups_cut']:,} of {record['groups']:,} groups, "
        f"{record['units_removed']:,} units. Rarest options: "
        f"{', '.join(f'{name} {count}×' for name, count in rarest)}. {len(seen)} ATen operators, in how many networks: "
        f"{counts}. Without a rule (locked): {without}. "
        f"Seed {record['seed']}, {record['seconds']:.0f} s in {record['processes']} process(es); {machine(record)}."
    )
    return f"{rows_to_markdown(['law', 'networks', 'failures'], rows)}\n\n{note}"
