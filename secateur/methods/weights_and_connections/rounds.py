"""One run: the model as it is pruned and retrained round after round, each step kept in the store."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace

from pydantic import JsonValue, TypeAdapter
from torch import Tensor, nn

from secateur.compensation import first_images, reestimate_batch_norm
from secateur.methods.running import MethodRun
from secateur.methods.weights_and_connections.dropout import dropout_at, rescaled_rates
from secateur.methods.weights_and_connections.regrowing import as_bits, from_bits
from secateur.record import Evaluation, Histogram, PruningRound, WeightScan
from secateur.sparse import KeepMasks, Masks, nonzeros, prunable_weights
from secateur.training import TrainSettings
from secateur.training.checkpoint import load_weights, weights_of

_EVALUATION: TypeAdapter[Evaluation] = TypeAdapter(Evaluation)
_SCAN: TypeAdapter[WeightScan] = TypeAdapter(WeightScan)


@dataclass(kw_only=True)
class Rounds:
    """What was pruned so far, and what the store knows of it.

    Attributes:
        run: of the method.
        model: a copy of the dense model, pruned and trained in place.
        names: of the weights that are pruned.
        allowed: parameters that may be stored; None where no budget says so.
        batch_norm_images: to measure batch norm anew on, right after each pruning; 0 leaves it.
        dropout: module → the weight that makes what it drops; empty where rates stay as they are.
        masks: of what is gone so far.
        stds: standard deviations of the dense weights.
        spread: how the dense weights are spread.
        done: the rounds.
        scans: of single layers.
    """

    run: MethodRun
    model: nn.Module
    names: tuple[str, ...]
    allowed: int | None
    batch_norm_images: int
    dropout: Mapping[str, str]
    masks: Masks
    stds: Mapping[str, float] = field(default_factory=dict)
    spread: Mapping[str, Histogram] = field(default_factory=dict)
    done: list[PruningRound] = field(default_factory=list)
    scans: list[WeightScan] = field(default_factory=list)

    def begin(self) -> None:
        """Take the store for this run, before any work.

        Raises:
            TrainingError: it belongs to another run.
        """
        made_for = self._made_for()
        if self.run.decisions.recalled("goal", made_for) is None:
            self.run.store.keep("goal", {"made_for": made_for})

    def scanned(self, number: int, place: int, scan: Callable[[], WeightScan]) -> WeightScan:
        """Return the scan of one layer, made or recalled."""
        made_for = self._made_for() | {"masks": self.masks.digest}
        name = f"scan-{number}-{place}"
        known = self.run.decisions.recalled(name, made_for)
        if known is None:
            found = scan()
            self.run.store.keep(name, {"made_for": made_for, "result": asdict(found)})
        else:
            found = _SCAN.validate_python(known["result"])
        self.scans.append(found)
        return found

    def decided(self, number: int, decide: Callable[[], Masks]) -> Masks:
        """Return the masks of a round, made or recalled."""
        made_for = self._made_for() | {"earlier masks": self.masks.digest}
        name = f"masks-{number}"
        known = self.run.decisions.recalled(name, made_for)
        if known is None:
            made = decide()
            values: dict[str, JsonValue] = {"made_for": made_for, "notes": list(self.run.notes)}
            self.run.store.keep(name, values, as_bits(made))
            return made
        self.run.notes = [str(note) for note in known["notes"]]  # type: ignore[union-attr]
        entry = self.run.store.recall(name)
        assert entry is not None
        return from_bits(entry.tensors, self.masks.shapes)

    def prune(self, number: int, stage: str, masks: Masks) -> None:
        """Remove what the masks remove, measure batch norm anew where asked for, and note what is left."""
        self.masks = masks
        masks.apply_(self.model)
        label = str(number) if stage in ("all", "surgery") else f"{number}-{stage}"
        self._normalised(f"normalised-{label}")
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        found = PruningRound(
            number=number,
            stage=stage,
            nonzeros=nonzeros(self.model, masks),
            kept={name: masks.kept(name) for name in self.names},
            quality={
                name: smallest / self.stds[name]
                for name in self.names
                if self.stds[name] and (smallest := _smallest(parameters[name])) is not None
            },
            after_cut=self.evaluated(f"pruned-{label}"),
            dropout=rescaled_rates(self.model, masks, self.dropout),
        )
        self.done.append(found)
        self.run.tell(
            f"pruning {number}{'' if stage == 'all' else f', {stage}'}: {found.nonzeros:,} non-zeros left, "
            f"{found.after_cut.in_words()}"
        )

    def retrain(
        self,
        name: str,
        epochs: int,
        settings: TrainSettings | None,
        *,
        frozen: tuple[str, ...] = (),
        hooks: tuple[object, ...] = (),
        last: bool,
    ) -> None:
        """Train what is left, with fresh moments and rescaled dropout, and note how it went."""
        with dropout_at(self.model, self.done[-1].dropout):
            keep = KeepMasks(self.masks)
            trained = self.run.train(
                name, self.model, epochs, settings=settings, frozen=frozen, hooks=(*hooks, keep), between_cuts=not last
            )
        if trained is not None:
            self.done[-1] = replace(self.done[-1], retrained=self.evaluated(f"after-{name}"))

    def evaluated(self, name: str) -> Evaluation:
        """Evaluate on the validation split, once."""
        made_for = self._made_for() | {"masks": self.masks.digest, "epochs": self._epochs()}
        known = self.run.decisions.recalled(name, made_for)
        if known is not None:
            return _EVALUATION.validate_python(known["result"])
        result = self.run.task.evaluate(self.model)
        self.run.store.keep(name, {"made_for": made_for, "result": asdict(result)})
        return result

    def others(self, kind: str) -> tuple[str, ...]:
        """Return the modules and parameters that stand still while layers of one kind are retrained.

        While linear layers train, all else does; while convolutions train, linear layers alone do (arXiv:1506.02626,
        §3.4).
        """
        linear = {name.rpartition(".")[0] for name in prunable_weights(self.model, kind="linear")}
        if kind == "convolution":
            return tuple(sorted(linear))
        still: list[str] = []
        for path, module in self.model.named_modules():
            own = [name for name, _ in module.named_parameters(recurse=False)]
            if path and path not in linear and own:
                # A module by its name keeps its statistics too, but would take along the layers in it.
                leaf = next(module.children(), None) is None
                still += [path] if leaf else [f"{path}.{name}" for name in own]
        return tuple(still)

    def _normalised(self, name: str) -> None:
        """Measure batch norm anew, or recall what that gave."""
        if not self.batch_norm_images:
            return
        made_for = self._made_for() | {"masks": self.masks.digest}
        if self.run.decisions.recalled(name, made_for) is None:
            reestimate_batch_norm(self.model, first_images(self.run.task, self.batch_norm_images))
            self.run.store.keep(name, {"made_for": made_for}, weights_of(self.model))
        entry = self.run.store.recall(name)
        assert entry is not None
        load_weights(self.model, entry.tensors, phase=name)

    def _epochs(self) -> int:
        return sum(len(phase.epochs) for phase in self.run.phases)

    def _made_for(self) -> dict[str, JsonValue]:
        run = self.run
        return {
            **run.decisions.decisive,
            "model": run.graph.fingerprint,
            "weights": run.weights,
            "budget": None if run.budget is None else dict(run.budget.given()),
        }


def _smallest(weight: Tensor) -> float | None:
    live = weight.detach().abs()
    live = live[live > 0]
    return float(live.min()) if live.numel() else None
