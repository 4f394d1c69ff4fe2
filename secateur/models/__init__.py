"""The networks of the papers, and those of torchvision, timm and the user by name."""

from secateur.models.cifar_resnet import CifarResNet as CifarResNet
from secateur.models.cifar_resnet import digits_resnet as digits_resnet
from secateur.models.densenet import DenseNet as DenseNet
from secateur.models.fcn import FCN32s as FCN32s
from secateur.models.lenet import LeNet5 as LeNet5
from secateur.models.lenet import LeNet300 as LeNet300
from secateur.models.mlp import MLP as MLP
from secateur.models.mnasnet import MNasNet as MNasNet
from secateur.models.mobilenet_v1 import MobileNetV1 as MobileNetV1
from secateur.models.mobilenet_v2 import MobileNetV2 as MobileNetV2
from secateur.models.networks import NETWORKS as NETWORKS
from secateur.models.preact_resnet import PreActivationResNet as PreActivationResNet
from secateur.models.registry import build_model as build_model
from secateur.models.registry import default_normalization as default_normalization
from secateur.models.registry import full_name as full_name
from secateur.models.registry import head_of as head_of
from secateur.models.registry import input_shape as input_shape
from secateur.models.registry import model_names as model_names
from secateur.models.resnet50 import ResNet50 as ResNet50
from secateur.models.selection import ChannelSelection as ChannelSelection
from secateur.models.vgg import VGG as VGG
from secateur.models.weights import load_weights as load_weights

__all__ = [
    "MLP",
    "NETWORKS",
    "VGG",
    "ChannelSelection",
    "CifarResNet",
    "DenseNet",
    "FCN32s",
    "LeNet5",
    "LeNet300",
    "MNasNet",
    "MobileNetV1",
    "MobileNetV2",
    "PreActivationResNet",
    "ResNet50",
    "build_model",
    "default_normalization",
    "digits_resnet",
    "full_name",
    "head_of",
    "input_shape",
    "load_weights",
    "model_names",
]
