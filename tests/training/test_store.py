import resource
import signal
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from synthetic_data import SyntheticData, perceptron, small_cnn
from torch import Tensor, nn

from secateur.errors import TrainingError, UsageError
from secateur.record import EpochMeasurement, Evaluation, TrainResult, environment
from secateur.training import Interrupted, Store, SupervisedTask, TrainSettings
from secateur.training.checkpoint import Checkpoint, Cursor, PhaseState
from secateur.training.loop import Feed
from secateur.training.phase_run import own_part

QUICK = TrainSettings(batch_size=8, learning_rate=0.05)  # 7 steps per epoch of 50 samples


def task_on(**options) -> SupervisedTask:
    return SupervisedTask(SyntheticData(), settings=QUICK, device="cpu", **options)


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


class At:
    """Does something after the k-th step that it sees."""

    def __init__(self, step: int, act) -> None:
        self.left, self.act = step, act

    def after_step(self, model: nn.Module) -> None:
        self.left -= 1
        if self.left == 0:
            self.act()


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def interrupted(store: Store, step: int, task: SupervisedTask | None = None) -> None:
    with pytest.raises(Interrupted):
        store.train("tune", task or task_on(), small_cnn(), epochs=2, hooks=[At(step, press_ctrl_c)])


@pytest.mark.parametrize("step", [1, 7, 10, 14])
def test_ctrl_c_ends_at_the_step_and_continues_bit_for_bit(tmp_path: Path, step: int) -> None:
    unbroken, continued = small_cnn(), small_cnn()
    whole = Store(tmp_path / "whole").train("tune", task_on(), unbroken, epochs=2, hooks=[At(99, press_ctrl_c)])
    store = Store(tmp_path / "store")
    interrupted(store, step)
    saved = store.phase("tune").load()
    assert saved is not None
    assert saved.state.cursor.epoch * 7 + saved.state.cursor.step == step
    result = store.train("tune", task_on(), continued, epochs=2, hooks=[At(99, press_ctrl_c)])
    assert equal(continued, unbroken)
    assert [epoch.train_loss for epoch in result.epochs] == [epoch.train_loss for epoch in whole.epochs]
    assert [epoch.validation for epoch in result.epochs] == [epoch.validation for epoch in whole.epochs]
    assert [epoch.learning_rate for epoch in result.epochs] == [epoch.learning_rate for epoch in whole.epochs]
    assert result.resumed == 1
    assert result.bit_for_bit
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_draws_after_an_epoch_are_the_same_in_a_continued_run(tmp_path: Path) -> None:
    class Shake:
        def after_epoch(self, model: nn.Module, epoch: int) -> None:
            with torch.no_grad():
                model[5].bias.add_(torch.randn(4))

    shaken = {}
    for name, step in (("whole", 99), ("broken", 7)):  # 7 is the last step of the first epoch
        store, shaken[name] = Store(tmp_path / name), small_cnn()
        if step == 7:
            with pytest.raises(Interrupted):
                store.train("tune", task_on(), small_cnn(), epochs=2, hooks=[Shake(), At(step, press_ctrl_c)])
        torch.manual_seed(step)
        store.train("tune", task_on(), shaken[name], epochs=2, hooks=[Shake(), At(99, press_ctrl_c)])
    assert equal(shaken["whole"], shaken["broken"])


def test_the_scale_of_half_precision_comes_back_as_torch_wants_it() -> None:
    scaler = torch.amp.GradScaler("cpu")
    state = PhaseState(
        made_for={}, environment=environment(), result=TrainResult(phase="tune"), scaler=scaler.state_dict()
    )
    saved = Checkpoint.from_entry(Checkpoint(state=state, weights={}).to_entry())
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters())
    scaler.load_state_dict(saved.state.scaler)
    scaler.scale(model(torch.ones(1, 2)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.state_dict()["growth_interval"] == 2000


def test_a_first_processs_sums_become_each_ones_own() -> None:
    feed = Feed(lambda epoch, start: iter(()), samples=50, batch_size=7, world_size=2)
    first = Cursor(step=3, samples=feed.samples_of(0, steps=3), loss_sum=18.0)
    assert (first.samples, feed.samples_of(1, steps=3)) == (9, 12)
    assert own_part(first, feed, 0) is first
    assert (own_part(first, feed, 1).samples, own_part(first, feed, 1).loss_sum) == (12, 24.0)
    alone = Feed(feed.batches, samples=50, batch_size=7)
    assert (own_part(first, alone, 0).samples, own_part(first, alone, 0).loss_sum) == (21, 42.0)
    assert alone.samples_of(0, steps=8) == 50


def test_ctrl_c_outside_a_phase_is_an_ordinary_one() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        task_on().train(small_cnn(), epochs=1, hooks=[At(2, press_ctrl_c)])
    assert not isinstance(caught.value, Interrupted)


def test_other_threads_continue_and_say_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    interrupted(store, 3)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        result = store.train("tune", task_on(), small_cnn(), epochs=2, hooks=[At(99, press_ctrl_c)])
    finally:
        torch.set_num_threads(threads)
    assert not result.bit_for_bit
    assert f"threads {threads} → {threads + 1}" in result.notes[-1]
    again = store.train("tune", task_on(), small_cnn(), epochs=2, hooks=[At(99, press_ctrl_c)])
    assert again == result


def test_checkpoints_follow_the_clock(tmp_path: Path) -> None:
    now = 0.0
    found: list[tuple[int, int]] = []
    store = Store(tmp_path)

    def look() -> None:
        saved = store.phase("tune").load()
        found.append((saved.state.cursor.epoch, saved.state.cursor.step) if saved else (-1, -1))

    class Tick:
        def after_step(self, model: nn.Module) -> None:
            nonlocal now
            look()
            now += 60.0

    task = task_on(checkpoint_minutes=3.0, clock=lambda: now)
    store.train("tune", task, small_cnn(), epochs=1, hooks=[Tick()])
    assert found == [(-1, -1)] * 3 + [(0, 3)] * 3 + [(0, 6)]


def test_a_finished_phase_gives_back_weights_result_and_what_hooks_accumulated(tmp_path: Path) -> None:
    class Count:
        def __init__(self) -> None:
            self.steps = torch.zeros(())

        def after_step(self, model: nn.Module) -> None:
            self.steps += 1

        def state_dict(self) -> dict[str, Tensor]:
            return {"steps": self.steps}

        def load_state_dict(self, state: dict[str, Tensor]) -> None:
            self.steps = state["steps"]

    first, second = small_cnn(), small_cnn()
    one, other = Count(), Count()
    result = Store(tmp_path).train("tick-1", task_on(), first, epochs=1, hooks=[one])
    assert Store(tmp_path).train("tick-1", task_on(), second, epochs=1, hooks=[other]) == result
    assert equal(first, second)
    assert other.steps == one.steps == 7


def test_phases_differ_in_their_draws(tmp_path: Path) -> None:
    store, first, second = Store(tmp_path), small_cnn(), small_cnn()
    store.train("one", task_on(), first, epochs=1)
    store.train("two", task_on(), second, epochs=1)
    assert not equal(first, second)


def test_no_epochs_are_a_phase_too(tmp_path: Path) -> None:
    model = small_cnn()
    assert Store(tmp_path).train("none", task_on(), model, epochs=0).epochs == ()
    other = perceptron()
    with pytest.raises(TrainingError, match="does not fit the model"):
        Store(tmp_path).train("none", task_on(), other, epochs=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 3}, "epochs = 2 but is asked for 3"),
        ({"settings": TrainSettings(batch_size=16, learning_rate=0.05)}, "batch_size = 8 but is asked for 16"),
        ({"subset": 20}, "subset = all"),
        ({"frozen": ["0.weight"]}, "frozen"),
        ({"hooks": []}, "hooks = At"),
        ({"model": small_cnn(4)}, r"0.weight is \(6, 1, 3, 3\) there but \(4, 1, 3, 3\)"),
    ],
)
def test_a_phase_is_continued_only_as_it_was_begun(tmp_path: Path, change: dict, message: str) -> None:
    store = Store(tmp_path)
    interrupted(store, 3)
    asked = {"model": small_cnn(), "epochs": 2, "hooks": [At(99, press_ctrl_c)], **change}
    with pytest.raises(TrainingError, match=message):
        store.train("tune", task_on(), **asked)


@pytest.mark.parametrize("damage", ["empty", "half", "noise", "other format", "no header"])
def test_corrupt_checkpoints_are_one_clear_sentence(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    interrupted(store, 3)
    path = tmp_path / "phases" / "tune.safetensors"
    whole = path.read_bytes()
    broken = {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "noise": bytes(range(256)) * 8,
        "other format": whole.replace(rb"\"format\": 1", rb"\"format\": 7"),
        "no header": whole.replace(b'"secateur":', b'"secatexx":'),
    }[damage]
    assert broken != whole
    path.write_bytes(broken)
    with pytest.raises(TrainingError, match=r"tune\.safetensors is corrupt .*delete it"):
        store.train("tune", task_on(), small_cnn(), epochs=2, hooks=[At(99, press_ctrl_c)])


def test_a_store_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        Store(tmp_path / "file").train("tune", task_on(), small_cnn(), epochs=1)


def test_a_full_disk_is_one_sentence_and_spares_the_last_checkpoint(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep("plan", [1], {"scores": torch.zeros(10)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UsageError, match=r"cannot write .*plan\.safetensors"):
            store.keep("plan", [2], {"scores": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    entry = store.recall("plan")
    assert entry is not None
    assert entry.values == [1]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["plan.safetensors"]


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b"])
def test_names_that_are_no_file_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a phase"):
        Store(tmp_path).phase(name)


def test_data_is_kept_and_recalled(tmp_path: Path) -> None:
    scores = torch.arange(6.0).reshape(2, 3)
    tensors = {"scores": scores, "shared": scores, "turned": scores.T, "mask": scores > 2, "empty": torch.zeros(0)}
    Store(tmp_path).keep("plan-1", {"kept": [1, 2], "share": 0.5}, tensors)
    entry = Store(tmp_path).recall("plan-1")
    assert entry is not None
    assert entry.values == {"kept": [1, 2], "share": 0.5}
    assert entry.tensors.keys() == tensors.keys()
    assert all(torch.equal(entry.tensors[name], tensors[name]) for name in tensors)
    assert Store(tmp_path).recall("plan-2") is None
    assert Store(tmp_path).phase("plan-1").load() is None


def test_checkpoints_hold_no_pickle_and_every_buffer(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = small_cnn()
            self.again = self.body[0]
            self.register_buffer("hidden", torch.ones(2), persistent=False)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.body(inputs)

    Store(tmp_path).train("tune", task_on(), Tied(), epochs=1)
    with safe_open(tmp_path / "phases" / "tune.safetensors", "pt") as file:
        names = set(file.keys())
    assert {"weights/body.0.weight", "weights/body.1.running_var", "weights/hidden"} <= names
    assert "weights/again.weight" not in names
    assert not any(name.startswith("moments/") for name in names)  # of a finished phase


def test_a_temporary_store_vanishes(tmp_path: Path) -> None:
    store = Store.temporary()
    store.keep("x", 1)
    folder = store.folder
    assert folder.exists()
    del store
    assert not folder.exists()


class OwnLoop:
    """A user's task: four methods, and no idea of phases."""

    def __init__(self) -> None:
        self.trained = 0

    @property
    def example_inputs(self) -> Tensor:
        return torch.zeros(2, 1, 6, 6)

    def train(self, model: nn.Module, *, epochs: int, **_: object) -> TrainResult:
        self.trained += 1
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(epochs)
        epoch = EpochMeasurement(epoch=0, train_loss=1.0, learning_rate=0.1, samples=1, seconds=1.0, images_per_s=1.0)
        return TrainResult(phase="own", epochs=(epoch,))

    def evaluate(self, model: nn.Module, split: str = "validation") -> Evaluation:
        return Evaluation(loss=0.0, top1=1.0, top5=1.0, samples=1)

    def batches(self, n: int, split: str = "train"):
        return iter(())

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return model(batch[0]).sum()


def test_a_loop_of_the_users_own_runs_once_per_phase(tmp_path: Path) -> None:
    task, first, second = OwnLoop(), small_cnn(), small_cnn()
    result = Store(tmp_path).train("tune", task, first, epochs=2)
    assert Store(tmp_path).train("tune", task, second, epochs=2) == result
    assert task.trained == 1
    assert equal(first, second)
    with pytest.raises(TrainingError, match="epochs = 2 but is asked for 3"):
        Store(tmp_path).train("tune", task, second, epochs=3)


def test_what_an_unfinished_write_left_goes_when_the_entry_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep("plan-1", {"kept": 1})
    store.keep("plan-10", {"kept": 10})
    left = [
        tmp_path / "data" / f".plan-{number}.safetensors.{end}.part" for number, end in ((1, "a"), (1, "b"), (10, "c"))
    ]
    for path in left:
        path.write_bytes(b"half")
    entry = store.recall("plan-1")
    assert entry is not None
    assert entry.values == {"kept": 1}
    assert [path.exists() for path in left] == [False, False, True]  # the other entry's is its own
    assert store.recall("nothing") is None
