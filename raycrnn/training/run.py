"""Run a training command: start the training, show its progress, and stop it on Ctrl-C or SIGTERM."""

import logging
import os
import time
from functools import partial
from typing import TYPE_CHECKING

from raycrnn import cluster, storage
from raycrnn.config import Configuration
from raycrnn.console import StopRequest, defer_stop
from raycrnn.errors import RaycrnnError
from raycrnn.storage import Directory
from raycrnn.training import batch_size, resume, trainer
from raycrnn.training import initial_model as initial_models

if TYPE_CHECKING:
    from raycrnn.data.labelled_csvs import LabelledCsvs
    from raycrnn.training.console import Stall, TrainingProgress
    from raycrnn.training.job import TrainingJob
    from raycrnn.training.monitor import TrainingResult

logger = logging.getLogger(__name__)


def train(configuration: Configuration, address: str | None = None, started: float | None = None) -> "TrainingResult":
    """Train a model.

    Args:
        address: Address of a Ray cluster. Default: the environment variable RAY_ADDRESS, else a local Ray.
        started: When the command started, in seconds since 1970; `training.max_minutes` counts from then. Default: now.

    Returns:
        `{"best": scores, "steps": n, "rejected": n, "start": {part: seconds}}`, or `{"stopped": step}` if a
            signal stopped it.

    Raises:
        UsageError: The configuration cannot run here, or the output directory is in use.
        RaycrnnError: Too many samples are unusable, training diverged, or failed more often than
            `cluster.max_failures`.
    """
    started = started or time.time()
    start_times = {}
    output = Directory(storage.absolute(configuration.output_model_dir))
    local = cluster.set_environment(address or os.environ.get("RAY_ADDRESS"))
    if local and configuration.cluster.use_gpu is True:
        cluster.require_gpu()
    resumed = resume.resume_state(output, configuration.restore_model)
    initial_model = None
    if resumed:
        configuration = resume.complete(configuration, resumed)
        # Checkpoints of earlier versions lack the key: they were trained on images as they were.
        before = {"data.line_orientation": "horizontal", **resumed["identity"]}
        resume.check_same_settings(before, configuration.identity())
        if resumed["progress"]["finished"] and not resume.trains_on(output, resumed, configuration.training):
            return resume.finished(output, resumed)
    else:
        configuration, initial_model, csvs = initial_models.prepare_run(configuration)

    from raycrnn.data.alphabet import Alphabet

    if resumed:
        csvs = initial_models.read_csvs(configuration, None)
        if "data.text_direction" not in resumed["identity"]:
            # A checkpoint of an earlier version, which used labels as they were.
            csvs.text_direction = "visual"
        files = {"train": configuration.data.train_csvs, "eval": configuration.eval_csvs}
        resume.check_same_data(resumed, csvs, files, output)
        # Built once: images may have been lost or restored since then.
        csvs.alphabet = Alphabet(tuple(resumed["alphabet"]))
    start_times["imports, configuration, CSVs"] = time.time()
    with storage.lock_output(output), cluster.connect(address, preload="torch"), cluster.Threads() as threads:
        start_times["Ray"] = time.time()
        trains_on = resumed is not None and resumed["progress"]["finished"]
        job = _make_job(configuration, initial_model, csvs, output, started, threads, trains_on)
        # The rows and the weights are in the object store now. Rows take hundreds of megabytes.
        del csvs, initial_model
        trainer.prepare_output(job, output)
        start_times["alphabet, rows, image headers"] = time.time()
        result = _watch(job, threads)
        if "start_times" in result:
            result["start"] = _parts(started, {**start_times, **result.pop("start_times")})
        return result


def _parts(started: float, start_times: dict[str, float]) -> dict[str, float]:
    """Return the seconds that each part of the start took, from the times at which the parts ended."""
    times = [started, *start_times.values()]
    return {part: round(stop - start, 2) for part, start, stop in zip(start_times, times, times[1:], strict=False)}


def _make_job(
    configuration: Configuration,
    initial_model: "initial_models.InitialModel | None",
    csvs: "LabelledCsvs",
    output: Directory,
    started: float,
    threads: cluster.Threads,
    trains_on: bool,
) -> "TrainingJob":
    from raycrnn.ingest import batches, image_cache, training_data
    from raycrnn.training import language_models
    from raycrnn.training.job import TrainingJob
    from raycrnn.training.monitor import start_monitor

    cluster.wait_for_nodes(configuration.cluster)
    parallel_calls = configuration.data.input_data_n_parallel_calls
    nodes = cluster.with_usable_gpus(configuration.cluster, cluster.list_nodes())
    allocation = cluster.allocate(configuration.cluster, parallel_calls, nodes, cluster.is_local())
    _warn_if_busy(allocation)
    # Start these processes while the rows are encoded.
    monitor = start_monitor()
    threads.start(lambda: batches.warm_up(allocation))
    if initial_model:
        initial_model = initial_model.put()
    data = training_data.put(csvs, configuration, output)
    small_share = batch_size.small_share_warning(configuration.training, allocation)
    for warning in (*data.warnings, *filter(None, [allocation.warning, small_share])):
        logger.warning(warning)
    if not cluster.is_local():
        trainer.check_shared(output, data)
        logger.info(f"cluster: {cluster.describe_nodes()}")
    logger.info(f"{data}; {allocation}")
    if initial_model:
        logger.info(initial_model.describe(data.alphabet))
    cache_images = image_cache.should_cache(data.train, configuration)
    logger.info(image_cache.describe(data.train, cache_images))
    output.claim()
    return TrainingJob(
        configuration,
        data,
        str(output),
        allocation,
        started,
        monitor,
        image_cache_registry=monitor,
        cache_images=cache_images,
        initial_model=initial_model,
        language_model=language_models.put(configuration, data),
        trains_on=trains_on,
        owner=output.owner,
    )


def _warn_if_busy(allocation: cluster.TrainingAllocation) -> None:
    import ray

    needed = allocation.num_workers * (
        allocation.cpus_per_worker + allocation.decode_tasks * allocation.cpus_per_decode_task
    )
    free = ray.available_resources().get("CPU", 0)
    if free < 0.99 * needed:
        logger.warning(
            f"{free:g} CPUs are free of {needed:g} needed: training waits until other work on the cluster ends"
        )


def _watch(job: "TrainingJob", threads: cluster.Threads) -> "TrainingResult":
    """Train in a thread, show the progress, and stop the training on a signal."""
    import ray

    from raycrnn.training.console import TrainingProgress

    progress = TrainingProgress()
    try:
        with defer_stop() as stop:
            return _follow(job, threads, progress, stop)
    except ray.exceptions.RayError as error:
        raise RaycrnnError(
            f"the connection to Ray was lost; restore_model=true continues from the last checkpoint: {error}"
        ) from None
    except KeyboardInterrupt:
        progress.close()
        _stop_at_once(job)
        raise
    finally:
        progress.close()


def _follow(
    job: "TrainingJob", threads: cluster.Threads, progress: "TrainingProgress", stop: StopRequest
) -> "TrainingResult":
    import ray

    from raycrnn.ingest import image_cache
    from raycrnn.training.console import Stall
    from raycrnn.training.monitor import publish_image_cache

    nodes_at_start = cluster.list_nodes()
    training = threads.start(lambda: trainer.run_training(job))
    caching: cluster.Background | None = None
    stall, stopping = Stall(), False
    while True:
        # Before reading: a worker posts the result before the training thread ends.
        ended = training.ended
        update = ray.get(job.monitor.read.remote())
        for level, line in update.lines:
            logger.log(level, line)
            progress.restart_timer()
        if update.progress:
            progress.show(update.progress)
        if update.progress and caching is None and job.cache_images:
            # Only after the first step, which it would delay.
            publish = partial(publish_image_cache, job.image_cache_registry)
            caching = threads.start(
                partial(image_cache.fill_or_warn, job.data.train, job.configuration, job.allocation, publish)
            )
        if stall.lasts(update.progress.get("step")):
            logger.info(_describe_stall(stall, job, nodes_at_start))
        if stop.requested and not stopping:
            stopping = True
            logger.info("stopping after this step, with a checkpoint; a second signal (Ctrl-C) stops at once")
            job.monitor.stop.remote()
        if update.result is not None or ended:
            progress.close()
            return _conclude(job, update.result, training)
        time.sleep(0.5)


def _describe_stall(stall: "Stall", job: "TrainingJob", nodes_at_start: cluster.Nodes) -> str:
    import ray

    from raycrnn.training.console import describe_loss

    activities = ray.get(job.monitor.activities.remote())
    return stall.describe(activities) + describe_loss(
        nodes_at_start, cluster.list_nodes(), None if activities else job.allocation
    )


def _stop_at_once(job: "TrainingJob") -> None:
    """Exit if this process trains: Python cannot end that thread, which would crash during a normal exit."""
    import ray

    if job.allocation.in_command:
        logger.info("raycrnn train: stopped")
        ray.shutdown()
        os._exit(130)


def _conclude(job: "TrainingJob", result: "TrainingResult | None", training: cluster.Background) -> "TrainingResult":
    job.monitor.close.remote()
    # The workers must have ended before their CPUs are used for something else.
    training.join()
    if result is None:
        raise RaycrnnError(trainer.describe_failure(job, training.error))
    if "error" in result:
        raise RaycrnnError(result["error"])
    if "stopped" in result:
        logger.info(f"stopped at step {result['stopped']}; the same command with restore_model=true resumes from there")
    if result.get("rejected"):
        logger.info(f"{result['rejected']} samples were left out: see {job.output}/rejected.csv")
    return result
