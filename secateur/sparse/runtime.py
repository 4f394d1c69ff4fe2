"""Does this sparsity make the runtime at hand faster, or only the file smaller? Measured, dense and sparse in turn."""

import copy
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.graph import inputs
from secateur.graph.inputs import ExampleInputs
from secateur.sparse.masks import Masks

Form = Literal["csr", "2:4"]

NOTICEABLE = 0.05  # of the time: what counts as a difference
SEMI_ROWS = 16  # a batch is filled up to so many rows, which the smallest 2:4 kernels take


@dataclass(frozen=True, kw_only=True)
class SparseSpeed:
    """What one forward takes with dense and with sparse weights, on one machine.

    Attributes:
        form: how sparse weights are held: ``csr``, torch's compressed rows, or ``2:4``, its semi-structured ones.
        device: what computed, with its threads.
        layers: names of the weights that were held sparse.
        left: weights with a mask that stayed dense, because the runtime has no kernel for them.
        density: share of the sparse layers' weights that is not zero; 1 where there are none.
        dense_ms: median milliseconds of a forward with dense weights.
        sparse_ms: with sparse ones; None where nothing could be held sparse.
        difference: max |dense − sparse| / max |dense| over the outputs.
    """

    form: Form
    device: str
    layers: tuple[str, ...]
    left: tuple[str, ...]
    density: float
    dense_ms: float
    sparse_ms: float | None
    difference: float

    @property
    def speedup(self) -> float | None:
        """Dense time over sparse time; above 1 the sparse weights are faster."""
        return None if self.sparse_ms is None else self.dense_ms / self.sparse_ms

    def sentence(self) -> str:
        """Return it as one sentence for a report."""
        where = f"on {self.device}"
        if self.speedup is None or self.sparse_ms is None:
            return (
                f"This sparsity saves storage only: {where} there is no sparse kernel ({self.form}) for any of the "
                f"{len(self.left)} pruned layers"
            )
        times = f"{self.sparse_ms:.3g} ms sparse ({self.form}) against {self.dense_ms:.3g} ms dense at batch 1"
        rest = f"; {len(self.left)} other pruned layers have no such kernel and stayed dense" if self.left else ""
        if self.speedup > 1 + NOTICEABLE:
            return f"This sparsity speeds up a forward {self.speedup:.2f}× {where}: {times}{rest}"
        if self.speedup < 1 - NOTICEABLE:
            verdict = f"sparse kernels make a forward {1 / self.speedup:.2f}× slower"
        else:
            verdict = "sparse kernels make no difference"
        return f"This sparsity saves storage only: {where} {verdict}, {times}{rest}"


def measure_sparse(
    model: nn.Module, masks: Masks, example_inputs: ExampleInputs, *, form: Form | None = None, rounds: int = 30
) -> SparseSpeed:
    """Measure one forward of ``model`` with dense and with sparse weights, in turn, and return the medians.

    Sparse are the linear layers with a mask, on copies of the model; torch has no sparse convolutions, so these stay
    dense and are listed. Of each layer the zeros that it holds are left out, whatever the mask says.

    Args:
        model: with its masks applied; it is not changed, and is measured where it is, in eval mode.
        masks: which layers were pruned.
        example_inputs: that it takes; the first sample is the batch.
        form: ``csr``; ``2:4`` needs a CUDA device with compute capability 8.0 and weights in float16 or bfloat16 whose
            zeros are 2:4; layers without such weights stay dense. None takes 2:4 where one layer can be held so, else
            csr.
        rounds: paired forwards after a tenth as many for warming up.

    Raises:
        UsageError: the masks do not fit, ``form`` is unknown, or 2:4 is asked for where it cannot be.
    """
    if rounds < 1:
        raise UsageError(f"rounds is {rounds}, but must be at least 1")
    parameters = masks.parameters_of(model)
    device = next(iter(parameters.values())).device if parameters else torch.device("cpu")
    owners = {f"{path}.weight" if path else "weight": module for path, module in model.named_modules()}
    linear = [name for name in masks if type(owners.get(name)) is nn.Linear]
    reason = _no_semi_structured(device, [parameters[name] for name in linear])
    if form not in (None, "csr", "2:4"):
        raise UsageError(f"form is {form!r}; choose csr or 2:4")
    if form == "2:4" and reason is not None:
        raise UsageError(f"2:4 kernels cannot be measured here: {reason}; choose csr")
    chosen: Form = form or ("2:4" if reason is None else "csr")
    call = inputs.map_tensors(lambda tensor: tensor[:1] if tensor.dim() else tensor, inputs.as_call(example_inputs))
    dense = copy.deepcopy(model).eval()
    sparse = copy.deepcopy(model).eval()
    held: list[str] = []
    for name in linear:
        path = name.rpartition(".")[0]
        layer = _sparse_layer(sparse.get_submodule(path), chosen)
        if layer is not None and path:
            sparse.set_submodule(path, layer)
            held.append(name)
    first, second = inputs.tensors_of(inputs.run(dense, call)), inputs.tensors_of(inputs.run(sparse, call))
    scale = max(float(tensor.abs().max()) for tensor in first)
    difference = max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True)) / max(scale, 1e-30)
    forwards = [lambda: inputs.run(dense, call), lambda: inputs.run(sparse, call)]
    times = _in_turn(forwards if held else forwards[:1], rounds, device)
    zeros = sum(int((parameters[name] == 0).sum()) for name in held)
    size = sum(parameters[name].numel() for name in held)
    return SparseSpeed(
        form=chosen,
        device=_named(device),
        layers=tuple(held),
        left=tuple(name for name in masks if name not in held),
        density=1 - zeros / size if size else 1.0,
        dense_ms=times[0],
        sparse_ms=times[1] if held else None,
        difference=difference,
    )


class _CsrLinear(nn.Module):
    """A linear layer whose weight is held in compressed rows."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        with warnings.catch_warnings():
            # Torch warns once that the layout is in beta; the reader of a measurement need not know.
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            self.weight = layer.weight.detach().to_sparse_csr()
        self.bias = layer.bias

    def forward(self, data: Tensor) -> Tensor:
        rows = data.reshape(-1, data.shape[-1])
        product = (self.weight @ rows.T).T
        product = product if self.bias is None else product + self.bias
        return product.reshape(*data.shape[:-1], -1)


class _SemiStructuredLinear(nn.Module):
    """A linear layer whose weight is held as 2 of 4; its kernels want more rows than one image has."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        from torch.sparse import to_sparse_semi_structured

        self.weight = nn.Parameter(to_sparse_semi_structured(layer.weight.detach()), requires_grad=False)
        self.bias = layer.bias

    def forward(self, data: Tensor) -> Tensor:
        rows = data.reshape(-1, data.shape[-1])
        filled = F.pad(rows, (0, 0, 0, -rows.shape[0] % SEMI_ROWS))
        product = F.linear(filled, self.weight, self.bias)[: rows.shape[0]]
        return product.reshape(*data.shape[:-1], -1)


def _sparse_layer(layer: nn.Module, form: Form) -> nn.Module | None:
    """Return a layer that computes the same with a sparse weight, or None where the runtime has none."""
    if not isinstance(layer, nn.Linear) or (form == "2:4" and not_two_of_four(layer.weight) is not None):
        return None
    try:
        found: nn.Module = _CsrLinear(layer) if form == "csr" else _SemiStructuredLinear(layer)
        found.eval()
        with torch.no_grad():
            found(torch.zeros(1, layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device))
    except (RuntimeError, NotImplementedError, ValueError):  # no such kernel for this device, type or shape
        return None
    return found


def _no_semi_structured(device: torch.device, weights: list[nn.Parameter]) -> str | None:
    """Return why none of the weights can be held as 2:4 on ``device``, or None where one can."""
    if device.type != "cuda":
        return f"they need a CUDA device, but the model is on {device.type}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "they need a GPU of compute capability 8.0 or newer"
    reasons = [not_two_of_four(weight) for weight in weights]
    if None in reasons:
        return None
    return reasons[0] if reasons else "no linear layer has a mask"


def not_two_of_four(weight: Tensor) -> str | None:
    """Return why a weight cannot be held as 2:4, or None; torch itself does not look at its zeros."""
    if weight.dtype not in (torch.float16, torch.bfloat16):
        return f"they need float16 or bfloat16 weights, but the model has {weight.dtype}"
    rows, columns = weight.shape
    if rows % 32 or columns % 64:  # of the kernels that every such GPU has
        return f"they need multiples of 32 outputs and 64 inputs, but a layer has {rows} and {columns}"
    if int((weight.detach().reshape(-1, 4) != 0).sum(1).max()) > 2:
        return "a weight has more than 2 non-zeros among 4 consecutive inputs"
    return None


def _in_turn(forwards: list[Callable[[], object]], rounds: int, device: torch.device) -> list[float]:
    """Return the median milliseconds of each forward; each round begins with another one."""
    seconds: list[list[float]] = [[] for _ in forwards]
    warm = max(3, rounds // 10)
    for number in range(warm + rounds):
        for offset in range(len(forwards)):
            chosen = (number + offset) % len(forwards)
            _finish(device)
            start = time.perf_counter()
            forwards[chosen]()
            _finish(device)
            if number >= warm:
                seconds[chosen].append(time.perf_counter() - start)
    return [1000 * statistics.median(found) for found in seconds]


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _named(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    threads = torch.get_num_threads()
    return f"{device.type} ({threads} thread{'s' if threads > 1 else ''}), torch {torch.__version__}"
