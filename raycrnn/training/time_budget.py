"""How fast training goes and how much of it is left, by the clock on the wall."""

import time
from collections import deque
from dataclasses import dataclass

CLOSING_SECONDS = 8.0
"""kept of `max_minutes` for the export and for Ray's farewell, beside the last evaluation"""

STEPS_NOT_MEASURED = 5
STEPS_MEASURED = 20
"""by which the rate of the steps to come is judged"""


class TimeBudget:
    """How many steps are left, by epochs and by `training.max_minutes`. Only worker 0's counts."""

    def __init__(self, total_steps: int, deadline: float | None, eval_share: float):
        self._total_steps = total_steps
        self._deadline = deadline
        self._eval_share = eval_share
        self._last: float | None = None
        self._calls = 0
        self._durations: deque[float] = deque(maxlen=STEPS_MEASURED)
        self.evaluation_seconds: float | None = None

    def steps_left(self, step: int) -> int:
        """Steps from `step` on to the end of the schedule, the next one included; called before each."""
        left = self._total_steps - step
        if self._deadline is None:
            return left
        now = time.time()
        self._calls += 1
        # The first steps pay for start-up and tell nothing of the rate.
        if self._last is not None and self._calls > STEPS_NOT_MEASURED:
            self._durations.append(now - self._last)
        self._last = now
        if len(self._durations) < 3:
            return left if now < self._deadline - CLOSING_SECONDS else 0
        # The last few alone: by the mean over the whole run, a slow start would make the schedule run ahead.
        seconds_a_step = sum(self._durations) / len(self._durations)
        closing_seconds = CLOSING_SECONDS + (self.evaluation_seconds or self._guess_evaluation(seconds_a_step))
        return min(left, int((self._deadline - closing_seconds - now) / seconds_a_step))

    def evaluated(self, seconds: float) -> None:
        """An evaluation took so long since the last step."""
        self.evaluation_seconds = seconds
        self._last = None

    def has_time_to_evaluate(self, steps_left: int, seconds_a_step: float) -> bool:
        """Whether an evaluation can be afforded besides the one that ends the run."""
        if self._deadline is None:
            return True
        needed = self.evaluation_seconds or self._guess_evaluation(seconds_a_step)
        return steps_left * seconds_a_step > needed

    def _guess_evaluation(self, seconds_a_step: float) -> float:
        """Before the first evaluation: a forward pass takes less than half of a step, decoding some more."""
        return 0.7 * seconds_a_step * self._eval_share


@dataclass(frozen=True)
class Mark:
    """Sums at the end of a step."""

    time: float
    samples: int = 0
    waited: float = 0.0
    pixels: int = 0
    padding: int = 0


class Throughput:
    """Rates over the last 50 to 100 steps, evaluation left out: the first steps, which warm up, soon drop out.

    Samples are of the global batch, the rest of this worker's share.
    """

    def __init__(self) -> None:
        self._marks: list[Mark] = []
        self._paused = 0.0

    def add(self, samples: int, waited: float, pixels: int, padding: int) -> None:
        seen = self._marks[-1].samples + samples if self._marks else 0
        self._marks.append(Mark(time.monotonic() - self._paused, seen, waited, pixels, padding))
        if len(self._marks) > 100:
            del self._marks[:50]

    def pause(self, seconds: float) -> None:
        self._paused += seconds

    def images_per_second(self) -> float:
        return self._ratio("samples", "time")

    def data_wait(self) -> float:
        """Share of the time in which a step waited for its batch."""
        return self._ratio("waited", "time")

    def padding(self) -> float:
        """Padded pixels over real ones."""
        added = self._ratio("padding", "pixels")
        return added / (1 - added)

    def seconds_a_step(self) -> float:
        if len(self._marks) < 2:
            return 0.0
        return (self._marks[-1].time - self._marks[0].time) / (len(self._marks) - 1)

    def _ratio(self, name: str, other: str) -> float:
        if len(self._marks) < 2:
            return 0.0
        first, last = self._marks[0], self._marks[-1]
        by = getattr(last, other) - getattr(first, other)
        return (getattr(last, name) - getattr(first, name)) / by if by else 0.0
