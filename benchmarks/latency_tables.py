"""Tables of budgets in milliseconds: what was asked for, predicted, and measured."""

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


def latency_search(record: dict[str, Any]) -> str:
    """Return the table of networks that were picked from a search."""
    rows = [
        [
            row["network"],
            f"{row['asked_share']:.2f}",
            f"{row['predicted_share']:.3f}",
            f"{row['processor_share']:.3f} ({100 * row['off']:+.1f}%)" + ("" if row["within"] else ", not within 10%"),
            f"{row['share_of_wall']:.3f}",
            f"{row['dense_ms']:.3f}",
            f"{row['measured_ms']:.3f}",
            f"{100 * row['share_of_macs']:.0f}%",
            f"{100 * row['test_top1']:.2f}%",
        ]
        for row in record["rows"]
    ]
    head = ["super-net", "asked", "predicted", "measured", "by the wall", "its ms", "picked ms", "MACs left", "top-1"]
    note = (
        f"Recipe `{record['recipe']}`, the search decided by {record['samples_of_the_search']} validation images; "
        f"top-1 on {record['rows'][0]['test_samples']} test images with the super-net's weights, not trained further. "
        f"Measured is the least processor time of {record['rows'][0]['runs']} runs against the least, in turn, ONNX "
        f"Runtime, batch 1, one thread. The table is off by up to {100 * record['table_error']:.1f}% on networks held "
        f"out. Load {record['load_average'][0]:.1f}; {machine(record)}."
    )
    return f"{rows_to_markdown(head, rows)}\n\n{note}"
