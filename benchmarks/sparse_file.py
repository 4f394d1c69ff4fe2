"""The sparse file against `numpy.savez_compressed` and `numpy.load`: seconds, bytes and peak memory, in one run.

Run with `.venv/bin/python benchmarks/sparse_file.py`; some minutes on one core. The tensors are those of ResNet-50
(25.6 M parameters) with random values, 90 % of each convolution and linear layer zero by magnitude. Every measurement
is a process of its own: tensors are made (or the file is there), then one call is timed. Peak memory is the largest
resident set during the call less the one before, with the dense tensors counted once.

It also writes LeNet-300-100 and LeNet-5 with random weights at the densities of Han et al. 2015 (Tables 2 and 3), which
says what the format takes at that point and not how accurate such a network is.
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur import sparse
from secateur.files import write_text
from secateur.models import build_model
from secateur.randomness import generator_for
from secateur.record import environment

WAYS: Mapping[str, Mapping[str, Any]] = {
    "fp32, packed": {"entropy": False},
    "fp32": {},
    "fp32, best width": {"bits": "best"},
    "fp16": {"values": "fp16"},
    "codebook": {"values": "codebook"},
}
MODEL = "torchvision:resnet50"
AGAINST = "numpy.savez_compressed"
LENETS: Mapping[str, Mapping[str, float]] = {
    "lenet-300-100": {"fc1": 0.08, "fc2": 0.09, "fc3": 0.26},
    "lenet-5": {"conv1": 0.66, "conv2": 0.12, "fc1": 0.08, "fc2": 0.19},
}
LENET_SHAPES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "lenet-300-100": {"fc1": (300, 784), "fc2": (100, 300), "fc3": (10, 100)},
    "lenet-5": {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "fc1": (500, 800), "fc2": (10, 500)},
}


def pruned(shape: tuple[int, ...], density: float, name: str) -> Tensor:
    """Return random normal weights of which the largest share stays."""
    weight = torch.randn(shape, generator=generator_for("sparse file", name))
    kept = round(weight.numel() * density)
    order = weight.abs().reshape(-1).argsort(descending=True)
    weight.reshape(-1)[order[kept:]] = 0
    return weight


def network(name: str, density: float) -> dict[str, Tensor]:
    """Return a state of a network's shapes with convolutions and linear layers pruned."""
    model = build_model(name)
    return {
        name: pruned(tuple(tensor.shape), density, name) if tensor.dim() >= 2 else tensor
        for name, tensor in model.state_dict().items()
    }


def lenet(name: str) -> dict[str, Tensor]:
    """Return a LeNet at the paper's densities."""
    state: dict[str, Tensor] = {}
    for layer, density in LENETS[name].items():
        shape = LENET_SHAPES[name][layer]
        state[f"{layer}.weight"] = pruned(shape, density, f"{name} {layer}")
        state[f"{layer}.bias"] = torch.randn(shape[0], generator=generator_for("sparse file bias", layer))
    return state


def memory_bytes(key: str) -> int:
    """Return a line of /proc/self/status, such as VmRSS or VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def measured_here(action: str, way: str, file: Path, density: float, model: str = MODEL) -> dict[str, float]:
    """Run one call in this process and return its seconds and peak memory."""
    dense = network(model, density) if action == "write" else {}
    arrays = {name: tensor.numpy() for name, tensor in dense.items()}
    size = sum(tensor.nbytes for tensor in dense.values())
    ctypes.CDLL(None).malloc_trim(0)  # what making the tensors left behind would hide memory taken later
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory_bytes("VmRSS") - size
    start = time.perf_counter()
    if action == "write" and way == AGAINST:
        np.savez_compressed(file, **arrays)
    elif action == "write":
        sparse.encode(dense, file, **WAYS[way])
    elif way == AGAINST:
        with np.load(file) as archive:
            arrays = {name: archive[name] for name in archive.files}
    else:
        dense = sparse.decode(file)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_bytes": memory_bytes("VmHWM") - before}


def measured(action: str, way: str, file: Path, density: float) -> dict[str, float]:
    """Return what :func:`measured_here` finds in a fresh process."""
    words = [sys.executable, __file__, "--child", action, way, str(file), "--density", str(density)]
    found: dict[str, float] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return found


def compare(folder: Path, density: float, repeats: int) -> tuple[int, list[dict[str, Any]]]:
    """Return the bytes of the dense tensors and one row per way of storing them."""
    dense_bytes = sum(tensor.nbytes for tensor in network(MODEL, density).values())
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    # Ways take turns, so that a slow minute of the machine does not fall on one of them.
    for _ in range(repeats):
        for number, way in enumerate((AGAINST, *WAYS)):
            file = folder / (f"{number}.npz" if way == AGAINST else f"{number}.sparse.safetensors")
            for action in ("write", "read"):
                runs.setdefault((way, action), []).append(measured(action, way, file, density))
    rows = []
    for number, way in enumerate((AGAINST, *WAYS)):
        file = folder / (f"{number}.npz" if way == AGAINST else f"{number}.sparse.safetensors")
        row: dict[str, Any] = {"way": way, "file_bytes": file.stat().st_size}
        for action in ("write", "read"):
            seconds = statistics.median(run["seconds"] for run in runs[way, action])
            other = statistics.median(run["seconds"] for run in runs[AGAINST, action])
            peak = max(run["peak_bytes"] for run in runs[way, action])
            row |= {
                f"{action}_seconds": seconds,
                f"{action}_of_numpy": seconds / other,
                f"{action}_peak_of_dense": peak / dense_bytes,
            }
        rows.append(row)
    return dense_bytes, rows


def small_files(folder: Path) -> list[dict[str, Any]]:
    """Return what the parts of the LeNets' files take."""
    rows = []
    for name in LENETS:
        state = lenet(name)
        for code_bits in (5, 4):
            file = folder / f"{name}.sparse.safetensors"
            sizes = sparse.encode(state, file, values="codebook", codebook_bits=code_bits, bits="best").with_zip(state)
            rows.append(
                {
                    "network": name,
                    "codebook_bits": code_bits,
                    "survivors": sum(weight.survivors for weight in sizes.weights),
                    "file_bytes": file.stat().st_size,
                    "header_bytes": sizes.header_bytes,
                    "dense_tensor_bytes": sizes.dense_tensor_bytes,
                    "index_bytes": sum(weight.index_bytes for weight in sizes.weights),
                    "value_bytes": sum(weight.value_bytes for weight in sizes.weights),
                    "codebook_bytes": sum(weight.codebook_bytes for weight in sizes.weights),
                    "dense_bytes": sizes.dense_bytes,
                    "csr_bytes": sum(weight.csr_bytes for weight in sizes.weights),
                    "zip_bytes": sum(sizes.zip_bytes.values()),
                }
            )
    return rows


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "sparse_file.json")
    parser.add_argument("--child", nargs=3, metavar=("ACTION", "WAY", "FILE"), help="measure one call in this process")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        action, way, file = options.child
        print(json.dumps(measured_here(action, way, Path(file), options.density)))
        return
    with tempfile.TemporaryDirectory() as folder:
        dense_bytes, rows = compare(Path(folder), options.density, options.repeats)
        lenets = small_files(Path(folder))
    for row in rows:
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
    for row in lenets:
        print(row)
    record = {
        "benchmark": "sparse_file",
        "what": f"ResNet-50's tensors, random, {1 - options.density:.0%} of each convolution and linear layer zero",
        "repeats": options.repeats,
        "environment": asdict(environment("cpu")),
        "dense_bytes": dense_bytes,
        "rows": rows,
        "lenets": lenets,
    }
    write_text(options.out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
