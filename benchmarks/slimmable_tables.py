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
    parts = [rows_to_markdown(first, sharing), note]
    if "stacking" in record:
        stacking = "; ".join(
            f"{row['model']} {row['ratio']:.2f} times as fast ({row['least_ratio']:.2f}–{row['most_ratio']:.2f})"
            for row in record["stacking"]
        )
        parts.append(
            f"Candidates in one batch: a pass over {record['stacking'][0]['stacked']} batches at once, against as many "
            f"passes over one of the size above: {stacking}."
        )
    return "\n\n".join([*parts, rows_to_markdown(second, shortlists), digits])


def autoslim_cifar(record: dict[str, Any]) -> str:
    """AutoSlim against a uniform multiplier and first-order scores, what the paper says, and the correlation."""
    seeds = ", ".join(map(str, record["seeds"]))
    arms = [
        [
            f"{100 * row['budget']:.0f}%",
            row["arm"],
            ", ".join(f"{macs / 1e6:.2f}M" for macs in row["macs"]),
            ", ".join(f"{params:,}" for params in row["params"]),
            ", ".join(f"{100 * value:.2f}" for value in row.get("estimates", [])) or "–",
            ", ".join(f"{100 * value:.2f}" for value in row["test_top1"]),
            f"{100 * row['mean']:.2f}",
        ]
        for row in record["rows"]
    ]
    first = ["budget", "arm", "MACs", "parameters", "super-net's estimate %", f"test top-1 %, seeds {seeds}", "mean"]
    said = [
        [
            f"{100 * claim['budget']:.0f}%",
            claim["claim"],
            ", ".join(f"{100 * value:+.2f}" for value in claim["by_seed"]),
            claim["holds"],
        ]
        for claim in record["claims"]
    ]
    second = ["budget", "what the paper says", f"points, seeds {seeds}", "holds here"]
    stages = [
        [f"{100 * row['budget']:.0f}%", str(row["seed"]), *(f"{share:.2f}" for share in row["shares"])]
        for row in record["stages"]
    ]
    third = ["budget", "seed", "stage 1", "stage 2", "stage 3"]
    dense = ", ".join(f"{100 * value:.2f}" for value in record["default_test_top1"])
    note = (
        f"{record['what']}. Shares are of the default network's {record['default_macs'] / 1e6:.2f}M multiply-adds; "
        f"trained as long as the others it has {dense} %. gate_taylor cuts that network, so its weights have seen "
        f"twice as many images. {record['samples']:,} test samples; {machine(record)}."
    )
    widths = (
        "Width of what was found relative to the default network, mean over the groups of each stage (1 is the "
        "published width, 1.5 the super-net's):"
    )
    return "\n\n".join(
        [
            rows_to_markdown(first, arms),
            note,
            rows_to_markdown(second, said),
            widths,
            rows_to_markdown(third, stages),
            _correlation(record),
        ]
    )


def _correlation(record: dict[str, Any]) -> str:
    """Return how well the super-net ranks networks of random widths."""
    found, (low, high) = record["correlation"], record["range"]
    least, most = found["pearson_interval"]
    return (
        f"{len(found['points'])} networks of random widths, {100 * low:.0f} to {100 * high:.0f} % of the default's "
        f"multiply-adds, trained like the others (seed {found['seed']}): between the super-net's estimate on "
        f"{record['lengths']['search_images']:,} images of the search and the test accuracy after training, Pearson's "
        f"correlation is {found['pearson']:.2f} [{least:.2f}, {most:.2f}] and Spearman's {found['spearman']:.2f}. "
        f"Multiply-adds alone correlate by {found['macs_pearson']:.2f} (their logarithm) and "
        f"{found['macs_spearman']:.2f}; with them held fixed, the estimate's partial correlation is "
        f"{found['partial']:.2f}."
    )
