"""One finished run of the command, which many tests look at, and the dense weights that it started from."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from cli_command import ODD_MODELS, Ran, run
from safetensors.torch import save_file
from torch.nn import functional as F

from secateur.data import load_data
from secateur.models import build_model

TOY = Path(__file__).with_name("cli_toy.py")


@dataclass(frozen=True)
class Finished:
    """A run directory, the words that made it, and what they printed."""

    folder: Path
    words: tuple[str, ...]
    ran: Ran


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of ``odd_models.py`` as a user's ``mine.py``."""
    path = tmp_path_factory.mktemp("code") / "mine.py"
    path.write_text(ODD_MODELS.read_text())
    return path


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained weights of ``cli_toy.py:network``."""
    torch.manual_seed(0)
    model, data = build_model(f"{TOY}:network"), load_data(f"{TOY}:data")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(12):
        for images, labels in data.batches("train", batch_size=32, seed=epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    path = tmp_path_factory.mktemp("weights") / "toy.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def job(weights: Path) -> tuple[str, ...]:
    """The words of a quick prune job, without its folder."""
    network = ("--model", f"{TOY}:network", "--weights", str(weights))
    return ("prune", *network, "--data", f"{TOY}:data", "--macs", "0.5", "--epochs", "2", "--batch-size", "32", "-q")


@pytest.fixture(scope="session")
def finished(job: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("runs") / "toy"
    words = (*job, "--out", str(folder))
    return Finished(folder, words, run(*words))
