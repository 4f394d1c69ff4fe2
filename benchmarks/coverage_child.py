"""What one process of the coverage benchmark measures: one model, in one of three modes.

`ours` runs Secateur (trace, score, allocate, cut, proof), `peer` runs Torch-Pruning as its README shows, `timing` times
both graphs in turn. Results go to a JSON file that is written anew after every stage, so that a process that is killed
leaves what it had. `benchmarks/coverage.py` starts these processes; started by hand one prints its row.
"""

import argparse
import contextlib
import copy
import json
import os
import resource
import signal
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from coverage_models import Subject, heads, run, subjects
from coverage_ours import ours, traced
from coverage_row import Row, ready, sentence_of, timed
from torch import nn

import secateur
from secateur.errors import SecateurError
from secateur.graph.inputs import tensors_of

PEER_RATIO = 0.5  # of the channels that the peer takes, over all layers
ROUNDS = 3  # of the interleaved timing


class OutOfTimeError(BaseException):
    """The peer's time is over; not an Exception, for the peer catches those."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Stop the block after ``seconds``; again and again, should the block swallow it."""

    def stop(*signal_and_frame: object) -> None:
        del signal_and_frame
        raise OutOfTimeError(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 2.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# The peer ------------------------------------------------------------------------------------------------------


def peer(subject: Subject, row: Row, limit_s: float) -> None:
    """Build the peer's pruner with its defaults, take one step, run what is left; then time its graph alone."""
    import torch_pruning

    model, given = ready(subject, row)
    shapes = [tuple(tensor.shape) for tensor in tensors_of(run(model, given))]
    row.note(macs=_macs(model, given))
    fresh = copy.deepcopy(model)
    row.stage("prune")

    def prune() -> None:
        pruner = torch_pruning.pruner.MetaPruner(
            model,
            given,
            importance=torch_pruning.importance.MagnitudeImportance(p=1),
            global_pruning=True,
            pruning_ratio=PEER_RATIO,
            iterative_steps=1,
            ignored_layers=heads(subject, model),
        )
        pruner.step()

    try:
        with at_most(limit_s):
            _, seconds = timed(prune)
        row.note(prune_s=seconds)
        row.stage("run of the pruned model")
        after = [tuple(tensor.shape) for tensor in tensors_of(run(model, given))]
        row.note(runs=True, same_output_shapes=after == shapes)
        row.note(macs_after=_macs(model, given))
    except OutOfTimeError as error:
        row.note(timeout=True, error=str(error), failed_at=row.data["stage"])
    except Exception as error:
        row.note(runs=False, error=sentence_of(error), failed_at=row.data["stage"])
    row.stage("graph")
    try:
        with at_most(limit_s):
            count, seconds = timed(lambda: _peer_groups(subject, fresh, given))
        row.note(graph_s=seconds, groups=count)
    except OutOfTimeError as error:
        row.note(graph_timeout=True, graph_error=str(error))
    except Exception as error:
        row.note(graph_error=sentence_of(error))
    row.note(stage="done")


def _peer_groups(subject: Subject, model: nn.Module, given: Any) -> int:
    import torch_pruning

    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=given)
    return len(list(graph.get_all_groups(ignored_layers=heads(subject, model))))


def _macs(model: nn.Module, given: Any) -> int | None:
    """Count with one counter for both; None where it does not trace what the peer has left."""
    try:
        return secateur.trace(model, given).macs()
    except SecateurError:
        return None


def timing(subject: Subject, row: Row, limit_s: float) -> None:
    """Time trace and groups of both in turn: ours, peer, ours, peer, ..., on an input of the model's usual size."""
    model, given = ready(subject, row)
    if subject.family in ("timm", "torchvision"):
        usual = getattr(model, "default_cfg", {}).get("input_size", (3, 224, 224))
        shape = tuple(max(pair) for pair in zip(subject.shape, usual, strict=True))
        given = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
        row.note(input_shape=list(shape))
    mine, theirs = [], []
    for number in range(ROUNDS):
        row.stage(f"round {number}")
        mine.append(timed(lambda: traced(subject, model, given))[1])
        try:
            with at_most(limit_s):
                theirs.append(timed(lambda: _peer_groups(subject, model, given))[1])
        except OutOfTimeError as error:
            row.note(error=str(error))
            break
        row.note(ours_s=mine, peer_s=theirs)
    if len(theirs) == ROUNDS:
        row.note(ours_median_s=statistics.median(mine), peer_median_s=statistics.median(theirs))
        row.note(ratio=statistics.median(other / own for own, other in zip(mine, theirs, strict=True)))
    row.note(stage="done")


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="family/model, as in coverage_models.json")
    parser.add_argument("--mode", choices=("ours", "peer", "timing"), default="ours")
    parser.add_argument("--limit-s", type=float, default=60.0, help="seconds that the peer gets for each of its parts")
    parser.add_argument("--memory-gib", type=float, default=0.0, help="address space of this process; 0 for all")
    parser.add_argument("--out", type=Path, help="JSON file for the row")
    parser.add_argument("--timing-out", type=Path, help="time both graphs afterwards in the same process, into this")
    options = parser.parse_args()
    if options.memory_gib:
        size = int(options.memory_gib * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # a group cut to its minimum is expected here, libraries warn of their own names
    subject = next((entry for entry in subjects() if entry.name == options.name), None)
    if subject is None:
        parser.error(f"{options.name!r} is not in coverage_models.json")
    row = Row(subject.name, options.mode, options.out)
    start = time.perf_counter()
    try:
        if options.mode == "ours":
            ours(subject, row)
        elif options.mode == "peer":
            peer(subject, row, options.limit_s)
        else:
            timing(subject, row, options.limit_s)
    except Exception as error:  # the row says so; the next model has its own process
        row.note(error=sentence_of(error), failed_at=row.data["stage"])
    row.note(wall_s=time.perf_counter() - start)
    if options.timing_out is not None:
        row = Row(subject.name, "timing", options.timing_out)
        try:
            timing(subject, row, options.limit_s)
        except Exception as error:  # the peer's, mostly
            row.note(error=sentence_of(error), failed_at=row.data["stage"])
    if options.out is None:
        print(json.dumps(row.data, indent=1))


if __name__ == "__main__":
    main()
