"""Images of coloured boxes with a class per pixel, in memory, and a small fully convolutional network."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from secateur.data import Framing, SegmentationSource
from secateur.randomness import generator_for

SIDE = 24
CLASS_NAMES = ("background", "red", "green")


class Boxes(Dataset[tuple[Tensor, Tensor]]):
    """Each image has one box of a colour on noise; a line around it is ignored."""

    def __init__(self, split: str, count: int) -> None:
        self.samples = [_box(split, number) for number in range(count)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.samples[row]


def _box(split: str, number: int) -> tuple[Tensor, Tensor]:
    generator = generator_for("box", split, number)
    height, width = SIDE - number % 3, SIDE - number % 4
    image = 0.4 + 0.2 * torch.rand(3, height, width, generator=generator)
    mask = torch.zeros(height, width, dtype=torch.int64)
    top, left = torch.randint(1, 10, (2,), generator=generator).tolist()
    label = 1 + number % 2
    mask[top - 1 : top + 11, left - 1 : left + 11] = 255
    mask[top : top + 10, left : left + 10] = label
    image[:, top : top + 10, left : left + 10] = 0.1
    image[label - 1, top : top + 10, left : left + 10] = 0.9
    return image, mask


def boxes(train: int = 20, validation: int = 7) -> SegmentationSource:
    return SegmentationSource(
        name="boxes",
        train=Boxes("train", train),
        validation=Boxes("validation", validation),
        test=Boxes("test", 5),
        class_names=CLASS_NAMES,
        framing=Framing(size=SIDE, scales=(1.0, 1.0)),
        workers=0,
    )


class SmallFcn(nn.Module):
    """Two layers down and back up again; as torchvision's networks it returns a dict where asked to."""

    def __init__(self, classes: int = 3, width: int = 8, *, keys: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, stride=2, padding=1), nn.BatchNorm2d(width)
        self.score = nn.Conv2d(width, classes, 1)
        self.aux = nn.Conv2d(width, classes, 1) if "aux" in keys else None
        self.keys = keys

    def forward(self, x: Tensor) -> object:
        early = self.norm1(self.conv1(x)).relu()
        deep = self.norm2(self.conv2(early)).relu()
        out = F.interpolate(self.score(deep), size=x.shape[-2:], mode="bilinear", align_corners=False)
        if not self.keys:
            return out
        return {"out": out, **({"aux": self.aux(early)} if self.aux is not None else {})}


def small_fcn(**more: object) -> nn.Module:
    torch.manual_seed(3)
    return SmallFcn(**more)  # type: ignore[arg-type]
