"""Networks by name: our own, torchvision's, timm's, and the user's. Nothing is ever downloaded."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from secateur.errors import ModelError, UsageError
from secateur.models.alexnet import CaffeAlexNet
from secateur.models.cifar_resnet import CifarResNet, digits_resnet
from secateur.models.densenet import DenseNet
from secateur.models.fcn import FCN32s
from secateur.models.lenet import LeNet5, LeNet300
from secateur.models.libraries import LIBRARIES, LIBRARY_CALLS, torchvision_has
from secateur.models.mlp import slimming_mlp
from secateur.models.preact_resnet import PreActivationResNet
from secateur.models.resnet50 import ResNet50
from secateur.models.vgg import gap_vgg16, gate_decorator_vgg16, imagenet_vgg16, l1_vgg16, slimming_vgg19
from secateur.names import nearest_name, unknown_name
from secateur.user_code import call_user_function, names_user_code

OWN = "secateur"


@dataclass(frozen=True)
class Network:
    """One of our own networks.

    Attributes:
        build: takes ``num_classes`` and, unless ``fixed_channels``, ``in_channels``.
        input_shape: (channels, height, width) that it was made for.
        normalization: name of the usual one for its data.
        fixed_channels: whether the number of input channels cannot be chosen.
        head: path of the layers that other data needs anew, where somebody has said which.
    """

    build: Callable[..., nn.Module]
    input_shape: tuple[int, int, int]
    normalization: str
    fixed_channels: bool = False
    head: str | None = None


_CIFAR = (3, 32, 32)
_IMAGENET = (3, 224, 224)

NETWORKS: dict[str, Network] = {
    "lenet-300-100": Network(LeNet300, (1, 28, 28), "mnist", fixed_channels=True),
    "lenet5": Network(LeNet5, (1, 28, 28), "mnist", fixed_channels=True),
    "mlp-500-300": Network(slimming_mlp, (1, 28, 28), "mnist", fixed_channels=True),
    "digits-resnet": Network(digits_resnet, (1, 8, 8), "digits"),
    "resnet20": Network(partial(CifarResNet, 20, shortcut="A"), _CIFAR, "cifar10"),
    "resnet32": Network(partial(CifarResNet, 32, shortcut="A"), _CIFAR, "cifar10"),
    "resnet44": Network(partial(CifarResNet, 44, shortcut="A"), _CIFAR, "cifar10"),
    "resnet56": Network(partial(CifarResNet, 56, shortcut="A"), _CIFAR, "cifar10"),
    "resnet110": Network(partial(CifarResNet, 110, shortcut="A"), _CIFAR, "cifar10"),
    "resnet20-b": Network(partial(CifarResNet, 20, shortcut="B"), _CIFAR, "cifar10"),
    "resnet32-b": Network(partial(CifarResNet, 32, shortcut="B"), _CIFAR, "cifar10"),
    "resnet44-b": Network(partial(CifarResNet, 44, shortcut="B"), _CIFAR, "cifar10"),
    "resnet56-b": Network(partial(CifarResNet, 56, shortcut="B"), _CIFAR, "cifar10"),
    "resnet110-b": Network(partial(CifarResNet, 110, shortcut="B"), _CIFAR, "cifar10"),
    "vgg16-gd": Network(gate_decorator_vgg16, _CIFAR, "cifar10"),
    "vgg16-l1": Network(partial(l1_vgg16, batch_norm=False), _CIFAR, "cifar10"),
    "vgg16-l1-bn": Network(partial(l1_vgg16, batch_norm=True), _CIFAR, "cifar10"),
    "vgg19-slimming": Network(slimming_vgg19, _CIFAR, "cifar10"),
    "resnet164-preact": Network(partial(PreActivationResNet, 164), _CIFAR, "cifar10"),
    "densenet40": Network(partial(DenseNet, 40), _CIFAR, "cifar10"),
    "alexnet-caffe": Network(CaffeAlexNet, (3, 227, 227), "imagenet", head="fc8"),
    "vgg16-imagenet": Network(imagenet_vgg16, _IMAGENET, "imagenet", head="classifier.6"),
    "vgg16-gap": Network(gap_vgg16, _IMAGENET, "imagenet", head="classifier"),
    "resnet50": Network(partial(ResNet50, stride_in_first=False), _IMAGENET, "imagenet", head="fc"),
    "resnet50-caffe": Network(partial(ResNet50, stride_in_first=True), _IMAGENET, "imagenet", head="fc"),
    "fcn32s-vgg16": Network(FCN32s, (3, 224, 224), "imagenet"),
}


def build_model(
    name: str, *, num_classes: int | None = None, in_channels: int | None = None, allow_code: bool = True
) -> nn.Module:
    """Return a new, untrained network.

    Args:
        name: a key of :data:`NETWORKS` (also as ``secateur:NAME``), ``torchvision:NAME``, ``timm:NAME``, or
            ``file.py:function``, which is called with the arguments given here and returns an ``nn.Module``.
        num_classes: outputs; None takes what the network has by itself.
        in_channels: of the images; None takes what the network has by itself.
        allow_code: whether ``file.py:function`` may run.

    Raises:
        UsageError: the name is unknown (the nearest is suggested), a package is missing, or an argument does
            not fit.
        ModelError: the network cannot be built, or the user's function fails.
    """
    _check_positive(num_classes=num_classes, in_channels=in_channels)
    given = {"num_classes": num_classes, "in_channels": in_channels}
    arguments: dict[str, object] = {key: value for key, value in given.items() if value is not None}
    if names_user_code(name):
        made = call_user_function(name, allow_code=allow_code, error=ModelError, arguments=arguments)
        if not isinstance(made, nn.Module):
            what = f"the class {made.__name__}" if isinstance(made, type) else type(made).__name__
            call = f": call it, as in {made.__name__}(…)" if isinstance(made, type) else ""
            raise ModelError(f"{name} returned {what}; it should return an nn.Module{call}")
        return made
    library, inner = _split_name(name)
    if library != OWN:
        return LIBRARIES[library].build(inner, num_classes=num_classes, in_channels=in_channels)
    network = NETWORKS[inner]
    if network.fixed_channels and arguments.pop("in_channels", 1) != network.input_shape[0]:
        raise UsageError(f"{name} takes images of {network.input_shape[0]} channel, not {in_channels}; choose another")
    return network.build(**arguments)


def model_names() -> list[str]:
    """Return the names of our own networks, sorted."""
    return sorted(NETWORKS)


def head_of(name: str) -> str:
    """Return the path of the layers of a network that other data needs anew, such as ``classifier``.

    Raises:
        UsageError: the name is unknown (the nearest is suggested), or it is not known of this network.
    """
    known = [own for own, network in NETWORKS.items() if network.head is not None]
    if not names_user_code(name):
        library, inner = _split_name(name)
        head = NETWORKS[inner].head if library == OWN else None
        if head is not None:
            return head
    raise UsageError(
        f"nobody says which layers of {name} are its head, so it cannot be new; it is known of {', '.join(known)}"
    )


def input_shape(name: str) -> tuple[int, int, int] | None:
    """Return (channels, height, width) that the network of this name was made for, or None where nobody says.

    Raises:
        UsageError: the name is unknown (the nearest is suggested), or a package is missing.
    """
    if names_user_code(name):
        return None
    library, inner = _split_name(name)
    return NETWORKS[inner].input_shape if library == OWN else LIBRARIES[library].input_shape(inner)


def default_normalization(name: str) -> str | None:
    """Return the normalisation that the network of this name is usually given, or None where nobody says.

    Returns:
        A name such as ``"cifar10"``, or the numbers, as ``"mean=…;std=…"``.

    Raises:
        UsageError: the name is unknown (the nearest is suggested), or a package is missing.
    """
    if names_user_code(name):
        return None
    library, inner = _split_name(name)
    return NETWORKS[inner].normalization if library == OWN else LIBRARIES[library].normalization(inner)


def _split_name(name: str) -> tuple[str, str]:
    """Return (library, name within it) of a network that our own table or a library may have."""
    library, separator, inner = name.partition(":")
    if not separator:
        library, inner = OWN, name
    if library in LIBRARIES:
        LIBRARIES[library].require(inner)
        return library, inner
    if library == OWN and inner in NETWORKS:
        return OWN, inner
    if library == OWN and not separator and torchvision_has(inner):
        raise UsageError(f"unknown model {name!r}; did you mean 'torchvision:{inner}'?")
    near = nearest_name(library, LIBRARIES) if separator else None
    if near is not None:
        raise UsageError(f"unknown model {name!r}; did you mean '{near}:{inner}'?")
    raise UsageError(unknown_name("model", inner if library == OWN else name, [*NETWORKS, *LIBRARY_CALLS]))


def _check_positive(**values: int | None) -> None:
    for key, value in values.items():
        if value is not None and value < 1:
            raise UsageError(f"{key} is {value}; it must be at least 1")
