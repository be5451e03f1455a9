"""`raycrnn numbers`: images of numbers, composed of MNIST's digit images, and the CSVs that list them."""

import gzip
import json
import math
import os
import shutil
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from PIL import Image
from pydantic import Field
from pydantic_settings import CliPositionalArg

from raycrnn.cli import Command
from raycrnn.errors import RaycrnnError, UsageError

SIDE = 28
"""Pixels of a digit image, across and down."""

KEPT = slice(4, 24)
"""Columns kept of a digit image: the others are mostly background, and without them digits stand close."""

Count = Annotated[int, Field(ge=1)]


class Numbers(Command):
    """Compose numbers out of MNIST's digit images: a small data set to try everything with.

    Writes OUTPUT/train.csv, OUTPUT/eval.csv and OUTPUT/images/. No digit image stands in both sets.
    """

    epilog: ClassVar[str] = (
        "example: raycrnn numbers t10k-images-idx3-ubyte.gz t10k-labels-idx1-ubyte.gz numbers --count 2000"
    )

    images: CliPositionalArg[Path]
    """MNIST's idx file of images, compressed (gz) or not"""
    labels: CliPositionalArg[Path]
    """the idx file of their labels, compressed or not"""
    output: CliPositionalArg[Path]
    """directory to write; must be new or empty"""
    count: Count = 10_000
    """numbers to train on"""
    eval_count: Count = 1_000
    """numbers to evaluate on"""
    eval_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """share of the digit images set apart for the numbers to evaluate on"""
    least: Count = 3
    """digits of the shortest numbers"""
    most: Count = 8
    """digits of the longest numbers"""
    seed: Annotated[int, Field(ge=0)] = 0
    """all choices come from it"""
    as_json: Annotated[bool, Field(alias="json")] = False
    """print the result once more, as one JSON object on stdout's last line"""

    def run(self) -> None:
        if self.least > self.most:
            raise UsageError(f"--least {self.least} is more than --most {self.most}")
        digits, labels = read_digits(self.images, self.labels)
        splitting, *drawing = np.random.default_rng(self.seed).spawn(3)
        pools = split_digits(len(digits), self.eval_share, splitting)
        counts = (self.count, self.eval_count)
        sets = {
            name: draw_numbers(pool, count, self.least, self.most, random)
            for name, pool, count, random in zip(("train", "eval"), pools, counts, drawing, strict=True)
        }
        write_sets(self.output, digits, labels, sets)
        self._print(sets, pools)

    def _print(self, sets: Mapping[str, Sequence[np.ndarray]], pools: Sequence[np.ndarray]) -> None:
        results = {
            name: {"file": f"{self.output / name}.csv", "numbers": len(numbers), "digit_images": len(pool)}
            for (name, numbers), pool in zip(sets.items(), pools, strict=True)
        }
        for result in results.values():
            print("{file}: {numbers} numbers, composed of {digit_images} digit images".format(**result))
        if self.as_json:
            print(json.dumps(results))


def read_digits(images_path: Path, labels_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """MNIST's digits: what is kept of their images, uint8 [N, 28, 20], white on black, and labels, uint8 [N].

    Raises:
        UsageError: no such file, another kind of file.
        RaycrnnError: a damaged file, files that do not belong together.
    """
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (SIDE, SIDE):
        raise UsageError(f"{images_path}: images of {images.shape[1:]} pixels; MNIST's are {SIDE} × {SIDE}")
    if len(images) != len(labels):
        raise RaycrnnError(f"{labels_path}: {len(labels)} labels, but {images_path} has {len(images)} images")
    if len(images) < 2:
        raise RaycrnnError(f"{images_path}: {len(images)} images; training and evaluation need one each")
    if labels.max() > 9:
        raise RaycrnnError(f"{labels_path}: label {labels.max()} of image {labels.argmax()} is no digit")
    return images[:, :, KEPT], labels


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array of an idx file: magic 0 0 8 dimensions, the sizes as big-endian uint32, the values.

    Raises:
        UsageError: no such file, another kind of file.
        RaycrnnError: a file shorter or longer than its header says.
    """
    data = _read(path)
    magic, header = bytes((0, 0, 8, dimensions)), 4 + 4 * dimensions
    if data[:4] != magic:
        kind = {1: "labels", 3: "images"}[dimensions]
        begin = f"begins with {data[:4].hex(' ') or 'nothing'}, not {magic.hex(' ')}"
        raise UsageError(f"{path}: no idx file of {kind}: {begin}; give the images, then the labels")
    # Sizes that a truncated header lacks are read as 0: the length cannot fit then either.
    shape = struct.unpack_from(f">{dimensions}I", data.ljust(header, b"\0"), 4)
    if len(data) != header + math.prod(shape):
        lengths = f"its header makes it {header + math.prod(shape):,} bytes, it has {len(data):,}"
        raise RaycrnnError(f"{path}: damaged: {lengths}; copy or download it again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except (OSError, EOFError, zlib.error) as error:
        raise RaycrnnError(f"{path}: damaged: {error}; copy or download it again") from None


def split_digits(count: int, eval_share: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Which digit images to train and which to evaluate with, int64 [count − n] and [n]; neither is empty."""
    order = random.permutation(count)
    held_back = min(max(round(count * eval_share), 1), count - 1)
    return order[held_back:], order[:held_back]


def draw_numbers(pool: np.ndarray, count: int, least: int, most: int, random: np.random.Generator) -> list[np.ndarray]:
    """Numbers as the indices of their digit images, each int64 [least…most], drawn from a pool int64 [P]."""
    lengths = random.integers(least, most, count, endpoint=True)
    return np.split(random.choice(pool, lengths.sum()), np.cumsum(lengths)[:-1])


def compose(digits: np.ndarray) -> np.ndarray:
    """The image of a number, uint8 [28, 20 × n], black on white, of its digits' uint8 [n, 28, 20]."""
    return 255 - np.concatenate(digits, axis=1)


def write_sets(folder: Path, digits: np.ndarray, labels: np.ndarray, sets: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Write the images and NAME.csv of each set into a folder that is new or empty.

    Args:
        digits: uint8 [N, 28, 20]
        labels: uint8 [N]
        sets: by name, numbers as indices into both

    Raises:
        UsageError: the folder is not empty.
        RaycrnnError: the folder cannot be written.
    """
    try:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UsageError(f"{folder}: exists and is not empty; name another directory, or delete it")
        (folder / "images").mkdir(parents=True)
        rows = {name: _write_images(folder, name, digits, labels, sets[name]) for name in sets}
        # Last, and whole or not at all: whoever finds a CSV finds every image that it lists.
        for name in sets:
            (folder / f"{name}.part").write_bytes(rows[name].encode())
            os.replace(folder / f"{name}.part", folder / f"{name}.csv")
    except OSError as error:
        # Of half a set nobody has any use, and it would stand in the way of the next try.
        shutil.rmtree(folder, ignore_errors=True)
        raise RaycrnnError(f"{folder}: cannot be written: {error.strerror or error}") from None


def _write_images(
    folder: Path, name: str, digits: np.ndarray, labels: np.ndarray, numbers: Sequence[np.ndarray]
) -> str:
    """Write the images of one set; returns the rows that list them."""
    rows = []
    for position, indices in enumerate(numbers):
        path = f"images/{name}_{position:06}.png"
        Image.fromarray(compose(digits[indices])).save(folder / path)
        rows.append(f"{path};|{'|'.join(map(str, labels[indices]))}|\n")
    return "".join(rows)


if __name__ == "__main__":
    Numbers.main()
