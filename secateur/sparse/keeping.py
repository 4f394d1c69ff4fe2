"""``KeepMasks``: removed weights stay exactly zero through training, and so does the optimiser's memory of them."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from secateur.errors import TrainingError, UsageError
from secateur.sparse.masks import Masks
from secateur.sparse.zeroing import bits_like, zero_where_dead_

_DIGEST = "digest"


class KeepMasks:
    """A training hook that holds masks: see :class:`secateur.training.Hook`.

    After each step of the optimiser, removed weights are +0.0 again, whatever momentum, Adam's moments and weight decay
    did to them, and so is all state of the optimiser that has the weight's shape. A weight that comes back under later
    masks therefore starts without a past. The masks' hash is saved with each checkpoint, and a run that continues with
    other masks is refused.

    SGD, Adam and AdamW leave a zero alone whose moments and gradient are zero, so their steps only need zeroed
    gradients: one pass over the weights' size instead of one for the weights and one for each moment.

    Frozen weights are left alone: they must hold the masks' zeros already. Several processes need nothing more, because
    each has the same weights and masks. In a loop of your own, or under ``accelerate``, use :meth:`during`.
    """

    def __init__(self, masks: Masks, *, gradients: bool = False) -> None:
        """Hold ``masks``.

        Args:
            masks: of the model that is trained; weights without a mask are not touched.
            gradients: zero the gradients of removed weights too, right after the backward pass, so that clipping by
                norm sees those of the live weights alone. The result is the same without where nothing is clipped.
        """
        self.masks = masks
        self.after_backward = self._zero_gradients if gradients else None
        self._held: _Held | None = None
        self._handle: RemovableHandle | None = None  # of the call before each step of the optimiser

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Look up weights, zero what the masks remove, and zero the optimiser's state of it.

        Args:
            model: that is trained, not its data-parallel wrapper; afterwards it must stay on its device.
            optimizer: that trains it; anything with torch's ``state``.

        Raises:
            UsageError: the masks do not fit the model, or a frozen weight is not zero where its mask removes it.
        """
        parameters = self.masks.parameters_of(model)
        for name, parameter in parameters.items():
            if parameter.requires_grad:
                continue
            alive = int((parameter.detach().cpu() != 0).logical_and_(~self.masks[name]).sum())
            if alive:
                raise UsageError(
                    f"{name} is frozen, but {alive:,} of its weights that the mask removes are not zero; call "
                    "masks.apply_(model) first, or train it too"
                )
        trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        weights = [(weight, bits_like(weight, self.masks[name])) for name, weight in trained.items()]
        self._release()
        self._held = _Held(weights, optimizer)
        self._held.zero()
        self._handle = optimizer.register_step_pre_hook(self._held.before_step)

    def after_step(self, model: nn.Module) -> None:
        """Put the zeros back that the optimiser's step has moved."""
        del model
        self._begun().after_step()

    def after_epoch(self, model: nn.Module, epoch: int) -> None:
        """Put zeros back that something else than the optimiser has moved."""
        del model, epoch
        self._begun().zero()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the hash of the masks."""
        return {_DIGEST: torch.frombuffer(bytearray.fromhex(self.masks.digest), dtype=torch.uint8)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Check that these are the masks that training began with.

        Raises:
            TrainingError: they are others.
        """
        saved = bytes(state[_DIGEST].cpu().tolist()).hex() if _DIGEST in state else "none"
        if saved != self.masks.digest:
            raise TrainingError(
                f"the phase was begun with masks {saved}, but is to go on with masks {self.masks.digest}; continue "
                "with the masks that began it, or start in another folder"
            )

    @contextlib.contextmanager
    def during(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Keep the masks inside the block, in any loop that calls ``optimizer.step()``.

        Args:
            model: that is trained; a wrapper of torch, ``accelerate`` or Lightning Fabric will do.
            optimizer: torch's, or what ``accelerate`` or Lightning Fabric made of one.

        Raises:
            UsageError: as :meth:`begin`.
        """
        inner: Any = getattr(optimizer, "optimizer", optimizer)  # in a wrapper
        self.begin(self._unwrapped(model), inner)

        def after_step(*_: object) -> None:
            self._begun().after_step()

        handle = inner.register_step_post_hook(after_step)
        try:
            yield
            self._begun().zero()
        finally:
            handle.remove()
            self._release()

    def _unwrapped(self, model: nn.Module) -> nn.Module:
        """Return the model that has the masks' names, inside wrappers that put something before them."""
        while not set(self.masks) <= {name for name, _ in model.named_parameters(remove_duplicate=False)}:
            inner = next((m for m in (getattr(model, n, None) for n in ("module", "_orig_mod")) if m is not None), None)
            if not isinstance(inner, nn.Module):
                break
            model = inner
        return model

    def _release(self) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._held = self._handle = None

    def _zero_gradients(self, model: nn.Module) -> None:
        del model
        self._begun().zero_gradients()

    def _begun(self) -> "_Held":
        if self._held is None:
            raise UsageError("the masks are not kept yet: call begin(model, optimizer) before the first step")
        return self._held


def _keeps_zeros(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step leaves +0.0 where weight, gradient and moments are +0.0; uphill gives −0.0, and no ε gives 0/0."""
    return type(optimizer) in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW) and not any(
        group.get("maximize") or group.get("eps", 1.0) <= 0 for group in optimizer.param_groups
    )


@dataclass
class _Held:
    """The weights of one training and what its optimiser remembers of them."""

    weights: list[tuple[nn.Parameter, Tensor]]  # with the bits of their masks
    optimizer: torch.optim.Optimizer
    _moments: tuple[tuple[Tensor, Tensor], ...] = ()
    _looked_at: tuple[object, int] = (None, -1)  # the table of states, and its entries, when moments were looked up
    _still: bool = False  # whether the step that is done has left the zeros alone

    def before_step(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Zero the gradients of removed weights, where that makes the step leave them alone."""
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # torch puts the optimiser first
        self._still = closure is None and self._up_to_date() and _keeps_zeros(optimizer)
        if self._still:
            self.zero_gradients()

    def after_step(self) -> None:
        """Put the zeros back, unless they did not move."""
        if not self._still:
            self.zero()
        self._still = False

    def zero_gradients(self) -> None:
        """Zero the gradients of removed weights."""
        for weight, bits in self.weights:
            if weight.grad is not None:
                zero_where_dead_(weight.grad, bits)

    def _up_to_date(self) -> bool:
        """Whether the moments are those of now: a number such as ``id`` could come back for another table."""
        table, entries = self._looked_at
        return table is self.optimizer.state and entries == len(self.optimizer.state)

    def zero(self) -> None:
        """Zero removed weights, and the optimiser's state of them."""
        # Adam makes its moments at a parameter's first step, and loading a state makes all of them anew.
        if not self._up_to_date():
            self._looked_at = self.optimizer.state, len(self.optimizer.state)
            self._moments = tuple(self._find_moments())
        for weight, bits in self.weights:
            zero_where_dead_(weight, bits)
        for moment, bits in self._moments:
            zero_where_dead_(moment, bits)

    def _find_moments(self) -> Iterator[tuple[Tensor, Tensor]]:
        for weight, bits in self.weights:
            for value in self.optimizer.state.get(weight, {}).values():
                if isinstance(value, Tensor) and value.shape == weight.shape and value.is_floating_point():
                    if value.element_size() == weight.element_size() and value.device == bits.device:
                        yield value, bits
                    else:  # moments in another precision, or kept on another device
                        yield value, bits_like(value, bits != 0)
