"""What INT8 costs on real weights: every calibrator, simulated and as the file, fewer bits, and what repairs bring.

Run with `.venv/bin/python benchmarks/int8_accuracy.py` from the checkout's root; needs `../shared/data` (see its
README) and some minutes on one core. Networks are the published ResNet-20 (shortcuts without parameters) and ResNet-56
(convolutions as shortcuts) on the original pixels of CIFAR-10, in the parts of `benchmarks/cifar10.py`: 1,024 training
images calibrate, a fixed 400 of the 1,017 test images pick the calibrator, by the divergence of its predictions from
those in fp32, and the other 617 are what is reported. The published weights have seen all training images, which is why
these do not pick.

One pass over the calibration images serves all calibrators. Each is written as an INT8 file too, which ONNX Runtime
evaluates, and whose predictions are compared with the simulation's on all of the 617 images. With the calibrator that
was picked follow one step for a whole weight, weights of 6 and 4 bits, and at 4 bits what brings accuracy back: bias
correction, AdaRound, and training with rounding, with steps as calibrated and with learned ones, one seed each, last
epoch. The record goes to `benchmarks/records/int8_accuracy.json`.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from cifar10 import SHARED
from torch import nn

from secateur.data import DataSource, calibration_subset
from secateur.export import OnnxModel
from secateur.export.int8 import write_int8
from secateur.files import write_text
from secateur.measure import Divergence, compare_predictions, evaluate_artifact
from secateur.models import build_model, load_weights
from secateur.quantization import Simulation, qat_settings, repair, simulate, train_quantized
from secateur.quantization.qat import LearnedSteps
from secateur.recipe import DataChoice, Machine, read_data
from secateur.record import environment
from secateur.training import SupervisedTask, TrainSettings, evaluate, set_threads

NETWORKS = {
    "resnet20": ("resnet20-cifar10-shortcut-a", "lossless_parts_of_resnet20"),
    "resnet56-b": ("resnet56-cifar10-shortcut-b", "lossless_parts"),
}
CALIBRATORS = ("max", "percentile-99.9", "percentile-99.99", "percentile-99.999", "entropy", "mse")
IMAGES = 1024
BATCH = 128
TRAINED = TrainSettings(batch_size=128, learning_rate=0.1, weight_decay=1e-4)  # of the float networks, as published
LEARNED: dict[str, LearnedSteps] = {"steps as calibrated": "none", "learned steps": "all"}


class Study:
    """One network, its data and its float predictions."""

    def __init__(self, name: str, seed: int, threads: int) -> None:
        """Load all of it."""
        weights, parts = NETWORKS[name]
        choice = DataChoice(spec=f"benchmarks/cifar10.py:{parts}")
        self.data: DataSource = read_data(choice, Machine(device="cpu", threads=threads), model=name)
        self.model = build_model(name)
        load_weights(self.model, SHARED / "weights" / f"{weights}.safetensors")
        self.model.eval()
        self.seed = seed
        self.subset = calibration_subset(self.data, IMAGES, seed=seed)
        self.task = SupervisedTask(self.data, settings=qat_settings(TRAINED), seed=seed, device="cpu")
        self.divergence = Divergence(self.model)

    def calibrated(self, **settings: Any) -> Simulation:
        """Return a simulation that has seen the calibration images."""
        simulation = simulate(self.model, self.task.example_inputs, **settings)
        simulation.calibrate(self.batches())
        return simulation

    def batches(self) -> Any:
        """Return the calibration images."""
        return self.data.batches("train", batch_size=BATCH, indices=self.subset.indices)

    def score(self, model: nn.Module) -> float:
        """Return the share of the reported images that are right."""
        return self.task.evaluate(model, "test").score

    def divergence_of(self, simulation: Simulation) -> float:
        """Return how far predictions on the deciding images are from those in fp32, in nats."""
        simulation.module.eval()
        evaluate(self.divergence.of(simulation.module), self.data.batches("validation", batch_size=BATCH), classes=10)
        return self.divergence.mean_nats


def of_calibrators(study: Study) -> list[dict[str, Any]]:
    """Measure every calibrator at 8 bits, simulated and as the file."""
    simulation, rows = study.calibrated(), []
    for name in CALIBRATORS:
        notes = simulation.set_ranges(name)
        row = {"calibrator": name, "divergence_nats": study.divergence_of(simulation), "fallbacks": len(notes)}
        row["simulated"] = study.score(simulation.module)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "int8.onnx")
            report = write_int8(simulation, path, images=list(study.batches())[:1])
            row["file"] = evaluate_artifact(path, study.data, batch_size=BATCH, threads=1).score
            met = compare_predictions(simulation.module, OnnxModel(path, threads=1), study.data, batch_size=BATCH)
            row |= {"equal": met.equal, "samples": met.samples, "size_bytes": report.size_bytes}
            row["in_float"] = sorted({entry.kind for entry in report.execution.in_float})
        rows.append(row)
        print(f"{name}: {row['simulated']:.4f} simulated, {row['file']:.4f} file, {met.equal} equal", flush=True)
    return rows


def of_fewer_bits(study: Study, calibrator: str) -> list[dict[str, Any]]:
    """Measure one step per weight, and fewer bits."""
    rows = []
    for title, settings in {
        "one step per weight": {"per_tensor_weights": True},
        "weights of 6 bits": {"weight_bits": 6},
        "weights of 4 bits": {"weight_bits": 4},
        "weights of 4 bits, one step per weight": {"weight_bits": 4, "per_tensor_weights": True},
    }.items():
        simulation = study.calibrated(**settings)
        simulation.set_ranges(calibrator)
        rows.append({"what": title, "simulated": study.score(simulation.module)})
        print(f"{title}: {rows[-1]['simulated']:.4f}", flush=True)
    return rows


def of_repairs(study: Study, calibrator: str, epochs: int) -> list[dict[str, Any]]:
    """Measure what brings weights of 4 bits back."""

    def start() -> Simulation:
        simulation = study.calibrated(weight_bits=4)
        simulation.set_ranges(calibrator)
        return simulation

    def mended(name: str) -> Callable[[Simulation], object]:
        return lambda simulation: repair(
            simulation, [name], study.batches, calibrator=calibrator, seed=study.seed
        ).to_json()["steps"]

    def trained(steps: LearnedSteps) -> Callable[[Simulation], object]:
        return lambda simulation: train_quantized(
            simulation, study.task, epochs=epochs, settings=qat_settings(TRAINED), learned_steps=steps
        )

    ways = {name: mended(name) for name in ("bias-correction", "adaround")}
    ways |= {f"trained, {title}": trained(steps) for title, steps in LEARNED.items()} if epochs else {}
    rows = []
    for title, way in ways.items():
        simulation = start()
        way(simulation)
        rows.append({"what": title, "simulated": study.score(simulation.module)})
        print(f"{title}: {rows[-1]['simulated']:.4f}", flush=True)
    return rows


def of_network(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return one network's part of the record."""
    study = Study(name, options.seed, options.threads)
    dense = study.task.evaluate(study.model, "test")
    print(f"{name}: fp32 {dense.score:.4f} on {dense.samples} images", flush=True)
    rows = of_calibrators(study)
    picked = min(rows, key=lambda row: row["divergence_nats"])["calibrator"]
    epochs = options.epochs if name in options.train else 0
    return {
        "network": name,
        "fp32": dense.score,
        "samples": dense.samples,
        "deciding": study.data.size("validation"),
        "images": len(study.subset.indices),
        "rows": rows,
        "picked": picked,
        "fewer": of_fewer_bits(study, picked),
        "repairs": of_repairs(study, picked, epochs),
        "epochs": epochs,
    }


def main() -> None:
    """Measure and record; networks that are not named stay in the record as they were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--epochs", type=int, default=4, help="of training with rounding")
    parser.add_argument("--train", nargs="*", choices=tuple(NETWORKS), default=["resnet20"], help="networks to train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "int8_accuracy.json")
    options = parser.parse_args()
    set_threads(options.threads)
    torch.manual_seed(options.seed)
    before = json.loads(options.out.read_text(encoding="utf-8"))["networks"] if options.out.exists() else []
    parts = {part["network"]: part for part in before}
    parts |= {name: of_network(name, options) for name in options.networks}
    record = {
        "benchmark": "int8_accuracy",
        "what": "published weights on the original pixels of CIFAR-10, brought to INT8",
        "seed": options.seed,
        "networks": [parts[name] for name in NETWORKS if name in parts],
        "environment": asdict(environment("cpu")),
    }
    write_text(options.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
