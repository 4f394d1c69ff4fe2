"""``OpenVinoModel``: an ONNX file in OpenVINO, in a process of its own, because OpenVINO has crashed on valid files."""

import contextlib
import importlib.util
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from secateur.errors import ArtifactError, ExportError
from secateur.tensor_file import shown

_CHILD = Path(__file__).with_name("openvino_child.py")


def require_openvino() -> None:
    """See that the package is there, without importing it into this process.

    Raises:
        ExportError: it is not installed.
    """
    if importlib.util.find_spec("openvino") is None:
        raise ExportError("openvino is not installed; run pip install 'secateur[openvino]'")


class OpenVinoModel:
    """An ONNX file that OpenVINO has compiled for the CPU; a context manager that ends the process.

    Attributes:
        path: of the file.
        version: of OpenVINO.
        threads: that it may use.
        precision: of what is not in integers, as OpenVINO reports it: ``f32`` unless another one was asked for. Left
            to itself it takes bf16 on processors that have it, which is twice as fast and less exact.
        convolutions: in the compiled model.
        integer_convolutions: those of them that run in integers.
    """

    def __init__(
        self, path: Path | str, *, threads: int = 1, precision: str = "f32", timeout_seconds: float = 300
    ) -> None:
        """Start the process and compile ``path``.

        Args:
            path: of an ONNX file.
            threads: that OpenVINO may use.
            precision: of what is not in integers: ``f32``, ``bf16`` or ``f16``.
            timeout_seconds: that compiling, or any one order, may take.

        Raises:
            ArtifactError: OpenVINO refuses the file, crashes on it, or is not done in time.
            ExportError: OpenVINO is not installed.
        """
        require_openvino()
        self.path, self.threads, self._timeout = Path(path), threads, timeout_seconds
        if not self.path.is_file():
            raise ArtifactError(f"the ONNX file {path} does not exist; give the path of a .onnx file")
        self._folder = tempfile.TemporaryDirectory()
        # -P: the folder of the script must not hide packages.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            told = self._ask("compiling", do="load", path=str(self.path), threads=threads, precision=precision)
        except BaseException:
            self.close()
            raise
        self.version, self.precision = str(told["version"]), str(told["precision"])
        self.convolutions, self.integer_convolutions = int(told["convolutions"]), int(told["integer_convolutions"])

    def run(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return all outputs for all inputs.

        Raises:
            ArtifactError: OpenVINO refuses them, crashes, or is not done in time.
        """
        outputs = Path(self._folder.name, "outputs.npz")
        self._ask("running", do="run", inputs=self._given(tensors), outputs=str(outputs))
        with np.load(outputs) as arrays:
            return tuple(torch.from_numpy(arrays[name]) for name in arrays.files)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the first output for the one input."""
        return self.run(images)[0]

    def time_ms(self, *tensors: Tensor, repeats: int = 1) -> list[float]:
        """Return how long each of ``repeats`` runs took, in milliseconds, without the way to the process and back.

        Raises:
            ArtifactError: OpenVINO refuses the inputs, crashes, or is not done in time.
        """
        return [
            float(entry)
            for entry in self._ask("running", do="time", inputs=self._given(tensors), repeats=repeats)["timings_ms"]
        ]

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _given(self, tensors: tuple[Tensor, ...]) -> list[str]:
        names = []
        for place, tensor in enumerate(tensors):
            name = Path(self._folder.name, f"input{place}.npy")
            np.save(name, tensor.detach().cpu().contiguous().numpy())
            names.append(str(name))
        return names

    def _ask(self, doing: str, **order: Any) -> dict[str, Any]:
        try:
            if self._process.stdin is None:
                raise BrokenPipeError
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=self._timeout)
        except queue.Empty:
            self._process.kill()
            raise ArtifactError(
                f"OpenVINO was not done {doing} {self.path} after {self._timeout:g} s and was stopped; "
                "use ONNX Runtime, or allow more time"
            ) from None
        except (OSError, ValueError):  # it is dead, or was closed
            line = ""
        if not line:
            raise ArtifactError(
                f"OpenVINO crashed {doing} {self.path} ({self._death()}); use ONNX Runtime for this file"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ArtifactError(f"OpenVINO failed {doing} {self.path}: {shown(answer['error'], 200)}")
        return answer

    def _death(self) -> str:
        code = self._process.wait()
        if code < 0:
            with contextlib.suppress(ValueError):
                return signal.Signals(-code).name
        return f"exit code {code}"

    def _listen(self) -> None:
        """Hand on answers; an empty line says that the process has ended."""
        with contextlib.suppress(ValueError):  # closed meanwhile
            for line in self._process.stdout or ():
                self._answers.put(line)
        self._answers.put("")
