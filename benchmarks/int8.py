"""Time the INT8 file against torch, ONNX Runtime in float, ONNX Runtime's own quantizer and OpenVINO, on one thread.

Run with `.venv/bin/python benchmarks/int8.py` after `pip install -e '.[vision,onnx]'`, and `.[openvino]` for the rows
of OpenVINO; on an idle core some 30 minutes, nearly all of it VGG-16 and batches of 32. Weights are random, with
statistics of batch norm measured on random images, because times depend on shapes alone; ranges are the largest values
on 8 images for us and for ONNX Runtime's quantizer, which gets the types that are fastest on x86 (uint8 activations,
int8 weights per channel; its defaults are slower). All ways take turns, run by run, and medians are compared; OpenVINO
runs in a process of its own, with the precision of what is not in integers forced to float32 (it would take bfloat16).
The last row is ResNet-50 cut to half of its multiply-adds by the L1 norm, every width a multiple of 16, against the
dense network. The record goes to `benchmarks/records/int8.json`.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import secateur
from secateur.compensation import reestimate_batch_norm
from secateur.errors import SecateurError
from secateur.export import OnnxModel, export_onnx
from secateur.export.int8.executed import CONVOLUTIONS, executed
from secateur.export.int8.openvino_process import OpenVinoModel
from secateur.export.int8.writer import Int8Report, write_int8
from secateur.files import write_text
from secateur.quantization import simulate
from secateur.randomness import generator_for
from secateur.record import environment
from secateur.torchvision_shim import import_torchvision

RECORD = Path(__file__).parent / "records" / "int8.json"
NETWORKS = {"resnet18": "ResNet-18", "resnet50": "ResNet-50", "mobilenet_v2": "MobileNetV2", "vgg16": "VGG-16"}
CUT = "resnet50-cut"
ROUNDS = {1: 30, 32: 5}
SHARE, ROUND_TO = 0.5, 16  # of the multiply-adds, and of the widths
PACKAGES = ("torchvision", "onnx", "onnxscript", "onnxruntime", "openvino")
TARGETS = {"of_runtime_int8": 0.97, "of_eager": 8.0, "of_runtime_fp32": 5.5}

Run = Callable[[Tensor], float]
"""One forward pass of a batch, in milliseconds."""


def images(count: int, name: str) -> Tensor:
    """Return noise, drawn from a seed of its own."""
    return torch.randn(count, 3, 224, 224, generator=generator_for(0, "int8 benchmark", name))


def measured(model: nn.Module) -> nn.Module:
    """Let batch norm measure random images, so that values neither grow nor vanish with depth."""
    reestimate_batch_norm(model, [(images(16, "statistics"), torch.zeros(16, dtype=torch.long))])
    return model.eval()


def build(name: str) -> nn.Module:
    """Return a torchvision network with random weights, the same each time."""
    torch.manual_seed(0)
    return measured(getattr(import_torchvision().models, name)(weights=None))


def cut(model: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network at half of its multiply-adds, and what was left."""
    graph = secateur.trace(model, images(1, "trace"))
    scores = secateur.score(graph, model, "l1")
    plan = secateur.allocate(graph, scores, secateur.Budget(macs=SHARE), scope="local", round_to=ROUND_TO)
    small = measured(secateur.apply(model, plan, verify_with=None))
    facts = {"macs": graph.macs(), "macs_after": graph.macs(plan), "params_after": graph.params(plan)}
    return small, facts


def write_ours(model: nn.Module, path: Path) -> Int8Report:
    """Simulate, calibrate, write."""
    simulation = simulate(model, images(2, "shape"))
    simulation.calibrate([images(8, "calibration")])
    simulation.set_ranges("max")
    return write_int8(simulation, path, images=[images(16, "parity")])


def write_theirs(fp32: Path, path: Path) -> None:
    """Let ONNX Runtime's own tool quantize the float file, at the types that are fastest on x86."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([{OnnxModel(fp32).input_names[0]: images(8, "calibration").numpy()}])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    logging.disable(logging.CRITICAL)
    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(fp32), str(prepared))
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(prepared), str(path), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, **types)
    prepared.unlink()
    logging.disable(logging.NOTSET)


# Ways to run ------------------------------------------------------------------------------------------------------


def in_torch(model: nn.Module) -> Run:
    """Return eager torch in the layout that is fastest for convolutions."""
    model = model.to(memory_format=torch.channels_last)

    def run(x: Tensor) -> float:
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            start = time.perf_counter_ns()
            model(x)
            return (time.perf_counter_ns() - start) / 1e6

    return run


def in_onnx_runtime(path: Path) -> Run:
    """Return a session of one thread."""
    runnable = OnnxModel(path, threads=1)

    def run(x: Tensor) -> float:
        start = time.perf_counter_ns()
        runnable.run(x)
        return (time.perf_counter_ns() - start) / 1e6

    return run


def in_openvino(path: Path, stack: ExitStack, row: dict[str, Any]) -> Run | None:
    """Return OpenVINO in its own process, or None where it is missing or fails; the row says why."""
    try:
        model = stack.enter_context(OpenVinoModel(path, threads=1))
    except SecateurError as error:
        row["openvino"] = {"error": str(error).replace(str(path), "the file")}
        return None
    row["openvino"] = {
        "precision": model.precision,
        "integer_convolutions": model.integer_convolutions,
        "convolutions": model.convolutions,
    }
    return lambda x: model.time_ms(x)[0]


def interleaved(ways: dict[str, Run], batch: int, rounds: int) -> dict[str, Any]:
    """Run all ways in turn, warm-ups first, and compare medians."""
    x = images(batch, "timing")
    load = [os.getloadavg()[0]]
    timings: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-2 if batch == 1 else -1, rounds):
        for name, run in ways.items():
            elapsed = run(x)
            if number >= 0:
                timings[name].append(elapsed)
    load.append(os.getloadavg()[0])
    return {
        "batch": batch,
        "timings_ms": timings,
        "median_ms": {name: statistics.median(values) for name, values in timings.items()},
        "load": load,
    }


def ratio(result: dict[str, Any], slower: str, faster: str) -> float:
    """Return by how much one way is faster than another, run by run, in the middle."""
    pairs = zip(result["timings_ms"][slower], result["timings_ms"][faster], strict=True)
    return statistics.median(one / other for one, other in pairs)


# Rows -------------------------------------------------------------------------------------------------------------


def row_of(name: str, batches: dict[int, int], folder: Path) -> dict[str, Any]:
    """Measure one network; ``batches`` are sizes and rounds."""
    dense = build(name.removesuffix("-cut"))
    fp32, ours, theirs = (folder / f"{kind}.onnx" for kind in ("fp32", "ours", "theirs"))
    export_onnx(dense, fp32, images(2, "shape"))
    row: dict[str, Any] = {"name": name, "title": f"{NETWORKS[name.removesuffix('-cut')]}"}
    ways = {"eager": in_torch(dense), "runtime_fp32": in_onnx_runtime(fp32)}
    if name == CUT:
        small, row["cut"] = cut(dense)
        row["title"] += ", cut to half"
        small_fp32 = folder / "small.onnx"
        export_onnx(small, small_fp32, images(2, "shape"))
        report = write_ours(small, ours)
        ways["cut_fp32"] = in_onnx_runtime(small_fp32)
    else:
        report = write_ours(dense, ours)
        write_theirs(fp32, theirs)
        ways["runtime_int8"] = in_onnx_runtime(theirs)
        row["theirs"] = {"size_bytes": theirs.stat().st_size, "convolutions": executed(theirs).counts(CONVOLUTIONS)}
    ways["ours"] = in_onnx_runtime(ours)
    row["ours"] = {
        "size_bytes": report.size_bytes,
        "fp32_size_bytes": fp32.stat().st_size,
        "convolutions": report.execution.counts(CONVOLUTIONS),
        "in_float": [str(operator) for operator in report.execution.in_float],
        "parity_sqnr_db": report.parity.sqnr_db,
        "rounding_sqnr_db": report.parity.rounding_sqnr_db,
    }
    with ExitStack() as stack:
        other = in_openvino(ours, stack, row)
        if other is not None:
            ways["openvino"] = other
        row["results"] = [interleaved(ways, batch, rounds) for batch, rounds in batches.items()]
    for result in row["results"]:
        result["ours_faster"] = {way: ratio(result, way, "ours") for way in ways if way != "ours"}
    return row


def missed(row: dict[str, Any]) -> Iterator[str]:
    """Yield what a row should show and does not."""
    done, total = row["ours"]["convolutions"]
    if done < total:
        yield f"{row['title']}: {total - done} of {total} convolutions in float"
    for result in row["results"]:
        faster = result["ours_faster"]
        if "runtime_int8" in faster and faster["runtime_int8"] < TARGETS["of_runtime_int8"]:
            yield f"{row['title']}, batch {result['batch']}: {faster['runtime_int8']:.3f}x of ONNX Runtime's own"
        if row["name"] == CUT and result["batch"] == 1:
            for way, target in (("eager", TARGETS["of_eager"]), ("runtime_fp32", TARGETS["of_runtime_fp32"])):
                if faster[way] < target:
                    yield f"{row['title']}: {faster[way]:.2f}x of {way}, wanted {target}x"


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*NETWORKS, CUT]
    parser.add_argument("--networks", nargs="+", choices=names, default=names)
    parser.add_argument("--batches", nargs="+", type=int, choices=list(ROUNDS), default=list(ROUNDS))
    parser.add_argument("--rounds", type=int, help="runs of each way, instead of 30 at batch 1 and 5 at batch 32")
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    if options.out.exists():  # a run of some networks and batches keeps the others
        rows = {row["name"]: row for row in json.loads(options.out.read_text(encoding="utf-8"))["rows"]}
    for name in options.networks:
        batches = {batch: options.rounds or ROUNDS[batch] for batch in options.batches}
        with tempfile.TemporaryDirectory(prefix="int8") as folder:
            row = row_of(name, batches, Path(folder))
        measured_now = list(row["results"])
        kept = rows[name]["results"] if name in rows else []
        row["results"] += [result for result in kept if result["batch"] not in batches]
        row["results"].sort(key=lambda result: result["batch"])
        rows[name] = row
        for result in measured_now:
            medians = ", ".join(f"{way} {value:.2f}" for way, value in result["median_ms"].items())
            faster = ", ".join(f"{value:.2f}x {way}" for way, value in result["ours_faster"].items())
            print(f"{row['title']}, batch {result['batch']}: ms {medians}; ours {faster}", flush=True)
    record = {
        "benchmark": "int8",
        "threads": 1,
        "targets": TARGETS,
        "share": SHARE,
        "round_to": ROUND_TO,
        "packages": {
            name: importlib.metadata.version(name) for name in PACKAGES if importlib.util.find_spec(name) is not None
        },
        "environment": asdict(environment(torch.device("cpu"))),
        "rows": [rows[name] for name in names if name in rows],
    }
    write_text(options.out, json.dumps(record, indent=1) + "\n")
    short = [entry for name in options.networks for entry in missed(rows[name])]
    print("\n".join(short) if short else "every target is met")
    sys.exit(1 if short else 0)


if __name__ == "__main__":
    main()
