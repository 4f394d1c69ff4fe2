"""What the runs of `autoslim_cifar.py` say together: arms at each budget, claims of the paper, correlation."""

import argparse
import itertools
import math
import statistics
from dataclasses import asdict
from typing import Any

import numpy as np
from autoslim_cifar_runs import (
    DEFAULT,
    FINAL_TRAINING,
    RANGE,
    SEARCH_BATCH,
    SUPERNET,
    SUPERNET_TRAINING,
    Study,
)

from secateur.methods.autoslim import Front
from secateur.record import RunRecord, environment

ARMS = ("autoslim", "uniform", "gate_taylor")
SHARES = (0.5, 0.25)


def arm_record(study: Study, front: Front, share: float, arm: str) -> RunRecord:
    """Return the record of one arm at the multiply-adds that the search found for a budget."""
    found = study.found(front, share)
    name = f"{share:g}-{arm}"
    if arm == "gate_taylor":
        return study.gate_taylor(name, found.macs)
    return study.trained(name, found.widths if arm == "autoslim" else study.uniform(found.macs)[1])


def estimates_at(study: Study, front: Front, share: float) -> dict[str, float]:
    """Return what the super-net says of the found and of the uniform network."""
    found = study.found(front, share)
    uniform = study.estimated(f"{share:g}-uniform", study.uniform(found.macs)[1])
    return {"autoslim": found.accuracy, "uniform": uniform.accuracy}


def top1_of(record: RunRecord) -> float:
    """Return the test accuracy of one run."""
    test = record.measurements["tuned"].test
    if test is None or test.top1 is None:
        raise SystemExit(f"run {record.run_id} has no test accuracy")
    return test.top1


def rows(studies: list[Study]) -> list[dict[str, Any]]:
    """Return every arm at every budget, over all seeds."""
    found = []
    fronts = [study.front(list(SHARES)) for study in studies]
    for share, arm in itertools.product(SHARES, ARMS):
        records = [arm_record(study, front, share, arm) for study, front in zip(studies, fronts, strict=True)]
        top1 = [top1_of(record) for record in records]
        row: dict[str, Any] = {
            "arm": arm,
            "budget": share,
            "macs": [record.measurements["tuned"].macs for record in records],
            "params": [record.measurements["tuned"].params for record in records],
            "test_top1": top1,
            "mean": statistics.fmean(top1),
            "images_trained": [sum(epoch.samples for p in record.phases for epoch in p.epochs) for record in records],
            "resumed": [record.resumed for record in records],
        }
        if arm != "gate_taylor":
            estimates = [estimates_at(study, front, share) for study, front in zip(studies, fronts, strict=True)]
            row["estimates"] = [entry[arm] for entry in estimates]
            row["widths"] = [record.settings["widths"] for record in records]
        found.append(row)
    return found


def claims(found: list[dict[str, Any]], stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the paper says, and whether it holds in these runs: for every seed, for none, or for some."""
    said = []
    for share in SHARES:
        by_arm = {row["arm"]: row["test_top1"] for row in found if row["budget"] == share}
        for other in ("uniform", "gate_taylor"):
            gaps = [a - b for a, b in zip(by_arm["autoslim"], by_arm[other], strict=True)]
            said.append(
                {
                    "budget": share,
                    "claim": f"more accurate than {other} at the same multiply-adds",
                    "by_seed": gaps,
                    "holds": _verdict([gap > 0 for gap in gaps]),
                }
            )
        thinner = [row["shares"][0] < row["shares"][-1] for row in stages if row["budget"] == share]
        said.append(
            {
                "budget": share,
                "claim": "shallow layers lose more of their width than deep ones",
                "by_seed": [row["shares"][0] - row["shares"][-1] for row in stages if row["budget"] == share],
                "holds": _verdict(thinner),
            }
        )
    return said


def _verdict(by_seed: list[bool]) -> str:
    return "yes" if all(by_seed) else "for some seeds" if any(by_seed) else "no"


def stages(studies: list[Study]) -> list[dict[str, Any]]:
    """Return the width of what was found relative to the default network's, averaged over the groups of each stage."""
    default = {group.name: group.size / 1.5 for group in studies[0].graph.groups}
    found = []
    for share, study in itertools.product(SHARES, studies):
        widths = study.found(study.front(list(SHARES)), share).widths
        by_stage: dict[str, list[float]] = {"layer1": [], "layer2": [], "layer3": []}
        for name, units in widths.items():
            stage = "layer1" if name.startswith("conv1") else name.split(".")[0]  # the stem's stream is the first's
            by_stage[stage].append(units / default[name])
        found.append(
            {"budget": share, "seed": study.seed, "shares": [statistics.fmean(entry) for entry in by_stage.values()]}
        )
    return found


def correlated(study: Study, configurations: int) -> dict[str, Any]:
    """Return estimates and trained accuracies of networks of random widths, and how far they go together."""
    points = []
    for number in range(configurations):
        widths = study.random_widths(number)
        estimate, record = study.estimated(f"random-{number}", widths), study.trained(f"random-{number}", widths)
        points.append({"macs": estimate.macs, "estimate": estimate.accuracy, "test_top1": top1_of(record)})
    columns = {name: np.asarray([point[name] for point in points], dtype=np.float64) for name in points[0]}
    estimate, reached, macs = columns["estimate"], columns["test_top1"], columns["macs"]
    pearson = _pearson(estimate, reached)
    return {
        "seed": study.seed,
        "points": points,
        "pearson": pearson,
        "pearson_interval": _fisher(pearson, len(points)),
        "spearman": _pearson(_ranks(estimate), _ranks(reached)),
        "macs_pearson": _pearson(np.log(macs), reached),
        "macs_spearman": _pearson(_ranks(macs), _ranks(reached)),
        "partial": _partial(estimate, reached, np.log(macs)),
    }


def _pearson(first: np.ndarray, second: np.ndarray) -> float:
    if first.std() == 0 or second.std() == 0:
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1 on; equal values share the mean of theirs."""
    return np.asarray([(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values])


def _partial(first: np.ndarray, second: np.ndarray, given: np.ndarray) -> float:
    """Return the correlation of what a straight line through ``given`` leaves of both."""

    def rest(values: np.ndarray) -> np.ndarray:
        return values - np.polyval(np.polyfit(given, values, 1), given)

    return _pearson(rest(first), rest(second))


def _fisher(correlation: float, points: int) -> list[float]:
    """Return the 95 % interval of a correlation by Fisher's transformation."""
    if points < 4 or not abs(correlation) < 1:
        return [math.nan, math.nan]
    return [math.tanh(math.atanh(correlation) + sign * 1.96 / math.sqrt(points - 3)) for sign in (-1, 1)]


def summary(studies: list[Study], options: argparse.Namespace) -> dict[str, Any]:
    """Return what the records say together."""
    found, by_stage = rows(studies), stages(studies)
    dense = [study.dense()[1] for study in studies]
    first = dense[0].measurements["tuned"]
    assert first.test is not None
    return {
        "benchmark": "autoslim_cifar",
        "what": f"ResNet-20 with option B on the JPEG copy of CIFAR-10, {options.train_images:,} training images, "
        f"{options.epochs} epochs for every network, {options.supernet_epochs} for the super-net at 1.5 times the "
        "width, last epoch",
        "seeds": options.seeds,
        "models": {"default": DEFAULT, "supernet": SUPERNET},
        "lengths": asdict(studies[0].lengths),
        "search_batch": SEARCH_BATCH,
        "training": {"supernet": asdict(SUPERNET_TRAINING), "final": asdict(FINAL_TRAINING)},
        "samples": first.test.samples,
        "default_macs": first.macs,
        "default_test_top1": [top1_of(record) for record in dense],
        "rows": found,
        "stages": by_stage,
        "claims": claims(found, by_stage),
        "fronts": [
            {
                "seed": study.seed,
                "steps": len(front.configurations) - 1,
                "points": [{"macs": one.macs, "accuracy": one.accuracy} for one in front.configurations],
            }
            for study in studies
            for front in [study.front(list(SHARES))]
        ],
        "range": RANGE,
        "correlation": correlated(studies[0], options.configurations),
        "environment": asdict(environment("cpu")),
    }
