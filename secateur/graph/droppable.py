"""The blocks of a model: found in the trace, and tried out before any is offered."""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from secateur.graph import inputs
from secateur.graph.blocks import NO_COSTS, Block, Drop, Sum, outermost, renumbered
from secateur.graph.channel_graph import ChannelGraph
from secateur.graph.dropping import dropped
from secateur.graph.operations import Operations
from secateur.graph.recorded import Record
from secateur.graph.replacing import Recipe, Replacing, lies_in
from secateur.graph.residuals import Branch, Residuals
from secateur.graph.shape_rules import meta_like
from secateur.graph.shape_run import running_on_shapes
from secateur.graph.slots import StoredTensor, alike, mode_of, preserved, randomness_preserved, swapped


def with_blocks(model: nn.Module, record: Record, graph: ChannelGraph, *, meta: bool, trial: bool) -> ChannelGraph:
    """Return ``graph`` with the blocks of ``model``.

    Args:
        model: what was traced.
        record: of the trace.
        graph: built from it.
        meta: whether meta tensors do for running the model.
        trial: run the model without its blocks, and lock those without which it does not run.
    """
    compute = {number: number for number in range(len(record.compute))}
    alive = [number for number, storage in enumerate(record.storages) if storage.dies >= 0]
    storages = {old: new for new, old in enumerate(alive)}
    blocks = _found(record.operations, record.stored)
    if trial:
        blocks = _tried(model, record, blocks, meta=meta)
    return replace(graph, blocks=tuple(renumbered(block, compute, storages) for block in blocks))


def _found(run: Operations, stored: Mapping[str, StoredTensor]) -> tuple[Block, ...]:
    """Return the blocks of a run, with cost terms numbered as they were recorded."""
    branches, replacing = Residuals(run).branches(), Replacing(run, stored)
    used: Counter[str] = Counter()
    found = []
    for branch in branches:
        recipe = replacing.recipe(branch)
        parts = () if isinstance(recipe, str) else recipe.replaced
        paths = [call.path for call, _ in parts]
        name = _name(run, stored, branch, branches, None if isinstance(recipe, str) else recipe)
        used[name] += 1
        operator = run.operators[branch.sum]
        assert operator.summed is not None
        inside = {tensor for path in paths for tensor in replacing.held.get(path, ())}
        held = [tensor for tensor in stored if tensor in inside]
        found.append(
            Block(
                name=name if used[name] == 1 else f"{name}#{used[name]}",
                tensors=tuple(held or [tensor for tensor in stored if tensor in branch.weights]),
                modules=_modules(run, stored, branch),
                sum=Sum(operator.summed[0], operator.summed[1], branch.operand),
                replaced=tuple((call.path, kind) for call, kind in parts),
                costs=NO_COSTS if isinstance(recipe, str) else replacing.costs(branch, recipe),
                locked=recipe if isinstance(recipe, str) else None,
            )
        )
    return tuple(found)


def _modules(run: Operations, stored: Mapping[str, StoredTensor], branch: Branch) -> tuple[str, ...]:
    """Return the modules that hold the branch's parameters, in the order in which they run."""
    weights = [weight for number in sorted(branch.operators) for weight in sorted(run.weights_of(number))]
    return tuple(dict.fromkeys(weight.rpartition(".")[0] for weight in weights if stored[weight].is_parameter))


def _name(
    run: Operations,
    stored: Mapping[str, StoredTensor],
    branch: Branch,
    branches: Sequence[Branch],
    recipe: Recipe | None,
) -> str:
    """Return the path of the module that is the block; if that holds other blocks beside, of its largest part."""
    if recipe is not None and recipe.result >= 0:
        return recipe.replaced[0][0].path
    around = [
        call
        for call in run.calls
        if call.path and call.takes == branch.shortcut and call.first <= min(branch.operators) and branch.sum < call.end
    ]
    home = min(around, key=lambda call: (call.end - call.first, -len(call.path)), default=None)
    others = [other.sum for other in branches if other is not branch and other.sum not in branch.operators]
    if home is not None and not any(home.first <= other < home.end for other in others):
        return home.path
    paths = [call.path for call, _ in recipe.replaced] if recipe is not None else []
    sizes: Counter[str] = Counter()
    for name in sorted(branch.weights):
        path = next((path for path in paths if lies_in(name, path)), name.rpartition(".")[0])
        sizes[path] += stored[name].tensor.numel()
    return max(sizes, key=lambda path: sizes[path])


def _tried(model: nn.Module, record: Record, blocks: tuple[Block, ...], *, meta: bool) -> tuple[Block, ...]:
    """Lock the blocks without which the model's code does not run, as code that reads attributes of a block."""
    reasons: dict[str, str] = {}

    def keep(sound: list[Block], waiting: list[Block]) -> list[Block]:
        """Halve what does not run until single blocks are left; those that run stay out while the others are tried."""
        reason = _misfit(model, record, [*sound, *waiting], meta=meta) if waiting else None
        if reason is None:
            return [*sound, *waiting]
        if len(waiting) == 1:
            reasons[waiting[0].name] = reason
            return sound
        half = len(waiting) // 2
        return keep(keep(sound, waiting[:half]), waiting[half:])

    candidates = [block for block in blocks if block.locked is None]
    called = {path for path, _ in record.module_outputs[False]}
    if any(not _called_plainly(model, path, called) for block in candidates for path, _ in block.replaced):
        keep([], candidates)
    return tuple(replace(block, locked=block.locked or reasons.get(block.name)) for block in blocks)


def _called_plainly(model: nn.Module, path: str, called: set[str]) -> bool:
    """Whether no code touches a module: an ``nn.Sequential`` that is called itself, not walked through, calls it."""
    around = path.rpartition(".")[0]
    return type(model.get_submodule(around)) is nn.Sequential and around in called


def _misfit(model: nn.Module, record: Record, blocks: Sequence[Block], *, meta: bool) -> str | None:
    """Run the model without ``blocks``; None if it returns tensors of the same shapes, else what went wrong."""

    def stand_in(entry: StoredTensor) -> Tensor:
        data = entry.tensor.detach()
        return alike(entry.tensor, meta_like(data) if meta else data.clone())

    def fresh(tensor: Tensor) -> Tensor:
        return meta_like(tensor) if meta else tensor.detach().clone()

    with (
        torch.inference_mode(mode=False),
        torch.no_grad(),
        preserved(model),
        mode_of(model, training=False),
        randomness_preserved(record.stored),
        swapped(record.stored, stand_in),
        dropped(model, outermost(map(Drop.of, blocks))),
        running_on_shapes() if meta else contextlib.nullcontext(),
    ):
        args, kwargs = inputs.map_tensors(fresh, record.calls[False])
        try:
            result = model(*args, **kwargs)
        except (Exception, SystemExit) as error:  # whatever a model's own code raises
            text = str(error).strip().splitlines()
            return f"the model does not run without it: {text[0] if text else type(error).__name__}"
    found = [tuple(tensor.shape) for tensor in inputs.tensors_of(result)]
    # With values, other values may lead to other numbers of boxes.
    same = found == record.output_shapes if meta else [*map(len, found)] == [*map(len, record.output_shapes)]
    if not same:
        return f"without it the model returns {found} instead of {record.output_shapes}"
    return None
