"""Walking through a tree of image files: which files count, and which links are followed."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


def is_image(name: str) -> bool:
    """Return whether a file of this name counts: it has an image format's suffix and is not hidden."""
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def image_entries(folder: str, above: tuple[str, ...] = ()) -> Iterator["os.DirEntry[str]"]:
    """Yield every image below ``folder`` in the order of names; links are followed, but not back to where they lie.

    Args:
        folder: where to look.
        above: real paths of the folders that were gone through to get here.

    Raises:
        OSError: a folder cannot be read.
    """
    above = (*above, os.path.realpath(folder))
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            if not leads_back(entry, above):
                yield from image_entries(entry.path, above)
        elif is_image(entry.name):
            yield entry


def leads_back(entry: "os.DirEntry[str] | Path", above: Sequence[str]) -> bool:
    """Return whether ``entry`` is a link to one of the folders ``above`` or to what holds it, so without an end."""
    if not entry.is_symlink():
        return False
    real = Path(os.path.realpath(entry))
    return any(Path(folder).is_relative_to(real) for folder in above)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
