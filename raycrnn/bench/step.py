"""The training step: auto precision and channels_last, compared with plain fp32."""

import statistics
import time
from typing import Literal

import torch
from pydantic import Field

from raycrnn import bench
from raycrnn.cli import Command
from raycrnn.config import Image, Model, Training
from raycrnn.model import runtime
from raycrnn.model.batch import Batch
from raycrnn.model.crnn import CRNN
from raycrnn.training.learner import Learner

CLASSES = 80
UNITS = 10


class Step(Command):
    """Measure training steps on tensors in memory, in auto precision and in plain fp32, in turn.

    The limit: auto ≥ 1.7 × fp32 where the hardware computes in bfloat16.
    """

    size: Literal["full", "half", "quarter"] = "full"
    """Size of the network."""
    batch: int = Field(64, ge=1)
    """Number of images in a step."""
    width: int = Field(100, ge=8)
    """Width of the images in pixels; their height is 32."""
    threads: int | None = Field(None, ge=1)
    """Number of CPU threads. Default: one for each usable core."""
    rounds: int = Field(7, ge=1)
    """Number of measurements of each side."""
    json_line: bool = Field(False, validation_alias="json")
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        if self.threads:
            torch.set_num_threads(self.threads)
        else:
            runtime.limit_threads()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        batch = random_batch(self.batch, self.width).to(device)
        auto, plain = make_learner(self.size, "auto", device), make_learner(self.size, "fp32", device)
        # torch's annotation of Module.to lacks memory_format without a tensor.
        plain.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        rates: dict[str, list[float]] = {"auto": [], "plain": []}
        for _ in range(self.rounds):
            rates["auto"].append(images_per_second(auto, batch))
            rates["plain"].append(images_per_second(plain, batch))
        ratio = bench.median_ratio(rates["auto"], rates["plain"])
        figures = [
            bench.Figure(f"auto precision ({auto.precision})", statistics.median(rates["auto"]), "img/s"),
            bench.Figure("plain fp32", statistics.median(rates["plain"]), "img/s"),
            bench.Figure("ratio auto to fp32", ratio, "", "≥ 1.7 where the hardware computes in bf16"),
        ]
        where = f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type
        bench.report(f"step: {self.size} network, {self.batch} × 32×{self.width}, {where}", figures, self.json_line)


def make_learner(
    size: Literal["full", "half", "quarter"], precision: Literal["auto", "fp32"], device: torch.device
) -> Learner:
    torch.manual_seed(0)
    network = CRNN.from_settings(Model(size=size), Image(), CLASSES)
    return Learner(network, Training(precision=precision), device)


def random_batch(samples: int, width: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        images_BCHW=torch.randint(0, 256, (samples, 1, 32, width), dtype=torch.uint8, generator=generator),
        widths_B=torch.full((samples,), width),
        codes_S=torch.randint(0, CLASSES - 1, (samples * UNITS,), generator=generator),
        lengths_B=torch.full((samples,), UNITS),
        rows_B=torch.arange(samples),
    )


def images_per_second(learner: Learner, batch: Batch, steps: int = 3) -> float:
    """Return the images per second of training steps, measured after one step to warm up."""
    learner.train_step(batch, 1000)
    _wait(learner.device)
    start = time.perf_counter()
    for _ in range(steps):
        learner.train_step(batch, 1000)
    _wait(learner.device)
    return steps * len(batch) / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    Step.main(name="bench step")
