"""Files that leave Secateur: the safetensors model file and ONNX, each checked by reading or running it."""

from secateur.export.artifact import ArtifactInfo as ArtifactInfo
from secateur.export.artifact import file_fingerprint as file_fingerprint
from secateur.export.artifact import inspect as inspect
from secateur.export.artifact import load as load
from secateur.export.artifact import save as save
from secateur.export.building import load_built as load_built
from secateur.export.header import Builder as Builder
from secateur.export.header import Preprocessing as Preprocessing
from secateur.export.header import preprocessing_of as preprocessing_of
from secateur.export.onnx import OnnxReport as OnnxReport
from secateur.export.onnx import export_onnx as export_onnx
from secateur.export.onnx_runtime import OnnxModel as OnnxModel

__all__ = [
    "ArtifactInfo",
    "Builder",
    "OnnxModel",
    "OnnxReport",
    "Preprocessing",
    "export_onnx",
    "file_fingerprint",
    "inspect",
    "load",
    "load_built",
    "preprocessing_of",
    "save",
]
