"""How long each kernel of an ONNX model takes, by ONNX Runtime's own profile."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.errors import ArtifactError
from secateur.export.onnx_runtime import require_onnx, session_options

_KERNEL = "_kernel_time"


def kernel_times(model: bytes, inputs: Mapping[str, Any], *, threads: int, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds of each kernel, by its name after all fusing: one number per round.

    The first run, in which memory is laid out, is left out.

    Args:
        model: content of an ONNX file.
        inputs: name → array.
        threads: that one operator may use.
        rounds: to run.

    Raises:
        ArtifactError: ONNX Runtime refuses the model.
        ExportError: the packages are not installed.
    """
    _, onnxruntime = require_onnx()
    options = session_options(threads)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
        options.profile_file_prefix = str(Path(folder, "profile"))
        try:
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            for _ in range(rounds + 1):
                session.run(None, dict(inputs))
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        except Exception as error:  # which have no common class
            raise ArtifactError(f"ONNX Runtime cannot time a model: {' '.join(str(error).split())[:160]}") from error
    times: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            name = f"{event['args'].get('op_name', '')} {event['name'].removesuffix(_KERNEL)}"
            times.setdefault(name, []).append(event["dur"] / 1e3)
    return {name: values[1:] for name, values in times.items()}
