"""The second stage of a prediction run: from decoded images to transcriptions."""

import numpy as np
import pyarrow as pa
import torch

from raycrnn.data import image
from raycrnn.errors import RaycrnnError
from raycrnn.model import model_files, runtime
from raycrnn.model.recognizer import Recognizer
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
        self.recognizer = Recognizer.load(job.model, "auto", job.overrides, job.language_model, job.lexicon)
        # Not before loading, when the model could still be replaced.
        if job.digests is not None and model_files.file_digests(job.model) != job.digests:
            raise RaycrnnError(f"{job.model}: the model was replaced after the command started; run it again")
        self.spans = job.spans

    def __call__(self, table: pa.Table) -> pa.Table:
        rejected = table["rejected"].to_pylist()
        indices = [index for index, reason in enumerate(rejected) if reason is None]
        images = [self._image(table, index) for index in indices]
        transcriptions = self.recognizer.transcribe(images, spans=self.spans)
        rows: list[dict] = [{"rejected": reason} for reason in rejected]
        for index, prepared, transcription in zip(indices, images, transcriptions, strict=True):
            is_blank = bool((prepared.pixels == prepared.pixels[0, 0]).all())
            rows[index] = {**transcription.to_json(), "size": prepared.original_size, "is_blank": is_blank}
        return pa.Table.from_pylist(rows, RESULTS)

    def _image(self, table: pa.Table, index: int) -> image.PreparedImage:
        settings = self.recognizer.configuration.image
        pixels = np.frombuffer(table["pixels"][index].as_buffer(), np.uint8)
        shape = settings.input_shape[0], table["width"][index].as_py(), settings.input_channels
        width, height = table["size"][index].as_py()
        return image.PreparedImage(pixels.reshape(shape), (width, height))
