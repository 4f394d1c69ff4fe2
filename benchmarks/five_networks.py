"""Cut five networks to half of the multiply-adds, save, load in a fresh process, export to ONNX, compare with torch.

Run with `python benchmarks/five_networks.py` after `pip install -e '.[vision,onnx]'`; YOLOv8n is left out unless
`.[benchmark]` is installed too. Weights are random, nothing is downloaded. Each network has two processes with one
thread each. The first traces, plans by the L1 norm, cuts, proves, saves, and keeps what the cut model computes. The
second builds the class anew, draws other weights, loads the file, compares bit for bit, exports to ONNX and runs ONNX
Runtime on images that neither the exporter nor its check has seen. What fails is a row with the reason, and the exit
code is 1. The record goes to `benchmarks/records/five_networks.json`; `benchmarks/tables.py` makes the table in
`docs/benchmarks.md` of it.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from coverage_models import Subject, run
from coverage_models import build as built_with_seed_0
from coverage_ours import facts_of
from torch import Tensor, nn

import secateur
from secateur.export import OnnxModel
from secateur.files import write_text
from secateur.graph.inputs import tensors_of
from secateur.graph.redraw import redraw
from secateur.randomness import generator_for
from secateur.record import environment

RECORD = Path(__file__).parent / "records" / "five_networks.json"
SHARE = 0.5  # of the MACs to be left
TOLERANCE = 1e-4  # of max|torch − ONNX Runtime|, absolute and as a share of max|torch|
BATCH = 2
PACKAGES = ("torchvision", "ultralytics", "onnx", "onnxscript", "onnxruntime")
LIMIT_S = 900.0  # of one process


@dataclass(frozen=True)
class Network:
    """One row.

    Attributes:
        title: as the table has it.
        subject: what builds it, and its input's shape without the batch.
    """

    title: str
    subject: Subject


NETWORKS = {
    "resnet50": Network("ResNet-50", Subject("torchvision/resnet50", 0, (3, 224, 224))),
    "yolov8n": Network("YOLOv8n", Subject("ultralytics/yolov8n", 0, (3, 320, 320))),
    "convnext_tiny": Network("ConvNeXt-T", Subject("torchvision/convnext_tiny", 0, (3, 224, 224))),
    "swin_t": Network("Swin-T", Subject("torchvision/swin_t", 0, (3, 224, 224))),
    "vit_b_16": Network("ViT-B/16", Subject("torchvision/vit_b_16", 0, (3, 224, 224))),
}


def build(network: Network) -> nn.Module:
    """Build the dense network in evaluation mode, with random weights."""
    model = built_with_seed_0(network.subject)
    if network.subject.family == "ultralytics":
        # The library's own switches for exporters: decoded boxes and scores alone, without the raw maps beside them,
        # and a grid made anew for every input, where one kept from the last input would fix the batch size.
        head = list(model.get_submodule("model").children())[-1]
        head.export = head.dynamic = True
    _make_visible(model)
    return model


def _make_visible(model: nn.Module) -> None:
    """Draw the weights that start at (almost) nothing: ViT's classifier at 0, ConvNeXt's layer scale at 1e-6."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and float(parameter.abs().max()) <= 1e-5:
                drawn = torch.randn(parameter.shape, generator=generator_for(0, "visible", name))
                parameter.copy_(0.1 * drawn)


def images(network: Network, number: int) -> Tensor:
    """Return a batch of noise, drawn from a seed of its own."""
    shape = (BATCH, *network.subject.shape)
    return torch.randn(shape, generator=generator_for(0, "five networks", number))


def outputs_of(model: nn.Module, given: Tensor) -> list[Tensor]:
    """Return every tensor that the model computes."""
    return [tensor.clone() for tensor in tensors_of(run(model, given))]


# First process ---------------------------------------------------------------------------------------------------


def cut(network: Network, folder: Path) -> dict[str, Any]:
    """Trace, plan, cut with the proof, save; keep the cut model's outputs."""
    model, given = build(network), images(network, 0)
    start = time.perf_counter()
    graph = secateur.trace(model, given)
    traced_s = time.perf_counter() - start
    plan = secateur.allocate(graph, secateur.score(graph, model, "l1"), secateur.Budget(macs=SHARE))
    small = secateur.apply(model, plan, verify_with=None)
    proof = secateur.verify(model, small, plan, given)
    if not proof.passed:
        raise SystemExit(f"{network.title}: {proof.sentence()}")
    secateur.save(model, folder / "dense.safetensors")
    secateur.save(small, folder / "small.safetensors", plan=plan)
    torch.save(outputs_of(small, images(network, 1)), folder / "outputs.pt")
    return {
        "macs": graph.macs(),
        "macs_after": graph.macs(plan),
        "params": graph.params(),
        "params_after": graph.params(plan),
        "dense_size_bytes": (folder / "dense.safetensors").stat().st_size,
        "size_bytes": (folder / "small.safetensors").stat().st_size,
        "least_macs": graph.macs(graph.plan({group.name: [0] for group in graph.groups if group.prunable})),
        "groups": {
            "cut": len(plan.kept),
            "locked": sum(group.locked is not None for group in graph.groups),
            "approximate": sum(group.locked is None and group.approximate is not None for group in graph.groups),
        },
        "locked": facts_of(graph)["reasons"],
        "trace_s": traced_s,
        "proof": {key: value for key, value in proof.to_json().items() if key != "outputs"},
    }


# Second process --------------------------------------------------------------------------------------------------


def load(network: Network, folder: Path) -> dict[str, Any]:
    """Build the class anew, load, compare; export to ONNX and compare again."""
    dense = build(network)
    redraw(dense, seed=1)  # of the dense weights nothing must be left
    small = secateur.load(dense, folder / "small.safetensors").eval()
    stored = torch.load(folder / "outputs.pt", weights_only=True)
    found = outputs_of(small, images(network, 1))
    same = len(stored) == len(found) and all(torch.equal(a, b) for a, b in zip(stored, found, strict=True))
    if not same:
        raise SystemExit(f"{network.title}: the loaded model computes something else than the saved one")
    start = time.perf_counter()
    report = secateur.export_onnx(small, folder / "small.onnx", images(network, 0))
    export_s = time.perf_counter() - start
    runnable = OnnxModel(folder / "small.onnx", threads=1)
    given = images(network, 2)  # that neither the exporter nor its check has seen
    pairs = list(zip(outputs_of(small, given), runnable.run(given), strict=True))
    differences = torch.stack([(wanted.double() - got.double()).abs().max() for wanted, got in pairs])
    absolute = float(differences.max())  # NaN stays NaN, and is not within any tolerance
    relative = float((differences / torch.stack([wanted.double().abs().max() for wanted, _ in pairs])).max())
    return {
        "loaded_equal_bit_for_bit": same,
        "outputs": len(found),
        "largest_output": max(float(tensor.abs().max()) for tensor in found),
        "max_difference": absolute,
        "relative_difference": relative,
        "within_tolerance": absolute < TOLERANCE and relative < TOLERANCE,
        "exporter_max_difference": report.max_difference,
        "exporter_relative_difference": report.relative_difference,
        "batch_sizes": list(report.batch_sizes),
        "opset": report.opset,
        "onnx_size_bytes": report.size_bytes,
        "export_s": export_s,
    }


# The parent ------------------------------------------------------------------------------------------------------


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Run both processes of one network and return its row."""
    network = NETWORKS[name]
    row: dict[str, Any] = {"name": name, "title": network.title, "input_shape": [BATCH, *network.subject.shape]}
    places = {"YOLO_CONFIG_DIR": str(folder), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    for part in PARTS:
        out = folder / f"{part}.json"
        command = [sys.executable, __file__, "--part", part, "--networks", name, "--out", str(out)]
        done = subprocess.run(
            command, env=os.environ | places, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["nothing was printed"])[-1]
            return {**row, "failed_at": part, "error": last}
        row.update(json.loads(out.read_text(encoding="utf-8")))
    return row


PARTS = {"cut": cut, "load": load}


def packages() -> dict[str, str]:
    """Return the versions of what builds, exports and runs the networks."""
    return {name: importlib.metadata.version(name) for name in PACKAGES if importlib.util.find_spec(name) is not None}


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--out", type=Path, default=RECORD)
    parser.add_argument("--part", choices=PARTS, help="what one process does; for the script itself")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part is not None:
        warnings.simplefilter("ignore")  # libraries warn of their own old names
        [name] = options.networks
        write_text(options.out, json.dumps(PARTS[options.part](NETWORKS[name], options.out.parent)))
        return
    # A run of some networks keeps the rows of the others.
    rows = {}
    if options.out.exists():
        rows = {row["name"]: row for row in json.loads(options.out.read_text(encoding="utf-8"))["rows"]}
    for name in options.networks:
        if name == "yolov8n" and importlib.util.find_spec("ultralytics") is None:
            print("yolov8n is left out: ultralytics is not installed; run pip install -e '.[benchmark]'", flush=True)
            continue
        with tempfile.TemporaryDirectory(prefix="five") as folder:
            row = rows[name] = measure(name, Path(folder))
        if "error" in row:
            print(f"{name:20} failed at {row['failed_at']}: {row['error']}", flush=True)
            continue
        print(
            f"{name:20} MACs {row['macs_after'] / row['macs']:.3f}, proof {row['proof']['verdict']}, loaded equal, "
            f"ONNX differs by {row['max_difference']:.1e} ({row['relative_difference']:.1e} of the output)",
            flush=True,
        )
    record = {
        "benchmark": "five_networks",
        "threads": 1,
        "share": SHARE,
        "tolerance": TOLERANCE,
        "seed": 0,
        "packages": packages(),
        "environment": asdict(environment(torch.device("cpu"))),
        "rows": [rows[name] for name in NETWORKS if name in rows],
    }
    write_text(options.out, json.dumps(record, indent=1) + "\n")
    if not all(rows[name].get("within_tolerance") for name in options.networks if name in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
