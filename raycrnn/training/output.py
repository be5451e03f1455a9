"""Use the output directory of a training run from several workers."""

from collections.abc import Callable

import torch

from raycrnn import storage
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
            WriteError: Worker 0 cannot write. All workers raise it.
        """
        self._reporter.set_activity(f"writing {name}, or waiting for worker 0 to write it")
        problem = None
        if collectives.rank() == 0:
            try:
                write()
                self.directory.sync()
            except OSError as error:
                problem = storage.describe(error)
        if collectives.from_worker_0(problem is not None, self._device):
            raise self.failure(name, problem, step)

    def failure(self, name: str, problem: str | None, step: int) -> WriteError:
        """Return the error to raise when a file or folder cannot be written."""
        return WriteError(
            f"{self.directory}/{name}: cannot be written at step {step}: {problem}. The last checkpoint and the model "
            "are unchanged: free some space and continue with restore_model=true"
        )
