"""Measure the speed of training, and estimate the steps that are left within `training.max_minutes`."""

import math
import time
from collections import deque
from dataclasses import dataclass

CLOSING_SECONDS = 8.0
"""Seconds of `training.max_minutes` that export and shutdown take, besides the last evaluation."""

STEPS_NOT_MEASURED = 5
"""First steps of a command that are not measured, because they include the start-up."""

STEPS_MEASURED = 20
"""Last steps from which the duration of the next ones is estimated."""


class TimeBudget:
    """The number of steps left, by the number of epochs and by `training.max_minutes`.

    Only the estimates of worker 0 are used.

    Args:
        total_steps: Steps of all epochs.
        deadline: When the run must have ended, in seconds since 1970; None without a limit.
        eval_share: Size of the evaluation set in training batches.
        interval: Steps between two evaluations.
        trial: Duration of what follows the last evaluation, except for `CLOSING_SECONDS`, relative to it.
    """

    def __init__(self, total_steps: int, deadline: float | None, eval_share: float, interval: int, trial: float = 0.0):
        self._total_steps = total_steps
        self._deadline = None if deadline is None else deadline - CLOSING_SECONDS
        self._trial = trial
        self._eval_share = eval_share
        self._interval = interval
        self._last: float | None = None
        self._calls = 0
        self._durations: deque[float] = deque(maxlen=STEPS_MEASURED)
        self.evaluation_seconds: float | None = None
        """Seconds of the last evaluation."""

    def steps_left(self, step: int) -> int:
        """Return the number of steps from `step` to the end of the schedule. Must be called before each step."""
        left = self._total_steps - step
        if self._deadline is None:
            return left
        now = time.time()
        self._calls += 1
        if self._last is not None and self._calls > STEPS_NOT_MEASURED:
            self._durations.append(now - self._last)
        self._last = now
        if len(self._durations) < 3:
            return left if now < self._deadline else 0
        # Only the last steps: with the mean over all steps, a slow start would make the schedule too fast.
        seconds_per_step = sum(self._durations) / len(self._durations)
        evaluation = self._evaluation_seconds(seconds_per_step)
        remaining = self._seconds_to_train(now, evaluation)
        remaining -= evaluation * self._evaluations_left(step, remaining, seconds_per_step, evaluation)
        return min(left, int(remaining / seconds_per_step))

    def _seconds_to_train(self, now: float, evaluation: float) -> float:
        """Return the seconds left for steps and evaluations, without the evaluation at the end and what follows it."""
        deadline = math.inf if self._deadline is None else self._deadline
        return deadline - (1 + self._trial) * evaluation - now

    def _evaluations_left(self, step: int, remaining: float, seconds_per_step: float, evaluation: float) -> int:
        """Return how many evaluations `has_time_to_evaluate` will allow besides the one at the end.

        Args:
            remaining: Seconds left for steps and evaluations.
            evaluation: Seconds of an evaluation.
        """
        # Evaluation k is allowed if more time than that of two is left before it. Before it lie `steps_before`, k - 1
        # intervals and k - 1 evaluations. This is the number of such k.
        steps_before = -step % self._interval if step else self._interval
        too_much = remaining - steps_before * seconds_per_step - 2 * evaluation
        return max(0, math.ceil(too_much / (evaluation + self._interval * seconds_per_step)))

    def evaluated(self, seconds: float) -> None:
        """Record the duration of an evaluation."""
        self.evaluation_seconds = seconds
        self._last = None

    def has_time_to_evaluate(self, seconds_per_step: float) -> bool:
        """Return whether there is time for an evaluation besides the one at the end.

        There is if training after it takes longer than the evaluation.
        """
        evaluation = self._evaluation_seconds(seconds_per_step)
        return self._seconds_to_train(time.time(), evaluation) > 2 * evaluation

    def _evaluation_seconds(self, seconds_per_step: float) -> float:
        """Estimate the seconds of an evaluation: those of the last one.

        Before the first one it is a guess: less than half a step for each batch's forward pass, and more for decoding.
        """
        if self.evaluation_seconds is not None:
            return self.evaluation_seconds
        return 0.7 * seconds_per_step * self._eval_share


@dataclass(frozen=True)
class StepTotals:
    """Totals of all steps up to one of them."""

    time: float
    """Monotonic time at the end of the step, without pauses, in seconds."""
    samples: int = 0
    waited: float = 0.0
    """Seconds of waiting for batches."""
    pixels: int = 0
    padding: int = 0
    """Pixels of padding among `pixels`."""


class Throughput:
    """Rates over the last 50 to 100 steps, without evaluations.

    Samples are those of the global batch; waiting, pixels and padding are those of this worker.
    """

    def __init__(self) -> None:
        self._totals: list[StepTotals] = []
        self._paused = 0.0

    def add(self, samples: int, waited: float, pixels: int, padding: int) -> None:
        """Record a step: its samples, and the totals of the others over all steps."""
        seen = self._totals[-1].samples + samples if self._totals else 0
        self._totals.append(StepTotals(time.monotonic() - self._paused, seen, waited, pixels, padding))
        if len(self._totals) > 100:
            del self._totals[:50]

    def pause(self, seconds: float) -> None:
        """Leave out the last seconds, for example those of an evaluation."""
        self._paused += seconds

    def images_per_second(self) -> float:
        """Return the images per second that all workers together train on."""
        return self._ratio("samples", "time")

    def data_wait(self) -> float:
        """Return the fraction of the time that steps waited for their batches."""
        return self._ratio("waited", "time")

    def padding(self) -> float:
        """Return the ratio of padding to image pixels."""
        added = self._ratio("padding", "pixels")
        return added / (1 - added)

    def seconds_per_step(self) -> float:
        """Return the mean duration of a step, 0 before the second one."""
        if len(self._totals) < 2:
            return 0.0
        return (self._totals[-1].time - self._totals[0].time) / (len(self._totals) - 1)

    def _ratio(self, name: str, other: str) -> float:
        if len(self._totals) < 2:
            return 0.0
        first, last = self._totals[0], self._totals[-1]
        by = getattr(last, other) - getattr(first, other)
        return (getattr(last, name) - getattr(first, name)) / by if by else 0.0
