"""Small trees laid out as PASCAL VOC is: real JPEG images, real PNG masks with a palette."""

from pathlib import Path

import numpy as np
from PIL import Image

PAINT = {1: (220, 40, 40), 7: (40, 200, 60), 15: (50, 60, 230)}  # colour of each class that occurs
SIZES = ((64, 64), (56, 64), (64, 48), (60, 52))  # (height, width), in turn


def voc_palette() -> list[int]:
    """Return the 256 colours of VOC's masks: the bits of a number, spread over red, green and blue."""
    colours = []
    for number in range(256):
        red = green = blue = 0
        for bit in range(8):
            red |= (number >> (3 * bit) & 1) << (7 - bit)
            green |= (number >> (3 * bit + 1) & 1) << (7 - bit)
            blue |= (number >> (3 * bit + 2) & 1) << (7 - bit)
        colours += [red, green, blue]
    return colours


def scene(seed: int, height: int = 64, width: int = 64) -> tuple[Image.Image, Image.Image]:
    """Return an image of two coloured boxes on noise, and its mask with ignored pixels around each box."""
    random = np.random.default_rng(seed)
    image = random.integers(90, 130, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), dtype=np.uint8)
    labels = list(PAINT)
    for place in range(2):
        label = labels[(seed + place) % len(labels)]
        top, left = int(random.integers(2, height // 4)), 3 + place * (width // 2)
        bottom, right = top + height // 2, left + width // 3
        image[top:bottom, left:right] = PAINT[label]
        mask[top - 1 : bottom + 1, left - 1 : right + 1] = 255
        mask[top:bottom, left:right] = label
    labelled = Image.fromarray(mask)
    labelled.putpalette(voc_palette())  # which makes a grey image one with a palette, its numbers unchanged
    return Image.fromarray(image), labelled


def write_voc(root: Path, lists: dict[str, int], *, place: str = "VOCdevkit/VOC2012") -> Path:
    """Write as many images as ``lists`` says of each list, named ``2007_000001`` and so on; return their folder."""
    tree = root / place
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    number = 0
    for listed, count in lists.items():
        names = []
        for _ in range(count):
            image, mask = scene(number, *SIZES[number % len(SIZES)])
            names.append(f"2007_{number:06}")
            image.save(tree / "JPEGImages" / f"{names[-1]}.jpg", quality=95)
            mask.save(tree / "SegmentationClass" / f"{names[-1]}.png")
            number += 1
        (tree / "ImageSets/Segmentation" / f"{listed}.txt").write_text("".join(f"{name}\n" for name in names))
    return tree
