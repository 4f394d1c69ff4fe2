"""The steps of the main job one by one: make a plan, apply one, verify a file."""

import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.compensation import RESTORE_NOTHING, RestoreSettings
from secateur.cost import Budget, MinimumWarning, profile_graph
from secateur.errors import PlanError, UsageError
from secateur.export import inspect as inspect_file
from secateur.export import load, save
from secateur.files import write_text
from secateur.graph import ChannelGraph, Plan, Proof, apply, verify
from secateur.methods import Method
from secateur.methods.levels import notes_on
from secateur.methods.restoring import RESTORATION, Cut, restored
from secateur.methods.running import silent
from secateur.methods.scoring_data import planning_notes
from secateur.recipe.checks import require_prunable
from secateur.recipe.latency import timing_of, with_table
from secateur.recipe.proving import proved_cut
from secateur.recipe.rundir import refuse_file_above
from secateur.recipe.subject import Subject
from secateur.record import LatencyBudget, Restoration
from secateur.training import SupervisedTask, TrainSettings


@dataclass(frozen=True)
class MadePlan:
    """A plan, the graph that it was made for, and what to know about it."""

    graph: ChannelGraph
    plan: Plan
    notes: tuple[str, ...]
    random_weights: bool = False
    latency: LatencyBudget | None = None  # of a budget in milliseconds, as far as it is known before anything is cut

    def to_json(self) -> dict[str, Any]:
        """Return the plan as in its file, and with it the costs, the notes, and whether the weights are random."""
        before, after = profile_graph(self.graph), profile_graph(self.graph.after(self.plan))
        return {
            **self.plan.to_json(),
            "costs": {
                name: {"before": getattr(before, name), "after": getattr(after, name)}
                for name in ("macs", "params", "size_bytes", "activation_bytes")
            }
            | ({} if self.latency is None else {"latency_ms": self._latency(self.latency)}),
            "notes": list(self.notes),
            "random_weights": self.random_weights,
        }

    @staticmethod
    def _latency(asked: LatencyBudget) -> dict[str, float]:
        before = asked.asked_ms / asked.asked_share
        return {"before": before, "after": asked.predicted_ms, "asked": asked.asked_ms}


@dataclass(frozen=True)
class Checked:
    """A proof, and what was compared with what."""

    proof: Proof
    compared: str


@dataclass(frozen=True)
class Applied:
    """A plan that was applied: the proof of the cut, and what was restored after it, if anything."""

    proof: Proof
    restored: Restoration | None = None


def make_plan(
    subject: Subject,
    budget: Budget | None,
    method: Method,
    *,
    latency_table: str | None = None,
    threads: int | None = None,
) -> MadePlan:
    """Decide what to cut; nothing is touched.

    Args:
        subject: the dense model.
        budget: what the result may cost.
        method: how to decide.
        latency_table: path of the table for a budget in milliseconds.
        threads: that the result is to run with; None where nobody said.

    Raises:
        BudgetError: the budget cannot be met.
        ModelError: nothing of the model can be cut.
        TraceError: the model does not run.
    """
    graph = subject.trace()
    if method.reduces == "weights":
        raise UsageError(
            f"the method {method.name} makes single weights zero and cuts nothing by a plan; use `secateur prune`, or "
            "another method here"
        )
    require_prunable(graph, method)
    budget = with_table(budget, latency_table, graph, subject.example_inputs, threads=threads)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MinimumWarning)
        plan = method.decide(graph, subject.model, budget)
    notes = [str(warning.message) for warning in caught if issubclass(warning.category, MinimumWarning)]
    notes += [*subject.notes, *notes_on(graph, plan), *planning_notes(method)]
    if not subject.has_weights:
        notes.append("no --weights were given, so the scores are those of random weights")
    timing = timing_of(budget)
    asked = None if timing is None else timing.asked(graph, plan)
    return MadePlan(graph, plan, tuple(notes), random_weights=not subject.has_weights, latency=asked)


def plan_without(subject: Subject, blocks: Sequence[str]) -> MadePlan:
    """Plan to drop the named residual blocks and keep all else; nothing is touched.

    Raises:
        PlanError: an unknown block, or one that cannot be dropped.
        TraceError: the model does not run.
    """
    graph = subject.trace()
    plan = graph.drop_blocks(blocks)
    return MadePlan(graph, plan, tuple(notes_on(graph, plan)), random_weights=not subject.has_weights)


def write_plan(plan: Plan, path: Path | str) -> None:
    """Write a plan as JSON.

    Raises:
        UsageError: the file cannot be written.
    """
    write_text(path, json.dumps(plan.to_json(), indent=1) + "\n")


def read_plan(path: Path | str) -> Plan:
    """Read a plan.

    Raises:
        PlanError: the file is missing or no plan.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(f"cannot read the plan {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path} is not JSON; write a plan with `secateur plan --out`") from error
    try:
        return Plan.from_json(content)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error


def apply_plan(
    subject: Subject,
    plan: Plan,
    out: Path | str,
    *,
    restore: RestoreSettings = RESTORE_NOTHING,
    batch_size: int = 128,
    seed: int = 0,
    tell: Callable[[str], None] = silent,
) -> Applied:
    """Cut the model, prove it, restore what is asked for, and write it.

    Args:
        subject: the dense model; with its data where something is restored.
        plan: what to cut.
        out: the model file.
        restore: what is restored without training; the validation split says what came back.
        batch_size: of the images that are looked at to restore.
        seed: of the order of the training images.
        tell: told what is being done.

    Raises:
        PlanError: the plan was made for another model.
        DataError: the model does not take the data's images.
        UsageError: something is to be restored, and there is no data.
        VerificationError: the cut could not be proved; no file is written.
    """
    require_data(restore, data=subject.data is not None)
    if not restore.is_off and not subject.has_weights:
        raise UsageError(
            "no weights were given, and layers of a network with random ones would be fitted to noise; give --weights, "
            "or leave out --compensate and --bn-images"
        )
    graph = None if restore.is_off else subject.trace()  # before the cut, because it says which data does not fit
    small, proof = proved_cut(subject.model, plan, subject.example_inputs)
    found = None
    if graph is not None:
        assert subject.data is not None
        reading = TrainSettings(batch_size=batch_size)
        task = SupervisedTask(subject.data, settings=reading, seed=seed, device=str(subject.example_inputs.device))
        cut = Cut(1, subject.model, small, plan, graph, last=True)
        found = restored(cut, task, restore, measured=subject.data.size("validation") > 0, tell=tell)
    save(
        small,
        out,
        plan=plan,
        preprocessing=subject.preprocessing,
        builder=subject.builder,
        provenance={
            "source_weights": subject.weights_fingerprint,
            **({} if found is None else {"restored": RESTORATION.dump_python(_without_times(found), mode="json")}),
        },
    )
    return Applied(proof, found)


def _without_times(found: Restoration) -> Restoration:
    """Return what is the same whenever the same is restored, so that equal models give equal files."""
    return replace(found, steps=tuple(replace(step, seconds=0.0) for step in found.steps))


def require_data(restore: RestoreSettings, *, data: bool) -> None:
    """Refuse to restore without training images.

    Raises:
        UsageError: something is to be restored, and there is no data.
    """
    if restore.is_off or data:
        return
    asked = f"--compensate {restore.compensate}" if restore.compensate != "none" else ""
    asked = asked or f"--bn-images {restore.batch_norm_images}"
    raise UsageError(f"{asked} looks at training images, and there is no data; name it with --data, as in prune")


def verify_file(path: Path | str, subject: Subject) -> Checked:
    """Prove that a model file, or the cut that a plan describes, is an exact cut of the dense model.

    In groups that the plan cuts approximately, it is to be exact up to the statistics that run across channels.

    Raises:
        PlanError: the plan is missing, malformed, or for another model.
        ArtifactError: the model file is damaged or does not fit the model.
    """
    path = Path(path)
    if not is_model_file(path) and path.suffix != ".safetensors":
        plan = read_plan(path)
        small = apply(subject.model, plan, verify_with=None)
        compared = "the dense model cut by the plan, with the dense model masked"
        return Checked(verify(subject.model, small, plan, subject.example_inputs), compared)
    found = inspect_file(path).plan
    if found is None:
        raise PlanError(f"{path} holds an uncut model, so there is nothing to prove")
    small = load(subject.model, path).to(subject.example_inputs.device).eval()
    same = _same_weights(small, apply(subject.model, found, verify_with=None))
    compared = (
        "the file's weights and redrawn ones, with the dense model masked"
        if same
        else "the structure of the file, with redrawn weights: its own weights were re-fitted or trained after the cut"
    )
    return Checked(verify(subject.model, small, found, subject.example_inputs, own_weights=same), compared)


def check_target(path: Path | str, *, force: bool) -> None:
    """Refuse to replace a file unasked, and a place where none can be written.

    Raises:
        UsageError: it is there, a file stands where a folder must be, or the folder is read-only.
    """
    if Path(path).is_dir():
        raise UsageError(f"{path} is a folder; give the name of a file")
    if Path(path).exists() and not force:
        raise UsageError(f"{path} is there already; choose another name, or replace it with --force")
    refuse_file_above(Path(path))
    folder = next(parent for parent in Path(path).absolute().parents if parent.exists())
    if not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write {path}, because {folder} is read-only; give --out another place")


def is_model_file(path: Path) -> bool:
    """Say by its first bytes whether a file is a safetensors file: a length, then a JSON object."""
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError:
        return False


def _same_weights(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())
