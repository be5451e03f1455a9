"""A job carried out: in this process or by workers of Ray Train, in threads, in a directory of its own."""

import shutil
import tempfile
import traceback
from typing import Any

from raycrnn import storage
from raycrnn.errors import UsageError
from raycrnn.storage import Directory

UNFINISHED = (".ray-*", ".model.*", ".run.json.*", ".metrics.jsonl.*", ".rejected.csv.*", "checkpoints/.step_*")
"""Names of what is being written; nothing else in an output directory may be deleted."""

SECONDS_BETWEEN_RESIZES = 30.0
"""An elastic run looks so often whether it could have more workers; a change starts them anew."""


IMAGES_TO_LOOK_FOR = 20


def check_shared(output: Directory, read: Any) -> None:
    """Raises `UsageError` if a node does not see the output directory, or some images."""
    from raycrnn.cluster.nodes import nodes_without
    from raycrnn.ingest import sample_table

    images = [path for each in read.sets.values() for path in sample_table.some_paths(each, IMAGES_TO_LOOK_FOR)]
    # One that others cannot have by chance.
    with tempfile.NamedTemporaryFile(dir=output.path, prefix=".ray-") as mark:
        places = [] if output.uri else [mark.name]
        places += [path for path in images if not storage.is_uri(path)]
        for address, path in nodes_without(places).items():
            what = f"output_model_dir={output}" if path == mark.name else path
            raise UsageError(
                f"{what}: on this machine, and not to be seen on the cluster's node {address}: use object storage "
                "(s3://bucket/…, gs://…) or a disk that all nodes mount under the same path"
            )


def prepare_output(job: Any, place: Directory) -> None:
    from raycrnn.training import run_log

    output = place.path
    try:
        (output / "checkpoints").mkdir(parents=True, exist_ok=True)
        storage.restore_directory(output / "model")
        # What a run that was killed left half-written.
        for rest in (rest for pattern in UNFINISHED for rest in output.glob(pattern)):
            shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
        run_log.write_run(output / "run.json", job.configuration.model_dump(mode="json"), job.data.csv_digests)
        place.push()
    except OSError as error:
        raise UsageError(f"{place}: cannot be written: {storage.describe(error)}") from None


def run_training(job: Any) -> None:
    """Train; returns when the training has ended, whichever way."""
    _train_here(job) if job.allocation.in_command else _fit(job)


def _train_here(job: Any) -> None:
    """Train in this process: one worker on this machine, without the seconds and processes that a trainer takes."""
    import torch

    from raycrnn.training import worker

    worker.run(job, torch.device("cuda" if job.allocation.use_gpu else "cpu"))


def _run_worker(settings: dict) -> None:
    """What the trainer has each of its workers do."""
    import ray.train
    import ray.train.torch

    from raycrnn.training import worker

    worker.run(settings["job"], ray.train.torch.get_device(), ray.train.report)


def _fit(job: Any) -> None:
    """Train by workers of Ray Train, which are replaced when they die."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    resources = {"CPU": job.allocation.cpus_per_worker} | ({"GPU": 1} if job.allocation.use_gpu else {})
    # Ray's own record of the run would make it resume by itself; ours (checkpoint.py) decides, so it gets a
    # place of its own each time. Only the controller writes there, which Ray Train places beside the command.
    folder = None if storage.is_uri(job.output) else job.output
    with tempfile.TemporaryDirectory(prefix=".ray-", dir=folder, ignore_cleanup_errors=True) as record:
        TorchTrainer(
            _run_worker,
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(
                num_workers=job.allocation.scaling,
                use_gpu=job.allocation.use_gpu,
                resources_per_worker=resources,
                elastic_resize_monitor_interval_s=SECONDS_BETWEEN_RESIZES,  # type: ignore[call-arg]
            ),
            run_config=RunConfig(
                name="run",
                storage_path=record,
                # Workers that cannot be placed are tried again without end: a node may come back, and `Stall` says it.
                failure_config=FailureConfig(
                    max_failures=job.configuration.cluster.max_failures,
                    controller_failure_limit=-1,  # type: ignore[call-arg]
                ),
            ),
        ).fit()


def describe_failure(job: Any, error: BaseException | None) -> str:
    if job.allocation.in_command:
        cause = "".join(traceback.format_exception(error)).strip() if error else "no error was reported"
        return f"training failed; restore_model=true continues from the last checkpoint. The failure:\n{cause}"
    causes = getattr(error, "worker_failures", None) or {0: error}
    cause = str(next(iter(causes.values()))).strip()
    return (
        f"training failed more than cluster.max_failures={job.configuration.cluster.max_failures} times; "
        f"restore_model=true continues from the last checkpoint. The last failure:\n{cause}"
    )
