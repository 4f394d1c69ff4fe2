"""The runs of `autoslim_cifar.py`: super-nets, searches, trained networks, each in a folder that can be continued."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.cost import Budget
from secateur.data import DataSource, TrainShare, load_data
from secateur.files import write_text
from secateur.graph import ChannelGraph, apply, trace
from secateur.methods import GlobalPruning
from secateur.methods.autoslim import Configuration, Front, estimate, greedy_slimming
from secateur.methods.autoslim.baseline import uniform_multiplier
from secateur.methods.autoslim.redrawing import redrawn
from secateur.methods.autoslim.samples import SearchBatches
from secateur.models import build_model
from secateur.randomness import derive_seed, generator_for
from secateur.recipe.lock import locked
from secateur.record import Measurement, RunRecord, TrainResult, environment, read_record, write_record
from secateur.slimmable import Sandwich, Widths, WidthSpace, plan_of, width_space
from secateur.training import Store, SupervisedTask, TrainSettings

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
DEFAULT, SUPERNET = "resnet20-b", "resnet20-b@1.5x"
VALIDATION_SHARE = 0.1  # of the training images, set aside for the search: 5,000
SEARCH_BATCH = 500  # images that are normalised together
RANGE = (0.2, 0.55)  # of the default network's MACs, within which random configurations lie
STEPS = 5  # cuts of gate_taylor, each by scores of its own
SCORE_BATCHES = 8

SUPERNET_TRAINING = TrainSettings(
    learning_rate=0.1,
    nesterov=True,
    weight_decay=5e-4,
    schedule="linear",
    channels_last=True,  # a third less processor time here
    evaluate_every=0,
)
FINAL_TRAINING = replace(SUPERNET_TRAINING, label_smoothing=0.1)
"""Of every network that is reported."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How much is done; all of it belongs to what a run is."""

    supernet_epochs: int
    epochs: int  # of every network that is reported
    train_images: int
    search_images: int


def read_images(lengths: Lengths) -> DataSource:
    """Return the JPEG copy of CIFAR-10: some training images, others for the search, and all test images."""
    whole = load_data(
        f"parquet:{SHARED / 'cifar10-jpeg'}",
        validation_share=VALIDATION_SHARE,
        normalize="cifar10",
        augmentation="cifar",
    )
    return TrainShare(whole, lengths.train_images / whole.size("train"))


class Study:
    """The runs of one seed. Each returns what it left where it is done already."""

    def __init__(self, folder: Path, seed: int, lengths: Lengths, data: DataSource) -> None:
        """Read nothing yet."""
        self.folder, self.seed, self.lengths, self.data = folder, seed, lengths, data
        self.graph: ChannelGraph = trace(build_model(SUPERNET), torch.zeros(2, 3, 32, 32))
        self.space: WidthSpace = width_space(self.graph)
        self.default_macs = trace(build_model(DEFAULT), torch.zeros(2, 3, 32, 32)).macs()

    @cached_property
    def supernet(self) -> nn.Module:
        """The trained super-net."""
        model = self._fresh(SUPERNET)
        task = self._task(SUPERNET_TRAINING)
        step = Sandwich(self.graph, self.space, loss=task.loss, seed=self.seed)
        place = self._place("supernet")
        with locked(place):
            self._require(place, {"lengths": asdict(self.lengths), "settings": asdict(SUPERNET_TRAINING)})
            Store(place).train("supernet", task, model, epochs=self.lengths.supernet_epochs, step=step)
        return model.to(memory_format=torch.channels_last)  # whether it was trained now or read

    @cached_property
    def batches(self) -> SearchBatches:
        """The images of the search."""
        return SearchBatches(self._task(SUPERNET_TRAINING), SEARCH_BATCH, self.lengths.search_images)

    def front(self, shares: list[float]) -> Front:
        """Return the front down to the smallest of some shares of the default network's multiply-adds."""
        place = self._place("search")
        file = place / "front.json"
        with locked(place):
            self._require(place, {"lengths": asdict(self.lengths), "search_batch": SEARCH_BATCH})
            begun = Front.from_json(json.loads(file.read_text())) if file.exists() else None
            if begun is not None and all(begun.meeting(self._limit(share)) for share in shares):
                return begun
            budgets = [Budget(macs=int(share * self.default_macs)) for share in shares]

            def keep(front: Front) -> None:
                write_text(file, json.dumps(front.to_json()) + "\n")
                latest = front.configurations[-1]
                print(f"seed {self.seed}, step {len(front.configurations) - 1}: {latest.macs:,} MACs, ", end="")
                print(f"{latest.accuracy:.4f}, {latest.removed}", flush=True)

            return greedy_slimming(
                self.supernet, self.space, self.batches, budgets, graph=self.graph, begun=begun, after_step=keep
            )

    def found(self, front: Front, share: float) -> Configuration:
        """Return what the search found for a share of the default network's multiply-adds."""
        found = front.meeting(self._limit(share))
        assert found is not None  # the search ends only there
        return found

    def uniform(self, macs: int) -> tuple[float, dict[str, int]]:
        """Return the largest width multiplier, of the super-net's width, within ``macs``, and its widths."""
        return uniform_multiplier(self.graph, self.space, macs)

    def random_widths(self, number: int) -> dict[str, int]:
        """Return the widths of one random configuration, drawn until its multiply-adds lie within the range."""
        generator = generator_for("configurations", number)
        while True:
            widths = self.space.sample(generator)
            if RANGE[0] <= self.graph.macs(plan_of(self.graph, widths)) / self.default_macs <= RANGE[1]:
                return widths

    def estimated(self, name: str, widths: Widths) -> Configuration:
        """Return what the super-net says of some widths."""
        place = self._place("estimates")
        file = place / f"{name}.json"
        with locked(place):
            self._require(place, {"lengths": asdict(self.lengths), "search_batch": SEARCH_BATCH})
            if file.exists():
                known = Front.from_json(json.loads(file.read_text())).configurations[0]
                if dict(known.widths) == dict(widths):
                    return known
            found = estimate(self.supernet, self.batches, widths, graph=self.graph)
            front = Front(fingerprint=self.graph.fingerprint, configurations=(found,))
            write_text(file, json.dumps(front.to_json()) + "\n")
        return found

    def trained(self, name: str, widths: Widths) -> RunRecord:
        """Return the record of a network of the super-net's class with some widths, trained from random weights."""
        place, settings = self._place(name), {"widths": dict(widths)}
        with locked(place):
            record = self._finished(place, settings)
            if record is None:
                small = apply(self._fresh(SUPERNET), plan_of(self.graph, widths), verify_with=None)
                redrawn(small, derive_seed(self.seed, "final"))
                task = self._task(FINAL_TRAINING)
                result = Store(place).train("final", task, small, epochs=self.lengths.epochs)
                record = self._record(place, settings, small, (result,))
        return record

    def dense(self) -> tuple[nn.Module, RunRecord]:
        """Return the default network, trained from random weights, and its record."""
        place = self._place("default")
        with locked(place):
            model = self._fresh(DEFAULT)
            known = self._finished(place, {"model": DEFAULT})
            result = Store(place).train("final", self._task(FINAL_TRAINING), model, epochs=self.lengths.epochs)
            record = known or self._record(place, {"model": DEFAULT}, model, (result,))
        return model.to(memory_format=torch.contiguous_format), record

    def gate_taylor(self, name: str, macs: int) -> RunRecord:
        """Return the record of the trained default network, cut by first-order gate scores and trained further."""
        method = GlobalPruning(
            criterion="gate_taylor",
            steps=STEPS,
            step_epochs=0,
            score_batches=SCORE_BATCHES,
            min_share=0.1,
            residual="group",  # as free as the search
            evaluate_steps=False,
            finetune_epochs=self.lengths.epochs,
            finetune=FINAL_TRAINING,
            seed=self.seed,
        )
        settings = {"macs": macs, "method": json.loads(json.dumps(asdict(method)))}
        place = self._place(name)
        with locked(place):
            record = self._finished(place, settings)
            if record is None:
                dense, _ = self.dense()
                budget, task = Budget(macs=macs), self._task(FINAL_TRAINING)
                found = method.compress(dense, task, budget, store=Store(place))
                record = self._record(place, settings, found.model, found.record.phases)
        return record

    def _task(self, settings: TrainSettings) -> SupervisedTask:
        return SupervisedTask(self.data, settings=settings, seed=self.seed, device="cpu")

    def _fresh(self, spec: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "weights"))
            return build_model(spec, num_classes=10)

    def _limit(self, share: float) -> dict[str, float]:
        return {"macs": int(share * self.default_macs)}

    def _place(self, name: str) -> Path:
        return self.folder / f"{name}-{self.seed}"

    def _require(self, place: Path, settings: Mapping[str, Any]) -> None:
        """Take a folder for these settings; refuse one of others."""
        file, now = place / "settings.json", json.loads(json.dumps(settings))
        if not file.exists():
            write_text(file, json.dumps(now, indent=1) + "\n")
        elif json.loads(file.read_text()) != now:
            raise SystemExit(f"{place} was made with other settings; give another folder with --runs")

    def _finished(self, place: Path, settings: Mapping[str, Any]) -> RunRecord | None:
        self._require(place, self._settings(settings))
        return read_record(place / "record.json") if (place / "record.json").exists() else None

    def _settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {"lengths": asdict(self.lengths), "training": asdict(FINAL_TRAINING), **settings}

    def _record(
        self, place: Path, settings: Mapping[str, Any], model: nn.Module, phases: tuple[TrainResult, ...]
    ) -> RunRecord:
        task = self._task(FINAL_TRAINING)
        graph = trace(model, task.example_inputs)
        tuned = Measurement(test=task.evaluate(model, "test"), macs=graph.macs(), params=graph.params())
        record = RunRecord(
            run_id=f"{derive_seed(place.name, json.dumps(self._settings(settings))):016x}",
            command=tuple(sys.argv),
            environment=environment("cpu"),
            settings=json.loads(json.dumps(self._settings(settings))),
            seeds={"seed": self.seed},
            phases=phases,
            measurements={"tuned": tuned},
            classes=10,
        )
        write_record(place / "record.json", record)
        return record
