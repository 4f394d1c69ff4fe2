"""Tables and figures of sparsity by level, and of the trade-off of LeNet-300-100, for `docs/benchmarks.md`."""

import statistics
from typing import Any

from table_parts import machine, rows_to_markdown

WAYS = {"once": "one cut", "iterative": "several cuts"}


def sparsity_levels(record: dict[str, Any]) -> str:
    """Test accuracy by what goes and how much; what cannot be reached, and why."""
    rows, params = record["rows"], record["dense_params"]
    shares = sorted({row["share"] for row in rows if not isinstance(row["share"], str)})
    found = {(row["level"], row["schedule"], row["share"]): row for row in rows}
    table = []
    for level, schedule in dict.fromkeys((row["level"], row["schedule"]) for row in rows):
        cells = [_cell(found.get((level, schedule, share))) for share in shares]
        table.append([f"{level}s", WAYS[schedule], *cells])
    head = ["what goes", "how", *(f"{share:.0%} gone" for share in shares)]
    parts = [rows_to_markdown(head, table), _cost_table(record)]
    floors = [row for row in rows if row["share"] == "floor" and "mean" in row]
    if floors:
        left = floors[0]["params_left"][0]
        text = ", ".join(f"{_cell(row)} in {WAYS[row['schedule']]}" for row in floors)
        parts.append(
            f"Layers go no further than {1 - left / params:.1%} ({left:,} parameters left: blocks that change the size "
            f"of their stream cannot go): {text}."
        )
    rates = ", ".join(f"{level}s {rate:g}" for level, rate in record["rates"].items())
    seeds = record["seeds"]
    over = f"means over seeds {', '.join(map(str, seeds))} ± half their range" if len(seeds) > 1 else "one seed"
    parts.append(
        f"Test top-1 %, {over}; dense "
        f"{100 * record['dense_test_top1']:.2f} % with {params:,} parameters. {record['what']}; {record['steps']} cuts "
        f"with {record['epochs_between']} of the epochs between them, or one. Learning rates, chosen per level on the "
        f"images that are not reported: {rates}. {record['samples']:,} test samples; {machine(record)}."
    )
    picture = "![test accuracy against the parameters left](figures/sparsity-levels.svg)"
    return "\n\n".join([picture, *parts])


def lenet_figures(record: dict[str, Any]) -> str:
    """Test errors of the trade-off by share and arm."""
    rows = record["rows"]
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    shares = sorted({row["share"] for row in rows})
    errors = {(row["arm"], row["share"]): row for row in rows}
    table = [[f"{100 * share:g} %", *(f"{100 * errors[arm, share]['mean']:.2f}" for arm in arms)] for share in shares]
    dense = ", ".join(
        f"{kind.upper()} {100 * statistics.fmean(found):.2f} %" for kind, found in record["dense_error"].items()
    )
    chosen = " and ".join(f"{kind.upper()} {one['strength']:g}" for kind, one in record["penalties"].items())
    shown, pixels = record["shown"], record["pixels"]
    note = (
        f"Test error %, means over seeds {', '.join(map(str, record['seeds']))}; dense {dense} with "
        f"{record['params']:,} parameters. {record['what']}; penalties {chosen}, chosen on validation images under "
        f"seed {record['search']['seed']}. With {shown['nonzeros']:,} parameters left, {pixels['never_read']} of "
        f"{len(pixels['left'])} pixels are not read at all. {record['samples']:,} test samples; {machine(record)}."
    )
    pictures = {
        "tradeoff": "accuracy lost against the share of parameters gone (Figure 5)",
        "sensitivity": "each layer pruned alone, without retraining (Figure 6)",
        "pattern": "the first layer, and how many weights read each pixel (Figure 4)",
        "histograms": "weights before and after (Figure 8)",
    }
    drawn = [f"![{text}](figures/lenet-{name}.svg)" for name, text in pictures.items()]
    return "\n\n".join([*drawn, rows_to_markdown(["parameters gone", *arms], table), note])


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or "mean" not in row:
        return "not reachable" if row is not None else ""
    found = row["test_top1"]
    spread = f" ± {50 * (max(found) - min(found)):.2f}" if len(found) > 1 else ""
    return f"{100 * row['mean']:.2f}{spread}"


def _cost_table(record: dict[str, Any]) -> str:
    """Return the parameters left and the multiply-adds that a dense engine then does, of the runs in one cut."""
    rows = [row for row in record["rows"] if row["schedule"] == record["rows"][0]["schedule"] and "mean" in row]
    table = [
        [
            f"{row['level']}s",
            "as far as it goes" if isinstance(row["share"], str) else f"{row['share']:.0%}",
            f"{row['params_left'][0]:,}",
            f"{row['macs'][0] / record['dense_macs']:.1%}",
        ]
        for row in rows
    ]
    return rows_to_markdown(
        ["what goes", "gone, asked for", "parameters left", "MACs left without sparse kernels"], table
    )
