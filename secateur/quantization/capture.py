"""``capture``: a model as a graph of ATen operators, with a free batch size and its own parameters under their names.

The graph is the one of ``torch.export``, before decompositions: few operators, as the model's author knows them. What
is changed in it computes the same: operators in place become ordinary ones (:mod:`.rewriting`), what does nothing in
evaluation is taken out, activations that no runtime computes whole are taken apart, and what depends on parameters
alone is computed once.

Each node carries in ``meta``: ``module_path`` (as in ``model.named_modules()``, "" for the model itself), ``source``
("file.py:line" in the model's own code, or ""), ``shape`` (None where it is the batch) and ``dtype``.
"""

import contextlib
import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from inspect import signature
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import _PyTreeCodeGen
from torch.utils import _pytree as pytree

from secateur.errors import TraceError
from secateur.graph import inputs
from secateur.graph.inputs import ExampleInputs
from secateur.graph.own_code import own_file
from secateur.graph.slots import mode_of, preserved, refuse_wrappers
from secateur.quantization.constants import compute_constants
from secateur.quantization.rewriting import ordinary, refuse_kept_writes, writes_elsewhere
from secateur.tensor_file import shown


def capture(model: nn.Module, example_inputs: ExampleInputs) -> fx.GraphModule:
    """Return what ``model`` computes in evaluation mode as a graph of ATen operators; ``model`` stays as it was.

    Args:
        model: any module that ``torch.export`` takes.
        example_inputs: one tensor, a tuple of positional arguments, or a mapping of keyword arguments; the first
            dimension of every tensor is the batch, which is free in the graph. Other sizes are fixed.

    Returns:
        A module with copies of the parameters and buffers under their own names, called as the model is. It has no
        module of the model in it, so that ``train()`` changes nothing: batch norm stays frozen and dropout is gone.

    Raises:
        TraceError: the model does not run on these inputs, is a wrapper, or cannot be exported (with the line of its
            own code).
    """
    refuse_wrappers(model)
    call = inputs.map_tensors(lambda tensor: tensor.detach(), inputs.as_call(example_inputs))
    batch = inputs.batch_size_of(call)
    if batch < 2:
        # torch.export takes a size of 1 for a constant.
        call, batch = inputs.map_tensors(lambda tensor: _doubled(tensor, batch), call), 2 * batch
    with mode_of(model, training=False), preserved(model), _quiet(), torch.inference_mode(mode=False), torch.no_grad():
        program = _exported(model, call, batch)
        graph_module = _own(program.module(check_guards=False), type(model).__name__)
        if writes_elsewhere(graph_module.graph):
            refuse_kept_writes(graph_module.graph)
            decomposed = program.run_decompositions({}).module(check_guards=False)
            graph_module = _own(decomposed, type(model).__name__)
    ordinary(graph_module)
    compute_constants(graph_module)
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module


def module_paths(graph_module: fx.GraphModule) -> dict[str, str]:
    """Return the path of the module that each operator belongs to, by the name of its node.

    Paths are those of ``named_modules()`` of the captured model, which is what a ``ChannelGraph`` names layers by.
    """
    return {
        node.name: node.meta["module_path"]
        for node in graph_module.graph.nodes
        if node.meta.get("module_path") is not None
    }


def _doubled(tensor: Tensor, batch: int) -> Tensor:
    if tensor.dim() == 0 or tensor.shape[0] != batch:
        return tensor
    return torch.cat([tensor, tensor])


def _exported(model: nn.Module, call: Any, batch: int) -> torch.export.ExportedProgram:
    """Return the exported program, with dimension 0 of size ``batch`` free."""

    def free_dims(leaf: Any) -> dict[int, Any] | None:
        if not isinstance(leaf, Tensor):
            return None
        return {0: torch.export.Dim.DYNAMIC} if leaf.dim() and leaf.shape[0] == batch else {}

    positional, keywords = pytree.tree_map(free_dims, call)
    names = signature(model.forward).parameters
    shapes = {**dict(zip(names, positional, strict=False)), **keywords} if keywords else positional
    errors = []
    # Strict export reads the code instead of running it: slower, and it takes models that the other one does not.
    for strict in (False, True):
        try:
            return torch.export.export(model, call[0], call[1], dynamic_shapes=shapes, strict=strict)
        except Exception as error:
            errors.append(error)
    raise _not_exported(model, call, errors[0]) from errors[0]


def _not_exported(model: nn.Module, call: Any, error: Exception) -> TraceError:
    name, place = type(model).__name__, _place(error)
    try:
        inputs.run(model, call)
    except Exception as own:
        return TraceError(
            f"{name} does not run on the example inputs{_place(own)}: {_first_line(own)}; "
            "give inputs that its forward takes"
        )
    text = str(error)
    if "marked" in text and "specialized" in text:
        return TraceError(
            f"{name} fixes its batch size in its code{place}, so that it cannot be captured with a free one; "
            "compute sizes from x.shape[0] in the model"
        )
    operator = re.search(r"aten[.:][\w.:]+", text)
    which = f" at {operator.group().replace('::', '.')}" if operator else ""
    return TraceError(
        f"{name} cannot be captured by torch.export{which}{place}: {_first_line(error)}; "
        "rewrite that line without values that are only known at run time"
    )


def _place(error: BaseException) -> str:
    """Return " (file.py, line n)" of the innermost frame of the model's own code, or nothing."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if name := own_file(frame.filename):
            return f" ({name}, line {frame.lineno})"
    # torch.export quotes the model's stack where it stopped at a symbol of its own.
    return next((f" ({name}, line {line})" for name, line in _quoted_lines(str(error))), "")


def _quoted_lines(text: str) -> Iterator[tuple[str, int]]:
    for path, line in reversed(re.findall(r'File "([^"]+)", line (\d+)', text)):
        if name := own_file(path):
            yield name, int(line)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shown(lines[0].rstrip(".;:"), 160) if lines else type(error).__name__


def _own(exported: fx.GraphModule, name: str) -> fx.GraphModule:
    """Return the exported graph as an ordinary module that shares no tensor with the model."""
    memo: dict[int, Any] = {}
    for module in exported.modules():
        for table in (module._parameters, module._buffers):
            for attribute, tensor in table.items():
                if tensor is not None:
                    if id(tensor) not in memo:
                        memo[id(tensor)] = _copied(tensor)
                    table[attribute] = memo[id(tensor)]
    for node in exported.graph.nodes:
        node.meta = _meta_of(node)
    codegen = exported.graph._codegen
    if isinstance(codegen, _PyTreeCodeGen):
        exported.graph.set_codegen(_Calling(codegen.pytree_info))
    graph_module = CapturedModule(exported, exported.graph, class_name=name)
    # The sizes that the exporter reasoned about are of no more use.
    vars(graph_module).pop("shape_env", None)
    graph_module.meta.clear()
    return graph_module


class CapturedModule(fx.GraphModule):
    """A graph whose deep copies share how it is called, which never changes and of which torch's own copies warn."""

    def __deepcopy__(self, memo: dict[int, Any]) -> fx.GraphModule:
        for spec in (vars(self).get("_in_spec"), vars(self).get("_out_spec")):
            memo[id(spec)] = spec
        return super().__deepcopy__(memo)


class _Calling(_PyTreeCodeGen):
    """How a graph is called, shared by its copies."""

    def __deepcopy__(self, _memo: object) -> "_Calling":
        return self


def _copied(tensor: Tensor) -> Tensor:
    copy = tensor.detach().clone()
    return nn.Parameter(copy, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy


def _meta_of(node: fx.Node) -> dict[str, Any]:
    """Return what is kept of an exported node's metadata: see the head of this module."""
    found: dict[str, Any] = {"module_path": "", "source": "", "shape": None, "dtype": None}
    stack = list(node.meta.get("nn_module_stack", {}).values())
    if stack:
        # "layer1.0.relu@1" is the second call of a module.
        found["module_path"] = re.sub(r"@\d+", "", str(stack[-1][0]))
    for file, line in _quoted_lines(node.meta.get("stack_trace") or ""):
        found["source"] = f"{file}:{line}"
        break
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        found["shape"] = tuple(size if isinstance(size, int) else None for size in value.shape)
        found["dtype"] = value.dtype
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's logs, and deprecation warnings of its own code, off the console."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.filterwarnings("ignore", module=r"torch\..*")
            warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated", category=FutureWarning)
            yield
    finally:
        logging.disable(before)
