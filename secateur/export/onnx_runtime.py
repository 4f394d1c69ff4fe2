"""Run an ONNX file in ONNX Runtime."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from secateur.errors import ArtifactError, ExportError
from secateur.export.header import Preprocessing, preprocessing_from_json
from secateur.tensor_file import parse_json, shown

ONNX_FORMAT = "secateur-onnx"
ONNX_VERSION = "1"
PREPROCESSING_KEY = "secateur.preprocessing"


def require_onnx() -> tuple[ModuleType, ModuleType]:
    """Return the packages ``onnx`` and ``onnxruntime``.

    Raises:
        ExportError: one of them, or onnxscript, is not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (what torch's exporter is written in)
    except ImportError as error:
        raise ExportError(f"{error.name or 'onnx'} is not installed; run pip install 'secateur[onnx]'") from error
    return onnx, onnxruntime


def session_options(threads: int) -> Any:
    """Return the settings of a session in which one operator may use ``threads`` threads, and one runs at a time."""
    _, onnxruntime = require_onnx()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, not printed
    return options


class OnnxModel:
    """An ONNX file with its weights inside, run on the CPU; called with a batch it returns logits.

    Attributes:
        path: of the file.
        threads: that one operator may use.
        input_names: in the order of the file.
        input_shapes: of each input; None where a size is free.
        output_names: in the order of the file.
        providers: what runs it, as ONNX Runtime names it.
    """

    def __init__(self, path: Path | str, *, threads: int = 1) -> None:
        """Load ``path``; ``threads`` are those of ONNX Runtime, whatever torch uses.

        Raises:
            ArtifactError: the file is missing, corrupt, has weights in other files, or cannot be run.
            ExportError: the packages are not installed.
        """
        onnx, onnxruntime = require_onnx()
        self.path = Path(path)
        self.threads = threads
        _refuse_other_files(onnx, self.path)
        options = session_options(threads)
        with _as_artifact_error(f"{self.path} cannot be loaded by ONNX Runtime"):
            self._session: Any = onnxruntime.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"]
            )
            self._metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.input_names = tuple(entry.name for entry in self._session.get_inputs())
        self.input_shapes = tuple(
            tuple(size if isinstance(size, int) else None for size in entry.shape)
            for entry in self._session.get_inputs()
        )
        self.output_names = tuple(entry.name for entry in self._session.get_outputs())
        self.providers = tuple(self._session.get_providers())

    @property
    def metadata(self) -> Mapping[str, str]:
        """The strings in the file's ``metadata_props``."""
        return dict(self._metadata)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How an image becomes an input, or None where the file does not say.

        Raises:
            ArtifactError: what the file says is malformed.
        """
        text = self._metadata.get(PREPROCESSING_KEY)
        if text is None:
            return None
        what = f"{PREPROCESSING_KEY!r} of {self.path}"
        parse_json(text, what)
        return preprocessing_from_json(text, what)

    def run(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return all outputs for all inputs, on the CPU.

        Raises:
            ArtifactError: ONNX Runtime refuses them.
        """
        if len(tensors) != len(self.input_names):
            raise ArtifactError(f"{self.path} takes {len(self.input_names)} inputs, but {len(tensors)} were given")
        arrays = (tensor.detach().to("cpu").contiguous().numpy() for tensor in tensors)
        feed = dict(zip(self.input_names, arrays, strict=True))
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        with _as_artifact_error(f"{self.path} cannot be run on inputs of shape {shapes}"):
            return tuple(torch.from_numpy(array) for array in self._session.run(None, feed))

    def __call__(self, images: Tensor) -> Tensor:
        """Return the one output for the one input, such as logits (N, classes) for images (N, C, H, W).

        Raises:
            ArtifactError: the file has several outputs, or cannot be run on ``images``.
        """
        outputs = self.run(images)
        if len(outputs) != 1:
            raise ArtifactError(
                f"{self.path} has {len(outputs)} outputs ({', '.join(self.output_names)}), but one is wanted; "
                "use run() and choose"
            )
        return outputs[0]


def _refuse_other_files(onnx: ModuleType, path: Path) -> None:
    """A file may name other files for its weights, anywhere; ours have everything inside."""
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise ArtifactError(f"the ONNX file {path} {kind}; give the path of a .onnx file")
    with _as_artifact_error(f"{path} is truncated or not an ONNX file"):
        proto = onnx.load(str(path), load_external_data=False)
    if not proto.graph.output:
        raise ArtifactError(f"{path} is empty or not an ONNX model: it has no outputs; export it again")
    held = onnx.external_data_helper._get_all_tensors(proto)
    outside = [tensor.name for tensor in held if onnx.external_data_helper.uses_external_data(tensor)]
    if outside:
        raise ArtifactError(
            f"{path} keeps {shown(outside[0])} in another file, which is not read; export it with its weights inside"
        )


@contextlib.contextmanager
def _as_artifact_error(what: str) -> Iterator[None]:
    """Turn whatever onnx and ONNX Runtime raise, which have no common class, into one sentence."""
    try:
        yield
    except Exception as error:
        raise ArtifactError(f"{what}: {shown(error, 160)}") from error
