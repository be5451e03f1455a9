"""Decoding with Ray Data, compared with a plain loop and a DataLoader of torch on the same cores."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field
from torch.utils.data import DataLoader

from raycrnn import bench, cluster, config, storage
from raycrnn.bench import remote_images
from raycrnn.cli import Command
from raycrnn.data import csv_files, image, image_files
from raycrnn.data.augment import Augmenter
from raycrnn.errors import RaycrnnError
from raycrnn.ingest import sample_table, stream
from raycrnn.ingest.batches import train_batch_spec
from raycrnn.model.cpus import usable_cpus

FILES = 2000
"""Number of different images on a disk; the CSV lists them repeatedly."""

BATCH = 64
"""Number of images in a batch."""


class Ingest(Command):
    """Measure images per second, decoded from files into batches, for a plain loop, a DataLoader and Ray Data in turn.

    All three call the same decoding function. The DataLoader has one persistent worker per core. The first epoch is not
    measured. The limit: Ray Data ≥ 1.1 × the DataLoader.

    With --uri, the images are of different widths, and only Ray Data is measured: with a CSV and with the same images
    packed in Parquet, on a disk and in object storage. The limit there: Parquet ≥ 5 × the CSV.
    """

    rows: int = Field(20_000, ge=BATCH)
    """Number of rows in an epoch."""
    height: int = Field(32, ge=1)
    """Height of the images in pixels."""
    width: int = Field(100, ge=8)
    """Width of the images in pixels."""
    augment: bool = False
    """Augment the images, as training does by default."""
    rounds: int = Field(3, ge=1)
    """Number of measurements of each side."""
    uri: str | None = None
    """Folder in object storage to which the images are written, or `local` for a stand-in for S3 on this machine."""
    delay: float = Field(20.0, ge=0)
    """Milliseconds that the stand-in takes for each request."""
    json_line: bool = Field(False, validation_alias="json")
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        cores = usable_cpus()
        if self.uri is not None:
            self._run_remote(self.uri, cores)
            return
        figures = []
        with tempfile.TemporaryDirectory() as name, cluster.connect("local"):
            for kind in ("png", "jpeg"):
                folder = Path(name) / kind
                csv = write_images(folder, kind, (self.width, self.height), self.rows)
                figures += self._measure(csv, kind, cores)
        title = f"ingest: {self.rows:,} images of {self.height}×{self.width}, batches of {BATCH}, {cores} cores"
        bench.report(title + (", augmented" if self.augment else ""), figures, self.json_line)

    def _settings(self, csv: str) -> config.Configuration:
        return config.parse(
            {
                "data": {"csv_files_train": csv},
                "augmentation": {"data_augmentation": self.augment},
                "training": {"train_batch_size": BATCH},
            }
        )

    def _run_remote(self, uri: str, cores: int) -> None:
        with (
            tempfile.TemporaryDirectory() as name,
            remote_images.serve(Path(name), self.delay / 1000) if uri == "local" else nullcontext() as store,
            cluster.connect("local"),
        ):
            csv = write_images(Path(name) / "images", "png", (self.width, self.height), self.rows, varied=True)
            packed = remote_images.pack(csv, Path(name) / "packed")
            place, packed_place = (store.uri("images"), store.uri("packed")) if store else (uri, uri)
            if store is None:
                remote_images.upload(csv.parent, place)
                remote_images.upload(packed.parent, place)
            count = store.count if store else None
            figures = remote_images.measure_sizes(csv, place, count)
            rates: dict[str, float] = {}
            for title, source in {
                "CSV, local": str(csv),
                "Parquet, local": str(packed),
                "CSV, object storage": storage.join(place, csv.name),
                "Parquet, object storage": storage.join(packed_place, packed.name),
            }.items():
                found = self._measure_source(source, title, cores, count)
                rates[title] = found[0].value
                figures += found
        for place in ("local", "object storage"):
            ratio = rates[f"Parquet, {place}"] / rates[f"CSV, {place}"]
            limit = "≥ 5" if place == "object storage" else ""
            figures.append(bench.Figure(f"ratio of Parquet to CSV, {place}", ratio, "", limit))
        where = f"a stand-in that answers after {self.delay:g} ms" if uri == "local" else storage.redacted(uri)
        title = f"ingest: {self.rows:,} images {self.height} high in {where}, batches of {BATCH}, {cores} cores"
        bench.report(title, figures, self.json_line)

    def _measure_source(
        self, source: str, title: str, cores: int, count: Callable[[], int] | None
    ) -> list[bench.Figure]:
        """Measure Ray Data with a CSV or a packed data set; the first figure is the images per second."""
        start = time.perf_counter()
        side = RayData(self._settings(source), cores)
        seconds, rates, requests = time.perf_counter() - start, [], 0
        for _ in range(self.rounds):
            before = count() if count else 0
            rates.append(measure(side, self.rows)[0])
            requests = count() - before if count else 0
        return [
            bench.Figure(title, statistics.median(rates), "img/s"),
            bench.Figure(f"{title}: start", seconds, "s"),
            *([bench.Figure(f"{title}: requests in three epochs", requests, "")] if requests else []),
            bench.Figure(f"{title}: padded over real pixels", side.padded_ratio(), "", "≤ 1.1"),
        ]

    def _measure(self, csv: Path, kind: str, cores: int) -> list[bench.Figure]:
        settings = self._settings(str(csv))
        loader = TorchLoader(settings, cores)
        sides: dict[str, PlainLoop | TorchLoader | RayData] = {
            "loop": PlainLoop(settings),
            "dataloader": loader,
            "ray": RayData(settings, cores),
        }
        rates: dict[str, list[float]] = {name: [] for name in sides}
        delays: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(self.rounds):
            for name, side in sides.items():
                rate, delay = measure(side, self.rows)
                rates[name].append(rate)
                delays[name].append(delay)
        loader.close()
        loops = [cores * rate for rate in rates["loop"]]
        return [
            bench.Figure(f"{kind}: Pillow loop × cores", statistics.median(loops), "img/s"),
            bench.Figure(f"{kind}: DataLoader", statistics.median(rates["dataloader"]), "img/s"),
            bench.Figure(f"{kind}: Ray Data", statistics.median(rates["ray"]), "img/s"),
            bench.Figure(f"{kind}: first batch, DataLoader", delays["dataloader"][0], "s"),
            bench.Figure(f"{kind}: first batch, Ray Data", delays["ray"][0], "s"),
            bench.Figure(f"ratio to loop {kind}", bench.median_ratio(rates["ray"], loops), ""),
            bench.Figure(
                f"ratio to dataloader {kind}", bench.median_ratio(rates["ray"], rates["dataloader"]), "", "≥ 1.1"
            ),
        ]


def write_images(folder: Path, kind: str, size: tuple[int, int], rows: int, varied: bool = False) -> Path:
    """Draw images of text, and write a CSV that lists them, repeatedly if there are many rows.

    Args:
        folder: Folder to make.
        kind: Extension of the files.
        size: Width and height in pixels.
        rows: Number of rows of the CSV.
        varied: Draw a different image for each row, with a width from half to three times the one in `size`.

    Returns:
        The path of the CSV.
    """
    folder.mkdir()
    random = np.random.default_rng(0)
    font = ImageFont.load_default(size=0.7 * size[1])
    labels = []
    for number in range(rows if varied else min(rows, FILES)):
        labels.append("".join(random.choice(list("abcdefgh"), 5)))
        width = int(random.integers(size[0] // 2, 3 * size[0])) if varied else size[0]
        drawn = Image.new("L", (width, size[1]), 255)
        ImageDraw.Draw(drawn).text((2, 2), labels[-1], fill=0, font=font)
        drawn.save(folder / f"{number}.{kind}")
    lines = [f"{row % len(labels)}.{kind};{labels[row % len(labels)]}\n" for row in range(rows)]
    (folder / "labels.csv").write_text("".join(lines))
    return folder / "labels.csv"


def measure(side: "PlainLoop | TorchLoader | RayData", rows: int, epochs: int = 3) -> tuple[float, float]:
    """Return the images per second of all epochs but the first, and the seconds to the first batch."""
    start = time.perf_counter()
    batches = side.batches(epochs)
    next(batches)
    delay = time.perf_counter() - start
    per_epoch = -(-rows // BATCH)
    for _ in islice(batches, per_epoch - 1):
        pass
    start = time.perf_counter()
    for _ in batches:
        pass
    return (epochs - 1) * rows / (time.perf_counter() - start), delay


@dataclass
class Images(torch.utils.data.Dataset):
    """The images of a CSV by row number, prepared as for training."""

    paths: list[str]
    settings: config.Image
    augmenter: Augmenter

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> np.ndarray:
        data = image_files.read_bytes(self.paths[row])
        return image.prepare(
            data, self.settings.input_shape, self.settings.input_channels, self.augmenter.for_sample(0, row)
        )


def images_of(settings: config.Configuration) -> Images:
    """Return the images of the training CSV."""
    file = csv_files.read_csv(settings.data.train_csvs[0])
    augmenter = Augmenter(settings.augmentation, 1, settings.training.seed)
    return Images([file.resolve(row) for row in file.rows], settings.image, augmenter)


class PlainLoop:
    """Decode in this process, one image after the other."""

    def __init__(self, settings: config.Configuration):
        self.images = images_of(settings)

    def batches(self, epochs: int) -> Iterator[object]:
        for _ in range(epochs):
            for start in range(0, len(self.images), BATCH):
                rows = range(start, min(start + BATCH, len(self.images)))
                yield image.collate([self.images[row] for row in rows])


class TorchLoader:
    """Decode in the worker processes of a DataLoader."""

    def __init__(self, settings: config.Configuration, cores: int):
        self.loader = DataLoader(
            images_of(settings),
            batch_size=BATCH,
            shuffle=True,
            num_workers=cores,
            persistent_workers=True,
            collate_fn=collate,
        )

    def batches(self, epochs: int) -> Iterator[object]:
        for _ in range(epochs):
            yield from self.loader

    def close(self) -> None:
        """End the worker processes."""
        del self.loader


def collate(images: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images as one batch [B, C, H, W], and their widths."""
    images_BCHW, widths_B = image.collate(images)
    return torch.from_numpy(images_BCHW), torch.from_numpy(widths_B)


class RayData:
    """Decode in the tasks of Ray Data that training uses."""

    def __init__(self, settings: config.Configuration, cores: int):
        files = csv_files.read_labelled_csvs(settings.data.train_csvs, settings.data)
        self.table, _ = sample_table.put_samples(files, None, settings)
        self.spec = train_batch_spec(settings, self.table, 0, 1)
        self.allocation = cluster.TrainingAllocation(1, False, 0, 1, decode_tasks=cores, cpus_per_decode_task=1)

    def batches(self, epochs: int) -> Iterator[object]:
        self.stream = stream.BatchStream(self.spec, self.allocation, 0, epochs * self.spec.batches_per_epoch)
        for batch in self.stream:
            if self.stream.problem is not None:
                raise RaycrnnError(self.stream.problem)
            yield batch

    def padded_ratio(self) -> float:
        """Return the ratio of all pixels to those of the images, in the last batches."""
        return self.stream.pixels / (self.stream.pixels - self.stream.padding)


if __name__ == "__main__":
    Ingest.main(name="bench ingest")
