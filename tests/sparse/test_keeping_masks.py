import socket
from pathlib import Path

import masked_run
import pytest
import torch
import torch.nn.functional as F
from masked_run import Watch, images, network, perceptron
from own_process import run, start
from safetensors.torch import load_file
from torch import Tensor, nn

from secateur.errors import TrainingError, UsageError
from secateur.sparse import KeepMasks, Masks, by_share
from secateur.torchvision_shim import import_torchvision
from secateur.training import Store, SupervisedTask, TrainSettings


def task(**settings: object) -> SupervisedTask:
    chosen = {"batch_size": 8, "learning_rate": 0.05, "weight_decay": 0.1, "augment": False, **settings}
    return SupervisedTask(images(), settings=TrainSettings(**chosen), device="cpu")


@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.0},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True, "gradient_clip": 0.1},
        {"optimizer": "adamw", "learning_rate": 1e-2},
        {"precision": "bf16"},
        {"channels_last": True},
    ],
)
@pytest.mark.parametrize("gradients", [False, True])
def test_removed_weights_and_their_moments_stay_plus_zero(settings: dict[str, object], gradients: bool) -> None:
    model = network()
    keep = KeepMasks(by_share(model, 0.7), gradients=gradients)
    watch = Watch(keep)
    task(**settings).train(model, epochs=2, hooks=[keep, watch])
    assert watch.seen == 14  # 54 images in batches of 8, the last of 6, twice
    for name, mask in keep.masks.items():
        assert torch.equal(model.get_parameter(name) != 0, mask), "every live weight has moved off zero"


class Remember:
    """Masks gradients and nothing else, as a reference, on a model whose weights are masked already."""

    def __init__(self, masks: Masks) -> None:
        self.masks = masks

    def after_backward(self, model: nn.Module) -> None:
        for name, parameter in self.masks.parameters_of(model).items():
            parameter.grad *= self.masks[name]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_live_weights_train_as_in_the_network_without_the_removed_ones(optimizer: str) -> None:
    kept, reference = network(), network()
    masks = by_share(kept, 0.7)
    masks.apply_(reference)
    first = task(optimizer=optimizer).train(kept, epochs=2, hooks=[KeepMasks(masks)])
    second = task(optimizer=optimizer).train(reference, epochs=2, hooks=[Remember(masks)])
    assert first.epochs[-1].train_loss == second.epochs[-1].train_loss
    for one, other in zip(kept.state_dict().values(), reference.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_clipping_sees_live_gradients_alone_where_asked() -> None:
    clipped, reference = network(), network()
    masks = by_share(clipped, 0.9)
    masks.apply_(reference)
    strict = task(gradient_clip=0.05)
    strict.train(clipped, epochs=1, hooks=[KeepMasks(masks, gradients=True)])
    strict.train(reference, epochs=1, hooks=[Remember(masks)])
    assert all(torch.equal(a, b) for a, b in zip(clipped.parameters(), reference.parameters(), strict=True))
    otherwise = network()
    strict.train(otherwise, epochs=1, hooks=[KeepMasks(masks)])
    assert not torch.equal(otherwise[5].weight, clipped[5].weight)


def test_a_replaced_step_keeps_the_masks_too() -> None:
    model = network()
    keep = KeepMasks(by_share(model, 0.7))
    watch = Watch(keep)
    ours = task()

    def step(model: nn.Module, batch: tuple[Tensor, Tensor], optimizer: torch.optim.Optimizer) -> Tensor:
        optimizer.zero_grad()
        loss = ours.loss(model, batch)
        loss.backward()
        optimizer.step()
        return loss

    ours.train(model, epochs=1, step=step, hooks=[keep, watch])
    assert watch.seen == 7


def test_frozen_weights_stay_bitwise_still_and_must_be_masked_already() -> None:
    model = network()
    masks = by_share(model, 0.7)
    with pytest.raises(UsageError, match=r"0\.weight is frozen, but 38 of its weights that the mask removes"):
        task().train(model, epochs=1, frozen=["0"], hooks=[KeepMasks(masks)])
    masks.apply_(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    keep = KeepMasks(masks)
    task().train(model, epochs=1, frozen=["0", "1"], hooks=[keep, Watch(keep)])
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"5.weight", "5.bias"}


def test_masks_of_another_model_are_refused_before_the_first_step() -> None:
    model = network()
    before = model[5].weight.detach().clone()
    with pytest.raises(UsageError, match=r"0\.weight has shape \(2, 2\)"):
        task().train(model, epochs=1, hooks=[KeepMasks(Masks({"0.weight": torch.ones(2, 2, dtype=torch.bool)}))])
    assert torch.equal(model[5].weight, before)
    with pytest.raises(UsageError, match="call begin"):
        KeepMasks(Masks({})).after_step(model)


class StoppedError(Exception):
    pass


class Stop:
    def __init__(self, steps: int) -> None:
        self.left = steps

    def after_step(self, model: nn.Module) -> None:
        self.left -= 1
        if self.left == 0:
            raise StoppedError


def test_a_run_goes_on_with_the_masks_that_began_it_and_no_others(tmp_path: Path) -> None:
    ours = SupervisedTask(images(), settings=TrainSettings(batch_size=8, augment=False), checkpoint_steps=2)
    masks, others = by_share(network(), 0.7), by_share(network(), 0.6)
    store = Store(tmp_path)
    with pytest.raises(StoppedError):
        store.train("tune", ours, network(), epochs=1, hooks=[KeepMasks(masks), Stop(5)])
    with pytest.raises(TrainingError, match=f"begun with masks {masks.digest}, but is to go on with masks"):
        store.train("tune", ours, network(), epochs=1, hooks=[KeepMasks(others), Stop(0)])
    store.train("tune", ours, network(), epochs=1, hooks=[KeepMasks(masks), Stop(0)])


SCRIPT = Path(__file__).with_name("masked_run.py")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_killed_and_continued_equals_unbroken(tmp_path: Path, optimizer: str) -> None:
    out = tmp_path / "continued.safetensors"
    run(SCRIPT, tmp_path / "run", out, optimizer, 5, killed=True)  # after the checkpoint of step 3
    assert not out.exists()
    run(SCRIPT, tmp_path / "run", out, optimizer, 0)
    unbroken = masked_run.train(str(tmp_path / "unbroken"), optimizer, 0, model=network())
    continued = load_file(out)
    assert continued.keys() == unbroken.keys()
    assert all(torch.equal(continued[name], unbroken[name]) for name in unbroken)


def test_two_processes_keep_the_same_masks_as_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    out = tmp_path / "together.safetensors"
    processes = [
        start(SCRIPT, tmp_path / "two", out, "sgd", 0, RANK=rank, LOCAL_RANK=rank, **shared) for rank in (0, 1)
    ]
    for process in processes:
        process.end()
    alone = masked_run.train(str(tmp_path / "one"), "sgd", 0, model=perceptron())
    together = load_file(out)
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-4, atol=1e-6)
        assert torch.equal(together[name] == 0, tensor == 0)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_a_loop_of_ones_own_keeps_masks_with_any_optimizer_and_scaler(kind: type[torch.optim.Optimizer]) -> None:
    model = network()
    extra = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = kind(model.parameters(), lr=0.01, weight_decay=0.1, **extra)
    keep = KeepMasks(by_share(model, 0.7))
    watch = Watch(keep)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with keep.during(model, optimizer):
        watch.begin(model, optimizer)
        for number in range(4):
            optimizer.zero_grad()
            images = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(number))
            loss = F.cross_entropy(model(images), torch.arange(8) % 4)
            if number == 1:
                loss = loss * float("inf")  # the scaler skips this step
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            watch.after_step(model)
            if number == 2:  # all moments are made anew
                optimizer.load_state_dict(optimizer.state_dict())
    before = model[5].weight.detach().clone()
    model[5].weight.grad = torch.ones_like(before)
    optimizer.step()
    assert not torch.equal(model[5].weight == 0, before == 0), "after the block nothing is kept any more"


def test_wrappers_of_lightning_fabric_are_looked_into() -> None:
    import_torchvision()
    fabric_module = pytest.importorskip("lightning.fabric")
    fabric = fabric_module.Fabric(accelerator="cpu", devices=1)
    plain = network()
    keep = KeepMasks(by_share(plain, 0.7))
    model, optimizer = fabric.setup(plain, torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9))
    watch = Watch(keep)
    for wrapper in (model, nn.DataParallel(plain)):
        with keep.during(wrapper, optimizer):
            watch.begin(plain, optimizer.optimizer)
            for _ in range(2):
                optimizer.zero_grad()
                fabric.backward(model(torch.randn(8, 1, 6, 6)).square().mean())
                optimizer.step()
                watch.after_step(plain)


def test_hooks_begin_once_with_the_model_and_its_optimizer() -> None:
    begun: list[tuple[nn.Module, type, int]] = []

    class Begin:
        def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
            begun.append((model, type(optimizer), len(optimizer.state)))

    model = network()
    task().train(model, epochs=2, hooks=[Begin()])
    assert begun == [(model, torch.optim.SGD, 6)]
    task().train(model, epochs=0, hooks=[Begin()])
    assert len(begun) == 1


class Uphill(torch.optim.SGD):
    """Gradient ascent written as a class of one's own."""

    def __init__(self, parameters: object) -> None:
        super().__init__(parameters, lr=0.01, momentum=0.9, maximize=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("make", [Uphill, lambda p: torch.optim.Adam(p, eps=0.0), torch.optim.SGD, torch.optim.Adam])
def test_steps_with_closures_and_steps_that_move_zeros_keep_masks_too(make: object, closure: bool) -> None:
    model = network()
    optimizer = make(model.parameters())  # type: ignore[operator]
    keep = KeepMasks(by_share(model, 0.7))
    watch = Watch(keep)

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = F.cross_entropy(model(torch.randn(8, 1, 6, 6)), torch.arange(8) % 4)
        found.backward()
        return found

    with keep.during(model, optimizer):
        watch.begin(model, optimizer)
        for _ in range(3):
            if closure:
                optimizer.step(loss)
            else:
                loss()
                optimizer.step()
            watch.after_step(model)
    assert watch.seen == 3
