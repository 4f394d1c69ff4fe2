"""``verify``: the proof that a cut model computes what the masked original computes."""

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import SecateurError, TraceError
from secateur.graph import inputs
from secateur.graph.copying import copy_model
from secateur.graph.flow import Call
from secateur.graph.inputs import ExampleInputs
from secateur.graph.masking import masked_call
from secateur.graph.plan import Plan
from secateur.graph.proof import EXACT, VISIBLE, OutputProof, Proof
from secateur.graph.proof_runs import LastModule, Widened, without_chance
from secateur.graph.redraw import redraw
from secateur.graph.slots import mode_of, refuse_wrappers, stored_tensors
from secateur.graph.surgery import check_fits, cut_tensor
from secateur.randomness import generator_for


def verify(
    model: nn.Module,
    small: nn.Module,
    plan: Plan,
    example_inputs: ExampleInputs,
    *,
    own_weights: bool = True,
    seed: int = 0,
) -> Proof:
    """Compare ``small`` with ``model`` masked by ``plan``, in float64, on copies.

    Two sets of weights are tried: the models' own, and redrawn ones (the same draw, sliced) on random inputs, so that
    a channel which the own weights silence cannot hide an error. If the plan touches parameters that only training
    mode reaches, training mode is compared too, with dropout switched off.

    Args:
        model: the original.
        small: the cut model, with the weights it had right after the cut (or see ``own_weights``).
        plan: what was cut.
        example_inputs: what ``model`` takes; at least two samples are best for a model with batch norm on 1 × 1 maps.
        own_weights: False for a cut model that was trained since: then only its structure is proved.
        seed: of the redrawn weights and inputs.

    Returns:
        The proof; ask ``passed``, ``verdict`` and ``sentence()``. It is a report: nothing is raised for a bad cut.

    Raises:
        PlanError: the plan was made for another model.
        TraceError: the original does not run on ``example_inputs``.
    """
    refuse_wrappers(model)
    call = inputs.as_call(example_inputs)
    if plan.is_empty:
        return Proof(outputs=(), problem="the plan cuts nothing, so there is nothing to prove")
    check_fits(stored_tensors(model), type(model).__qualname__, plan)
    problem = _shape_problem(small, plan)
    if problem is None and own_weights:
        problem = _value_problem(model, small, plan)
    if problem is not None:
        return Proof(outputs=(), problem=problem)
    with torch.inference_mode(mode=False):
        for precision in (_Precision(torch.float64), _Precision(torch.float64, widened=True), _Precision(None)):
            try:
                return _prove(model, small, plan, call, precision, own_weights=own_weights, seed=seed)
            except _OriginalFailedError as error:
                failed = error
    raise TraceError(f"{type(model).__name__} does not run on the example inputs: {failed.reason}") from failed


@dataclass(frozen=True)
class _Precision:
    """How a proof is worked: in float64; in float64 although the forward asks for less; or as the model is."""

    dtype: torch.dtype | None
    widened: bool = False

    @property
    def doubt(self) -> float:
        """Ratio up to which an error may be rounding, so that nothing can be told: none in float64."""
        return EXACT if self.dtype is not None else 1e-3

    def name(self, model: nn.Module) -> str:
        """Return the name of the dtype."""
        dtype = self.dtype or next(iter(model.parameters())).dtype
        return str(dtype).removeprefix("torch.")


class _OriginalFailedError(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _prove(
    model: nn.Module,
    small: nn.Module,
    plan: Plan,
    call: Call,
    precision: _Precision,
    *,
    own_weights: bool,
    seed: int,
) -> Proof:
    dtype = precision.dtype
    wide, narrow = _copied(model, dtype), _copied(small, dtype)
    given = inputs.map_tensors(lambda tensor: _as(tensor.detach().clone(), dtype), call)
    outputs: list[OutputProof] = []
    modes = ("eval", "train") if plan.train_mode else ("eval",)
    try:
        if own_weights:
            for mode in modes:
                outputs += _compare(wide, narrow, plan, given, weights="model", mode=mode, precision=precision)
        redraw(wide, seed)
        _copy_sliced(wide, narrow, plan)
        noise = inputs.map_tensors(lambda tensor: _noise(tensor, seed), given)
        for mode in modes:
            outputs += _compare(wide, narrow, plan, noise, weights="redrawn", mode=mode, precision=precision)
    except SecateurError as error:
        return Proof(outputs=tuple(outputs), problem=str(error))
    except _CutFailedError as failed:
        return Proof(outputs=tuple(outputs), problem=failed.sentence)
    own = _own_precision_error(model, small, plan, call) if own_weights else None
    return Proof(outputs=tuple(outputs), float32_error=own, precision=precision.name(model))


class _CutFailedError(Exception):
    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


def _compare(
    wide: nn.Module, narrow: nn.Module, plan: Plan, call: Call, *, weights: str, mode: str, precision: _Precision
) -> list[OutputProof]:
    training = mode == "train"
    given = _at_least_two(call) if training else call
    with (
        mode_of(wide, training=training),
        mode_of(narrow, training=training),
        without_chance(training),
        Widened() if precision.widened else contextlib.nullcontext(),  # type: ignore[no-untyped-call]
    ):
        try:
            original = inputs.tensors_of(inputs.run(wide, _fresh(given)))
        except Exception as error:
            raise _OriginalFailedError(_first_line(error)) from error
        if not original:
            raise _OriginalFailedError("it returns no tensor")
        masked = inputs.tensors_of(masked_call(wide, plan, _fresh(given)))
        place = LastModule(narrow)
        try:
            with place:
                cut = inputs.tensors_of(inputs.run(narrow, _fresh(given)))
        except Exception as error:
            raise _CutFailedError(
                f"the cut model does not run: {_first_line(error)}{place}; a shape is written in the model's code: "
                "lock the groups that it reads"
            ) from error
    if [tensor.shape for tensor in masked] != [tensor.shape for tensor in cut]:
        shapes = [tuple(tensor.shape) for tensor in masked], [tuple(tensor.shape) for tensor in cut]
        raise _CutFailedError(f"the cut model's outputs have shapes {shapes[1]} instead of {shapes[0]}")
    proofs = []
    for number, (before, zeroed, after) in enumerate(zip(original, masked, cut, strict=True)):
        if before.numel() == 0 or not (before.is_floating_point() or before.is_complex()):
            continue
        wrong, effect, scale = _distance(zeroed, after), _distance(before, zeroed), _size(before)
        verdict = _verdict(wrong, effect, scale, precision.doubt)
        proofs.append(
            OutputProof(
                weights=weights, mode=mode, output=number, error=wrong, effect=effect, scale=scale, verdict=verdict
            )
        )
    return proofs


def _verdict(error: float, effect: float, scale: float, doubt: float) -> str:
    if not (error == error and effect == effect):  # NaN
        return "different"
    if effect > VISIBLE * scale and effect > 0:
        if error <= EXACT * effect:
            return "exact"
        return "cannot tell" if error <= doubt * effect else "different"
    # Nothing visible is cut here; then nothing visible may differ either.
    return "cannot tell" if error <= VISIBLE * max(scale, effect) else "different"


def _distance(first: Tensor, second: Tensor) -> float:
    # Infinities that agree are no difference; any that do not make the result infinite or NaN.
    difference = torch.where(first == second, torch.zeros_like(first), first - second)
    return float(difference.abs().max())


def _size(tensor: Tensor) -> float:
    finite = tensor[torch.isfinite(tensor)]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _copied(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """Copy a model in ``dtype`` without holding a second copy in its own."""
    memo: dict[int, Any] = {}
    for entry in stored_tensors(model).values():
        data = _as(entry.tensor.detach(), dtype)
        data = data.clone() if data.data_ptr() == entry.tensor.data_ptr() else data
        memo[id(entry.tensor)] = nn.Parameter(data, requires_grad=False) if entry.is_parameter else data
    return copy_model(model, memo)


def _as(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _copy_sliced(wide: nn.Module, narrow: nn.Module, plan: Plan) -> None:
    targets = stored_tensors(narrow)
    with torch.no_grad():
        for name, entry in stored_tensors(wide).items():
            targets[name].tensor.copy_(cut_tensor(entry.tensor.detach(), plan.cuts_of.get(name, ())))


def _noise(tensor: Tensor, seed: int) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    drawn = torch.randn(tensor.shape, generator=generator_for(seed, "inputs", *tensor.shape), dtype=torch.float64)
    return drawn.to(tensor.dtype).to(tensor.device)


def _shape_problem(small: nn.Module, plan: Plan) -> str | None:
    found = {name: tuple(entry.tensor.shape) for name, entry in stored_tensors(small).items()}
    for name, shape in plan.shapes_after.items():
        if name not in found:
            return f"the cut model lacks {name}"
        if found[name] != shape:
            return f"{name} should have shape {shape} after the plan, but has {found[name]}"
    return None


def _value_problem(model: nn.Module, small: nn.Module, plan: Plan) -> str | None:
    """Redrawn weights prove the structure, this the values: behind a tiny scale no output would show them."""
    found = stored_tensors(small)
    for name, entry in stored_tensors(model).items():
        expected = cut_tensor(entry.tensor.detach(), plan.cuts_of.get(name, ()))
        value = found[name].tensor.detach()
        if not torch.equal(torch.nan_to_num(expected.to(value.dtype)), torch.nan_to_num(value)):
            return (
                f"{name} of the cut model is not the slice of the original's that the plan keeps; after training "
                "verify the structure alone, with own_weights=False"
            )
    return None


def _own_precision_error(model: nn.Module, small: nn.Module, plan: Plan, call: Call) -> float | None:
    try:
        with mode_of(model, training=False), mode_of(small, training=False):
            masked = inputs.tensors_of(masked_call(model, plan, _fresh(call)))
            cut = inputs.tensors_of(inputs.run(small, _fresh(call)))
    except Exception:  # a model in a precision in which this machine cannot run it
        return None
    errors = [
        _distance(first, second) / max(_size(first), 1e-30)
        for first, second in zip(masked, cut, strict=True)
        if first.is_floating_point() and first.numel()
    ]
    return max(errors, default=None)


def _fresh(call: Call) -> Call:
    fresh: Call = inputs.map_tensors(lambda tensor: tensor.detach().clone(), call)
    return fresh


def _at_least_two(call: Call) -> Call:
    batch = inputs.batch_size_of(call)
    if batch > 1:
        return call

    def more(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor * 0.5]) if tensor.dim() and tensor.shape[0] == batch else tensor

    doubled: Call = inputs.map_tensors(more, call)
    return doubled


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
