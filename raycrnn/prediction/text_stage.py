"""The second stage of a prediction run: from decoded images to transcriptions."""

import numpy as np
import pyarrow as pa
import torch

from raycrnn import config
from raycrnn.data import image
from raycrnn.errors import RaycrnnError
from raycrnn.model import model_files, runtime, voter
from raycrnn.model.voter import ImageForVote
from raycrnn.prediction.job import PredictionJob
from raycrnn.prediction.tables import RESULTS


class Transcriber:
    """The stage from a table of `DECODED` to one of `RESULTS`: a copy of the model.

    Args:
        job: The model.
        threads: CPU threads of the network.

    Raises:
        UsageError: There is no model directory, or an override is invalid.
        RaycrnnError: The model cannot be read, or is not the expected one.
    """

    def __init__(self, job: PredictionJob, threads: int):
        torch.set_num_threads(threads)
        runtime.keep_freed_memory()
        runtime.keep_kernels()
        self.recognizer = voter.load(job.model, "auto", job.overrides, job.language_model, job.lexicon)
        # Not before loading, when the model could still be replaced.
        if job.digests is not None and model_files.file_digests(job.model) != job.digests:
            name = model_files.describe(job.model)
            raise RaycrnnError(f"{name}: the model was replaced after the command started; run it again")
        self.job = job

    def __call__(self, table: pa.Table) -> pa.Table:
        rejected = table["rejected"].to_pylist()
        indices = [index for index, reason in enumerate(rejected) if reason is None]
        images = [self._image(table, index) for index in indices]
        transcriptions = self.recognizer.transcribe(images, spans=self.job.spans)
        rows: list[dict] = [{"rejected": reason} for reason in rejected]
        for index, prepared, transcription in zip(indices, images, transcriptions, strict=True):
            is_blank = bool((prepared.pixels == prepared.pixels[0, 0]).all())
            rows[index] = {**transcription.to_json(), "size": prepared.original_size, "is_blank": is_blank}
        return pa.Table.from_pylist(rows, RESULTS)

    def _image(self, table: pa.Table, index: int) -> image.PreparedImage:
        width, height = table["size"][index].as_py()
        others = zip(table["others"][index], self.job.more_images, strict=True)
        return ImageForVote(
            _pixels(table["pixels"][index], table["width"][index], self.job.image),
            (width, height),
            others=tuple(
                image.PreparedImage(_pixels(own["pixels"], own["width"], settings), (width, height))
                for own, (settings, _) in others
            ),
        )


def _pixels(data: pa.Scalar, width: pa.Scalar, settings: config.Image) -> np.ndarray:
    """Return an image of the table, uint8 [H, W, C]."""
    shape = settings.input_shape[0], width.as_py(), settings.input_channels
    return np.frombuffer(data.as_buffer(), np.uint8).reshape(shape)
