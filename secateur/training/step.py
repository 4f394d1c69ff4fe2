"""One optimisation step: the ordinary one with hooks, and the place of a replaced one."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.training.hooks import HookCalls
from secateur.training.task import Batch, Step


@dataclass(frozen=True, kw_only=True)
class OrdinaryStep:
    """Gradients to ``None``, forward, backward, optimiser, with the hooks in between."""

    model: nn.Module  # what hooks see
    network: nn.Module  # what is run: the model, or its data-parallel wrapper
    parameters: tuple[nn.Parameter, ...]  # those that are trained
    loss: Callable[[nn.Module, Batch], Tensor]
    optimizer: torch.optim.Optimizer
    hooks: HookCalls
    scaler: torch.amp.GradScaler | None = None
    gradient_clip: float | None = None
    world_size: int = 1

    def __call__(self, batch: Batch, samples: int) -> Tensor:
        """Return the detached mean loss over ``batch``, which is this process's part of ``samples``."""
        for parameter in self.parameters:
            parameter.grad = None
        loss = self.loss(self.network, batch)
        for change in self.hooks.loss:
            loss = change(self.model, batch, loss)
        minimized = loss
        if self.world_size > 1 and len(batch[1]) * self.world_size != samples:
            # Gradients are averaged over processes as if each had equally many samples.
            minimized = loss * (len(batch[1]) * self.world_size / samples)
        if self.scaler is None:
            minimized.backward()  # type: ignore[no-untyped-call]
        else:
            self.scaler.scale(minimized).backward()  # type: ignore[no-untyped-call]
            self.scaler.unscale_(self.optimizer)
        for look in self.hooks.after_backward:
            look(self.model)
        if self.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.gradient_clip)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return loss.detach()


@dataclass(frozen=True)
class ReplacedStep:
    """A step that a method brings along."""

    network: nn.Module
    step: Step
    optimizer: torch.optim.Optimizer

    def __call__(self, batch: Batch, _samples: int) -> Tensor:
        """Return the detached loss that the step reports."""
        loss = self.step(self.network, batch, self.optimizer)
        return loss.detach() if isinstance(loss, Tensor) else torch.tensor(float(loss))
