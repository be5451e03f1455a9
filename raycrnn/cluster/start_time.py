"""Whether it pays to start a local Ray for work that a command could also do in its own process."""

from raycrnn.model.cpus import usable_cpus

LEAST_START_SECONDS = 10.0

START_FACTOR = 4.0
"""Seconds until Ray and its workers have started, for each second of CPU time that the imports took here. With 1.9 s of
imports, a local Ray with two CPUs was ready after 6.3 s, and a worker had imported torch after another 2.5 s."""


def estimate_start_seconds(import_seconds: float) -> float:
    """Return about how long a local Ray and its workers take to start.

    Most of that time they import the libraries that this process has imported, several times in a row.

    Args:
        import_seconds: CPU time of this process when the imports of its command were done.
    """
    return max(LEAST_START_SECONDS, START_FACTOR * import_seconds)


def is_worth_starting(seconds_left: float, start_seconds: float) -> bool:
    """Return whether Ray would save more than its start takes, if the work that is left takes so long in this process.

    With n CPUs, Ray saves at most 1 - 1/n of the time.
    """
    return seconds_left * (1 - 1 / usable_cpus()) > start_seconds
