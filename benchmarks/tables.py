"""Write the tables of docs and README from the records in `benchmarks/records`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; what is between is replaced. `--check` changes nothing
and exits 1 if a file is out of date, which a test runs.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import calibration_tables
import graph_tables
import int8_tables
import latency_tables
import levels_tables
import pruning_tables
import slimmable_tables
import sparse_tables
import thinet_tables
import weights_tables
from table_parts import machine, rows_to_markdown

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "records"
TARGETS = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(ROOT.glob("secateur/methods/*/README.md")),
)


def surgery(record: dict[str, Any]) -> str:
    """Graph plus step against the peer."""
    rows = [
        [
            row["model"],
            f"{row['ours_median_s']:.3f}",
            f"{row['peer_median_s']:.3f}",
            f"{row['ratio']:.1f}×",
            f"{row['macs_ours'] / row['macs']:.1%}",
            f"{row['memory']['extra_bytes'] / 2**20:.0f} of {row['memory']['limit_bytes'] / 2**20:.0f}",
        ]
        for row in record["rows"]
    ]
    head = ["network", "Secateur s", f"{record['peer']} s", "ratio", "MACs left (both)", "extra memory MiB of limit"]
    note = (
        f"Geometric mean of the ratios {record['geometric_mean_ratio']:.1f}×. Medians of {record['repeats']} "
        f"interleaved repeats, one thread; {machine(record)}."
    )
    return f"{rows_to_markdown(head, rows)}\n\n{note}"


def training(record: dict[str, Any]) -> str:
    """The training loop against a bare loop."""
    rows = [
        [
            row["workload"],
            str(row["threads"]),
            "yes" if row["augment"] else "no",
            f"{row['ours_images_per_s']:,.0f}",
            f"{row['bare_images_per_s']:,.0f}",
            f"{row['ratio']:.3f}",
        ]
        for row in record["rows"]
    ]
    head = ["workload", "threads", "augmentation", "Secateur images/s", "bare loop images/s", "ratio"]
    return f"{rows_to_markdown(head, rows)}\n\nMedians of paired, interleaved rounds, batch 128; {machine(record)}."


def run(record: dict[str, Any]) -> str:
    """Before and after of one `secateur prune` run."""
    titles = {
        "dense": "dense",
        "cut": "cut, not yet fine-tuned",
        "tuned": "fine-tuned",
        "onnx": "fine-tuned, ONNX Runtime",
    }
    rows = []
    for key, title in titles.items():
        value = record["measurements"].get(key)
        if value is None:
            continue
        test, latency = value["test"], value["latency"]
        rows.append(
            [
                title,
                f"{100 * test['top1']:.2f} %",
                f"{test['loss']:.4f}",
                f"{value['macs'] / 1e6:.2f}M",
                f"{value['params']:,}",
                f"{value['size_bytes'] / 1e6:.2f} MB",
                f"{latency['median_ms']:.2f} ± {latency['spread_ms']:.2f}" if latency else "",
            ]
        )
    head = ["model", "top-1", "loss", "MACs", "parameters", "file", "latency ms"]
    proof, threads = record["proof"], record["environment"]["threads"]
    note = (
        f"{record['measurements']['dense']['test']['samples']:,} test samples, last epoch, "
        f"seed {record['seeds']['seed']}. Proof: {proof['verdict']}, max|masked − cut| / max|original − masked| = "
        f"{proof['relative_error']:.0e}. Latency: median ± distance of the quartiles, batch 1, {threads} thread(s); "
        f"{machine(record)}."
    )
    return f"{rows_to_markdown(head, rows)}\n\n{note}"


def seeds(record: dict[str, Any]) -> str:
    """Criteria at one budget, paired by seed."""
    rows = [
        [
            row["criterion"],
            ", ".join(f"{100 * value:.2f}" for value in row["test_top1"]),
            f"{100 * row['mean']:.2f} ± {100 * row['spread']:.2f}",
        ]
        for row in record["rows"]
    ]
    head = ["criterion", f"test top-1 %, seeds {', '.join(map(str, record['seeds']))}", "mean ± half range"]
    paired = ", ".join(f"{100 * value:+.2f}" for value in record["paired_difference"])
    note = (
        f"{record['what']}. L1 minus random, paired by seed: {paired} points. {record['samples']:,} test samples, last "
        f"epoch; {machine(record)}."
    )
    return f"{rows_to_markdown(head, rows)}\n\n{note}"


def arms(record: dict[str, Any]) -> str:
    """Ways to prune at one budget, paired by seed with one of them."""
    rows = []
    for row in record["rows"]:
        gap = row["difference_to_reference"]
        after_cut = [value for value in row["after_cut_test_top1"] if value is not None]
        rows.append(
            [
                row["arm"],
                f"{row['macs'] / 1e6:.2f}M",
                f"{row['params']:,}",
                f"{100 * sum(after_cut) / len(after_cut):.2f}" if after_cut and row["arm"] != "scratch" else "",
                ", ".join(f"{100 * value:.2f}" for value in row["test_top1"]),
                "–" if gap is None else f"{100 * gap['mean']:+.2f} [{100 * gap['low']:+.2f}, {100 * gap['high']:+.2f}]",
            ]
        )
    head = [
        "arm",
        "MACs",
        "parameters",
        "test top-1 % right after the cut",
        f"test top-1 %, seeds {', '.join(map(str, record['seeds']))}",
        f"points against {record['reference']}, 95 % interval",
    ]
    note = (
        f"{record['what']}; the dense model has {100 * record['dense_test_top1']:.2f} % there before any training on "
        f"it. Interval: Student's t over the paired seeds. {record['samples']:,} test samples, last epoch; "
        f"{machine(record)}."
    )
    return f"{rows_to_markdown(head, rows)}\n\n{note}"


STEEPEST = 12  # layers in the table


def sensitivity(record: dict[str, Any]) -> str:
    """Layers by how much accuracy they lose when cut alone, beside the layers that the paper skips."""
    ranked = record["rows"]
    shown = [row for place, row in enumerate(ranked) if place < STEEPEST or row["skipped_by_paper"]]
    rows = [
        [
            str(ranked.index(row) + 1),
            f"`{row['layer']}`" + (" (stream)" if row["tied"] else ""),
            str(row["number"] or ""),
            "yes" if row["skipped_by_paper"] else "",
            f"{100 * row['drop_at_0.5']:.1f}",
            f"{100 * row['drop_at_0.9']:.1f}",
            f"{100 * row['mean_drop']:.1f}",
        ]
        for row in shown
    ]
    head = ["rank", "layer", "paper's number", "paper skips it", "points lost at 50 %", "at 90 %", "mean of 10–90 %"]
    note = (
        f"{record['what']}; {len(ranked)} groups, dense {100 * record['dense_top1']:.1f} %; {record['samples']} "
        f"samples, so one is {100 / record['samples']:.2f} points; {machine(record)}."
    )
    return f"{rows_to_markdown(head, rows)}\n\n{note}"


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "surgery": surgery,
    "coverage": graph_tables.coverage,
    "five_networks": graph_tables.five_networks,
    "properties": graph_tables.properties,
    "training": training,
    "resnet56": run,
    "criteria": seeds,
    "l1": arms,
    "sensitivity": sensitivity,
    "gates": pruning_tables.gates,
    "global_pruning": pruning_tables.global_pruning,
    "slimming_mnist": pruning_tables.slimming_mnist,
    "thinet": thinet_tables.speed,
    "thinet_errors": thinet_tables.errors,
    "thinet_comparison": thinet_tables.comparison,
    "thinet_half": thinet_tables.half,
    "thinet_sizes": thinet_tables.sizes,
    "lenets": weights_tables.lenets,
    "sparse_file": sparse_tables.sparse_file,
    "sparse_fuzz": sparse_tables.sparse_fuzz,
    "masked_step": sparse_tables.masked_step,
    "lenet_figures": levels_tables.lenet_figures,
    "sparsity_levels": levels_tables.sparsity_levels,
    "latency_budget": latency_tables.latency_budget,
    "latency_search": latency_tables.latency_search,
    "slimmable": slimmable_tables.slimmable,
    "autoslim_search": slimmable_tables.autoslim_search,
    "autoslim_cifar": slimmable_tables.autoslim_cifar,
    "int8": int8_tables.int8,
    "calibration": calibration_tables.calibration,
    "int8_accuracy": int8_tables.int8_accuracy,
}


def filled(text: str) -> str:
    """Return ``text`` with every table made anew from its record."""

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        path = RECORDS / f"{name}.json"
        body = TABLES[name](json.loads(path.read_text(encoding="utf-8"))) if path.exists() else "Not measured yet."
        return f"<!-- table: {name} -->\n{body}\n<!-- end -->"

    return re.sub(r"<!-- table: (?P<name>[\w-]+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main() -> None:
    """Rewrite or check all files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a table is out of date")
    check = parser.parse_args().check
    stale = []
    for path in TARGETS:
        text = path.read_text(encoding="utf-8")
        new = filled(text)
        if new != text:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(new, encoding="utf-8")
    if stale:
        print(("out of date: " if check else "rewritten: ") + ", ".join(stale))
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
