"""The prune job: from a dense model to a proved, fine-tuned, exported one, in a folder that can be continued."""

import contextlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from secateur import record as records
from secateur.cost import MinimumWarning
from secateur.data import DataSource
from secateur.errors import BudgetError, DataError, SecateurError
from secateur.export import save
from secateur.files import write_text
from secateur.graph import ChannelGraph
from secateur.methods import Compressed
from secateur.methods.magnitude import decide
from secateur.randomness import derive_seed
from secateur.recipe.fingerprints import with_data_fingerprint, with_fingerprint
from secateur.recipe.lock import locked, refuse_busy
from secateur.recipe.measuring import Finished, Measured, measure_all
from secateur.recipe.proving import proved_cut
from secateur.recipe.rundir import FILES, RunDirectory
from secateur.recipe.settings import PruneRecipe
from secateur.recipe.subject import Subject, build_subject, check_outputs, read_data, settle
from secateur.record import RunLog, RunRecord, TrainResult, environment, write_record
from secateur.report import write_report
from secateur.training import Progress, Quiet, Store, SupervisedTask, join_processes


@dataclass(frozen=True)
class PruneResult:
    """What the job leaves.

    Attributes:
        folder: the run directory.
        record: everything that was measured.
        was_complete: whether the run was finished before, so that nothing was computed.
    """

    folder: Path
    record: RunRecord
    was_complete: bool = False


def prune(
    recipe: PruneRecipe,
    out: Path | str,
    *,
    force: bool = False,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> PruneResult:
    """Cut a model to a budget, fine-tune, prove, export and measure it; a run that was killed goes on.

    Args:
        recipe: what to do.
        out: the run directory; new, empty, or of the same run.
        force: start over if it is of another run.
        command: the words that started this, for the record.
        progress: where to show how it goes.

    Raises:
        SecateurError: anything wrong with the recipe, the model, the data or the folder, before work starts where it
            can be known; a proof that fails; a loss that is not finite.
        Interrupted: Ctrl-C; the same call continues.
    """
    recipe = replace(recipe, model=with_fingerprint(recipe.model), data=with_data_fingerprint(recipe.data))
    place = RunDirectory(Path(out))
    refuse_busy(place.folder)
    finished = place.enter(recipe, force=force)
    if finished is not None:
        return PruneResult(place.folder, finished, was_complete=True)
    job = _Job.prepare(recipe, place, progress or Quiet())
    # Of several processes that train together the first one stands for all.
    with locked(place.folder) if join_processes().first else contextlib.nullcontext():
        finished = place.enter(recipe, force=force)  # another process may have been faster
        if finished is not None:
            return PruneResult(place.folder, finished, was_complete=True)
        place.begin(recipe, force=force)
        return PruneResult(place.folder, _logged(job, tuple(command)))


def _logged(job: "_Job", command: tuple[str, ...]) -> RunRecord:
    """Run the job; its log says how it began and ended."""
    job.log.append("begin", command=list(command))
    try:
        record = job.run(command)
    except SecateurError as error:
        job.log.append("failed", error=str(error))
        raise
    except KeyboardInterrupt:
        job.log.append("stopped")
        raise
    job.log.append("complete")
    return record


@dataclass(frozen=True)
class _Job:
    """One run, everything checked."""

    recipe: PruneRecipe
    place: RunDirectory
    progress: Progress
    subject: Subject
    data: DataSource
    graph: ChannelGraph
    task: SupervisedTask
    log: RunLog

    @classmethod
    def prepare(cls, recipe: PruneRecipe, place: RunDirectory, progress: Progress) -> "_Job":
        """Read and build everything, and decide once, so that whatever cannot work fails before work starts."""
        device = settle(recipe.machine)
        data = read_data(recipe.data, recipe.machine, model=recipe.model.spec)
        if data.size("validation") == 0:
            raise DataError(
                f"the validation split of {data.name} is empty (--validation-share {recipe.data.validation_share:g}), "
                "but the job looks at it between its steps, so that the test split decides nothing; give a larger "
                "--validation-share, or data with a validation split"
            )
        subject = build_subject(recipe.model, data=data, device=device, seed=recipe.seed)
        graph = subject.trace()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MinimumWarning)  # said again when the cut is decided for good
            # Sizes alone tell whether the budget can be met, so untrained weights do for this.
            plan = decide(graph, subject.model, recipe.budget, recipe.method)
        task = SupervisedTask(data, settings=recipe.train, seed=recipe.seed, device=str(device), progress=progress)
        with torch.no_grad():
            # One batch tells whether the outputs fit the labels.
            batch = next(iter(task.batches(1)))
            check_outputs(subject.model(batch[0]), len(batch[1]), data)
            task.loss(subject.model, batch)
        if plan.is_empty:
            raise BudgetError(f"the model already holds {recipe.budget.describe()}: there is nothing to cut")
        proved_cut(subject.model, plan, subject.example_inputs)
        return cls(recipe, place, progress, subject, data, graph, task, RunLog(place.path("log")))

    def run(self, command: tuple[str, ...]) -> RunRecord:
        """Train where asked for, cut, fine-tune, write, measure."""
        store = Store(self.place.checkpoint)
        phases: tuple[TrainResult, ...] = ()
        if self.recipe.train_epochs:
            begun = store.phase("dense").load()
            if begun is None or not begun.state.done:
                self.tell(f"training the dense model: {self.recipe.train_epochs} epoch(s)")
            phases = (store.train("dense", self.task, self.subject.model, epochs=self.recipe.train_epochs),)
            self.write_dense()
        dense = self.task.evaluate(self.subject.model)
        self.tell(f"dense model: top-1 {dense.top1:.2%}, loss {dense.loss:.4f} on the validation split")
        compressed = self.compress(store)
        self.write(compressed)
        measured = measure_all(
            Finished(
                subject=self.subject,
                data=self.data,
                graph=self.graph,
                plan=compressed.plan,
                steps=self.recipe.method.steps,
                after_cut=compressed.record.after_cut,
                task=self.task,
                model_file=self.place.path("model"),
                onnx_file=self.place.path("onnx"),
                threads=self.recipe.machine.threads or 1,
            ),
            self.tell,
        )
        record = self.record(command, phases, compressed, measured)
        written = write_report(self.place.folder, record, compressed.plan)
        if FILES["figure"] in written:
            record = replace(record, files={**record.files, "figure": FILES["figure"]})
        # Last of all: a folder with a record is complete.
        write_record(self.place.path("record"), record)
        return record

    def compress(self, store: Store) -> Compressed:
        """Cut, prove and fine-tune."""
        task = SupervisedTask(
            self.data,
            settings=self.recipe.method.finetune or self.recipe.train,
            seed=self.recipe.seed,
            device=str(self.task.device),
            teacher=self.subject.model if self.recipe.distills else None,
            progress=self.progress,
        )
        return self.recipe.method.compress(
            self.subject.model, task, self.recipe.budget, store=store, progress=self.tell
        )

    def write_dense(self) -> None:
        """Write the dense model that the job trained itself, for other cuts of it."""
        save(
            self.subject.model,
            self.place.path("dense"),
            preprocessing=self.subject.preprocessing,
            builder=self.subject.builder,
            provenance={
                "data": _without_folder(self.data.name),
                "train_epochs": self.recipe.train_epochs,
                "seed": self.recipe.seed,
            },
        )

    def write(self, compressed: Compressed) -> None:
        """Write the plan and the model file, whose bytes depend on the recipe alone."""
        write_text(self.place.path("plan"), json.dumps(compressed.plan.to_json(), indent=1) + "\n")
        save(
            compressed.model,
            self.place.path("model"),
            plan=compressed.plan,
            preprocessing=self.subject.preprocessing,
            builder=self.subject.builder,
            provenance={
                "source_weights": self.recipe.model.weights_fingerprint,
                "data": _without_folder(self.data.name),
                "budget": self.recipe.budget.describe(),
                "method": compressed.record.method,
                "criterion": self.recipe.method.criterion,
                "seed": self.recipe.seed,
            },
        )

    def record(
        self, command: tuple[str, ...], phases: tuple[TrainResult, ...], compressed: Compressed, measured: Measured
    ) -> RunRecord:
        """Return the record of the whole run."""
        proof = compressed.record.proof
        dense = ("dense",) if self.recipe.train_epochs else ()
        files = ("recipe", "log", "plan", *dense, "model", "report")
        return RunRecord(
            run_id=f"{derive_seed(json.dumps(self.recipe.to_json(), sort_keys=True)):016x}",
            command=command,
            environment=environment(self.task.device),
            settings=self.recipe.to_json(),
            seeds={"seed": self.recipe.seed},
            phases=(*phases, *compressed.record.phases),
            measurements=measured.measurements,
            proof=None
            if proof is None
            else records.Proof(
                verdict=proof.verdict,
                relative_error=proof.error,
                float32_error=proof.float32_error if proof.float32_error is not None else float("nan"),
            ),
            agreement=measured.agreement,
            prunable_share_of_macs=self.graph.prunable_share_of_macs(),
            locked={g.name: g.locked or g.approximate or "" for g in self.graph.groups if not g.prunable},
            files={what: FILES[what] for what in (*files, *(["onnx"] if measured.agreement else []))},
            notes=(*measured.notes, *compressed.record.notes),
        )

    def tell(self, message: str) -> None:
        """Show a line, and log it."""
        self.progress.note(message)
        self.log.append("note", text=message)


def _without_folder(name: str) -> str:
    """Return the name of a data set without the folders of this machine, which are nobody else's business."""
    kind, separator, path = name.partition(":") if name.startswith("parquet:") else ("", "", name)
    return f"{kind}{separator}{Path(path).name}"
