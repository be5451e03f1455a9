"""A model of the speed and cost of training on GPU nodes and decoding nodes, checked with raylets on this machine."""

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pydantic import Field

from raycrnn import bench, config
from raycrnn.bench.train import SAMPLES, MemoryLoop, batches_in_memory, settings_of, write_images
from raycrnn.cli import Command, Metavar
from raycrnn.config import Configuration
from raycrnn.data import csv_files, image, image_files
from raycrnn.data.augment import Augmenter
from raycrnn.model import runtime
from raycrnn.model.cpus import usable_cpus
from raycrnn.training.run import train

BACKWARD = 2 / 3
"""The backward pass as a fraction of a step on a GPU. Gradients are exchanged while the rest of it is computed (Li et
al., PyTorch Distributed, 2020)."""

STEPS = 16
"""Number of steps to measure, after some to warm up."""


@dataclass(frozen=True)
class Measures:
    """The speed of one node, measured or given."""

    step_images: float
    """Images per second that one worker trains on, with its data in memory."""
    decode_images: float
    """Images per second that one core decodes and augments."""
    gradient_bytes: int
    """Bytes of the gradients of all parameters."""
    image_bytes: float
    """Bytes of an image on its way from a decoding task to a worker."""
    bandwidth: float
    """Bytes per second between two nodes."""
    overlap: float
    """Fraction of a step during which gradients can be exchanged."""


@dataclass(frozen=True)
class Site:
    """A cluster of GPU nodes and decoding nodes."""

    gpu_nodes: int
    """Number of nodes with one GPU and one worker each."""
    decode_nodes: int
    """Number of nodes without a GPU, which only decode."""
    gpu_node_cores: float
    decode_node_cores: float
    batch: int
    """Number of images in a step of each worker."""


@dataclass(frozen=True)
class Forecast:
    """The forecast speed of a cluster."""

    images: float
    """Images per second."""
    binds: str
    """What limits the speed."""


def forecast(measures: Measures, site: Site) -> Forecast:
    """Return how fast a cluster trains.

    Gradients are exchanged in a ring: each node sends and receives 2 (n − 1) / n of their bytes in a step (Patarasuk
    and Yuan 2009). One core of each GPU node feeds its GPU; the other cores, and those of the decoding nodes, decode.
    """
    nodes = site.gpu_nodes
    step = site.batch / measures.step_images
    exchange = 2 * (nodes - 1) / nodes * measures.gradient_bytes / measures.bandwidth
    late = max(0.0, exchange - measures.overlap * step)
    cores = nodes * (site.gpu_node_cores - 1) + site.decode_nodes * site.decode_node_cores
    # A faster step also hides less of the exchange.
    by_network = late > 0 and exchange > (1 - measures.overlap) * step
    rates = {
        "gradients over the network" if by_network else "the training step": nodes * site.batch / (step + late),
        "decoding": measures.decode_images * cores,
        # Images reach the GPU nodes over their own links.
        "images over the network": nodes * measures.bandwidth / measures.image_bytes,
    }
    binds = min(rates, key=lambda name: rates[name])
    return Forecast(rates[binds], binds)


class Scale(Command):
    """Forecast images per second and cost for n GPU nodes with one GPU each and m CPU nodes that decode.

    The speed of one node is measured on this machine: a training step (on the GPU, if there is one), decoding on a
    core, and the size of the gradients. To forecast for another GPU, set --step-images to the result of `bench step`
    there. --check trains on 1, 2 and 3 raylets on this machine, with one CPU worker each, and compares their speed with
    the forecast. The limit: measured between 0.75 and 1.25 × the forecast.
    """

    size: Literal["full", "half", "quarter"] = "full"
    """Size of the network."""
    batch: int = Field(64, ge=1)
    """Number of images in a step of each worker."""
    width: int = Field(400, ge=48)
    """Width of the images in pixels; their height is 32."""
    gpu_nodes: Annotated[str, Metavar("N,N,...")] = Field("1,2,4,8", pattern=r"^[1-9]\d*(,[1-9]\d*)*$")
    """Numbers of GPU nodes to forecast for, separated by commas."""
    decode_nodes: Annotated[str, Metavar("N,N,...")] = Field("0,1,4", pattern=r"^\d+(,\d+)*$")
    """Numbers of decoding nodes to forecast for, separated by commas."""
    gpu_node_cores: float = Field(4, gt=1)
    """Number of cores of a GPU node."""
    decode_node_cores: float = Field(16, gt=0)
    """Number of cores of a decoding node."""
    gbits: float = Field(10, gt=0)
    """Sustained gigabits per second between nodes; the "up to" of a cloud provider is a burst rate."""
    gpu_node_price: float = Field(0, ge=0)
    """Price of a GPU node per hour, in any currency."""
    decode_node_price: float = Field(0, ge=0)
    """Price of a decoding node per hour, in the same currency."""
    step_images: float | None = Field(None, gt=0)
    """Images per second that a GPU trains on. Default: measured on this machine."""
    check: bool = False
    """Instead train on 1, 2 and 3 raylets on this machine, with the quarter network, and compare."""
    seconds: float = Field(20, gt=0)
    """Approximate seconds of each training of --check."""
    json_line: bool = Field(False, validation_alias="json")
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_images(folder, self.width, SAMPLES)
            if self.check:
                self._check(folder)
            else:
                self._forecast(folder)

    def _forecast(self, folder: Path) -> None:
        settings = settings_of(folder, self.size, self.batch)
        cuda = torch.cuda.is_available()
        loop = MemoryLoop(settings, batches_in_memory(settings))
        measures = Measures(
            step_images=self.step_images or loop.images_per_second(min(STEPS, len(loop.batches))),
            decode_images=images_decoded(settings),
            gradient_bytes=gradient_bytes(loop),
            image_bytes=32.0 * self.width,
            bandwidth=self.gbits * 1e9 / 8,
            overlap=BACKWARD if cuda or self.step_images else 0.0,
        )
        where = "as given" if self.step_images else "GPU" if cuda else f"CPU, {torch.get_num_threads()} threads"
        print(f"scale: {self.size} network, {self.batch} × 32×{self.width} per worker")
        print(
            f"  step {measures.step_images:,.0f} img/s ({where}), decoding {measures.decode_images:,.0f} img/s per core"
        )
        print(f"  gradients {measures.gradient_bytes / 1e6:.1f} MB, {self.gbits:g} Gbit/s between nodes")
        print(f"  {'GPU nodes':>9} {'decoding':>9} {'img/s':>9} {'per hour':>8} {'per million img':>17}  bound by")
        counts = ([int(each) for each in text.split(",")] for text in (self.gpu_nodes, self.decode_nodes))
        rows = [self._row(measures, *pair) for pair in itertools.product(*counts)]
        if self.json_line:
            print(json.dumps({"measures": vars(measures), "forecasts": rows}))

    def _row(self, measures: Measures, gpu_nodes: int, decode_nodes: int) -> dict:
        site = Site(gpu_nodes, decode_nodes, self.gpu_node_cores, self.decode_node_cores, self.batch)
        found = forecast(measures, site)
        price = gpu_nodes * self.gpu_node_price + decode_nodes * self.decode_node_price
        a_million = price / 3600 * 1e6 / found.images
        counts = f"{gpu_nodes:>9} {decode_nodes:>9} {found.images:>9,.0f}"
        print(f"  {counts} {price:>8.2f} {a_million:>17.2f}  {found.binds}")
        return {**vars(site), "images": found.images, "binds": found.binds, "price": price, "a_million": a_million}

    def _check(self, folder: Path) -> None:
        settings = settings_of(folder, "quarter", self.batch)
        torch.set_num_threads(1)
        runtime.keep_freed_memory()
        loop = MemoryLoop(settings, batches_in_memory(settings))
        alone = statistics.median(loop.images_per_second(len(loop.batches)) for _ in range(3))
        size = gradient_bytes(loop)
        bandwidth = size / seconds_to_exchange(size)
        cores = usable_cpus()
        figures = [
            bench.Figure("one worker in memory, one thread", alone, "img/s"),
            bench.Figure("gradients between two processes", bandwidth / 1e6, "MB/s"),
        ]
        decoding = images_decoded(settings)
        for nodes in (1, 2, 3):
            # The raylets share the cores of this machine, also for decoding.
            share = min(1.0, cores / nodes)
            busy = share / (1 + share * alone / decoding)
            measures = Measures(busy * alone, decoding, size, 32.0 * self.width, bandwidth, overlap=0.0)
            expected = forecast(measures, Site(nodes, 1, 1, cores, self.batch)).images
            got = on_raylets(settings, nodes, epochs=max(2, int(self.seconds * expected / SAMPLES)))
            figures += [
                bench.Figure(f"{nodes} raylets: forecast", expected, "img/s"),
                bench.Figure(f"{nodes} raylets: measured", got, "img/s"),
                bench.Figure(f"{nodes} raylets: measured to forecast", got / expected, "", "0.75 to 1.25"),
            ]
        title = f"scale: quarter network, {self.batch} × 32×{self.width} per worker, {cores} cores shared"
        bench.report(title, figures, self.json_line)


def gradient_bytes(loop: MemoryLoop) -> int:
    """Return the bytes of the gradients of all parameters."""
    return sum(parameter.numel() * 4 for parameter in loop.learner.network.parameters())


def images_decoded(settings: Configuration, seconds: float = 2.0) -> float:
    """Return the images per second that one core decodes, augments and fits."""
    file = csv_files.read_csv(settings.data.train_csvs[0])
    augmenter = Augmenter(settings.augmentation, 1, settings.training.seed)
    shape = settings.image.input_shape
    start = time.perf_counter()
    for count, row in enumerate(itertools.cycle(file.rows), 1):
        image.prepare(image_files.read_bytes(file.resolve(row)), shape, 1, augmenter.for_sample(0, count))
        if time.perf_counter() - start > seconds:
            return count / (time.perf_counter() - start)
    raise AssertionError("a CSV without rows")


def seconds_to_exchange(size: int) -> float:
    """Return the seconds that two processes on this machine take to sum `size` bytes of gradients with gloo."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_exchange, (size, folder), nprocs=2)
        return float(np.median(json.loads((Path(folder) / "seconds").read_text())))


def _exchange(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    gradients, seconds = torch.zeros(size // 4), []
    for _ in range(7):
        start = time.perf_counter()
        dist.all_reduce(gradients)
        seconds.append(time.perf_counter() - start)
    dist.barrier()
    if rank == 0:
        (Path(folder) / "seconds").write_text(json.dumps(seconds[2:]))
    dist.destroy_process_group()


def on_raylets(settings: Configuration, nodes: int, epochs: int) -> float:
    """Train with one CPU worker on each of several raylets on this machine, and return the images per second."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=1)
        with tempfile.TemporaryDirectory() as output:
            tree = settings.model_dump(mode="json")
            tree["output_model_dir"] = f"{output}/run"
            # Elastic, because a run with one fixed worker trains in the process of the command.
            tree["cluster"]["num_workers"] = [nodes, nodes]
            tree["training"] |= {"n_epochs": epochs, "train_batch_size": nodes * settings.training.train_batch_size}
            tree["training"]["evaluate_every_epoch"] = max(1, epochs // 2)
            train(config.parse(tree), cluster.address)
            return _rates(Path(output) / "run" / "metrics.jsonl")[-1]
    finally:
        ray.shutdown()
        cluster.shutdown()


def _rates(metrics: Path) -> Sequence[float]:
    return [json.loads(line)["images_per_second"] for line in metrics.read_text().splitlines()]


if __name__ == "__main__":
    Scale.main(name="bench scale")
