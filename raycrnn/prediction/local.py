"""Transcribe images in the command's own process, while another process decodes them."""

import time
from collections.abc import Iterator
from functools import cached_property

import pyarrow as pa
import torch

from raycrnn.cluster import start_time
from raycrnn.ingest.decoder_process import DecoderProcess
from raycrnn.model.cpus import usable_cpus
from raycrnn.prediction import resources
from raycrnn.prediction.job import PredictionJob
from raycrnn.prediction.text_stage import Transcriber

MAX_IMAGES_ON_GPU = 2048
"""Images that a GPU transcribes in this process. More go to Ray at once, whose replicas could not use a GPU that allows
only one process."""


class LocalReader:
    """Transcribes blocks of images one after the other, and decodes each while it transcribes the one before.

    Args:
        job: The model.
        decoder: Decodes the images.
    """

    def __init__(self, job: PredictionJob, decoder: DecoderProcess):
        self._job = job
        self._decoder = decoder
        self._ray_start_seconds = start_time.estimate_start_seconds(time.process_time())

    @cached_property
    def _transcribe(self) -> Transcriber:
        return Transcriber(self._job, usable_cpus())

    def read_blocks(self, inputs: pa.Table) -> Iterator[pa.Table]:
        """Yield tables of `tables.RESULTS` in the order of the inputs.

        It ends early if it pays to start Ray for all other images.

        Raises:
            UsageError: There is no model directory, or an override is invalid.
            RaycrnnError: The model cannot be read or is not the expected one, or the process that decodes images does
                not start.
        """
        gpus = torch.cuda.device_count()
        if gpus and len(inputs) > MAX_IMAGES_ON_GPU:
            return
        per_block = resources.images_per_block(len(inputs), gpus or usable_cpus(), self._job.image)
        bounds = resources.block_bounds(len(inputs), per_block)
        columns = inputs.select(["path", "problem"])
        transcribe = self._transcribe
        blocks = [columns.slice(start, stop - start) for start, stop in bounds]
        for number, decoded in enumerate(self._decoder.decode_ahead(blocks)):
            since = time.monotonic()
            block = transcribe(decoded)
            seconds = time.monotonic() - since
            yield block
            left = seconds / len(block) * (len(inputs) - bounds[number][1])
            # The first block is slower than the others.
            if number == 0 and seconds <= self._ray_start_seconds:
                continue
            if start_time.is_worth_starting(left, self._ray_start_seconds):
                return
