"""The formats that a model can be exported to."""

import importlib.util
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from raycrnn import __version__
from raycrnn.data import image
from raycrnn.errors import UsageError
from raycrnn.exporting import graph
from raycrnn.model.recognizer import Recognizer

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxscript.onnx_types import FLOAT

DESCRIPTION = "raycrnn.json"
"""Name of the file in a torch.export archive that holds `describe`. In ONNX each key is an entry of the metadata."""


def describe(recognizer: Recognizer) -> dict[str, object]:
    """Return what is needed besides the network to transcribe an image, and the scores of the model."""
    settings = recognizer.configuration.image
    height, greatest_width = settings.input_shape
    return {
        "format_version": 1,
        "raycrnn_version": __version__,
        # The units in the order of their codes. The last class of the output is the blank.
        "alphabet": list(recognizer.alphabet.units),
        "blank": recognizer.alphabet.blank,
        # Codes follow the image from left to right. Unless this is visual, text from right to left must be reordered.
        "text_direction": recognizer.alphabet.text_direction,
        # Unless it is horizontal, the upright image is turned by 90°: counterclockwise for top_to_bottom.
        "line_orientation": recognizer.configuration.data.line_orientation,
        "unicode_form": recognizer.configuration.data.unicode_form,
        # 1: greyscale, Pillow's mode L; 3: RGB.
        "channels": settings.input_channels,
        "height": height,
        "least_width": image.MIN_WIDTH,
        "greatest_width": greatest_width,
        "fitted_width": "min(max(round(width * height / own_height), least_width), greatest_width), half to even",
        # Of Pillow's Image.resize.
        "interpolation": "bilinear",
        "reducing_gap": image.REDUCING_GAP,
        # Batches may have any width, but few different widths are faster.
        "width_step": image.WIDTH_STEP,
        "frames": "width // 4 - 1",
        # In models of version 0.1, log-probabilities are calibrated by dividing by it and normalising again.
        "temperature": recognizer.calibration.temperature,
        # The log-odds that a text is exact, as `model.calibration` says.
        "confidence_weights": recognizer.calibration.named_weights(),
        "scores": recognizer.metrics,
    }


Run = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""images_BCHW, widths_B -> log_probs_TBK, frames_B"""


@dataclass(frozen=True)
class ExportFormat:
    """A format of exported files."""

    name: str
    packages: tuple[str, ...]
    """Packages that it needs and raycrnn does not."""
    write: Callable[[torch.export.ExportedProgram, Mapping[str, object]], bytes]
    """Returns the file of a traced network and its description."""
    load: Callable[[bytes], Run]
    """Returns a function that runs the network of a file."""
    runtime: Callable[[bytes], str]
    """Returns what is needed to run a file, such as "onnxruntime 1.11 or later"."""

    def check_installed(self) -> None:
        """Raise `UsageError` if packages are missing."""
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise UsageError(f"{self.name} needs {', '.join(missing)}: pip install 'raycrnn[onnx]'")


OPSET = 18
"""The opset that torch's translations to ONNX operators are written for. `_lower_versions` lowers it afterwards."""

ONNXRUNTIMES = {14: "1.8", 15: "1.9", 16: "1.11", 17: "1.12", 18: "1.14"}
"""The first version of onnxruntime with each opset and its IR version, from
https://onnxruntime.ai/docs/reference/compatibility.html."""


def _write_onnx(program: torch.export.ExportedProgram, description: Mapping[str, object]) -> bytes:
    from onnxscript.function_libs.torch_lib.ops.core import aten_lstm

    exported = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=["images", "widths"],
        output_names=["log_probs", "frames"],
        dynamic_shapes=({0: "batch", 3: "width"}, {0: "batch"}),
        custom_translation_table={graph.lstm_node(): aten_lstm, torch.ops.aten.sum.dim_IntList: _sum_by_axes},
    )
    # The annotation of torch.onnx.export allows for the legacy exporter, which returns None.
    assert exported is not None
    model = exported.model_proto
    _lower_versions(model)
    for key, value in {**description, "runtime": _runtime_of_onnx(model)}.items():
        model.metadata_props.add(key=key, value=_as_text(value))
    return model.SerializeToString()


def _lower_versions(model: "ModelProto") -> None:
    """Set the lowest opset in which every operator is defined as it is in the model's, and the IR version of that."""
    import onnx

    (opset,) = model.opset_import
    needed = max(onnx.defs.get_schema(node.op_type, opset.version).since_version for node in model.graph.node)
    opset.version = max(needed, min(ONNXRUNTIMES))
    model.ir_version = onnx.helper.find_min_ir_version_for([opset])
    # These came with IR version 10. They hold the exporter's names of modules, and paths of this machine.
    graph_ = model.graph
    for part in (graph_, *graph_.node, *graph_.initializer, *graph_.value_info, *graph_.input, *graph_.output):
        del part.metadata_props[:]


def _runtime_of_onnx(model: "ModelProto") -> str:
    version = model.opset_import[0].version
    return f"onnxruntime {ONNXRUNTIMES[version]} or later (opset {version}, IR version {model.ir_version})"


def _runtime_of_onnx_file(data: bytes) -> str:
    import onnx

    return _runtime_of_onnx(onnx.load_from_string(data))


def _sum_by_axes(total: "FLOAT", dim: Sequence[int]) -> "FLOAT":
    """Sum over several dimensions, one after the other.

    onnxruntime adds the numbers sequentially in fp32: with 30,000 pixels in one sum, the variance would be so inexact
    that log-probabilities differ by more than `comparison.TOLERANCE`.
    """
    from onnxscript import opset18

    for axis in sorted(dim, reverse=True):
        # onnxscript takes Python values for tensors, which its annotations do not say.
        total = opset18.ReduceSum(total, [axis], keepdims=False)  # type: ignore[arg-type]
    return total


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _load_onnx(data: bytes) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda images_BCHW, widths_B: session.run(
        ["log_probs", "frames"], {"images": images_BCHW, "widths": widths_B}
    )


ARCHIVE_RUNTIME = f"torch {torch.__version__.partition('+')[0]}; older versions may refuse the file"


def _write_archive(program: torch.export.ExportedProgram, description: Mapping[str, object]) -> bytes:
    # Tracing is done, so torch's own LSTM can take the place of the stand-in.
    for node in program.graph.nodes:
        if node.target is graph.lstm_node():
            node.target = torch.ops.aten.lstm.input
    program.graph_module.recompile()
    buffer = io.BytesIO()
    extra = {DESCRIPTION: json.dumps({**description, "runtime": ARCHIVE_RUNTIME}, ensure_ascii=False, indent=2)}
    torch.export.save(program, buffer, extra_files=extra)
    return buffer.getvalue()


def _load_archive(data: bytes) -> Run:
    network = torch.export.load(io.BytesIO(data)).module()

    @torch.inference_mode()
    def run(images_BCHW: np.ndarray, widths_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_probs_TBK, frames_B = network(torch.from_numpy(images_BCHW), torch.from_numpy(widths_B))
        return log_probs_TBK.numpy(), frames_B.numpy()

    return run


FORMATS = {
    ".onnx": ExportFormat(
        "ONNX", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _load_onnx, _runtime_of_onnx_file
    ),
    ".pt2": ExportFormat("torch.export archive", (), _write_archive, _load_archive, lambda data: ARCHIVE_RUNTIME),
}
"""Formats by the suffix of the output."""
