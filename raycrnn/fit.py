"""A job carried out: in this process or by workers of Ray Train, in threads, in a directory of its own."""

import fcntl
import os
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raycrnn.errors import UsageError

UNFINISHED = (".ray-*", ".model.*", ".run.json.*", ".metrics.jsonl.*", ".rejected.csv.*", "checkpoints/.step_*")
"""Names of what is being written; nothing else in an output directory may be deleted."""

SECONDS_BETWEEN_RESIZES = 30.0
"""An elastic run looks so often whether it could have more workers; a change starts them anew."""


@contextmanager
def alone_in(output: Path) -> Iterator[None]:
    """Make the output directory and hold it while training. Raises `UsageError` if it cannot be had."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror}") from None
    directory = os.open(output, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UsageError(f"{output}: another command trains in it: wait, or choose another output_model_dir") from None
    finally:
        os.close(directory)


def prepare_output(job: Any) -> None:
    from raycrnn import journal

    output = Path(job.output)
    try:
        (output / "checkpoints").mkdir(parents=True, exist_ok=True)
        # What a run that was killed left half-written.
        for rest in (rest for pattern in UNFINISHED for rest in output.glob(pattern)):
            shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
        journal.write_run(output / "run.json", job.configuration.model_dump(mode="json"), job.material.csv_digests)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror}") from None


def carry_out(job: Any) -> None:
    """Train; returns when the training has ended, whichever way."""
    _train_here(job) if job.plan.in_command else _fit(job)


def _train_here(job: Any) -> None:
    """Train in this process: one worker on this machine, without the seconds and processes that a trainer takes."""
    import torch

    from raycrnn import worker

    worker.run(job, torch.device("cuda" if job.plan.use_gpu else "cpu"))


def _run_worker(settings: dict) -> None:
    """What the trainer has each of its workers do."""
    import ray.train.torch

    from raycrnn import worker

    worker.run(settings["job"], ray.train.torch.get_device())


def _fit(job: Any) -> None:
    """Train by workers of Ray Train, which are replaced when they die."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    resources = {"CPU": job.plan.cpus_per_worker} | ({"GPU": 1} if job.plan.use_gpu else {})
    # Ray's own record of the run would make it resume by itself; ours (checkpoint.py) decides, so it gets a
    # place of its own each time.
    with tempfile.TemporaryDirectory(prefix=".ray-", dir=job.output, ignore_cleanup_errors=True) as record:
        TorchTrainer(
            _run_worker,
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(
                num_workers=job.plan.scaling,
                use_gpu=job.plan.use_gpu,
                resources_per_worker=resources,
                elastic_resize_monitor_interval_s=SECONDS_BETWEEN_RESIZES,
            ),
            run_config=RunConfig(
                name="run",
                storage_path=record,
                # Workers that cannot be placed are tried again without end: a node may come back, and `Stall` says it.
                failure_config=FailureConfig(
                    max_failures=job.configuration.cluster.max_failures, controller_failure_limit=-1
                ),
            ),
        ).fit()


def describe_failure(job: Any, error: BaseException | None) -> str:
    if job.plan.in_command:
        cause = "".join(traceback.format_exception(error)).strip() if error else "no word of what happened"
        return f"training failed; restore_model=true goes on from the last checkpoint. The failure:\n{cause}"
    causes = getattr(error, "worker_failures", None) or {0: error}
    cause = str(next(iter(causes.values()))).strip()
    return (
        f"training failed more than cluster.max_failures={job.configuration.cluster.max_failures} times; "
        f"restore_model=true goes on from the last checkpoint. The last failure:\n{cause}"
    )


class Threads:
    """Threads that are waited for before Ray goes: what they do with it must not be cut off by its end."""

    def __init__(self) -> None:
        self._started: list[Background] = []

    def __enter__(self) -> "Threads":
        return self

    def start(self, function: Callable[[], None]) -> "Background":
        self._started.append(Background(function))
        return self._started[-1]

    def __exit__(self, kind: type | None, *_: object) -> None:
        # Who presses Ctrl-C twice waits for nothing.
        for thread in self._started if kind is not KeyboardInterrupt else ():
            thread.join(10)


class Background:
    """A function in a thread that ends with the process."""

    def __init__(self, function: Callable[[], None]):
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:
            self.error = error

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()
