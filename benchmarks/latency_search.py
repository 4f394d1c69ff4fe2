"""Search a super-net for widths, pick networks for shares of its latency, and time what would be delivered.

Run with `.venv/bin/python benchmarks/latency_search.py` from the checkout's root: a minute for the latency table of the
super-net of `--recipe` (batch 1, one thread), a search as the recipe says, then for each of `--shares` the network that
`secateur search --pick latency_ms=SHARE --further` takes from the front, cut, proved, exported, and timed in turn with
the super-net, as every run with a budget in milliseconds does. Wanted: measured within 10 % of what was asked. What is
in `--folder` already is not computed again. The record goes to `benchmarks/records/latency_search.json`;
`benchmarks/tables.py` makes the table of it.
"""

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch

from secateur.cost import Budget, read_latency_table
from secateur.files import write_text
from secateur.measure import measure_latency_table
from secateur.models import build_model
from secateur.recipe import compress, picked_recipe, read_recipe, search_widths
from secateur.record import environment
from secateur.training import set_threads

LIMIT = 0.10


def main() -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="autoslim_digits-resnet_digits")
    parser.add_argument("--input", type=int, nargs=3, default=(1, 8, 8), help="channels, height and width")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--shares", type=float, nargs="*", default=[0.8, 0.65, 0.5], help="of the super-net's latency")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/latency-search"), help="of table, search and networks"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/latency_search.json"))
    options = parser.parse_args()
    set_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    recipe = read_recipe(options.recipe)
    path, front = options.folder / "latency.json", options.folder / "front"
    if not path.exists():
        model = build_model(recipe.model.spec, num_classes=options.classes, in_channels=options.input[0]).eval()
        measure_latency_table(model, torch.randn(2, *options.input), path)
    table = read_latency_table(path)
    searched = search_widths(recipe, front).search
    rows = []
    for share in options.shares:
        picked = picked_recipe(front, Budget(latency_ms=share), latency_table=path, further=True)
        record = compress(picked, options.folder / f"picked-{share:g}", begun_in=front, further=True).record
        found, tuned, dense = record.latency_budget, record.measurements["tuned"], record.measurements["dense"]
        assert found is not None
        assert found.off is not None
        assert tuned.macs is not None
        assert dense.macs is not None
        rows.append(
            {
                "network": recipe.model.spec,
                "asked_share": found.asked_share,
                "predicted_share": found.predicted_ms * found.asked_share / found.asked_ms,
                "processor_share": found.processor_share,
                "share_of_wall": found.measured_share,
                "off": found.off,
                "within": abs(found.off) <= LIMIT,
                "dense_ms": found.dense_ms,
                "measured_ms": found.measured_ms,
                "share_of_macs": tuned.macs / dense.macs,
                "test_top1": None if tuned.test is None else tuned.test.top1,
                "test_samples": None if tuned.test is None else tuned.test.samples,
                "runs": found.runs,
            }
        )
        print(f"{share:.2f}: {100 * found.off:+.1f} % from what was asked for", flush=True)
    written = {
        "recipe": options.recipe,
        "samples_of_the_search": searched.samples,
        "table_error": table.worst_error,
        "table_drift": table.drift,
        "rows": rows,
        "load_average": os.getloadavg(),
        "environment": asdict(environment(torch.device("cpu"), world_size=1)),
    }
    write_text(options.out, json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
