"""Run a training command: start, follow, stop."""

import os
import time
from collections.abc import Sequence
from typing import Any

from raycrnn import cluster, speeds, storage
from raycrnn.config import Configuration
from raycrnn.console import Interrupt, defer_interrupt, say
from raycrnn.errors import RaycrnnError
from raycrnn.storage import Directory
from raycrnn.training import resume, trainer


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
    with storage.alone_in(output), cluster.connect(address, ahead="torch"), cluster.Threads() as threads:
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
    from raycrnn.training.monitor import Monitor

    cluster.wait_for_nodes(configuration.cluster, say)
    parallel_calls = configuration.data.input_data_n_parallel_calls
    plan = cluster.allocate(configuration.cluster, parallel_calls, cluster.list_nodes(), cluster.is_local())
    _warn_if_busy(plan)
    # Their processes start while the rows are encoded.
    monitor = Monitor.options(scheduling_strategy=cluster.on_this_node()).remote()
    threads.start(lambda: batches.warm_up(plan))
    read = training_data.put(csvs, configuration, output)
    for warning in (*read.warnings, *filter(None, [plan.warning])):
        say(f"warning: {warning}")
    if not cluster.is_local():
        trainer.check_shared(output, read)
        say(f"cluster: {cluster.describe_nodes()}")
    say(f"{read}; {plan}")
    if expected := _expected(configuration, read, plan):
        say(expected)
    kept = image_cache.fits(read.train, configuration)
    say(image_cache.describe(read.train, kept))
    output.take()
    return TrainingJob(
        configuration, read, str(output), plan, started, monitor, shelf=monitor, keep=kept, owner=output.owner
    )


IMAGES_TO_LOOK_AT = 1000


def _expected(configuration: Configuration, read: Any, plan: Any) -> str | None:
    """What measured speeds say of the run; None where they, or the images' widths, are not known."""
    import ray

    from raycrnn.ingest import sample_table

    # A GPU of a kind is as fast on any machine; of processors only this machine's is known.
    device = _gpus(ray.nodes()) if plan.use_gpu else speeds.processor() if cluster.is_local() else None
    if device is None or any(map(storage.is_uri, sample_table.some_paths(read.train, IMAGES_TO_LOOK_AT))):
        return None
    work = speeds.Work(
        workers=plan.num_workers,
        device=device,
        threads=None if plan.use_gpu else plan.threads,
        network=speeds.Network.of(configuration.model, configuration.image),
        precision=configuration.training.precision,
        classes=len(read.alphabet) + 1,
        batch=configuration.training.train_batch_size / plan.num_workers,
        width=read.train.mean_width,
    )
    return speeds.expected(speeds.known(say), work)


def _gpus(nodes: Sequence[dict]) -> str | None:
    """What Ray calls the GPUs of its nodes; None where they are of several kinds, or of one that it does not know."""
    mark = "accelerator_type:"
    resources = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("GPU")]
    kinds = [[name.removeprefix(mark) for name in each if name.startswith(mark)] for each in resources]
    return kinds[0][0] if kinds and all(len(kind) == 1 and kind == kinds[0] for kind in kinds) else None


def _warn_if_busy(plan: Any) -> None:
    import ray

    needed = plan.num_workers * (plan.cpus_per_worker + plan.decode_tasks * plan.cpus_per_decode_task)
    free = ray.available_resources().get("CPU", 0)
    if free < 0.99 * needed:
        say(f"warning: {free:g} CPUs are free of {needed:g} needed: training waits for what else runs on the cluster")


def _watch(job: Any, threads: cluster.Threads) -> dict:
    """Run the trainer beside this thread, show what it does, pass Ctrl-C on."""
    import ray

    from raycrnn.training.console import Screen

    screen = Screen()
    try:
        with defer_interrupt() as interrupt:
            return _follow(job, threads, screen, interrupt)
    except ray.exceptions.RayError as error:
        raise RaycrnnError(f"Ray was lost; restore_model=true goes on from the last checkpoint: {error}") from None
    except KeyboardInterrupt:
        screen.close()
        _stop_at_once(job)
        raise
    finally:
        screen.close()


def _follow(job: Any, threads: cluster.Threads, screen: Any, interrupt: Interrupt) -> dict:
    import ray

    from raycrnn.ingest import image_cache
    from raycrnn.training.console import Stall

    before = cluster.list_nodes()
    training = threads.start(lambda: trainer.run_training(job))
    keeper: cluster.Background | None = None
    stall, stopping = Stall(), False
    while True:
        # In this order: a worker's last word is posted before its trainer ends.
        ended = training.ended
        news = ray.get(job.monitor.read.remote())
        for line in news.lines:
            screen.line(line)
        screen.show(news.progress)
        if news.progress and keeper is None and job.keep:
            # From the first step on, so that it does not come later.
            keeper = threads.start(
                lambda: image_cache.fill_beside(job.material.train, job.configuration, job.plan, job.shelf, screen.line)
            )
        if stall.lasts(news.progress.get("step")):
            screen.line(_describe_stall(stall, job, before))
        if interrupt.pressed and not stopping:
            stopping = True
            screen.line("stopping after this step, with a checkpoint; Ctrl-C again stops at once")
            job.monitor.stop.remote()
        if news.outcome is not None or ended:
            screen.close()
            return _conclude(job, news.outcome, training)
        time.sleep(0.5)


def _describe_stall(stall: Any, job: Any, before: cluster.Nodes) -> str:
    import ray

    from raycrnn.training.console import describe_loss

    doing = ray.get(job.monitor.doing.remote())
    return stall.describe(doing) + describe_loss(before, cluster.list_nodes(), None if doing else job.plan)


def _stop_at_once(job: Any) -> None:
    import ray

    if job.plan.in_command:
        # Python cannot end a thread that computes; leaving it to the interpreter's end may crash in the middle.
        say("raycrnn train: stopped")
        ray.shutdown()
        os._exit(130)


def _conclude(job: Any, outcome: dict | None, training: cluster.Background) -> dict:
    job.monitor.close.remote()
    # The workers' CPUs are given back; of a local Ray the rest ends with it.
    training.join(cluster.SECONDS_TO_END)
    if outcome is None:
        raise RaycrnnError(trainer.describe_failure(job, training.error))
    if "error" in outcome:
        raise RaycrnnError(outcome["error"])
    if "stopped" in outcome:
        say(f"stopped at step {outcome['stopped']}; the same command with restore_model=true goes on from there")
    if outcome.get("rejected"):
        say(f"{outcome['rejected']} samples could not be used: see {job.output}/rejected.csv")
    return outcome
