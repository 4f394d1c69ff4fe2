"""Table of budgets in milliseconds: what was asked for, predicted, and measured."""

from typing import Any

from table_parts import machine, rows_to_markdown


def latency_budget(record: dict[str, Any]) -> str:
    """Return the table and where it was measured."""
    rows = [
        [
            row["case"],
            row["arm"],
            f"{row['asked_share']:.2f}",
            f"{row['predicted_share']:.3f}",
            f"{row['share']:.3f} ({100 * row['off']:+.1f}%)" + ("" if row["within"] else ", not within 10%"),
            f"{row['share_of_medians']:.3f}",
            f"{row['share_of_processor_time']:.3f}",
            f"{row['dense']['least_ms']:.2f}",
            f"{row['cut']['least_ms']:.2f}",
            f"{100 * row['share_of_macs']:.0f}%",
            f"{100 * row['table_error']:.1f}%",
        ]
        for row in record["rows"]
    ]
    head = [
        *("network", "plan", "asked", "predicted", "measured", "of medians", "of processor time"),
        *("dense ms", "cut ms", "MACs left", "table off by"),
    ]
    loads = [row["load_average"][0] for row in record["rows"]]
    rounds = sorted({row["rounds"] for row in record["rows"]})
    note = (
        "Shares are of the uncut network's latency in ONNX Runtime, batch 1, one thread; measured is the shortest of "
        f"{' or '.join(map(str, rounds))} runs against the shortest, in turn, and milliseconds are those. The table is "
        "off by as much on networks held out of its fit. Load "
        f"{min(loads):.1f} to {max(loads):.1f} on the machine; {machine(record)}."
    )
    return f"{rows_to_markdown(head, rows)}\n\n{note}"
