"""Training with Ray, compared with the same steps on the same batches in memory, on the same cores."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from raycrnn import bench, cluster, config
from raycrnn.cli import Command
from raycrnn.config import Configuration
from raycrnn.data import batch_order, csv_files, image, image_files
from raycrnn.data.augment import Augmenter
from raycrnn.errors import RaycrnnError
from raycrnn.model import runtime
from raycrnn.model.batch import Batch
from raycrnn.model.cpus import usable_cpus
from raycrnn.model.crnn import CRNN
from raycrnn.training.learner import Learner

UNITS = "0123456789abcdef"
SAMPLES = 512
LABEL_UNITS = 6


class TrainBench(Command):
    """Measure training with Ray, which decodes and augments images from disk, compared with a loop in memory.

    The two are measured in turn, with the same steps on the same batches, one worker and the same number of threads.
    The limits: training with Ray ≥ 0.9 × the loop in memory, waiting for data ≤ 1 %.
    """

    size: Literal["full", "half", "quarter"] = "half"
    """Size of the network."""
    batch: int = Field(32, ge=1)
    """Number of images in a step."""
    width: int = Field(100, ge=8 * LABEL_UNITS)
    """Width of the images in pixels; their height is 32."""
    variable: bool = False
    """Use images from 40 pixels to ten times the width, most of them short."""
    seconds: float = Field(25, gt=0)
    """Approximate seconds of each measurement."""
    rounds: int = Field(3, ge=1)
    """Number of measurements of each side."""
    json_line: bool = Field(False, validation_alias="json")
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        rates: dict[str, list[float]] = {"ray": [], "memory": []}
        waits, padding = [], []
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            settings = settings_of(folder, self.size, self.batch)
            write_images(folder, self.width, SAMPLES, self.variable)
            allocation = cluster.allocate(settings.cluster, None, [(usable_cpus(), torch.cuda.device_count())])
            torch.set_num_threads(allocation.threads)
            runtime.keep_freed_memory()
            runtime.keep_kernels()
            batches = batches_in_memory(settings)
            loop = MemoryLoop(settings, batches)
            steps = max(len(batches), int(self.seconds * loop.images_per_second(len(batches)) / self.batch))
            epochs = max(2, round(steps / len(batches)))
            for number in range(self.rounds):
                rates["memory"].append(loop.images_per_second(epochs * len(batches)))
                record = through_ray(settings, epochs, folder / f"output{number}")
                rates["ray"].append(record["images_per_second"])
                waits.append(100 * record["data_wait"])
                padding.append(100 * record["padding"])
        figures = [
            bench.Figure("through Ray", statistics.median(rates["ray"]), "img/s"),
            bench.Figure("in memory", statistics.median(rates["memory"]), "img/s"),
            bench.Figure("ratio Ray to memory", bench.median_ratio(rates["ray"], rates["memory"]), "", "≥ 0.9"),
            bench.Figure("data wait", statistics.median(waits), "%", "≤ 1"),
            bench.Figure("padding", statistics.median(padding), "%", "≤ 10 on widths of real lines"),
        ]
        width = f"40–{10 * self.width}" if self.variable else str(self.width)
        network = f"{self.size} network, {self.batch} × 32×{width}, {loop.learner.precision}"
        bench.report(f"train: {network}; {allocation}", figures, self.json_line)


def settings_of(folder: Path, size: str, batch: int) -> Configuration:
    """Return the configuration to train on the images that `write_images` wrote to a folder."""
    return config.parse(
        {
            "data": {"csv_files_train": str(folder / "labels.csv"), "csv_files_eval": str(folder / "few.csv")},
            # All epochs alike, as in the loop in memory.
            "augmentation": {"stronger_after_passes": None},
            "model": {"size": size},
            "training": {"train_batch_size": batch, "save_interval": 10**6, "schedule": "constant"},
        }
    )


def write_images(folder: Path, width: int, count: int, variable: bool = False) -> None:
    """Write images of grey noise with random labels. What a step learns does not change how long it takes."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(count):
        size = int(40 + (10 * width - 40) * random.beta(1, 3)) if variable else width
        Image.fromarray(random.integers(0, 256, (32, size), dtype=np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png;{''.join(random.choice(list(UNITS), min(LABEL_UNITS, size // 10)))}\n")
    (folder / "labels.csv").write_text("".join(rows))
    (folder / "few.csv").write_text("".join(rows[:4]))


def batches_in_memory(settings: Configuration) -> list[Batch]:
    """Return the batches of one epoch, made by the functions that the decoding tasks use."""
    file = csv_files.read_csv(settings.data.train_csvs[0])
    augmenter = Augmenter(settings.augmentation, 1, settings.training.seed)
    paths = [file.resolve(row) for row in file.rows]
    shape = settings.image.input_shape
    widths = np.array([image.fitted_width(image.measure(path), shape) for path in paths])
    epoch = batch_order.train_epoch(widths, settings.training.train_batch_size, settings.training.seed, 0)
    batches = []
    for chosen, _ in (epoch[number] for number in range(len(epoch))):
        arrays = [
            image.prepare(image_files.read_bytes(paths[row]), shape, 1, augmenter.for_sample(0, int(row)))
            for row in chosen
        ]
        images_BCHW, widths_B = map(torch.from_numpy, image.collate(arrays))
        labels = [[UNITS.index(unit) for unit in file.rows[row].label] for row in chosen]
        codes_S = torch.tensor([code for label in labels for code in label])
        lengths_B = torch.tensor([len(label) for label in labels])
        batches.append(Batch(images_BCHW, widths_B, codes_S, lengths_B, torch.from_numpy(chosen)))
    return batches


class MemoryLoop:
    """The training loop without Ray, files or decoding."""

    def __init__(self, settings: Configuration, batches: list[Batch]):
        torch.manual_seed(settings.training.seed)
        network = CRNN.from_settings(settings.model, settings.image, len(UNITS) + 1)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.learner = Learner(network, settings.training, device)
        self.batches = batches

    def images_per_second(self, steps: int) -> float:
        """Return the images per second of some steps, measured after two steps to warm up."""
        for batch in self.batches[:2]:
            self.learner.train_step(batch, 10**6)
        start, samples = time.perf_counter(), 0
        for step in range(steps):
            self.learner.queue_step(self.batches[step % len(self.batches)], 10**6)
            if self.learner.unread_steps > 1:
                samples += self.learner.read_step().samples
        samples += self.learner.read_step().samples
        return samples / (time.perf_counter() - start)


def through_ray(settings: Configuration, epochs: int, output: Path) -> dict:
    """Run the command, and return the record of its last evaluation. Raises `RaycrnnError` if it fails."""
    tree = settings.model_dump(mode="json")
    tree["output_model_dir"] = str(output)
    tree["training"] |= {"n_epochs": epochs, "evaluate_every_epoch": epochs}
    path = output.with_suffix(".json")
    path.write_text(json.dumps(tree))
    # In a separate process, as users run it: in this one, OpenMP would have more threads than CPUs because of the loop
    # in memory, and let them sleep at every barrier.
    command = [sys.executable, "-m", "raycrnn.train", str(path), "--address", "local"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RaycrnnError(f"training failed with exit code {found.returncode}:\n{found.stderr}")
    return json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])


if __name__ == "__main__":
    TrainBench.main(name="bench train")
