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
            f"{row['share_of_wall']:.3f}",
            f"{row['share_of_medians']:.3f}",
            f"{row['dense']['least_ms']:.2f}",
            f"{row['cut']['least_ms']:.2f}",
            f"{100 * row['share_of_macs']:.0f}%",
            f"{100 * row['table_error']:.1f}%",
        ]
        for row in record["rows"]
    ]
    head = [
        *("network", "plan", "asked", "predicted", "measured", "by the wall", "of medians"),
        *("dense ms", "cut ms", "MACs left", "table off by"),
    ]
    loads = [row["load_average"][0] for row in record["rows"]]
    rounds = sorted({row["rounds"] for row in record["rows"]})
    counts = " or ".join(map(str, rounds))
    note = (
        "Shares are of the uncut network's latency in ONNX Runtime, batch 1, one thread. Measured is the least "
        f"processor time of {counts} runs against the least, in turn; without other work on the machine that is the "
        "latency. By the wall is the shortest run against the shortest, which milliseconds are of. The table is off by "
        f"as much on networks held out of its fit. Load {min(loads):.1f} to {max(loads):.1f}; {machine(record)}."
    )
    return f"{rows_to_markdown(head, rows)}\n\n{note}"
