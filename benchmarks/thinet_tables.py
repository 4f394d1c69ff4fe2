"""Tables of ThiNet: its speed, what it loses, and what comes back without training."""

from typing import Any

from table_parts import machine, rows_to_markdown

AIMS = {
    "selection": "choosing × faster",
    "total": "in all × faster",
    "accumulation": "accumulation of a forward pass",
    "gram": "error of G",
}


def speed(record: dict[str, Any]) -> str:
    """Choosing by all positions of few images against sampled rows of many, layer by layer."""
    rows = []
    for row in record["rows"]:
        memory, error = row["working_memory_mb"], row["held_out_error"]
        exact = error["exact"][str(row["images"])]
        rows.append(
            [
                f"`{row['layer']}`, {row['channels']} → {row['filters']}",
                f"{row['images']}{'' if error['no_worse'] else ' (worse)'}",
                f"{row['accumulation_of_forward']:.2f}",
                f"{1e3 * row['selection_s']['exact']:.2f} / {1e3 * row['selection_s']['rows']:,.0f}",
                f"{row['selection_ratio']:,.0f}×",
                f"{row['whole_passes']['exact_s']:.1f} / {row['whole_passes']['rows_s_extrapolated']:,.0f}",
                f"{row['whole_passes']['ratio']:.1f}×",
                f"{row['passes_until_layer']['ratio']:.1f}×",
                " / ".join(f"{100 * found['re-weighted']:.2f}" for found in (exact, error["rows"])),
                f"{row['gram_error']:.0e}",
                f"{memory['forward']:,.0f} / {', '.join(f'{mb:,.0f}' for mb in memory['exact'].values())} / "
                f"{memory['rows']:,.0f}",
            ]
        )
    head = [
        "next layer, channels → filters",
        "images, all positions",
        "accumulation of a forward pass",
        "choosing, ms: ours / rows",
        "ratio",
        "in all, s: ours / rows (extrapolated)",
        "ratio",
        "with passes that stop",
        "error on other images, %: ours / rows",
        "error of G",
        "working memory, MB: forward / ours / rows",
    ]
    authors, options = record["authors"], record["options"]
    aims = ", ".join(f"{AIMS[name]} {value:g}" for name, value in record["aims"].items())
    few, many = record["rows"][0]["working_memory_mb"]["exact"]
    note = (
        f"VGG-16 with random weights at {options['side']} × {options['side']}, half of the channels kept; "
        f"{options['rows']:,} rows, of which the seconds for the authors' {authors['images']:,} images × "
        f"{authors['rows_per_image']} are extrapolated from seconds per image. Aims: {aims}. Errors with weights by "
        f"least squares, on {options['held_out']} test images, by which the number of images was chosen too. Memory of "
        f"ours: {few} and {many} images. Medians "
        f"of {options['rounds']} rounds, {options['threads']} thread{'s' * (options['threads'] != 1)}, load "
        f"{record['load_average']['before'][0]:.1f} before on {record['load_average']['cores']} cores; "
        f"{machine(record)}."
    )
    return f"{rows_to_markdown(head, rows)}\n\n{note}"


WHAT = {"without w": "ThiNet, no weights", "with w": "ThiNet", "tpami": "ThiNet TPAMI"}


def errors(record: dict[str, Any]) -> str:
    """Held-out error of channels chosen over all positions and over sampled rows; every second share is shown."""
    rows = []
    every = [(network["network"], row) for network in record["networks"] for row in network["rows"]]
    shares = sorted({row["share"] for _, row in every}, reverse=True)[::2]
    for network in record["networks"]:
        found = {(row["images"], row["share"], row["what"]): row for row in network["rows"]}
        for images in sorted({row["images"] for row in network["rows"]}):
            for share in shares:
                cells = [_pair(found[images, share, what]) for what in WHAT]
                rows.append([network["network"], str(images), f"{100 * share:.0f} %", *cells])
    head = ["network", "images", "kept", *(f"{title}: all, rows, rows − all [95 %]" for title in WHAT.values())]
    above = sum(row["beyond_noise"] for _, row in every)
    below = [(name, row) for name, row in every if row["rows_minus_exact"]["high"] < 0]
    higher = "; ".join(
        f"{name}, {row['images']} images, {WHAT[row['what']]} at {100 * row['share']:.0f} %" for name, row in below
    )
    rest = len(every) - above - len(below)
    note = (
        f"In %: {record['what']}, on up to {record['held_out']:,} test images. Of all {len(every)} comparisons (every "
        f"share from 90 to 10 %) the error over all positions is lower beyond noise in {above}, higher beyond noise in "
        f"{len(below)}{f' ({higher})' if higher else ''}, and not separated in {rest}. Intervals: Student's t over "
        f"{len(record['seeds'])} paired seeds; {machine(record)}."
    )
    return f"{rows_to_markdown(head, rows)}\n\n{note}"


def _pair(row: dict[str, Any]) -> str:
    gap = row["rows_minus_exact"]
    bounds = f"[{100 * gap['low']:+.2f}, {100 * gap['high']:+.2f}]"
    return f"{100 * row['exact']:.2f}, {100 * row['rows']:.2f}, {100 * gap['mean']:+.2f} {bounds}"


def comparison(record: dict[str, Any]) -> str:
    """Accuracy right after the cut by each way of choosing, without and with compensation."""
    parts = []
    for network in record["networks"]:
        shares = sorted({row["share"] for row in network["rows"]}, reverse=True)
        found = {(row["arm"], row["compensated"], row["share"]): row for row in network["rows"]}
        rows = [
            [title, "both" if compensated else "none"]
            + [f"{100 * found[key, compensated, share]['mean']:.1f}" for share in shares]
            for compensated in (False, True)
            for key, title in record["arms"].items()
        ]
        head = [network["network"], "re-fitted", *(f"{100 * share:.0f} %" for share in shares)]
        note = (
            f"Dense: {100 * network['dense_test_top1']:.2f} %, {network['samples']:,} test images; "
            f"{'means over seeds' if len(network['seeds']) > 1 else 'seed'} {', '.join(map(str, network['seeds']))}."
        )
        parts.append(f"{rows_to_markdown(head, rows)}\n\n{note}")
    return "\n\n".join([*parts, f"{record['what'].capitalize()}; {machine(record)}."])


def half(record: dict[str, Any]) -> str:
    """What comes back of ResNet-56's accuracy at half of the multiply-adds."""
    rows = [
        [
            row["arm"],
            row["stage"],
            f"{row['macs'] / 1e6:.2f}M",
            ", ".join(f"{100 * value:.2f}" for value in row["test_top1"]),
            f"{100 * row['mean']:.2f}",
        ]
        for row in record["rows"]
    ]
    head = ["method", "after", "MACs", f"test top-1 %, seeds {', '.join(map(str, record['seeds']))}", "mean"]
    note = (
        f"{record['what']}; dense {100 * record['dense_test_top1']:.2f} %, {record['samples']} test images, so one is "
        f"{100 / record['samples']:.2f} points; {machine(record)}."
    )
    return f"{rows_to_markdown(head, rows)}\n\n{note}"


def sizes(record: dict[str, Any]) -> str:
    """The paper's table of sizes and times, beside what it says."""
    rows = []
    for row in record["rows"]:
        published = row["published_ms"]
        rows.append(
            [
                row["network"],
                f"{row['params'] / 1e6:.2f}M",
                f"{2 * row['macs'] / 1e9:.2f}B",
                f"{row['forward_ms']:.0f} / {row['backward_ms']:.0f}",
                f"{row['forward_ratio']:.2f} / {row['backward_ratio']:.2f}",
                row["published_params"],
                row["published_flops"],
                "" if published is None else f"{published[0]} / {published[1]}",
            ]
        )
    head = [
        "network",
        "parameters",
        "FLOPs",
        "forward / backward, ms",
        "× dense",
        "published parameters",
        "FLOPs",
        "ms on a graphics card",
    ]
    note = (
        f"FLOPs are two per multiply-add. Batch {record['batch_size']} (the paper's is 32), medians of "
        f"{record['rounds']} rounds, {record['threads']} thread(s); {machine(record)}."
    )
    return f"{rows_to_markdown(head, rows)}\n\n{note}"
