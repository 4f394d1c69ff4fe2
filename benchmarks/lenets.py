"""Tables 2 and 3 of Han et al. 2015 on MNIST, and how far the two LeNets can be pruned.

Run with `.venv/bin/python benchmarks/lenets.py` from the checkout's root; needs `../shared/data/MNIST` (see its
README), and hours for LeNet-5 on a CPU (`--device cuda`, or `--networks` and `--arms` in several processes with
`--only-run`).

For each network: learning rate and weight decay of the dense network are chosen from a grid by the error on validation
images under a seed of its own; so is, for each way to prune, the learning rate of the retraining, at `--search-ratio`.
Then three seeds are trained, pruned to every ratio in every way (`lenets_arms.py`), the last epoch counts, and the test
images are looked at once per run. All ways train for as many epochs in total. The record holds, for the ratio of the
paper, the table of layers beside the published one, the sizes of the compact file with exact values and with a codebook
and its error in a fresh process, the hidden units that died; for all ratios the errors by seed; and for each way the
largest ratio whose mean test error is within 0.1 points of the dense network's.

Each run is a folder of its own (its phases, and what it measured), so the script can be stopped and continued. The
record goes to `benchmarks/records/lenets.json`; a network that is not run now stays in it as it was.
"""

import argparse
import itertools
import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lenets_arms import ARMS, EPOCHS, SEARCH_SEED, SEARCH_SHARE, Dense, Pruned, epochs_of, result_file, run

from secateur.files import write_text
from secateur.training import set_threads

WITHIN = 0.001  # of test error: a ratio counts as without loss up to this
RATIOS = {"lenet-300-100": (12.0, 20.0, 30.0, 40.0, 56.0, 80.0), "lenet5": (12.0, 30.0, 60.0, 80.0, 108.0, 140.0)}
SEARCH_RATIO = {"lenet-300-100": 40.0, "lenet5": 100.0}
PUBLISHED: dict[str, dict[str, Any]] = {
    "lenet-300-100": {
        "test_error": {"dense": 0.0164, "pruned": 0.0159},
        "ratio": 12,
        # Weights%, Act% and FLOP% of fc1, fc2, fc3 (arXiv:1506.02626, Table 2)
        "layers": {"fc1": (8, 38, 8), "fc2": (9, 65, 4), "fc3": (26, 100, 17)},
        "surgery": {"ratio": 56},
    },
    "lenet5": {
        "test_error": {"dense": 0.0080, "pruned": 0.0077},
        "ratio": 12,
        "layers": {"conv1": (66, 82, 66), "conv2": (12, 72, 10), "fc1": (8, 55, 6), "fc2": (19, 100, 10)},
        "surgery": {"ratio": 108},
    },
}
"""Tables 1 to 3 of arXiv:1506.02626, and the ratios of Dynamic Network Surgery (arXiv:1608.04493)."""
NOT_OF_THE_RUNS = ("out", "runs", "only_run", "done_only", "networks")


def best_dense(options: argparse.Namespace, network: str) -> tuple[Dense, list[dict[str, Any]]]:
    """Return how to train the dense network, and the validation error of each way."""
    ways = [Dense(*pair) for pair in itertools.product(options.dense_rates, options.weight_decays)]
    search = [run(options, network, way, None, SEARCH_SEED)["validation_error"] for way in ways]
    for way, error in zip(ways, search, strict=True):
        print(f"{network} {way.name}: validation error {100 * error:.2f} %", flush=True)
    found = [{**asdict(way), "validation_error": error} for way, error in zip(ways, search, strict=True)]
    return ways[search.index(min(search))], found


def best_rate(options: argparse.Namespace, network: str, dense: Dense, arm: str) -> tuple[float, list[dict[str, Any]]]:
    """Return the learning rate of the arm's retraining, and the validation error of each."""
    ratio = options.search_ratio or SEARCH_RATIO[network]
    found = []
    for rate in options.rates:
        one = run(options, network, dense, Pruned(arm, ratio, rate), SEARCH_SEED)
        error, shown = one["validation_error"], "diverged" if "diverged" in one else "validation error"
        print(f"{network} {arm} {ratio:g}×, rate {rate:g}: {shown} {100 * error:.2f} %", flush=True)
        found.append({"arm": arm, "ratio": ratio, "learning_rate": rate, "validation_error": error})
    return min(found, key=lambda one: one["validation_error"])["learning_rate"], found


def row(arm: str, ratio: float, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one arm at one ratio over all seeds."""
    errors = [one["test_error"] for one in runs]
    return {
        "arm": arm,
        "ratio": ratio,
        "nonzeros": [one.get("nonzeros", one["params"]) for one in runs],
        "test_error": errors,
        "mean": statistics.fmean(errors),
        "standard_deviation": statistics.stdev(errors) if len(errors) > 1 else None,
        "dead_units": [one.get("dead_units") for one in runs],
        "dead_difference": [one.get("dead_difference") for one in runs],
        "nonzeros_without_dead": [one.get("nonzeros_without_dead") for one in runs],
    }


def frontier(rows: list[dict[str, Any]], dense: float) -> dict[str, float | None]:
    """Return for each arm the largest ratio within 0.1 points of the dense network; None where no ratio is."""
    found: dict[str, float | None] = {}
    for one in rows:
        near = one["mean"] <= dense + WITHIN
        before = found.get(one["arm"])
        found[one["arm"]] = max(before or 0.0, one["ratio"]) if near else before
    return found


def of_network(options: argparse.Namespace, network: str) -> dict[str, Any]:
    """Run all that is missing of one network, and return its part of the record."""
    dense, dense_search = best_dense(options, network)
    rates, rate_search = {}, []
    for arm in options.arms:
        rates[arm], found = best_rate(options, network, dense, arm)
        rate_search += found
    dense_runs = [run(options, network, dense, None, seed) for seed in options.seeds]
    dense_row = row("dense", 1.0, dense_runs)
    print(f"{network} dense: test error {100 * dense_row['mean']:.2f} %", flush=True)
    rows, tables = [], []
    for arm, ratio in itertools.product(options.arms, options.ratios or RATIOS[network]):
        way = Pruned(arm, ratio, rates[arm])
        if options.done_only and not all(
            result_file(options, network, dense, way, seed).exists() for seed in options.seeds
        ):
            continue
        runs = [run(options, network, dense, way, seed) for seed in options.seeds]
        rows.append(row(arm, ratio, runs))
        print(f"{network} {arm} {ratio:g}×: test error {100 * rows[-1]['mean']:.2f} %", flush=True)
        if ratio == PUBLISHED[network]["ratio"]:
            keys = ("seed", "layers", "rounds", "scans", "files", "energy_pj", "speed", "test_error")
            tables.append({"arm": arm, "runs": [{key: one[key] for key in keys} for one in runs]})
    first = dense_runs[0]
    return {
        "network": network,
        "epochs": dict(zip(("dense", "pruned"), epochs_of(options, network), strict=True)),
        "params": first["params"],
        "samples": first["test_samples"],
        "train_samples": first["train_samples"],
        "published": PUBLISHED[network],
        "seeds": options.seeds,
        "options": {key: value for key, value in vars(options).items() if key not in NOT_OF_THE_RUNS},
        "search": {"seed": SEARCH_SEED, "validation_share": SEARCH_SHARE, "dense": dense_search, "rates": rate_search},
        "chosen": {"dense": asdict(dense), "rates": rates},
        "dense": dense_row,
        "rows": rows,
        "tables": tables,
        "frontier": frontier(rows, dense_row["mean"]),
        "environment": first["environment"],
    }


def main() -> None:
    """Run what is missing, and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=tuple(RATIOS), default=list(RATIOS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--ratios", nargs="+", type=float, help="of all parameters to those left; by default per network"
    )
    parser.add_argument("--search-ratio", type=float, help="at which learning rates are chosen; by default per network")
    parser.add_argument("--dense-rates", nargs="+", type=float, default=[0.02, 0.05], help="to choose from")
    parser.add_argument("--weight-decays", nargs="+", type=float, default=[1e-4, 5e-4], help="to choose from")
    parser.add_argument("--rates", nargs="+", type=float, default=[0.002, 0.01, 0.03], help="of retraining")
    parser.add_argument("--dense-epochs", type=int, help=f"by default per network: {EPOCHS}")
    parser.add_argument("--epochs", type=int, help="of pruning and retraining in all; by default per network")
    parser.add_argument("--rounds", type=int, default=10, help="of the arm gradual")
    parser.add_argument("--every", type=int, default=16, help="steps between two looks at masks that change")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--validation-share", type=float, default=0.05, help="of the training images, when reporting")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "lenets", help="folder of the runs")
    parser.add_argument("--only-run", action="store_true", help="run what is missing, write no record")
    parser.add_argument("--done-only", action="store_true", help="record the ways and ratios that all seeds have")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "lenets.json")
    options = parser.parse_args()
    set_threads(options.threads)
    if SEARCH_SEED in options.seeds:
        raise SystemExit(f"seed {SEARCH_SEED} chooses the settings; report others")
    networks = [of_network(options, network) for network in options.networks]
    if options.only_run:
        return
    before = json.loads(options.out.read_text(encoding="utf-8"))["networks"] if options.out.exists() else []
    parts = {part["network"]: part for part in (*before, *networks)}
    record = {
        "benchmark": "lenets",
        "what": "MNIST, the last epoch of dense training, and of pruning and retraining",
        "within_points": 100 * WITHIN,
        "networks": [parts[network] for network in RATIOS if network in parts],
        "environment": networks[0]["environment"],
    }
    write_text(options.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
