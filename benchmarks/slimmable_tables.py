"""Table of what a pass at some width costs in a wide network."""

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
