"""What all calibrators from one pass cost beside a plain forward, and the most memory that the process takes.

Part `forward` of `benchmarks/calibration.py`: ResNet-50 with random weights and statistics of batch norm measured on
random images of 224², which are drawn batch by batch and never held together.

- Time: batch by batch the plain model (eager, no_grad) and the simulation that counts take turns, so that a slow minute
  of the machine falls on both; drawing images belongs to neither. Behind the last batch every calibrator chooses its
  ranges; this belongs to our time. Both are in torch's default layout, neither in channels_last.
- Memory: a process that does nothing else, for each number of images; the peak starts anew once the simulation is made.
- ONNX Runtime's calibrators on the exported float file, each in a process of its own: first alone, for the memory, then
  in turn with a plain session on the same images. They keep what they see until they have seen all (activations, or
  their ends), so that the images are few. Their session gets one thread; it is else as they make it, which is without
  optimisation of the graph, whereas the plain session has it.

Run as a program it is one of these processes and prints what it found.
"""

import argparse
import ctypes
import importlib.metadata
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from int8 import build, images
from torch import Tensor

from secateur.export import OnnxModel, export_onnx
from secateur.export.onnx_runtime import session_options
from secateur.quantization import Simulation, simulate

CHOSEN = ("max", "percentile-99.9", "percentile-99.99", "percentile-99.999", "entropy", "mse")
PEERS = ("MinMax", "Percentile", "Entropy")
AIM, LIMIT, MEMORY_LIMIT = 1.3, 1.5, 1.05
KEPT_BYTES_PER_IMAGE, MOST_BYTES = 0.12e9, 6e9  # of activations that the peer keeps
MOST_PEER_IMAGES = int(MOST_BYTES / KEPT_BYTES_PER_IMAGE / 1.5)  # it also makes a copy of a tensor at a time
PACKAGES = ("torchvision", "onnx", "onnxscript", "onnxruntime")


class Turns:
    """Batches of noise; before one is handed out, the plain model gets it too, where there is one.

    Attributes:
        plain_seconds: processor time of the plain model.
        seconds: processor time that is not the caller's: the plain model's, and that of drawing images.
    """

    def __init__(self, count: int, batch: int, plain: Callable[[Tensor], object] | None = None) -> None:
        self.count, self.batch, self.plain = count, batch, plain
        self.plain_seconds = self.seconds = 0.0

    def __iter__(self) -> Iterator[Tensor]:
        """Yield batch by batch."""
        for first in range(0, self.count, self.batch):
            start = time.process_time()
            x = images(min(self.batch, self.count - first), f"calibration {first}")
            if self.plain is not None:
                begin = time.process_time()
                self.plain(x)
                self.plain_seconds += time.process_time() - begin
            self.seconds += time.process_time() - start
            yield x


def chosen_seconds(simulation: Simulation) -> dict[str, float]:
    """Let every calibrator choose, and return its processor time."""
    found = {}
    for name in CHOSEN:
        start = time.process_time()
        simulation.set_ranges(name)
        found[name] = time.process_time() - start
    return found


def memory_bytes(key: str) -> int:
    """Return a line of /proc/self/status: VmRSS for what the process has, VmHWM for the most that it had."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def forget_peak() -> int:
    """Give back what earlier work left behind, let the peak start anew, and return the memory that is taken."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return memory_bytes("VmRSS")


# What a process does ----------------------------------------------------------------------------------------------


def our_time(count: int, batch: int, rounds: int) -> dict[str, Any]:
    """Calibrate in turn with plain forwards."""
    model = build("resnet50")
    start = time.process_time()
    simulation = simulate(model, images(2, "shape"))
    simulate_seconds = time.process_time() - start

    def plain(x: Tensor) -> None:
        with torch.no_grad():
            model(x)

    simulation.calibrate(Turns(batch, batch, plain))  # kernels are chosen at the first call
    found = []
    for _ in range(rounds):
        turns = Turns(count, batch, plain)
        start = time.process_time()
        simulation.calibrate(turns)
        counting = time.process_time() - start - turns.seconds
        found.append(
            {
                "plain_seconds": turns.plain_seconds,
                "pass_seconds": counting,
                "choosing_seconds": chosen_seconds(simulation),
            }
        )
    return {"simulate_seconds": simulate_seconds, "sites": len(simulation.placement.activations), "rounds": found}


def our_memory(count: int, batch: int) -> dict[str, Any]:
    """Calibrate once, and return the memory before and at most."""
    simulation = simulate(build("resnet50"), images(2, "shape"))
    before = forget_peak()
    simulation.calibrate(Turns(count, batch))
    chosen_seconds(simulation)
    return {"before_bytes": before, "peak_bytes": memory_bytes("VmHWM")}


def peer(method: str, file: Path, count: int, batch: int, rounds: int) -> dict[str, Any]:
    """Run one of ONNX Runtime's calibrators: once alone, then in turn with a plain session."""
    import onnxruntime
    from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator

    class Reader(CalibrationDataReader):
        def __init__(self, turns: Turns) -> None:
            self.left = iter(turns)

        def get_next(self) -> dict[str, Any] | None:
            x = next(self.left, None)
            return None if x is None else {session.input_names[0]: x.numpy()}

    def calibrate(turns: Turns) -> tuple[float, int]:
        augmented = str(file.with_name(f"{method}.onnx"))
        calibrator = create_calibrator(
            str(file), augmented_model_path=augmented, calibrate_method=CalibrationMethod[method]
        )
        options = session_options(threads=1)  # its own has a thread for every core
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # as its own
        providers = ["CPUExecutionProvider"]
        calibrator.infer_session = onnxruntime.InferenceSession(augmented, options, providers=providers)
        start = time.process_time()
        calibrator.collect_data(Reader(turns))
        tensors = len(calibrator.compute_data().keys())
        return time.process_time() - start - turns.seconds, tensors

    logging.disable(logging.CRITICAL)
    session = OnnxModel(file, threads=1)
    before = forget_peak()
    _, tensors = calibrate(Turns(count, batch))
    peak = memory_bytes("VmHWM")
    session.run(images(batch, "first"))
    found = []
    for _ in range(rounds):
        turns = Turns(count, batch, session.run)
        seconds, _ = calibrate(turns)
        found.append({"plain_seconds": turns.plain_seconds, "calibration_seconds": seconds})
    return {"tensors": tensors, "before_bytes": before, "peak_bytes": peak, "rounds": found}


# Rows -------------------------------------------------------------------------------------------------------------


def in_own_process(*words: object) -> dict[str, Any]:
    """Return what a fresh process of this file finds."""
    command = [sys.executable, __file__, *map(str, words)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=one_thread)
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def our_row(count: int, batch: int, rounds: int) -> dict[str, Any]:
    """Return time and memory of one number of images; ratios are medians of the rounds'."""
    row: dict[str, Any] = {"way": "ours", "images": count, **in_own_process("time", count, batch, rounds)}
    passes = [entry["pass_seconds"] / entry["plain_seconds"] for entry in row["rounds"]]
    totals = [
        (entry["pass_seconds"] + sum(entry["choosing_seconds"].values())) / entry["plain_seconds"]
        for entry in row["rounds"]
    ]
    row |= {"pass_of_forward": statistics.median(passes), "total_of_forward": statistics.median(totals)}
    return row | in_own_process("memory", count, batch)


def peer_row(method: str, count: int, batch: int, rounds: int, file: Path) -> dict[str, Any]:
    """Return time and memory of one of ONNX Runtime's calibrators."""
    words = ("peer", count, batch, rounds, "--method", method, "--file", file)
    row: dict[str, Any] = {"way": f"ONNX Runtime {method}", "images": count, **in_own_process(*words)}
    ratios = [entry["calibration_seconds"] / entry["plain_seconds"] for entry in row["rounds"]]
    return row | {"total_of_forward": statistics.median(ratios)}


def forward(counts: list[int], peer_counts: list[int], batch: int, rounds: int) -> dict[str, Any]:
    """Measure all rows."""
    load = [os.getloadavg()[0]]
    rows = []
    for count in counts:
        rows.append(our_row(count, batch, rounds))
        print(json.dumps(rows[-1]), flush=True)
    if peer_counts:
        with tempfile.TemporaryDirectory(prefix="calibration") as folder:
            file = Path(folder) / "fp32.onnx"
            export_onnx(build("resnet50"), file, images(2, "shape"))
            for method in PEERS:
                for count in peer_counts:
                    rows.append(peer_row(method, count, batch, rounds, file))
                    print(json.dumps(rows[-1]), flush=True)
    peaks = [row["peak_bytes"] for row in rows if row["way"] == "ours"]
    return {
        "batch": batch,
        "memory_format": "contiguous on both sides",
        "aims": {"total_of_forward": AIM, "limit": LIMIT, "peaks": MEMORY_LIMIT},
        "largest_of_least_peak": max(peaks) / min(peaks),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "load": [*load, os.getloadavg()[0]],
        "rows": rows,
    }


def missed(found: dict[str, Any]) -> Iterator[str]:
    """Yield what should be shown and is not."""
    for row in found["rows"]:
        if row["way"] == "ours" and row["total_of_forward"] > LIMIT:
            yield f"{row['images']} images: {row['total_of_forward']:.2f} of a forward, above {LIMIT}"
    if found["largest_of_least_peak"] > MEMORY_LIMIT:
        yield f"peak memory differs by {found['largest_of_least_peak'] - 1:.1%} between numbers of images"


def main() -> None:
    """Be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["time", "memory", "peer"])
    parser.add_argument("images", type=int)
    parser.add_argument("batch", type=int)
    parser.add_argument("rounds", type=int, nargs="?", default=1)
    parser.add_argument("--method", choices=PEERS, default=PEERS[0])
    parser.add_argument("--file", type=Path, help="the float ONNX file that the peer calibrates")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "time":
        found = our_time(options.images, options.batch, options.rounds)
    elif options.what == "memory":
        found = our_memory(options.images, options.batch)
    else:
        if options.file is None:
            parser.error("peer needs --file")
        found = peer(options.method, options.file, options.images, options.batch, options.rounds)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
