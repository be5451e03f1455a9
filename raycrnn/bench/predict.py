"""Prediction with Ray Data, compared with the bare forward pass of the network on the same cores."""

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field

from raycrnn import bench, cluster, config
from raycrnn.cli import Command
from raycrnn.console import ImageProgress, StopRequest
from raycrnn.data import image
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.inputs import list_inputs
from raycrnn.data.unusual_images import UnusualImages
from raycrnn.model import runtime
from raycrnn.model.cpus import usable_cpus
from raycrnn.model.crnn import CRNN
from raycrnn.model.recognizer import Recognizer, batches_by_width
from raycrnn.prediction import formats, resources
from raycrnn.prediction.job import PredictionJob
from raycrnn.prediction.pipeline import Executor, PredictionMonitor, write_transcriptions

FILES = 2000
"""Number of different images; they are listed repeatedly."""

UNITS = tuple(map(chr, range(ord("!"), ord("p"))))

GREEDY = ("decoding.method=greedy",)


class PredictBench(Command):
    """Measure images per second, from files to CSV, compared with the same network on the same images in memory.

    The two are measured in turn, with greedy decoding, the same precision and one thread per core. The time starts
    with the first results, so it leaves out the start of Ray and of the replicas; the time to decode all images is
    added. The limit: prediction ≥ 0.8 × the forward pass.
    """

    size: Literal["full", "half", "quarter"] = "half"
    """Size of the network."""
    images: int = Field(6000, ge=300)
    """Number of images in each measurement, for each core."""
    rounds: int = Field(3, ge=1)
    """Number of measurements of each side."""
    json_line: bool = Field(False, validation_alias="json")
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        cores = usable_cpus()
        torch.set_num_threads(cores)
        runtime.keep_freed_memory()
        runtime.keep_kernels()
        with tempfile.TemporaryDirectory() as name, cluster.connect("local"):
            folder = Path(name)
            model = save_model(folder / "model", self.size)
            paths = write_images(folder, cores * self.images)
            forward = Forward(Recognizer.load(model), paths)
            charged = forward.decoding_seconds / cores
            rates: dict[str, list[float]] = {"forward": [], "predict": []}
            for _ in range(self.rounds):
                rates["forward"].append(forward.images_per_second())
                rates["predict"].append(images_per_second(folder, paths, GREEDY, charged))
            beam = images_per_second(folder, paths[: len(paths) // 2], (), charged)
        ratio = bench.median_ratio(rates["predict"], rates["forward"])
        figures = [
            bench.Figure("predict, greedy", statistics.median(rates["predict"]), "img/s"),
            bench.Figure("bare forward pass", statistics.median(rates["forward"]), "img/s"),
            bench.Figure("ratio predict to forward", ratio, "", "≥ 0.8"),
            bench.Figure("predict, beam search", beam, "img/s"),
            bench.Figure("decoding images, one core", 1 / forward.decoding_seconds, "img/s"),
        ]
        where = f"{forward.recognizer.device.type}, {cores} cores"
        bench.report(
            f"predict: {self.size} network, {len(paths):,} images of 32×40–940, {where}", figures, self.json_line
        )


def save_model(path: Path, size: str) -> Path:
    """Save an untrained network as a model directory, and return its path."""
    torch.manual_seed(0)
    settings = config.parse({"data": {"csv_files_train": "none.csv"}, "model": {"size": size}})
    network = CRNN.from_settings(settings.model, settings.image, len(UNITS) + 1)
    # The output of an untrained network is nearly uniform, and almost all of it would be blank.
    network.output.weight.data.mul_(8)
    Recognizer(network, settings, Alphabet(UNITS), {}).save(path)
    return path


def write_images(folder: Path, count: int) -> list[str]:
    """Draw lines of text, most of them short, and return `count` paths, among which the files are repeated."""
    random = np.random.default_rng(0)
    font = ImageFont.load_default(size=24)
    for number in range(min(count, FILES)):
        width = int(40 + 900 * random.beta(1, 3))
        drawn = Image.new("L", (width, 32), 255)
        ImageDraw.Draw(drawn).text((4, 2), "".join(random.choice(UNITS, width // 12)), fill=0, font=font)
        drawn.save(folder / f"{number}.png")
    return [str(folder / f"{number % FILES}.png") for number in range(count)]


class Forward:
    """The forward pass on prepared images in memory, in batches of similar width."""

    def __init__(self, recognizer: Recognizer, paths: Sequence[str]):
        self.recognizer = recognizer
        start = time.process_time()
        own = {path: recognizer.prepare(path).pixels for path in dict.fromkeys(paths)}
        self.decoding_seconds = (time.process_time() - start) / len(own)
        pixels = [own[path] for path in paths]
        groups = batches_by_width(
            [each.shape[1] for each in pixels],
            recognizer.configuration.image.input_shape[0],
            recognizer.max_batch_pixels,
        )
        self._images = len(paths)
        arrays = (image.collate([pixels[i] for i in group]) for group in groups)
        self._batches = [(torch.from_numpy(images), torch.from_numpy(widths)) for images, widths in arrays]

    def images_per_second(self) -> float:
        """Return the images per second, measured after some batches to warm up."""
        self._run(self._batches[::10])
        start = time.perf_counter()
        self._run(self._batches)
        return self._images / (time.perf_counter() - start)

    @torch.inference_mode()
    def _run(self, batches: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        device = self.recognizer.device
        for images_BCHW, widths_B in batches:
            log_probs_TBK, _ = self.recognizer.network(images_BCHW.to(device), widths_B.to(device))
        # This waits for a GPU.
        log_probs_TBK.sum().item()


@dataclass
class TimedWriter:
    """A writer that records when rows arrive."""

    writer: formats.Writer
    arrivals: list[tuple[float, int]] = field(default_factory=list)

    def write(self, table: pa.Table) -> None:
        self.writer.write(table)
        if len(table):
            self.arrivals.append((time.perf_counter(), len(table)))


def images_per_second(folder: Path, paths: Sequence[str], overrides: tuple[str, ...], charged: float) -> float:
    """Return the images per second from files to CSV, as a lower bound.

    The time starts with the first block, and the first block of each replica is not counted.

    Args:
        folder: Folder with the model directory; the CSV is written to it.
        paths: Paths of the images.
        overrides: Overrides of the configuration.
        charged: Seconds per image that are added for decoding.
    """
    settings = Recognizer.load(folder / "model", "cpu").configuration
    inputs = list_inputs(paths, settings.data)
    job = PredictionJob(str(folder / "model"), settings.image, overrides)
    with (folder / "out.csv").open("w") as file:
        timed = TimedWriter(formats.make_writer(file, formats.Layout("csv")))
        monitor = PredictionMonitor(ImageProgress(len(inputs)), UnusualImages(job.image.input_shape), StopRequest())
        # Ray is running, so it transcribes all of them.
        with Executor() as executor:
            write_transcriptions(timed, executor, job, inputs, monitor)
    replicas = resources.allocate_replicas(len(inputs), job).count
    images = sum(rows for _, rows in timed.arrivals[replicas:])
    seconds = timed.arrivals[-1][0] - timed.arrivals[0][0]
    return images / (seconds + images * charged)


if __name__ == "__main__":
    PredictBench.main(name="bench predict")
