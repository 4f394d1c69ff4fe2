"""Choose channels by all positions of few images, and by sampled rows of many as ThiNet's authors do: time and memory.

Run with `.venv/bin/python benchmarks/thinet.py` from the checkout's root, on a machine that does nothing else, for some
twenty minutes; needs `../shared/data` (see its README). The network is VGG-16 for 224 × 224 images with random
weights whose filters differ in size (log-normal, σ 0.5), the images are CIFAR-10's, enlarged. For every layer half of
its input channels are chosen

* exactly: a `GramAccumulator` over all positions of N images, then `greedy_removal`;
* from rows: 100,000 contributions at random places, kept as a matrix; each step evaluates the sum over all rows anew
  for every channel that is left, as the authors' code does, here with the rows of a channel next to each other in
  single precision and one call for each sum. For comparison also with one product of matrix and vector per step, which
  they do not do.

Every time is measured; that of the authors' 10,000 images × 10 rows is *extrapolated* from the measured seconds per
image of forward pass and of drawing rows (they run the whole network for each layer; both ways are also counted with
passes that stop before the layer). The rows themselves come from `--sampled-images` images. N is the smallest of
`--images` at which the error on other images, over all their positions, is no larger than that of the sampled choice,
both with the channels as they are and re-weighted by least squares; the error reported is that on the same images.
Times are medians over rounds: passes in turn, ways to choose one after the other. The record goes to
`benchmarks/records/thinet.json`.
"""

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from thinet_arms import (
    AUTHORS_IMAGES,
    AUTHORS_ROWS_PER_IMAGE,
    Rows,
    channels_of,
    greedy_on_rows,
    images,
    inputs_of,
    network,
    run_arm,
    working_memory_mb,
)
from torch import Tensor, nn

from secateur.criteria.reconstruction import (
    GramAccumulator,
    Statistics,
    greedy_removal,
    least_squares,
    relative_error,
    sample_rows,
    statistics_of_rows,
)
from secateur.files import write_text
from secateur.randomness import generator_for
from secateur.record import environment
from secateur.training import set_threads

AIMS = {"selection": 100.0, "total": 20.0, "accumulation": 0.5, "gram": 1e-6}


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def time_passes(chain: nn.Sequential, layers: list[int], options: argparse.Namespace) -> dict[str, list[float]]:
    """Return seconds per image of each kind of work on each layer, in each round after the first, which warms up."""
    found: dict[str, list[float]] = {}
    accumulators = {layer: GramAccumulator(chain[layer], range(channels_of(chain, layer))) for layer in layers}
    needed = (options.rounds + 1) * options.batch
    for number, pixels in enumerate(images("train", needed, options.side, options.batch)):
        read = inputs_of(chain, layers, pixels)
        turns: dict[str, Callable[[], object]] = {"forward": lambda pixels=pixels: chain(pixels)}
        for layer in layers:
            inputs, units = read[layer], range(channels_of(chain, layer))
            count = AUTHORS_ROWS_PER_IMAGE * len(pixels)
            draws = generator_for("rows", layer, number)
            turns[f"until {layer}"] = lambda layer=layer, pixels=pixels: chain[:layer](pixels)
            turns[f"exact {layer}"] = lambda layer=layer, inputs=inputs: accumulators[layer].add(inputs)
            turns[f"rows {layer}"] = lambda layer=layer, units=units, inputs=inputs, count=count, draws=draws: (
                sample_rows(chain[layer], units, inputs, count, draws)
            )
        names = list(turns)
        for place in torch.randperm(len(names), generator=torch.Generator().manual_seed(number)).tolist():
            with torch.no_grad():
                taken = seconds(turns[names[place]]) / len(pixels)
            if number > 0:
                found.setdefault(names[place], []).append(taken)
    return found


def exact_statistics(
    chain: nn.Sequential, layers: list[int], split: str, counts: list[int], options: argparse.Namespace
) -> dict[int, dict[int, tuple[Statistics, float]]]:
    """Return for each layer the statistics of the first so many images, and the seconds that asking for them took."""
    accumulators = {layer: GramAccumulator(chain[layer], range(channels_of(chain, layer))) for layer in layers}
    found: dict[int, dict[int, tuple[Statistics, float]]] = {layer: {} for layer in layers}
    done, bounds = 0, sorted(set(counts))
    for pixels in images(split, bounds[-1], options.side, math.gcd(options.batch, *bounds)):
        for layer, inputs in inputs_of(chain, layers, pixels).items():
            accumulators[layer].add(inputs)
        done += len(pixels)
        if done in bounds:
            for layer, accumulator in accumulators.items():
                began = time.perf_counter()
                sums = accumulator.statistics()
                found[layer][done] = (sums, time.perf_counter() - began)
    return found


def sampled_columns(chain: nn.Sequential, layers: list[int], options: argparse.Namespace) -> dict[int, Tensor]:
    """Return for each layer its matrix of rows, shape (C, rows)."""
    per_image = -(-options.rows // options.sampled_images)
    matrices = {layer: Rows(chain, layer, options.rows, per_image) for layer in layers}
    for pixels in images("train", options.sampled_images, options.side, options.batch):
        for layer, inputs in inputs_of(chain, layers, pixels).items():
            matrices[layer].add(inputs)
    return {layer: matrix.columns for layer, matrix in matrices.items()}


def gram_error(chain: nn.Sequential, layer: int, options: argparse.Namespace) -> float:
    """Return how far G of one image is from that of its materialised rows in double precision, of the largest entry."""
    inputs = inputs_of(chain, [layer], next(images("train", 1, options.side, 1)))[layer]
    grams = []
    for route, read in (("auto", inputs), ("patches", inputs.double())):
        accumulator = GramAccumulator(chain[layer], range(channels_of(chain, layer)), route=route)
        accumulator.add(read)
        grams.append(accumulator.statistics().gram)
    return float((grams[0] - grams[1]).abs().max() / grams[1].abs().max())


def selections(gram: Tensor, columns: Tensor, keep: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each round of each way to choose."""
    ways: dict[str, Callable[[], object]] = {
        "exact": lambda: greedy_removal(gram, keep),
        "rows": lambda: greedy_on_rows(columns, keep),
        "rows, one product per step": lambda: greedy_on_rows(columns, keep, at_once=True),
    }
    greedy_removal(gram, keep)
    return {name: [seconds(way) for _ in range(rounds)] for name, way in ways.items()}


def compare(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for each layer."""
    chain, layers = network(), options.layers
    passes = {name: statistics.median(found) for name, found in time_passes(chain, layers, options).items()}
    exact = exact_statistics(chain, layers, "train", options.images, options)
    held_out = exact_statistics(chain, layers, "test", [options.held_out], options)
    sampled = sampled_columns(chain, layers, options)
    for layer in layers:
        keep = int(channels_of(chain, layer) * options.keep)
        other, columns = held_out[layer][options.held_out][0], sampled[layer]
        of_columns = statistics_of_rows(columns.T)
        of_rows = _errors(of_columns, other, greedy_removal(of_columns.gram, keep))
        of_exact = {n: _errors(sums, other, greedy_removal(sums.gram, keep)) for n, (sums, _) in exact[layer].items()}
        enough = [n for n, found in of_exact.items() if all(a <= b for a, b in zip(found, of_rows, strict=True))]
        taken = min(enough, default=max(of_exact))
        sums, summing = exact[layer][taken]
        chosen = selections(sums.gram, columns, keep, options.rounds)
        choosing = {name: statistics.median(found) for name, found in chosen.items()}

        def total(per_image: float, layer: int = layer, taken: int = taken, rest: float = summing) -> dict[str, float]:
            ours = taken * (per_image + passes[f"exact {layer}"]) + rest + choosing["exact"]  # noqa: B023
            theirs = AUTHORS_IMAGES * (per_image + passes[f"rows {layer}"]) + choosing["rows"]  # noqa: B023
            return {"exact_s": ours, "rows_s_extrapolated": theirs, "ratio": theirs / ours}

        yield {
            "layer": f"features.{layer}",
            "channels": channels_of(chain, layer),
            "filters": chain[layer].out_channels,
            "threads": options.threads,
            "images": taken,
            "forward_s_per_image": passes["forward"],
            "until_layer_s_per_image": passes[f"until {layer}"],
            "accumulation_s_per_image": passes[f"exact {layer}"],
            "accumulation_of_forward": passes[f"exact {layer}"] / passes["forward"],
            "statistics_s": summing,
            "rows_s_per_image": passes[f"rows {layer}"],
            "selection_s": choosing,
            "selection_ratio": choosing["rows"] / choosing["exact"],
            "whole_passes": total(passes["forward"]),
            "passes_until_layer": total(passes[f"until {layer}"]),
            "held_out_error": {
                "rows": dict(zip(("as they are", "re-weighted"), of_rows, strict=True)),
                "exact": {n: dict(zip(("as they are", "re-weighted"), e, strict=True)) for n, e in of_exact.items()},
                "no_worse": bool(enough),
            },
            "gram_error": gram_error(chain, layer, options),
            "working_memory_mb": memory(layer, options),
        }


def memory(layer: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the most memory of each way; of the exact one for two numbers of images, both of several batches."""
    few, many = 4 * options.batch, 16 * options.batch
    return {
        "forward": working_memory_mb(layer, "forward", few, options),
        "exact": {n: working_memory_mb(layer, "exact", n, options) for n in (few, many)},
        "rows": working_memory_mb(layer, "rows", few, options),
    }


def measure_memory_again(options: argparse.Namespace) -> None:
    """Put new figures of memory into the record that is there."""
    record = json.loads(options.out.read_text())
    for row in record["rows"]:
        row["working_memory_mb"] = memory(int(row["layer"].removeprefix("features.")), options)
        print(f"{row['layer']}: {row['working_memory_mb']}", flush=True)
    write_text(options.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _errors(fitted: Statistics, held_out: Statistics, kept: tuple[int, ...]) -> tuple[float, float]:
    """Return the share of the held-out output that is lost, with the channels as they are and re-weighted."""
    weights = least_squares(fitted, kept).weights
    return relative_error(held_out, kept), relative_error(held_out, kept, weights)


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", type=int, default=[2, 7, 12, 19], help="numbers in `features`")
    parser.add_argument(
        "--images", nargs="+", type=int, default=[8, 16, 32, 64, 128], help="N to try, over all positions"
    )
    parser.add_argument("--rows", type=int, default=AUTHORS_IMAGES * AUTHORS_ROWS_PER_IMAGE)
    parser.add_argument("--sampled-images", type=int, default=2_000, help="that the rows are drawn from")
    parser.add_argument("--held-out", type=int, default=64, help="other images, for the error")
    parser.add_argument("--keep", type=float, default=0.5, help="share of the channels that stays")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=224, help="of the images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only-memory", action="store_true", help="measure memory anew, for the record that is there")
    parser.add_argument("--arm", choices=("forward", "exact", "rows"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "thinet.json")
    options = parser.parse_args()
    set_threads(options.threads)
    if options.arm:
        run_arm(options)
        return
    if options.only_memory:
        measure_memory_again(options)
        return
    began, before, rows = time.perf_counter(), os.getloadavg(), []
    for row in compare(options):
        rows.append(row)
        whole, peak = row["whole_passes"], row["working_memory_mb"]
        print(
            f"{row['layer']}, {row['channels']} channels: {row['images']} images "
            f"({'no worse' if row['held_out_error']['no_worse'] else 'WORSE'} on others); "
            f"accumulation {row['accumulation_of_forward']:.2f} × forward, "
            f"selection {row['selection_s']['exact'] * 1e3:.2f} ms, {row['selection_ratio']:,.0f} × faster; in all "
            f"{whole['exact_s']:.1f} s against {whole['rows_s_extrapolated']:,.0f} s, {whole['ratio']:.0f} × faster "
            f"({row['passes_until_layer']['ratio']:.0f} × with passes that stop); G to {row['gram_error']:.1e}; "
            f"memory {peak['forward']:,.0f} / {list(peak['exact'].values())} / {peak['rows']:,.0f} MB",
            flush=True,
        )
    record = {
        "benchmark": "thinet",
        "environment": asdict(environment(torch.device("cpu"))),
        "load_average": {"before": before, "after": os.getloadavg(), "cores": os.cpu_count()},
        "options": {name: value for name, value in vars(options).items() if name not in ("out", "arm", "only_memory")},
        "authors": {"images": AUTHORS_IMAGES, "rows_per_image": AUTHORS_ROWS_PER_IMAGE, "extrapolated": True},
        "aims": AIMS,
        "seconds": time.perf_counter() - began,
        "rows": rows,
    }
    write_text(options.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
