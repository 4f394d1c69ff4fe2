"""Tables of what a pass at some width costs in a wide network, and of the search for widths."""

from typing import Any

from table_parts import machine, rows_to_markdown


def slimmable(record: dict[str, Any]) -> str:
    """Narrow passes against passes of cut networks, and what oneDNN's cache is worth."""
    rows = [
        [
            row["case"],
            row["widths"],
            f"{100 * row['share_of_macs']:.1f}%",
            f"{row['cut_ms']:.0f}",
            f"{row['narrow_ms']:.0f}",
            f"{row['ratio']:.3f}",
            f"{row['ratio_of_processor_time']:.3f}"
            + ("" if row["ratio_of_processor_time"] <= row["limit"] else f", above {row['limit']:.2f}"),
            f"{row['control_ratio_of_processor_time']:.3f}",
            f"{row['step_ratio_of_processor_time']:.3f}",
        ]
        for row in record["rows"]
    ]
    head = [
        "network",
        "widths",
        "MACs of the widest",
        "cut ms",
        "narrow ms",
        "ratio",
        "of processor time",
        "control",
        "step",
    ]
    cache, images = record["cache"], record["cases"]
    sizes = "; ".join(f"{name} {case['batch']} of {case['size']} × {case['size']}" for name, case in images.items())
    note = (
        f"Images per pass: {sizes}. Medians of {record['rounds']} rounds, {record['rows'][0]['threads']} thread(s), "
        f"load {record['load_average'][0]:.1f}; {machine(record)}."
    )
    kept = (
        f"oneDNN's primitive cache: {cache['widths']} random widths of {cache['case']} again and again, processor time "
        f"per pass {cache['default_later_ms']:.0f} ms with its default capacity, {cache['enlarged_later_ms']:.0f} ms "
        f"with that of `enlarge_primitive_cache` ({cache['enlarged_first_ms']:.0f} ms the first time, when kernels are "
        "compiled)."
    )
    return f"{rows_to_markdown(head, rows)}\n\n{note}\n\n{kept}"


def autoslim_search(record: dict[str, Any]) -> str:
    """Steps of greedy slimming with and without shared prefixes, and searches with shortlists."""
    sharing = [
        [
            row["model"],
            f"{row['batch']} of {row['size']} × {row['size']}",
            str(row["groups"]),
            f"{row['plain_s']:.2f}",
            f"{row['shared_s']:.2f}",
            f"{row['ratio']:.2f} ({row['least_ratio']:.2f}–{row['most_ratio']:.2f})",
            "yes" if row["same"] else "no",
        ]
        for row in record["sharing"]
    ]
    shortlists = [
        [
            "all" if row["shortlist"] is None else str(row["shortlist"]),
            f"{100 * row['share']:.0f}%",
            f"{row['macs']:,}",
            f"{100 * row['validation']:.2f}",
            f"{100 * row['test']:.2f}",
            str(row["steps"]),
            f"{row['seconds']:.0f}",
        ]
        for row in record["shortlists"]
    ]
    first = ["network", "images", "groups", "plain s", "shared s", "times as fast", "same accuracies and sequence"]
    second = ["candidates measured", "budget", "MACs", "validation %", "test %", "steps in all", "seconds in all"]
    note = (
        f"Processor time of a step, medians of {record['sharing'][0]['rounds']} steps from the widest network on, "
        f"{record['threads']} thread(s); {machine(record)}."
    )
    digits = (
        f"Digits, ResNet at 1.5 times its width, super-net trained for {record['epochs']} epochs, one seed; accuracies "
        "are those of the super-net at the widths found."
    )
    return f"{rows_to_markdown(first, sharing)}\n\n{note}\n\n{rows_to_markdown(second, shortlists)}\n\n{digits}"
