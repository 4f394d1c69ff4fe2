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

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "records"
TARGETS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("secateur/methods/*/README.md")))


def rows_to_markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _machine(record: dict[str, Any]) -> str:
    place = record["environment"]
    return f"{place.get('cpu', '?')}, Python {place.get('python', '?')}, torch {place.get('torch', '?')}"


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
        f"Geometric mean of the ratios {record['geometric_mean_ratio']:.1f}×. Medians of {record['repeats']} interleaved "
        f"repeats, one thread; {_machine(record)}."
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
    return f"{rows_to_markdown(head, rows)}\n\nMedians of paired, interleaved rounds, batch 128; {_machine(record)}."


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {"surgery": surgery, "training": training}


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
