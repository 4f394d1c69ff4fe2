"""One run of a model during which labels follow the tensors: the dispatch mode that tracing and masking share."""

import functools
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.errors import SecateurError
from secateur.graph.labelling import Labelling
from secateur.graph.labels import Bookkeeper, DimensionLabels, Labels, attach, labels_of
from secateur.graph.rules import Rule, rule_for
from secateur.graph.rules.attention import scaled_dot_product_attention
from secateur.graph.rules.elementwise import like_first
from secateur.graph.rules.execution import MOVES, moved, restrides_in_place
from secateur.graph.rules.modules import entered, left
from secateur.graph.shape_rules import attention_on_shapes
from secateur.graph.shape_run import numbers_in
from secateur.graph.whole_attention import ATTENTION, WholeAttention

Call = tuple[tuple[Any, ...], dict[str, Any]]


class Flow(Labelling, TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches every ATen operator of a run and lets its rule say how labels flow.

    Subclasses say what is done with it: :class:`~secateur.graph.tracer.Tracer` collects unions and costs,
    :class:`~secateur.graph.masking.Masker` zeroes what a plan removes.
    """

    def __init__(self, books: Bookkeeper, module_names: dict[int, str]) -> None:
        super().__init__(books, module_names)
        self._handles: list[Any] = []
        self._depth = 0
        self._attention = WholeAttention(self.attend)

    @property
    def flattening(self) -> bool:
        """Whether the view that runs is a ``flatten``."""
        return self._attention.flattening

    # The dispatch --------------------------------------------------------------------------------------------

    def before(self, name: str, call: Call) -> Call:
        """Change the arguments of an operator before it runs; the masker's place to zero channels."""
        del name
        return call

    def run(self, func: Any, name: str, call: Call) -> Any:
        """Run the operator itself."""
        del name
        return func(*call[0], **call[1])

    def after(self, func: Any, labels: list[Labels | None], results: list[Tensor]) -> None:
        """See an operator when its rule has run, with what its inputs were labelled before; to follow storages."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operator and let its labels flow."""
        del types
        call: Call = (args, kwargs or {})
        if self._attention.running:
            return func(*call[0], **call[1])
        with torch._C.DisableTorchFunction():  # what rules ask of tensors is no business of function modes
            return self._dispatched(func, call)

    def _dispatched(self, func: Any, call: Call) -> Any:
        name, rule = rule_for(func)
        if name == "scaled_dot_product_attention":
            return self._attention.attend(*call[0], **call[1])
        if rule is None and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            # Under inference_mode composite operators arrive whole; the rules know their parts.
            with self:
                result = func.decompose(*call[0], **call[1])
            if result is not NotImplemented:
                return result
        if rule is None and name in MOVES:
            rule = like_first if restrides_in_place(func, call[0]) else functools.partial(moved, func)
        inputs = list(tensors_in(call))
        if not any(labels_of(tensor) is not None for tensor in inputs):
            return func(*call[0], **call[1])
        return self.see(func, name, rule, inputs, call, run=lambda changed: self.run(func, name, changed))

    def see(
        self, func: Any, name: str, rule: Rule | None, inputs: list[Tensor], call: Call, run: Callable[[Call], Any]
    ) -> Any:
        """Run an operator between ``before`` and ``after`` and apply its rule, or lock what it touches."""
        labels = [labels_of(tensor) for tensor in inputs]
        self.from_weights = all(known is None or known.from_weights for known in labels)
        result = run(self.before(name, call))
        results = list(tensors_in(((result,), {})))
        if rule is None:
            self._lock_all(f"{name} has no rule", func, inputs, labels, results)
        elif not self._obeys(rule, call, result, results):
            self._lock_all(f"the rule of {name} does not know this use of it", func, inputs, labels, results)
        for tensor in results:
            known = labels_of(tensor)
            if known is None or not any(tensor is argument for argument in inputs):
                dims = known.dims if known else (None,) * tensor.dim()
                attach(tensor, Labels(dims, from_weights=self.from_weights))
        self.after(func, labels, results)
        return result

    def _obeys(self, rule: Rule, call: Call, result: Any, results: list[Tensor]) -> bool:
        """Apply a rule; False if it fails, or labels its results with other sizes than they have."""
        try:
            rule(self, call[0], call[1], result)
        except SecateurError:
            raise
        except Exception:  # a use of the operator that its rule was not written for
            return False
        return all((known := labels_of(tensor)) is None or _fits(tensor, known.dims) for tensor in results)

    def _lock_all(
        self, reason: str, func: Any, inputs: list[Tensor], labels: list[Labels | None], results: list[Tensor]
    ) -> None:
        """Lock what an operator reads, and let its results carry nothing."""
        if any(dim is not None for known in labels if known for dim in known.dims):
            self.unknown[str(func)] += 1
        for tensor in results:
            attach(tensor, Labels((None,) * tensor.dim(), from_weights=False))
        for tensor, known in zip(inputs, labels, strict=True):
            for dim in known.dims if known else ():
                self.lock(dim, reason)
            if known is not None and any(tensor is other for other in results) and _fits(tensor, known.dims):
                attach(tensor, Labels(known.dims, from_weights=False, storage=known.storage))

    def attend(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one scaled-dot-product attention as a single operator."""
        call: Call = (args, kwargs)
        name, rule = "scaled_dot_product_attention", scaled_dot_product_attention
        self.computed(numbers_in(name, args, kwargs))
        return self.see(
            ATTENTION,
            name,
            rule,
            list(tensors_in(call)),
            call,
            run=lambda changed: _attended(*changed[0], **changed[1]),
        )

    # Entering and leaving ------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Start to watch operators, and modules to know whose forward runs."""
        if not self._handles:
            self._runner = sys._getframe(1).f_code
            self._handles = [
                register_module_forward_pre_hook(self._enter_module),
                register_module_forward_hook(self._leave_module, always_call=True),
            ]
            self._attention.__enter__()
        self._depth += 1
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._depth -= 1
        if self._depth == 0:
            self._attention.__exit__(kind, error, trace)
            for handle in self._handles:
                handle.remove()
            self._handles = []

    def called(self, path: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        """See a module when its forward starts."""

    def returned(self, path: str, result: Any) -> None:
        """See what a module's forward returned."""

    def _enter_module(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not self._attention.is_own_thread():  # hooks on all modules are those of all threads
            return
        path = self._module_names.get(id(module))
        self._stack.append(self._stack[-1] if path is None else path)
        self._running.append(module)
        entered(self, module)
        if path is not None:
            self.called(path, module, args)

    def _leave_module(self, module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        del args
        if not self._attention.is_own_thread():
            return
        left(module)
        path = self._module_names.get(id(module))
        if path is not None:
            self.returned(path, result)
        if len(self._stack) > 1:
            self._stack.pop()
            self._running.pop()


def _attended(*args: Any, **kwargs: Any) -> Tensor:
    found = attention_on_shapes(*args, **kwargs)
    return ATTENTION(*args, **kwargs) if found is None else found


def _fits(tensor: Tensor, dims: DimensionLabels) -> bool:
    shape = tensor.shape
    return len(dims) == len(shape) and all(
        atoms is None or atoms.size == size for atoms, size in zip(dims, shape, strict=True)
    )


def tensors_in(call: Call) -> Iterator[Tensor]:
    """Yield the tensors among the arguments of a call, lists one level deep included."""
    for argument in (*call[0], *call[1].values()):
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, list | tuple):
            for item in argument:
                if isinstance(item, Tensor):
                    yield item
