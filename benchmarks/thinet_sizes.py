"""ThiNet's table: parameters, FLOPs in the paper's convention, and the time of a forward and a backward pass.

Run with `.venv/bin/python benchmarks/thinet_sizes.py`; some ten minutes on one core. Every network is cut by a plan of
the method `thinet` to the published shares (Luo, Wu, Lin 2017, arXiv:1707.06342, Tables 1 to 3), with random weights,
because sizes and times depend on widths alone. FLOPs are counted as in the paper: two per multiply-add of
convolutions and linear layers. Dense and cut networks are timed in turn, medians are reported; the milliseconds
that the authors' README has for two of them are those of one graphics card. The record goes to
`benchmarks/records/thinet_sizes.json`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur.files import write_text
from secateur.graph import apply, trace
from secateur.methods import ThiNet
from secateur.models import build_model
from secateur.record import environment
from secateur.training import set_threads


@dataclass(frozen=True)
class Row:
    """One network of the table."""

    title: str
    spec: str
    keep: Mapping[str, float]
    published_params: str
    published_flops: str
    published_ms: tuple[float, float] | None = None  # forward, backward


CONV4 = {f"features.{number}": 0.5 for number in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)}
TINY = {"features.28": 0.5, "features.*": 0.25}
ROWS = (
    Row("VGG-16", "vgg16-imagenet", {}, "138.34M", "30.94B"),
    Row("ThiNet-Conv", "vgg16-imagenet", CONV4, "131.44M", "9.58B"),
    Row("ThiNet-GAP", "vgg16-gap", CONV4, "8.32M", "9.34B", (71.73, 145.51)),
    Row("ThiNet-Tiny", "vgg16-gap", TINY, "1.32M", "2.01B", (29.51, 55.83)),
    Row("ResNet-50", "resnet50-caffe", {}, "25.56M", "7.72B"),
    Row("ThiNet-70", "resnet50-caffe", {"layer*.conv[12]": 0.7}, "16.94M", "4.88B"),
    Row("ThiNet-50", "resnet50-caffe", {"layer*.conv[12]": 0.5}, "12.38M", "3.41B"),
    Row("ThiNet-30", "resnet50-caffe", {"layer*.conv[12]": 0.3}, "8.66M", "2.20B"),
)


def cut(row: Row, inputs: Tensor) -> tuple[nn.Module, int, int]:
    """Return the network with its parameters and multiply-adds."""
    torch.manual_seed(0)
    model = build_model(row.spec)
    graph = trace(model, inputs)
    if not row.keep:
        return model, graph.params(), graph.macs()
    plan = ThiNet(keep=row.keep, residual="inner").decide(graph, model, None)
    return apply(model, plan, verify_with=None), graph.params(plan), graph.macs(plan)


def timed(models: list[nn.Module], inputs: Tensor, rounds: int) -> list[tuple[float, float]]:
    """Return forward and backward of each model, medians of rounds in which all take their turn."""
    labels = torch.zeros(len(inputs), dtype=torch.long)
    forward: list[list[float]] = [[] for _ in models]
    backward: list[list[float]] = [[] for _ in models]
    for number in range(rounds + 1):
        for place, model in enumerate(models):
            model.train()
            model.zero_grad(set_to_none=True)
            start = time.perf_counter()
            loss = cross_entropy(model(inputs), labels)
            middle = time.perf_counter()
            loss.backward()
            end = time.perf_counter()
            if number:  # the first round warms up
                forward[place].append(1000 * (middle - start))
                backward[place].append(1000 * (end - middle))
            model.zero_grad(set_to_none=True)
    return [(statistics.median(f), statistics.median(b)) for f, b in zip(forward, backward, strict=True)]


def main() -> None:
    """Cut, time and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=4, help="the paper's is 32")
    parser.add_argument("--size", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "thinet_sizes.json")
    options = parser.parse_args()
    set_threads(options.threads)
    shape = (3, options.size, options.size)
    made = [cut(row, torch.zeros(1, *shape)) for row in ROWS]
    inputs = torch.randn(options.batch_size, *shape, generator=torch.Generator().manual_seed(0))
    times = timed([model for model, _, _ in made], inputs, options.rounds)
    rows = []
    dense = 0
    for place, (row, (_, params, macs), (forward, backward)) in enumerate(zip(ROWS, made, times, strict=True)):
        dense = place if row.title in ("VGG-16", "ResNet-50") else dense
        rows.append(
            {
                "network": row.title,
                "params": params,
                "macs": macs,
                "forward_ms": forward,
                "backward_ms": backward,
                "forward_ratio": times[dense][0] / forward,
                "backward_ratio": times[dense][1] / backward,
                "published_params": row.published_params,
                "published_flops": row.published_flops,
                "published_ms": row.published_ms,
            }
        )
        print(f"{row.title}: {params:,} parameters, {2 * macs:,} FLOPs, {forward:.0f} + {backward:.0f} ms", flush=True)
    record = {
        "benchmark": "thinet_sizes",
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "threads": options.threads,
        "rows": rows,
        "environment": asdict(environment("cpu")),
    }
    write_text(options.out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
