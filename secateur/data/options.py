"""What a caller may say about any data set, whatever it is."""

from dataclasses import dataclass
from pathlib import Path

from secateur.data.augment import Augmentation
from secateur.data.framing import Framing
from secateur.data.normalization import Normalization
from secateur.data.resizing import Resizing

GIBIBYTE = 2**30


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Settings shared by all readers; a reader uses those that concern it."""

    root: Path = Path("data")  # folder under which the data sets that have a name of their own lie
    validation_share: float = 0.1  # of train, in [0, 1)
    split_seed: int = 0
    normalization: Normalization | None = None  # None: what suits the data set
    augmentation: Augmentation | Resizing | None = None  # None: what suits the data set
    framing: Framing | None = None  # of images with their masks; None: what suits the data set
    download: bool = False
    allow_code: bool = True
    workers: int = 2  # reading processes of data that streams
    memory_limit_bytes: int = 2 * GIBIBYTE  # of decoded pixels, and of encoded images; larger data streams
