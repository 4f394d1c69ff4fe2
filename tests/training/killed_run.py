"""A method with two phases and a cut between them, to be killed and continued: one process per call.

Usage: killed_run.py FOLDER OUT OPTIMIZER [KILL]. KILL is "never", "score:K" or "tune:K" (after the K-th step that this
process takes in that phase) or "write:K" (in the middle of writing its K-th file).
"""

import os
import signal
import sys
from pathlib import Path

import safetensors.torch
import torch
from synthetic_data import SyntheticData, small_cnn
from torch import Tensor, nn

from secateur.training import Store, SupervisedTask, TrainSettings, checkpoint


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KillAfter:
    """Counts the steps of this process only, as nothing of it may survive."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def after_step(self, model: nn.Module) -> None:
        self.left -= 1
        if self.left == 0:
            kill()


class SumOfGradients:
    """Accumulates, as the scores of a Tick do, and gives its sums to the checkpoints."""

    def __init__(self, channels: int) -> None:
        self.sums = torch.zeros(channels)

    def after_backward(self, model: nn.Module) -> None:
        self.sums += (model[1].weight * model[1].weight.grad).abs()

    def state_dict(self) -> dict[str, Tensor]:
        return {"sums": self.sums}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.sums = state["sums"]


class ScoringStep:
    """A step of the method's own: two noisy passes, one update, scores on the way."""

    def __init__(self, task: SupervisedTask) -> None:
        self.task = task
        self.scores = torch.zeros(6)

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor], optimizer: torch.optim.Optimizer) -> Tensor:
        optimizer.zero_grad()
        loss = self.task.loss(model, batch)
        loss.backward()
        noisy = self.task.loss(model, (batch[0] + torch.randn_like(batch[0]), batch[1]))
        noisy.backward()
        self.scores += (model[1].weight * model[1].weight.grad).abs()
        optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Tensor]:
        return {"scores": self.scores}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.scores = state["scores"]


def cut(model: nn.Module, kept: list[int]) -> nn.Module:
    small = small_cnn(len(kept))
    columns = torch.tensor([channel * 16 + place for channel in kept for place in range(16)])
    with torch.no_grad():
        for index in (0, 1):
            for name, tensor in small[index].state_dict(keep_vars=True).items():
                source = model[index].state_dict()[name]
                tensor.copy_(source[kept] if source.ndim else source)
        small[5].weight.copy_(model[5].weight[:, columns])
        small[5].bias.copy_(model[5].bias)
    return small


def compress(store: Store, optimizer: str, kills: dict[str, int]) -> dict[str, Tensor]:
    settings = TrainSettings(batch_size=8, optimizer=optimizer, learning_rate=0.02, schedule="triangular")
    task = SupervisedTask(SyntheticData(), settings=settings, device="cpu", checkpoint_steps=3)
    model = small_cnn()
    step = ScoringStep(task)
    hooks = [KillAfter(kills["score"])] if "score" in kills else [KillAfter(10**9)]
    store.train("score", task, model, epochs=2, frozen=["0.bias"], step=step, hooks=hooks)
    plan = store.recall("plan")
    if plan is None:
        kept = step.scores.topk(4).indices.sort().values
        store.keep("plan", {"kept": kept.tolist()}, {"scores": step.scores})
        plan = store.recall("plan")
    small = cut(model, plan.values["kept"])
    sums = SumOfGradients(4)
    hooks = [sums, KillAfter(kills.get("tune", 10**9))]
    store.train("tune", task, small, epochs=2, subset=40, hooks=hooks)
    return {**small.state_dict(), "sums": sums.sums, "scores": plan.tensors["scores"]}


def main(folder: str, out: str, optimizer: str, death: str = "never") -> None:
    kind, _, number = death.partition(":")
    kills = {kind: int(number)} if kind in ("score", "tune") else {}
    if kind == "write":
        left = int(number)
        save = safetensors.torch.save_file

        def half_a_file(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
            nonlocal left
            left -= 1
            save(tensors, path, metadata=metadata)
            if left == 0:
                Path(path).write_bytes(Path(path).read_bytes()[:500])
                kill()

        checkpoint.safetensors.torch.save_file = half_a_file
    result = compress(Store(folder), optimizer, kills)
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in result.items()}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
