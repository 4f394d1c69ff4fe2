"""Wrappers that hide a model, and models that are not the ordinary float modules that can be cut: one sentence each.

What wraps a model without hiding it is traced as it is: ``AveragedModel``, a ``LightningModule``, a Hugging Face model,
a ``torch.fx.GraphModule``.
"""

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from secateur.errors import TraceError

_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")


def refuse_wrappers(model: nn.Module) -> None:
    """Refuse wrappers whose inner model has to be given instead, and models that are compiled or quantized.

    Raises:
        TraceError: ``model``, or a module in it, is one, or it is no module at all.
    """
    given: object = model
    if not isinstance(given, nn.Module):
        what = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
        raise TraceError(f"expected a model (an nn.Module), got {what}; pass an instance")
    for path, module in model.named_modules():
        problem = _problem(module, f" (module {path!r})" if path else "")
        if problem is not None:
            raise TraceError(problem)
        for name, tensor in module._parameters.items():
            if tensor is not None and is_traceable_wrapper_subclass(tensor):
                raise TraceError(
                    f"{f'{path}.' if path else ''}{name} is a {type(tensor).__name__}, whose values lie in other "
                    "tensors; pass the model with ordinary parameters, and shard or quantize the cut model"
                )


def _problem(module: nn.Module, place: str) -> str | None:
    kind = type(module).__name__
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel) or kind == "FullyShardedDataParallel":
        return f"{kind} wraps the model{place}; pass its .module, and wrap the cut model again"
    if "_orig_mod" in module._modules or module._compiled_call_impl is not None:
        return (
            f"torch.compile wraps the model{place}; pass what it was made from (._orig_mod), and compile the cut model "
            "again"
        )
    if isinstance(module, torch.jit.ScriptModule):
        return f"a ScriptModule has fixed shapes{place}; pass the nn.Module that it was made from"
    if type(module).__module__.startswith(_QUANTIZED):
        return f"{kind} is a quantized layer{place}; cut the float model, and quantize the cut model"
    return None
