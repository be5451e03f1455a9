"""How fast training steps were by `bench step`, kept for the start of a run to tell what to expect.

They are in a file of the user's cache, `raycrnn/speeds.json`: a list of `Speed`. `bench step` alone writes it.
"""

import datetime
import math
import os
import platform
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from raycrnn import __version__, storage
from raycrnn.config import Group, Image, Model, Positive

MOST_UNLIKE = 4.0
"""A step of more times the pixels, or of as much less, has another rate: what it takes beside them counts as well."""

MOST_CLASSES = 10
"""times those measured with; with more of them the last layer and the loss are no longer a small part."""


class Network(Group):
    """What of a configuration decides how long a network takes for a pixel."""

    cnn_channels: tuple[Positive, ...]
    lstm_size: Positive
    lstm_layers: Positive
    input_channels: Positive
    height: Positive
    """of the images in pixels"""

    @classmethod
    def of(cls, model: Model, image: Image) -> "Network":
        return cls(
            cnn_channels=model.channels,
            lstm_size=model.lstm_units,
            lstm_layers=model.lstm_layers,
            input_channels=image.input_channels,
            height=image.input_shape[0],
        )


@dataclass(frozen=True)
class Work:
    """What a run is to do, as far as its speed depends on it."""

    workers: int
    device: str
    """of each: a GPU as Ray calls it (H100), or the processor"""
    threads: int | None
    """of each on the CPU; None: a GPU"""
    network: Network
    precision: str
    """as configured: auto, fp32, bf16"""
    classes: int
    """units and the blank"""
    batch: float
    """images a step of each worker"""
    width: float
    """of the images in pixels, their mean"""


class Speed(Group):
    """A measurement: training steps of one worker on images of one size, all in memory."""

    device: str
    """a GPU's name as torch has it, or the processor's"""
    threads: Positive | None
    """of the CPU; None: a GPU"""
    network: Network
    precision: Literal["bf16", "fp32"]
    """that auto came to"""
    classes: Positive
    """units and the blank"""
    batch: Positive
    """images a step"""
    width: Positive
    """of the images in pixels"""
    images_per_second: Annotated[float, Field(gt=0)]
    date: datetime.date
    versions: dict[str, str]
    """of what makes the speed"""

    def is_of(self, work: Work) -> bool:
        """Whether it tells how fast such work is."""
        return (
            self._is_on(work)
            and self.network == work.network
            and work.precision in ("auto", self.precision)
            and work.classes <= MOST_CLASSES * self.classes
            and self.distance(work) <= math.log(MOST_UNLIKE)
        )

    def _is_on(self, work: Work) -> bool:
        if work.threads is None:
            return self.threads is None and is_gpu(self.device, work.device)
        return (self.device, self.threads) == (work.device, work.threads)

    def distance(self, work: Work) -> float:
        """0 for steps of as many pixels, the logarithm of their ratio otherwise."""
        # Not the logarithm of the ratio: a file's whole numbers may be greater than any float.
        return abs(math.log(self.batch) + math.log(self.width) - math.log(work.batch * work.width))

    def replaces(self, other: "Speed") -> bool:
        """Whether another is of the same, measured earlier."""
        found = {"images_per_second", "date", "versions"}
        return self.model_dump(exclude=found) == other.model_dump(exclude=found)


SPEEDS = TypeAdapter(list[Speed])


def expected(speeds: Sequence[Speed], work: Work) -> str | None:
    """A line on how fast a run is to be, by the measurement whose steps are most like its own; None: there is none."""
    alike = [speed for speed in speeds if speed.is_of(work)]
    if not alike:
        return None
    speed = min(alike, key=lambda each: each.distance(work))
    # Pixels a second of all workers by pixels an image; of one height, both.
    images = work.workers * speed.images_per_second * speed.width / work.width
    workers = f"{work.workers} worker{'s' if work.workers > 1 else ''}"
    return (
        f"expected: some {float(f'{images:.2g}'):,g} images a second by bench step of {speed.date} "
        f"({workers}, {speed.device}), as long as decoding keeps up"
    )


def is_gpu(name: str, kind: str) -> bool:
    """Whether a GPU's name is that of a kind as Ray calls it.

    Ray takes the capitals up to the first number: `NVIDIA A100-SXM4-40GB` is A100, `NVIDIA RTX PRO 6000 Blackwell` is
    RTX-PRO-6000. Where there are none, it takes all but the maker: `NVIDIA GeForce RTX 4070 Ti` is GeForce-RTX-4070-Ti.
    """
    words, wanted = (re.findall("[a-z0-9]+", each.lower()) for each in (name, kind))
    if kind != kind.upper():
        return wanted in (words, words[1:])
    return bool(wanted) and f" {' '.join(wanted)} " in f" {' '.join(words)} "


def processor() -> str:
    """The name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Those of what makes the speed. Of torch without what it was built for: a head may have it for CPUs alone."""
    return {"raycrnn": __version__, "torch": version("torch").partition("+")[0]}


def known(say: Callable[[str], None]) -> list[Speed]:
    """What was measured with these versions; a file that cannot be read is told."""
    current = versions()
    return [speed for speed in _read(say) if speed.versions == current]


def keep(speed: Speed, say: Callable[[str], None]) -> None:
    """Put a measurement beside the others, in the place of an earlier one of the same; where that fails, tell."""
    speeds = [each for each in _read(say) if not speed.replaces(each)] + [speed]
    path = _path()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(SPEEDS.dump_json(speeds, indent=1))
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        say(f"warning: {path}: cannot be written: {storage.describe(error)}; no run will tell what to expect")


def _path() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # One that is not absolute is to be ignored (XDG Base Directory Specification).
    folder = cache if os.path.isabs(cache) else os.path.expanduser("~/.cache")
    return Path(folder) / "raycrnn" / "speeds.json"


def _read(say: Callable[[str], None]) -> list[Speed]:
    path = _path()
    try:
        return SPEEDS.validate_json(path.read_bytes()) if path.is_file() else []
    except OSError as error:
        why = storage.describe(error)
    except ValidationError as error:
        why = error.errors()[0]["msg"]
    say(f"warning: {path}: cannot be read: {why}; `python -m raycrnn.bench step` writes it anew")
    return []
