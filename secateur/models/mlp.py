"""The multi-layer perceptron that Network Slimming prunes (Liu et al. 2017, arXiv:1708.06519, §5.1 and Table 3)."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from secateur.errors import ModelError
from secateur.models.widths import scaled


class MLP(nn.Module):
    """Linear layers (``layers.0``, ``layers.2``, …) with ReLU between them, on flattened images."""

    def __init__(self, in_features: int, hidden: Sequence[int], *, num_classes: int = 10) -> None:
        """Build with He's initialisation (normal, fan in) and zero biases.

        Args:
            in_features: values of one image: channels × height × width.
            hidden: neurons of each hidden layer.
            num_classes: outputs.

        Raises:
            ModelError: a layer has no neurons.
        """
        super().__init__()
        widths = [in_features, *hidden, num_classes]
        if min(widths) < 1:
            raise ModelError(f"the layers have {widths} values; each needs at least one")
        layers: list[nn.Module] = []
        for given, made in itertools.pairwise(widths):
            layer = nn.Linear(given, made)
            _begin(layer)
            layers += [layer, nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def initialise(self) -> None:
        """Draw weights as when the network is built."""
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                _begin(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        logits: Tensor = self.layers(x.flatten(1))
        return logits


def _begin(layer: nn.Linear) -> None:
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)


def slimming_mlp(*, width: float = 1.0, num_classes: int = 10) -> MLP:
    """Return the network 784–500–300–10 for 28×28 grey images: 545,810 parameters.

    With 80 % of the neurons of both hidden layers gone it is 784–100–60–10, 85,170 parameters or 84.4 % fewer.
    """
    return MLP(784, (scaled(500, width), scaled(300, width)), num_classes=num_classes)
