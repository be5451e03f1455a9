"""Use the output directory of a training run from several workers."""

from collections.abc import Callable
from functools import partial
from typing import NoReturn

import torch

from raycrnn import storage
from raycrnn.cluster.background import Background
from raycrnn.data.image_files import SIZES_FILE
from raycrnn.errors import StorageError, WriteError
from raycrnn.storage import Directory
from raycrnn.training import collectives
from raycrnn.training.monitor import Reporter


class RunOutput:
    """The output directory of a run. Only worker 0 writes. If a worker fails, all of them raise an error in the same
    step: otherwise, the others would wait for it."""

    def __init__(self, directory: Directory, reporter: Reporter, device: torch.device):
        self.directory, self.path = directory, directory.path
        self._reporter, self._device = reporter, device
        self._writing: Background | None = None
        self._failure: Exception | None = None

    def fetch(self, *names: str) -> None:
        """Download files and folders from object storage to this worker. All workers must call it.

        Raises:
            StorageError: A worker cannot read them. All workers raise it.
        """
        self._reporter.set_activity("reading checkpoints, or waiting for other workers to read them")
        problem = None
        try:
            self.directory.fetch(*names)
        except StorageError as error:
            problem = str(error)
        problems = [problem for problem in collectives.gather(problem) if problem is not None]
        if problems:
            raise StorageError(problems[0])

    def write(self, name: str, write: Callable[[], None], step: int) -> None:
        """Write a file or folder on worker 0, and copy it to object storage. All workers must call it.

        Args:
            name: Name of the file or folder, for messages.
            write: Writes it; called on worker 0 only.
            step: The current step, for messages.

        Raises:
            WriteError: Worker 0 cannot write it, or could not write another one in the background. All workers raise
                it.
        """
        self._reporter.set_activity(f"writing {name}, or waiting for worker 0 to write it")
        if collectives.rank() == 0:
            self._wait()
            if not self.has_failed:
                self._attempt(name, write, step)
        if collectives.from_worker_0(self.has_failed, self._device):
            self.raise_failure(name, step)

    def write_in_background(self, name: str, write: Callable[[], None], step: int) -> None:
        """Write as `write` does, but in a thread, after the end of the previous one. Only worker 0 may call it.

        If it fails, `has_failed` is set, and the next `write` raises the error.
        """
        self._reporter.set_activity(f"waiting for the end of writing before {name} is written")
        self._wait()
        self._writing = Background(partial(self._attempt, name, write, step))

    @property
    def is_writing(self) -> bool:
        """Whether this worker is writing in the background."""
        return self._writing is not None and not self._writing.ended

    @property
    def has_failed(self) -> bool:
        """Whether this worker could not write something, and `raise_failure` has not been called since."""
        return self._failure is not None

    def fail(self, name: str, error: OSError, step: int) -> None:
        """Set `has_failed`, because of an error of this worker. The arguments are as in `write`."""
        self._failure = WriteError(
            f"{self.directory}/{name}: cannot be written at step {step}: {storage.describe(error)}. The last "
            "checkpoint and the model are unchanged: free some space and continue with restore_model=true"
        )

    def raise_failure(self, name: str, step: int) -> NoReturn:
        """Raise the error of worker 0. All workers must call it; the others know less: a name and a step."""
        failure, self._failure = self._failure, None
        raise failure or WriteError(f"{self.directory}/{name}: cannot be written at step {step} by worker 0")

    def close(self) -> None:
        """Wait until nothing is written in the background any more, and report an error that was not raised."""
        self._wait()
        if self._failure is not None:
            self._reporter.warning(str(self._failure))

    def _attempt(self, name: str, write: Callable[[], None], step: int) -> None:
        try:
            write()
            self.directory.sync()
        except OSError as error:
            self.fail(name, error, step)
        except Exception as error:
            # For `raise_failure`, because the other workers would wait for this one.
            self._failure = error

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.join(None)


def describe_changed(uri: str, output: str) -> str:
    """Return the warning about an image whose width is not the measured one."""
    return (
        f"{uri}: the width of the image is not the one in {output}/{SIZES_FILE}. If images were replaced, batches are "
        "padded more than necessary: stop the run, delete this file and continue with restore_model=true"
    )
