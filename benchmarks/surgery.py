"""Time graph plus step against Torch-Pruning, interleaved, one thread, and measure the extra memory of a cut.

Run with `.venv/bin/pip install torch-pruning==1.6.1`, then `.venv/bin/python benchmarks/surgery.py`. Both cut the same
torchvision network by the L1 norm, the same share of every layer; verification runs on neither side. The peer prunes
in place, so it gets a fresh copy each time, made outside the timing; Secateur's time includes making its copy. The
record goes to `benchmarks/records/surgery.json`; `benchmarks/tables.py` makes the table in `docs/benchmarks.md` of it.
"""

import argparse
import copy
import gc
import importlib.metadata
import json
import multiprocessing
import platform
import statistics
import time
from dataclasses import asdict
from pathlib import Path

import torch

from secateur.cost import Budget, allocate
from secateur.criteria import score
from secateur.files import write_text
from secateur.graph import apply, trace
from secateur.record import environment
from secateur.torchvision_shim import import_torchvision

MODELS = ("resnet50", "mobilenet_v2", "densenet121", "vgg16")
PEER_RATIO = 0.3  # share of channels that the peer takes from every layer


def build(name: str) -> torch.nn.Module:
    """Build a torchvision network with random weights, the same each time."""
    torch.manual_seed(0)
    return getattr(import_torchvision().models, name)(weights=None).eval()


def cut_ours(model: torch.nn.Module, inputs: torch.Tensor, macs: int) -> torch.nn.Module:
    """Trace, score, allocate and apply."""
    graph = trace(model, inputs)
    plan = allocate(graph, score(graph, model, "l1"), Budget(macs=macs), scope="local")
    return apply(model, plan, verify_with=None)


def cut_peer(model: torch.nn.Module, inputs: torch.Tensor) -> torch.nn.Module:
    """Build the peer's dependency graph and take one step."""
    import torch_pruning

    head = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear) and layer.out_features == 1000]
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        inputs,
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=PEER_RATIO,
        ignored_layers=head,
    )
    pruner.step()
    return model


def macs_of(model: torch.nn.Module, inputs: torch.Tensor) -> int:
    """Count with one counter for both."""
    return trace(model, inputs).macs()


def compare(name: str, repeats: int) -> dict[str, object]:
    """Time both on one network, in turn."""
    model, inputs = build(name), torch.zeros(1, 3, 224, 224)
    target = macs_of(cut_peer(copy.deepcopy(model), inputs), inputs)
    small = cut_ours(model, inputs, target)
    ours, peers = [], []
    for _ in range(repeats):
        gc.collect()
        start = time.perf_counter()
        cut_ours(model, inputs, target)
        ours.append(time.perf_counter() - start)
        fresh = copy.deepcopy(model)
        gc.collect()
        start = time.perf_counter()
        cut_peer(fresh, inputs)
        peers.append(time.perf_counter() - start)
        del fresh
    return {
        "model": name,
        "macs": macs_of(model, inputs),
        "macs_ours": macs_of(small, inputs),
        "macs_peer": target,
        "ours_s": ours,
        "peer_s": peers,
        "ours_median_s": statistics.median(ours),
        "peer_median_s": statistics.median(peers),
        "ratio": statistics.median(p / o for o, p in zip(ours, peers, strict=True)),
    }


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}; measure memory on Linux")


def _memory(name: str, target: int, answer: "multiprocessing.Queue[dict[str, int]]") -> None:
    torch.set_num_threads(1)
    inputs = torch.zeros(1, 3, 224, 224)
    # What is loaded on first use (kernels, tables) is not the cut's; a small network loads it.
    cut_ours(build("squeezenet1_0"), inputs, 400_000_000)
    model = build(name)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _resident("VmRSS")
    small = cut_ours(model, inputs, target)
    peak = _resident("VmHWM")
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    answer.put(
        {"model_bytes": size, "extra_bytes": peak - before, "cut_params": sum(p.numel() for p in small.parameters())}
    )


def memory(name: str, target: int) -> dict[str, int]:
    """Return peak extra memory of trace, score, allocate and apply, measured in a process of its own."""
    context = multiprocessing.get_context("spawn")
    answer: multiprocessing.Queue[dict[str, int]] = context.Queue()
    child = context.Process(target=_memory, args=(name, target, answer))
    child.start()
    result = answer.get(timeout=300)
    child.join()
    limit = int(1.2 * result["model_bytes"]) + 64 * 2**20
    return {**result, "limit_bytes": limit}


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "surgery.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.models:
        row = compare(name, options.repeats)
        row["memory"] = memory(name, int(row["macs_peer"]))
        rows.append(row)
        extra = row["memory"]["extra_bytes"] / row["memory"]["model_bytes"]
        print(
            f"{name:14} ours {row['ours_median_s']:.3f} s, peer {row['peer_median_s']:.3f} s, "
            f"ratio {row['ratio']:.2f}, MACs {row['macs_ours'] / row['macs']:.3f} / "
            f"{row['macs_peer'] / row['macs']:.3f}, extra memory {extra:.2f} x model",
            flush=True,
        )
    mean = statistics.geometric_mean(row["ratio"] for row in rows)
    print(f"geometric mean of ratios {mean:.2f}")
    record = {
        "benchmark": "surgery",
        "threads": 1,
        "peer": f"torch-pruning {importlib.metadata.version('torch-pruning')}",
        "peer_ratio": PEER_RATIO,
        "repeats": options.repeats,
        "environment": asdict(environment(torch.device("cpu"))),
        "machine": platform.machine(),
        "rows": rows,
        "geometric_mean_ratio": mean,
    }
    write_text(options.out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
