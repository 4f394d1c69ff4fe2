"""What choosing ranges costs: counting values, the search by divergence, and all of it beside a plain forward.

Run with `.venv/bin/python benchmarks/calibration.py`; some ten minutes on one core, one without `forward`. Parts are
named on the command line, and each replaces its own entry of the record, so that a part can be run again alone:

- `search`: the entropy calibrator on 2,048 bins beside the vectorised numpy form (one `bincount` per candidate) of
  the same definition. Both are asked for the same threshold; the least divergence of both is recorded.
- `counting`: nanoseconds per element of the streaming histogram beside other ways to count, on tensors of the sizes
  that ResNet-50 gives at batch 1 and 8. What a sample of every seventh value would save and get wrong stands beside it.
- `forward`: all calibrators from one pass over ResNet-50 as ratio to a plain forward, and the peak memory, beside the
  calibrators of ONNX Runtime (see `calibration_forward.py`); needs `pip install -e '.[vision,onnx]'`.

Figures are processor time on one thread, and the ways take turns: of `search` and `counting` the least of the rounds,
of `forward` the median ratio of the rounds.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import calibration_forward
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.files import write_text
from secateur.quantization import RangeHistogram, Spec, percentile
from secateur.quantization.calibrators.entropy import FIRST_BIN, divergences
from secateur.randomness import generator_for
from secateur.record import environment

LEVELS = 128
VECTORS: Mapping[str, tuple[float, float]] = {"1e6·exp(−i/150)": (1e6, 150), "1e7·exp(−i/60)": (1e7, 60)}
SIZES: Mapping[str, tuple[int, ...]] = {
    "stem, batch 1": (1, 64, 112, 112),
    "layer 1, batch 1": (1, 256, 56, 56),
    "layer 4, batch 1": (1, 512, 7, 7),
    "layer 2, batch 8": (8, 128, 28, 28),
}
STRIDE = 7


def by_candidate(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The numpy form: for each threshold one `bincount`, and the divergence over its bins."""
    found = []
    for edge in range(FIRST_BIN, len(counts) + 1):
        kept = counts[:edge].astype(np.float64)
        level = np.arange(edge) * LEVELS // edge
        filled = kept > 0
        number = np.bincount(level, filled, minlength=LEVELS)
        average = np.bincount(level, kept, minlength=LEVELS) / np.maximum(number, 1)
        q = np.where(filled, average[level], 0.0)
        kept[-1] += counts[edge:].sum()
        p, q = kept / kept.sum(), q / q.sum()
        some = p > 0
        with np.errstate(divide="ignore"):
            found.append(float((p[some] * np.log(p[some] / q[some])).sum()))
    return np.array(found)


def by_sums(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Ours: all thresholds at once from cumulative sums."""
    return divergences(counts, LEVELS)


def least_seconds(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the least CPU seconds of each way; they take turns."""
    found = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, call in ways.items():
            start = time.process_time()
            call()
            found[name] = min(found[name], time.process_time() - start)
    return found


def search(rounds: int) -> list[dict[str, Any]]:
    """Compare both forms of the search."""
    rows = []
    for name, (height, length) in VECTORS.items():
        counts = np.round(height * np.exp(-np.arange(2048) / length)).astype(np.int64)
        counts[0] = counts[1]
        seconds = least_seconds(
            {"numpy": lambda c=counts: by_candidate(c), "ours": lambda c=counts: by_sums(c)}, rounds
        )
        theirs, ours = by_candidate(counts), by_sums(counts)
        edges = {
            key: FIRST_BIN + len(found) - 1 - int(found[::-1].argmin())
            for key, found in (("numpy", theirs), ("ours", ours))
        }
        rows.append(
            {
                "counts": name,
                "seconds": seconds,
                "ours_of_numpy": seconds["ours"] / seconds["numpy"],
                "threshold_edges": edges,
                "least_divergences": {"numpy": float(theirs.min()), "ours": float(ours.min())},
                "largest_difference": float(np.abs(theirs - ours).max()),
            }
        )
        print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    return rows


def with_int64(x: Tensor, width: float) -> Tensor:
    """Count as the streaming histogram does, by 64-bit bin numbers."""
    return torch.bincount((x.reshape(-1) / width).long().add_(4096), minlength=8192)


def with_histc(x: Tensor, reach: float) -> Tensor:
    """Count |x| by torch's own histogram, as NVIDIA's code does."""
    return torch.histc(x.abs(), bins=2048, min=0, max=reach)


def of(x: Tensor) -> RangeHistogram:
    """Count all of a tensor."""
    found = RangeHistogram("benchmark")
    found.update(x)
    return found


def sample(x: Tensor) -> Tensor:
    """Return every seventh value."""
    return x.reshape(-1)[::STRIDE].contiguous()


def counting(rounds: int) -> list[dict[str, Any]]:
    """Measure each way to count on each size, with and without values below zero."""
    rows = []
    for size, shape in SIZES.items():
        for kind in ("normal", "after a ReLU"):
            x = torch.randn(shape, generator=generator_for("calibration", size))
            x = x.relu() if kind != "normal" else x
            whole, part, streamed = of(x), of(sample(x)), of(x)
            ways: Mapping[str, Callable[[], object]] = {
                "ours": lambda x=x, found=streamed: found.update(x),
                "aminmax alone": lambda x=x: torch.aminmax(x),
                "64-bit bin numbers": lambda x=x, width=whole.width: with_int64(x, width),
                "torch.histc": lambda x=x, reach=whole.reach: with_histc(x, reach),
                f"ours, every {STRIDE}th": lambda x=x, found=streamed: (torch.aminmax(x), found.update(sample(x))),
            }
            seconds = least_seconds(ways, rounds)
            spec = Spec(signed=True, symmetric=True)
            ranges = [percentile(99.99)(found, spec).range[1] for found in (whole, part)]
            rows.append(
                {
                    "tensor": size,
                    "shape": list(shape),
                    "values": kind,
                    "nanoseconds_per_element": {name: value / x.numel() * 1e9 for name, value in seconds.items()},
                    "percentile_99_99_of_sample": ranges[1] / ranges[0],
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


ROUNDS = {"search": 7, "counting": 7, "forward": 3}


def measured(part: str, rounds: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the entry of a part."""
    if part == "forward":
        return calibration_forward.forward(options.images, options.peer_images, options.batch, rounds)
    return {"rows": search(rounds) if part == "search" else counting(rounds)}


def options_of_command() -> argparse.Namespace:
    """Read the command line, and refuse what would fail later."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(ROUNDS)}; all by default")
    usual = ", ".join(f"{part} {rounds}" for part, rounds in ROUNDS.items())
    parser.add_argument("--rounds", type=int, help=f"by default {usual}")
    parser.add_argument("--images", nargs="+", type=int, default=[64, 256], help="forward: how many, each in turn")
    parser.add_argument("--batch", type=int, default=8, help="forward: images at a time")
    parser.add_argument(
        "--peer-images", nargs="*", type=int, default=[8, 16], help="forward: how many ONNX Runtime gets; none: no peer"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "calibration.json")
    options = parser.parse_args()
    for part in options.parts:
        if part not in ROUNDS:
            parser.error(f"no part {part!r}; choose from: {', '.join(ROUNDS)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: give at least 1")
    if min(options.batch, *options.images, *options.peer_images) < 1:
        parser.error("--images, --peer-images and --batch take numbers from 1 on")
    for count in options.peer_images:
        if count > calibration_forward.MOST_PEER_IMAGES:
            most = f"{calibration_forward.MOST_PEER_IMAGES} images are some 6 GB"
            parser.error(f"--peer-images {count}: ONNX Runtime keeps all activations, and {most}; give fewer")
        if count % options.batch:
            parser.error(f"--peer-images {count}: ONNX Runtime needs whole batches of {options.batch}")
    return options


def main() -> None:
    """Run the parts that are asked for, and record them beside the others."""
    options = options_of_command()
    torch.set_num_threads(1)
    record = json.loads(options.out.read_text()) if options.out.exists() else {"benchmark": "calibration", "parts": {}}
    short: list[str] = []
    for part in options.parts or ROUNDS:
        rounds = options.rounds or ROUNDS[part]
        found = measured(part, rounds, options)
        record["parts"][part] = {"rounds": rounds, "environment": asdict(environment("cpu")), **found}
        write_text(options.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        if part == "forward":
            short += calibration_forward.missed(found)
    print("\n".join(short), end="\n" if short else "")
    sys.exit(1 if short else 0)


if __name__ == "__main__":
    main()
