"""The process that runs OpenVINO: told what to do by lines of JSON, answers in lines of JSON. Run as a script.

It imports neither torch nor Secateur, so that it starts fast and that nothing of them is lost when it dies.
"""

import json
import os
import sys
import time
from typing import Any

import numpy as np

_PRECISIONS = {"f32": "f32", "float32": "f32", "f16": "f16", "float16": "f16", "bf16": "bf16", "bfloat16": "bf16"}


class _Child:
    def load(self, path: str, threads: int, precision: str) -> dict[str, Any]:
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        compiled = openvino.Core().compile_model(path, "CPU", settings)
        self.request = compiled.create_infer_request()
        kinds = [_told(operation) for operation in compiled.get_runtime_model().get_ops()]
        convolutions = [kind for name, kind in kinds if "onvolution" in name]
        hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return {
            "version": openvino.__version__.partition("-")[0],
            "precision": _PRECISIONS.get(hint, hint),
            "convolutions": len(convolutions),
            "integer_convolutions": sum(kind in ("i8", "u8", "int8", "uint8") for kind in convolutions),
        }

    def run(self, inputs: list[str], outputs: str) -> dict[str, Any]:
        found = self.request.infer([np.load(name) for name in inputs])
        np.savez(outputs, *found.values())
        return {}

    def time(self, inputs: list[str], repeats: int) -> dict[str, Any]:
        arrays = [np.load(name) for name in inputs]
        timings = []
        for _ in range(repeats):
            start = time.perf_counter_ns()
            self.request.infer(arrays, share_inputs=True)
            timings.append((time.perf_counter_ns() - start) / 1e6)
        return {"timings_ms": timings}


def _told(operation: Any) -> tuple[str, str]:
    info = operation.get_rt_info()
    return str(info["layerType"].value), str(info["runtimePrecision"].value)


def main() -> None:
    """Answer until the parent closes its end."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    child = _Child()
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = getattr(child, order.pop("do"))(**order)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
