"""The verb export: write a model as one file that runs without raycrnn, as ONNX or as a torch.export archive.

Both take `images`, uint8 [B, C, H, W], and `widths`, int64 [B], the width of each image in pixels without padding, at
least 8. They return `log_probs`, float32 [T, B, K] with T = W // 4 − 1, and `frames`, int64 [B], the number of frames
of each image; later frames are padding. B and W are free, and padding does not influence the result. The file contains
standardisation and masking, but not the scaling of images and decoding; its metadata (`describe`) has what they need.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic_settings import CliPositionalArg

from raycrnn import storage
from raycrnn.cli import Command, Metavar
from raycrnn.data.rejections import Rejected
from raycrnn.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from raycrnn.model.recognizer import Recognizer

# Not __name__, which is "__main__" under python -m.
logger = logging.getLogger("raycrnn.export")


class Export(Command):
    """Write a model as one file that runs without raycrnn: NAME.onnx as ONNX, NAME.pt2 as a torch.export archive.

    The file is compared with the model before it gets its name: greedy decoding must give the same texts, and
    log-probabilities may differ by at most 0.0001, for batches and for single images. The metadata of the file contains
    the alphabet, the image sizes, the scores and the runtime that it needs. An ONNX file has the lowest opset and IR
    version that its operators allow, for onnxruntime 1.11 or later, and needs only Pillow and NumPy besides: see
    examples/onnx_predict.py.
    """

    model: CliPositionalArg[str]
    """Model directory, such as output/model, or latin or latin48, models for Latin script that come with raycrnn."""
    output: CliPositionalArg[str]
    """File to write, such as model.onnx, model.pt2 or s3://bucket/model.onnx."""
    images: Annotated[list[str], Metavar("INPUT")] = Field(default_factory=list)
    """Image, folder or CSV to compare the two on; can be given more than once. Default: generated images of text and of
    noise."""
    overwrite: bool = False
    """Replace an existing output."""

    def run(self) -> None:
        # Here and below, because `--help` needs none of them.
        from raycrnn.exporting import comparison, run
        from raycrnn.exporting.formats import FORMATS
        from raycrnn.model.model_files import as_argument
        from raycrnn.model.recognizer import Recognizer

        _check_output(self.output, self.overwrite)
        format = FORMATS[run.suffix(self.output)]
        format.check_installed()
        recognizer = Recognizer.load(as_argument(self.model), "cpu")
        images = _read_images(self.images, recognizer) if self.images else comparison.generate_images(recognizer)
        written = run.export(recognizer, self.output, images)
        agreement = written.agreement
        print(f"{self.output}: {format.name}, {storage.size(self.output) / 1e6:.1f} MB")
        print(f"runs in {written.runtime}")
        which = "images" if self.images else "generated images (--images compares on yours)"
        print(f"compared with the model on {agreement.images:,} {which}:")
        print(f"the same text, log-probabilities within {agreement.difference:.1e}")
        for name, part in (("language model", recognizer.language_model), ("lexicon", recognizer.lexicon)):
            if part is not None:
                logger.warning(f"the {name} is not in the file, which ends with the network's log-probabilities")


def _check_output(path: str, overwrite: bool) -> None:
    """Raise `UsageError` unless the output is the path or URI of a file that can be created."""
    from raycrnn.exporting import run
    from raycrnn.exporting.formats import FORMATS

    if run.suffix(path) not in FORMATS:
        raise UsageError(f"{path}: unknown format: name a file that ends in {' or '.join(FORMATS)}")
    if storage.check_output_file(path) and not overwrite:
        raise UsageError(f"{path}: already exists; --overwrite replaces it")


def _read_images(names: Sequence[str], recognizer: "Recognizer") -> "Iterator[np.ndarray]":
    """Return an iterator over prepared images, without those that cannot be read.

    Raises:
        UsageError: at once, if there is nothing to read.
    """
    from raycrnn.data.inputs import list_inputs

    inputs = list_inputs(names, recognizer.configuration.data)
    rows = zip(*(inputs[name].to_pylist() for name in ("name", "path", "problem")), strict=True)
    prepared = (_prepare(recognizer, *row) for row in rows)
    return (pixels for pixels in prepared if pixels is not None)


def _prepare(recognizer: "Recognizer", name: str, path: bytes, problem: str | None) -> "np.ndarray | None":
    try:
        if problem is not None:
            raise Rejected("malformed row", problem)
        return recognizer.prepare(os.fsdecode(path)).pixels
    except Rejected as rejected:
        logger.info(f"left out: {name}: {rejected.reason}: {rejected.detail}")
        return None


if __name__ == "__main__":
    Export.main()
