"""Images in object storage for benchmarks: a stand-in for S3 in a process of its own, and measuring of sizes."""

import io
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from raycrnn import bench, storage
from raycrnn.bench import object_store
from raycrnn.data import csv_files, image, image_files, packed_images
from raycrnn.ingest.image_sizes import ImageSizes


@dataclass(frozen=True)
class StoreProcess:
    """A stand-in for S3 in another process."""

    port: int

    def uri(self, *names: str) -> str:
        """Return the URI of a bucket or of something in it."""
        return object_store.uri_of(self.port, *names)

    def count(self) -> int:
        """Return the number of requests so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{object_store.COUNT}") as answer:
            return int(answer.read())


@contextmanager
def serve(folder: Path, delay: float) -> Iterator[StoreProcess]:
    """Serve the folders in a folder as buckets, with a delay in seconds before each answer."""
    # Before Ray's processes inherit the environment. Without keys, the client would look for a machine of AWS.
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "key")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "secret")
    command = [sys.executable, "-m", "raycrnn.bench.object_store", str(folder), str(delay)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield StoreProcess(int(process.stdout.readline()))
        finally:
            process.stdin.close()


def upload(folder: Path, uri: str) -> None:
    """Write the files of a folder to object storage."""
    files = list(folder.iterdir())
    with ThreadPoolExecutor(storage.CONNECTIONS) as writers:
        list(writers.map(lambda file: storage.upload(file, storage.join(uri, file.name)), files))


def pack(csv: Path, folder: Path) -> Path:
    """Write the images of a CSV to a packed data set of one file, and return its path."""
    folder.mkdir()
    file = csv_files.read_csv(csv)
    with packed_images.PackedImagesWriter(folder, sys.maxsize) as writer:
        for row in file.rows:
            data = image_files.read_bytes(file.resolve(row))
            writer.add(data, row.label, row.path, image.size_of(io.BytesIO(data)))
    return writer.files[0]


def measure_sizes(csv: Path, uri: str, count: Callable[[], int] | None) -> list[bench.Figure]:
    """Measure the sizes of all images beside a CSV that are at a URI, and return the images and requests per second.

    Args:
        csv: The CSV on this machine, in the folder of the images.
        uri: The folder of the images in object storage.
        count: Returns the number of requests so far, if it is known.
    """
    images = [storage.join(uri, file.name) for file in csv.parent.iterdir() if file != csv]
    before, start = count() if count else 0, time.perf_counter()
    ImageSizes().measure(images)
    seconds = time.perf_counter() - start
    figures = [bench.Figure("measuring sizes", len(images) / seconds, "img/s")]
    if count:
        figures.append(bench.Figure("measuring sizes, requests", (count() - before) / seconds, "req/s"))
    return figures
