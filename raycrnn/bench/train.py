"""Training through Ray against the same steps on the same batches in memory, on the same cores."""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from raycrnn import bench, config, image, order
from raycrnn.augment import Augmenter
from raycrnn.command import Command
from raycrnn.config import Configuration
from raycrnn.learning import Batch, Learner
from raycrnn.model import CRNN
from raycrnn.train import train

UNITS = "0123456789abcdef"
SAMPLES = 512
LABEL_UNITS = 6


class TrainBench(Command):
    """Measure training through Ray, decoding and augmenting images from disk, against a loop in memory.

    Both take the same steps on the same batches with one worker and the same threads, in turn. The limits:
    through Ray ≥ 0.9 × the loop in memory, waiting for data ≤ 1 %.
    """

    size: Literal["full", "half", "quarter"] = "half"
    """of the network"""
    batch: int = Field(32, ge=1)
    """images a step"""
    width: int = Field(100, ge=8 * LABEL_UNITS)
    """of the images in pixels; their height is 32"""
    seconds: float = Field(25, gt=0)
    """about how long each measurement takes"""
    rounds: int = Field(3, ge=1)
    """each measures both sides"""
    json_line: bool = Field(False, validation_alias="json")
    """print one JSON object as the last line of stdout"""

    def run(self) -> None:
        from raycrnn import cluster

        rates: dict[str, list[float]] = {"ray": [], "memory": []}
        waits = []
        with tempfile.TemporaryDirectory() as folder, cluster.connect("local"):
            settings = settings_of(Path(folder), self.size, self.batch)
            write_images(Path(folder), self.width, SAMPLES)
            plan = cluster.plan(settings.cluster, None, cluster.nodes())
            torch.set_num_threads(plan.threads)
            batches = batches_in_memory(settings)
            loop = MemoryLoop(settings, batches)
            steps = max(len(batches), int(self.seconds * loop.images_per_second(len(batches)) / self.batch))
            epochs = max(2, round(steps / len(batches)))
            for number in range(self.rounds):
                rates["memory"].append(loop.images_per_second(epochs * len(batches)))
                rate, wait = through_ray(settings, epochs, Path(folder) / f"output{number}")
                rates["ray"].append(rate)
                waits.append(100 * wait)
        figures = [
            bench.Figure("through Ray", statistics.median(rates["ray"]), "img/s"),
            bench.Figure("in memory", statistics.median(rates["memory"]), "img/s"),
            bench.Figure("ratio Ray to memory", bench.median_ratio(rates["ray"], rates["memory"]), "", "≥ 0.9"),
            bench.Figure("data wait", statistics.median(waits), "%", "≤ 1"),
        ]
        network = f"{self.size} network, {self.batch} × 32×{self.width}, {loop.learner.precision}"
        bench.report(f"train: {network}; {plan}", figures, self.json_line)


def settings_of(folder: Path, size: str, batch: int) -> Configuration:
    """The configuration of a training on what `write_images` left in a folder."""
    return config.parse(
        {
            "data": {"csv_files_train": str(folder / "labels.csv"), "csv_files_eval": str(folder / "few.csv")},
            "model": {"size": size},
            "training": {"train_batch_size": batch, "save_interval": 10**6, "schedule": "constant"},
        }
    )


def write_images(folder: Path, width: int, count: int) -> None:
    """Grey noise with random labels: what a network learns of it does not change how long a step takes."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(count):
        Image.fromarray(random.integers(0, 256, (32, width), dtype=np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png;{''.join(random.choice(list(UNITS), LABEL_UNITS))}\n")
    (folder / "labels.csv").write_text("".join(rows))
    (folder / "few.csv").write_text("".join(rows[:4]))


def batches_in_memory(settings: Configuration) -> list[Batch]:
    """One epoch's batches, made by the functions that the decoding tasks use."""
    from raycrnn import samples

    file = samples.read_csv(settings.data.train_csvs[0])
    augmenter = Augmenter(settings.augmentation, 1, settings.training.seed)
    size = settings.training.train_batch_size
    epoch = order.train_epoch(np.zeros(len(file.rows)), size, settings.training.seed, 0)
    batches = []
    for chosen, _ in (epoch[number] for number in range(len(epoch))):
        files = [image.read_bytes(file.resolve(file.rows[row].path)) for row in chosen]
        arrays = [
            image.prepare(data, settings.image.input_shape, 1, augmenter.of(0, int(row)))
            for data, row in zip(files, chosen, strict=True)
        ]
        images_BCHW, widths_B = map(torch.from_numpy, image.collate(arrays))
        codes = [UNITS.index(unit) for row in chosen for unit in file.rows[row].label]
        lengths_B = torch.full((len(chosen),), LABEL_UNITS)
        batches.append(Batch(images_BCHW, widths_B, torch.tensor(codes), lengths_B, torch.from_numpy(chosen)))
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
        """After two steps to warm up."""
        for batch in self.batches[:2]:
            self.learner.train_step(batch, 10**6)
        start, samples = time.perf_counter(), 0
        for step in range(steps):
            samples += self.learner.train_step(self.batches[step % len(self.batches)], 10**6).samples
        return samples / (time.perf_counter() - start)


def through_ray(settings: Configuration, epochs: int, output: Path) -> tuple[float, float]:
    """Images per second and the share of time spent waiting for data, as the last evaluation of a run gives them."""
    tree = settings.model_dump(mode="json")
    tree["output_model_dir"] = str(output)
    tree["training"] |= {"n_epochs": epochs, "evaluate_every_epoch": epochs}
    train(config.parse(tree))
    record = json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])
    return record["images_per_second"], record["data_wait"]


if __name__ == "__main__":
    TrainBench.main(name="bench train")
