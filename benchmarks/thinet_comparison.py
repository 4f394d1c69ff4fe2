"""Accuracy without fine-tuning against the share of filters that stays: ThiNet's Figure 4, on networks trained here.

Run with `.venv/bin/python benchmarks/thinet_comparison.py`; needs `../shared/data` (see its README) and about an hour
on one core. Seven ways to choose filters (Luo, Wu, Lin 2017, arXiv:1707.06342, Figure 4, and two more): at random, by
the filters' L1 norms, by the share of zeros, ThiNet without and with weights from sampled rows as its authors do it,
ThiNet over all positions, and its journal version; each without and with compensation (`restore`: weights and a bias
in the layers that read what was cut). Layer after layer is cut to the share, inner layers of blocks only, and nothing
is trained. A seed decides which training images are looked at, which rows are drawn, and the random choice.

Each arm, share and seed is a file in the folder of the runs, so the script can be stopped and continued. The record
goes to `benchmarks/records/thinet_comparison.json`, the figure to `docs/figures/thinet-comparison.svg`.
"""

import argparse
import itertools
import json
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from thinet_networks import NETWORKS, Trained

from secateur.compensation import RestoreSettings
from secateur.files import write_text
from secateur.methods import ThiNet
from secateur.record import environment
from secateur.report.drawing import can_draw, save_figure
from secateur.training import Store, set_threads

SEEDS = {"lenet5": (0, 1, 2), "resnet56-b": (0,)}  # unless asked for others
SHARES = {"lenet5": (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1), "resnet56-b": (0.9, 0.7, 0.5, 0.3)}
IMAGES = 256  # of the training split, for whatever looks at data
NOTHING_TRAINED = ThiNet(
    residual="inner", images=IMAGES, layer_epochs=0, finetune_epochs=0, evaluate_steps=False, reweight=False
)
COMPENSATED = RestoreSettings(compensate="both", images=IMAGES)
FIGURE = Path(__file__).resolve().parent.parent / "docs" / "figures" / "thinet-comparison.svg"


@dataclass(frozen=True)
class Arm:
    """One way to choose filters."""

    title: str
    method: ThiNet
    colour: str


ARMS = {
    "random": Arm("Random", replace(NOTHING_TRAINED, variant="random"), "#999999"),
    "weight_sum": Arm("Weight sum", replace(NOTHING_TRAINED, variant="weight_sum"), "#e69f00"),
    "apoz": Arm("APoZ", replace(NOTHING_TRAINED, variant="apoz"), "#cc79a7"),
    "without_w": Arm("ThiNet without w, rows", replace(NOTHING_TRAINED, statistics="rows"), "#56b4e9"),
    "rows": Arm("ThiNet, rows", replace(NOTHING_TRAINED, statistics="rows", reweight=True), "#0072b2"),
    "exact": Arm("ThiNet, all positions", replace(NOTHING_TRAINED, reweight=True), "#d55e00"),
    "tpami": Arm("ThiNet TPAMI", replace(NOTHING_TRAINED, variant="thinet_tpami", reweight=True), "#009e73"),
}


def accuracy(network: Trained, arm: Arm, share: float, seed: int, *, compensated: bool, file: Path) -> float:
    """Cut all inner layers to ``share`` and return the test accuracy, from its file if that is there."""
    settings = replace(arm.method, keep={"*": share}, seed=seed)
    if compensated:
        settings = replace(settings, restore=COMPENSATED)
    asked = json.loads(json.dumps(asdict(settings)))
    if file.exists():
        known = json.loads(file.read_text())
        if known["asked_for"] != asked:
            raise SystemExit(f"{file} was made with other settings; give another folder with --runs")
        return float(known["test_top1"])
    task = network.task(seed)
    result = settings.compress(network.model, task, None, store=Store.temporary())
    found = task.evaluate(result.model, "test")
    write_text(file, json.dumps({"asked_for": asked, "test_top1": found.score, "samples": found.samples}) + "\n")
    return found.score


def compared(name: str, network: Trained, options: argparse.Namespace) -> dict[str, Any]:
    """Return one network's accuracies, the mean over seeds and the single values."""
    rows, seeds = [], options.seeds or SEEDS[name]
    for (key, arm), compensated in itertools.product(ARMS.items(), (False, True)):
        for share in SHARES[name]:
            top1 = []
            for seed in seeds:
                file = options.runs / name / f"{key}-{'both' if compensated else 'none'}-{share:g}-{seed}.json"
                file.parent.mkdir(parents=True, exist_ok=True)
                top1.append(accuracy(network, arm, share, seed, compensated=compensated, file=file))
            rows.append(
                {
                    "arm": key,
                    "compensated": compensated,
                    "share": share,
                    "test_top1": top1,
                    "mean": statistics.fmean(top1),
                    "spread": max(top1) - min(top1),
                }
            )
            print(f"{name} {key}{' compensated' if compensated else ''} {share:g}: {rows[-1]['mean']:.4f}", flush=True)
    dense = network.task(0).evaluate(network.model, "test")
    return {
        "network": network.title,
        "seeds": list(seeds),
        "dense_test_top1": dense.score,
        "samples": dense.samples,
        "rows": rows,
    }


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw one panel per network and kind of compensation."""
    from matplotlib.figure import Figure

    def figure() -> Any:
        networks = record["networks"]
        drawn = Figure(figsize=(9.5, 3.6 * len(networks)), layout="constrained")
        axes = drawn.subplots(len(networks), 2, squeeze=False, sharey="row")
        for line, network in zip(axes, networks, strict=True):
            for axis, compensated in zip(line, (False, True), strict=True):
                for key, arm in ARMS.items():
                    chosen = [r for r in network["rows"] if r["arm"] == key and r["compensated"] == compensated]
                    shares = [100 * r["share"] for r in chosen]
                    low, high = ([100 * pick(r["test_top1"]) for r in chosen] for pick in (min, max))
                    axis.fill_between(shares, low, high, color=arm.colour, alpha=0.15, linewidth=0)
                    means = [100 * r["mean"] for r in chosen]
                    axis.plot(shares, means, color=arm.colour, marker="o", markersize=3, label=arm.title)
                dense = 100 * network["dense_test_top1"]
                axis.axhline(dense, color="black", linewidth=0.8, linestyle=":", label=f"dense, {dense:.1f} %")
                axis.set_title(f"{network['network']}, {'weights and bias re-fitted' if compensated else 'as cut'}")
                axis.set_xlabel("filters that stay in each layer, %")
                axis.invert_xaxis()
                axis.grid(alpha=0.3)
            line[0].set_ylabel("test accuracy, %, nothing trained")
            line[0].legend(fontsize=7, loc="lower left")
        return drawn

    save_figure([path], figure)


def main() -> None:
    """Run what is missing, record and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(SHARES))
    parser.add_argument("--seeds", nargs="+", type=int, help=f"by default per network: {SEEDS}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "thinet")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "thinet_comparison.json")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    options = parser.parse_args()
    set_threads(options.threads)
    record = {
        "benchmark": "thinet_comparison",
        "what": f"test accuracy right after the cut, {IMAGES} training images looked at",
        "arms": {key: arm.title for key, arm in ARMS.items()},
        "networks": [compared(name, NETWORKS[name](options.runs), options) for name in options.networks],
        "environment": asdict(environment("cpu")),
    }
    write_text(options.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    if can_draw():
        draw(record, options.figure)


if __name__ == "__main__":
    main()
