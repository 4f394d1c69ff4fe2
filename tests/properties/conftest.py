"""One thread, and hypothesis without a clock, a database or chance: the same examples on every run."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from hypothesis.configuration import set_hypothesis_home_dir

set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "secateur-hypothesis")  # nothing is kept beside the code

_ALIKE = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "suppress_health_check": tuple(hypothesis.HealthCheck),
}

hypothesis.settings.register_profile("networks", max_examples=50, **_ALIKE)
hypothesis.settings.register_profile("many-networks", max_examples=2000, **_ALIKE)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
