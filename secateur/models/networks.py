"""The table of our own networks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from torch import nn

from secateur.models import autoslim
from secateur.models.alexnet import CaffeAlexNet
from secateur.models.cifar_resnet import cifar_resnet, digits_resnet
from secateur.models.densenet import dense_network
from secateur.models.fcn import fcn32s
from secateur.models.lenet import LeNet5, LeNet300
from secateur.models.mlp import slimming_mlp
from secateur.models.mnasnet import MNasNet, mnasnet
from secateur.models.mobilenet_v1 import MobileNetV1, mobilenet_v1
from secateur.models.mobilenet_v2 import MobileNetV2, mobilenet_v2
from secateur.models.preact_resnet import preactivation_resnet
from secateur.models.resnet50 import ResNet50, resnet50
from secateur.models.vgg import gap_vgg16, gate_decorator_vgg16, imagenet_vgg16, l1_vgg16, slimming_vgg19


@dataclass(frozen=True)
class Network:
    """One of our own networks.

    Attributes:
        build: takes ``num_classes``, unless ``fixed_channels`` also ``in_channels``, and unless ``fixed_width`` also
            ``width``.
        input_shape: (channels, height, width) that it was made for.
        normalization: name of the usual one for its data.
        fixed_channels: whether the number of input channels cannot be chosen.
        fixed_width: whether it has the widths that it has, so that ``NAME@1.5x`` is refused.
        head: path of the layers that other data needs anew, where somebody has said which.
    """

    build: Callable[..., nn.Module]
    input_shape: tuple[int, int, int]
    normalization: str
    fixed_channels: bool = False
    fixed_width: bool = False
    head: str | None = None


_CIFAR = (3, 32, 32)
_IMAGENET = (3, 224, 224)

SLIMMED: dict[str, tuple[Callable[..., nn.Module], dict[str, tuple[int, ...]]]] = {
    "mobilenet-v1": (MobileNetV1, autoslim.MOBILENET_V1),
    "mobilenet-v2": (MobileNetV2, autoslim.MOBILENET_V2),
    "mnasnet": (MNasNet, autoslim.MNASNET),
    "resnet50": (ResNet50, autoslim.RESNET50),
}
"""What AutoSlim slimmed: name of the network, its class, and the published lists of widths by their MACs."""


def _found_by_autoslim() -> Iterator[tuple[str, Network]]:
    """Yield ``autoslim-NETWORK-MACS`` for 224×224 images, and with ``-cifar`` behind it for 32×32 ones."""
    for name, (build, found) in SLIMMED.items():
        head = "fc" if name == "resnet50" else "classifier"
        for macs, widths in found.items():
            large, small = partial(build, widths), partial(build, widths, stem="cifar", num_classes=10)
            yield f"autoslim-{name}-{macs}", Network(large, _IMAGENET, "imagenet", fixed_width=True, head=head)
            yield f"autoslim-{name}-{macs}-cifar", Network(small, _CIFAR, "cifar10", fixed_width=True, head=head)


def _for_cifar(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    return partial(build, stem="cifar", num_classes=10)


NETWORKS: dict[str, Network] = {
    "lenet-300-100": Network(LeNet300, (1, 28, 28), "mnist", fixed_channels=True, fixed_width=True),
    "lenet5": Network(LeNet5, (1, 28, 28), "mnist", fixed_channels=True, fixed_width=True),
    "mlp-500-300": Network(slimming_mlp, (1, 28, 28), "mnist", fixed_channels=True),
    "digits-resnet": Network(digits_resnet, (1, 8, 8), "digits"),
    "resnet20": Network(partial(cifar_resnet, 20, shortcut="A"), _CIFAR, "cifar10"),
    "resnet32": Network(partial(cifar_resnet, 32, shortcut="A"), _CIFAR, "cifar10"),
    "resnet44": Network(partial(cifar_resnet, 44, shortcut="A"), _CIFAR, "cifar10"),
    "resnet56": Network(partial(cifar_resnet, 56, shortcut="A"), _CIFAR, "cifar10"),
    "resnet110": Network(partial(cifar_resnet, 110, shortcut="A"), _CIFAR, "cifar10"),
    "resnet20-b": Network(partial(cifar_resnet, 20, shortcut="B"), _CIFAR, "cifar10"),
    "resnet32-b": Network(partial(cifar_resnet, 32, shortcut="B"), _CIFAR, "cifar10"),
    "resnet44-b": Network(partial(cifar_resnet, 44, shortcut="B"), _CIFAR, "cifar10"),
    "resnet56-b": Network(partial(cifar_resnet, 56, shortcut="B"), _CIFAR, "cifar10"),
    "resnet110-b": Network(partial(cifar_resnet, 110, shortcut="B"), _CIFAR, "cifar10"),
    "vgg16-gd": Network(gate_decorator_vgg16, _CIFAR, "cifar10"),
    "vgg16-l1": Network(partial(l1_vgg16, batch_norm=False), _CIFAR, "cifar10"),
    "vgg16-l1-bn": Network(partial(l1_vgg16, batch_norm=True), _CIFAR, "cifar10"),
    "vgg19-slimming": Network(slimming_vgg19, _CIFAR, "cifar10"),
    "resnet164-preact": Network(partial(preactivation_resnet, 164), _CIFAR, "cifar10"),
    "densenet40": Network(partial(dense_network, 40), _CIFAR, "cifar10"),
    "alexnet-caffe": Network(CaffeAlexNet, (3, 227, 227), "imagenet", fixed_width=True, head="fc8"),
    "vgg16-imagenet": Network(imagenet_vgg16, _IMAGENET, "imagenet", head="classifier.6"),
    "vgg16-gap": Network(gap_vgg16, _IMAGENET, "imagenet", head="classifier"),
    "resnet50": Network(partial(resnet50, stride_in_first=False), _IMAGENET, "imagenet", head="fc"),
    "resnet50-caffe": Network(partial(resnet50, stride_in_first=True), _IMAGENET, "imagenet", head="fc"),
    "resnet50-cifar": Network(_for_cifar(resnet50), _CIFAR, "cifar10", head="fc"),
    "mobilenet-v1": Network(mobilenet_v1, _IMAGENET, "imagenet", head="classifier"),
    "mobilenet-v1-cifar": Network(_for_cifar(mobilenet_v1), _CIFAR, "cifar10", head="classifier"),
    "mobilenet-v2": Network(mobilenet_v2, _IMAGENET, "imagenet", head="classifier"),
    "mobilenet-v2-cifar": Network(_for_cifar(mobilenet_v2), _CIFAR, "cifar10", head="classifier"),
    "mnasnet": Network(mnasnet, _IMAGENET, "imagenet", head="classifier"),
    "mnasnet-cifar": Network(_for_cifar(mnasnet), _CIFAR, "cifar10", head="classifier"),
    "fcn32s-vgg16": Network(fcn32s, (3, 224, 224), "imagenet"),
    **dict(_found_by_autoslim()),
}
