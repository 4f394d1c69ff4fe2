"""The two LeNets of Han et al. 2015, "Learning both Weights and Connections", arXiv:1506.02626, §4.1."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LeNet300(nn.Module):
    """LeNet-300-100 for 28×28 grey images, 266,610 parameters (Han et al. 2015, Table 3)."""

    def __init__(self, *, num_classes: int = 10) -> None:
        """Build with He's initialisation."""
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, num_classes)
        self.initialise()

    def initialise(self) -> None:
        """Draw weights as when the network is built."""
        for layer in (self.fc1, self.fc2, self.fc3):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, 28, 28) to logits (N, num_classes)."""
        x = torch.relu(self.fc1(x.flatten(1)))
        x = torch.relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


class LeNet5(nn.Module):
    """LeNet-5 as Caffe's MNIST example has it, 20–50–500, 431,080 parameters (Han et al. 2015, Table 4).

    It is not LeCun's 6–16–120–84. As in Caffe there is no activation after the convolutions, only pooling.
    """

    def __init__(self, *, num_classes: int = 10) -> None:
        """Build with Caffe's Xavier initialisation (uniform by fan in) and zero biases."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, num_classes)
        self.initialise()

    def initialise(self) -> None:
        """Draw weights as when the network is built."""
        for layer in (self.conv1, self.conv2, self.fc1, self.fc2):
            # Caffe's "xavier" draws from ±sqrt(3 / fan in), which is He's uniform rule for a linear
            # activation.
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, 28, 28) to logits (N, num_classes)."""
        x = F.max_pool2d(self.conv1(x), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        x = torch.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(x)
        return logits
