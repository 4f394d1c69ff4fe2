"""The versions, threads and devices that decide whether a run can be repeated bit for bit."""

import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import ConfigDict

from secateur.record.measurements import STRICT


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where a run ran. Two runs in equal environments on a CPU give equal bits."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    secateur: str
    torch: str
    python: str
    platform: str
    cpu: str
    threads: int  # of one torch operator
    device: str
    world_size: int = 1

    def differences(self, other: "Environment") -> tuple[str, ...]:
        """Return a text such as ``"threads 2 → 1"`` for each value changed from ``self`` to ``other``."""
        names = ("secateur", "torch", "python", "platform", "cpu", "threads", "device", "world_size")
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in names)
        return tuple(f"{name} {before} → {after}" for name, before, after in pairs if before != after)


def environment(device: torch.device | str = "cpu", *, world_size: int = 1) -> Environment:
    """Return the environment of this process.

    Args:
        device: the device that the run computes on; for a GPU its name is recorded with it.
        world_size: number of processes that train together.
    """
    place = torch.device(device)
    name = str(place)
    if place.type == "cuda":
        name = f"{place.type} ({torch.cuda.get_device_name(place)})"
    return Environment(
        secateur=_version("secateur"),
        torch=torch.__version__,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        cpu=_cpu_model(),
        threads=torch.get_num_threads(),
        device=name,
        world_size=world_size,
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a folder without being installed
        return "unknown"


def _cpu_model() -> str:
    """Return the processor's own name; platform.processor() is empty on most Linux systems."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
