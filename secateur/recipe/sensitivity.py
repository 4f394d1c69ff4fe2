"""The sensitivity job: which groups of a trained model can lose units, in a folder that can be continued."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import ConfigDict, JsonValue, TypeAdapter
from torch import Tensor, nn

from secateur.criteria import Scores, score
from secateur.data import DataSource
from secateur.errors import DataError, UsageError
from secateur.graph import ChannelGraph
from secateur.measure import (
    SHARES,
    QuietScan,
    ScanProgress,
    Sensitivity,
    checked_shares,
    groups_to_scan,
    scan_sensitivity,
    write_sensitivity,
)
from secateur.randomness import generator_for
from secateur.recipe.checks import check_outputs, require_prunable
from secateur.recipe.lock import locked, refuse_busy
from secateur.recipe.scan_folder import RESULT, ScanFolder
from secateur.recipe.settings import DataChoice, Machine, ModelChoice
from secateur.recipe.subject import Subject, build_subject, fingerprinted, read_data, settle
from secateur.record import Environment, Evaluation, environment
from secateur.training import Store, evaluate, evaluate_segmentation, join_processes, task_of
from secateur.training.segmentation import evaluated_batch_size

BATCH_SIZE = 128
HELD_BYTES = 2**30  # inputs up to this size are read once and held, because the scan reads them hundreds of times
ENVIRONMENT = "environment"  # that the scan began in, in its store

ScanSplit = Literal["validation", "train"]


@dataclass(frozen=True, kw_only=True)
class SensitivityRecipe:
    """Cut each group alone, by each share, and evaluate without retraining."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    model: ModelChoice
    data: DataChoice
    criterion: str = "l1"
    shares: tuple[float, ...] = SHARES
    groups: tuple[str, ...] = ()  # patterns; none stands for all groups that can be cut
    split: ScanSplit = "validation"
    limit: int | None = None  # samples of the split, drawn by seed; None takes all
    seed: int = 0
    machine: Machine = field(default_factory=Machine)

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        object.__setattr__(self, "shares", checked_shares(self.shares))
        if self.model.weights is None:
            raise UsageError(
                "the model has no weights, and random ones say nothing about what can be cut: give the file of a "
                "trained model with --weights"
            )
        if self.split not in ("validation", "train"):
            raise UsageError(
                f"the split is {self.split!r}, but what is cut may be chosen on 'validation' or 'train' only; the test "
                "split must not decide anything"
            )
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"the limit is {self.limit} samples, but must be at least 1")

    def to_json(self) -> dict[str, JsonValue]:
        """Return all settings as JSON."""
        values: dict[str, JsonValue] = _RECIPE.dump_python(self, mode="json")
        return values


_RECIPE: TypeAdapter[SensitivityRecipe] = TypeAdapter(SensitivityRecipe)
_PLACE = TypeAdapter(Environment)


def parse_shares(text: str) -> tuple[float, ...]:
    """Read shares as a user writes them, such as ``0.1,0.5`` or ``10%,50%``; rising, each once.

    Raises:
        UsageError: one is no number, or not inside (0, 1).
    """
    found = []
    for part in text.split(","):
        number = part.strip()
        try:
            found.append(float(Fraction(number[:-1]) / 100) if number.endswith("%") else float(number))
        except ValueError:
            raise UsageError(f"{number!r} in --shares {text!r} is no number; give shares such as 0.1,0.5,0.9") from None
    return checked_shares(found)


def compared_share(shares: Sequence[float], asked: float | None) -> float:
    """Return the share at which groups are compared: the one asked for, or else the one nearest to a half.

    Raises:
        UsageError: the one asked for is not among those that are measured.
    """
    if asked is None:
        return min(shares, key=lambda share: (abs(share - 0.5), share))
    if asked not in shares:
        known = ", ".join(f"{share:g}" for share in shares)
        raise UsageError(
            f"the table is asked for at the share {asked:g}, but the shares are {known}; choose one of them"
        )
    return asked


@dataclass(frozen=True)
class SensitivityResult:
    """What the job leaves.

    Attributes:
        folder: with ``sensitivity.json`` and, where matplotlib is installed, the figure as SVG and PNG.
        sensitivity: what was measured.
        drawn: whether the figure is there.
        was_complete: whether the scan was finished before, so that nothing was measured.
    """

    folder: Path
    sensitivity: Sensitivity
    drawn: bool
    was_complete: bool = False


def measure_sensitivity(
    recipe: SensitivityRecipe,
    out: Path | str,
    *,
    force: bool = False,
    command: Sequence[str] = (),
    progress: ScanProgress | None = None,
) -> SensitivityResult:
    """Scan a model and write its curves; a scan that was stopped goes on, a finished one is read back.

    Args:
        recipe: what to scan.
        out: the folder; new, empty, or of the same scan.
        force: start over if it is of another scan.
        command: the words that started this, for the record.
        progress: where to show how it goes.

    Raises:
        SecateurError: anything wrong with the recipe, the model, the data or the folder, before work starts.
        KeyboardInterrupt: Ctrl-C; the same call continues.
    """
    processes = join_processes().world_size
    if processes > 1:
        raise UsageError(f"a scan runs in one process, but {processes} were started; start it without torchrun")
    model, data = fingerprinted(recipe.model, recipe.data, recipe.machine)
    recipe = replace(recipe, model=model, data=data)
    settings, place = recipe.to_json(), ScanFolder(Path(out), _RECIPE)
    refuse_busy(place.folder)
    finished = place.enter(settings, force=force)
    if finished is not None:
        return SensitivityResult(place.folder, finished, place.draw(finished), was_complete=True)
    job = _Scan.prepare(recipe)
    with locked(place.folder):
        finished = place.enter(settings, force=force)  # another process may have been faster
        if finished is not None:
            return SensitivityResult(place.folder, finished, place.draw(finished), was_complete=True)
        store = place.begin(settings, force=force)
        found = replace(job.run(store, progress or QuietScan()), command=tuple(command))
        drawn = place.draw(found)
        # Last of all: a folder with the result is complete.
        write_sensitivity(place.folder / RESULT, found)
    return SensitivityResult(place.folder, found, drawn)


@dataclass(frozen=True)
class _Scan:
    """One scan, everything checked."""

    recipe: SensitivityRecipe
    subject: Subject
    graph: ChannelGraph
    scores: Scores
    device: torch.device
    evaluate: Callable[[nn.Module], Evaluation]

    @classmethod
    def prepare(cls, recipe: SensitivityRecipe) -> "_Scan":
        """Read and build everything, so that whatever cannot work fails before anything is written."""
        device = settle(recipe.machine)
        data = read_data(recipe.data, recipe.machine, model=recipe.model.spec)
        indices = _samples(data, recipe)
        subject = build_subject(recipe.model, data=data, device=device, seed=recipe.seed)
        graph = subject.trace()
        require_prunable(graph)
        scores = score(graph, subject.model, recipe.criterion, seed=recipe.seed)
        groups_to_scan(graph, scores, recipe.groups)
        inputs = subject.example_inputs
        with torch.no_grad():
            check_outputs(subject.model(inputs), len(inputs), data)
        return cls(recipe, subject, graph, scores, device, _evaluator(data, recipe.split, indices, device))

    def run(self, store: Store, progress: ScanProgress) -> Sensitivity:
        """Scan."""
        recipe, place = self.recipe, environment(self.device)
        changed = _differences(store, place)
        found = scan_sensitivity(
            self.subject.model,
            self.graph,
            self.scores,
            self.evaluate,
            example_inputs=self.subject.example_inputs,
            shares=recipe.shares,
            groups=recipe.groups,
            criterion=recipe.criterion,
            split=recipe.split,
            made_for={"data": recipe.data.fingerprint, "samples": recipe.limit, "seed": recipe.seed},
            store=store,
            progress=progress,
        )
        notes = (f"continued in another environment: {', '.join(changed)}",) if changed else ()
        return replace(found, settings=recipe.to_json(), environment=place, notes=notes)


def _differences(store: Store, place: Environment) -> tuple[str, ...]:
    """Return how the environment differs from the one that the scan began in, in which results may differ in bits."""
    entry = store.recall(ENVIRONMENT)
    if entry is None:
        store.keep(ENVIRONMENT, _PLACE.dump_python(place, mode="json"))
        return ()
    return _PLACE.validate_python(entry.values).differences(place)


def _samples(data: DataSource, recipe: SensitivityRecipe) -> Tensor | None:
    """Return which samples of the split decide, or None for all of them."""
    size = data.size(recipe.split)
    if size == 0:
        raise DataError(
            f"the {recipe.split} split of {data.name} is empty (--validation-share {recipe.data.validation_share:g}); "
            "give a larger --validation-share, or data with a validation split"
        )
    if recipe.limit is None or recipe.limit == size:
        return None
    if recipe.limit > size:
        raise UsageError(f"the limit is {recipe.limit} samples, but the {recipe.split} split has {size}; leave it out")
    order = torch.randperm(size, generator=generator_for(recipe.seed, "sensitivity", recipe.split))
    return order[: recipe.limit].sort().values


def _evaluator(
    data: DataSource, split: ScanSplit, indices: Tensor | None, device: torch.device
) -> Callable[[nn.Module], Evaluation]:
    """Return what evaluates a model; inputs that fit are read once."""

    def batches() -> Iterable[tuple[Tensor, Tensor]]:
        return data.batches(split, batch_size=batch_size, device=device, indices=indices)

    segments = task_of(data) == "segmentation"
    batch_size = evaluated_batch_size(BATCH_SIZE, data.sample_shape) if segments else BATCH_SIZE
    measured_by = evaluate_segmentation if segments else evaluate
    samples = data.size(split) if indices is None else len(indices)
    held: list[tuple[Tensor, Tensor]] = []

    def measure(model: nn.Module) -> Evaluation:
        if not held and samples * 4 * torch.Size(data.sample_shape).numel() <= HELD_BYTES:
            held.extend(batches())
        return measured_by(model, held or batches(), classes=data.num_classes)

    return measure
