"""``trace``: run a model once and find which of its channels hang together."""

import contextlib
import functools
import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from secateur.errors import TraceError
from secateur.graph import inputs
from secateur.graph.channel_graph import ChannelGraph
from secateur.graph.copying import forget_kept
from secateur.graph.droppable import with_blocks
from secateur.graph.flow import Call
from secateur.graph.groups import build
from secateur.graph.inputs import ExampleInputs
from secateur.graph.labels import Labels, attach
from secateur.graph.misfit import does_not_run, returns_no_tensor
from secateur.graph.outputs import Captured, chosen_outputs
from secateur.graph.rebinding import fitted
from secateur.graph.recorded import Axes, Record
from secateur.graph.shape_rules import meta_like
from secateur.graph.slots import (
    StoredTensor,
    alike,
    mode_of,
    module_names,
    preserved,
    randomness_preserved,
    refuse_wrappers,
    stored_tensors,
    swapped,
)
from secateur.graph.splits import helpful, other_axes
from secateur.graph.tie_finding import ties_of
from secateur.graph.tracer import Tracer
from secateur.graph.trial import Trials


def trace(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    outputs: Sequence[str] | None = None,
    trial: bool = True,
) -> ChannelGraph:
    """Find the groups of channels of ``model`` by running it once on ``example_inputs``.

    The run is on meta tensors, which have shapes and no values; where the model's code needs values it is repeated on
    the real ones. Sizes that the model's own code has written down are found by a trial cut. Parameters, buffers,
    flags, hooks, gradients and random state are left as they were. If evaluation mode does not reach all parameters
    (auxiliary heads), a second run in training mode, on at least two samples, adds what it reaches.

    Args:
        model: any module whose forward runs on ``example_inputs``.
        example_inputs: one tensor, a tuple of positional arguments, or a mapping of keyword arguments; the first
            dimension of the first tensor is the batch. A list as the first argument, as detectors take, is
            ``([image, image],)``.
        outputs: paths of modules whose outputs are what the model computes, where code behind them only decides
            (decoding, top-k, non-maximum suppression). They are locked like the model's own outputs, which are run
            and locked too, and :func:`secateur.verify` compares them instead. None takes the raw heads of
            torchvision's detectors, and else the model's own outputs.
        trial: cut one unit of each group on trial, and lock the groups that the model's own code does not follow
            (sizes written in code). Without, only :func:`secateur.verify` finds them.

    Returns:
        The graph: groups of units, costs, what is locked and why. It holds no tensors and no modules.

    Raises:
        TraceError: the model does not run on these inputs, returns no tensor, or is wrapped; or ``outputs`` names a
            module that is not there or is not called.
    """
    refuse_wrappers(model)
    with _collector_paused():
        return _traced(model, inputs.as_call(example_inputs), outputs, trial=trial)


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Let Python's collector of reference cycles wait.

    A trace allocates so much that it would run through the whole process once and through new objects a dozen times,
    for a third of the trace's time, and find next to nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _traced(model: nn.Module, call: Call, outputs: Sequence[str] | None, *, trial: bool) -> ChannelGraph:
    """Trace, see :func:`trace`."""
    stored = stored_tensors(model)
    _refuse_mixed_devices(stored)
    observe = functools.partial(_observe, model, call, stored, chosen_outputs(model, outputs))
    record, meta = observe({})
    graph, unit_of_atom = build(record)
    axes = other_axes(record, graph, unit_of_atom)
    if axes:
        second, _ = observe(axes)
        found = helpful(axes, second, *build(second))
        if found:
            record, meta = (second, meta) if found == axes else observe(found)
            graph, unit_of_atom = build(record)
    if trial:
        graph = fitted(Trials(model, record, graph, unit_of_atom, meta=meta), graph)
    graph = replace(graph, ties=ties_of(record, graph, unit_of_atom))
    return with_blocks(model, record, graph, meta=meta, trial=trial)


def _observe(
    model: nn.Module, call: Call, stored: dict[str, StoredTensor], outputs: tuple[str, ...], axes: Axes
) -> tuple[Record, bool]:
    """Run the model once and record what is seen; say whether meta tensors did for it."""

    def empty() -> Record:
        return Record(
            stored=stored,
            model_class=type(model).__qualname__,
            batch_size=inputs.batch_size_of(call),
            axes=axes,
            outputs=outputs,
        )

    record = empty()
    try:
        _run(model, call, record, device="meta", training=False)
        device = "meta"
    except (Exception, SystemExit):  # whatever a model's own code raises without values
        record, device = empty(), None
        try:
            _run(model, call, record, device=None, training=False)
        except TraceError:
            raise
        except (Exception, SystemExit) as error:
            raise does_not_run(model, call, error) from error
    if record.unreached():
        record = _with_training(model, call, record, device)
    return record, device is not None


def _with_training(model: nn.Module, call: Call, record: Record, device: str | None) -> Record:
    """Add what a run in training mode reaches; what it cannot run either stays on the list of unreached parameters."""
    for where in dict.fromkeys((device, None)):
        attempt = record.copy()
        with contextlib.suppress(Exception):
            _run(model, _at_least_two(call, record.batch_size), attempt, device=where, training=True)
            return attempt if attempt.reached > record.reached else record
    return record


def _run(model: nn.Module, call: Call, record: Record, *, device: str | None, training: bool) -> None:
    def traced(entry: StoredTensor) -> Tensor:
        data = entry.tensor.detach()
        # A forward may write into its own parameters (renormalised embeddings) as well as into its buffers.
        data = meta_like(data) if device is not None else data.clone()
        tensor = alike(entry.tensor, data)
        attach(tensor, Labels(record.atoms_of[entry.name], from_weights=True, parameter=entry.name))
        return tensor

    record.calls[training] = call
    tracer = Tracer(record, module_names(model), meta=device is not None, costs=not training)
    captured = Captured(model, record.outputs, see=tracer.output)
    with (
        torch.inference_mode(mode=False),
        torch.no_grad(),
        preserved(model),
        mode_of(model, training=training),
        randomness_preserved(record.stored),
        swapped(record.stored, traced),
    ):
        forget_kept(model)
        given = inputs.map_tensors(tracer.input, call)
        with tracer, captured:
            result = model(*given[0], **given[1])
    if not captured.of(result):
        raise returns_no_tensor(model, result)
    for tensor in inputs.tensors_of(result):
        tracer.output(tensor)
    if not training:
        record.output_shapes = [tuple(tensor.shape) for tensor in inputs.tensors_of(result)]
    record.train_mode = record.train_mode or training


def _at_least_two(call: Call, batch: int) -> Call:
    """Double a batch of one: batch norm in training mode refuses a single value per channel."""
    if batch > 1:
        return call

    def doubled(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor]) if tensor.dim() and tensor.shape[0] == batch else tensor

    result: Call = inputs.map_tensors(doubled, call)
    return result


def _refuse_mixed_devices(stored: dict[str, StoredTensor]) -> None:
    offloaded = [name for name, entry in stored.items() if entry.tensor.is_sparse or entry.tensor.is_quantized]
    if offloaded:
        raise TraceError(f"{offloaded[0]} is a sparse or quantized tensor; prune the dense float model instead")
