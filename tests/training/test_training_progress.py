import io
import re

import pytest
from synthetic_data import SyntheticData, small_cnn

from secateur.training import Quiet, SupervisedTask, TrainSettings, progress_for
from secateur.training.progress import LiveBar, PlainLines


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_stream_decides() -> None:
    assert isinstance(progress_for(io.StringIO()), PlainLines)
    assert isinstance(progress_for(Terminal()), LiveBar)
    assert isinstance(progress_for(Terminal(), quiet=True), Quiet)


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_every_epoch_leaves_one_line(stream: io.StringIO) -> None:
    task = SupervisedTask(
        SyntheticData(), settings=TrainSettings(batch_size=8), device="cpu", progress=progress_for(stream)
    )
    task.train(small_cnn(), epochs=2)
    text = stream.getvalue()
    for epoch in ("epoch 1/2", "epoch 2/2"):
        assert len(re.findall(rf"{epoch}  loss \S+  lr", text)) == 1
    assert "images/s" in text
    assert "validation top-1" in text


def test_training_itself_prints_nothing(capsys) -> None:
    SupervisedTask(SyntheticData(), device="cpu").train(small_cnn(), epochs=1)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_progress_is_asked_for_by_time_not_by_step() -> None:
    calls = 0

    class Count(Quiet):
        def advance(self, done: int, *, epoch: int, loss: float, images_per_s: float) -> None:
            nonlocal calls
            calls += 1

    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.01
        return now

    settings = TrainSettings(batch_size=2, evaluate_every=0)
    task = SupervisedTask(SyntheticData(train=200), settings=settings, device="cpu", progress=Count(), clock=clock)
    task.train(small_cnn(), epochs=1)
    assert 4 <= calls <= 6  # 100 steps of 0.01 s, looked at every 0.25 s
