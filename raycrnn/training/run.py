"""Run a training command: start, follow, stop."""

import logging
import os
import time
from functools import partial
from typing import Any

from raycrnn import cluster, storage
from raycrnn.config import Configuration
from raycrnn.console import ProgressBar, StopRequest, defer_stop
from raycrnn.errors import RaycrnnError
from raycrnn.storage import Directory
from raycrnn.training import resume, trainer

logger = logging.getLogger(__name__)


def train(configuration: Configuration, address: str | None = None, started: float | None = None) -> dict:
    """Run a whole training.

    Args:
        started: seconds since 1970 from which `training.max_minutes` counts; default now.

    Returns:
        `{"best": scores, "steps": n, "rejected": n, "start": {part: seconds}}`, or `{"stopped": step}` after Ctrl-C.

    Raises:
        UsageError: a configuration that cannot run here, an output directory that is in use.
        RaycrnnError: too many unusable samples, divergence, more failures than `cluster.max_failures`.
    """
    started = started or time.time()
    marks = {}
    output = Directory(storage.absolute(configuration.output_model_dir))
    cluster.set_environment(address or os.environ.get("RAY_ADDRESS"))
    resumed = resume.resume_state(output, configuration.restore_model)
    if resumed:
        resume.check_same_settings(resumed["identity"], configuration.identity())
        if resumed["progress"]["finished"]:
            return resume.finished(output, resumed)

    from raycrnn.ingest import training_data

    csvs = training_data.read(configuration)
    if resumed:
        resume.check_same_data(resumed, csvs.digests, csvs.alphabet.units, output)
    marks["imports, configuration, CSVs"] = time.time()
    with storage.lock_output(output), cluster.connect(address, preload="torch"), cluster.Threads() as threads:
        marks["Ray"] = time.time()
        job = _make_job(configuration, csvs, output, started, threads)
        # The rows are in the object store now.
        del csvs
        trainer.prepare_output(job, output)
        marks["alphabet, rows, image headers"] = time.time()
        outcome = _watch(job, threads)
        if "marks" in outcome:
            outcome["start"] = _parts(started, {**marks, **outcome.pop("marks")})
        return outcome


def _parts(started: float, marks: dict[str, float]) -> dict[str, float]:
    """Seconds that each part of the start took, by the times at which they ended."""
    times = [started, *marks.values()]
    return {part: round(stop - start, 2) for part, start, stop in zip(marks, times, times[1:], strict=False)}


def _make_job(
    configuration: Configuration, csvs: Any, output: Directory, started: float, threads: cluster.Threads
) -> Any:
    from raycrnn.ingest import batches, image_cache, training_data
    from raycrnn.training.job import TrainingJob
    from raycrnn.training.monitor import start_monitor

    cluster.wait_for_nodes(configuration.cluster)
    parallel_calls = configuration.data.input_data_n_parallel_calls
    allocation = cluster.allocate(configuration.cluster, parallel_calls, cluster.list_nodes(), cluster.is_local())
    _warn_if_busy(allocation)
    # Their processes start while the rows are encoded.
    monitor = start_monitor()
    threads.start(lambda: batches.warm_up(allocation))
    read = training_data.put(csvs, configuration, output)
    for warning in (*read.warnings, *filter(None, [allocation.warning])):
        logger.warning(f"{warning}")
    if not cluster.is_local():
        trainer.check_shared(output, read)
        logger.info(f"cluster: {cluster.describe_nodes()}")
    logger.info(f"{read}; {allocation}")
    cache_images = image_cache.should_cache(read.train, configuration)
    logger.info(image_cache.describe(read.train, cache_images))
    output.take()
    return TrainingJob(
        configuration,
        read,
        str(output),
        allocation,
        started,
        monitor,
        image_cache_registry=monitor,
        cache_images=cache_images,
        owner=output.owner,
    )


def _warn_if_busy(allocation: Any) -> None:
    import ray

    needed = allocation.num_workers * (
        allocation.cpus_per_worker + allocation.decode_tasks * allocation.cpus_per_decode_task
    )
    free = ray.available_resources().get("CPU", 0)
    if free < 0.99 * needed:
        logger.warning(f"{free:g} CPUs are free of {needed:g} needed: training waits for what else runs on the cluster")


def _watch(job: Any, threads: cluster.Threads) -> dict:
    """Run the trainer beside this thread, show what it does, pass Ctrl-C on."""
    import ray

    from raycrnn.training.console import BAR_LAYOUT

    bar = ProgressBar(1.0, BAR_LAYOUT)
    try:
        with defer_stop() as stop:
            return _follow(job, threads, bar, stop)
    except ray.exceptions.RayError as error:
        raise RaycrnnError(f"Ray was lost; restore_model=true goes on from the last checkpoint: {error}") from None
    except KeyboardInterrupt:
        bar.close()
        _stop_at_once(job)
        raise
    finally:
        bar.close()


def _follow(job: Any, threads: cluster.Threads, bar: ProgressBar, stop: StopRequest) -> dict:
    import ray

    from raycrnn.ingest import image_cache
    from raycrnn.training.console import Stall, show_progress
    from raycrnn.training.monitor import publish_image_cache

    before = cluster.list_nodes()
    training = threads.start(lambda: trainer.run_training(job))
    keeper: cluster.Background | None = None
    stall, stopping = Stall(), False
    while True:
        # In this order: a worker's last word is posted before its trainer ends.
        ended = training.ended
        news = ray.get(job.monitor.read.remote())
        for level, line in news.lines:
            logger.log(level, line)
        if news.progress:
            show_progress(bar, news.progress)
        if news.progress and keeper is None and job.cache_images:
            # From the first step on, so that it does not come later.
            publish = partial(publish_image_cache, job.image_cache_registry)
            keeper = threads.start(
                partial(image_cache.fill_or_warn, job.data.train, job.configuration, job.allocation, publish)
            )
        if stall.lasts(news.progress.get("step")):
            logger.info(_describe_stall(stall, job, before))
        if stop.requested and not stopping:
            stopping = True
            logger.info("stopping after this step, with a checkpoint; Ctrl-C again stops at once")
            job.monitor.stop.remote()
        if news.outcome is not None or ended:
            bar.close()
            return _conclude(job, news.outcome, training)
        time.sleep(0.5)


def _describe_stall(stall: Any, job: Any, before: cluster.Nodes) -> str:
    import ray

    from raycrnn.training.console import describe_loss

    doing = ray.get(job.monitor.doing.remote())
    return stall.describe(doing) + describe_loss(before, cluster.list_nodes(), None if doing else job.allocation)


def _stop_at_once(job: Any) -> None:
    import ray

    if job.allocation.in_command:
        # Python cannot end a thread that computes; leaving it to the interpreter's end may crash in the middle.
        logger.info("raycrnn train: stopped")
        ray.shutdown()
        os._exit(130)


def _conclude(job: Any, outcome: dict | None, training: cluster.Background) -> dict:
    job.monitor.close.remote()
    # The workers' CPUs are given back; of a local Ray the rest ends with it.
    training.join()
    if outcome is None:
        raise RaycrnnError(trainer.describe_failure(job, training.error))
    if "error" in outcome:
        raise RaycrnnError(outcome["error"])
    if "stopped" in outcome:
        logger.info(
            f"stopped at step {outcome['stopped']}; the same command with restore_model=true goes on from there"
        )
    if outcome.get("rejected"):
        logger.info(f"{outcome['rejected']} samples could not be used: see {job.output}/rejected.csv")
    return outcome
