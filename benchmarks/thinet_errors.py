"""Channels chosen over all positions against channels chosen over sampled rows: errors on images that chose nothing.

Run with `.venv/bin/python benchmarks/thinet_errors.py`; needs `../shared/data` (see its README) and some minutes. For
each inner layer of a trained network and each share that stays, channels and weights are found on training images: from
all positions (exact), and from ten sampled rows per image, as the authors of ThiNet do (Luo, Wu, Lin 2017,
arXiv:1707.06342, §3.2); on 10 images per class, which is their rule, and on more. What is lost is measured on held-out
images over all positions: the squared error of the next layer's output over its energy, averaged over the layers. A
seed decides which training images are looked at and which rows are drawn. The record goes to
`benchmarks/records/thinet_errors.json`.
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from l1 import interval
from thinet_networks import NETWORKS, Trained

from secateur.criteria.reconstruction import (
    Reader,
    Statistics,
    collect,
    forward_selection,
    greedy_removal,
    least_squares,
    readers_of,
    relative_error,
)
from secateur.files import write_text
from secateur.graph import trace
from secateur.methods.l1.layers import cuttable_layers
from secateur.record import environment
from secateur.training import Batch, set_threads

SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
ROWS = 10  # per image, as the authors
Found = Mapping[str, Statistics]


def read_layers(network: Trained) -> dict[str, tuple[Reader, ...]]:
    """Return the inner layers that one module reads, with that module."""
    graph = trace(network.model, network.task(0).example_inputs)
    groups = [group.name for group in cuttable_layers(graph, streams=False, skip=[])]
    return {name: readers_of(graph, network.model, name) for name in groups}


def only(found: Mapping[str, Mapping[str, Statistics]]) -> dict[str, Statistics]:
    """Return group → statistics, each group having one reader."""
    return {name: next(iter(each.values())) for name, each in found.items()}


def images(network: Trained, seed: int, count: int) -> list[Batch]:
    """Return ``count`` training images in batches."""
    size = network.task(seed).settings.batch_size
    batches = list(network.task(seed).batches(-(-count // size)))
    rest = count - size * (len(batches) - 1)
    return [*batches[:-1], (batches[-1][0][:rest], batches[-1][1][:rest])]


def losses(chosen_by: Found, held_out: Found, share: float) -> dict[str, list[float]]:
    """Return what each way of choosing loses on held-out images, one number per layer."""
    lost: dict[str, list[float]] = {"without w": [], "with w": [], "tpami": []}
    for name, seen in chosen_by.items():
        keep = max(1, int(seen.size * share))
        kept = greedy_removal(seen.gram, keep)
        forward = forward_selection(seen, keep)
        lost["without w"].append(relative_error(held_out[name], kept))
        lost["with w"].append(relative_error(held_out[name], kept, least_squares(seen, kept).weights))
        lost["tpami"].append(relative_error(held_out[name], forward, least_squares(seen, forward).weights))
    return lost


def measured(network: Trained, seeds: Sequence[int], counts: Sequence[int], held: int) -> list[dict[str, object]]:
    """Return one row per number of images, share and way of choosing."""
    readers = read_layers(network)
    test = network.task(0).batches(-(-held // network.task(0).settings.batch_size), "test")
    held_out = only(collect(network.model, readers, test))
    by: dict[tuple[int, float, str, str], list[float]] = {}
    for count, seed in itertools.product(counts, seeds):
        batches = images(network, seed, count)
        seen = {
            "exact": only(collect(network.model, readers, batches)),
            "rows": only(collect(network.model, readers, batches, rows_per_image=ROWS, seed=seed)),
        }
        for share, (how, found) in itertools.product(SHARES, seen.items()):
            for what, values in losses(found, held_out, share).items():
                by.setdefault((count, share, what, how), []).append(statistics.fmean(values))
        print(f"{network.title}, {count} images, seed {seed}", flush=True)
    rows: list[dict[str, object]] = []
    for count, share, what in itertools.product(counts, SHARES, ("without w", "with w", "tpami")):
        exact, sampled = by[count, share, what, "exact"], by[count, share, what, "rows"]
        gap = interval([b - a for a, b in zip(exact, sampled, strict=True)])
        rows.append(
            {
                "images": count,
                "share": share,
                "what": what,
                "exact": statistics.fmean(exact),
                "rows": statistics.fmean(sampled),
                "rows_minus_exact": gap,
                "beyond_noise": gap["low"] > 0,
                "never_worse": all(a <= b for a, b in zip(exact, sampled, strict=True)),
            }
        )
    return rows


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--images", nargs="+", type=int, default=[100, 512], help="that choose; 100: 10 per class")
    parser.add_argument("--held-out", type=int, default=1_024, help="test images that measure, at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "thinet", help="folder of trained networks")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "thinet_errors.json")
    options = parser.parse_args()
    set_threads(options.threads)
    found = []
    for name in options.networks:
        network = NETWORKS[name](options.runs)
        rows = measured(network, options.seeds, options.images, options.held_out)
        found.append({"network": network.title, "layers": len(read_layers(network)), "rows": rows})
    record = {
        "benchmark": "thinet_errors",
        "what": f"squared error of the next layer's output over its energy, mean over layers, {ROWS} rows per image",
        "seeds": options.seeds,
        "held_out": options.held_out,
        "networks": found,
        "environment": asdict(environment("cpu")),
    }
    write_text(options.out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
