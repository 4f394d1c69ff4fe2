"""Downloads from a server on this machine: slow, interrupted by a real Ctrl-C, cut short, or of other files."""

import gc
import gzip
import hashlib
import io
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from secateur.data import load_data
from secateur.errors import DataError
from secateur.torchvision_shim import import_torchvision

pytestmark = [
    pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed"),
    # The downloader leaves connections that failed to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

CHILD = """
import json, sys
from pathlib import Path
from secateur.data import load_data
from secateur.torchvision_shim import import_torchvision
name, root, published = sys.argv[1:]
readers = import_torchvision().datasets
for reader, changes in json.loads(published).items():
    for attribute, value in changes.items():
        setattr(getattr(readers, reader), attribute, value)
load_data(name, root=root, download=True)
"""


class Server(ThreadingHTTPServer):
    """Serves ``files``; of the one called ``stalled`` only a half, until ``go_on`` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.stalled: str | None = None
        self.cut_short: str | None = None
        self.begun, self.go_on = threading.Event(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        content = self.answer()
        name = self.path.lstrip("/")
        half = len(content) // 2
        if name == self.server.cut_short:
            self.wfile.write(content[:half])
        elif name == self.server.stalled:
            self.wfile.write(content[:half])
            self.wfile.flush()
            self.server.begun.set()
            self.server.go_on.wait(60)
        else:
            self.wfile.write(content)

    def answer(self) -> bytes:
        content = self.server.files.get(self.path.lstrip("/"))
        self.send_response(200 if content is not None else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        return content or b""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    made.go_on.set()
    made.shutdown()
    thread.join()
    made.server_close()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def publish_mnist(server: Server, reader: str = "MNIST") -> dict[str, dict[str, object]]:
    """Put 20 + 10 images on the server and return what the reader must believe of them."""
    for part, count in (("train", 20), ("t10k", 10)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8).tobytes()
        images = struct.pack(">IIII", 2051, count, 28, 28) + pixels
        labels = struct.pack(">II", 2049, count) + bytes(row % 10 for row in range(count))
        server.files[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(images)
        server.files[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(labels)
    resources = [(name, md5(content)) for name, content in server.files.items()]
    return {reader: {"mirrors": [server.url], "resources": resources}}


def publish_cifar100(server: Server) -> dict[str, dict[str, object]]:
    rows = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    names = [f"class {number}" for number in range(100)]
    contents = {
        "train": pickle.dumps({"data": rows, "fine_labels": [0, 1, 2, 3, 4, 99]}),
        "test": pickle.dumps({"data": rows[:2], "fine_labels": [5, 6]}),
        "meta": pickle.dumps({"fine_label_names": names}),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    server.files["cifar-100-python.tar.gz"] = buffer.getvalue()
    sums = {name: md5(content) for name, content in contents.items()}
    return {
        "CIFAR100": {
            "url": f"{server.url}cifar-100-python.tar.gz",
            "tgz_md5": md5(buffer.getvalue()),
            "train_list": [["train", sums["train"]]],
            "test_list": [["test", sums["test"]]],
            "meta": {"filename": "meta", "key": "fine_label_names", "md5": sums["meta"]},
        }
    }


def start(name: str, root: Path, published: object) -> "subprocess.Popen[str]":
    environment = {**os.environ, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, name, str(root), json.dumps(published)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


Run = Callable[[str, Path, dict[str, dict[str, object]]], str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """What downloads in this process, and says how much data came."""

    def load(name: str, root: Path, published: dict[str, dict[str, object]]) -> str:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        for reader, changes in published.items():
            for attribute, value in changes.items():
                monkeypatch.setattr(getattr(import_torchvision().datasets, reader), attribute, value)
        data = load_data(name, root=root, download=True, validation_share=0.0)
        return f"{data.size('train')} {data.size('test')}"

    yield load
    gc.collect()


def half_a_file_lies_under(root: Path, process: "subprocess.Popen[str]") -> None:
    """Wait for it."""
    limit = time.monotonic() + 60
    while not (root.exists() and files_under(root)) and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    assert process.poll() is None


def files_under(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


RAW = sorted(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


@pytest.mark.parametrize("stalled", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_ctrl_c_leaves_nothing_and_the_next_run_works(server: Server, run: Run, tmp_path: Path, stalled: str) -> None:
    published = publish_mnist(server)
    server.stalled = stalled
    root = tmp_path / "new" / "root"
    process = start("mnist", root, published)
    assert server.begun.wait(60), process.communicate()
    half_a_file_lies_under(root, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in err
    assert out == ""
    assert list(root.iterdir()) == []

    server.stalled = None
    assert run("mnist", root, published) == "20 10"
    assert files_under(root) == [f"MNIST/raw/{name}" for name in RAW]


def test_what_a_killed_download_left_is_not_taken_for_data(server: Server, run: Run, tmp_path: Path) -> None:
    published = publish_mnist(server, "FashionMNIST")
    server.stalled = "train-labels-idx1-ubyte.gz"
    process = start("fashion-mnist", tmp_path, published)
    assert server.begun.wait(60), process.communicate()
    half_a_file_lies_under(tmp_path, process)
    process.kill()
    process.communicate(timeout=60)
    assert files_under(tmp_path)
    assert not (tmp_path / "FashionMNIST").exists()
    server.stalled = None
    assert run("fashion-mnist", tmp_path, published) == "20 10"
    assert [path.name for path in tmp_path.iterdir()] == ["FashionMNIST"]  # what it left is gone


def test_a_download_that_still_runs_keeps_its_folder(server: Server, run: Run, tmp_path: Path) -> None:
    published = publish_mnist(server)
    server.stalled = "train-labels-idx1-ubyte.gz"
    process = start("mnist", tmp_path, published)
    assert server.begun.wait(60), process.communicate()
    half_a_file_lies_under(tmp_path, process)
    held = list(tmp_path.glob(".download-*"))
    assert len(held) == 1
    assert run("cifar100", tmp_path, publish_cifar100(server)) == "6 2"
    assert list(tmp_path.glob(".download-*")) == held
    assert process.poll() is None
    process.kill()
    process.communicate(timeout=60)
    (tmp_path / "cifar-100-python" / "meta").unlink()
    assert run("cifar100", tmp_path, publish_cifar100(server)) == "6 2"
    assert not list(tmp_path.glob(".download-*"))


def test_damaged_files_are_fetched_again_and_whole_ones_are_not(server: Server, run: Run, tmp_path: Path) -> None:
    published = publish_mnist(server)
    assert run("mnist", tmp_path, published) == "20 10"
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    assert run("mnist", tmp_path, published) == "20 10"
    assert file.read_bytes() == whole
    server.files.clear()  # nothing more can be had, and nothing need be
    assert run("mnist", tmp_path, published) == "20 10"


def test_an_archive_is_unpacked_and_not_kept(server: Server, run: Run, tmp_path: Path) -> None:
    assert run("cifar100", tmp_path, publish_cifar100(server)) == "6 2"
    assert files_under(tmp_path) == [f"cifar-100-python/{name}" for name in ("meta", "test", "train")]


@pytest.mark.parametrize("fault", ["short", "other", "absent"])
@pytest.mark.parametrize("name", ["mnist", "cifar100"])
def test_what_is_not_what_was_published_is_one_sentence(
    server: Server, run: Run, tmp_path: Path, name: str, fault: str
) -> None:
    published = publish_mnist(server) if name == "mnist" else publish_cifar100(server)
    file = "train-images-idx3-ubyte.gz" if name == "mnist" else "cifar-100-python.tar.gz"
    if fault == "short":
        server.cut_short = file
    elif fault == "other":
        server.files[file] = b"a page that asks for a password"
    else:
        del server.files[file]
    with pytest.raises(DataError, match=r"cannot be downloaded.*try again, or put ") as caught:
        run(name, tmp_path, published)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_cannot_be_written_is_one_sentence(server: Server, run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"^cannot write MNIST to "):
        run("mnist", tmp_path / "file", publish_mnist(server))
