"""Cut a model as a plan says, for good: a copy, or in place with ``apply_``."""

import functools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _WrappedHook
from torch.optim import Optimizer

from secateur.errors import PlanError, SurgeryError
from secateur.graph.copying import copy_model, forget_kept
from secateur.graph.cuts import fingerprint_of
from secateur.graph.dropping import replace_modules, replacements
from secateur.graph.optimizer import DROPPED, optimizer_cut
from secateur.graph.plan import Plan
from secateur.graph.slicing import cut_stored as cut_stored
from secateur.graph.slicing import cut_tensor as cut_tensor
from secateur.graph.slicing import renumbered as renumbered
from secateur.graph.slots import StoredTensor, refuse_wrappers, stored_tensors
from secateur.graph.written_sizes import write_size

_HOOK_TABLES = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


TensorShape = tuple[int, ...]

LayerShapes = tuple[TensorShape, TensorShape, str]
"""Shapes of a layer's tensor before and after a cut, and its name in the model."""


def cut_copy(model: nn.Module, plan: Plan) -> nn.Module:
    """Return a cut copy of ``model``, without a proof; see :func:`secateur.apply`."""
    stored = _checked(model, plan)
    memo: dict[int, Any] = {
        id(entry.tensor): _as_stored(entry.tensor, cut_stored(name, entry.tensor.detach(), plan))
        for name, entry in stored.items()
        if name not in plan.dropped_tensors
    }
    memo.update(replacements(model, plan.drops))
    own = {id(module) for module in model.modules()}
    for _, _, hook in _hooks(model):
        # By reference, except what is bound to the model's own modules, which belongs to the copy.
        if not any(id(owner) in own for owner in _owners(hook)):
            memo[id(hook)] = hook
    try:
        small = copy_model(model, memo)
    except Exception as error:
        raise SurgeryError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}); use apply_ to cut it in place"
        ) from error
    for path, changes in integer_attributes(model, plan, stored).items():
        for attribute, value in changes.items():
            write_size(small.get_submodule(path), attribute, value)
    forget_kept(small)
    return small


def apply_(model: nn.Module, plan: Plan, *, optimizers: Iterable[Optimizer] = ()) -> nn.Module:
    """Cut ``model`` in place, keeping the identity of modules and parameters (for DDP, EMA, Lightning).

    Gradients are cut along. Modules of dropped blocks are replaced, and the others stay. Nothing is proved here: verify
    the plan on a copy with :func:`apply` first.

    Args:
        model: what to cut.
        plan: made for it.
        optimizers: of the model's parameters, whose state is cut along: all or nothing. One that is given to
            :func:`apply_to_optimizer` later instead, with ``model`` as ``before`` and as ``after``, can be refused
            when the model is cut already.

    Raises:
        PlanError: the plan was made for another model.
        SurgeryError: a hook holds a shape that changes, the model was made under ``torch.inference_mode``, or an
            optimiser cannot be cut, see :func:`apply_to_optimizer`. Nothing is changed then.
    """
    stored = _checked(model, plan)
    frozen = next((name for name in plan.changed if stored[name].tensor.is_inference()), None)
    if frozen is not None:
        raise SurgeryError(f"{frozen} was made under torch.inference_mode and cannot change; use apply, which copies")
    attributes = integer_attributes(model, plan, stored)
    stand_ins = replacements(model, plan.drops)
    smaller = {name: cut_stored(name, stored[name].tensor.detach(), plan) for name in plan.changed}
    gradients = {
        name: cut_tensor(gradient, plan.cuts_of[name])
        for name in plan.cuts_of
        if (gradient := stored[name].tensor.grad) is not None
    }
    names = {id(entry.tensor): name for name, entry in stored.items()}
    states = [optimizer_cut(optimizer, names, plan) for optimizer in optimizers]
    for name, data in smaller.items():
        tensor = stored[name].tensor
        tensor.grad = None
        if tensor.is_leaf and tensor.requires_grad:
            # Another dtype in between makes autograd forget the node that remembers the old shape.
            tensor.data = data.new_empty(0, dtype=torch.float32 if data.dtype == torch.float64 else torch.float64)
        tensor.data = data
        tensor.grad = gradients.get(name)
    for path, changes in attributes.items():
        for attribute, value in changes.items():
            write_size(model.get_submodule(path), attribute, value)
    replace_modules(model, stand_ins)
    for name in plan.dropped_tensors:
        # For apply_to_optimizer, which finds the parameter in the optimiser alone.
        setattr(stored[name].tensor, DROPPED, name)
    for state in states:
        state.carry_out({name: stored[name].tensor for name in plan.shapes_after})
    forget_kept(model)
    return model


def check_fits(stored: Mapping[str, StoredTensor], model_class: str, plan: Plan) -> None:
    """Refuse a plan whose original shapes are not those of the model.

    Raises:
        PlanError: a tensor is missing or has another shape.
    """
    shapes = {name: tuple(entry.tensor.shape) for name, entry in stored.items()}
    if fingerprint_of(model_class, shapes) == plan.fingerprint:
        return
    for name, shape in plan.shapes.items():
        if name not in shapes:
            raise PlanError(f"the plan was made for {plan.model_class} with a tensor {name}, which this model lacks")
        if shapes[name] != shape:
            raise PlanError(f"the plan was made for {name} of shape {shape}, but this model's is {shapes[name]}")
    raise PlanError(
        f"the plan was made for {plan.model_class} with {len(plan.shapes)} tensors, but this is {model_class} "
        f"with {len(shapes)}; make a plan from this model's own graph"
    )


def integer_attributes(
    model: nn.Module, plan: Plan, stored: Mapping[str, StoredTensor]
) -> dict[str, dict[str, int | TensorShape]]:
    """Return, per module path, the integer attributes that change with the plan and their new values."""
    names = {(id(slot.module), slot.attribute): entry.name for entry in stored.values() for slot in entry.slots}
    touched = {id(slot.module) for name in plan.cuts_of for slot in stored[name].slots}
    changes: dict[str, dict[str, int | TensorShape]] = {}
    for path, module in model.named_modules(remove_duplicate=True):
        if id(module) not in touched:
            continue

        def shapes(attribute: str, module: nn.Module = module) -> LayerShapes | None:
            name = names.get((id(module), attribute))
            return None if name is None else (plan.shapes[name], plan.shapes_after[name], name)

        found = layer_sizes(module, shapes, plan.regrouped)
        if found:
            changes[path] = found
    for path, attribute, value in plan.attributes:
        changes.setdefault(path, {})[attribute] = value
    return changes


def layer_sizes(
    module: nn.Module,
    shapes: Callable[[str], LayerShapes | None],
    regrouped: Container[str],
) -> dict[str, int | TensorShape]:
    """Return the integers of a layer of torch's own that say its sizes, as they are after a cut.

    Args:
        module: the layer, before the cut; nothing is returned for other modules.
        shapes: gives of a parameter or buffer of it the shape before, the shape after and its name in the model.
        regrouped: names of the weights of which a cut takes groups of the convolution.
    """
    main = shapes("weight") or shapes("running_mean")
    if main is None:
        return {}
    before, after, name = main
    if isinstance(module, nn.modules.conv._ConvNd):
        groups = module.groups * after[0] // before[0] if name in regrouped else module.groups
        wide = after[1] * groups
        incoming, outgoing = (after[0], wide) if module.transposed else (wide, after[0])
        return {"in_channels": incoming, "out_channels": outgoing, "groups": groups}
    if isinstance(module, nn.Linear):
        return {"out_features": after[0], "in_features": after[1]}
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return {"num_features": after[0]}
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return {"normalized_shape": after}
    if isinstance(module, nn.GroupNorm):
        return {"num_channels": after[0]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": after[0]}
    if isinstance(module, nn.Embedding):
        return {"num_embeddings": after[0], "embedding_dim": after[1]}
    return {}


def _as_stored(original: Tensor, data: Tensor) -> Tensor:
    if not isinstance(original, nn.Parameter):
        return data.requires_grad_(original.requires_grad)
    parameter = nn.Parameter(data, requires_grad=original.requires_grad)
    vars(parameter).update(vars(original))  # marks that optimisers read, such as `_no_weight_decay`
    return parameter


def _checked(model: nn.Module, plan: Plan) -> dict[str, StoredTensor]:
    refuse_wrappers(model)
    stored = stored_tensors(model)
    check_fits(stored, type(model).__qualname__, plan)
    _refuse_hooks_with_shapes(model, plan, stored)
    return stored


def _hooks(model: nn.Module) -> Iterator[tuple[str, nn.Module, Any]]:
    for path, module in model.named_modules():
        for table in _HOOK_TABLES:
            for hook in getattr(module, table, {}).values():
                yield path, module, hook


def _owners(hook: Any) -> Iterator[Any]:
    if isinstance(hook, _WrappedHook):
        if hook.with_module:
            yield hook.module()
        hook = hook.hook
    yield getattr(hook, "__self__", None)


def _refuse_hooks_with_shapes(model: nn.Module, plan: Plan, stored: Mapping[str, StoredTensor]) -> None:
    """A hook that closes over a shape or a tensor of the old size would be wrong after the cut."""
    lost: dict[int, set[int]] = {}
    for name, cuts in plan.cuts_of.items():
        for slot in stored[name].slots:
            lost.setdefault(id(slot.module), set()).update(cut.size for cut in cuts)
    for path, module, hook in _hooks(model):
        sizes = lost.get(id(module), set())
        for value in _captured(hook):
            shape = value.shape if isinstance(value, Tensor) else value
            if isinstance(shape, torch.Size) and sizes & set(shape):
                raise SurgeryError(
                    f"the hook {getattr(hook, '__qualname__', type(hook).__name__)} on module {path!r} holds a "
                    f"{'tensor' if isinstance(value, Tensor) else 'shape'} of size {tuple(shape)}, which the cut "
                    "changes; remove the hook and register it again on the cut model"
                )


def _captured(hook: Any) -> Iterator[Any]:
    """Yield what a hook holds: closure, defaults, arguments bound by partial, attributes of a callable object."""
    if isinstance(hook, functools.partial):
        yield from hook.args
        yield from hook.keywords.values()
        yield from _captured(hook.func)
        return
    function = getattr(hook, "__func__", hook)
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # an empty cell
            continue
    yield from getattr(function, "__defaults__", None) or ()
    yield from (getattr(function, "__kwdefaults__", None) or {}).values()
    owner = getattr(hook, "__self__", hook)
    if not isinstance(owner, nn.Module) and hasattr(owner, "__dict__"):
        yield from vars(owner).values()
