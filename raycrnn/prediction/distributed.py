"""Transcribe images through Ray Data, with decoding tasks and replicas of the model."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import pyarrow as pa

from raycrnn import cluster
from raycrnn.cluster import workers
from raycrnn.cluster.workers import check_deaths
from raycrnn.config import Cluster
from raycrnn.data import image_files
from raycrnn.ingest.decoder_process import TRIES_ALONE
from raycrnn.model import model_files
from raycrnn.prediction import image_stage, resources
from raycrnn.prediction.job import ImageSettings, PredictionJob
from raycrnn.prediction.text_stage import Transcriber


def read_blocks(job: PredictionJob, inputs: pa.Table, first: int = 0) -> Iterator[pa.Table]:
    """Transcribe images through Ray Data, and yield tables of `tables.RESULTS` in the order of the inputs.

    If a worker is killed, Ray repeats its work on another one.

    Args:
        job: The model.
        inputs: A table of `inputs.INPUTS`.
        first: The row to start at.

    Raises:
        UsageError: The job asks for more replicas than the cluster has CPUs.
        RaycrnnError: Replicas cannot read the model, find a different one, or die repeatedly.
    """
    import ray.data

    # An autoscaling cluster may consist of the head node only.
    cluster.wait_for_nodes(Cluster())
    allocation = resources.allocate_replicas(len(inputs), job)
    columns = inputs.select(["path", "problem"])
    bounds = resources.block_bounds(len(inputs), allocation.images_per_block, first)
    dataset: ray.data.Dataset = ray.data.from_arrow([columns.slice(start, stop - start) for start, stop in bounds])
    dataset.context.enable_progress_bars = False
    dataset.context.execution_options.preserve_order = True
    dataset = dataset.map_batches(
        Decode(job.all_images),
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
        num_cpus=allocation.decode_cpus,
    ).map_batches(
        TranscriberActor,
        fn_constructor_args=(replace(job, model=model_files.absolute(job.model)), allocation.threads),
        compute=ray.data.ActorPoolStrategy(size=allocation.count),
        num_cpus=allocation.cpus,
        num_gpus=allocation.gpus,
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
    )
    yield from workers.read_blocks(dataset)


@dataclass(frozen=True)
class Decode:
    """The task from paths to a table of `tables.DECODED`.

    An image may crash its decoder, and with it the task. Ray then repeats the task, which decodes each image in a task
    of its own.
    """

    settings: tuple[ImageSettings, ...]

    def __call__(self, table: pa.Table) -> pa.Table:
        deaths = check_deaths("a worker that decodes images", "it may need more memory than its machine has")
        return image_stage.decode_table(table, self._alone if deaths else self._together)

    def _together(self, paths: Sequence[str]) -> Iterator[dict]:
        return image_stage.decode_images(paths, self.settings)

    def _alone(self, paths: Sequence[str]) -> Iterator[dict]:
        import ray
        from ray import exceptions

        crashes = (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError, exceptions.NodeDiedError)
        # Not 0 CPUs, or the tasks would run on a cluster's head node. This task's CPUs are free while it waits.
        decode = ray.remote(num_cpus=0.001, max_retries=0)(_decode_alone)
        for path in paths:
            for _ in range(TRIES_ALONE):
                with suppress(*crashes):
                    yield ray.get(decode.remote(path, self.settings))
                    break
            else:
                yield image_stage.DECODER_DIED


def _decode_alone(path: str, settings: Sequence[ImageSettings]) -> dict:
    return image_stage.decode_image(lambda: image_files.read_bytes(path), settings)


class TranscriberActor(Transcriber):
    """A copy of the model in an actor of Ray."""

    def __init__(self, job: PredictionJob, threads: int):
        check_deaths("a replica of the model", "it may need more memory than its machine has: set fewer --replicas")
        super().__init__(job, threads)
