"""Decide when the checkpoints of a run are due, and write them."""

import time
from typing import TYPE_CHECKING

from raycrnn.training import checkpoint, collectives

if TYPE_CHECKING:
    from torch import Tensor

    from raycrnn.training.job import TrainingJob
    from raycrnn.training.learner import Learner
    from raycrnn.training.output import RunOutput
    from raycrnn.training.preemption import PreemptionNotices
    from raycrnn.training.rejected_samples import RejectedSamples

SECONDS_BETWEEN_SAVES = 30.0
"""Least seconds between two checkpoints after evaluations: epochs of a small data set are shorter than a checkpoint."""


class CheckpointSaver:
    """Writes the checkpoints of a run.

    Args:
        seconds_before: Seconds that earlier commands spent on the run.
        notices: Notices that workers or nodes are lost; None if this process is not a worker of Ray Train.
    """

    def __init__(
        self,
        job: "TrainingJob",
        output: "RunOutput",
        learner: "Learner",
        rejected: "RejectedSamples",
        seconds_before: float,
        notices: "PreemptionNotices | None",
    ):
        self._job, self._output, self._learner, self._rejected = job, output, learner, rejected
        self._seconds_before, self._notices = seconds_before, notices
        self._last_time = time.monotonic()
        self._saved: tuple[int, int] | None = None
        """The last steps of training and evaluation that a checkpoint of this command has."""

    def is_due_at_once(self) -> bool:
        """Return whether this worker knows that a worker or a node is lost. All workers then wait for a checkpoint."""
        return self._notices is not None and self._notices.save_is_due()

    def is_due_by_time(self) -> bool:
        """Return whether the last checkpoint is older than `training.save_minutes`. The answer of worker 0 counts."""
        minutes = self._job.configuration.training.save_minutes
        return time.monotonic() - self._last_time > 60 * minutes and not self._output.is_writing

    def is_due_after_evaluation(self) -> bool:
        """Return whether a checkpoint is due after an evaluation. The answer of worker 0 counts."""
        return self._saved is None or time.monotonic() - self._last_time > SECONDS_BETWEEN_SAVES

    def save(self) -> None:
        """Write a checkpoint of the current step. All workers must call it.

        Raises:
            WriteError: Worker 0 cannot write. All workers raise it.
        """
        step = self._learner.progress.step
        self._output.write(_name(step), lambda: self._write(self._state(), self._learner.state_tensors()), step)
        self._note_saved()
        if self._notices is not None:
            self._notices.saved()

    def save_in_background(self) -> None:
        """Write a checkpoint of the current step, unless there is one, on worker 0 while training goes on."""
        if collectives.rank() != 0 or self._saved == self._position:
            return
        step, state = self._learner.progress.step, self._state()
        copied = checkpoint.copy_tensors(self._learner.state_tensors())
        self._output.write_in_background(_name(step), lambda: self._write(state, copied()), step)
        self._note_saved()

    def elapsed(self) -> checkpoint.ElapsedSeconds:
        """Return the wall time of the run."""
        earlier, started = self._seconds_before, self._job.started
        return {"command": started, "earlier": earlier, "all": earlier + time.time() - started}

    @property
    def _position(self) -> tuple[int, int]:
        return self._learner.progress.step, self._learner.progress.evaluated_at

    def _state(self) -> checkpoint.RunState:
        return checkpoint.make_state(self._job, self._learner.progress, self.elapsed(), self._rejected)

    def _write(self, state: checkpoint.RunState, tensors: "dict[str, Tensor]") -> None:
        checkpoint.save(self._output.path / "checkpoints", state["progress"]["step"], state, tensors)

    def _note_saved(self) -> None:
        self._last_time, self._saved = time.monotonic(), self._position


def _name(step: int) -> str:
    return f"checkpoints, step {step}"
