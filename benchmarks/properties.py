"""Hold random networks and random plans to every law, in parallel, and count what the networks were made of.

Run with `.venv/bin/python benchmarks/properties.py`. The networks and laws are those of `tests/properties`. A network
on which a law breaks is made smaller as long as that law breaks, and recorded so that it can be pasted into
`tests/properties/test_found_failures.py`. The record goes to `benchmarks/records/properties.json`;
`benchmarks/tables.py` makes the table in `docs/benchmarks.md` of it. Exits 1 if a law broke or an option came up too
rarely.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "properties"))

from laws import LAWS, Case  # noqa: E402  (the folder of the tests has to be on the path first)
from networks import Description, drawn, every_feature  # noqa: E402

from secateur.files import write_text  # noqa: E402
from secateur.graph import inputs  # noqa: E402
from secateur.randomness import derive_seed  # noqa: E402
from secateur.record import environment  # noqa: E402

LEAST_SHARE = 1 / 40  # how often each option comes up at least, per network: 50 times in 2000


@dataclass
class Outcome:
    """What one network told."""

    features: list[str]
    operators: Counter[str] = field(default_factory=Counter)
    without_rule: list[str] = field(default_factory=list)
    groups: int = 0
    groups_cut: int = 0
    units_removed: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)


class Operators(TorchDispatchMode):
    """Counts the ATen operators of a run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, and run the operator as it is."""
        self.seen[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


def broken(law: str, case: Case) -> str | None:
    """Return how a law breaks on a network, in one line; None if it holds."""
    try:
        LAWS[law](case)
    except Exception as error:  # a law may break in any way
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0][:300]}"
    return None


def smaller(description: Description) -> Iterator[Description]:
    """Yield simpler descriptions."""
    steps = description.steps
    if len(steps) > 2:  # most often one block or two are enough
        yield from (description._replace(steps=(step,)) for step in steps)
        yield from (description._replace(steps=pair) for pair in itertools.pairwise(steps))
    for number in range(len(steps)):
        if len(steps) > 1:
            yield description._replace(steps=steps[:number] + steps[number + 1 :])
    for name, plain in description._field_defaults.items():
        if getattr(description, name) != plain:
            yield description._replace(**{name: plain})
    for number, step in enumerate(steps):
        if step.width > 4:
            yield description._replace(steps=(*steps[:number], step._replace(width=4), *steps[number + 1 :]))


def shrunk(law: str, description: Description, seed: int) -> Description:
    """Return a description that no single move makes smaller without mending the law."""
    while True:
        for candidate in smaller(description):
            if broken(law, Case(candidate, seed)) is not None:
                description = candidate
                break
        else:
            return description


def examine(seed: int) -> Outcome:
    """Draw a network, hold it to all laws and note what it was made of."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    description = drawn(random.Random(seed).choice)
    case, outcome = Case(description, seed), Outcome(description.features())
    errors = {law: error for law in LAWS if (error := broken(law, case)) is not None}
    if errors:
        first = next(iter(errors))  # what breaks one law often breaks others; one smaller network is enough
        small = shrunk(first, description, seed)
        said = broken(first, Case(small, seed)) or errors[first]
        outcome.failures.append(
            {"laws": list(errors), "seed": seed, "error": said, "smallest": repr(small), "drawn": repr(description)}
        )
    try:
        with Operators() as operators:
            inputs.run(case.model, inputs.as_call(case.given))
        outcome.operators = operators.seen
        outcome.without_rule = sorted(case.graph.unknown_ops)
        outcome.groups, outcome.groups_cut = len(case.graph.groups), len(case.plan.kept)
        outcome.units_removed = sum(case.plan.sizes[name] - len(units) for name, units in case.plan.kept.items())
    except Exception:  # then every law has failed, and is recorded
        assert outcome.failures
    return outcome


def summary(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Add up what all networks told."""
    features, networks, calls, missing = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    total = Counter[str]()
    failures = []
    for outcome in outcomes:
        features.update(outcome.features)
        networks.update(outcome.operators.keys())
        calls.update(outcome.operators)
        missing.update(outcome.without_rule)
        failures += outcome.failures
        total["networks"] += 1
        total["networks_cut"] += outcome.groups_cut > 0
        total["groups"] += outcome.groups
        total["groups_cut"] += outcome.groups_cut
        total["units_removed"] += outcome.units_removed
        total["networks_failed"] += bool(outcome.failures)
    return {
        **total,
        "laws": {law: sum(law in failure["laws"] for failure in failures) for law in LAWS},
        "features": {name: features[name] for name in every_feature()},
        "operators": {name: {"networks": networks[name], "calls": calls[name]} for name in sorted(calls)},
        "operators_without_rule": dict(sorted(missing.items())),
        "failures": sorted(failures, key=lambda failure: (failure["laws"], failure["seed"])),
    }


def progress_of(results: Iterable[Outcome], count: int) -> Iterator[Outcome]:
    """Show how far the run is and how many networks have failed."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    failed = 0
    with Progress(*columns) as bar:
        task = bar.add_task("networks", total=count)
        for result in results:
            failed += bool(result.failures)
            bar.update(task, advance=1, description=f"networks, {failed} failed")
            yield result


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=2000, metavar="N", help="how many (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default 0)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="N", help="default: all cores")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "properties.json")
    options = parser.parse_args()
    if options.networks < 1 or options.processes < 1:
        parser.error("--networks and --processes must be at least 1")
    torch.set_num_threads(1)
    start = time.perf_counter()
    seeds = [derive_seed("properties", options.seed, number) % 2**31 for number in range(options.networks)]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        found = summary(progress_of(pool.imap_unordered(examine, seeds, chunksize=2), options.networks))
    rare = {name: count for name, count in found["features"].items() if count < LEAST_SHARE * options.networks}
    record = {
        "benchmark": "properties",
        "seed": options.seed,
        "seconds": round(time.perf_counter() - start, 1),
        "processes": options.processes,
        "environment": asdict(environment(torch.device("cpu"))),
        "machine": platform.machine(),
        **found,
    }
    write_text(options.out, json.dumps(record, indent=1) + "\n")
    print(
        f"{found['networks']} networks, {found['networks_cut']} cut, {found['networks_failed']} failed; "
        f"{len(found['operators'])} operators; written to {options.out}"
    )
    for failure in found["failures"]:
        print(f"{', '.join(failure['laws'])} (seed {failure['seed']}): {failure['error']}\n  {failure['smallest']}")
    for name, count in rare.items():
        print(f"{name} came up only {count} times")
    sys.exit(1 if found["failures"] or rare else 0)


if __name__ == "__main__":
    main()
