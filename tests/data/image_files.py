"""Small trees of real image files, as the tests need them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 8, height: int = 8, mode: str = "RGB") -> Image.Image:
    """Return noise that depends on ``seed`` alone."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def encoded(seed: int, width: int = 8, height: int = 8, mode: str = "RGB", kind: str = "PNG") -> bytes:
    """Return :func:`picture` as the content of a file."""
    buffer = io.BytesIO()
    picture(seed, width, height, mode).save(buffer, format=kind)
    return buffer.getvalue()


def save(path: Path, seed: int, width: int = 8, height: int = 8, mode: str = "RGB") -> Path:
    """Write :func:`picture` in the format of the path's suffix; CMYK only as JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, width, height, mode).save(path)
    return path


def tree(folder: Path, splits: dict[str, int], classes: tuple[str, ...] = ("ant", "bee", "cow"), side: int = 8) -> Path:
    """Write ``splits`` images per class and split, as PNG: ``folder/split/class/number.png``."""
    for place, (split, count) in enumerate(splits.items()):
        for label, name in enumerate(classes):
            for number in range(count):
                save(folder / split / name / f"{number}.png", 100 * place + 10 * label + number, side, side)
    return folder


def photo_tree(folder: Path, splits: dict[str, int], classes: tuple[str, ...] = ("ant", "bee", "cow")) -> Path:
    """Write JPEG images, each of another size: ``folder/split/class/number.JPEG``."""
    for place, (split, count) in enumerate(splits.items()):
        for label, name in enumerate(classes):
            for number in range(count):
                seed = 100 * place + 10 * label + number
                save(folder / split / name / f"{number}.JPEG", seed, 100 + 3 * number + label, 120 - 5 * number)
    return folder
