"""Blocks that use weights, channels or numbers in their own way: shared, made, flipped, written into the code."""

import torch
import torch.nn.functional as F
from plain_blocks import Block
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class Slope(Block):
    variants = ("per-channel", "single")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        super().__init__(width, size)
        self.layers = nn.Sequential(nn.Conv2d(incoming, width, 1), nn.PReLU(width if variant == "per-channel" else 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Flip(Block):
    variants = ("channels", "width", "concatenated-relu")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        super().__init__(2 * incoming if variant == "concatenated-relu" and incoming <= 12 else incoming, size)
        self.variant, self.doubles = variant, self.out != incoming

    def forward(self, x: Tensor) -> Tensor:
        if self.doubles:
            return torch.cat([x.relu(), (-x).relu()], dim=1)
        return x.flip(3 if self.variant == "width" else 1)


class Reparameterised(Block):
    variants = ("weight-norm", "standardised")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        super().__init__(width, size)
        self.standardised = variant == "standardised"
        conv = nn.Conv2d(incoming, width, 3, padding=1)
        self.conv = conv if self.standardised else parametrizations.weight_norm(conv)

    def forward(self, x: Tensor) -> Tensor:
        if not self.standardised:
            return F.relu(self.conv(x))
        weight = self.conv.weight
        weight = weight - weight.mean((1, 2, 3), keepdim=True)
        return F.relu(F.conv2d(x, weight, self.conv.bias, padding=1))


class Shared(Block):
    """One module called twice, or two that share a weight."""

    variants = ("twice", "tied")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        super().__init__(width, size)
        self.enter, self.first = nn.Conv2d(incoming, width, 1), nn.Conv2d(width, width, 3, padding=1)
        self.second = self.first
        if variant == "tied":
            self.second = nn.Conv2d(width, width, 3, padding=1)
            self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(F.relu(self.enter(x))))))


class Written(Block):
    """A forward that reads the number of channels, or of what follows from it, from its own integers."""

    variants = ("channels", "all-but-samples")

    def __init__(self, incoming: int, width: int, variant: str, size: int) -> None:
        super().__init__(width, size)
        self.conv, self.variant, self.width = nn.Conv2d(incoming, width, 1), variant, width

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x)).contiguous()  # a view of channels-last memory would fail, cut or not
        if self.variant == "channels":
            return (y.view(-1, self.width, x.shape[2] * x.shape[3]) * 2.0).view(-1, self.width, *x.shape[2:])
        return (y.view(x.shape[0], -1) * 2.0).view(x.shape[0], self.width, x.shape[2], x.shape[3])


ODD: dict[str, type[Block]] = {
    "slope": Slope,
    "flip": Flip,
    "reparameterised": Reparameterised,
    "shared": Shared,
    "written": Written,
}
