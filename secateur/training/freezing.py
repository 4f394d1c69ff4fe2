"""Keep parameters bitwise still during a phase, and put every flag of a model back afterwards."""

import contextlib
from collections.abc import Iterable, Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from secateur.errors import UsageError
from secateur.names import unknown_name


@contextlib.contextmanager
def training_mode(model: nn.Module, frozen: Iterable[str] = ()) -> Iterator[None]:
    """Train inside the block: train mode everywhere, no gradients for what is frozen.

    A frozen parameter has no gradient at all, so neither momentum nor weight decay can move it (a gradient of
    zeros would not stop them). Where a whole module is frozen, its norms keep their running statistics as
    well: they are in eval mode, so that nothing below the module changes.

    Args:
        model: what is trained. On leaving, its flags are as before and it holds no gradients.
        frozen: names of parameters or of modules.

    Raises:
        UsageError: a name is not in the model, or nothing is left to train.
    """
    # Several names of one tied parameter all count.
    parameters = dict(model.named_parameters(remove_duplicate=False))
    modules = dict(model.named_modules())
    flags = {module: module.training for module in modules.values()}
    gradients = {parameter: parameter.requires_grad for parameter in parameters.values()}
    still = []
    for name in frozen:
        if name in parameters:
            parameters[name].requires_grad_(False)
        elif name in modules:
            modules[name].requires_grad_(False)
            still += [module for module in modules[name].modules() if isinstance(module, _NormBase)]
        else:
            _restore(flags, gradients)
            raise UsageError(unknown_name("parameter or module", name, {*parameters, *modules} - {""}))
    try:
        if not any(parameter.requires_grad for parameter in gradients):
            raise UsageError("nothing is left to train: every parameter of the model is frozen")
        model.train()
        for module in still:
            module.training = False
        _drop_gradients(gradients)
        yield
    finally:
        _drop_gradients(gradients)
        _restore(flags, gradients)


def _drop_gradients(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None


def _restore(flags: dict[nn.Module, bool], gradients: dict[nn.Parameter, bool]) -> None:
    for module, training in flags.items():
        module.training = training
    for parameter, wanted in gradients.items():
        parameter.requires_grad_(wanted)
