"""AlexNet as Caffe has it, with grouped convolutions: Krizhevsky, Sutskever and Hinton, NIPS 2012."""

import torch
from torch import Tensor, nn

# Standard deviation of the weights and value of the biases that training begins with, as in Caffe's bvlc_alexnet.
_BEGINS: dict[str, tuple[float, float]] = {
    "conv1": (0.01, 0.0),
    "conv2": (0.01, 0.1),
    "conv3": (0.01, 0.0),
    "conv4": (0.01, 0.1),
    "conv5": (0.01, 0.1),
    "fc6": (0.005, 0.1),
    "fc7": (0.005, 0.1),
    "fc8": (0.01, 0.0),
}


class CaffeAlexNet(nn.Module):
    """AlexNet for 227×227 images, 60,965,224 parameters: the network of Han et al. 2015, arXiv:1506.02626, Table 4.

    It is not torchvision's, which is the later one-tower network without groups and local response normalisation.
    Layers have Caffe's names. Pools round up, as Caffe's do, so that images of 224×224 give maps of the same sizes
    from the first pool on.
    """

    def __init__(self, *, num_classes: int = 1000, in_channels: int = 3) -> None:
        """Build with Caffe's Gaussian initialisation."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 96, 11, stride=4)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
        self.fc6 = nn.Linear(256 * 6 * 6, 4096)
        self.drop6 = nn.Dropout(0.5)
        self.fc7 = nn.Linear(4096, 4096)
        self.drop7 = nn.Dropout(0.5)
        self.fc8 = nn.Linear(4096, num_classes)
        self.initialise()

    def initialise(self) -> None:
        """Draw weights as when the network is built."""
        for name, (deviation, bias) in _BEGINS.items():
            layer = self.get_submodule(name)
            nn.init.normal_(layer.get_parameter("weight"), std=deviation)
            nn.init.constant_(layer.get_parameter("bias"), bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, 227, 227) to logits (N, num_classes)."""
        x = self.pool(self.norm(torch.relu(self.conv1(x))))
        x = self.pool(self.norm(torch.relu(self.conv2(x))))
        x = torch.relu(self.conv3(x))
        x = torch.relu(self.conv4(x))
        x = self.pool(torch.relu(self.conv5(x))).flatten(1)
        x = self.drop6(torch.relu(self.fc6(x)))
        x = self.drop7(torch.relu(self.fc7(x)))
        logits: Tensor = self.fc8(x)
        return logits
