"""``verify``: the proof that a cut model computes what the masked original computes."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import SecateurError, TraceError
from secateur.graph import inputs
from secateur.graph.comparison import distance, drift_of, effect_of, size, verdict
from secateur.graph.copying import copy_model, forget_kept
from secateur.graph.flow import Call
from secateur.graph.inputs import ExampleInputs
from secateur.graph.masking import masked_call
from secateur.graph.misfit import does_not_run
from secateur.graph.outputs import chosen_outputs, outputs_of
from secateur.graph.plan import Plan
from secateur.graph.proof import EXACT, OutputProof, Proof
from secateur.graph.proof_runs import LastModule, Widened, without_chance
from secateur.graph.redraw import redraw
from secateur.graph.sliced_weights import copy_sliced, shape_problem, value_problem
from secateur.graph.slots import alike, mode_of, refuse_wrappers, stored_tensors
from secateur.graph.statistics import MeansOver
from secateur.graph.surgery import check_fits
from secateur.randomness import derive_seed

REDRAWS = 4
"""Sets of redrawn weights that are tried until one shows what the cut changes: a single channel may lie behind a ReLU
that is closed."""


def verify(
    model: nn.Module,
    small: nn.Module,
    plan: Plan,
    example_inputs: ExampleInputs,
    *,
    own_weights: bool = True,
    outputs: Sequence[str] | None = None,
    seed: int = 0,
) -> Proof:
    """Compare ``small`` with ``model`` masked by ``plan``, in float64, on copies.

    Two sets of weights are tried: the models' own, and redrawn ones (the same draw, sliced) on random inputs, so that
    a channel which the own weights silence cannot hide an error. Where nothing shows under the redrawn ones, they are
    drawn anew, three times at most. If the plan touches parameters that only training mode reaches, training mode is
    compared too, with dropout switched off.

    Where the plan cuts approximate groups, means and norms across their channels are taken over the channels that stay
    in the masked original too. So compared the cut must be exact as any other; the verdict is ``approximate``, and the
    proof tells the drift, which is how far the cut model is from the original with its channels zeroed.

    Args:
        model: the original.
        small: the cut model, with the weights it had right after the cut (or see ``own_weights``).
        plan: what was cut.
        example_inputs: what ``model`` takes; at least two samples are best for a model with batch norm on 1 × 1 maps.
        own_weights: False for a cut model that was trained since: then only its structure is proved.
        outputs: paths of modules whose outputs are compared in place of the model's own, as in
            :func:`secateur.trace`; None takes those that the plan's graph was traced with.
        seed: of the redrawn weights and inputs.

    Returns:
        The proof; ask ``passed``, ``verdict`` and ``sentence()``. It is a report: nothing is raised for a bad cut.

    Raises:
        PlanError: the plan was made for another model.
        TraceError: the original does not run on ``example_inputs``, or has no module of a name in ``outputs``.
    """
    refuse_wrappers(model)
    call = inputs.as_call(example_inputs)
    if plan.is_empty:
        return Proof(outputs=(), problem="the plan cuts nothing, so there is nothing to prove")
    check_fits(stored_tensors(model), type(model).__qualname__, plan)
    names = chosen_outputs(model, plan.outputs if outputs is None else outputs)
    problem = shape_problem(small, plan)
    if problem is None and own_weights:
        problem = value_problem(model, small, plan)
    if problem is not None:
        return Proof(outputs=(), problem=problem)
    with torch.inference_mode(mode=False):
        for precision in (_Precision(torch.float64), _Precision(torch.float64, widened=True), _Precision(None)):
            try:
                return _prove(model, small, plan, call, names, precision, own_weights=own_weights, seed=seed)
            except _OriginalFailedError as error:
                failed = error
    raise TraceError(failed.sentence) from failed


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
    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


def _prove(
    model: nn.Module,
    small: nn.Module,
    plan: Plan,
    call: Call,
    names: tuple[str, ...],
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
                outputs += _compare(wide, narrow, plan, given, names, weights="model", mode=mode, precision=precision)
        for draw in range(REDRAWS):
            found: list[OutputProof] = []
            drawn = seed if draw == 0 else derive_seed(seed, "verify", draw)
            redraw(wide, drawn)
            copy_sliced(wide, narrow, plan)
            noise = inputs.map_tensors(partial(inputs.noise_like, seed=drawn), given)
            for mode in modes:
                found += _compare(wide, narrow, plan, noise, names, weights="redrawn", mode=mode, precision=precision)
            outputs += found
            if any(output.visible or output.verdict == "different" for output in found):
                break
    except SecateurError as error:
        return Proof(outputs=tuple(outputs), problem=str(error))
    except _CutFailedError as failed:
        return Proof(outputs=tuple(outputs), problem=failed.sentence)
    silent = next((name for name in names if all(output.module != name for output in outputs)), None)
    if silent is not None:
        return Proof(
            outputs=tuple(outputs),
            problem=f"nothing is proved of module {silent!r}, which returned only empty tensors; give example inputs "
            "on which it returns something",
        )
    own = _own_precision_error(model, small, plan, call, names) if own_weights else None
    return Proof(
        outputs=tuple(outputs),
        float32_error=own,
        precision=precision.name(model),
        approximate=plan.approximate,
    )


class _CutFailedError(Exception):
    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


def _compare(
    wide: nn.Module,
    narrow: nn.Module,
    plan: Plan,
    call: Call,
    names: tuple[str, ...],
    *,
    weights: str,
    mode: str,
    precision: _Precision,
) -> list[OutputProof]:
    training = mode == "train"
    given = _at_least_two(call) if training else call
    forget_kept(wide)
    forget_kept(narrow)
    scales: list[float] | None = [] if weights == "redrawn" else None
    with (
        mode_of(wide, training=training),
        mode_of(narrow, training=training),
        without_chance(training),
        Widened() if precision.widened else contextlib.nullcontext(),  # type: ignore[no-untyped-call]
    ):
        try:
            original = outputs_of(wide, names, lambda: inputs.run(wide, _fresh(given)), scales)
        except Exception as error:
            reason = error if isinstance(error, SecateurError) else does_not_run(wide, given, error)
            raise _OriginalFailedError(str(reason)) from error
        if not original:
            raise _OriginalFailedError(f"{type(wide).__name__} returns no tensor; let its forward return its outputs")
        masked = outputs_of(wide, names, lambda: masked_call(wide, plan, _fresh(given), _means(plan)), scales)
        zeroed = masked
        if plan.approximate:
            zeroed = outputs_of(wide, names, lambda: masked_call(wide, plan, _fresh(given)), scales)
        place = LastModule(narrow)
        try:
            with place:
                cut = outputs_of(narrow, names, lambda: inputs.run(narrow, _fresh(given)), scales)
        except Exception as error:
            raise _CutFailedError(
                f"the cut model does not run: {_first_line(error)}{place}; a shape is written in the model's code: "
                "lock the groups that it reads"
            ) from error
    shapes = [[tuple(output.tensor.shape) for output in found] for found in (masked, cut)]
    if shapes[0] != shapes[1]:
        raise _CutFailedError(f"the cut model's outputs have shapes {shapes[1]} instead of {shapes[0]}")
    proofs = []
    for number, tensors in enumerate(zip(original, masked, zeroed, cut, strict=False)):
        before, expected, without, after = (output.tensor for output in tensors)
        if not before.numel() or not after.numel() or not (before.is_floating_point() or before.is_complex()):
            continue
        wrong, effect, scale = distance(expected, after), effect_of(before, expected), size(before)
        proofs.append(
            OutputProof(
                weights=weights,
                mode=mode,
                output=number,
                error=wrong,
                effect=effect,
                scale=scale,
                verdict=verdict(wrong, effect, scale, precision.doubt),
                module=tensors[0].module,
                drift=drift_of(without, after) if plan.approximate else None,
                zeroing=effect_of(before, without) if plan.approximate else None,
            )
        )
    return proofs


def _copied(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """Copy a model in ``dtype`` without holding a second copy in its own."""
    memo: dict[int, Any] = {}
    for entry in stored_tensors(model).values():
        data = _as(entry.tensor.detach(), dtype)
        data = data.clone() if data.data_ptr() == entry.tensor.data_ptr() else data
        memo[id(entry.tensor)] = alike(entry.tensor, data)  # torch's matmul asks whether weights require gradients
    return copy_model(model, memo)


def _as(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _own_precision_error(
    model: nn.Module, small: nn.Module, plan: Plan, call: Call, names: tuple[str, ...]
) -> float | None:
    try:
        with mode_of(model, training=False), mode_of(small, training=False):
            masked = outputs_of(model, names, lambda: masked_call(model, plan, _fresh(call), _means(plan)))
            cut = outputs_of(small, names, lambda: inputs.run(small, _fresh(call)))
    except Exception:  # a model in a precision in which this machine cannot run it
        return None
    errors = [
        distance(first.tensor, second.tensor) / max(size(first.tensor), 1e-30)
        for first, second in zip(masked, cut, strict=True)
        if first.tensor.is_floating_point() and first.tensor.numel() and first.tensor.shape == second.tensor.shape
    ]
    return max(errors, default=None)


def _means(plan: Plan) -> MeansOver:
    return "kept" if plan.approximate else "all"


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
