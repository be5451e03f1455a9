"""Run a training job: in this process, or in workers of Ray Train."""

import shutil
import tempfile
import traceback
from typing import TYPE_CHECKING

from raycrnn import storage
from raycrnn.data import generated_lines, image_files
from raycrnn.data.image_files import SIZES_FILE
from raycrnn.errors import UsageError
from raycrnn.storage import Directory

if TYPE_CHECKING:
    from raycrnn.ingest.training_data import TrainingData
    from raycrnn.training.job import TrainingJob

UNFINISHED = (
    ".ray-*",
    ".model.*",
    ".run.json.*",
    ".metrics.jsonl.*",
    ".rejected.csv.*",
    f".{SIZES_FILE}.*",
    "checkpoints/.step_*",
)
"""Names of files and folders that are still being written. Nothing else in an output directory may be deleted."""

SECONDS_BETWEEN_RESIZES = 30.0
"""Seconds after which an elastic run checks whether it can have more workers. A change restarts all workers."""

IMAGES_TO_LOOK_FOR = 20
"""Number of images of each data set whose presence is checked on all nodes."""


def check_shared(output: Directory, data: "TrainingData") -> None:
    """Raise `UsageError` if a node of the cluster cannot see the output directory, the images, or what draws them."""
    from raycrnn.cluster.nodes import nodes_without
    from raycrnn.ingest import sample_table

    images = [path for table in data.sets.values() for path in sample_table.some_paths(table, IMAGES_TO_LOOK_FOR)]
    recipes = [path for table in data.sets.values() for path in table.csv_paths if generated_lines.is_recipe(path)]
    drawn_from = [file for recipe in recipes for file in generated_lines.sources_of(recipe)]
    files = [file for file in dict.fromkeys(map(image_files.file_of, images)) if not storage.is_uri(file)]
    # A new file, because another node may have a different directory of the same name.
    with tempfile.NamedTemporaryFile(dir=output.path, prefix=".ray-") as probe:
        paths = [*([] if output.uri else [probe.name]), *files, *drawn_from]
        for address, path in nodes_without(paths).items():
            what = f"output_model_dir={output}" if path == probe.name else path
            # Fonts must be on a disk.
            storages = "" if path in drawn_from else "object storage (s3://bucket/…, gs://…) or "
            raise UsageError(
                f"{what}: exists on this machine but not on node {address} of the cluster: use {storages}a disk that "
                "all nodes mount under the same path"
            )


def prepare_output(job: "TrainingJob", directory: Directory) -> None:
    """Make the output directory of a run, delete incomplete files of an earlier command, and write run.json.

    Raises:
        UsageError: It cannot be written.
    """
    from raycrnn.training import run_log

    output = directory.path
    try:
        (output / "checkpoints").mkdir(parents=True, exist_ok=True)
        storage.restore_directory(output / "model")
        # A command that was killed leaves such files.
        for path in (path for pattern in UNFINISHED for path in output.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        run_log.write_run(output / "run.json", job.configuration.model_dump(mode="json"), job.data.csv_digests)
        directory.sync()
    except OSError as error:
        raise UsageError(f"{directory}: cannot be written: {storage.describe(error)}") from None


def run_training(job: "TrainingJob") -> None:
    """Train, and return when the training has ended. Its result or error is at the monitor.

    Raises:
        Exception: An error that a user cannot correct, or the workers died too often; see `describe_failure`.
    """
    _train_here(job) if job.allocation.in_command else _fit(job)


def _train_here(job: "TrainingJob") -> None:
    """Train in this process, as the only worker of a run on this machine.

    The local mode of Ray Train (`ScalingConfig(num_workers=0)`, Ray 2.60) is no replacement. Ctrl-C and errors behave
    the same there, but the first step comes 0.2 s later (2.6 s instead of 2.4 s after Ray has started, medians of five
    runs on two cores), the metrics do not reach Ray, and variables of torchrun in the environment make it join a
    process group.
    """
    import torch

    from raycrnn.training import worker

    worker.run(job, torch.device("cuda" if job.allocation.use_gpu else "cpu"))


def _run_worker(settings: dict) -> None:
    """Train as a worker of Ray Train."""
    import ray.train
    import ray.train.torch

    from raycrnn.training import preemption, worker

    preemption.handle_sigterm()
    worker.run(settings["job"], ray.train.torch.get_device(), ray.train.report)


def _fit(job: "TrainingJob") -> None:
    """Train in workers of Ray Train, which are replaced when they die."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    resources = {"CPU": job.allocation.cpus_per_worker} | ({"GPU": 1} if job.allocation.use_gpu else {})
    # With its own record of an earlier run, Ray Train would resume from it. Runs resume from checkpoints of raycrnn, so
    # Ray Train gets an empty directory. Only its controller writes there, on the node of the command.
    folder = None if storage.is_uri(job.output) else job.output
    with tempfile.TemporaryDirectory(prefix=".ray-", dir=folder, ignore_cleanup_errors=True) as record:
        TorchTrainer(
            _run_worker,
            train_loop_config={"job": job},
            # Type checkers see the classes of an older Ray Train, without elastic workers and some of the arguments.
            scaling_config=ScalingConfig(
                num_workers=job.allocation.scaling,  # type: ignore[arg-type]
                use_gpu=job.allocation.use_gpu,
                resources_per_worker=resources,
                elastic_resize_monitor_interval_s=SECONDS_BETWEEN_RESIZES,  # type: ignore[call-arg]
            ),
            run_config=RunConfig(
                name="run",
                storage_path=record,
                # Without a limit, because a lost node may come back. `console.Stall` reports missing workers.
                failure_config=FailureConfig(
                    max_failures=job.configuration.cluster.max_failures,
                    controller_failure_limit=-1,  # type: ignore[call-arg]
                ),
            ),
        ).fit()


def describe_failure(job: "TrainingJob", error: BaseException | None) -> str:
    """Return the message for a training that ended without a result.

    Args:
        error: What `run_training` raised.
    """
    if job.allocation.in_command:
        cause = "".join(traceback.format_exception(error)).strip() if error else "no error was reported"
        return f"training failed; restore_model=true continues from the last checkpoint. The failure:\n{cause}"
    causes = getattr(error, "worker_failures", None) or {0: error}
    cause = str(next(iter(causes.values()))).strip()
    return (
        f"training failed more than cluster.max_failures={job.configuration.cluster.max_failures} times; "
        f"restore_model=true continues from the last checkpoint. The last failure:\n{cause}"
    )
