"""The tables of `benchmarks/calibration.py`."""

import statistics
from typing import Any

from table_parts import machine, rows_to_markdown


def calibration(record: dict[str, Any]) -> str:
    """A forward pass with calibration, the search by divergence, and counting."""
    parts = record["parts"]
    shown = (("forward", forward), ("search", search), ("counting", counting))
    return "\n\n".join(table(parts[part]) if part in parts else f"`{part}`: not measured yet." for part, table in shown)


def forward(part: dict[str, Any]) -> str:
    """All calibrators from one pass, beside those of ONNX Runtime."""
    rows = []
    for row in part["rows"]:
        ours = row["way"] == "ours"
        limit = part["aims"]["limit"]
        total = row["total_of_forward"]
        rows.append(
            [
                f"Secateur, all {len(row['rounds'][0]['choosing_seconds'])}" if ours else row["way"],
                str(row["images"]),
                str(row["sites"] if ours else row["tensors"]),
                f"{middle(row, 'plain_seconds') / row['images'] * 1e3:.0f}",
                f"{row['pass_of_forward']:.2f}×" if ours else "",
                f"{choosing(row):.1f}" if ours else "",
                f"{total:.2f}×" + (f", above {limit}×" if ours and total > limit else ""),
                f"{(row['peak_bytes'] - row['before_bytes']) / 1e6:,.0f}",
                f"{row['peak_bytes'] / 1e6:,.0f}",
            ]
        )
    head = [
        *("calibrator", "images", "tensors", "plain forward, ms per image", "the pass, of a forward", "choosing, s"),
        *("all of it, of a forward", "memory above the start, MB", "peak MB"),
    ]
    chosen = next((row["rounds"][0]["choosing_seconds"] for row in part["rows"] if row["way"] == "ours"), {})
    each = {
        name: statistics.median(
            entry["choosing_seconds"][name] for row in part["rows"] if row["way"] == "ours" for entry in row["rounds"]
        )
        for name in chosen
    }
    packages = ", ".join(f"{name} {version}" for name, version in part["packages"].items())
    aims = part["aims"]
    note = (
        f"ResNet-50, 224², batches of {part['batch']}, {part['memory_format']}; processor time on one thread, medians "
        f"of {part['rounds']} round(s), batch by batch in turn with the plain forward. Aim for ours "
        f"{aims['total_of_forward']}×, limit {aims['limit']}×. Peaks of ours over the numbers of images: largest by "
        f"least {part['largest_of_least_peak']:.3f}, limit {aims['peaks']}. Choosing: "
        f"{', '.join(f'{name} {value:.2f} s' for name, value in each.items())}. Forward of ONNX Runtime with its "
        f"optimisations, its calibrators without, as they are made. Load {min(part['load']):.1f} to "
        f"{max(part['load']):.1f}; {packages}; {machine(part)}."
    )
    return f"{rows_to_markdown(head, rows)}\n\n{note}"


def middle(row: dict[str, Any], key: str) -> float:
    """Return the median of the rounds."""
    return statistics.median(entry[key] for entry in row["rounds"])


def choosing(row: dict[str, Any]) -> float:
    """Return the seconds of all calibrators together, the median of the rounds."""
    return statistics.median(sum(entry["choosing_seconds"].values()) for entry in row["rounds"])


def search(part: dict[str, Any]) -> str:
    """Both forms of the search by divergence."""
    rows = [
        [
            row["counts"],
            f"{row['seconds']['numpy'] * 1e3:.1f}",
            f"{row['seconds']['ours'] * 1e3:.1f}",
            f"{row['ours_of_numpy']:.3f}",
            "equal" if len(set(row["threshold_edges"].values())) == 1 else "differ",
            f"{row['largest_difference']:.0e}",
        ]
        for row in part["rows"]
    ]
    head = [
        *("counts in bin i", "NumPy form, ms", "Secateur, ms", "ours of it", "thresholds"),
        "largest difference of divergences",
    ]
    note = f"Least processor time of {part['rounds']} rounds, 2,048 bins, one thread; {machine(part)}."
    return f"{rows_to_markdown(head, rows)}\n\n{note}"


def counting(part: dict[str, Any]) -> str:
    """Nanoseconds per element of each way to count: range and median over the tensors."""
    ways = list(part["rows"][0]["nanoseconds_per_element"])
    rows = []
    for way in ways:
        found = [row["nanoseconds_per_element"][way] for row in part["rows"]]
        rows.append([way, f"{min(found):.2f}–{max(found):.2f}", f"{statistics.median(found):.2f}"])
    sampled = [row["percentile_99_99_of_sample"] for row in part["rows"]]
    note = (
        f"Over {len(part['rows'])} tensors of ResNet-50's sizes, least processor time of {part['rounds']} rounds, one "
        f"thread. The percentile 99.99 of the sample is {min(sampled):.3f} to {max(sampled):.3f} of that of all; "
        f"{machine(part)}."
    )
    return f"{rows_to_markdown(['way to count', 'ns per element', 'median'], rows)}\n\n{note}"
