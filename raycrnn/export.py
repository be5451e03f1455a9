"""The verb export: a model as one file that runs without raycrnn, as ONNX or as a torch.export archive.

Either takes `images`, uint8 [B, C, H, W], and `widths`, int64 [B], each image's own width in pixels, from 8 on. It
gives `log_probs`, float32 [T, B, K], T = W // 4 − 1, and `frames`, int64 [B]: frames past an image's own are not its
transcription. B and W are free, and what lies right of an image's own width has no influence. Standardising and masking
are in the file. Scaling an image and decoding are not: what they need to know is in the file's metadata (`describe`).
"""

import copy
import functools
import importlib.util
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field
from pydantic_settings import CliPositionalArg
from torch import Tensor, nn

from raycrnn import __version__, ctc, image, storage
from raycrnn.command import Command, say
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.inputs import list_inputs
from raycrnn.model import CRNN
from raycrnn.recognizer import Recognizer
from raycrnn.samples import Rejected

TOLERANCE = 1e-4
"""By how much a log-probability may differ from the model's own."""

DESCRIPTION = "raycrnn.json"
"""The file in a torch.export archive that holds `describe`; in ONNX it is the metadata, an entry a key."""


class Export(Command):
    """Write a model as one file that runs without raycrnn: NAME.onnx as ONNX, NAME.pt2 as a torch.export archive.

    The file is compared with the model before it gets its name: the same text by greedy decoding, log-probabilities
    within 0.0001, by images in batches and alone. Alphabet, sizes and scores are in its metadata. What runs ONNX
    needs no more than onnxruntime, Pillow and NumPy: see examples/onnx_predict.py.
    """

    model: CliPositionalArg[str]
    """the model directory, such as output/model"""
    output: CliPositionalArg[str]
    """file to write, such as model.onnx, model.pt2 or s3://bucket/model.onnx"""
    images: list[str] = Field(default_factory=list)
    """image, folder or CSV to compare with the model on; may be given several times; default: images that are made
    for it, of text and of noise"""
    overwrite: bool = False
    """replace the output where it exists"""

    def run(self) -> None:
        _check_output(self.output, self.overwrite)
        form = FORMS[_suffix(self.output)]
        form.check_installed()
        recognizer = Recognizer.load(self.model, "cpu")
        images = _read_images(self.images, recognizer) if self.images else made_images(recognizer)
        agreement = export(recognizer, self.output, images)
        print(f"{self.output}: {form.name}, {storage.size(self.output) / 1e6:.1f} MB")
        which = "images" if self.images else "images made for it (--images compares on yours)"
        print(f"compared with the model on {agreement.images:,} {which}:")
        print(f"the same text, log-probabilities within {agreement.difference:.1e}")


def _check_output(path: str, overwrite: bool) -> None:
    """Raises `UsageError` if it is not the path or URI of a file that can be made."""
    if _suffix(path) not in FORMS:
        raise UsageError(f"{path}: name a file that ends in {' or '.join(FORMS)}, which says what to write")
    try:
        is_folder, exists = storage.is_folder(path), storage.exists(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {storage.describe(error)}") from None
    if is_folder:
        raise UsageError(f"{path}: is a directory and not the name of a file to write")
    if not storage.is_uri(path) and not Path(path).parent.is_dir():
        raise UsageError(f"{path}: there is no folder {Path(path).parent}; make it first")
    if exists and not overwrite:
        raise UsageError(f"{path}: already there; --overwrite replaces it")


def _suffix(path: str) -> str:
    # The options of a URI are not part of its name.
    return Path(path.partition("?")[0] if storage.is_uri(path) else path).suffix


def _read_images(names: Sequence[str], recognizer: Recognizer) -> Iterator[np.ndarray]:
    """The images that names stand for, prepared as they are asked for. Those that cannot be read are left out.

    Raises `UsageError` at once where there is nothing to read.
    """
    inputs = list_inputs(names, recognizer.configuration.data)
    rows = zip(*(inputs[name].to_pylist() for name in ("shown", "path", "problem")), strict=True)
    prepared = (_prepare(recognizer, *row) for row in rows)
    return (pixels for pixels in prepared if pixels is not None)


def _prepare(recognizer: Recognizer, shown: str, path: bytes, problem: str | None) -> np.ndarray | None:
    try:
        if problem is not None:
            raise Rejected("malformed row", problem)
        return recognizer.prepare(os.fsdecode(path)).pixels
    except Rejected as rejected:
        say(f"left out: {shown}: {rejected.reason}: {rejected.detail}")
        return None


MADE_WIDTHS = 16


def made_images(recognizer: Recognizer) -> Iterator[np.ndarray]:
    """Prepared images of noise and of units, from the least to the greatest width, narrow beside wide."""
    height, greatest_width = recognizer.configuration.image.input_shape
    generator = np.random.default_rng(0)
    widths = np.geomspace(image.LEAST_WIDTH, greatest_width, MADE_WIDTHS).round().astype(int)
    mixed = np.stack([widths, widths[::-1]], axis=1).ravel()[:MADE_WIDTHS]
    font = ImageFont.load_default(size=height * 0.75)
    for width in mixed.tolist():
        yield recognizer.prepare(generator.integers(0, 256, (height, width), dtype=np.uint8)).pixels
        drawn = Image.new("RGB", (width, height), "white")
        text = "".join(generator.choice(recognizer.alphabet.units, 1 + width // height * 2))
        ImageDraw.Draw(drawn).text((height / 8, 0), text, fill="black", font=font)
        yield recognizer.prepare(drawn).pixels


def export(recognizer: Recognizer, path: str | os.PathLike, images: Iterable[np.ndarray]) -> "Agreement":
    """Write a model in the form that the path's suffix names, if it agrees with the model on the images.

    Args:
        path: or URI.
        images: uint8 [H, W, C], as `Recognizer.prepare` gives them.

    Raises:
        UsageError: the path cannot be written, or packages are missing.
        RaycrnnError: the exporter fails, no images, or what it made differs; a file of that name is as it was.
    """
    path = os.fspath(path)
    form = FORMS[_suffix(path)]
    form.check_installed()
    with _on_this_machine(path) as local, _open_output(local) as file:
        with _exporting(form.name):
            data = form.write(trace(recognizer), describe(recognizer))
            agreement = compare(recognizer, form.load(data), images)
        agreement.check(path)
        file.write(data)
    return agreement


@contextmanager
def _on_this_machine(path: str) -> Iterator[Path]:
    """A path itself; for a URI one from which the file is uploaded in the end. Raises `RaycrnnError`."""
    if not storage.is_uri(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="raycrnn-") as folder:
        local = Path(folder) / "model"
        yield local
        try:
            storage.upload(local, path)
        except OSError as error:
            raise RaycrnnError(f"{path}: cannot be written: {storage.describe(error)}") from None


@contextmanager
def _open_output(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name when it is whole. Raises `UsageError` if it cannot be written."""
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        file = temporary.open("wb")
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RaycrnnError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _exporting(name: str) -> Iterator[None]:
    """Without the exporters' warnings, which nobody can act on. What they fail with becomes a `RaycrnnError`."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except RaycrnnError:
        raise
    except Exception as error:  # Exporters let through whatever a network makes them stumble over.
        message = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RaycrnnError(f"torch {torch.__version__} makes no {name} of this model that runs: {message}") from None
    finally:
        logging.disable(disabled)


# --- what goes with the network


def describe(recognizer: Recognizer) -> dict[str, Any]:
    """All that is needed beside the network, to go from an image to its text, and what the model is."""
    settings = recognizer.configuration.image
    height, greatest_width = settings.input_shape
    return {
        "format_version": 1,
        "raycrnn_version": __version__,
        # The units in the order of their codes. An output's last class is the blank.
        "alphabet": list(recognizer.alphabet.units),
        "blank": recognizer.alphabet.blank,
        "unicode_form": recognizer.configuration.data.unicode_form,
        # 1: grey, Pillow's mode L; 3: RGB.
        "channels": settings.input_channels,
        "height": height,
        "least_width": image.LEAST_WIDTH,
        "greatest_width": greatest_width,
        "fitted_width": "min(max(round(width * height / own_height), least_width), greatest_width), half to even",
        # Of Pillow's Image.resize.
        "interpolation": "bilinear",
        "reducing_gap": image.REDUCING_GAP,
        # Any width of a batch will do; few different ones are faster.
        "width_step": image.WIDTH_STEP,
        "frames": "width // 4 - 1",
        # Log-probabilities divided by it and normalised anew are calibrated.
        "temperature": recognizer.calibration.temperature,
        "scores": recognizer.metrics,
    }


# --- the network as a graph


def trace(recognizer: Recognizer) -> torch.export.ExportedProgram:
    """The network's graph for any batch and width, in which an LSTM is one node of the kind `lstm_node`."""
    settings = recognizer.configuration.image
    images_BCHW = torch.zeros(2, settings.input_channels, settings.input_shape[0], 64, dtype=torch.uint8)
    widths_B = torch.tensor([64, 50])
    batch = torch.export.Dim("batch", min=1)
    # Not a Dim of its own: those refuse what torch cannot prove, as that a quarter of 8 pixels or more is not 1.
    width = torch.export.Dim.AUTO(min=image.LEAST_WIDTH)
    with torch.no_grad():
        return torch.export.export(
            Exported(recognizer.network), (images_BCHW, widths_B), dynamic_shapes=({0: batch, 3: width}, {0: batch})
        )


class Exported(nn.Module):
    """A copy of a network that can be traced for any batch and width."""

    def __init__(self, network: CRNN):
        super().__init__()
        # In the plain memory layout: that of training is stored as pieces of the tensors.
        self.network = copy.deepcopy(network).to(memory_format=torch.contiguous_format).eval()
        for lstm in self.network.lstms:
            lstm.forwards, lstm.backwards = OneNodeLSTM(lstm.forwards), OneNodeLSTM(lstm.backwards)

    def forward(self, images: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
        # One frame more, which is taken off again. Of a dimension that may be 1 a tracer makes a case of its own, and
        # poolings drop the last column of an odd width, but not where there is padding beside it, as in a batch.
        log_probs_TBK, frames_B = self.network(F.pad(images, (0, 4)), widths)
        return log_probs_TBK[:-1], frames_B


class OneNodeLSTM(nn.Module):
    """An LSTM that a tracer keeps: torch's own it would unroll over the frames of its example."""

    def __init__(self, lstm: nn.LSTM):
        super().__init__()
        self.lstm = lstm

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lstm = self.lstm
        zeros_1BU = x_BTD.new_zeros(1, x_BTD.shape[0], lstm.hidden_size)
        weights = [lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0]
        return lstm_node()(x_BTD, [zeros_1BU, zeros_1BU], weights, True, 1, 0.0, False, False, True)


@functools.cache
def lstm_node() -> Callable:
    """An operator with the arguments of torch's aten.lstm.input, of which a tracer knows the shapes alone."""

    @torch.library.custom_op("raycrnn::lstm", mutates_args=())
    def lstm(
        input: Tensor,
        hx: Sequence[Tensor],
        params: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        # Nothing runs it: a tracer asks for shapes (below), and what is written holds aten's or ONNX's LSTM instead.
        raise NotImplementedError("it stands in graphs, until they are written")

    @lstm.register_fake
    def _(input: Tensor, hx: Sequence[Tensor], *_: Any) -> tuple[Tensor, Tensor, Tensor]:
        output_BTU = input.new_empty(*input.shape[:2], hx[0].shape[2])
        return output_BTU, torch.empty_like(hx[0]), torch.empty_like(hx[1])

    return torch.ops.raycrnn.lstm.default


# --- forms

Run = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""images_BCHW, widths_B -> log_probs_TBK, frames_B"""


@dataclass(frozen=True)
class Form:
    """What an export may be."""

    name: str
    packages: tuple[str, ...]
    """that it needs and raycrnn does not"""
    write: Callable[[torch.export.ExportedProgram, dict[str, Any]], bytes]
    """a traced network and its description -> the file"""
    load: Callable[[bytes], Run]

    def check_installed(self) -> None:
        """Raises `UsageError`."""
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise UsageError(f"{self.name} needs {', '.join(missing)}: pip install 'raycrnn[onnx]'")


def _write_onnx(program: torch.export.ExportedProgram, description: dict[str, Any]) -> bytes:
    from onnxscript.function_libs.torch_lib.ops.core import aten_lstm

    exported = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=["images", "widths"],
        output_names=["log_probs", "frames"],
        dynamic_shapes=({0: "batch", 3: "width"}, {0: "batch"}),
        custom_translation_table={lstm_node(): aten_lstm, torch.ops.aten.sum.dim_IntList: _sum_by_axes},
    )
    exported.model.metadata_props.update({key: _as_text(value) for key, value in description.items()})
    return exported.model_proto.SerializeToString()


def _sum_by_axes(total: Any, dim: Sequence[int]) -> Any:
    """A sum over several dimensions as onnxruntime is to do it, one after the other.

    It adds one pixel to the next. Of 30,000 at once the variance would be so inexact that log-probabilities are off by
    more than `TOLERANCE`.
    """
    from onnxscript import opset18

    for axis in sorted(dim, reverse=True):
        total = opset18.ReduceSum(total, [axis], keepdims=False)
    return total


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _load_onnx(data: bytes) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda images_BCHW, widths_B: session.run(
        ["log_probs", "frames"], {"images": images_BCHW, "widths": widths_B}
    )


def _write_archive(program: torch.export.ExportedProgram, description: dict[str, Any]) -> bytes:
    # From here on the tracer is not asked for shapes any more, and torch runs its own LSTM.
    for node in program.graph.nodes:
        if node.target is lstm_node():
            node.target = torch.ops.aten.lstm.input
    program.graph_module.recompile()
    buffer = io.BytesIO()
    extra = {DESCRIPTION: json.dumps(description, ensure_ascii=False, indent=2)}
    torch.export.save(program, buffer, extra_files=extra)
    return buffer.getvalue()


def _load_archive(data: bytes) -> Run:
    network = torch.export.load(io.BytesIO(data)).module()

    @torch.inference_mode()
    def run(images_BCHW: np.ndarray, widths_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_probs_TBK, frames_B = network(torch.from_numpy(images_BCHW), torch.from_numpy(widths_B))
        return log_probs_TBK.numpy(), frames_B.numpy()

    return run


FORMS = {
    ".onnx": Form("ONNX", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _load_onnx),
    ".pt2": Form("torch.export archive", (), _write_archive, _load_archive),
}
"""By the suffix of the output."""


# --- comparison

IMAGES_AT_A_TIME = 8


@dataclass(frozen=True)
class Agreement:
    """How an export's output compares with the model's own."""

    images: int
    difference: float
    """the greatest of a log-probability; infinite where the numbers of frames differ"""
    other_texts: int
    """how often another text was read"""

    def check(self, path: str) -> None:
        """Raises `RaycrnnError` if it may not be called the same model."""
        if not self.images:
            raise RaycrnnError(f"{path}: not written: there is no image to compare it with the model on")
        if not self.difference <= TOLERANCE or self.other_texts:
            raise RaycrnnError(
                f"{path}: not written, for it differs from the model: log-probabilities by up to {self.difference:.1e} "
                f"({TOLERANCE:.0e} is allowed), the text {self.other_texts:,} times in {self.images:,} images; other "
                "versions of torch, onnxscript and onnxruntime may do better"
            )


def compare(recognizer: Recognizer, run: Run, images: Iterable[np.ndarray]) -> Agreement:
    """Run an export on images in batches of any widths, one of each batch also alone, and compare it with the model."""
    count, other_texts, differences = 0, 0, [0.0]
    for some in _groups(images, IMAGES_AT_A_TIME):
        expected = _of_model(recognizer, some)
        # Not all of them alone: torch compiles kernels for each width that it has not met.
        readings = _by_image(*run(*image.collate(some))) + _by_image(*run(*_unpadded(some[0])))
        pairs = list(zip([*expected, expected[0]], readings, strict=True))
        count += len(some)
        differences += [_difference(own_TK, other_TK) for own_TK, other_TK in pairs]
        other_texts += sum(_codes(own_TK) != _codes(other_TK) for own_TK, other_TK in pairs)
    # Not max(), which passes over NaN.
    return Agreement(count, float(np.max(differences)), other_texts)


def _groups(images: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    group = []
    for array in images:
        group.append(array)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _of_model(recognizer: Recognizer, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Log-probabilities [T, K] of each image."""
    found: dict[int, np.ndarray] = {}
    for outputs in recognizer.log_probs(images):
        own = _by_image(outputs.log_probs_TBK.cpu().numpy(), outputs.frames_B.cpu().numpy())
        found |= zip(outputs.indices, own, strict=True)
    return [found[index] for index in range(len(images))]


def _by_image(log_probs_TBK: np.ndarray, frames_B: np.ndarray) -> list[np.ndarray]:
    return [log_probs_TBK[:frames, index] for index, frames in enumerate(frames_B)]


def _unpadded(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `image.collate`, of one image in its own width."""
    return array.transpose(2, 0, 1)[None].copy(), np.array([array.shape[1]])


def _difference(one_TK: np.ndarray, other_TK: np.ndarray) -> float:
    return float(np.abs(one_TK - other_TK).max()) if one_TK.shape == other_TK.shape else float("inf")


def _codes(log_probs_TK: np.ndarray) -> tuple[int, ...]:
    return ctc.greedy(torch.tensor(log_probs_TK)[:, None], torch.tensor([len(log_probs_TK)]))[0].codes


if __name__ == "__main__":
    Export.main()
