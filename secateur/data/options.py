"""What a caller may say about any data set, whatever it is."""

from dataclasses import dataclass
from pathlib import Path

from secateur.data.normalization import Normalization

GIBIBYTE = 2**30


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Settings shared by all readers; a reader uses those that concern it."""

    root: Path = Path("data")  # folder under which mnist and cifar10 lie
    validation_share: float = 0.1  # of train, in [0, 1)
    split_seed: int = 0
    normalization: Normalization | None = None  # None: what suits the data set
    download: bool = False
    allow_code: bool = True
    workers: int = 2  # reading processes of data that streams
    memory_limit_bytes: int = 2 * GIBIBYTE  # of decoded pixels; larger data streams
