"""A recipe's job, everything checked: from a dense model to a proved, fine-tuned, exported one."""

import contextlib
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from secateur import record as records
from secateur.cost import Budget, MinimumWarning
from secateur.data import DataSource
from secateur.errors import BudgetError, DataError, SecateurError, TrainingError
from secateur.graph import ChannelGraph
from secateur.methods import Compressed
from secateur.methods.cut_words import nothing_to_cut
from secateur.methods.scratch import from_scratch
from secateur.randomness import derive_seed
from secateur.recipe.checks import check_outputs, check_training, require_prunable
from secateur.recipe.compacting import packed
from secateur.recipe.latency import timing_of, with_table
from secateur.recipe.measuring import Finished, Measured, measure_all
from secateur.recipe.proving import proved_cut
from secateur.recipe.quantizing.after_cut import bring_to_int8, check_before
from secateur.recipe.rundir import CURVE, FILES, RunDirectory
from secateur.recipe.searching import first_budget, search_budget
from secateur.recipe.settings import Recipe
from secateur.recipe.subject import Subject, build_subject, read_data, settle
from secateur.recipe.width_default import beside_default
from secateur.recipe.writing import write_compressed, write_dense, write_model
from secateur.record import RunLog, RunRecord, TrainResult, environment, write_record
from secateur.report import write_front, write_pruning_steps, write_report, write_weight_figures
from secateur.training import Progress, Store, SupervisedTask
from secateur.training.devices import memory_named
from secateur.wording import counted


@dataclass(frozen=True)
class Job:
    """One run, everything checked; only for this package."""

    recipe: Recipe
    place: RunDirectory
    progress: Progress
    subject: Subject
    data: DataSource
    graph: ChannelGraph
    task: SupervisedTask
    log: RunLog
    limits: Budget | None  # of the recipe, with its latency table

    @classmethod
    def prepare(cls, recipe: Recipe, place: RunDirectory, progress: Progress) -> "Job":
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
        if recipe.method.reduces == "channels":
            require_prunable(graph, recipe.method)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MinimumWarning)  # said again when the cut is decided for good
            # Sizes alone tell whether the budget can be met, so untrained weights do for this.
            limits = with_table(
                recipe.budget,
                recipe.latency_table,
                graph,
                subject.example_inputs,
                threads=recipe.machine.threads,
            )
            budget = first_budget(recipe, graph, limits)
            plan = recipe.method.decide(graph, subject.model, budget)
        task = SupervisedTask(data, settings=recipe.train, seed=recipe.seed, device=str(device), progress=progress)
        with torch.no_grad(), memory_named(recipe.train.batch_size):
            # One batch tells whether the outputs fit the labels.
            batch = next(iter(task.batches(1)))
            check_outputs(subject.model(batch[0]), len(batch[1]), data)
            task.loss(subject.model, batch)
        if (recipe.train_epochs or recipe.method.finetune_epochs) and len(batch[1]) > 1:
            check_training(subject.model, batch, data, task.loss)
        if recipe.method.reduces == "channels":
            if plan.is_empty:
                raise BudgetError(nothing_to_cut(budget))
            proved_cut(subject.model, plan, subject.example_inputs)
        check_before(recipe, subject, data, device)
        return cls(recipe, place, progress, subject, data, graph, task, RunLog(place.path("log")), limits)

    @contextlib.contextmanager
    def logged(self, command: Sequence[str]) -> Iterator[None]:
        """Say in the log how the work inside the block began and ended.

        Args:
            command: the words that started it.
        """
        self.log.append("begin", command=list(command))
        try:
            yield
        except SecateurError as error:
            self.log.append("failed", error=str(error))
            raise
        except KeyboardInterrupt:
            self.log.append("stopped")
            raise
        self.log.append("complete")

    def run(self, command: tuple[str, ...]) -> RunRecord:
        """Train where asked for, cut, fine-tune, write, measure."""
        store = Store(self.place.checkpoint)
        for note in self.subject.notes:
            self.tell(note)
        phases = self.dense(store)
        dense = self.task.evaluate(self.subject.model)
        if math.isnan(dense.loss):
            raise TrainingError(
                "the dense model returns NaN on the validation split, so nothing that is cut from it can be judged; "
                "train it with a lower learning rate (--train-lr, train.learning_rate in a recipe) or for longer"
            )
        self.tell(f"dense model: {dense.in_words()} on the validation split")
        search = search_budget(
            self.recipe,
            self.subject.model,
            self.tuning_task(),
            self.place.folder,
            limits=self.limits,
            store=store,
            tell=self.tell,
        )
        budget = self.limits if search is None else search.budget
        compressed = self.compress(store, budget)
        write_compressed(self.place, self.recipe, self.subject, self.data, compressed, budget)

        def save(found: Compressed, path: Path) -> None:
            write_model(path, self.recipe, self.subject, self.data, found, budget)

        choice = self.recipe.compact
        compressed = packed(self.place, choice, compressed, self.task, store, save=save, tell=self.tell)
        measured = measure_all(
            Finished(
                subject=self.subject,
                data=self.data,
                graph=self.graph,
                plan=compressed.plan,
                weights=compressed.record.weights,
                trained_between_cuts=compressed.record.trained_between_cuts,
                after_cut=compressed.record.right_after_cut,
                task=self.task,
                model_file=self.place.path("model"),
                sparse_file=self.place.path("sparse"),
                onnx_file=self.place.path("onnx"),
                exports_onnx="onnx" in self.recipe.export,
                threads=self.recipe.machine.threads or 1,
                timing=timing_of(budget),
            ),
            self.tell,
        )
        device = self.task.device
        bring_to_int8(self.place, self.recipe, self.subject, self.data, device, compressed, measured, self.tell)
        record = self.record(command, phases, compressed, measured)
        if search is not None:
            curve = {what: FILES[what] for what in CURVE if self.place.path(what).exists()}
            record = replace(record, notes=(*record.notes, *search.notes), files={**record.files, **curve})
        drawn = write_pruning_steps(self.place.folder, compressed.record.steps, record)
        drawn |= write_weight_figures(self.place.folder, record)
        if record.width_search is not None:
            drawn |= write_front(self.place.folder, record.width_search)
        record = replace(record, files={**record.files, **drawn})
        written = write_report(self.place.folder, record, compressed.plan)
        if FILES["figure"] in written:
            record = replace(record, files={**record.files, "figure": FILES["figure"]})
        # Last of all: a folder with a record is complete.
        write_record(self.place.path("record"), record)
        return record

    def dense(self, store: Store) -> tuple[TrainResult, ...]:
        """Train the dense model where that is asked for."""
        if not self.recipe.train_epochs:
            return ()
        begun = store.phase("dense").load()
        if begun is None or not begun.state.done:
            self.tell(f"training the dense model: {counted(self.recipe.train_epochs, 'epoch')}")
        trained = store.train("dense", self.task, self.subject.model, epochs=self.recipe.train_epochs)
        write_dense(self.place, self.recipe, self.subject, self.data)
        return (trained,)

    def compress(self, store: Store, budget: Budget | None) -> Compressed:
        """Cut, prove, and fine-tune or train the control."""
        recipe, method = self.recipe, self.recipe.method
        task = self.tuning_task()
        if recipe.control is None:
            return method.compress(self.subject.model, task, budget, store=store, progress=self.tell)
        found = replace(method, finetune_epochs=0).compress(
            self.subject.model, task, budget, store=store, progress=self.tell
        )
        epochs = method.finetune_epochs + sum(len(phase.epochs) for phase in found.record.phases)
        fresh = build_subject(
            replace(recipe.model, weights=None, weights_fingerprint=None, new_head=False),
            data=self.data,
            device=self.task.device,
            seed=derive_seed(recipe.seed, "scratch"),
        )
        control = from_scratch(
            found, fresh.model, self.task, epochs=epochs, settings=recipe.train, store=store, progress=self.tell
        )
        if not recipe.distills:
            return control
        note = "control: it learned from the labels alone; the recipe's distillation belongs to fine-tuning"
        return replace(control, record=replace(control.record, notes=(*control.record.notes, note)))

    def tuning_task(self) -> SupervisedTask:
        """Return the task that fine-tunes, with the dense model as its teacher where it distils."""
        return SupervisedTask(
            self.data,
            settings=self.recipe.method.finetune or self.recipe.train,
            seed=self.recipe.seed,
            device=str(self.task.device),
            teacher=self.subject.model if self.recipe.distills else None,
            progress=self.progress,
        )

    def record(
        self, command: tuple[str, ...], phases: tuple[TrainResult, ...], compressed: Compressed, measured: Measured
    ) -> RunRecord:
        """Return the record of the whole run."""
        proof, allowed = compressed.record.proof, getattr(self.recipe.method, "allow_approximate", False)
        dense = ("dense",) if self.recipe.train_epochs else ()
        pruned = compressed.masks is not None
        plan = () if compressed.plan.is_empty else ("plan",)
        sparse = ("sparse", "masks") if pruned else ()
        files = ("recipe", "log", *plan, *dense, "model", *sparse, "report")
        int8 = ("int8", "simulation") if measured.int8 is not None else ()
        return RunRecord(
            # Unsorted, because the order of ratios decides; that of all other keys is fixed.
            run_id=f"{derive_seed(json.dumps(self.recipe.to_json())):016x}",
            command=command,
            environment=environment(self.task.device),
            settings=self.recipe.to_json(),
            seeds={"seed": self.recipe.seed},
            classes=self.data.num_classes,
            phases=(*phases, *compressed.record.phases),
            restored=compressed.record.restored,
            measurements=measured.measurements,
            proof=None
            if proof is None
            else records.Proof(
                verdict=proof.verdict,
                relative_error=proof.error,
                float32_error=proof.float32_error if proof.float32_error is not None else float("nan"),
                drift=proof.drift,
                drift_of_output=proof.drift_of_output,
            ),
            weights=compressed.record.weights,
            width_search=beside_default(self.recipe, self.data, compressed.record.width_search),
            latency_budget=measured.latency_budget,
            agreement=measured.agreement,
            int8=measured.int8,
            prunable_share_of_macs=None if pruned else self.graph.prunable_share_of_macs(allow_approximate=allowed),
            locked={
                group.name: group.locked or group.approximate or ""
                for group in self.graph.groups
                if not pruned and not group.cuttable(allow_approximate=allowed)
            },
            files={what: FILES[what] for what in (*files, *(["onnx"] if measured.agreement else []), *int8)}
            | measured.files,
            notes=(*self.subject.notes, *measured.notes, *compressed.record.notes),
        )

    def tell(self, message: str) -> None:
        """Show a line, and log it."""
        self.progress.note(message)
        self.log.append("note", text=message)
