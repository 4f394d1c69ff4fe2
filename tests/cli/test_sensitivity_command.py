"""``secateur sensitivity``: what it writes, that it continues and repeats, and what it refuses."""

import importlib.util
import io
import json
import shlex
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli_command import Ran, forked, refused, run, start

from secateur.cli.sensitivity import ScanBar, ScanLines
from secateur.measure import read_sensitivity

TOY = Path(__file__).with_name("cli_toy.py")


@dataclass(frozen=True)
class Scan:
    folder: Path
    words: tuple[str, ...]
    ran: Ran


@pytest.fixture(scope="module")
def job(weights: Path) -> tuple[str, ...]:
    network = ("sensitivity", "--model", f"{TOY}:network", "--weights", str(weights))
    return (*network, "--data", f"{TOY}:data", "--validation-share", "0.3", "--threads", "1")


@pytest.fixture(scope="module")
def scan(job: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Scan:
    pytest.importorskip("matplotlib", reason="the curves are drawn by it")
    folder = tmp_path_factory.mktemp("scans") / "toy"
    words = (*job, "--shares", "25%,0.5,0.75", "--out", str(folder))
    return Scan(folder, words, run(*words))


def test_it_writes_the_scan_and_its_figure(scan: Scan) -> None:
    assert scan.ran.code == 0, scan.ran.err
    assert {path.name for path in scan.folder.iterdir()} - {".lock"} == {
        "sensitivity.json",
        "sensitivity.svg",
        "sensitivity.png",
        "checkpoint",
    }
    found = read_sensitivity(scan.folder / "sensitivity.json")
    assert found.shares == (0.25, 0.5, 0.75)
    assert [(group.name, group.size, group.tied) for group in found.groups] == [("0", 8, False), ("3", 12, False)]
    assert [[point.kept for point in group.points] for group in found.groups] == [[6, 4, 2], [9, 6, 3]]
    assert found.dense.samples == 48
    assert found.dense.top1 > 0.8
    assert found.split == "validation"
    assert found.settings["criterion"] == "l1"
    assert found.command[:2] == ("secateur", "sensitivity")
    assert found.environment is not None
    assert found.notes == ()
    assert "output of the model" in found.left_out.values()
    # The deepest cuts of this small network cannot be free.
    assert min(point.evaluation.top1 for group in found.groups for point in group.points) < found.dense.top1


def test_the_table_names_the_groups_and_the_files(scan: Scan) -> None:
    lines = scan.ran.out.splitlines()
    assert lines[0].startswith("Sensitivity: each group alone, 50 % of its units removed")
    assert {line.split()[0] for line in lines[3:5]} == {"0", "3"}
    assert str(scan.folder / "sensitivity.json") in scan.ran.out
    assert "group 2 of 2, 3: done" in scan.ran.err


def test_the_same_command_reads_the_scan_back(scan: Scan) -> None:
    before = {path: path.stat().st_mtime_ns for path in scan.folder.rglob("*")}
    again = run(*scan.words)
    assert again.code == 0
    assert "this scan was complete already; nothing was measured" in again.out
    assert scan.ran.out in again.out
    assert again.err == ""
    assert {path: path.stat().st_mtime_ns for path in scan.folder.rglob("*")} == before
    shown = run(*scan.words, "--json")
    assert json.loads(shown.out) == json.loads((scan.folder / "sensitivity.json").read_text())
    assert run(*scan.words, "--at", "0.75").out.splitlines()[2].startswith("Sensitivity: each group alone, 75 %")


def test_a_lost_figure_is_drawn_again_in_the_same_bytes(scan: Scan) -> None:
    kept = (scan.folder / "sensitivity.svg").read_bytes()
    (scan.folder / "sensitivity.svg").unlink()
    assert run(*scan.words).code == 0
    assert (scan.folder / "sensitivity.svg").read_bytes() == kept


def test_another_scan_in_the_folder_is_refused_by_its_first_difference(scan: Scan, tmp_path: Path) -> None:
    refused(run(*scan.words, "--criterion", "l2"), str(scan.folder), "criterion = l1", "l2", "--force")
    refused(run(*scan.words, "--shares", "0.5"), "shares = [0.25, 0.5, 0.75]", "[0.5]")
    refused(run(*scan.words, "--limit", "20"), "limit = None", "20")
    refused(run(*scan.words, "--group", "0"), "groups = []", "['0']")
    folder = shutil.copytree(scan.folder, tmp_path / "scan")
    (folder / "mine.txt").write_text("stays")
    words = [str(folder) if word == str(scan.folder) else word for word in scan.words]
    refused(run(*words, "--group", "9", "--force"), "unknown group '9'")  # and the old scan is still there
    assert len(read_sensitivity(folder / "sensitivity.json").groups) == 2
    over = run(*words, "--group", "3", "--limit", "20", "--force")
    assert over.code == 0, over.err
    found = read_sensitivity(folder / "sensitivity.json")
    assert [group.name for group in found.groups] == ["3"]
    assert found.dense.samples == 20
    assert (folder / "mine.txt").read_text() == "stays"
    assert "--force" not in found.command


def test_training_samples_may_decide_and_the_draw_follows_the_seed(job: tuple[str, ...], tmp_path: Path) -> None:
    found = []
    for seed in ("0", "0", "1"):
        folder = tmp_path / str(len(found))
        words = ("--split", "train", "--limit", "30", "--shares", "0.75", "--seed", seed, "-q", "--out", folder)
        ran = run(*job, *words)
        assert ran.code == 0, ran.err
        assert ran.err == ""
        found.append(read_sensitivity(folder / "sensitivity.json"))
    assert found[0].dense.samples == 30
    assert found[0].split == "train"
    assert found[0].dense == found[1].dense
    assert found[0].groups == found[1].groups
    assert found[0].dense.loss != found[2].dense.loss


def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    job: tuple[str, ...], weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scan"
    words = (*job, "--out", str(out))
    refused(run(*words, "--split", "test"), "test", "validation", "secateur sensitivity --help")
    refused(run(*words, "--shares", "0.5,much"), "'much' in --shares '0.5,much' is no number")
    refused(run(*words, "--shares", "0.5,1.5"), "a share to remove is 1.5", "below 1")
    refused(run(*words, "--shares", ""), "is no number")
    refused(run(*words, "--at", "0.45"), "0.45", "0.1, 0.2")
    refused(run(*words, "--criterion", "l3"), "unknown criterion 'l3'")
    refused(run(*words, "--group", "9"), "unknown group '9'")
    refused(run(*words, "--group", "8"), "group '8' cannot be cut: output of the model")
    refused(run(*words, "--limit", "49"), "the limit is 49 samples, but the validation split has 48")
    refused(run(*words, "--validation-share", "0"), "the validation split of", "--validation-share 0")
    refused(
        run("sensitivity", "--model", f"{TOY}:network", "--data", f"{TOY}:data", "--out", out),
        "no weights",
        "--weights",
    )
    refused(run(*words, "--weights", tmp_path / "none.safetensors"), "there is no weight file")
    refused(run(*words, "--data", f"{TOY}:many_classes"), "the model has 3 outputs, but the data has 10 classes")
    refused(run(*words, "--data", f"{TOY}:colour"), "3×9×9", "does not run on")
    tuples = ("sensitivity", "--model", f"{TOY}:dict_network", "--weights", str(weights), "--data", f"{TOY}:data")
    refused(run(*tuples, "--out", out))
    assert not out.exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    for extra in ((), ("--force",)):
        refused(run(*job, "--out", tmp_path / "thesis", *extra), "holds no sensitivity scan (thesis.tex)")
    refused(run(*job, "--out", tmp_path / "thesis" / "thesis.tex"), "is a file")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]


def test_without_matplotlib_the_numbers_are_written_and_a_note_says_what_to_install(
    job: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    words = (*job, "--shares", "0.5", "--out", tmp_path / "scan", "-q")
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
        ran = run(*words)
    assert ran.code == 0, ran.err
    assert "pip install 'secateur[report]'" in ran.out
    assert {path.name for path in (tmp_path / "scan").iterdir()} - {".lock"} == {"sensitivity.json", "checkpoint"}
    pytest.importorskip("matplotlib", reason="the curves are drawn by it")
    later = run(*words)
    assert "complete already" in later.out
    assert (tmp_path / "scan" / "sensitivity.png").is_file()


def test_ctrl_c_prints_the_command_that_continues(weights: Path, tmp_path: Path) -> None:
    code = tmp_path / "slow.py"
    code.write_text(
        "import time\nfrom pathlib import Path\nfrom torch import nn\n"
        "class Slow(nn.Module):\n"
        "    def forward(self, x):\n"
        f"        if len(x) > 2 and not Path({str(tmp_path / 'fast')!r}).exists():\n"
        "            time.sleep(0.3)\n"
        "        return x\n"
        "def network():\n"
        "    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),\n"
        "        nn.Conv2d(8, 12, 3, padding=1, stride=2), nn.BatchNorm2d(12), nn.ReLU(),\n"
        "        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3), Slow())\n"
    )
    folder = tmp_path / "scan"
    job = ("sensitivity", "--model", f"{code}:network", "--weights", weights, "--data", f"{TOY}:data", "--threads", "1")
    process = start(*job, "--out", folder, "--force")
    first = folder / "checkpoint" / "data" / "sensitivity-0000.safetensors"
    limit = time.monotonic() + 100
    while not first.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    printed = err.splitlines()[-1]
    assert printed.startswith("stopped; continue with: python -m secateur sensitivity ")
    assert not (folder / "sensitivity.json").exists()

    (tmp_path / "fast").touch()
    words = shlex.split(printed.partition("python -m secateur ")[2])
    assert "--force" not in words
    again = forked(*words, "--threads", "2")
    assert again.code == 0, again.err
    found = read_sensitivity(folder / "sensitivity.json")
    assert len(found.groups) == 2
    assert found.notes == ("continued in another environment: threads 1 → 2",)
    assert "threads 1 → 2" in again.out


def test_progress_in_a_pipe_estimates_by_what_was_measured_now() -> None:
    stream, now = io.StringIO(), [100.0]
    lines = ScanLines(stream, clock=lambda: now[0])
    lines.begins(groups=3, points=6)
    lines.point(new=False)
    lines.point(new=False)
    lines.group_ends("a", points=2, refused=None)
    lines.point(new=True)
    lines.point(new=True)
    now[0] += 100.0
    lines.group_ends("b", points=2, refused=None)
    lines.group_ends("c", points=2, refused="it is odd")
    lines.ends()
    assert stream.getvalue().splitlines() == [
        "scanning 3 groups of channels: 6 evaluations, and one of the dense model",
        "group 1 of 3, a: done",
        "group 2 of 3, b: done; about 2 min left",
        "group 3 of 3, c: left out, it is odd",
    ]


def test_progress_in_a_terminal_keeps_what_was_left_out() -> None:
    stream = io.StringIO()
    bar = ScanBar(stream)
    bar.begins(groups=2, points=3)
    bar.point(new=True)
    bar.group_ends("a", points=1, refused=None)
    bar.group_ends("b", points=2, refused="[odd] code")
    bar.ends()
    bar.ends()
    assert "b is left out: [odd] code" in stream.getvalue()


def test_force_starts_over_where_the_checkpoint_is_damaged(job: tuple[str, ...], tmp_path: Path) -> None:
    words = (*job, "--shares", "0.5", "--limit", "20", "-q", "--out", tmp_path / "scan")
    assert run(*words).code == 0
    settings = tmp_path / "scan" / "checkpoint" / "data" / "settings.safetensors"
    settings.write_bytes(settings.read_bytes()[:20])
    refused(run(*words), "settings.safetensors is corrupt")
    over = run(*words, "--force")
    assert over.code == 0, over.err
    assert "complete already" in run(*words).out
