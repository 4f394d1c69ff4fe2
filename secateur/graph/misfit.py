"""Why a model does not run on its example inputs, and what to do about it, in words."""

import inspect
import traceback
from collections.abc import Iterator
from types import FrameType

from torch import Tensor, nn

from secateur.errors import TraceError
from secateur.graph import inputs
from secateur.graph.flow import Call
from secateur.graph.own_code import own_file
from secateur.graph.slots import module_names
from secateur.memory import asked_for, ran_out
from secateur.returned import described, tensors_within
from secateur.wording import counted

_RANKS = {1: "(N, C, L)", 2: "(N, C, H, W)", 3: "(N, C, D, H, W)"}  # by the dimensions of a kernel

_WRAP = "wrap it in a file.py:function whose module takes one batch of images (N, C, H, W)"
_PASS = "pass inputs of the shape that it was made for (--input CxHxW, or other --data)"


def does_not_run(model: nn.Module, call: Call, error: BaseException, *, given: str = "example inputs") -> TraceError:
    """Return what to raise after a forward failed: where, why, and the way out.

    Args:
        model: whose forward failed.
        call: what it was called with.
        error: what it raised; its traceback says in which module.
        given: what the inputs are, for the sentence.
    """
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs.tensors_of(call))
    name = type(model).__name__
    short = ran_out(error)
    if short is not None:
        return TraceError(
            f"out of memory when {name} was run on {given} of shape {shapes}{asked_for(short)}; use smaller "
            "inputs (--input CxHxW), or a machine with more memory"
        )
    reason, fix = _other_arguments(model, call, error) or _in_a_layer(model, error) or _in_code(model, error)
    return TraceError(f"{name} does not run on {given} of shape {shapes}: {reason}; {fix}")


def returns_no_tensor(model: nn.Module, result: object) -> TraceError:
    """Return what to raise where the outputs of a model hold no tensor that can be followed."""
    found = tensors_within(result)
    wrapped = (
        f"wrap it in a file.py:function whose module returns model(x){found[0][0]}"
        if found
        else "let its forward return its outputs"
    )
    return TraceError(f"{type(model).__name__} returns no tensor, but {described(result)}; {wrapped}")


def _other_arguments(model: nn.Module, call: Call, error: BaseException) -> tuple[str, str] | None:
    """Compare the call with the signature of the forward."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # compiled code has none
        return None
    try:
        signature.bind(*call[0], **call[1])
    except TypeError:
        given = len(call[0]) + len(call[1])
        shown = f"forward({', '.join(signature.parameters)})"
        return (
            f"its {shown} is called with {counted(given, 'input')}: {error}",
            f"{_WRAP} and gives it the rest; from Python, pass all of its inputs as a tuple or a mapping",
        )
    return None


def _in_a_layer(model: nn.Module, error: BaseException) -> tuple[str, str] | None:
    """Explain the layers of torch that refuse a shape, with what they take and what they get."""
    frame = next(_forwards(error), None)
    if frame is None:
        return None
    module, given = frame.f_locals["self"], frame.f_locals.get("input")
    if not isinstance(given, Tensor) or given.dim() == 0:
        return None
    place = f"its layer {module_names(model).get(id(module), '')!r} is of type {type(module).__name__}"
    shape = tuple(given.shape)
    if isinstance(module, nn.modules.conv._ConvNd):
        rank = len(module.kernel_size)
        if given.dim() != rank + 2:
            return (
                f"{place}, which takes {_RANKS[rank]}, but gets {shape}",
                f"{_WRAP} and gives it that; from Python, pass example_inputs of the shape that it takes",
            )
        if given.shape[1] != module.in_channels:
            return (
                f"{place} for {counted(module.in_channels, 'channel')}, but gets {given.shape[1]}, in {shape}",
                f"{_PASS}, or build it for {given.shape[1]}",
            )
    is_norm = isinstance(module, nn.modules.batchnorm._NormBase)
    if is_norm and given.dim() > 1 and given.shape[1] != module.num_features:
        return f"{place} for {counted(module.num_features, 'channel')}, but gets {given.shape[1]}, in {shape}", _PASS
    if isinstance(module, nn.Linear) and given.shape[-1] != module.in_features:
        return (
            f"{place} for {counted(module.in_features, 'feature')}, but gets {given.shape[-1]:,}, in {shape}",
            f"{_PASS}, or replace the flattening before it by global pooling",
        )
    if isinstance(module, nn.Embedding) and given.is_floating_point():
        return (
            f"{place}, which takes integers, but gets {str(given.dtype).removeprefix('torch.')}",
            "the command gives images only; from Python, pass integer example_inputs",
        )
    return None


def _in_code(model: nn.Module, error: BaseException) -> tuple[str, str]:
    text = str(error).strip().splitlines()[0] if str(error).strip() else ""
    reason = f"{type(error).__name__}: {text}" if text and not isinstance(error, RuntimeError) else text
    reason = reason or type(error).__name__
    frame = next(_forwards(error), None)
    path = module_names(model).get(id(frame.f_locals["self"]), "") if frame is not None else ""
    place = f" in its layer {path!r}" if path else ""
    return f"{reason}{place}{_line(error)}", f"pass inputs of the shape that its forward takes, or {_WRAP}"


def _forwards(error: BaseException) -> Iterator[FrameType]:
    """Yield the frames of modules' forwards in which ``error`` passed, the innermost first."""
    for frame, _ in reversed(_frames(error)):
        if frame.f_code.co_name == "forward" and isinstance(frame.f_locals.get("self"), nn.Module):
            yield frame


def _line(error: BaseException) -> str:
    """Return `` (file.py, line n)``, the innermost place in code that is neither torch's nor this folder's."""
    found = ""
    for frame, line in _frames(error):
        if name := own_file(frame.f_code.co_filename):
            found = f" ({name}, line {line})"
    return found


def _frames(error: BaseException) -> list[tuple[FrameType, int]]:
    """Return the frames that ``error`` passed with their lines, the outermost first."""
    return list(traceback.walk_tb(error.__traceback__))
