"""The training step: its speed in each precision, and how near it is to the limit of the hardware."""

import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch.utils.flop_counter import FlopCounterMode

from raycrnn import bench
from raycrnn.bench.host_reads import HostReads
from raycrnn.cli import Command
from raycrnn.config import Image, Model, Training
from raycrnn.model import runtime
from raycrnn.model.batch import Batch
from raycrnn.model.crnn import CRNN
from raycrnn.training.learner import Learner

CLASSES = 80
UNITS = 10

MATRIX_SIZE = 2048
"""Rows and columns of the matrices of which the product is measured."""

LIMITS = {"fp32": "≥ 1.0", "bf16": "≥ 0.5"}
"""What the arithmetic of a step should reach, relative to that of a matrix product of the same precision."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Step(Command):
    """Measure training steps on tensors in memory.

    Auto precision is compared with plain fp32 (auto ≥ 1.7 × fp32 where the hardware computes in bfloat16). In each
    precision, the floating-point operations per second of the step are compared with those of a product of two large
    matrices and of the network's largest convolution: at the limit of the hardware, only a smaller network is faster.
    """

    size: Literal["full", "half", "quarter"] = "full"
    """Size of the network."""
    batch: int = Field(64, ge=1)
    """Number of images in a step."""
    width: int = Field(100, ge=8)
    """Width of the images in pixels; their height is 32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto is a GPU if there is one."""
    threads: int | None = Field(None, ge=1)
    """Number of CPU threads. Default: one for each usable core."""
    rounds: int = Field(7, ge=1)
    """Number of measurements of each side."""
    profile: bool = False
    """Also print which operators take the time of a step in auto precision."""
    json_line: bool = Field(False, validation_alias="json")
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        if self.threads:
            torch.set_num_threads(self.threads)
        else:
            runtime.limit_threads()
        runtime.keep_freed_memory()
        cuda = self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())
        device = torch.device("cuda" if cuda else "cpu")
        batch = random_batch(self.batch, self.width)
        learners = {name: make_learner(self.size, name, device) for name in ("auto", "fp32")}
        auto = learners["auto"]
        plain = make_learner(self.size, "fp32", device)
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
        for learner in {each.precision: each for each in learners.values()}.values():
            figures += arithmetic_figures(learner, batch, self.rounds)
        figures += count_figures(auto, batch)
        if self.profile:
            print_profile(auto, batch)
        where = f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type
        bench.report(f"step: {self.size} network, {self.batch} × 32×{self.width}, {where}", figures, self.json_line)


def arithmetic_figures(learner: Learner, batch: Batch, rounds: int) -> list[bench.Figure]:
    """Compare the floating-point operations per second of a step with those of its largest operations alone."""
    operations = operations_of_step(learner, batch) / len(batch)
    product, convolution = matrix_product(learner), largest_convolution(learner, batch)
    step_rates, product_rates, convolution_rates = [], [], []
    for _ in range(rounds):
        step_rates.append(operations * images_per_second(learner, batch) / 1e9)
        product_rates.append(product())
        convolution_rates.append(convolution())
    precision = learner.precision
    ratio = bench.median_ratio(step_rates, product_rates)
    return [
        bench.Figure(f"{precision}: training step", statistics.median(step_rates), "GFLOP/s"),
        bench.Figure(f"{precision}: matrix product, {MATRIX_SIZE}²", statistics.median(product_rates), "GFLOP/s"),
        bench.Figure(f"{precision}: largest convolution", statistics.median(convolution_rates), "GFLOP/s"),
        bench.Figure(f"{precision}: ratio step to matrix product", ratio, "", LIMITS[precision]),
    ]


def operations_of_step(learner: Learner, batch: Batch) -> int:
    """Return the floating-point operations of the convolutions, LSTMs and matrix products of a training step."""
    with FlopCounterMode(display=False) as counter:
        learner.train_step(batch, 1000)
    # PyTorch does not count the operations of fused LSTMs, but those of LSTMs that it computes as matrix products.
    counted = sum(counter.get_flop_counts()["Global"].values())
    for name, module in learner.network.named_modules():
        if isinstance(module, torch.nn.LSTM):
            counted -= sum(counter.get_flop_counts().get(f"CRNN.{name}", {}).values())
            frames = int(learner.network.frames(batch.widths_B).max())
            # A multiplication and an addition for each weight, once forward and twice backward.
            weights = 4 * module.hidden_size * (module.input_size + module.hidden_size)
            counted += 3 * 2 * weights * frames * len(batch)
    return counted


def matrix_product(learner: Learner) -> Callable[[], float]:
    """Return a function that measures the GFLOP/s of the product of two matrices."""
    shape = (2, MATRIX_SIZE, MATRIX_SIZE)
    one, other = torch.randn(shape, device=learner.device, dtype=DTYPES[learner.precision])
    return lambda: gigaflops(lambda: one @ other, 2 * MATRIX_SIZE**3, learner.device)


def largest_convolution(learner: Learner, batch: Batch) -> Callable[[], float]:
    """Return a function that measures the GFLOP/s of the convolution with the most operations, without gradients."""
    shapes: dict[torch.nn.Conv2d, tuple[torch.Size, torch.Size]] = {}

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(module, torch.nn.Conv2d)
        shapes[module] = inputs[0].shape, output.shape

    layers = [module for module in learner.network.modules() if isinstance(module, torch.nn.Conv2d)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    learner.train_step(batch, 1000)
    for hook in hooks:
        hook.remove()
    operations = {layer: 2 * layer.weight[0].numel() * shapes[layer][1].numel() for layer in layers}
    largest = max(layers, key=lambda layer: operations[layer])
    dtype = DTYPES[learner.precision]
    x_BCHW = torch.randn(shapes[largest][0], device=learner.device, dtype=dtype)
    x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
    weight = largest.weight.detach().to(dtype)
    return lambda: gigaflops(
        lambda: torch.nn.functional.conv2d(x_BCHW, weight, padding=largest.padding), operations[largest], learner.device
    )


def gigaflops(compute: Callable[[], object], operations: int, device: torch.device, repeats: int = 5) -> float:
    """Return the 10⁹ operations per second of a computation, measured after one to warm up."""
    compute()
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        compute()
    _wait(device)
    return repeats * operations / (time.perf_counter() - start) / 1e9


def count_figures(learner: Learner, batch: Batch) -> list[bench.Figure]:
    """Count the operators of a step, and how often the host waits for their results."""
    learner.queue_step(batch, 1000)
    with HostReads() as reads:
        learner.queue_step(batch, 1000)
        learner.read_step()
    learner.read_step()
    operators = sum(not event.cpu_children for event in reads.events)
    return [
        bench.Figure("operators in a step", operators, ""),
        bench.Figure("waits of the host for the device in a step", reads.count, "", "≤ 1"),
    ]


def print_profile(learner: Learner, batch: Batch, steps: int = 3, rows: int = 20) -> None:
    """Print the operators that take the most time in a step, without the operators that they call."""
    with torch.profiler.profile() as profile:
        for _ in range(steps):
            learner.train_step(batch, 1000)
    cuda = learner.device.type == "cuda"
    times = {
        event.key: (event.self_device_time_total if cuda else event.self_cpu_time_total, event.count)
        for event in profile.key_averages()
    }
    total = sum(microseconds for microseconds, _ in times.values())
    print(f"operators of a step in {learner.precision}, {total / steps / 1000:.1f} ms:")
    for name, (microseconds, count) in sorted(times.items(), key=lambda item: -item[1][0])[:rows]:
        share, milliseconds = microseconds / total, microseconds / steps / 1000
        print(f"  {name:<60.60}{count / steps:>7.1f} ×{milliseconds:>9.2f} ms{share:>7.1%}")


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
    start = time.perf_counter()
    for _ in range(steps):
        learner.queue_step(batch, 1000)
        if learner.unread_steps > 1:
            learner.read_step()
    learner.read_step()
    return steps * len(batch) / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    Step.main(name="bench step")
