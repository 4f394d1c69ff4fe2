"""``SharedValues``: the weights of a layer stay equal where they share a value, and train as one."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor, nn

from secateur.errors import TrainingError, UsageError
from secateur.names import unknown_name
from secateur.sparse.codebook import Codebook

_DIGEST = "digest"


class SharedValues:
    """A training hook for weights with codebooks: see :class:`secateur.training.Hook`.

    After each backward pass the gradient of every weight becomes the sum over all weights that share its value, and
    that of a pruned one 0 (Han et al. 2016, arXiv:1510.00149, §3.3). Weights of one value then have equal gradients and
    equal moments, so that an optimiser that works element by element moves all of them alike; after its step they take
    the value of the first of them, so that rounding cannot part them. Pruned weights stay +0.0. Weight decay acts on a
    shared value once.

    Which weights share is settled beforehand: a hash of it is saved with each checkpoint, and a run that continues with
    other codebooks is refused. Everything else in the model trains as it would.
    """

    def __init__(self, codebooks: Mapping[str, Codebook]) -> None:
        """Hold which weights share.

        Args:
            codebooks: by names of parameters; every value is that of some weight, as :func:`cluster` makes them.

        Raises:
            UsageError: a codebook has a value that no weight has.
        """
        self._given = dict(codebooks)
        for name, book in self._given.items():
            unused = book.centroids.numel() - int(torch.unique(book.codes[book.codes > 0]).numel())
            if unused:
                raise UsageError(f"the codebook of {name} has {unused} values that no weight has; leave them out")
        self._held: list[_Held] = []

    def apply_(self, model: nn.Module) -> None:
        """Give the weights of ``model`` the values of the codebooks.

        Raises:
            UsageError: a codebook fits no parameter.
        """
        with torch.no_grad():
            for name, parameter in self._parameters(model).items():
                parameter.copy_(self._given[name].weight(parameter.dtype))

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Look up the weights.

        Raises:
            UsageError: a codebook fits no parameter, or weights differ that should share a value.
        """
        del optimizer
        self._held = [
            _Held.of(parameter, self._given[name])
            for name, parameter in self._parameters(model).items()
            if parameter.requires_grad
        ]
        for name, parameter in self._parameters(model).items():
            if not torch.equal(_Held.of(parameter, self._given[name]).shared(), parameter.detach()):
                raise UsageError(
                    f"weights of {name} differ that share a value by its codebook; call apply_(model) first"
                )

    def after_backward(self, model: nn.Module) -> None:
        """Give each weight the sum of the gradients of all that share its value."""
        del model
        for held in self._held:
            held.sum_gradients()

    def after_step(self, model: nn.Module) -> None:
        """Make weights that share a value equal to the last bit, and pruned ones zero."""
        del model
        with torch.no_grad():
            for held in self._held:
                held.parameter.copy_(held.shared())

    def codebooks(self, model: nn.Module) -> dict[str, Codebook]:
        """Return the codebooks with the values that ``model`` has now.

        Raises:
            UsageError: a codebook fits no parameter.
        """
        return {
            name: self._given[name].with_centroids(_Held.of(parameter, self._given[name]).values().cpu())
            for name, parameter in self._parameters(model).items()
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Return the hash of which weights share."""
        return {_DIGEST: torch.frombuffer(bytearray(self._digest()), dtype=torch.uint8)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Check that these are the codebooks that training began with.

        Raises:
            TrainingError: they are others.
        """
        if _DIGEST not in state or bytes(state[_DIGEST].cpu().tolist()) != self._digest():
            raise TrainingError(
                "the phase was begun with other codebooks; continue with those that began it, or start in another "
                "folder"
            )

    def _digest(self) -> bytes:
        digest = blake2b(digest_size=16)
        for name in sorted(self._given):
            codes = self._given[name].codes
            digest.update(f"{name} {tuple(codes.shape)}".encode())
            digest.update(codes.cpu().contiguous().numpy().tobytes())
        return digest.digest()

    def _parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        known = dict(model.named_parameters(remove_duplicate=False))
        for name, book in self._given.items():
            if name not in known:
                raise UsageError(unknown_name("parameter with a codebook", name, known))
            if known[name].shape != book.codes.shape:
                raise UsageError(
                    f"the codebook of {name} is for the shape {tuple(book.codes.shape)}, but the weight has "
                    f"{tuple(known[name].shape)}; give the codebook of this weight"
                )
        return {name: known[name] for name in self._given}


@dataclass
class _Held:
    """One weight, and which of its elements share a value."""

    parameter: nn.Parameter
    codes: Tensor  # int64, (elements,): 0 for a pruned one
    first: Tensor  # int64, (k,): an element of each value

    @classmethod
    def of(cls, parameter: nn.Parameter, book: Codebook) -> "_Held":
        flat = book.codes.reshape(-1).to(parameter.device, torch.int64)
        places = torch.arange(flat.numel(), device=flat.device)
        first = torch.full((book.centroids.numel() + 1,), flat.numel(), device=flat.device)
        first.scatter_reduce_(0, flat, places, "amin")
        return cls(parameter, flat, first[1:])

    def values(self) -> Tensor:
        """Return the shared values, (k,), as they are now."""
        return self.parameter.detach().reshape(-1)[self.first]

    def shared(self) -> Tensor:
        """Return the weight with each value that of its first element."""
        values = self.values()
        return torch.cat([values.new_zeros(1), values])[self.codes].reshape(self.parameter.shape)

    def sum_gradients(self) -> None:
        gradient = self.parameter.grad
        if gradient is None:
            return
        sums = torch.zeros(self.first.numel() + 1, dtype=torch.float64, device=gradient.device)
        sums.index_add_(0, self.codes, gradient.reshape(-1).double())
        sums[0] = 0  # of pruned weights
        gradient.copy_(sums.to(gradient.dtype)[self.codes].reshape(gradient.shape))
