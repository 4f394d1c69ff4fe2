"""Figures 4, 5, 6 and 8 of Han et al. 2015 (arXiv:1506.02626), from runs of LeNet-300-100 on MNIST.

Run with `.venv/bin/python benchmarks/lenet_figures.py` from the checkout's root; needs `../shared/data/MNIST` (see its
README) and about 20 minutes on one core.

The trade-off (their Figure 5): points of accuracy lost against the share of parameters that is gone, for networks
trained with an L1 penalty or with weight decay (L2), pruned without and with retraining, and pruned iteratively: there
each step starts from the result of the one before, so that its last point has seen the most training. The strength of
each penalty is chosen on validation images under a seed of its own: of those whose dense network is within 0.2 points
of the best, the one that loses least right after pruning to 90 %. Retraining takes a tenth of the dense network's
learning rate, as in the paper. Budgets are shared out over the layers by scans on validation images.

Sensitivity per layer (Figure 6) is the scan of the dense L2 networks; the pattern of the first layer (Figure 4) and how
weights are spread (Figure 8) are those of the retrained L2 network at the share nearest to 1/12 left, first seed.

Each run is a folder of its own, so the script can be stopped and continued. The record goes to
`benchmarks/records/lenet_figures.json`, the figures to `docs/figures/lenet-*.svg`.
"""

import argparse
import copy
import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from sparse_figures import TRADEOFF_ARMS, tradeoff_figure
from torch import nn

from secateur.cost import Budget
from secateur.data import load_data
from secateur.files import write_text
from secateur.methods.weights_and_connections import WeightsAndConnections
from secateur.methods.weights_and_connections.penalty import WeightL1
from secateur.models import build_model
from secateur.randomness import derive_seed
from secateur.record import LayerHistograms, WeightScan, environment
from secateur.report.drawing import can_draw, save_figure
from secateur.report.weight_figures import histogram_figure, pattern_figure, scan_figure
from secateur.sparse import Masks, by_global_share, nonzeros, prunable_weights
from secateur.training import Store, SupervisedTask, TrainSettings, set_threads

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
NETWORK = "lenet-300-100"
IMAGE = (1, 28, 28)
FIRST = "fc1.weight"
SEARCH_SEED = 1000  # of the runs that choose the penalties; none of those that are reported
SEARCH_SHARE, VALIDATION_SHARE = 1 / 6, 0.05  # of the training images, when choosing and when reporting
STRENGTHS = {"l2": (1e-4, 5e-4), "l1": (3e-6, 1e-5, 3e-5)}  # weight decay, and λ of L1 per unit of |w|
NEAR = 0.002  # of validation error: a dense network as good as the best
CHOSEN_AT = 0.9  # share of the weights gone when penalties are compared
SHARES = (0.5, 0.7, 0.8, 0.85, 0.9, 0.92, 0.95, 0.97)  # of the parameters, that go
TWELFTH = 1 - 1 / 12
RATE = 0.05


@dataclass(frozen=True)
class Penalty:
    """What keeps weights small while they train."""

    kind: str  # l1 or l2
    strength: float

    @property
    def name(self) -> str:
        """Return it as a part of a folder's name."""
        return f"{self.kind}-{self.strength:g}"

    @property
    def l1(self) -> float:
        """λ of Σ|w|."""
        return self.strength if self.kind == "l1" else 0.0

    @property
    def decay(self) -> float:
        """Weight decay."""
        return self.strength if self.kind == "l2" else 0.0


def task_for(penalty: Penalty, seed: int) -> SupervisedTask:
    """Return the task of a seed; the seed that chooses has more images to choose by."""
    share = SEARCH_SHARE if seed == SEARCH_SEED else VALIDATION_SHARE
    settings = TrainSettings(
        batch_size=64,
        learning_rate=RATE,
        nesterov=True,
        weight_decay=penalty.decay,
        schedule="cosine",
        augment=False,
        evaluate_every=0,
    )
    data = load_data("mnist", root=SHARED, validation_share=share)
    return SupervisedTask(data, settings=settings, seed=seed, device="cpu")


def dense_network(options: argparse.Namespace, penalty: Penalty, seed: int, task: SupervisedTask) -> nn.Module:
    """Return the trained dense network, from its folder if it is done."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "lenet_figures"))
        model = build_model(NETWORK)
    hooks = (WeightL1(prunable_weights(model), penalty.l1),) if penalty.l1 else ()
    store = Store(options.runs / f"dense-{penalty.name}-{seed}")
    store.train("dense", task, model, epochs=options.dense_epochs, hooks=hooks)
    return model


def cached(file: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a run left, or None.

    Raises:
        SystemExit: it was made with other settings.
    """
    if not file.exists():
        return None
    known: dict[str, Any] = json.loads(file.read_text())
    if known["asked_for"] != json.loads(json.dumps(asked)):
        raise SystemExit(f"{file} was made with {known['asked_for']}, not {asked}; give another folder with --runs")
    return known


def searched(options: argparse.Namespace, penalty: Penalty) -> dict[str, Any]:
    """Return the validation errors of one strength, dense and right after pruning."""
    file = options.runs / f"dense-{penalty.name}-{SEARCH_SEED}" / "result.json"
    asked = {**asdict(penalty), "dense_epochs": options.dense_epochs}
    known = cached(file, asked)
    if known is None:
        task = task_for(penalty, SEARCH_SEED)
        model = dense_network(options, penalty, SEARCH_SEED, task)
        dense = 1 - task.evaluate(model).score
        by_global_share(model, CHOSEN_AT).apply_(model)
        known = {"asked_for": asked, "validation_error": dense, "pruned": 1 - task.evaluate(model).score}
        write_text(file, json.dumps(known, indent=1) + "\n")
    print(f"{penalty.name}: validation error {known['validation_error']:.4f}, pruned {known['pruned']:.4f}", flush=True)
    return {**asdict(penalty), "validation_error": known["validation_error"], "pruned": known["pruned"]}


def chosen(found: list[dict[str, Any]]) -> Penalty:
    """Return the strength that loses least when pruned, of those whose dense network is as good as the best."""
    best = min(one["validation_error"] for one in found)
    near = [one for one in found if one["validation_error"] <= best + NEAR]
    least = min(near, key=lambda one: one["pruned"])
    return Penalty(least["kind"], least["strength"])


def pruned(
    options: argparse.Namespace, penalty: Penalty, share: float, seed: int, start: str | None = None
) -> dict[str, Any]:
    """Prune to one share and retrain; return the test errors right after pruning and after retraining.

    Args:
        options: of the command.
        penalty: of all training.
        share: of the parameters, that goes.
        seed: of the run.
        start: name of the run whose result is pruned further; None: the dense network is.
    """
    name = f"{penalty.name}-{share:g}-{'once' if start is None else 'iterative'}-{seed}"
    folder = options.runs / name
    asked = {**asdict(penalty), "share": share, "start": start, "seed": seed, "epochs": options.epochs}
    asked |= {"dense_epochs": options.dense_epochs}
    known = cached(folder / "result.json", asked)
    if known is not None:
        return known
    task = task_for(penalty, seed)
    model = dense_network(options, penalty, seed, task)
    params = nonzeros(model)
    if start is not None:
        model.load_state_dict(load_file(options.runs / start / "model.safetensors"))
    method = WeightsAndConnections(
        allocation="scan", finetune_epochs=options.epochs, retrain_l1=penalty.l1, cut_dead=False, seed=seed
    )
    result = method.compress(model, task, Budget(nonzeros=int((1 - share) * params)), store=Store(folder))
    weights = result.record.weights
    assert result.masks is not None
    assert weights is not None
    cut = copy.deepcopy(model)
    result.masks.apply_(cut)
    found = {
        "asked_for": asked,
        "name": name,
        "nonzeros": weights.nonzeros,
        "dense_error": 1 - task.evaluate(model, "test").score,
        "cut_error": 1 - task.evaluate(cut, "test").score,
        "test_error": 1 - task.evaluate(result.model, "test").score,
        "samples": task.data.size("test"),
        "scans": [asdict(scan) for scan in weights.scans],
        "histograms": [asdict(one) for one in weights.histograms],
    }
    save_file(result.model.state_dict(), folder / "model.safetensors")
    result.masks.save(folder / "masks.safetensors")
    write_text(folder / "result.json", json.dumps(found, indent=1) + "\n")  # last: what has it is done
    return found


def rows_of(options: argparse.Namespace, penalties: dict[str, Penalty]) -> list[dict[str, Any]]:
    """Run what is missing of the trade-off, and return a row per arm and share: test errors by seed."""
    errors: dict[tuple[str, float], list[float]] = {}
    for seed in options.seeds:
        before: str | None = None
        for share in options.shares:
            for kind, penalty in penalties.items():
                one = pruned(options, penalty, share, seed)
                errors.setdefault((kind, share), []).append(one["cut_error"])
                errors.setdefault((f"{kind}-retrained", share), []).append(one["test_error"])
            step = pruned(options, penalties["l2"], share, seed, before)  # the first step is the run in one cut
            errors.setdefault(("l2-iterative", share), []).append(step["test_error"])
            before = step["name"]
            told = ", ".join(f"{arm} {100 * found[-1]:.2f}" for (arm, at), found in errors.items() if at == share)
            print(f"seed {seed}, {share:.0%} gone: test error {told}", flush=True)
    return [
        {"arm": arm, "share": share, "test_error": found, "mean": statistics.fmean(found)}
        for (arm, share), found in sorted(
            errors.items(), key=lambda item: (list(TRADEOFF_ARMS).index(item[0][0]), item[0][1])
        )
    ]


def mean_scans(runs: list[dict[str, Any]]) -> list[WeightScan]:
    """Return the scans of the dense networks, averaged over seeds."""
    found = []
    for place, scan in enumerate(runs[0]["scans"]):
        same = [run["scans"][place] for run in runs]
        means = {
            key: tuple(map(statistics.fmean, zip(*(one[key] for one in same), strict=True)))
            for key in ("scores", "losses")
        }
        dense = statistics.fmean(one["dense"] for one in same)
        found.append(WeightScan(round=1, layer=scan["layer"], shares=tuple(scan["shares"]), dense=dense, **means))
    return found


def draw(record: dict[str, Any], mask: torch.Tensor, folder: Path) -> None:
    """Draw all four figures."""
    scans = TypeAdapter(list[WeightScan]).validate_python(record["scans"])
    spread = TypeAdapter(list[LayerHistograms]).validate_python(record["histograms"])
    figures = {
        "tradeoff": lambda: tradeoff_figure(record),
        "sensitivity": lambda: scan_figure(scans),
        "pattern": lambda: pattern_figure(mask, IMAGE, name=FIRST),
        "histograms": lambda: histogram_figure(spread),
    }
    for name, figure in figures.items():
        save_figure([folder / f"lenet-{name}.svg"], figure)


def main() -> None:
    """Run what is missing, record and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES), help="of the parameters, that go")
    parser.add_argument("--dense-epochs", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=6, help="of retraining after each pruning")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "lenet_figures", help="folder of the runs")
    parser.add_argument("--only-run", action="store_true", help="run what is missing, write no record")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "lenet_figures.json")
    parser.add_argument("--figures", type=Path, default=ROOT / "docs" / "figures", help="folder of the figures")
    options = parser.parse_args()
    options.shares = sorted(set(options.shares))
    set_threads(options.threads)
    if SEARCH_SEED in options.seeds:
        raise SystemExit(f"seed {SEARCH_SEED} chooses the penalties; report others")
    search = {
        kind: [searched(options, Penalty(kind, strength)) for strength in strengths]
        for kind, strengths in STRENGTHS.items()
    }
    penalties = {kind: chosen(found) for kind, found in search.items()}
    rows = rows_of(options, penalties)
    if options.only_run:
        return
    shown = min(options.shares, key=lambda share: abs(share - TWELFTH))
    runs = {
        kind: [pruned(options, penalty, shown, seed) for seed in options.seeds] for kind, penalty in penalties.items()
    }
    mask = Masks.load(options.runs / runs["l2"][0]["name"] / "masks.safetensors")[FIRST]
    per_pixel = mask.sum(0)
    record = {
        "benchmark": "lenet_figures",
        "what": f"LeNet-300-100 on MNIST, {options.dense_epochs} epochs dense and {options.epochs} of retraining after "
        "each pruning, last epoch",
        "seeds": options.seeds,
        "samples": runs["l2"][0]["samples"],
        "params": nonzeros(build_model(NETWORK)),
        "search": {"seed": SEARCH_SEED, "validation_share": SEARCH_SHARE, "runs": search},
        "penalties": {kind: asdict(penalty) for kind, penalty in penalties.items()},
        "dense_error": {kind: [one["dense_error"] for one in found] for kind, found in runs.items()},
        "rows": rows,
        "scans": [asdict(scan) for scan in mean_scans(runs["l2"])],
        "shown": {"share": shown, "seed": options.seeds[0], "nonzeros": runs["l2"][0]["nonzeros"]},
        "histograms": runs["l2"][0]["histograms"],
        "pixels": {"layer": FIRST, "never_read": int((per_pixel == 0).sum()), "left": per_pixel.tolist()},
        "environment": asdict(environment("cpu")),
    }
    write_text(options.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    if can_draw():
        draw(record, mask, options.figures)


if __name__ == "__main__":
    main()
